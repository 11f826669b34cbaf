"""Files that the commands write: whole or not at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rowmesh.sim.machine import DISK, writing

__all__ = ["new_files", "new_text"]


@contextlib.contextmanager
def new_text(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes a file whole or not at all; that it can be written is checked first."""
    if path is None:
        yield lambda text: None
        return
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "is not writable")
        device = path.exists() and not path.is_file()  # /dev/null, a pipe: cannot be replaced
        target = path if device else path.resolve()
        part = target if device else target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
        part.open("w" if device else "x").close()

    def write(text: str) -> None:
        with writing(path):
            part.write_text(text, encoding="utf-8")
            if not device:
                part.replace(target)

    try:
        yield write
    finally:
        if not device:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_files(out: Path) -> Iterator[Path]:
    """Yield an empty folder whose files are moved to ``out`` if all goes well."""
    with writing(out):
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is not a folder")
        there = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
        folder = tempfile.TemporaryDirectory(prefix=".rowmesh-", dir=there)
    with folder:
        root = Path(folder.name)
        with writing(out, DISK):
            yield root
        with writing(out):
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                target = out / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
