"""Where numba keeps what it has compiled, and names that tell its functions apart."""

import itertools
import os
from pathlib import Path

from numba.core.bytecode import FunctionIdentity
from numba.core.caching import IndexDataCacheFile

from rowmesh.sim.build import cache_directory, locked

__all__ = ["kept_in"]

# numba makes a function's symbol of its name, a number and its types, and of a type of records again a number; both
# count up in each process. The linker takes the first of two equal symbols. Code for records of different shapes which
# two processes have compiled, and a third one loads, would then run each other's functions. So numbers of functions
# begin elsewhere in each process.
FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(5), "big") << 20)


_save = IndexDataCacheFile.save


def _save_alone(self: IndexDataCacheFile, key: object, data: object) -> None:
    with locked(Path(self._index_path).with_suffix(".lock")):
        _save(self, key, data)


IndexDataCacheFile.save = _save_alone  # two processes that save at the same time would choose the same file


def kept_in(*names: str) -> str:
    """Return the folder of compiled functions, below the cache of built models."""
    return str(Path(cache_directory(), *names))
