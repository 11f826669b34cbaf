"""The cache: one folder for everything that is built once, by whatever process needs it first.

What is built appears complete or not at all: it is written into a folder of its own beside its place (``new-*``) and
renamed. A lock lets one process build what several want; the system releases it when its holder ends, however that
ends. What a killed process leaves behind is removed by the next one that builds something there.
"""

import contextlib
import fcntl
import functools
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from rowmesh.sim.machine import DISK, MachineError, shown, writing

__all__ = ["VARIABLE", "built_once", "cache_folder", "keep_newest", "lock_of", "locked"]

VARIABLE = "ROWMESH_CACHE"
"""Variable of the environment that names the folder."""

_NEW = "new-"
_log = logging.getLogger(__name__)


def cache_folder(*names: str) -> Path:
    """Return the folder of the cache, or one below it; it is there and can be written.

    It is ``$ROWMESH_CACHE``; or else the user's cache folder; or else, with a warning, a temporary one.

    Raises
    ------
    MachineError
        If the folder that was asked for cannot be written, or none can.
    """
    folder = _root(os.environ.get(VARIABLE, "")).joinpath(*names)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def _root(asked: str) -> Path:
    if asked:
        folder = Path(asked).absolute()
        problem = _problem(folder)
        if problem:
            raise MachineError(f"{VARIABLE}: must be a folder that can be written, {shown(folder)} {problem}")
        return folder
    usual = platformdirs.user_cache_path("rowmesh")
    problem = _problem(usual)
    if not problem:
        return usual
    folder = _temporary()
    _log.warning("the cache folder %s %s, taking %s; %s names another", shown(usual), problem, folder, VARIABLE)
    return folder


def _problem(folder: Path) -> str:
    """Make a folder; return why it cannot be used, or nothing."""
    if not folder.is_absolute():  # a user without a home has "~"
        return "is not absolute"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return "is a file"
    except (OSError, ValueError) as error:
        return f"cannot be made ({getattr(error, 'strerror', None) or error})"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written"


def _temporary() -> Path:
    """Return a temporary folder that only this user can write, the same one for all of the user's processes."""
    try:
        folder = Path(tempfile.gettempdir(), f"rowmesh-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and folder.is_dir() and not folder.is_symlink():
            return folder
        return Path(tempfile.mkdtemp(prefix="rowmesh-"))
    except OSError as error:
        raise MachineError(
            f"neither the user's cache folder nor a temporary one can be written ({error.strerror or error}): "
            f"name one that can be with {VARIABLE}"
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock; it is released when the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        If another one holds it, and not to ``wait`` was asked for.
    MachineError
        If there can be none.
    """
    while True:
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError as error:
                raise MachineError(f"{shown(path)}: cannot be locked: {error.strerror}") from error
            if _is_still(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Return whether an open file has not been removed meanwhile, with what it guards."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def built_once(target: Path, build: Callable[[Path], object]) -> bool:
    """Have a folder of the cache built, unless it is there; other processes that want it wait.

    Parameters
    ----------
    target : Path
        The folder.
    build : callable
        Takes an empty folder and fills it. If it raises, nothing is left.

    Returns
    -------
    bool
        Whether it was built now.

    Raises
    ------
    MachineError
        If it cannot be written.
    """
    if target.is_dir():
        return False
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(target)):
        if target.is_dir():
            return False
        _remove_leftovers(target)
        with writing(target):
            work = Path(tempfile.mkdtemp(prefix=f"{_NEW}{target.name}-", dir=target.parent))
        try:
            with writing(target, DISK):
                build(work)
            with writing(target):
                work.chmod(0o755)
                work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return True


def keep_newest(used: Path, count: int) -> None:
    """Note that a folder of the cache is used; of it and those beside it, keep those that were used last.

    Folders that somebody is building are left, and files beside a folder that goes (``NAME.*``) go with it.
    """
    os.utime(used)
    folders = [path for path in used.parent.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]

    def last_use(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    for path in sorted(folders, key=last_use, reverse=True)[count:]:
        shutil.rmtree(path, ignore_errors=True)
        for beside in path.parent.glob(f"{path.name}.*"):
            beside.unlink(missing_ok=True)


def lock_of(target: Path) -> Path:
    """Return the file that is locked while a folder of the cache is built or added to."""
    return target.with_name(f"{target.name}.lock")


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes were building beside a target whose lock is held: whoever still builds has one."""
    for path in target.parent.glob(f"{_NEW}*"):
        name = path.name.removeprefix(_NEW).rpartition("-")[0] or "unknown"
        with contextlib.ExitStack() as stack:
            if name != target.name:
                try:
                    stack.enter_context(locked(lock_of(target.with_name(name)), wait=False))
                except BlockingIOError:
                    continue
            shutil.rmtree(path, ignore_errors=True)
