"""The mapper: enumerates the mappings that the dataflows allow and keeps the one that the model predicts to be best."""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.counts import access_counts
from rowmesh.sw.dataflow import Dataflow, load_dataflow
from rowmesh.sw.energy import energy
from rowmesh.sw.estimate import estimate
from rowmesh.sw.files import InputError
from rowmesh.sw.mapping import IllegalMappingError, Mapping, ceil_div
from rowmesh.sw.model import COARSE, predict_parts, work
from rowmesh.sw.tensors import TensorLayout, storage_bits
from rowmesh.sw.workload import Layer

__all__ = ["Objective", "UnmappableError", "candidates", "find_mapping", "flattened"]

Objective = Literal["cycles", "energy", "edp"]
Factors = dict[str, Any]


class UnmappableError(InputError):
    """No mapping of the layer exists on this architecture; the message gives the rule that the last ones broke."""


def _divisors(value: int, limit: int) -> list[int]:
    return [d for d in range(1, min(value, limit) + 1) if value % d == 0]


def _tiles(size: int) -> list[int]:
    """Sizes that split a dimension into 1, 2, 3 ... tiles as evenly as possible."""
    sizes: list[int] = []
    for count in range(1, size + 1):
        tile = ceil_div(size, count)
        if not sizes or tile < sizes[-1]:
            sizes.append(tile)
        if len(sizes) >= 12:
            break
    return sizes


def _even(size: int, limit: int) -> list[int]:
    """As many of a dimension as fit an axis, spread evenly, and one."""
    most = min(size, limit)
    return sorted({1, most, ceil_div(size, ceil_div(size, most)), *_divisors(size, limit)[-2:]}, reverse=True)


class _Space:
    """The mapspace of a layer on an architecture under one dataflow."""

    def __init__(self, config: ArchConfig, layer: Layer, flow: Dataflow) -> None:
        self.config, self.layer, self.flow = config, layer, flow
        self.m, self.c = layer.m // layer.groups, layer.c // layer.groups
        self.planar = TensorLayout(layer.n, layer.c, layer.h, layer.w, config.data_width, config.beat_bytes).planar
        self.window = (layer.s - 1) * layer.dilation[1] + 1
        self.stride = layer.stride[1] if self.planar else min(layer.stride[1], self.window)

    def factors(self) -> Iterator[Factors]:
        """Yield every set of factors worth a look; most of what the hardware cannot run is left out."""
        flow = self.flow
        for stationary, rows in itertools.product(flow.stationary, self._rows()):
            for c0 in _divisors(self.c, self.config.iact_spad):
                if not flow.allows("pe", "C", c0, self.c):
                    continue
                if rows["g_y"] * rows["g0"] > 1 and c0 != self.c:
                    continue
                chains = rows["p_y"] * rows["m_y"] * rows["g_y"]
                for c_s in self._chain(self.config.rows // (chains * rows["r_s"]), c0, rows["g_y"] * rows["g0"]):
                    for columns in self._columns(stationary, c0 * rows["r0"] * rows["g0"], rows):
                        ports = self._ports(rows, c0, c_s)
                        base = {**rows, **columns, "stationary": stationary, "c0": c0, "c_s": c_s, "ports": ports}
                        yield from self._filters(base)

    def _rows(self) -> Iterator[Factors]:
        """What is along the rows beside channels: filter rows of a chain (or in the PE), or chains of their own."""
        a, x, allowed = self.config, self.layer, self.flow.rows
        for r_s, r0 in sorted({(1, 1), (x.r, 1), (1, x.r)}, reverse=True):
            if r_s > 1 and ("R" not in allowed or r_s > a.rows):
                continue
            if not self.flow.allows("rows", "R", r_s, x.r) or not self.flow.allows("pe", "R", r0, x.r):
                continue
            if r0 > 1 and (x.dilation[0] > 1 or self.planar):
                continue
            none = {"r_s": r_s, "r0": r0, "p_y": 1, "m_y": 1, "g_y": 1, "g0": 1}
            yield none
            if r_s > 1:
                continue
            depthwise = self.m == self.c == 1 < x.groups
            for g0 in _divisors(x.groups, min(a.iact_spad, a.psum_spad)) if depthwise else [1]:
                if g0 > 1:
                    yield none | {"g0": g0}
                yield from self._chains(none | {"g0": g0})

    def _chains(self, none: Factors) -> Iterator[Factors]:
        a, x, allowed = self.config, self.layer, self.flow.rows
        for name, dimension, values in (
            ("p_y", "P", _even(x.p, a.rows)),
            ("m_y", "M", _divisors(self.m, a.rows)),
            ("g_y", "G", _divisors(x.groups // none["g0"], a.rows) if self.m == 1 else []),
        ):
            if dimension not in allowed:
                continue
            for value in values:
                size = {"P": x.p, "M": self.m, "G": x.groups}[dimension]
                if value > 1 and self.flow.allows("rows", dimension, value, size):
                    yield none | {name: value}

    def _ports(self, rows: Factors, c0: int, c_s: int) -> int:
        """Groups of rows that ports of their own feed: as many as there are, where each can have its share."""
        ports, lanes = self.config.ports, self.config.flit_words
        chains = rows["m_y"] * rows["g_y"]
        words = rows["g_y"] * rows["g0"] * self.c if rows["g_y"] > 1 else c_s * c0
        whole = self.planar or rows["m_y"] > 1 or words % (ports * lanes) == 0 or self.config.iact_ports == 1
        shared = (c_s if chains == 1 else chains) % ports == 0 and rows["p_y"] == 1
        return ports if shared and whole and self.c % (c_s * c0) == 0 else 1

    def _chain(self, most: int, c0: int, groups_at_once: int) -> list[int]:
        """Channel groups along a chain: as many as fit, or a divisor near that."""
        groups = self.c // c0
        most = min(most, groups)
        if "C" not in self.flow.rows or groups_at_once > 1:
            most = min(most, 1)
        if most < 1:
            return []
        sizes = sorted({most, *(d for d in _divisors(groups, most) if 2 * d > most)}, reverse=True)
        return [size for size in sizes if self.flow.allows("rows", "C", size, self.c)]

    def _columns(self, stationary: str, words: int, rows: Factors) -> Iterator[Factors]:
        """What is across the columns, and the output columns of a PE; ``words`` are those of one iact column."""
        a, x, allowed = self.config, self.layer, self.flow.columns
        longest = x.q
        if stationary != "weight":
            room = (a.iact_spad // words - self.window) // self.stride + 1
            longest = min(x.q, room, a.psum_spad)
        parts = _divisors(x.q, longest) if "Q" in allowed and not self.planar else []
        for q in parts:
            whole = x.q // q
            for q_x in sorted({min(whole, a.cols), *(d for d in _divisors(whole, a.cols) if 4 * d >= a.cols)}):
                if q_x > 1 and self.flow.allows("pe", "Q", q, x.q) and self.flow.allows("columns", "Q", q_x, x.q):
                    yield from self._across({"p_x": 1, "q_x": q_x, "q0": q * q_x}, q_x)
        tiles = _tiles(x.q) if stationary == "weight" else sorted({*_tiles(x.q), *_divisors(x.q, longest), longest})
        tiles = [q for q in tiles if 0 < q <= longest]
        one = self.flow.factors.get(("pe", "Q"))
        if one is not None and not one.most and one.value:
            tiles = [min(one.value, x.q)]
        p_values = _even(x.p, a.cols) if "P" in allowed and rows["p_y"] == 1 else [1]
        for p_x in p_values:
            if not self.flow.allows("columns", "P", p_x, x.p):
                continue
            for q in tiles:
                if self.flow.allows("pe", "Q", q, x.q):
                    yield from self._across({"p_x": p_x, "q_x": 1, "q0": q}, p_x)

    def _across(self, base: Factors, inner: int) -> Iterator[Factors]:
        """Filter groups beside the rest across the columns."""
        most = self.config.cols // inner if "M" in self.flow.columns else 1
        sizes = {1, most}
        if inner == 1:
            sizes |= set(_divisors(self.m, most))
        for m_x in sorted(sizes):
            if m_x <= self.m and self.flow.allows("columns", "M", m_x, self.m):
                yield base | {"m_x": m_x}

    def _filters(self, f: Factors) -> Iterator[Factors]:
        """Filters of a PE, row steps of a tile, and whether iacts stay in the global buffer."""
        a, x = self.config, self.layer
        tap = x.s * f["r0"] * f["c0"]
        q = f["q0"] // f["q_x"]
        patched = f["stationary"] != "weight"
        most = min(a.psum_spad // (q if patched else 1), a.weight_spad // tap) // f["g0"]
        if tap > a.weight_spad or most < 1:
            return
        column = self.m // f["m_y"] if self.m % f["m_y"] == 0 else 0
        for m0 in _divisors(column, most):
            if not self.flow.allows("pe", "M", m0, self.m):
                continue
            if f["m_x"] * m0 * f["m_y"] > self.m and f["m_x"] > 1:
                continue
            depth = a.psum_bank_words // (q * m0 * f["m_y"] * f["g_y"] * f["g0"] * f["p_y"])
            if depth < 1:
                continue
            times = [1]
            if f["stationary"] == "iact":
                fitting = _divisors(column // m0, depth)
                times = sorted({1, fitting[-1]})
            for m1 in times:
                steps = ceil_div(x.p, f["p_x"] * f["p_y"])
                fitting = a.psum_spad // (q * m0 * f["g0"]) if f["stationary"] == "psum" else depth
                rows = {1} if f["stationary"] == "iact" or f["p_y"] > 1 else {1, min(steps, depth, fitting)}
                for p0 in sorted(rows):
                    if not self.flow.allows("pe", "P", p0, x.p):
                        continue
                    for resident in (False, True) if self.m > m0 * m1 * f["m_y"] * f["m_x"] else (False,):
                        yield f | {"m0": m0, "m1": m1, "p0": p0, "resident": resident}

    def steps(self, f: Factors) -> int:
        """Steps of a candidate: a lower bound of its cycles."""
        x = self.layer
        filters = f["m_x"] * f["m0"] * f["m_y"] * f["m1"]
        tiles = (
            x.n * (x.groups // (f["g_y"] * f["g0"])) * ceil_div(self.m, filters) * ceil_div(self.c, f["c_s"] * f["c0"])
        )
        q = f["q0"] // f["q_x"] * ceil_div(x.q, f["q0"]) if f["q_x"] > 1 else x.q
        inner = ceil_div(x.p, f["p_x"] * f["p_y"]) * q * x.s * f["r0"] * f["c0"] * f["m0"] * f["g0"] * f["m1"]
        return int(tiles * (x.r // (f["r_s"] * f["r0"])) * inner)


def flattened(config: ArchConfig, layer: Layer) -> list[Layer]:
    """Return the layer with its plane as a single row, where that is the same: pixels in memory follow one another."""
    if (layer.r, layer.s, layer.stride, layer.padding) != (1, 1, (1, 1), (0, 0, 0, 0)) or layer.h == 1:
        return []
    bits = config.data_width if layer.output == "requant" else storage_bits(config.acc_width)
    for channels, width in ((layer.c, config.data_width), (layer.m, bits)):
        if TensorLayout(layer.n, channels, layer.h, layer.w, width, config.beat_bytes).planar:
            return []
    return [layer.as_row()]


def candidates(
    config: ArchConfig, layer: Layer, flows: Sequence[Dataflow], reasons: dict[str, int] | None = None
) -> Iterator[tuple[int, Mapping]]:
    """Yield every legal mapping of the enumerated space with its steps, the fewest steps first.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : sequence of Dataflow
        Constraints; the mappings of all of them.
    reasons : dict, optional
        Counts how many candidates broke each rule.
    """
    space: list[tuple[int, int, str, int, Factors]] = []
    shapes = [layer, *flattened(config, layer)]
    for flow, (shape, one) in itertools.product(flows, enumerate(shapes)):
        found = _Space(config, one, flow)
        space += [
            (found.steps(f), len(space) + number, flow.name, shape, f) for number, f in enumerate(found.factors())
        ]
    for steps, _, name, shape, factors in sorted(space, key=lambda entry: entry[:2]):
        try:
            yield steps, Mapping(config=config, layer=shapes[shape], dataflow=name, **factors)
        except IllegalMappingError as error:
            if reasons is not None:
                reasons[str(error)] = reasons.get(str(error), 0) + 1


_CLOSE = 1.002
"""Mappings within this factor of the best are told apart by the other quantity: energy or cycles."""

_PROMISING = 1.15
"""Mappings whose estimate is within this factor of the best one are candidates for a prediction."""

_WORK = 200_000
"""Steps that the predictions of a search may run."""

_MOST, _LEAST = 16, 3
"""Mappings that are predicted."""

_SPREAD, _COMPARED, _LEAST_ENERGY = 0.01, 2000, 6
"""Of mappings whose estimates are within 1 % of the best ones', and no more than so many, those of the least energy are
predicted as well."""


def _default() -> tuple[Dataflow, ...]:
    return (load_dataflow("rs"),)


@functools.lru_cache(maxsize=1024)
def find_mapping(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective = "cycles",
) -> Mapping:
    """Find the best mapping of a layer.

    Every legal mapping is estimated in closed form (:mod:`rowmesh.sw.estimate`); with the objective ``cycles`` only
    those whose steps, a lower bound, can still be promising. The cycles of the best ones are then predicted
    (:mod:`rowmesh.sw.model`), and the best of these is taken; where some are within 0.2 %, the one of least energy
    (with the objective ``cycles``).

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : tuple of Dataflow, optional
        Dataflows to choose from; row stationary by default.
    objective : {"cycles", "energy", "edp"}

    Raises
    ------
    UnmappableError
        If there is none.
    """
    flows = flows or _default()
    reasons: dict[str, int] = {}
    found: list[tuple[float, int, Mapping]] = []
    best: float | None = None
    for steps, mapping in candidates(config, layer, flows, reasons):
        if objective == "cycles" and best is not None and steps > best * _PROMISING:
            break
        cost = _cost(objective, estimate(mapping), mapping)
        if best is None or cost <= best * _PROMISING:
            found.append((cost, len(found), mapping))
            best = cost if best is None else min(best, cost)
    if best is None:
        rule = max(reasons, key=lambda reason: reasons[reason]) if reasons else "no factorisation exists"
        names = ", ".join(flow.name for flow in flows)
        raise UnmappableError(f"layer {layer.name}: no mapping ({names}) fits {config.name}: {rule}")
    promising = sorted(entry for entry in found if entry[0] <= best * _PROMISING)
    effort = list(itertools.accumulate(work(entry[2], COARSE) for entry in promising))
    tried = [entry for k, entry in enumerate(promising[:_MOST]) if k < _LEAST or effort[k] <= _WORK]
    costs = [
        _cost(objective, spent, mapping)
        for spent, (_, _, mapping) in zip(_cycles([entry[2] for entry in tried]), tried, strict=True)
    ]
    least = min(costs)
    close = [entry for entry, cost in zip(tried, costs, strict=True) if cost <= least * _CLOSE]
    if objective != "cycles":
        return close[0][2]
    # the least energy among those about as fast, starting with the least of all
    chosen = min(close, key=lambda entry: _energy(entry[2]))
    limit = max(entry[0] for entry in close) * (1 + _SPREAD)
    cheaper = [
        (spent, entry[1], entry[2])
        for entry in itertools.takewhile(lambda entry: entry[0] <= limit, promising[:_COMPARED])
        if (spent := _energy(entry[2])) < _energy(chosen[2])
    ]
    cheapest = [entry[2] for entry in sorted(cheaper)[:_LEAST_ENERGY]]
    together = os.cpu_count() or 1
    for first in range(0, len(cheapest), together):
        some = cheapest[first : first + together]
        for mapping, cycles in zip(some, _cycles(some), strict=True):
            if cycles <= least * _CLOSE:
                return mapping
    return chosen[2]


def _cycles(mappings: Sequence[Mapping]) -> list[int]:
    """Predict the cycles of mappings, roughly."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the timing model runs without the interpreter's lock
        return list(pool.map(lambda mapping: sum(predict_parts(mapping, COARSE).values()), mappings))


def _energy(mapping: Mapping) -> float:
    return energy(access_counts(mapping))


def _cost(objective: Objective, cycles: int, mapping: Mapping) -> float:
    """What a search minimises."""
    if objective == "cycles":
        return cycles
    spent = _energy(mapping)
    return spent if objective == "energy" else spent * cycles
