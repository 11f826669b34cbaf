"""Bursts of segments: none crosses a page or is longer than the engine's."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rowmesh.sw.jit.kernels import digest_of, kernel

__all__ = ["split"]

_COMPILED = kernel(digest_of([Path(__file__)]))


@_COMPILED
def split(
    address: npt.NDArray[np.int64],
    beats: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    lane: npt.NDArray[np.int64],
    most: int,
    page: int,
) -> npt.NDArray[np.int32]:
    """Split segments into bursts; ``address`` in beats. Rows of the result: beats, before, behind, lane."""
    count = 0
    for k in range(len(beats)):
        count += 1 + beats[k] // most + beats[k] // page + 1
    out = np.zeros((4, count), np.int32)
    n = 0
    for k in range(len(beats)):
        rest, at, first = beats[k], address[k], True
        while first or rest > 0:
            size = min(rest, most, page - at % page)
            out[0, n], out[3, n] = size, lane[k]
            if first:
                out[1, n] = left[k]
            at, rest, first = at + size, rest - size, False
            if rest == 0:
                out[2, n] = right[k]
            n += 1
    return out[:, :n]
