"""What the machine lacks (room, a home, programs, a folder that can be written) is one line, and exit code 2."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rowmesh.sim import run as simulations
from rowmesh.sim.cache import built_once
from rowmesh.sim.machine import DISK, MachineError, check_room, scratch_folder, writing
from rowmesh.sw.cli import main as cli
from rowmesh.sw.results.provenance import program_version

FULL = os.strerror(errno.ENOSPC)
ROWMESH = [sys.executable, "-c", "import sys; from rowmesh.sw.cli.main import main; sys.exit(main())"]


def failed(capsys, *argv):
    """Run the command line; exit 2 and one line, which is returned."""
    code = cli.main([str(arg) for arg in argv])
    err = capsys.readouterr().err
    assert (code, len(err.splitlines())) == (2, 1)
    return err.removeprefix("rowmesh: ")[:-1]


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_file_on_a_full_disk(capsys, option):
    assert failed(capsys, "map", "tiny", "demo", "--layer", "ODD", option, "/dev/full") == (
        f"'/dev/full': cannot be written: {FULL}"
    )


def test_standard_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        found = subprocess.run([*ROWMESH, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (found.returncode, found.stderr) == (2, f"rowmesh: standard output: cannot be written: {FULL}\n")


@pytest.fixture
def full_from(monkeypatch):
    """Let the disk be full for files whose path holds a word: writes to them fail, as the system says it."""

    def choose(word):
        opened = Path.open

        def open_(self, mode="r", *args, **kwargs):
            if word in str(self) and set(mode) & set("wax+"):
                raise OSError(errno.ENOSPC, FULL)
            return opened(self, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", open_)

    return choose


def test_generated_files_on_a_full_disk(capsys, tmp_path, full_from):
    full_from(".new-")
    out = tmp_path / "out"
    assert failed(capsys, "generate", "tiny", "-o", out) == f"{str(out)!r}: cannot be written: {FULL}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["map", "run"])
def test_a_cache_that_is_a_file(capsys, tmp_path, monkeypatch, command):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROWMESH_CACHE", str(tmp_path / "file"))
    assert failed(capsys, command, "tiny", "demo") == (
        f"ROWMESH_CACHE: must be a folder that can be written, '{tmp_path}/file' is a file"
    )


def test_a_cache_on_a_full_disk(tmp_path):
    def build(folder):
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, FULL)

    with pytest.raises(MachineError, match=f"^'{tmp_path}/target': cannot be written: {FULL}$"):
        built_once(tmp_path / "target", build)
    assert [path.name for path in tmp_path.iterdir()] == ["target.lock"]


def test_a_job_on_a_full_disk(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, FULL)

    def prepare():
        with scratch_folder() as folder:
            regions = {"image": [(0, b"x")], "memory_size": 64, "program_address": 0, "dumps": [(0, 32)]}
            simulations.JobFolder(folder, [simulations.SimJob(verilog_dir=folder, **regions)], None)

    monkeypatch.setattr(simulations.os, "posix_fallocate", full)
    with pytest.raises(MachineError, match=rf"^'.*/rowmesh-\w+': cannot be written: {FULL}$"):
        prepare()


def test_no_temporary_folder(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(MachineError, match=r"no temporary folder can be written .*TMPDIR"), scratch_folder():
        pass


def test_a_program_that_met_a_full_disk(tmp_path, monkeypatch):
    log = tmp_path / "log"
    log.write_text(f"make: ...\nfatal error: error writing to /tmp/x.s: {FULL}\nmore\n")
    with pytest.raises(MachineError, match=f"^fatal error: error writing to /tmp/x.s: {FULL}$"):
        check_room(log)
    log.write_text("another error")
    check_room(log)
    log.write_text("")  # there was no room for the log itself
    check_room(log)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(MachineError, match=f"cannot be written: {FULL}"), writing(tmp_path, DISK):
        check_room(log)


def test_other_faults_are_not_the_disks(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "no such file"), ValueError("a fault")):
        with pytest.raises(type(error)), writing(tmp_path, DISK):
            raise error
    with pytest.raises(ValueError, match="a fault"), writing(tmp_path):
        raise ValueError("a fault")


_EVERYTHING = """
import importlib, pathlib, pkgutil
import rowmesh.hw, rowmesh.sim, rowmesh.sw
for package in (rowmesh.hw, rowmesh.sim, rowmesh.sw):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.split(".")[-1] not in ("charts", "html"):  # import matplotlib, which takes a folder
            importlib.import_module(module.name)
from rowmesh.sim.cache import cache_folder
from rowmesh.sw.cli.progress import notes
print(*pathlib.Path(os.environ["TMPDIR"]).iterdir())
with notes():
    print(cache_folder("a"), cache_folder("b"))
"""


def test_a_user_without_a_home_and_a_read_only_installation():
    """Nothing is written at import, of whatever module; the cache is a temporary folder, with one warning."""
    root = os.getuid() == 0
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if root else []
    uid = 65534 if root else os.getuid()
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = passed | {"HOME": "/nonexistent", "TMPDIR": name, "PYTHONDONTWRITEBYTECODE": "1"}

        def result(*command):
            found = subprocess.run([*nobody, *command], env=environment, cwd="/", capture_output=True, text=True)
            return found.returncode, found.stdout, found.stderr

        if result(sys.executable, "-c", "import rowmesh.sw")[0]:
            pytest.skip("this installation is not readable by others")
        assert result(*ROWMESH, "--version") == (0, f"rowmesh {program_version()}\n", "")
        temporary = f"{name}/rowmesh-{uid}"
        assert result(sys.executable, "-c", f"import os; {_EVERYTHING}") == (
            0,
            f"\n{temporary}/a {temporary}/b\n",
            "rowmesh: the cache folder '/nonexistent/.cache/rowmesh' cannot be made (Permission denied), "
            f"taking {temporary}; ROWMESH_CACHE names another\n",
        )
