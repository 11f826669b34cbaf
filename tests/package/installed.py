"""Builds what is published, from the files that git tracks; as a program, installs it into an empty environment.

``python tests/package/installed.py`` installs the wheel with all that it requires, and runs the demo from elsewhere.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    """Return the files that git tracks, from the root of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0")[:-1] if (ROOT / name).exists()]


def copy_tracked(folder: Path) -> None:
    """Copy them to a folder: what only lies around is not part of what is built there."""
    for path in tracked():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path, follow_symlinks=False)


def main() -> None:
    """Install the wheel into an empty environment, and run the demo from another folder."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tracked(folder / "source")
        subprocess.run([sys.executable, "-m", "venv", folder / "empty"], check=True)
        programs = folder / "empty" / "bin"
        pip = [programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True)
        shutil.rmtree(folder / "source")
        (wheel,) = folder.glob("*.whl")
        subprocess.run([*pip, "install", "--no-compile", wheel], env=outside, check=True)
        subprocess.run([programs / "rowmesh", "run", "tiny", "demo"], cwd=folder, env=outside, check=True)


if __name__ == "__main__":
    main()
