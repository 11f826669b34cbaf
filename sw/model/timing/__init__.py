"""The timing model: the programs of a layer on buffets, links and nests that count instead of computing.

One module for each part of the hardware; all of it is compiled by numba, once for each version of these files.
"""

from pathlib import Path

from rowmesh.sw.jit.kernels import digest_of, kernel

__all__ = ["compiled"]

compiled = kernel(digest_of(sorted(Path(__file__).parent.glob("*.py"))))
"""Decorates what is compiled; see :func:`rowmesh.sw.jit.kernels.kernel`."""
