"""The analytical model: cycles of a mapping by part, in closed form.

A pass (one channel tile, one set of filter rows in time) takes the maximum over the engines of their busy cycles; to
this come the stalls at the boundaries of rows, passes and tiles, each the time by which a word comes after the step
that needs it. Nothing is simulated, nothing is fitted: rates follow from the mapping, latencies from the components.
docs/model.md derives the formulas.
"""

import functools
from collections.abc import Mapping as Dict
from dataclasses import dataclass

from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.control import SETTLE_CYCLES, CommandProcessor, fetch_beats
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.dma import Loader, ReadArbiter, Splitter
from rowmesh.hw.drain import DRAIN_PIPELINE
from rowmesh.hw.link import Buffer, Fifo, Stage
from rowmesh.hw.multicast import RowTap, Tap
from rowmesh.hw.pe import ProcessingElement
from rowmesh.hw.program import Program
from rowmesh.hw.psum_bank import PsumBank
from rowmesh.sw.counts import access_counts, dram_beats, first_slice_beats
from rowmesh.sw.mapping import Mapping, ceil_div
from rowmesh.sw.results import PARTS, Prediction

__all__ = ["MEMORY_LATENCY", "WRITE_LATENCY", "Pass", "energy", "pass_rates", "predict", "predict_parts"]

MEMORY_LATENCY = 100
"""Cycles from a read request to its first beat."""

WRITE_LATENCY = 20
"""Cycles from a write's last beat to its response."""


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
def _program_words(config: ArchConfig, engines: int, requant: bool) -> int:
    """Words of a layer's program: every field of every engine and PE is written."""
    from rowmesh.hw.top import descriptors

    del engines
    layouts = descriptors(config)
    used = [layout for engine, layout in layouts.items() if requant or engine is not Engine.LOAD_PARAM]
    array = config.rows * (
        config.cols * 2 + 4 + 2
    )  # PEs and taps of a row are two runs of addresses, each with a header
    empty = len(Program().words)
    return empty + array + sum(len(Program().write(0, layout.encode([], {}, {})).words) - empty for layout in used) + 3


def _round(m: Mapping) -> tuple[int, int]:
    """Cycles that the iact path takes for one round (one column position of all rows), and its flits."""
    x = m.layer
    rows = (m.p_x - 1) * x.stride[0] + m.height if m.diagonal else m.p_x * m.r_s
    flits = rows * m.blocks
    words = m.lanes if m.planar else min(m.c0, m.lanes)
    flits_of_row = m.p_x * ceil_div(m.c0, m.lanes)
    return max(flits, flits_of_row * words), flits


def _rounds(m: Mapping, q: int) -> int:
    """Rounds of a row of ``q`` output columns."""
    columns = (q - 1) * m.stride[1] + m.window if m.layer.stride[1] <= m.window else q * m.window
    return ceil_div(m.x_offset + columns, m.lanes) if m.planar else columns


def pass_rates(m: Mapping, rows: int, q: int) -> Pass:
    """Busy cycles of the engines in a pass."""
    _, flits_of_round = _round(m)
    columns = (q - 1) * m.stride[1] + m.window if m.layer.stride[1] <= m.window else q * m.window
    flits = ceil_div(m.weights, m.lanes)
    row_words = m.m_x * m.weights
    depth = m.config.glb_weight_flits
    return Pass(
        steps=rows * q * m.layer.s * m.c0 * m.m0,
        iact=rows * max(_rounds(m, q) * flits_of_round, columns * m.p_x * m.c0),
        weight=max(flits * m.m_x * m.chain, row_words),
        load=ceil_div(flits * m.m_x * m.chain * max(_round_trip(m), depth), depth),
    )


def _round_trip(m: Mapping) -> int:
    """Cycles from a flit's release in a bank to the fill of the slot that it freed."""
    request = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
    burst = min(m.config.burst_beats, m.config.glb_weight_flits)
    return request + Splitter.latency + 2 + Loader.data_latency + burst


def _slice_stall(m: Mapping) -> int:
    """Wait for a channel tile's iacts where two of them do not fit the bank.

    What does not fit beside the tile in use is asked for when that is released, which is when its last flit is read;
    the PEs still work on what they hold then.
    """
    missing = 2 * m.slice_flits - m.config.glb_iact_flits
    if missing <= 0 or (m.resident and m.ct > 1):
        return 0
    step = m.stride[1] * m.c0
    held = ceil_div(m.config.iact_spad, step) * m.layer.s * m.c0 * m.m0
    return max(0, missing + _round_trip(m) - held)


def _trunk_latency(m: Mapping) -> int:
    """Cycles from a GLB bank's read to the last PE's spad."""
    a = m.config
    across = m.columns * Stage.latency + (m.columns - 1) // a.link_segment * Buffer.latency
    return Buffet.latency + Fifo.latency + m.chain * Tap.latency + RowTap.latency - 1 + across + 1


def _row_stall(m: Mapping) -> int:
    """Wait at the start of a row for its first window.

    The spad holds ``ahead`` rounds of the next row; the others come as the last window is released, tap by tap, one
    round every ``cost`` cycles, and tap s is first needed ``s`` taps into the next row.
    """
    cost, _ = _round(m)
    tap = m.c0 * m.m0  # steps of a tap
    taps = m.layer.s
    unit = m.lanes if m.planar else 1  # taps of a round
    dense = m.layer.dilation[1] == 1
    spare = m.config.iact_spad // m.c0 - m.window
    ahead = max(0, spare // unit)
    latency = _trunk_latency(m)
    worst = 0
    arrival = 0
    for number in range(ahead, ceil_div(m.window, unit)):  # rounds of the next row's window
        slots = (number - ahead + 1) * unit - (spare - ahead * unit)
        freed = min(slots, m.window) * tap if dense else taps * tap
        arrival = max(arrival, freed) + cost
        needed = taps * tap + number * unit * tap
        worst = max(worst, arrival + latency - needed)
    return worst


def _pass_stall(m: Mapping, rows: int, q: int) -> int:
    """Wait at the start of a pass for its weights: they come as the last ones are released, word by word."""
    spare = m.config.weight_spad - m.weights
    if rows * q <= 1:
        return 0  # a pass of one position is bound by the weight path itself
    late = m.weights - max(0, spare)
    if late <= 0:
        return 0
    flits = ceil_div(m.weights, m.lanes)
    per_word = max(1.0, pass_rates(m, rows, q).weight / (flits * m.lanes))
    latency = _trunk_latency(m)
    first = latency - spare  # the first word that had to wait
    last = late * per_word + latency - 2 * m.weights
    return max(0, int(first - m.weights), int(last))


def _drain_group(m: Mapping, q: int) -> tuple[int, int, int]:
    """Groups of columns, cycles to drain one row of a group, and of its first block of filters."""
    lanes, k = m.config.lanes, m.out_lanes
    groups = ceil_div(m.m_x, lanes) if m.p_x == 1 else m.m_x * ceil_div(m.p_x, lanes)
    if m.ofmap_layout.planar:
        return groups, m.m0 * q, q
    return groups, q * m.m0, q * min(k, m.m0)


def _drain_row(m: Mapping, q: int) -> int:
    """Cycles to drain and store one row step of all columns."""
    groups, group, _ = _drain_group(m, q)
    k = m.out_lanes
    beats = m.m0 * ceil_div(q, k) if m.ofmap_layout.planar else q * ceil_div(m.m0, k)
    return max(groups * group, m.columns * beats)


def _psum_stall(m: Mapping, q: int) -> int:
    """Wait of a tile's first pass for slots that the drain of the tile before still holds."""
    a = m.config
    slack = a.psum_bank_words - m.bank_words
    if min(m.p0, m.row_steps) > 1:
        slack += (min(m.p0, m.row_steps) - 1) * q * m.m0
    groups, group, head = _drain_group(m, q)
    if slack >= m.bank_words:
        return 0
    released = groups * group - head + PsumBank.latency + DRAIN_PIPELINE
    wanted = (slack // m.m0 + 1) * m.layer.s * m.c0 * m.m0
    return max(0, released - wanted)


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
    x, a = m.layer, m.config
    requant = x.output == "requant"
    beats = dram_beats(m)
    weights_ahead = min(beats["weight"], a.glb_weight_flits)

    # before the first step
    words = _program_words(a, 0, requant)
    fetched = fetch_beats(a) * a.beat_bytes // 4
    request = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
    config = (
        CommandProcessor.latency
        + request
        + 3
        + max(fetched, request + CommandProcessor.length_latency)
        + max(0, words - fetched)
        + SETTLE_CYCLES
    )
    loader = Loader.cycles_to_request(a, clip=True)
    path = loader + request + Loader.data_latency + 1 + Buffet.latency + Fifo.latency + Tap.latency
    first_mac = path + RowTap.latency - 1 + Stage.latency + 1 + 2
    padded = x.padding[0] > 0 or x.padding[1] > 0
    fill = first_mac + (0 if padded else weights_ahead)

    # the passes, by class of column tile
    images = x.n * x.groups
    passes = m.ct * m.r_t
    stall = {"noc": 0, "psum": 0, "dma": 0}
    steps = 0
    busy = 0
    rows_full = min(m.p0, m.row_steps)
    for q, q_count in ((min(m.q0, x.q), m.qt - 1), (m.q_rest, 1)):
        for rows, p_count in ((rows_full, m.pt - 1), (m.p0_rest, 1)):
            count = images * q_count * p_count * m.mt
            if not count:
                continue
            rates = pass_rates(m, rows, q)
            steps += count * passes * rates.steps
            row = _row_stall(m)
            wait = rows * row
            weight = _pass_stall(m, rows, q)
            extra = max(wait + max(0, weight - row), rates.bound - rates.steps)
            starved = max(0, rates.load - rates.steps - extra)
            stall["noc"] += count * passes * extra
            stall["dma"] += count * passes * starved
            busy += count * passes * (rates.steps + extra + starved)
            stall["psum"] += count * _psum_stall(m, q)
            stall["psum"] += count * max(0, rows * _drain_row(m, q) - passes * (rates.steps + extra))

    # the memory: what it cannot hide
    total_beats = sum(beats.values())
    first = first_slice_beats(m)
    # short bursts do not fill the latency with the reads in flight
    burst = min(m.tile_beats, a.burst_beats)
    slow = max(1.0, request / (a.read_bursts * burst))
    initial = int((weights_ahead if padded else 0) + first * slow)
    rest = int(total_beats + (slow - 1) * beats["iact"]) - first - weights_ahead
    stall["dma"] += initial + max(0, rest - busy - stall["psum"])

    switches = images * m.pt * m.qt * (1 if m.resident else m.mt * m.ct) - 1
    stall["dma"] += switches * _slice_stall(m)

    # after the last step
    groups, group, head = _drain_group(m, m.q_rest)
    chain = m.chain + (a.rows - 1) // a.link_segment + a.rows - m.chain
    drain = (
        ProcessingElement.latency
        + chain
        + PsumBank.latency
        + max(0, groups * group - head)
        + DRAIN_PIPELINE
        + 12
        + WRITE_LATENCY
        + SETTLE_CYCLES
        + 4
    )
    parts = {"config": config, "fill": fill, "compute": steps, **stall, "drain": drain}
    return {part: parts[part] for part in PARTS}
