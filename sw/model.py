"""The model: predicted cycles of a mapping by part, and its access counts.

The layer's programs run on the timing model (:mod:`rowmesh.sw.timing`): the same nests, buffets and links as in the
hardware, which count words instead of computing them. A long layer repeats itself, so of its outer loops only some
iterations are run, and one of them stands for those that are left out. docs/model.md has the details. Nothing is
fitted, and no result of the RTL is looked at.
"""

import functools
from collections.abc import Mapping as Dict
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rowmesh.hw.control import SETTLE_CYCLES, CommandProcessor, fetch_beats
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.dma import ReadArbiter
from rowmesh.hw.program import Program
from rowmesh.sw.compiler import MemoryMap, nests, subscriptions
from rowmesh.sw.counts import access_counts, dram_beats
from rowmesh.sw.mapping import Mapping
from rowmesh.sw.results import PARTS, Prediction
from rowmesh.sw.timing.run import run
from rowmesh.sw.timing.streams import streams

__all__ = ["MEMORY_LATENCY", "WRITE_LATENCY", "energy", "predict", "predict_parts"]

MEMORY_LATENCY = 100
"""Cycles from a read request to its first beat."""

WRITE_LATENCY = 20
"""Cycles from a write's last beat to its response."""

LARGEST = 100_000
"""Steps or beats, whichever are more, that are run; of a layer with more, a part is run, if its loops allow that."""

_FEWEST = 3
"""Iterations of a loop that are run: the first, one that stands for all others, and the last."""

_AT_END = 3
"""Cycles from an idle store engine to the interrupt: WAIT and END of the program, and the register of the latter."""

ENERGY = {"dram": 200, "glb": 6, "noc": 2, "spad": 1, "pe": 1}
"""Energy of an access by level, relative to a MAC (Eyeriss, table IV)."""


def energy(accesses: Dict[str, int]) -> int:
    """Energy of a layer relative to a MAC: counts times the table."""
    return sum(count * ENERGY[name.partition(".")[0]] for name, count in accesses.items() if "injected" not in name)


_Counts = Dict[str, int]  # iterations of the outer loops


def _outer(m: Mapping) -> _Counts:
    """Return the iterations of the loops outside a pass, from the outermost inwards."""
    return {"n": m.layer.n, "g": m.g_t, "pt": m.pt, "qt": m.qt, "mt": m.mt, "ct": m.ct}


def _smaller(m: Mapping, counts: _Counts) -> Mapping:
    """Return the mapping with fewer iterations of its outer loops, of a smaller layer."""
    x, now = m.layer, _outer(m)
    if counts == now:
        return m
    left_out = {name: now[name] - counts[name] for name in now}
    groups = counts["g"] * m.g_n
    smaller = {
        "N": counts["n"],
        "groups": groups,
        "M": (m.m - left_out["mt"] * m.m_x * m.column_filters) * groups,
        "C": (m.c - left_out["ct"] * m.c_s * m.c0) * groups,
        "H": x.h - left_out["pt"] * m.p0 * m.p_n * x.stride[0],
        "W": x.w - left_out["qt"] * m.q0 * x.stride[1],
        "input": "random",
    }
    return replace(m, layer=type(x).model_validate({**x.model_dump(by_alias=True), **smaller}))


def _passes(m: Mapping) -> npt.NDArray[np.int64]:
    """Return the steps of each pass: an array over the outer loops."""
    rows, columns = np.full(m.pt, min(m.p0, m.row_steps)), np.full(m.qt, m.q_pe)
    rows[-1], columns[-1] = m.p0_rest, m.q_pe_rest
    inner = m.r_t * m.m1 * m.layer.s * m.r0 * m.c0 * m.pe_filters
    plane = inner * rows[:, None, None, None] * columns[:, None, None]
    return np.ascontiguousarray(np.broadcast_to(plane, tuple(_outer(m).values())), np.int64)


def _chosen(m: Mapping) -> _Counts:
    """Choose the iterations of the outer loops that are run."""
    full = _outer(m)
    beats = sum(dram_beats(m).values()) + m.layer.n * m.layer.m * m.layer.p * m.layer.q // m.out_lanes
    size = max(int(_passes(m).sum()), beats)
    counts = dict(full)
    while size > LARGEST:
        name = max(counts, key=lambda loop: counts[loop])
        if counts[name] <= _FEWEST:
            break
        fitting = max(_FEWEST, counts[name] * LARGEST // size)
        size = size * fitting // counts[name]
        counts[name] = fitting
    return counts


@functools.lru_cache(maxsize=4096)
def _measured(m: Mapping) -> tuple[int, ...]:
    """Run a mapping on the timing model; cycles by part between start tokens and the last response."""
    full, counts = _outer(m), _chosen(m)
    part = _smaller(m, counts)
    place, steps = MemoryMap.of(part), _passes(part)
    marks = np.concatenate([[0], np.cumsum(steps.ravel())[:-1]])
    seen = run(
        m.config,
        streams(m.config, nests(part, place), subscriptions(part)),
        marks,
        read_latency=MEMORY_LATENCY,
        write_latency=WRITE_LATENCY,
    )
    # a pass stands for all those that are left out: of each loop, the iteration before the last one
    times = np.ones(steps.shape, np.int64)
    for axis, name in enumerate(full):
        if counts[name] < full[name]:
            repeated = [slice(None)] * len(full)
            repeated[axis] = slice(counts[name] - 2, counts[name] - 1)
            times[tuple(repeated)] *= 1 + full[name] - counts[name]
    total = seen[0] + (np.diff(seen, axis=0) * times.reshape(-1, 1)).sum(axis=0)
    return tuple(map(int, total))


def predict_parts(m: Mapping) -> dict[str, int]:
    """Predict the cycles of a mapping by part."""
    parts = dict(zip(PARTS, _measured(m), strict=True))
    return {**parts, "config": _config_cycles(m), "drain": parts["drain"] + _AT_END}


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


@functools.lru_cache(maxsize=64)
def _program_words(config: ArchConfig, requant: bool) -> int:
    """Words of a layer's program: every field of every engine and PE is written."""
    from rowmesh.hw.top import descriptors

    layouts = descriptors(config)
    used = [layout for engine, layout in layouts.items() if requant or engine is not Engine.LOAD_PARAM]
    array = config.rows * (config.cols * 2 + 4 + 2)  # PEs and taps of a row: two runs of addresses with a header each
    empty = len(Program().words)
    return empty + array + sum(len(Program().write(0, layout.encode([], {}, {})).words) - empty for layout in used) + 3


def _config_cycles(m: Mapping) -> int:
    """Cycles of the program: two reads' latency, then a word a cycle, and its settling."""
    a = m.config
    words = _program_words(a, m.layer.output == "requant")
    fetched = fetch_beats(a) * a.beat_bytes // 4
    request = ReadArbiter.latency + MEMORY_LATENCY + ReadArbiter.data_latency
    first = CommandProcessor.latency + request + 4
    return first + max(fetched, request + CommandProcessor.length_latency) + max(0, words - fetched) + SETTLE_CYCLES
