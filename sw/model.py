"""The analytical model: cycles of a mapping by part, in closed form.

Inputs are the configuration, the layer and the mapping; latencies come from the components' own ``latency``.
"""

from dataclasses import dataclass

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.counts import access_counts, dram_beats
from rowmesh.sw.mapping import Mapping, ceil_div
from rowmesh.sw.results import Prediction

__all__ = ["Rates", "predict", "rates"]

MEMORY_LATENCY = 100
"""Default cycles from a read request to its first beat."""


@dataclass(frozen=True)
class Rates:
    """Busy cycles of each engine for one full pass (pt, qt, mt, ct, rt fixed) and one full tile."""

    steps: int
    iact_flits: int
    iact_row_words: int
    weight_flits: int
    weight_row_words: int
    dma: float
    psums: int
    drain: int
    store: int


def rates(m: Mapping) -> Rates:
    """Cycles that each engine needs for a full pass or tile of a mapping."""
    x, k = m.layer, m.lanes
    q0 = min(m.q0, x.q)
    rows = (m.p_x - 1) * x.stride[0] + m.height if m.diagonal else m.p_x * m.r_s
    columns = (q0 - 1) * m.stride[1] + m.window
    rounds = m.tile_beats if m.planar else columns
    flits = m.p0 * rounds * rows * m.blocks
    row_words = m.p0 * columns * m.c0 * m.p_x
    weight_flits = ceil_div(m.weights, k) * m.m_x * m.chain
    beats = dram_beats(m)
    passes = x.n * x.groups * m.pt * m.qt * m.mt * m.ct * m.r_t
    lanes = m.config.lanes
    groups = ceil_div(m.p_x, lanes) * m.m_x if m.p_x > 1 else ceil_div(m.m_x, lanes)
    blocks = ceil_div(m.m0, m.out_lanes)
    return Rates(
        steps=m.p0 * q0 * x.s * m.c0 * m.m0,
        iact_flits=flits,
        iact_row_words=row_words,
        weight_flits=weight_flits,
        weight_row_words=m.weights * m.m_x,
        dma=sum(beats.values()) / passes,
        psums=m.p0 * q0 * m.m0,
        drain=m.p0 * groups * q0 * m.m0,
        store=m.p0 * m.columns * q0 * blocks,
    )


def _pass_stall(m: Mapping) -> float:
    """Cycles between two passes in which PEs wait for weights or for the first window of a row."""
    a = m.config
    weights, spare = m.weights, a.weight_spad - m.weights
    ratio = max(1.0, m.m_x * m.chain / m.lanes, m.m_x)
    late = max(0, weights - spare) * ratio - 2 * weights + 40 if weights > spare else 0
    return max(0.0, late)


def _row_stall(m: Mapping) -> float:
    """Cycles at the end of a row in which PEs wait for the next row's first window."""
    r = rates(m)
    q0 = min(m.q0, m.layer.q)
    rounds = m.tile_beats if m.planar else (q0 - 1) * m.stride[1] + m.window
    cost = max(r.iact_flits, r.iact_row_words) / m.p0 / rounds
    unit = m.lanes if m.planar else 1
    ahead = (m.config.iact_spad - m.window * m.c0) // (unit * m.c0)
    rest = ceil_div(m.window, unit) - ahead
    tap = m.c0 * m.m0
    return max(0.0, tap + rest * cost + 40 - (2 * m.layer.s - 1) * tap)


def predict(m: Mapping, config: ArchConfig | None = None) -> Prediction:
    """Predict cycles by part and all access counts of a mapping."""
    del config
    x, r = m.layer, rates(m)
    steps = x.n * x.groups * m.pt * m.mt * m.ct * m.r_t * m.p0 * x.q * x.s * m.c0 * m.m0
    passes = x.n * x.groups * m.pt * m.qt * m.mt * m.ct * m.r_t
    per_pass = max(
        r.steps + _pass_stall(m) + m.p0 * _row_stall(m),
        r.iact_flits,
        r.iact_row_words,
        r.weight_flits,
        r.weight_row_words,
        r.dma,
    )
    per_tile = max(per_pass * m.ct * m.r_t, r.drain, r.store)
    tiles = passes // (m.ct * m.r_t)
    body = int(tiles * per_tile)
    parts = {
        "config": 1000,
        "fill": MEMORY_LATENCY + 60,
        "compute": steps,
        "noc": max(0, body - steps),
        "dma": m.slice_flits,
        "psum": 0,
        "drain": r.drain + 100,
    }
    return Prediction(cycles=sum(parts.values()), parts=parts, accesses=access_counts(m))
