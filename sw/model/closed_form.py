"""An estimate of a mapping's cycles in closed form, for searches; :mod:`rowmesh.sw.model.predict` is the prediction.

A pass takes the maximum over the engines of their busy cycles. To this come the waits at the boundaries of passes and
tiles: for the part of the next patch of iacts that the spads cannot hold beside the present one, for the psum chains of
a column that share it, for slices of iacts that do not fit the global buffer twice. docs/model.md derives the formulas.
They serve one mapping and, compiled (:mod:`rowmesh.sw.search.evaluate`), many at once.
"""

from typing import NamedTuple

from rowmesh.hw.buffet import Buffet
from rowmesh.hw.loader import Loader
from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div, weight_beats
from rowmesh.sw.mapping.latencies import ROUND_TRIP
from rowmesh.sw.model.counts import first_slice_beats, read_beats

__all__ = ["drain_cycles", "estimate", "iact_cycles"]


class _Weights(NamedTuple):
    """Cycles of a pass's weights: along the trunk or the busiest row, and from memory."""

    noc: int
    load: int


_CREDIT = 2
"""Cycles until a released slot counts."""

_REFILL = _CREDIT + ROUND_TRIP + Loader.data_latency + Buffet.latency - 1
"""Cycles from the release of a burst's first slot to the read of the last flit that takes the burst's slots, less one a
beat of the burst."""


def _sent(m: ClusterMapping, q_tile: int) -> tuple[int, int]:
    """Columns sent for a tile's output columns, and the flits of one iact row."""
    each = min(m.sent_columns, q_tile)
    before = ceil_div(q_tile, each) - 1
    full, rest = m.patch_columns(each), m.patch_columns(q_tile - before * each)
    return before * full + rest, before * m.row_flits(full) + m.row_flits(rest)


def iact_cycles(m: ClusterMapping, q_tile: int, p: int, blocks: int = 0) -> int:
    """Return the cycles of a row step's iacts in a pass: flits along the trunk, or words along the busiest row.

    Parameters
    ----------
    m : ClusterMapping
    q_tile, p : int
        Output columns of the tile, output rows of the row step.
    blocks : int, optional
        Channel blocks of the pass; 0, the default: those of a full channel tile.
    """
    columns, flits = _sent(m, q_tile)
    rows = (p - 1) * m.layer.stride[0] + m.height if m.diagonal else m.row_span(p) * m.r_s
    of_row = m.r0 if m.p_y > 1 else m.row_span(p) if m.r0 > 1 else p
    trunk = rows * (blocks or m.blocks)
    if m.p_y > 1:
        # a row's flits follow one another; its tap holds two, the others stop the trunk until their words have left
        words = min(m.pe_words, m.lanes)
        waiting = max(0, of_row * ceil_div(m.pe_words, m.lanes) - 2)
        trunk += p * waiting * (words - 1)
    return max(flits * trunk, columns * of_row * m.c1 * m.pe_words)


def _weights(m: ClusterMapping, round_trip: int) -> _Weights:
    """Return the cycles of a pass's weights of a port, on average over the passes; of those that stay, none.

    Parameters
    ----------
    m : ClusterMapping
    round_trip : int
        Cycles from a weight slot's release to its next word.
    """
    if m.weights_stay:
        return _Weights(0, 0)
    flits = ceil_div(weight_beats(m) // m.weight_ports, m.mt * m.passes)
    of_row = ceil_div(m.m, m.mt * m.m0 * m.m_y)  # sets of weights that pass along a row
    depth = m.config.glb_weight_flits
    return _Weights(max(flits, of_row * m.weights), ceil_div(flits * max(round_trip, depth), depth))


def _burst(m: ClusterMapping, emitted: int, chains: int) -> int:
    """Wait of a PE that sends psums in consecutive steps while its column takes one in ``chains`` cycles."""
    return max(0, (emitted - m.config.chain_fifo) * chains - emitted) if chains > 1 else 0


def _pass_steps(m: ClusterMapping, q: int, rows: int) -> int:
    """Steps of a pass: q output columns of a PE in each of some row steps."""
    return rows * m.m1 * q * m.pe_filters * m.taps


def _tile_cycles(m: ClusterMapping, q: int, q_tile: int, p: int, rows: int, weights: _Weights) -> int:
    """Cycles of a tile.

    Parameters
    ----------
    m : ClusterMapping
    q, q_tile : int
        Output columns of a PE and of the tile.
    p, rows : int
        Output rows of a row step, row steps.
    weights : _Weights
    """
    chains, passes = m.chains, m.passes
    together = q * m.pe_filters if m.patched else m.pe_filters  # psums of a PE that are worked on at once
    steps = _pass_steps(m, q, rows)
    iact = iact_cycles(m, q_tile, p) * rows
    noc = max(0, max(iact, weights.noc) - steps)
    columns, _ = _sent(m, q)
    room = m.config.iact_spad // (m.r0 * m.pe_words)
    cost = iact // max(1, rows * columns * m.c1)
    if m.patched:
        # the columns that had to wait come at the rate of the iacts, and are needed one every m0 steps of each q
        missing = max(0, columns - max(0, room - columns))
        late = missing * iact // max(1, rows * columns) - (q - 1) * m.pe_filters
        noc = max(noc, rows * (late + 2)) if missing else noc
    else:
        missing = max(0, m.window - max(0, room - m.window))
        windows = rows * m.c1 * ceil_div(q, m.q_block)
        noc = max(noc, windows * missing * max(0, cost - m.r0 * m.c0 * m.pe_filters))
    busy = passes * (steps + noc + max(0, weights.load - steps - noc))
    if chains == 1:
        return busy
    if m.held:
        psum = max(_burst(m, together, chains), chains * together * rows - busy)
    else:
        sets, taps = rows * (m.m1 if m.patched else q), m.s0 * m.r0 * m.c0
        psum = passes * sets * max(_burst(m, together, chains), (chains - taps) * together)
    return busy + max(0, psum)


def _slice_wait(m: ClusterMapping, round_trip: int) -> int:
    """Wait for a channel tile's iacts where two of them do not fit the bank."""
    missing = 2 * m.slice_flits * m.images_kept - m.config.glb_iact_flits
    if missing <= 0 or (m.resident and m.ct > 1):
        return 0
    columns = m.patch_columns(m.q_pe) if m.patched else m.stride[1]
    held = m.config.iact_spad // max(1, columns * m.r0 * m.pe_words) * m.s0 * m.r0 * m.c0 * m.pe_filters
    return max(0, missing + round_trip - held * (m.q_pe if m.patched else 1))


def drain_cycles(m: ClusterMapping, q: int, rows: int) -> int:
    """Return the cycles to drain a tile's words, or to store its beats, whichever are more.

    Parameters
    ----------
    m : ClusterMapping
    q, rows : int
        Output columns of a PE, row steps.
    """
    lanes, k, rows, merged = m.config.lanes, m.out_lanes, rows * m.p_y, m.merged
    groups = ceil_div(m.m_x, lanes) if m.inner == 1 else m.m_x * ceil_div(m.inner, lanes)
    words = rows * q * m.column_filters
    planar = m.ofmap_layout.planar
    beats = rows * (m.column_filters * ceil_div(q, k) if planar else q * ceil_div(m.column_filters * merged, k))
    return max(groups * words, m.columns // merged * beats)


def _drained(m: ClusterMapping, steps: int) -> int:
    """Return the cycles, out of those of some steps of an updating pass, in which no bank of a group is busy.

    A PE sends its psums in consecutive steps, and each column a cycle after its neighbour.
    """
    together = m.pe_filters * (m.q_pe if m.patched else 1)
    period = together * m.taps
    return steps * max(0, period - together * m.chains - m.config.lanes + 1) // period


def _free_cycles(m: ClusterMapping, tile: int) -> int:
    """Return the cycles in which a tile leaves the banks to the drain: its first pass, and what its updates leave."""
    passes = 1 if m.held else m.passes
    if passes == 1:
        return tile
    first = tile // passes
    return first - m.config.lanes + 1 + _drained(m, tile - first)


def _behind_last_step(m: ClusterMapping) -> int:
    """Return the cycles of the drain behind the last step, whose words become final during the last pass."""
    rows, groups = m.n0 * m.p0_rest, ceil_div(m.columns, m.config.lanes)
    cycles = drain_cycles(m, m.q_pe_rest, rows)
    last = _pass_steps(m, m.q_pe_rest, rows)
    # of the last row step only the first group of columns is drained meanwhile, and of its blocks only the first
    parts = max(1, groups // m.merged) * max(1, ceil_div(m.set_filters, m.out_lanes))
    ordered = (cycles - cycles // parts) // rows
    return max(ordered, cycles - (last if m.held or m.passes == 1 else _drained(m, last)))


def _round_trip(m: ClusterMapping) -> int:
    """Cycles from the release of a burst's first slot to the read of the last flit that takes the burst's slots."""
    return _REFILL + min(m.config.burst_beats, m.config.glb_weight_flits)


def _begun_early(m: ClusterMapping, first: int) -> int:
    """Return by how many cycles a layer begins before its weights and first iacts are there, if it does so in parts.

    All but the last channel group's steps of the first block are done meanwhile, as far as there is time once the first
    group's weights have come; the iacts of the last group come behind the weights.

    Parameters
    ----------
    m : ClusterMapping
    first : int
        Beats of the first iacts.
    """
    if m.part == 0:
        return 0
    before = m.c1 - 1
    steps = before * _pass_steps(m, m.q1, 1) // m.c1
    return first // m.c1 + min(steps, (weight_beats(m) + first) * before // m.c1)


def estimate(m: ClusterMapping) -> int:
    """Estimate the cycles of a mapping from its first load to its last store.

    Parameters
    ----------
    m : ClusterMapping
    """
    x, a = m.layer, m.config
    images = m.n_t * m.g_t
    weights = _weights(m, _round_trip(m))
    # tiles are of up to four kinds: the last one of each axis may be smaller
    row_steps, rows_last, width = m.n0 * min(m.p0, m.row_steps), m.n0 * m.p0_rest, min(m.q0, x.q)
    q_last = 1 if m.q_rest < width else 0
    p_last = 1 if m.p_rest < m.p_n or rows_last < row_steps else 0
    busy, late = 0, 0
    for q, q_tile, q_count in ((m.q_pe, width, m.qt - q_last), (m.q_pe_rest, m.q_rest, q_last)):
        for p, rows, p_count in ((m.p_n, row_steps, m.pt - p_last), (m.p_rest, rows_last, p_last)):
            count = images * q_count * p_count * m.mt
            if count:
                tile = _tile_cycles(m, q, q_tile, p, rows, weights)
                busy += count * tile
                late += count * max(0, drain_cycles(m, q, rows) - _free_cycles(m, tile))
    beats = read_beats(m)
    first = first_slice_beats(m)
    slow = max(1.0, ROUND_TRIP / (a.read_bursts * min(m.part or m.tile_beats, a.burst_beats)))
    weights_first = min(beats.weight, first, a.glb_weight_flits)
    if m.weights_stay:  # all of a group's (or filter tile's), along the trunk or the busiest row
        flits, of_row = weight_beats(m) // m.weight_ports, ceil_div(m.m, m.m0 * m.m_y) * m.weights
        weights_first = max(ceil_div(flits, m.mt), ceil_div(of_row, m.mt) - first)
    initial = int(first * slow) + weights_first
    rest = int(beats.iact + beats.weight + beats.param + (slow - 1) * beats.iact) - initial
    slices = x.n * m.g_t * m.pt * m.qt * m.r_d * m.s_d * (1 if m.resident else m.mt * m.ct) - 1
    waits = max(0, rest - busy, slices * _slice_wait(m, _round_trip(m)), late)
    return initial - _begun_early(m, first) + busy + waits + _behind_last_step(m)
