"""Access counts of a mapping, in closed form.

Counts are data words: a flit of four words is four, a psum is one. The counters of the hardware count the same. The
forms are made of integers alone: they serve one mapping and, compiled (:mod:`rowmesh.sw.search.evaluate`), many at
once.
"""

import functools
from collections import Counter
from collections.abc import Mapping as Dict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import Side
from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div, weight_beats
from rowmesh.sw.mapping.layer import LayerMapping, Splits
from rowmesh.sw.model.performance import ACCESSES
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.tensors import storage_bits

__all__ = [
    "Beats",
    "access_counts",
    "beats_once",
    "dram_beats",
    "first_slice_beats",
    "loaded_beats",
    "read_beats",
    "spread",
    "words",
]


PARAM_BYTES = 8
"""Of a filter's bias and scale, 32 bits each."""


class Beats(NamedTuple):
    """Beats read by each load engine."""

    iact: int
    weight: int
    param: int


def _above(distance: int, step: int, count: int) -> int:
    """Sum of max(0, distance - k step) over k from 0 to count - 1."""
    terms = min(count, ceil_div(max(0, distance), max(1, step)))
    return terms * distance - step * (terms * (terms - 1) // 2)


def _below(limit: int, step: int, count: int, length: int) -> int:
    """Integers of [k step, k step + length) below a limit, summed over k from 0 to count - 1."""
    return _above(limit, step, count) - _above(limit - length, step, count)


def _inside(start: int, step: int, count: int, length: int, limit: int) -> int:
    """Integers of [start + k step, start + k step + length) in [0, limit), summed over k from 0 to count - 1."""
    return _below(limit - start, step, count, length) - _below(-start, step, count, length)


def loaded_beats(m: ClusterMapping) -> int:
    """Beats of iacts read from memory for one image, tile of groups and pass over all channel tiles."""
    x = m.layer
    uy, ux = x.stride
    unit = m.lanes if m.planar else 1
    height = min(x.h, (x.p - 1) * uy + m.height - x.padding[0])
    width = ceil_div(min(x.w, (x.q - 1) * ux + m.width - x.padding[1]), unit)
    rows, columns = 0, 0
    for rd in range(m.r_d):
        top = rd * (x.r // m.r_d) * x.dilation[0] - x.padding[0]
        rows += _inside(top, m.p0 * m.p_n * uy, m.pt, m.tile_rows, height)
    for sd in range(m.s_d):
        left = sd * (x.s // m.s_d) * x.dilation[1] - x.padding[1] - m.x_offset
        columns += _inside(left // unit, m.q0 * ux // unit, m.qt, m.tile_beats, width)
    return rows * columns * m.group_blocks


def first_slice_beats(m: ClusterMapping) -> int:
    """Beats of the first channel tile of the first tile."""
    x = m.layer
    unit = m.lanes if m.planar else 1
    rows = _inside(-x.padding[0], 1, 1, m.tile_rows, x.h)
    columns = _inside((-x.padding[1] - m.x_offset) // unit, 1, 1, m.tile_beats, ceil_div(x.w, unit))
    return rows * columns * m.blocks * m.iact_ports


def _rows_sent(m: ClusterMapping) -> tuple[int, int]:
    """Rows that the iact reader sends over all tiles: all, and those inside the tensor."""
    x = m.layer
    uy, top = x.stride[0], x.padding[0]
    if m.diagonal or m.r0 > 1:
        step, before = m.p_n * uy, m.row_steps - 1
        full, rest = (m.p_n - 1) * uy + m.height, (m.p_rest - 1) * uy + m.height
        inside = _inside(-top, step, before, full, x.h) + _inside(before * step - top, 1, 1, rest, x.h)
        return before * full + rest, inside
    inside = 0
    for tap in range(x.r):
        inside += _inside(tap * x.dilation[0] - top, uy, x.p, 1, x.h)
    return x.p * x.r, inside


def _columns_sent(m: ClusterMapping) -> tuple[int, int]:
    """Columns that the iact reader sends over all tiles: all, and those inside the tensor."""
    x = m.layer
    ux, sent, inside = x.stride[1], 0, 0
    for part in range(x.s // m.s0):
        first = part * m.s0 * x.dilation[1] - x.padding[1]
        if ux <= m.window:
            each = m.sent_columns
            step, before = each * ux, ceil_div(x.q, each) - 1
            full, rest = m.patch_columns(each), m.patch_columns(m.sent_columns_rest)
            inside += _inside(first, step, before, full, x.w) + _inside(first + before * step, 1, 1, rest, x.w)
            sent += before * full + rest
        else:
            inside += _inside(first, ux, x.q, m.window, x.w)
            sent += x.q * m.window
    return sent, inside


def read_beats(m: ClusterMapping) -> Beats:
    """Beats read by each load engine over the whole layer."""
    x = m.layer
    tiles = x.n * m.g_t
    return Beats(
        tiles * loaded_beats(m) * (1 if m.resident else m.mt),
        m.weight_rounds * m.g_t * weight_beats(m),
        m.param_rounds * m.g_t * m.m * m.g_n if x.output == "requant" else 0,
    )


def dram_beats(m: ClusterMapping) -> dict[str, int]:
    """Beats read by each load engine over the whole layer."""
    return read_beats(m)._asdict()


def words(m: ClusterMapping) -> tuple[int, ...]:
    """Return every access counter, in the order of :data:`rowmesh.sw.results.layer.ACCESSES`."""
    x = m.layer
    beats = read_beats(m)
    rows, rows_inside = _rows_sent(m)
    columns, columns_inside = _columns_sent(m)
    tiles = x.n * m.g_t
    outputs = x.outputs
    macs = outputs * m.c * x.r * x.s
    passes = 1 if m.held else m.passes  # times that a psum is sent to its bank
    emitted = outputs * m.chain if m.held else macs // m.taps
    filters, channels = m.m * m.g_n, m.c * m.g_n  # of a tile of groups
    row_steps_of_pe = x.p if m.p0 == 1 else m.row_steps * m.p_x
    weights_sent = m.weight_rounds * m.g_t * filters * m.c * x.r * x.s
    rows_of_tiles = x.p if m.p0 == 1 else m.pt * m.p_x
    parts = x.q // m.q_pe if m.q_x > 1 else m.qt  # of the output columns, each in a PE of its own or in a tile
    copies = rows_of_tiles // m.pt * (parts // m.qt) if m.weights_stay else rows_of_tiles * parts * m.n_t
    columns_of_pe = parts * m.patch_columns(m.q_pe) * (x.s // m.s0) if m.q_x > 1 else columns
    return (
        beats.iact * m.lanes,  # dram
        beats.weight * m.lanes,
        beats.param * m.lanes,
        outputs,
        beats.iact * m.lanes,  # glb
        tiles * m.mt * channels * rows_inside * columns_inside,
        beats.weight * m.lanes,
        weights_sent,
        outputs * passes,
        outputs * (passes - 1),
        outputs,
        tiles * m.mt * channels * rows * columns,  # noc
        tiles * (m.m // (m.m1 * m.m0)) * channels * x.r * row_steps_of_pe * columns_of_pe,
        weights_sent,
        x.m * m.c * x.r * x.s * copies * (m.weight_rounds if m.weights_stay else 1),
        outputs * passes,
        0,  # hops between clusters: access_counts
        0,
        0,
        macs,  # spad
        macs,
        macs - emitted,
        macs - emitted,
        macs,  # pe
    )


@functools.lru_cache(maxsize=1024)
def spread(splits: Splits, places: tuple[tuple[int, int], ...]) -> npt.NDArray[np.float64]:
    """Return how often each count of a cluster is counted in those of the layer: a matrix (of a cluster, of the layer).

    A word that a router hands to a neighbour is a hop; words are loaded and injected where a cluster's own banks are
    the source, and delivered everywhere. Psums are banked where they do not go on to the next cluster.

    Parameters
    ----------
    splits : Splits
    places : sequence of (int, int)
        The clusters, of those in use, that do the same work.
    """
    times: Counter[tuple[str, str]] = Counter()
    for y, x in places:
        routes = {operand: splits.route(operand, y, x) for operand in OPERANDS}
        banked = splits.banks_psums(y)
        for name in ACCESSES:
            level, what, way = (*name.split("."), "")[:3]
            if way == "hops":
                continue
            if what in OPERANDS and (level in ("dram", "glb") or way == "injected"):
                times[name, name] += routes[what].source is Side.LOCAL
            elif what in ("psum", "ofmap") and level != "spad":
                times[name, name] += banked
            else:
                times[name, name] += splits.counts_params(y, x) if what == "param" else 1
        for operand, route in routes.items():
            links = sum(side is not Side.LOCAL for side in route.outputs)
            times[f"noc.{operand}.injected", f"noc.{operand}.hops"] += links
        times["noc.psum.delivered", "noc.psum.hops"] += not banked
    matrix = np.zeros((len(ACCESSES), len(ACCESSES)))
    for (own, whole), number in times.items():
        matrix[ACCESSES.index(own), ACCESSES.index(whole)] = number
    return matrix


def access_counts(m: LayerMapping) -> Dict[str, int]:
    """Predict every access counter, by name.

    Parameters
    ----------
    m : LayerMapping

    Returns
    -------
    dict of str to int
        Data words of all clusters, in the order of :data:`rowmesh.sw.results.layer.ACCESSES`; see :func:`spread`.
    """
    of_parts = [words(m.of_part(part)) @ spread(m.splits, places) for part, places in m.parts.items()]
    return dict(zip(ACCESSES, map(round, np.sum(of_parts, axis=0).tolist()), strict=True))


def beats_once(config: ArchConfig, layer: Layer) -> int:
    """Beats of a memory that moves each word of a layer once, reads and writes side by side: a limit of any mapping.

    Iacts, weights and, for requantised outputs, bias and scale are read; words fill their beats.
    """
    raw = layer.output == "raw"
    iacts = layer.n * layer.c * layer.h * layer.w
    weights = layer.m * (layer.c // layer.groups) * layer.r * layer.s
    read = (iacts + weights) * config.data_width // 8 + (0 if raw else layer.m * PARAM_BYTES)
    written = layer.outputs * (storage_bits(config.acc_width) if raw else config.data_width) // 8
    return ceil_div(max(read, written), config.beat_bytes)
