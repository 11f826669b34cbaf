"""Functions that numba compiles, once for each version of what they are made of: their code is kept in the cache."""

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

from rowmesh.sim.cache import cache_folder, keep_newest, lock_of, locked
from rowmesh.sim.machine import writing

__all__ = ["COMPILING", "digest_of", "kernel"]

COMPILING = "compiling the search and the timing model, once for this machine: about a minute"
"""What the log says (once, as information) when code is not in the cache."""

_KEPT_VERSIONS = 24  # three of a version of rowmesh

_log = logging.getLogger(__name__)

# numba makes a function's symbol of its name, a number and its types, and of a type of records again a number; both
# count up in each process. The linker takes the first of two equal symbols. Code for records of different shapes which
# two processes have compiled, and a third one loads, would then run each other's functions. So numbers of functions
# begin elsewhere in each process.
FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(5), "big") << 20)


def digest_of(sources: Iterable[Path]) -> str:
    """Return a digest of source files: numba looks at a function's own file only, not at those of what it calls."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:32]


def kernel(digest: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: ``numba.njit`` without the interpreter's lock, whose code is kept in the cache.

    The cache is looked for when a function is first called, and not when it is defined.

    Parameters
    ----------
    digest : str
        Of everything that is compiled.
    options
        Of ``numba.njit``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        dispatcher._cache = _Kept(function, digest)
        dispatcher.compile = _alone(dispatcher.compile)
        return dispatcher

    return decorate


_within = threading.RLock()
_depth = 0


def _alone(compile_: Callable[..., Any]) -> Callable[..., Any]:
    """Let one process compile, or load, what it calls with all that this calls: others find it in the cache."""

    @functools.wraps(compile_)
    def alone(signature: Any) -> Any:
        global _depth
        with _within, contextlib.ExitStack() as stack:
            if not _depth:
                _hold(stack)
            _depth += 1
            stack.callback(_leave)
            return compile_(signature)

    return alone


def _hold(stack: contextlib.ExitStack) -> None:
    path = cache_folder("compiled") / "compiling.lock"
    try:
        stack.enter_context(locked(path, wait=False))
    except BlockingIOError:
        _log.info("waiting for another process that compiles the search and the timing model")
        stack.enter_context(locked(path))


def _leave() -> None:
    global _depth
    _depth -= 1


class _Place:
    """Where the code of one version is, in the words of numba."""

    def __init__(self, function: Any, digest: str) -> None:
        self._py_file = function.__code__.co_filename
        self._line, self._digest = function.__code__.co_firstlineno, digest

    def get_disambiguator(self) -> str:
        return str(self._line)

    def get_source_stamp(self) -> str:
        return self._digest

    def get_cache_path(self) -> str:
        return str(_folder(self._digest))

    def ensure_cache_path(self) -> None:
        self.get_cache_path()


class _Results(CompileResultCacheImpl):  # type: ignore[misc]
    """What of a function's code is kept, and under which name."""

    def __init__(self, function: Any, digest: str) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Place(function, digest)
        name = f"{function.__module__}.{function.__qualname__}"
        self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))


class _Kept(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, in the folder of the project's: it is opened when the function is first called."""

    def __init__(self, function: Any, digest: str) -> None:
        self._name, self._py_func = repr(function), function
        self._impl = _Results(function, digest)
        self.enable()

    @cached_property
    def _cache_path(self) -> str:
        return str(self._impl.locator.get_cache_path())

    @cached_property
    def _cache_file(self) -> IndexDataCacheFile:
        return IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = super().load_overload(signature, target)
        if found is None:
            _say()
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        # two processes that save at the same time would choose the same file
        folder = Path(self._cache_path)
        with locked(lock_of(folder)), writing(folder):
            super().save_overload(signature, data)


@functools.cache
def _folder(digest: str) -> Path:
    """Return the folder of a version's code; those of versions that are not used any more are removed."""
    folder = cache_folder("compiled", digest)
    keep_newest(folder, _KEPT_VERSIONS)
    return folder


@functools.cache
def _say() -> None:
    _log.info(COMPILING)
