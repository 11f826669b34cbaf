"""The timing model: the programs of a layer on buffets, links and nests that count instead of computing.

One module for each part of the hardware; all of it is compiled by numba, once for each version of these files.
"""

import hashlib
from pathlib import Path

import numba

from rowmesh.sw.kernels import kept_in

_sources = sorted(Path(__file__).parent.glob("*.py"))
_digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in _sources)).hexdigest()[:16]
# numba looks at the caller's file only: a change of a function elsewhere would not be seen
numba.config.CACHE_DIR = kept_in("timing", _digest)  # type: ignore[attr-defined]
