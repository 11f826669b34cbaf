"""Access counts of a mapping, in closed form.

Counts are data words: a flit of four words is four, a psum is one. The counters of the hardware count the same.
"""

from collections.abc import Mapping as Dict

import numpy as np

from rowmesh.sw.mapping import Mapping, ceil_div

__all__ = ["access_counts", "dram_beats", "first_slice_beats", "loaded_beats", "weight_beats"]


def weight_beats(m: Mapping) -> int:
    """Beats of the packed weights of one tile of groups (every PE's weights padded to whole flits)."""
    flits = ceil_div(m.weights, m.lanes)
    return m.g_y * (m.m // m.m0) * (m.c // m.c0) * (m.layer.r // m.r0) * flits


def _inside(starts: np.ndarray, length: int, limit: int) -> int:
    """Integers of [start, start + length) that lie in [0, limit), summed over the starts."""
    return int(np.clip(np.minimum(starts + length, limit) - np.maximum(starts, 0), 0, None).sum())


def loaded_beats(m: Mapping) -> int:
    """Beats of iacts read from memory for one image, tile of groups and pass over all channel tiles."""
    x = m.layer
    uy, ux = x.stride
    unit = m.lanes if m.planar else 1
    height = min(x.h, (x.p - 1) * uy + m.height - x.padding[0])
    width = ceil_div(min(x.w, (x.q - 1) * ux + m.window - x.padding[1]), unit)
    rows = np.arange(m.pt) * m.p0 * m.p_n * uy - x.padding[0]
    columns = np.arange(m.qt) * (m.q0 * ux // unit) + (-x.padding[1] - m.x_offset) // unit
    return _inside(rows, m.tile_rows, height) * _inside(columns, m.tile_beats, width) * m.group_blocks


def first_slice_beats(m: Mapping) -> int:
    """Beats of the first channel tile of the first tile."""
    x = m.layer
    unit = m.lanes if m.planar else 1
    rows = _inside(np.array([-x.padding[0]]), m.tile_rows, x.h)
    columns = _inside(np.array([(-x.padding[1] - m.x_offset) // unit]), m.tile_beats, ceil_div(x.w, unit))
    return rows * columns * m.blocks * m.iact_ports


def _sent(m: Mapping) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns that the iact reader sends over all tiles: (all, those inside the tensor), twice."""
    x = m.layer
    uy, ux = x.stride
    steps = np.arange(m.row_steps)  # every (pt, pj)
    used = np.where(steps == m.row_steps - 1, m.p_rest, m.p_n)
    first = steps * m.p_n * uy - x.padding[0]
    if m.diagonal or m.r0 > 1:
        need = (used - 1) * uy + m.height
        rows = int(need.sum())
        rows_inside = sum(_inside(first[n == need], int(n), x.h) for n in np.unique(need))
    else:
        offsets = np.arange(m.layer.r) * x.dilation[0]
        rows = int(used.sum()) * x.r
        index = np.arange(x.p) * uy - x.padding[0]
        y = np.add.outer(index, offsets).ravel()
        rows_inside = int(((y >= 0) & (y < x.h)).sum())
    widths = np.full(m.qt, min(m.q0, x.q))
    widths[-1] = m.q_rest
    start = np.arange(m.qt) * m.q0 * ux - x.padding[1]
    if ux <= m.window:
        columns = int(((widths - 1) * ux + m.window).sum())
        inside = sum(_inside(start[widths == w], int((w - 1) * ux + m.window), x.w) for w in np.unique(widths))
    else:
        columns = x.q * m.window
        at = np.add.outer(np.arange(x.q) * ux - x.padding[1], np.arange(m.window)).ravel()
        inside = int(((at >= 0) & (at < x.w)).sum())
    return (rows, rows_inside), (columns, inside)


def dram_beats(m: Mapping) -> dict[str, int]:
    """Beats read by each load engine over the whole layer."""
    x = m.layer
    tiles = x.n * m.g_t
    return {
        "iact": tiles * loaded_beats(m) * (1 if m.resident else m.mt),
        "weight": tiles * m.pt * m.qt * weight_beats(m),
        "param": tiles * m.pt * m.qt * m.m * m.g_n if x.output == "requant" else 0,
    }


def access_counts(m: Mapping) -> Dict[str, int]:
    """Predict every access counter.

    Source: closed forms of the nests in :mod:`rowmesh.sw.compiler`; counting rules of docs/architecture.md.
    """
    x = m.layer
    beats = dram_beats(m)
    (rows, rows_inside), (columns, columns_inside) = _sent(m)
    tiles = x.n * m.g_t
    macs = x.macs
    outputs = x.n * x.m * x.p * x.q
    passes = 1 if m.held else m.ct * m.r_t  # times that a psum is sent to its bank
    emitted = outputs * m.chain if m.held else macs // (x.s * m.r0 * m.c0)
    filters, channels = m.m * m.g_n, m.c * m.g_n  # of a tile of groups
    row_steps_of_pe = x.p if m.p0 == 1 else m.row_steps * m.p_x
    weights_sent = tiles * m.pt * m.qt * filters * m.c * x.r * x.s
    rows_of_tiles = x.p if m.p0 == 1 else m.pt * m.p_x
    parts = x.q // m.q_pe if m.q_x > 1 else m.qt  # of the output columns, each in a PE of its own or in a tile
    columns_of_pe = parts * m.patch_columns(m.q_pe) if m.q_x > 1 else columns
    return {
        "dram.iact.read": beats["iact"] * m.lanes,
        "dram.weight.read": beats["weight"] * m.lanes,
        "dram.param.read": beats["param"] * m.lanes,
        "dram.ofmap.write": outputs,
        "glb.iact.write": beats["iact"] * m.lanes,
        "glb.iact.read": tiles * m.mt * channels * rows_inside * columns_inside,
        "glb.weight.write": beats["weight"] * m.lanes,
        "glb.weight.read": weights_sent,
        "glb.psum.write": outputs * passes,
        "glb.psum.read": outputs * (passes - 1),
        "glb.psum.drain": outputs,
        "noc.iact.injected": tiles * m.mt * channels * rows * columns,
        "noc.iact.delivered": tiles * (m.m // (m.m1 * m.m0)) * channels * x.r * row_steps_of_pe * columns_of_pe,
        "noc.weight.injected": weights_sent,
        "noc.weight.delivered": x.n * x.m * m.c * x.r * x.s * parts * rows_of_tiles,
        "noc.psum.delivered": outputs * passes,
        "spad.iact.read": macs,
        "spad.weight.read": macs,
        "spad.psum.read": macs - emitted,
        "spad.psum.write": macs - emitted,
        "pe.mac": macs,
    }
