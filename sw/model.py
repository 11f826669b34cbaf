"""The analytical model: cycles of a mapping by part, in closed form.

A pass (one channel tile, one set of filter rows in time) takes the maximum over the engines of their busy cycles; to
this come the stalls at the boundaries of rows, passes and tiles, each the time by which a word comes after the step
that needs it. Nothing is simulated, nothing is fitted: rates follow from the mapping, latencies from the components.
docs/model.md derives the formulas.
"""

import functools
import itertools
import math
from collections.abc import Mapping as Dict
from dataclasses import dataclass

from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.control import SETTLE_CYCLES, CommandProcessor, fetch_beats
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.dma import Loader, ReadArbiter, Storer
from rowmesh.hw.drain import DRAIN_PIPELINE
from rowmesh.hw.link import Buffer, Fifo, Stage
from rowmesh.hw.multicast import RowTap, Tap
from rowmesh.hw.pe import ProcessingElement
from rowmesh.hw.program import Program
from rowmesh.hw.psum_bank import PsumBank
from rowmesh.sw.counts import access_counts, dram_beats, first_slice_beats, weight_beats
from rowmesh.sw.general import drain_cycles, slice_wait, tile_cycles
from rowmesh.sw.mapping import Mapping, ceil_div, chunk_beats
from rowmesh.sw.results import PARTS, Prediction

__all__ = ["MEMORY_LATENCY", "STEPS_AHEAD", "WRITE_LATENCY", "Pass", "energy", "pass_rates", "predict", "predict_parts"]

MEMORY_LATENCY = 100
"""Cycles from a read request to its first beat."""

WRITE_LATENCY = 20
"""Cycles from a write's last beat to its response."""


_SPAD_LOOP = 1 + Buffet.latency
"""Cycles from a word's release in a full spad to the first step that can use the word which takes its slot."""

_QUEUE = 6
"""Flits between a bank and the first row's bus: its queue and the row tap's two."""

_FIFO_LOOP = 2
"""Entries of a PE's FIFO of steps that the loop from its end back to the first PE takes: the FIFO's full flag, its
latency and the next step's register, less the tap in front of it."""

STEPS_AHEAD = 6
"""Steps beside those in a PE's FIFO that leave the issuer before the first PE works: in the issuer's and the row's
two-item links, the PE's tap and its next step."""


@dataclass(frozen=True)
class Pass:
    """Busy cycles of the engines in one pass of ``rows`` row steps and ``q`` output columns.

    ``load`` is what the weight bank's refill takes: its depth is spent once in a round trip to memory.
    """

    steps: int
    iact: int
    weight: int
    load: int

    @property
    def bound(self) -> int:
        """The slowest engine of the array's side."""
        return max(self.steps, self.iact, self.weight)


@functools.lru_cache(maxsize=64)
def _program_words(config: ArchConfig, requant: bool) -> int:
    """Words of a layer's program: every field of every engine and PE is written."""
    from rowmesh.hw.top import descriptors

    layouts = descriptors(config)
    used = [layout for engine, layout in layouts.items() if requant or engine is not Engine.LOAD_PARAM]
    array = config.rows * (config.cols * 2 + 4 + 2)  # PEs and taps of a row: two runs of addresses with a header each
    empty = len(Program().words)
    return empty + array + sum(len(Program().write(0, layout.encode([], {}, {})).words) - empty for layout in used) + 3


def _round(m: Mapping, p: int, words: int | None = None) -> tuple[int, int]:
    """Cycles that the iact path takes for one round (one column position of all rows), and its flits.

    Where rows share iacts, the row's first flit of the next round comes behind those that other rows take. The next row
    takes its last flits ``shift`` flits later; the rest passes it one a cycle, and two fit its tap. ``words`` of a flit
    are sent, by default all that a row takes.
    """
    x = m.layer
    rows = (p - 1) * x.stride[0] + m.height if m.diagonal else p * m.r_s
    flits = rows * m.blocks
    if words is None:
        words = m.lanes if m.planar else min(m.c0, m.lanes)
    own = ceil_div(m.c0, m.lanes)  # flits that a row takes of an iact row
    taken, blocked = p, 0
    if m.diagonal:  # subscriptions are those of full columns
        indices = p + (m.height - 1) // x.stride[0]
        taken = min(m.p_x, indices)
        shift, behind = x.dilation[0], (indices - taken) * m.blocks
        if x.stride[0] == 1 and behind >= 2 and taken > shift:
            blocked = (shift - 1) * own * words + behind - shift * own + 1
    return max(flits, taken * own * words + max(0, blocked)), flits


def _row_cycles(m: Mapping, q: int, p: int) -> int:
    """Cycles that the iact path takes for a row of ``q`` output columns."""
    cost, _ = _round(m, p)
    columns = (q - 1) * m.stride[1] + m.window
    if not m.planar:
        return cost * (columns if m.layer.stride[1] <= m.window else q * m.window)
    rounds, end = _rounds(m, q), (m.x_offset + columns) % m.lanes
    if rounds == 1:
        return _round(m, p, columns)[0]
    ends = _round(m, p, m.lanes - m.x_offset)[0] + _round(m, p, end or m.lanes)[0]
    return ends + (rounds - 2) * cost


def _rounds(m: Mapping, q: int) -> int:
    """Rounds of a row of ``q`` output columns."""
    columns = (q - 1) * m.stride[1] + m.window if m.layer.stride[1] <= m.window else q * m.window
    return ceil_div(m.x_offset + columns, m.lanes) if m.planar else columns


def pass_rates(m: Mapping, rows: int, q: int, p: int | None = None, m_x: int = 0, chain: int = 0) -> Pass:
    """Busy cycles of the engines in a pass.

    Parameters
    ----------
    m : Mapping
    rows, q : int
        Row steps, output columns.
    p, m_x, chain : int, optional
        Output rows and filter groups across the columns, PEs of a chain that work; by default those of a full tile.
    """
    p, m_x, chain = m.p_x if p is None else p, m_x or m.m_x, chain or m.chain
    flits = ceil_div(m.weights, m.lanes) * m_x * chain
    depth = m.config.glb_weight_flits
    return Pass(
        steps=rows * q * m.layer.s * m.c0 * m.m0,
        iact=rows * _row_cycles(m, q, p),
        weight=max(flits, m_x * m.weights),
        load=ceil_div(flits * max(_round_trip(m), depth), depth),
    )


def _round_trip(m: Mapping) -> int:
    """Cycles from the release of a burst's first slot to the read of the last flit that takes the burst's slots."""
    burst = min(m.config.burst_beats, m.config.glb_weight_flits)
    credit = 2  # a released slot counts two cycles later
    read = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
    return credit + read + Loader.data_latency + Buffet.latency + burst - 1


def _held_steps(m: Mapping, blocks: int) -> int:
    """Steps that the PEs can still do once a bank's last flit of a slice of ``blocks`` blocks has been read.

    Their spads are full, and so is the NoC: its queue, and a flit for each row's bus.
    """
    q = min(m.q0, m.layer.q)
    position = m.layer.s * m.c0 * m.m0
    flits = _round(m, m.p_x)[1] * blocks // m.blocks
    queue = (_QUEUE + flits // m.p_x) // flits * (m.lanes if m.planar else 1)
    columns = m.config.iact_spad // m.c0 + queue
    row = (q - 1) * m.stride[1] + m.window
    rows, left = divmod(columns, row)
    return position * (q * rows + (1 + (left - m.window) // m.stride[1] if left >= m.window else 0))


def _ends(tiles: int) -> dict[int, int]:
    """First, an interior and the last of ``tiles`` tiles, and how many there are of each kind."""
    return {0: 1, 1: tiles - 2, tiles - 1: 1} if tiles > 2 else {number: 1 for number in range(tiles)}


def _row_classes(m: Mapping) -> list[tuple[int, int, int, int]]:
    """Kinds of row tiles: first iact row, row steps, output rows across the columns, number of tiles."""
    step = m.p0 * m.p_x * m.layer.stride[0]
    full = min(m.p0, m.row_steps)
    return [
        (
            number * step - m.layer.padding[0],
            m.p0_rest if number == m.pt - 1 else full,
            m.p_rest if number == m.pt - 1 else m.p_x,
            count,
        )
        for number, count in _ends(m.pt).items()
    ]


def _column_classes(m: Mapping) -> list[tuple[int, int, int]]:
    """Kinds of column tiles: output columns, beats with data of a segment, number of tiles."""
    x = m.layer
    unit = m.lanes if m.planar else 1
    width = ceil_div(min(x.w, (x.q - 1) * x.stride[1] + m.window - x.padding[1]), unit)
    step, base = m.q0 * x.stride[1] // unit, (-x.padding[1] - m.x_offset) // unit
    return [
        (
            m.q_rest if number == m.qt - 1 else min(m.q0, x.q),
            max(0, min(base + number * step + m.tile_beats, width) - max(base + number * step, 0)),
            count,
        )
        for number, count in _ends(m.qt).items()
    ]


def _segments(m: Mapping, start: int, first: int, end: int) -> int:
    """Segments with data among segments ``first`` to ``end`` of a slice whose first iact row is ``start``."""
    x, rows = m.layer, m.tile_rows
    height = min(x.h, (x.p - 1) * x.stride[0] + m.height - x.padding[0])
    low, high = max(0, -start), max(0, min(rows, height - start))

    def before(segment: int) -> int:
        blocks, row = divmod(segment, rows)
        return blocks * max(0, high - low) + min(max(0, row - low), max(0, high - low))

    return before(end) - before(first)


def _memory_cycles(m: Mapping, bursts: int, beats: float, *, steady: bool = False) -> float:
    """Cycles in which bursts come in: one beat a cycle, and no more than ``read_bursts`` in a latency.

    The first ``read_bursts`` come without a wait, except in a ``steady`` stream.
    """
    loop = ReadArbiter.latency + MEMORY_LATENCY
    length = beats / max(1, bursts)
    if steady:
        return max(beats, bursts / m.config.read_bursts * (loop + length))
    groups = max(0, bursts - 1) // m.config.read_bursts
    left = bursts - groups * m.config.read_bursts
    return max(beats, groups * (loop + length) + left * length)


def _loop_delay(m: Mapping, start: int, beats: int, spare: int) -> int:
    """Delay of the weights' loop through memory by the bursts of a slice, less what the loop has to ``spare``.

    The bursts of iacts that may be in flight come together; the bursts of the loop behind them are late by what the
    gaps between them do not take, on average over the loop's bursts. The other bursts follow as those end. A loop
    without gaps makes up for delays by itself, and the bank for those of a tile whose weights fit it.
    """
    a = m.config
    burst = min(a.burst_beats, a.glb_weight_flits)
    loops = max(1, a.glb_weight_flits // burst)
    period = _round_trip(m) // loops  # of the loop's bursts
    gap = period - burst
    if gap <= 0 or weight_beats(m) <= a.glb_weight_flits:
        return 0
    bursts = _segments(m, start, 0, m.blocks * m.tile_rows) * ceil_div(beats, a.burst_beats)
    length = min(beats, a.burst_beats)
    together = min(bursts, max(0, a.read_bursts - loops))
    behind = max(0, (bursts - together) * length - together * length * gap // period)
    return max(0, together * length - gap * (loops - 1) // 2 - period // 2 + behind - max(0, spare))


def _slice_stall(m: Mapping, start: int, beats: int, busy: int) -> tuple[int, int]:
    """Waits for iacts of a tile of the output that the bank has no room to load earlier: number, cycles of each.

    The bank holds some slices (channel tiles); a slice is released when its last flit has been read, and only then is
    what did not fit asked for. Meanwhile the PEs work on the other slices, ``busy`` cycles each, and on what they hold.
    """
    held = m.config.glb_iact_flits // m.slice_flits
    if m.resident and m.ct > 1:
        if held >= 2 * m.ct:
            return 0, 0
        wait = _slice_wait(m, start, beats, m.blocks, m.blocks, (held - 1) * busy)
        return 1, wait
    if m.ct == 1:
        return (1 if m.resident else m.mt), _slice_wait(m, start, beats, m.blocks, m.blocks, (held - 1) * busy) // held
    # the channel tile in use and the next one, and how often
    turns = [(m.blocks, m.blocks, m.ct - 2), (m.blocks, m.blocks_rest, 1), (m.blocks_rest, m.blocks, 1)]
    total = sum(
        times * _slice_wait(m, start, beats, now, then, (held - 1) * busy) for now, then, times in turns if times
    )
    return m.mt * m.ct, total // (m.ct * held)


def _slice_wait(m: Mapping, start: int, beats: int, now: int, then: int, spare: int) -> int:
    """Wait for a slice of ``then`` blocks behind one of ``now`` blocks, in a tile that starts at iact row ``start``."""
    x = m.layer
    bursts = ceil_div(beats, m.config.burst_beats)
    loop = 2 + ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency + Loader.data_latency + Buffet.latency
    step = m.p_x * x.stride[0]
    rows = (m.p_x - 1) * x.stride[0] + (m.height if m.r_s > 1 else 1)
    row_steps = min(m.q0, x.q) * x.s * m.c0 * m.m0
    fit = min(m.blocks * m.tile_rows, m.config.glb_iact_flits % m.slice_flits // m.tile_beats)
    late = 0
    for row_step in {0, min(m.p0 - 1, max(0, ceil_div(-start - rows + 1, step))), m.p0 - 1}:
        first = row_step * step
        end = min(m.tile_rows, first + rows)
        missing = _segments(m, start, fit, max(fit, (then - 1) * m.tile_rows + end))
        if missing and _segments(m, start, first, end):
            cycles = loop + _memory_cycles(m, missing * bursts, missing * beats) - beats
            late = max(late, int(cycles) - _held_steps(m, now) - row_step * row_steps - spare)
    return late


def _tile_load(m: Mapping, start: int, beats: int, *, first: bool) -> int:
    """Cycles to load all that a tile of the output needs, or what is left of it after the start of the layer."""
    a = m.config
    slices = m.ct * (1 if m.resident else m.mt)
    segments = slices * _segments(m, start, 0, m.blocks * m.tile_rows)
    blocks = (m.c if m.planar else ceil_div(m.c, m.lanes)) * (1 if m.resident else m.mt)
    segments = segments * blocks // max(1, slices * m.blocks)
    weight, param = weight_beats(m), m.m if m.layer.output == "requant" else 0
    bursts = segments * ceil_div(beats, a.burst_beats) + ceil_div(weight, a.burst_beats)
    total = segments * beats + weight + param
    bursts += ceil_div(param, a.burst_beats)
    if first:
        ahead = _segments(m, start, 0, m.blocks * m.tile_rows)
        bursts -= ahead * ceil_div(beats, a.burst_beats)
        total -= ahead * beats + min(weight, a.glb_weight_flits) + min(param, a.param_words)
    return int(_memory_cycles(m, bursts, total, steady=not first)) if bursts > 0 and total > 0 else 0


def _first_beats(m: Mapping, slices: int) -> tuple[int, int]:
    """Beats of all loaders before the first iact beat, and before the iact segment that a slice's first step needs.

    The slice comes behind ``slices`` others. The arbiter takes the loaders in turn; that of the iacts starts two cycles
    after the others.
    """
    a, x = m.config, m.layer
    _, beats, _ = _column_classes(m)[0]
    beats = max(1, beats)
    start = -x.padding[0]
    first_rows = (m.p_x - 1) * x.stride[0] + (m.height if m.r_s > 1 else 1)
    needed = _segments(m, start, 0, (m.blocks - 1) * m.tile_rows + min(first_rows, m.tile_rows))
    needed += slices * _segments(m, start, 0, m.blocks * m.tile_rows)
    per_segment = ceil_div(beats, a.burst_beats)
    needed *= per_segment
    tile = weight_beats(m)
    weight = min(a.burst_beats, tile)
    weights = min(ceil_div(dram_beats(m)["weight"], weight), a.glb_weight_flits // weight)
    param = min(a.burst_beats, m.m) if x.output == "requant" else 0
    params = min(ceil_div(dram_beats(m)["param"], param), a.param_words // param) if param else 0
    head = min(2, weights) * weight + min(1, params) * param
    rounds = max(0, needed - 1)
    more_weights, more_params = (min(rounds, max(0, count)) for count in (weights - 2, params - 1))
    bursts = 3 + rounds + more_weights + more_params
    total = head + more_weights * weight + more_params * param + rounds * beats / per_segment
    return head, int(_memory_cycles(m, bursts, total))


def _first_weights(m: Mapping) -> tuple[int, int]:
    """Beats of weights of the first pass, and cycles until all of them have come, iacts and parameters in turn."""
    a, x = m.config, m.layer
    flits = ceil_div(m.weights, m.lanes) * m.m_x * m.chain
    burst = min(a.burst_beats, weight_beats(m))
    turns = ceil_div(flits, burst)
    _, beats, _ = _column_classes(m)[0]
    slices = min(a.glb_iact_flits // m.slice_flits, m.ct)
    iacts = slices * _segments(m, -x.padding[0], 0, m.blocks * m.tile_rows) * ceil_div(beats, a.burst_beats)
    iacts = min(iacts, turns)
    param = min(a.burst_beats, m.m) if x.output == "requant" else 0
    params = min(turns, a.param_words // param) if param else 0
    total = flits + iacts * min(beats, a.burst_beats) + params * param
    cycles = int(_memory_cycles(m, turns + iacts + params, total))
    return flits, max(cycles, (flits - 1) // (a.glb_weight_flits // burst * burst) * _round_trip(m))


def _trunk_latency(m: Mapping) -> int:
    """Cycles from a GLB bank's read to the last PE's spad."""
    a = m.config
    across = m.columns * Stage.latency + (m.columns - 1) // a.link_segment * Buffer.latency
    return Buffet.latency + Fifo.latency + m.chain * Tap.latency + RowTap.latency - 1 + across + 1


def _lag(m: Mapping, p: int) -> int:
    """Cycles that the PE of the last output row, whose words come last, costs the first: its FIFO of steps is short.

    Of the steps' FIFO two entries are lost to the loop from its end back to the first PE. The first flit behind one
    that waited at a PE comes behind those of the other rows.
    """
    words = m.lanes if m.planar else min(m.c0, m.lanes)
    if m.diagonal:  # the rows' windows of flits are shifted too
        shared = p * m.layer.stride[0] > m.layer.dilation[0]  # else the trunk passes a flit a cycle
        skew = (p - 1 + (m.height - 1) // m.layer.stride[0]) * (words if shared else m.blocks)
    elif p > 1:
        flits = m.r_s * m.blocks
        skew = (p - 1) * max(words, flits) + flits - 1
    else:
        skew = 0
    if m.planar:
        return 0  # see _turn_stall
    skew -= m.config.iact_spad % m.c0  # words that came in before the wait
    return max(0, skew - (m.config.uop_fifo - _FIFO_LOOP))


def _window_stall(m: Mapping, p: int, columns: int, spare: int, *, by_tap: bool) -> int:
    """Wait of a position for the last ``columns`` columns of its window, ``spare`` of which came in before.

    The word behind them waits at its PE and enters as a slot is released: tap by tap in the position before (at the
    end of a row), or all at that position's end. From there a PE's columns come one in ``cost`` cycles; column x of the
    window is first used by tap x / D.
    """
    cost, _ = _round(m, p)
    dilation = m.layer.dilation[1]
    tap = m.c0 * m.m0  # steps of a tap
    position = m.layer.s * tap
    unit = m.lanes if m.planar else 1  # columns of a round
    worst, arrival = 0, -1
    for new in range(spare, columns):
        freed = ((new - spare + 1) * tap if by_tap else position) - 1 + _SPAD_LOOP
        x = m.window - columns + new
        step = cost - unit + 1 if (m.x_offset + x) % unit == 0 else 1
        arrival = freed if arrival < 0 else max(arrival + step, freed)
        if x % dilation == 0:
            worst = max(worst, arrival + _lag(m, p) - position - x // dilation * tap)
    return worst


def _row_stall(m: Mapping, q: int, p: int) -> int:
    """Wait of a row of ``q`` positions for its first window."""
    dense = m.layer.dilation[1] == 1
    spare = max(0, m.config.iact_spad // m.c0 - m.window)
    worst = _window_stall(m, p, m.window, spare, by_tap=dense)
    if q == 1 and dense and worst:  # the window is released while it waits: a loop over two rows
        cost, _ = _round(m, p)
        tap = m.c0 * m.m0
        position = m.layer.s * tap
        columns = (m.window - 1 - spare) * cost // (m.lanes if m.planar else 1)
        over_two = ceil_div(columns + _SPAD_LOOP - 1 + 2 * tap + _lag(m, p), 2)
        worst = min(worst, max(0, over_two - position, tap + _SPAD_LOOP - 1 + _lag(m, p) - position))
    return worst


def _row_extra(m: Mapping, q: int, p: int) -> int:
    """Cycles of a row beyond its steps: the first window's wait, and positions that wait for their columns."""
    cost, _ = _round(m, p)
    position = m.layer.s * m.c0 * m.m0
    columns = cost * m.stride[1] // (m.lanes if m.planar else 1)
    spare = max(0, m.config.iact_spad // m.c0 - m.window)
    slide = 0
    if q > 1 and spare < m.stride[1] and (columns <= position or not m.diagonal):
        slide = _window_stall(m, p, min(m.stride[1], m.window), spare, by_tap=False)
    first = max(_row_stall(m, q, p), _turn_stall(m, q, p))
    if m.planar and columns > position:  # the path never stops: no word waits for a slot on top of that
        return max(first, (q - 1) * (columns - position))
    return first + (q - 1) * max(slide, columns - position, 0)


def _turn_stall(m: Mapping, q: int, p: int) -> int:
    """Wait in a row for packed flits: the last output row's comes behind those of all others.

    The first PE takes its flit's last word when the slot for it is released, in the row before or in this one; the
    flits of the other output rows come behind that. The last PE's FIFO of steps covers part of its wait.
    """
    if not m.planar or p < 2:
        return 0
    stride, dilation = m.stride[1], m.layer.dilation[1]
    position = m.layer.s * m.m0
    columns = (q - 1) * stride + m.window
    others = p - 2 + ((m.height - 1) // m.layer.stride[0] if m.diagonal else 0)
    total = 0
    for first in range(-m.x_offset, columns, m.lanes):
        low, high = max(0, first), min(first + m.lanes, columns) - 1
        slot = columns + high - m.config.iact_spad  # from the first column of the row before
        if slot < 0:
            continue
        if slot >= columns:
            freed = (q + (slot - columns) // stride + 1) * position
        elif slot < (q - 1) * stride:
            freed = (slot // stride + 1) * position
        else:
            tap = (slot - (q - 1) * stride + 1) * m.m0
            freed = (q - 1) * position + (tap if dilation == 1 else position)
        came = freed - 1 + _SPAD_LOOP + others * (high - low + 1) + 1
        use = max(0, ceil_div(low - m.window + 1, stride))  # the position that uses the flit first
        needed = (q + use) * position + (low - use * stride) // dilation * m.m0
        total += max(0, came - needed - (m.config.uop_fifo - _FIFO_LOOP))
    return total


def _hidden_gaps(m: Mapping, flits: int, starved: int, *, steady: bool) -> int:
    """Of the cycles lost to a bank that bursts refill, those in which the bank's reader is at work again.

    The PEs see a gap a trunk's latency after the reader does: one before each burst of a pass of ``flits`` in a
    ``steady`` lack of weights, else one.
    """
    burst = min(m.config.burst_beats, m.config.glb_weight_flits)
    return min(starved, flits * _trunk_latency(m) // burst if steady else _trunk_latency(m))


def _pass_stall(m: Mapping, positions: int, m_x: int, chain: int) -> tuple[int, int]:
    """Wait at the start of a pass for its weights: (for the path to the PEs, further for the memory).

    The spad holds ``spare`` words of the next pass; the others enter as words are released in the last position, one a
    step, and are used one a step from the next pass's first step on.
    """
    if positions <= 1:
        return 0, 0  # a pass of one position is bound by the weight path itself
    spare = max(0, m.config.weight_spad - m.weights)
    late = m.weights - spare
    if late <= 0:
        return 0, 0
    trunk = m_x * chain  # flits between two of one PE
    cycles = max(trunk, m_x * m.lanes)
    lanes = m.lanes

    def at(word: int) -> int:
        return word // lanes * cycles + word % lanes

    worst = _SPAD_LOOP - m.weights
    for word in {spare, (m.weights - 1) // lanes * lanes, m.weights - 1}:
        if word >= spare:
            worst = max(worst, _SPAD_LOOP + at(word) - at(spare) - m.weights - word + spare)
    path = max(0, worst)
    # of the flits that pass in this window, the bank holds what its bursts have filled; the others come by the loop
    # through memory
    memory = 0
    window = ceil_div(late, lanes) * trunk - _QUEUE - chain
    if window > 0:
        flits = ceil_div(m.weights, lanes) * trunk
        burst = min(m.config.burst_beats, m.config.glb_weight_flits)
        depth = m.config.glb_weight_flits
        offsets = range(0, burst, math.gcd(flits, burst))
        for offset in offsets:
            held = depth - (depth + offset) % burst
            loops = (window - 1) // held
            if loops:
                arrival = loops * _round_trip(m) + (window - 1 - loops * held) * max(1, cycles // trunk)
                memory += max(0, arrival + _trunk_latency(m) - 2 * m.weights - path)
        memory //= len(offsets)
    return path, memory


def _drain_group(m: Mapping, q: int) -> tuple[int, int, int]:
    """Groups of columns, cycles to drain one row of a group, and of its first block of filters."""
    lanes, k = m.config.lanes, m.out_lanes
    groups = ceil_div(m.m_x, lanes) if m.p_x == 1 else m.m_x * ceil_div(m.p_x, lanes)
    if m.ofmap_layout.planar:
        return groups, m.m0 * q, q
    return groups, q * m.m0, q * min(k, m.m0)


def _drain_row(m: Mapping, q: int) -> int:
    """Cycles to drain one row step of all columns."""
    groups, group, _ = _drain_group(m, q)
    return groups * group


def _store_row(m: Mapping, q: int, columns: int | None = None) -> int:
    """Cycles to store one row step: a beat a cycle, ``read_bursts`` bursts in a response's time."""
    k, planar = m.out_lanes, m.ofmap_layout.planar
    beats = ceil_div(q, k) if planar else q  # of a block
    blocks = (columns or m.columns) * (m.m0 if planar else ceil_div(m.m0, k))
    chunk = min(beats, chunk_beats(m))
    loop = WRITE_LATENCY + Storer.data_latency + Buffer.latency + chunk
    return max(blocks * beats, blocks * ceil_div(beats, chunk) * loop // m.config.read_bursts)


def _free_share(m: Mapping) -> tuple[int, int]:
    """Cycles of a position in which a pass leaves the banks to the drain, and all of them.

    Updates of psums go before the drain's reads; psums of a tile's only pass only fill.
    """
    position = m.layer.s * m.c0 * m.m0
    return position - (m.m0 if m.ct * m.r_t > 1 else 0), position


def _drain_left(m: Mapping, rows: int, q: int, columns: int | None = None) -> tuple[int, int]:
    """Cycles of drain, and of store, that are left when the last psum of a tile of so many columns is final."""
    groups, group, head = _drain_group(m, q)
    k, planar = m.out_lanes, m.ofmap_layout.planar
    chunk = chunk_beats(m)
    free, position = _free_share(m)
    early = 0 if planar else (q - 1) // chunk * chunk * min(m.columns, m.config.lanes)  # stored while it still runs
    drain, store = groups * group, _store_row(m, q, columns)
    return (
        drain - min(head, q * free) + (rows - 1) * max(0, drain - q * free),
        max(0, store - early - min(k, m.m0)) + (rows - 1) * max(0, store - q * position),
    )


def _drain_deficit(m: Mapping, rows: int, q: int, busy: int) -> int:
    """Cycles by which a tile's drain or store is longer than what its ``busy`` cycles leave to it."""
    free, position = _free_share(m)
    passes = m.ct * m.r_t
    updates = (passes - 1) * rows * q * (position - free)
    return rows * max(_drain_row(m, q) - (busy - updates) // rows, _store_row(m, q) - busy // rows)


def _psum_stall(m: Mapping, rows: int, q: int) -> int:
    """Wait of a tile's first pass for slots that the drain of the tile before still holds.

    A row step's slots are free when its last column group has been drained; the store's FIFOs take the drain's last
    beats.
    """
    a = m.config
    words = q * m.m0
    slack = a.psum_bank_words - rows * words
    if slack >= rows * words:
        return 0
    groups, group, _ = _drain_group(m, q)
    drain, store = _drain_left(m, rows, q)
    row_drain, row_store = groups * group, _store_row(m, q)
    position = m.layer.s * m.c0 * m.m0
    worst = 0
    for row in {0, rows - 1}:
        behind = rows - 1 - row
        released = max(drain - behind * row_drain, store - behind * row_store - _fifo_cycles(m, q))
        wanted = ((slack + row * words) // m.m0 + 1) * position
        worst = max(worst, released + PsumBank.latency + 1 - wanted if released > 0 else 0)
    return worst


def _fifo_cycles(m: Mapping, q: int) -> int:
    """Cycles in which the store engine writes what its FIFOs hold."""
    k = m.out_lanes
    beats = m.columns * (m.m0 * ceil_div(q, k) if m.ofmap_layout.planar else q * ceil_div(m.m0, k))
    return min(max(4, 2 * m.config.burst_beats) * m.config.lanes, beats) * _store_row(m, q) // beats


def _backlog(m: Mapping) -> int:
    """Cycles of drain and store that full psum banks and full store FIFOs hold."""
    q = min(m.q0, m.layer.q)
    tiles = m.config.psum_bank_words / m.bank_words
    store, drain = _store_row(m, q), _drain_row(m, q)
    rows = tiles * min(m.p0, m.row_steps)
    return int(rows * max(store, drain)) + (_fifo_cycles(m, q) if store > drain else 0)


ENERGY = {"dram": 200, "glb": 6, "noc": 2, "spad": 1, "pe": 1}
"""Energy of an access by level, relative to a MAC (Eyeriss, table IV)."""


def energy(accesses: Dict[str, int]) -> int:
    """Energy of a layer relative to a MAC: counts times the table."""
    return sum(count * ENERGY[name.partition(".")[0]] for name, count in accesses.items() if "injected" not in name)


def predict(m: Mapping) -> Prediction:
    """Predict the cycles of a mapping by part, and its access counts.

    Parameters
    ----------
    m : Mapping

    Returns
    -------
    Prediction
        Parts as of docs/architecture.md; their sum is the total.
    """
    parts = predict_parts(m)
    return Prediction(cycles=sum(parts.values()), parts=parts, accesses=access_counts(m))


def predict_parts(m: Mapping) -> dict[str, int]:
    """Predict the cycles of a mapping by part."""
    parts = _plain_parts(m) if m.plain else _general_parts(m)
    return {part: parts[part] for part in PARTS}


def _general_parts(m: Mapping) -> dict[str, int]:
    """Parts of a mapping with several chains a column, patches, or parts of output columns (sw/general.py)."""
    x, a = m.layer, m.config
    beats = dram_beats(m)
    images = x.n * m.g_t
    totals = {"compute": 0, "noc": 0, "psum": 0, "dma": 0}
    late = 0
    trip = _round_trip(m)
    for q, q_tile, q_count in ((m.q_pe, min(m.q0, x.q), m.qt - 1), (m.q_pe_rest, m.q_rest, 1)):
        for p, rows, p_count in ((m.p_n, min(m.p0, m.row_steps), m.pt - 1), (m.p_rest, m.p0_rest, 1)):
            count = images * q_count * p_count * m.mt
            if not count:
                continue
            tile = tile_cycles(m, q, q_tile, p, rows, trip)
            drained, _, stored = drain_cycles(m, q, rows)
            for part, cycles in zip(totals, (tile.steps, tile.noc, tile.psum, tile.dma), strict=True):
                totals[part] += count * cycles
            late += count * max(0, max(drained, stored) - tile.busy)
    busy = sum(totals.values())
    first = first_slice_beats(m)
    request = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
    slow = max(1.0, request / (a.read_bursts * min(m.tile_beats, a.burst_beats)))
    initial = int(first * slow) + min(beats["weight"], first, a.glb_weight_flits)
    rest = int(sum(beats.values()) + (slow - 1) * beats["iact"]) - initial
    slices = images * m.pt * m.qt * (1 if m.resident else m.mt * m.ct) - 1
    totals["dma"] += initial + max(0, rest - busy, slices * slice_wait(m, trip))
    totals["psum"] += max(0, late - totals["dma"])
    ahead = min(totals["compute"], STEPS_AHEAD + a.uop_fifo)
    totals["compute"] -= ahead
    drained, head, stored = drain_cycles(m, m.q_pe_rest, m.p0_rest)
    drain = max(drained - head, stored) + _drain_latency(m)
    return {"config": _config_cycles(m), "fill": _fill_cycles(m), **totals, "drain": drain}


def _plain_parts(m: Mapping) -> dict[str, int]:
    stall = {"noc": 0, "dma": 0, "psum": 0}
    head, _ = _first_beats(m, 0)
    padded = m.layer.padding[0] > 0 or m.layer.padding[1] > 0
    steps = _tiles(m, stall)
    _start(m, 0 if padded else head, stall)
    left = _end(m, stall)
    ahead = min(steps, STEPS_AHEAD + m.config.uop_fifo)
    return {
        "config": _config_cycles(m),
        "fill": _fill_cycles(m) + (0 if padded else head),
        "compute": steps - ahead,
        **{part: stall[part] for part in ("noc", "dma", "psum")},
        "drain": left + _drain_latency(m),
    }


def _config_cycles(m: Mapping) -> int:
    """Cycles of the program: two reads' latency, then a word a cycle, and its settling."""
    a = m.config
    words = _program_words(a, m.layer.output == "requant")
    fetched = fetch_beats(a) * a.beat_bytes // 4
    request = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
    first = CommandProcessor.latency + request + 4
    return first + max(fetched, request + CommandProcessor.length_latency) + max(0, words - fetched) + SETTLE_CYCLES


def _fill_cycles(m: Mapping) -> int:
    """Cycles from the start tokens to the first multiply-accumulate, if the first weight is all that it waits for."""
    a = m.config
    loader = Loader.cycles_to_request(a, clip=False)
    memory = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency + Loader.data_latency
    bank = 1 + Buffet.latency + Fifo.latency  # a word is read the cycle after its fill
    pe = Stage.latency + 1 + 1  # the tap, the fill, the first step itself
    return loader + memory + bank + RowTap.latency + pe


@dataclass(frozen=True)
class _Tile:
    """A kind of tile of the output: what a tile and a pass of it take.

    Parameters
    ----------
    start : int
        First iact row.
    rows, q, p : int
        Row steps, output columns, output rows across the columns.
    beats : int
        Beats with data of a segment.
    """

    m: Mapping
    start: int
    rows: int
    q: int
    p: int
    beats: int

    @functools.cached_property
    def passes(self) -> list[tuple[int, Pass, tuple[int, int, int]]]:
        """Kinds of passes of all filter tiles: how many, busy cycles, and waits.

        The waits are those for the NoC, for the memory, and of the latter those that look like the NoC's.
        """
        m = self.m
        kinds = []
        for (m_x, filters), (c_s, channels) in itertools.product(
            ((m.m_x, m.mt - 1), (m.m_x_rest, 1)), ((m.c_s, m.ct - 1), (m.c_s_rest, 1))
        ):
            if filters * channels:
                rates = pass_rates(m, self.rows, self.q, self.p, m_x, c_s * m.r_s)
                kinds.append((filters * channels * m.r_t, rates, self._stalls(rates, m_x, c_s * m.r_s)))
        return kinds

    def _stalls(self, rates: Pass, m_x: int, chain: int) -> tuple[int, int, int]:
        m = self.m
        row = _row_extra(m, self.q, self.p)
        path, memory = _pass_stall(m, self.rows * self.q, m_x, chain)
        extra = max(self.rows * row + max(0, path - row), rates.bound - rates.steps)
        late = self.rows * row + max(0, path + memory - row) - extra
        starved = max(0, rates.load - rates.steps - extra, late)
        flits = ceil_div(m.weights, m.lanes) * m_x * chain
        return extra, starved, _hidden_gaps(m, flits, starved, steady=starved != late) if starved else 0

    @functools.cached_property
    def busy(self) -> int:
        """Cycles of all passes of all filter tiles."""
        return sum(count * (rates.steps + waits[0] + waits[1]) for count, rates, waits in self.passes)

    @functools.cached_property
    def slots(self) -> int:
        """Wait for psum slots."""
        return _psum_stall(self.m, self.rows, self.q)

    @property
    def behind(self) -> int:
        """Cycles by which drain and store fall behind."""
        return max(0, _drain_deficit(self.m, self.rows, self.q, self.busy // self.m.mt))

    def memory(self, *, first: bool) -> tuple[int, int]:
        """Waits for iacts of all tiles of the filters: (NoC, memory).

        For the slices that the bank has no room for, for the weights' loop that they delay, or for all that is loaded;
        of the layer's ``first`` tile, what is loaded before the first step is left out.
        """
        m = self.m
        slices = m.ct * (1 if m.resident else m.mt)
        waits, wait = _slice_stall(m, self.start, self.beats, self.busy // (m.mt * m.ct))
        free = sum(count * (rates.steps + stalls[0] - rates.load) for count, rates, stalls in self.passes)
        loop = _loop_delay(m, self.start, self.beats, free // slices)
        starved = any(stalls[1] for _, _, stalls in self.passes)
        hidden = min(wait, _trunk_latency(m))
        if loop > wait:
            waits, wait, hidden = slices, loop, 0 if starved else min(loop, _trunk_latency(m))
        waits -= first
        load = _tile_load(m, self.start, self.beats, first=first)
        missing = max(0, load - self.busy - m.mt * self.slots)
        if missing <= waits * wait:
            return waits * hidden, waits * (wait - hidden)
        # the reader of the iacts works as they come
        sent = slices * m.r_t * self.rows * _rounds(m, self.q) * _round(m, self.p)[1]
        path = min(missing, missing * sent // load)
        return path, missing - path


def _kinds(m: Mapping) -> list[tuple[_Tile, int]]:
    """Kinds of tiles of the output, and how many (n, g, pt, qt) there are of each; the first is the layer's first."""
    images = m.layer.n * m.layer.groups
    return [
        (_Tile(m, start, rows, q, p, beats), images * p_count * q_count)
        for (start, rows, p, p_count), (q, beats, q_count) in itertools.product(_row_classes(m), _column_classes(m))
    ]


def _tiles(m: Mapping, stall: dict[str, int]) -> int:
    """Add the waits within and between tiles; return the steps."""
    steps = 0
    for number, (tile, count) in enumerate(_kinds(m)):
        for passes, rates, (extra, starved, hidden) in tile.passes:
            steps += count * passes * rates.steps
            stall["noc"] += count * passes * (extra + hidden)
            stall["dma"] += count * passes * (starved - hidden)
        stall["psum"] += count * m.mt * tile.slots
        for tiles, first in ((count - (number == 0), False), (int(number == 0), True)):
            if tiles:
                path, memory = tile.memory(first=first)
                stall["noc"] += tiles * path
                stall["dma"] += tiles * memory
    return steps


def _start(m: Mapping, head: int, stall: dict[str, int]) -> None:
    """Add the waits of the first tile, from the first step on, ``head`` beats after the first weight."""
    x, a = m.layer, m.config
    skipped = min(x.padding[1] // x.dilation[1], x.s) * m.c0 * m.m0  # steps of the first position's padding
    _, needed = _first_beats(m, 0)
    wait = needed - skipped
    together = min(m.ct, a.glb_iact_flits // m.slice_flits) - 1
    if together > 0:  # the other slices that are loaded at once
        _, needed = _first_beats(m, together)
        rates = pass_rates(m, min(m.p0, m.row_steps), min(m.q0, x.q))
        wait = max(wait, needed - together * m.r_t * rates.bound)
    wait = max(0, wait - head)
    flits, cycles = _first_weights(m)
    late = max(0, cycles - head - m.weights - wait)
    path = late * flits // cycles  # the reader of the weights works as they come
    stall["noc"] += path
    stall["dma"] += wait + late - path


def _end(m: Mapping, stall: dict[str, int]) -> int:
    """Cycles of drain and store behind the last psum; add to the waits what banks and FIFOs cannot put off to there."""
    tail = max(_drain_left(m, m.p0_rest, m.q_rest, m.m_x_rest * m.p_rest))
    deficit, bound = 0, 0
    for tile, count in _kinds(m):
        deficit += count * m.mt * max(0, tile.behind - tile.slots)
        bound += count * m.mt * min(tile.behind, tile.slots)
    deficit = max(0, deficit - stall["dma"])
    left = min(tail + deficit + bound, max(tail, _backlog(m)))
    stall["psum"] += deficit - (left - tail)
    return left


def _drain_latency(m: Mapping) -> int:
    """Cycles from the last step to the end of the program, beside the drain's and store's words."""
    a = m.config
    chain = a.rows + (a.rows - 1) // a.link_segment
    control = SETTLE_CYCLES + 4
    return ProcessingElement.latency + chain + PsumBank.latency + DRAIN_PIPELINE + 12 + WRITE_LATENCY + control
