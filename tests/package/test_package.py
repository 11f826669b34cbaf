"""What is published holds what git tracks, and works without the repository; `make installed` runs a layer with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from installed import ROOT, copy_tracked, tracked

from rowmesh.sim.tools import TOOLS

PACKAGES = ("hw", "sw", "sim", "configs")
_BUILD = "import sys; from setuptools import build_meta as build; getattr(build, sys.argv[1])(sys.argv[2])"


def built(what: str, source: Path, out: Path) -> Path:
    out.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", _BUILD, f"build_{what}", str(out)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    (path,) = out.iterdir()
    return path


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs git's list of files")
def test_sdist_and_wheel_hold_every_file_and_the_wheel_is_complete(tmp_path):
    files = [path for path in tracked() if path.parts[0] in PACKAGES]
    assert {".sv", ".cpp", ".vlt", ".yaml", ".html", ".py"} <= {path.suffix for path in files}

    copy_tracked(tmp_path / "source")
    sdist = built("sdist", tmp_path / "source", tmp_path / "sdist")
    subprocess.run(["tar", "-xf", sdist, "-C", sdist.parent], check=True)
    unpacked = sdist.with_name(sdist.name.removesuffix(".tar.gz"))
    assert [path for path in files if not (unpacked / path).is_file()] == []

    with zipfile.ZipFile(built("wheel", unpacked, tmp_path / "wheel")) as archive:
        inside = [Path(name) for name in archive.namelist() if ".dist-info/" not in name]
        archive.extractall(tmp_path / "site")
    assert sorted(inside) == sorted(Path("rowmesh") / path for path in files)

    # not this repository's, which the environment knows as well
    program = (
        "import sys, rowmesh.sim.build, rowmesh.sw.cli.main as cli; print(rowmesh.sim.build.__file__, cli.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", f"{program}; sys.exit(cli.main())", "map", "tiny", "demo", "--layer", "STRIDED"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, "STRIDED" in found.stdout) == (0, True), found.stderr
    places = [Path(path) for path in found.stdout.split("\n")[0].split()]
    assert all(path.is_relative_to(tmp_path / "site") for path in places)


def test_the_script_that_runs_before_python_looks_for_the_same_tools():
    (line,) = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("for tool in ")]
    assert line.removeprefix("for tool in ").removesuffix("; do").split() == list(TOOLS)
