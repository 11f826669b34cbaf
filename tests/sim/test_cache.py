"""The cache: which folder it is, and that what is built there is whole, built once, and left behind by nobody."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rowmesh.sim import cache
from rowmesh.sim.cache import VARIABLE, built_once, cache_folder, keep_newest, lock_of, locked
from rowmesh.sim.machine import MachineError


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Each test chooses the folder anew."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache._root.cache_clear()
    yield
    cache._root.cache_clear()


def test_the_folder_is_the_one_asked_for_or_the_users(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "rowmesh"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cache._root.cache_clear()
    assert cache_folder("a") == tmp_path / "xdg" / "rowmesh" / "a"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine" / "deep"))
    assert cache_folder("a", "b") == tmp_path / "mine" / "deep" / "a" / "b"
    assert cache_folder("a", "b").is_dir()
    assert not caplog.records


def test_a_folder_that_was_asked_for_and_cannot_be_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for path, problem in (("file", "is a file"), ("file/deep", "cannot be made (Not a directory)")):
        monkeypatch.setenv(VARIABLE, str(tmp_path / path))
        with pytest.raises(MachineError) as caught:
            cache_folder()
        wanted = f"{VARIABLE}: must be a folder that can be written, {str(tmp_path / path)!r} {problem}"
        assert str(caught.value) == wanted


@pytest.mark.parametrize("home", ["file", "unknown", "unwritable"])
def test_without_a_home_a_temporary_folder_is_taken_with_a_warning(monkeypatch, tmp_path, caplog, home):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if home == "unknown":  # neither the environment nor the system's list of users has one
        monkeypatch.setattr(cache.platformdirs, "user_cache_path", lambda name: Path("~/.cache", name))
    if home == "unwritable":  # whatever the user may
        monkeypatch.setattr(cache.os, "access", lambda path, mode: "temporary" in str(path))
    wanted = tmp_path / "temporary" / f"rowmesh-{os.getuid()}"
    assert cache_folder("a") == wanted / "a"
    assert wanted.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == wanted
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert VARIABLE in caplog.text


def test_a_temporary_folder_of_somebody_else_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"rowmesh-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert cache._temporary().name not in (folder.name, "elsewhere")
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert cache._temporary() != folder


def test_what_fails_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("a fault")

    target = tmp_path / ("0" * 32)
    with pytest.raises(RuntimeError, match="a fault"):
        built_once(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == [lock_of(target).name]
    assert built_once(target, lambda folder: (folder / "whole").touch())
    assert not built_once(target, fail)
    assert [path.name for path in target.iterdir()] == ["whole"]


_BUILDER = """
import pathlib, sys, time
from rowmesh.sim.cache import built_once

def build(folder):
    (folder / "half").touch()
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))

print(built_once(pathlib.Path(sys.argv[1]), build))
"""


def builder(target: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", _BUILDER, str(target), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_builder_blocks_nobody_and_its_folder_is_removed(tmp_path):
    targets = [tmp_path / (digit * 32) for digit in "012"]
    killed = [builder(target, 600) for target in targets[:2]]
    working = builder(targets[2], 1.5)
    for process in (*killed, working):
        assert process.stdout.readline() == "building\n"
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (tmp_path / "new-1234").mkdir()  # as earlier versions named it
    assert len(list(tmp_path.glob("new-*"))) == 4
    begin = time.monotonic()
    assert built_once(targets[0], lambda folder: (folder / "whole").touch())
    assert time.monotonic() - begin < 1
    assert [path.name for path in targets[0].iterdir()] == ["whole"]
    assert [path.name.split("-")[1] for path in tmp_path.glob("new-*")] == [targets[2].name]  # is still built
    assert working.communicate()[0] == "True\n"
    assert sorted(path for path in tmp_path.iterdir() if path.is_dir()) == [targets[0], targets[2]]


def test_several_processes_build_once(tmp_path):
    target = tmp_path / ("0" * 32)
    outputs = [process.communicate()[0] for process in [builder(target, 0.5) for _ in range(3)]]
    assert sorted(outputs) == ["False\n", "False\n", "building\nTrue\n"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        path.unlink()
        with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
            pass


def test_the_newest_are_kept(tmp_path):
    folders = [tmp_path / f"{number:032x}" for number in range(5)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        lock_of(folder).touch()
        os.utime(folder, (number, number))
    (tmp_path / "runtime-0").mkdir()
    keep_newest(folders[0], 2)
    kept = [path for folder in (folders[0], folders[4]) for path in (folder, lock_of(folder))]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "runtime-0"])
