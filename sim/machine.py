"""What the machine has to give: room on a disk, folders that can be written, programs. What it lacks is one line."""

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DISK", "MachineError", "check_room", "scratch_folder", "shown", "writing"]

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Numbers of the errors of a disk, whoever writes."""


class MachineError(Exception):
    """The machine lacks something. The text is one line that names it and stands on its own."""


def shown(path: Path) -> str:
    """Return a path as it is quoted in a message: always on one line."""
    text = repr(str(path))
    return text if len(text) <= 200 else f"{text[:197]}..."


@contextmanager
def writing(path: Path, only: Collection[int] = ()) -> Iterator[None]:
    """Turn what the system says against writing a file or into a folder into a :class:`MachineError`.

    Parameters
    ----------
    path : Path
        What the message names.
    only : collection of int
        Numbers of errors, where other ones have other causes; all by default. If they name a file, the message does.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number not in only if only else number is None and "\0" not in str(path):
            raise
        reason = getattr(error, "strerror", None) or error
        named = getattr(error, "filename", None) if only else None
        place = Path(named) if named else path
        raise MachineError(f"{shown(place)}: cannot be written: {reason}") from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that is removed at the end.

    Raises
    ------
    MachineError
        If no temporary folder can be written, or there is no room for what is written meanwhile.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="rowmesh-")
    except OSError as error:
        reason = error.strerror or error
        raise MachineError(
            f"no temporary folder can be written ({reason}): make room, or name one that can be with TMPDIR"
        ) from error
    with folder as name, writing(Path(name), DISK):
        yield Path(name)


_LITTLE = 1 << 24


def check_room(log: Path) -> None:
    """Look in the log of a program that failed for a full disk, which may be why it is empty.

    Raises
    ------
    MachineError
        With the line that tells of it.
    OSError
        Without a path, if it is that of the log: the caller's ``writing`` knows it.
    """
    text = log.read_text(errors="replace") if log.exists() else ""
    full = os.strerror(errno.ENOSPC)
    for line in text.splitlines():
        if full in line:
            raise MachineError(line.strip())
    if not text and shutil.disk_usage(log.parent).free < _LITTLE:
        raise OSError(errno.ENOSPC, full)
