"""The model: predicted cycles of a mapping by part, and its access counts.

The layer's programs run on the timing model (:mod:`rowmesh.sw.model.timing`): the same nests, buffets and links as in
the hardware, which count words instead of computing them. A long layer repeats itself, so of its outer loops only some
iterations are run, and one of them stands for those that are left out. docs/model.md has the details. Nothing is
fitted, and no result of the RTL is looked at.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import OPERANDS
from rowmesh.hw.command_processor import SETTLE_CYCLES, CommandProcessor, fetch_beats, fetch_depth
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.core import Core
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.link import Buffer
from rowmesh.hw.program import STARTABLE, Op, Program
from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div
from rowmesh.sw.mapping.latencies import MEMORY_LATENCY, WRITE_LATENCY
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.closed_form import drain_cycles
from rowmesh.sw.model.counts import access_counts, dram_beats
from rowmesh.sw.model.performance import ACCESSES, PARTS, Prediction
from rowmesh.sw.model.timing.processor import FIRST_WORD, Begin, starts_at
from rowmesh.sw.model.timing.run import Ahead, Loaded, Ran, run
from rowmesh.sw.model.timing.streams import Streams, streams
from rowmesh.sw.program.assemble import FIRST_STARTED, SWITCH_WORDS, assemble, early, memory_map, programs

__all__ = [
    "COARSE",
    "FINE",
    "STEPS_AHEAD",
    "Effort",
    "config_cycles",
    "predict",
    "predict_parts",
    "predict_sequence",
    "work",
]


@dataclass(frozen=True)
class Effort:
    """How much of a layer is run.

    Parameters
    ----------
    largest : int
        Steps or beats, whichever are more; of a layer with more, a part is run, if its loops allow that.
    lead : int
        Iterations of a loop, at most, by which the global buffer is taken to be ahead.
    between : int
        Iterations of a loop, at least, that stand for those that are left out.
    retries : int
        How often four times as much is run, as long as what is run is not steady, or PEs wait and what was run before
        says something else.
    """

    largest: int
    lead: int
    between: int
    retries: int


FINE = Effort(160_000, lead=8, between=2, retries=4)
"""Of a prediction."""

COARSE = Effort(20_000, lead=1, between=1, retries=0)
"""Of one prediction of many in a search."""

STEPS_AHEAD = 2 * Buffer.capacity + 2
"""Steps beside those in a PE's FIFO that leave the issuer before the first PE works: in the issuer's and the row's
two-item links, the PE's tap and its next step."""

_KEEPS_UP = 0.998
"""Share of an iteration's psums that have to be drained while it lasts, or else more iterations are run."""

_EVEN = 0.005
"""Share of its cycles by which the first and the second half of what stands for others may differ, or else likewise; in
which PEs may wait; and by which parts of what is run may differ from those of a quarter of it, if PEs wait longer."""

_WAITS = PARTS.index("noc"), PARTS.index("dma"), PARTS.index("psum")
"""Parts in which PEs wait: banks may fill or empty over many iterations, so they can grow with what is run."""

_AT_END = Core.idle_latency + CommandProcessor.end_latency + 1
"""Cycles from idle store engine and drain to the interrupt: WAIT and END of the program, the interrupt's register."""

_BETWEEN = Core.idle_latency + 3
"""Cycles from an idle engine to the start tokens behind a WAIT for it: WAIT and START, the latter's register."""

_RESTART = SETTLE_CYCLES + 4
"""Least cycles from one START to the next behind a WAIT that does not wait: what is written settles, WAIT, START."""

_SEEN = 2
"""Cycles from the start tokens until the observer counts the layer's own: the nest is active, the register of that."""

_Counts = dict[str, int]  # iterations of the outer loops


def _outer(m: ClusterMapping) -> _Counts:
    """Return the iterations of the loops outside a pass, from the outermost inwards."""
    return {**m.tiles, "ct": m.ct}


def _smaller(of: LayerMapping, counts: _Counts) -> LayerMapping:
    """Return the mapping with fewer iterations of its outer loops, of a smaller layer."""
    m, x, s = of.cluster, of.layer, of.splits
    now = _outer(m)
    if counts == now:
        return of
    left_out = {name: now[name] - counts[name] for name in now}
    groups = counts["g"] * m.g_n * s.g_y * s.g_x
    smaller = {
        "N": counts["n"] * m.n0,
        "groups": groups,
        "M": (m.m - left_out["mt"] * m.m_x * m.column_filters) * groups * s.m_y * s.m_x,
        "C": (m.c - left_out["ct"] * m.pass_channels) * groups * s.c_y,
        "H": x.h - left_out["pt"] * m.p0 * m.p_n * x.stride[0] * s.p_y * s.p_x,
        "W": x.w - left_out["qt"] * m.q0 * x.stride[1],
        "input": "random",
    }
    layer = type(x).model_validate({**x.model_dump(by_alias=True), **smaller})
    return of.of_layer(layer)


def _passes(m: ClusterMapping) -> npt.NDArray[np.int64]:
    """Return the steps of each pass: an array over the outer loops."""
    rows, columns = np.full(m.pt, min(m.p0, m.row_steps)), np.full(m.qt, m.q_pe)
    rows[-1], columns[-1] = m.p0_rest, m.q_pe_rest
    inner = m.n0 * (m.passes // m.ct) * m.m1 * m.taps * m.pe_filters
    plane, loops = inner * rows[:, None] * columns, list(_outer(m))
    shape = [m.pt if name == "pt" else m.qt if name == "qt" else 1 for name in loops]
    return np.ascontiguousarray(np.broadcast_to(plane.reshape(shape), tuple(_outer(m).values())), np.int64)


def _size(m: ClusterMapping) -> int:
    """Return the steps or beats of a mapping, whichever are more: a measure of the work to run it."""
    stored = m.layer.n * m.layer.m * m.layer.p * m.layer.q // m.out_lanes
    return max(int(_passes(m).sum()), sum(dram_beats(m).values()) + stored)


def work(of: LayerMapping, effort: Effort = FINE) -> int:
    """Return how many steps or beats of a cluster a prediction runs: a measure of its own time.

    Parameters
    ----------
    of : LayerMapping
    effort : Effort
    """
    m = of.cluster
    counts, full = _chosen(m, effort), _outer(m)
    return int(_size(m) * np.prod([counts[name] / full[name] for name in full]))


def _ends(m: ClusterMapping, effort: Effort) -> _Counts:
    """Return the iterations of each outer loop that are not like the others, at either end.

    Steps are issued some time before they are done, and the banks of the global buffer are filled ahead of their use.
    """
    ahead, beats, a = m.config.uop_fifo + STEPS_AHEAD, dram_beats(m), m.config
    steps, iacts, weights = int(_passes(m).sum()), float(beats["iact"]), float(beats["weight"])
    ends = {}
    for name, count in _outer(m).items():
        steps //= count
        weights /= count
        iacts /= 1 if name == "mt" and m.resident else count
        lead = max(a.glb_iact_flits / max(1.0, iacts), a.glb_weight_flits / weights)
        ends[name] = max(1, ceil_div(ahead, steps), min(effort.lead, int(lead)))
    return ends


def _chosen(m: ClusterMapping, effort: Effort) -> _Counts:
    """Choose the iterations of the outer loops that are run."""
    largest = effort.largest
    counts, size = _outer(m), _size(m)
    fewest = {name: effort.between + 2 * ends for name, ends in _ends(m, effort).items()}
    # a smaller layer has at least a window's rows and columns, however many of the layer's are padding
    (uy, ux), x = m.layer.stride, m.layer
    for name, inside, tile in (("pt", x.h - m.height, m.p0 * m.p_n * uy), ("qt", x.w - m.width, m.q0 * ux)):
        fewest[name] = max(fewest[name], counts[name] - inside // tile)
    # a tile lasts no less than its drain
    pass_steps = max(1, size // math.prod(counts.values()))
    fewest["ct"] = max(fewest["ct"], ceil_div(drain_cycles(m, m.q_pe, m.n0 * min(m.p0, m.row_steps)), pass_steps) + 2)
    while size > largest:
        name = max(counts, key=lambda loop: counts[loop] / fewest[loop])
        if counts[name] <= fewest[name]:
            break
        fitting = max(fewest[name], counts[name] * largest // size)
        size = size * fitting // counts[name]
        counts[name] = fitting
    return counts


def _run(
    of: LayerMapping,
    counts: _Counts,
    effort: Effort,
    ahead: Ahead | None = None,
    loaded: Loaded | None = None,
    begin: Begin | None = None,
) -> tuple[npt.NDArray[np.int64], bool, Ran]:
    """Run some iterations of the outer loops; return the cycles by part of all of them, and whether to trust these.

    What comes before the layer, its program, is ``config`` if it is given (``begin``).

    Of each loop, the iterations between the first ones and the last ones stand for those that are left out. That is
    right if they are all alike, and if the drain keeps up: while psums still pile up in the banks, a longer run is
    needed.
    """
    m, part = of.cluster, _smaller(of, counts)
    full, steps = _outer(m), _passes(part.cluster)
    ran = run(
        of.config,
        _streams(part),
        np.concatenate([[0], np.cumsum(steps.ravel())[:-1]]),
        read_latency=MEMORY_LATENCY,
        write_latency=WRITE_LATENCY,
        ahead=ahead,
        loaded=loaded,
        begin=begin,
    )
    seen = ran.seen
    spent = np.diff(seen, axis=0).reshape(*steps.shape, -1)
    times, steady, ends = np.ones(steps.shape), True, _ends(m, effort)
    for axis, name in enumerate(full):
        if counts[name] == full[name]:
            continue
        between = range(ends[name], counts[name] - ends[name])
        inside = [slice(None)] * axis + [slice(between.start, between.stop)]
        times[tuple(inside)] *= 1 + (full[name] - counts[name]) / len(between)
        cycles = np.moveaxis(spent[..., :-1].sum(axis=-1), axis, 0)[between].reshape(len(between), -1).sum(axis=1)
        half = max(1, len(between) // 2)
        steady &= bool(abs(cycles[:half].mean() - cycles[-half:].mean()) <= _EVEN * cycles.mean())
        if name != "ct":  # whose last iteration makes the psums of all
            share = np.moveaxis(steps, axis, 0)[between].sum() / steps.sum()
            drained = np.moveaxis(spent[..., -1], axis, 0)[between].sum()
            steady &= bool(drained >= _KEEPS_UP * share * seen[-1, -1])
    total = seen[0] + (spent * times[..., None]).reshape(len(seen) - 1, -1).sum(axis=0)
    cycles = np.rint(total[: len(PARTS)]).astype(np.int64)
    if begin is not None:
        cycles[PARTS.index("config")] = FIRST_WORD + ran.begun + _SEEN
    return cycles, steady, ran


def _streams(of: LayerMapping) -> Streams:
    return streams(of.config, programs(of, memory_map(of)))


@functools.lru_cache(maxsize=4096)
def _measured(m: LayerMapping, effort: Effort) -> tuple[tuple[int, ...], _Counts]:
    """Run a mapping on the timing model.

    Returns
    -------
    tuple of int
        Cycles by part until the last response.
    dict
        Iterations of the outer loops that were run.
    """
    before: npt.NDArray[np.int64] | None = None
    for retry in range(effort.retries + 1):
        counts = _chosen(m.cluster, replace(effort, largest=effort.largest * 4**retry))
        if counts == _outer(m.cluster):
            return _whole(m), counts
        total, steady, _ = _run(m, counts, effort, begin=_begin(m))
        most = _EVEN * total.sum()
        if steady and (total[list(_WAITS)].sum() <= most or (before is not None and abs(total - before).max() <= most)):
            break
        before = total
    return tuple(map(int, total)), counts


@functools.lru_cache(maxsize=4096)
def _whole(m: LayerMapping) -> tuple[int, ...]:
    """Run all of a mapping, whatever the effort."""
    total, _, _ = _run(m, _outer(m.cluster), FINE, begin=_begin(m))
    return tuple(map(int, total))


def predict_parts(m: LayerMapping, effort: Effort = FINE) -> dict[str, int]:
    """Predict the cycles of a mapping by part; for the parameters see :func:`work`."""
    parts = dict(zip(PARTS, _measured(m, effort)[0], strict=True))
    return {**parts, "drain": parts["drain"] + _AT_END}


def predict(m: LayerMapping) -> Prediction:
    """Predict the cycles of a mapping by part, and its access counts.

    Parameters
    ----------
    m : LayerMapping

    Returns
    -------
    Prediction
        Parts as of docs/architecture.md; their sum is the total.
    """
    parts = predict_parts(m)
    return Prediction(cycles=sum(parts.values()), parts=parts, accesses=access_counts(m))


def predict_sequence(mappings: Sequence[LayerMapping]) -> Prediction:
    """Predict the cycles and counts of layers in one program (:func:`rowmesh.sw.program.assemble.compile_layers`).

    The parts are those of all layers; the program of the first one is ``config``, and what passes from the end of a
    layer to the start of the next is ``drain``, as the hardware counts it.
    """
    config = mappings[0].config
    total, counts = np.zeros(len(PARTS), np.int64), dict.fromkeys(ACCESSES, 0)
    loaded: Loaded | None = None
    written = [(m, programs(m, memory_map(m))) for m in mappings]
    words = len(assemble(*written).words)
    # words up to the START of each layer: behind it are WAIT and END, or the next layer
    starts = [len(assemble(*written[: number + 1]).words) - 2 for number in range(len(written))]
    late = 0
    for number, m in enumerate(mappings):
        ahead, ready = None, 0
        after = written[number + 1] if number + 1 < len(written) else None
        if after is not None:
            here, there = starts[number : number + 2]
            ready = there - here - SWITCH_WORDS + 2 + SETTLE_CYCLES
            part = _smaller(after[0], _measured(after[0], FINE)[1])
            ahead = Ahead(early(after[1]), _streams(part), ready, _fetches(config, words, here, there))
        begin = _begin(m, words) if loaded is None else None
        parts, _, ran = _run(m, _measured(m, FINE)[1], FINE, ahead, loaded, begin)
        total += parts
        drained = int(parts.sum() - parts[PARTS.index("config")]) + _SEEN
        lead = max(_BETWEEN, ran.late + ready + _RESTART - drained) if after is not None else 0
        late = max(_RESTART, ran.storing + _BETWEEN - lead)
        total[PARTS.index("drain")] += lead + _SEEN if after is not None else _AT_END
        loaded = ran.loaded(lead, late) if after is not None else None
        for name, number in access_counts(m).items():
            counts[name] += number
    return Prediction(cycles=int(total.sum()), parts=dict(zip(PARTS, total.tolist(), strict=True)), accesses=counts)


def _fetches(config: ArchConfig, words: int, start: int, end: int) -> npt.NDArray[np.int64]:
    """Return when bursts of a program are requested while words ``start`` to ``end`` are executed.

    Cycles are those from the start tokens of the word before. The processor's FIFO is full by then: a burst is
    requested when one has left it.
    """
    most, of_beat = fetch_beats(config), config.beat_bytes // 4
    bursts = np.arange(ceil_div(ceil_div(words, of_beat), most))
    left = ((bursts + 1) * most - fetch_depth(config)) * of_beat
    beats = np.minimum(most, ceil_div(words, of_beat) - bursts * most)
    meanwhile = (left > start) & (left <= end)
    return np.stack([left - start + 2, beats], axis=1)[meanwhile].astype(np.int64)


@functools.lru_cache(maxsize=256)
def _begin(m: LayerMapping, words: int | None = None) -> Begin:
    """Return the program of a first layer, which may be part of a longer one; see :class:`Begin`."""
    program = assemble((m, programs(m, memory_map(m)))).words
    heads, engines, waits, place = [], [], [], 2
    before: list[Engine] = []
    for command in Program.decode(program):
        named: list[Engine] = [engine for engine in STARTABLE if command.address >> engine & 1]
        if command.op is Op.START:
            heads.append(place)
            engines.append(named)
            waits.append(before)
        before = named if command.op is Op.WAIT else []
        place += 1 + len(command.words)
    return Begin(words or len(program), heads, engines, waits)


@functools.lru_cache(maxsize=64)
def config_cycles(a: ArchConfig) -> int:
    """Estimate the cycles of a layer's program until STEP is started, whatever the mapping; for a search.

    The layer uses one port of each operand, three loops a nest, and no fields.

    Parameters
    ----------
    a : ArchConfig
    """
    from rowmesh.hw.top import descriptors

    program = Program()
    for engine, layout in descriptors(a).items():
        if engine.port == 0 and (a.clusters > 1 or engine in FIRST_STARTED):
            program.write(0, layout.encode([(2, 2, 0, {})] * 3, {}, {}))
    array = (2 + 1 + a.cols) + len(OPERANDS) * (2 + 1 + a.rows)  # PEs, and taps: a word of all, one of each line
    return FIRST_WORD + starts_at(a, len(program.words) + array) + _SEEN
