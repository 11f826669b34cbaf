"""Random legal mappings of random layers: any point of the mapspace, not the one that a search would choose.

A drawing begins with a layer of any kind and, on a mesh, a split over its clusters. Factors, orders and flags are then
drawn independently, by the thousand; those that break a rule are dropped. Of a handful of what is left, the mapping is
taken whose rarest feature has been drawn the fewest times, so that nothing legal stays undrawn for being improbable.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
from pydantic import ValidationError

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import LINKS
from rowmesh.sw.inputs.yaml import shipped_names
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError
from rowmesh.sw.mapping.dataflow import Dataflow, load_dataflow
from rowmesh.sw.mapping.layer import LayerMapping, Splits, mode_of, replications
from rowmesh.sw.mapping.orders import Order
from rowmesh.sw.program.assemble import beyond_limits, compile_layers, memory_map
from rowmesh.sw.program.deadlock import DeadlockError
from rowmesh.sw.search.evaluate import FACTORS, FLAGS, Ints, evaluate, order_number
from rowmesh.sw.search.pool import ways_of
from rowmesh.sw.search.space import Space
from rowmesh.sw.workload.layer import KINDS, Layer

__all__ = ["Drawn", "by_turns", "features", "random_layer"]

_ROWS = 6000
"""Sets of factors that are drawn for a layer."""

_COMPARED = 12
"""Legal ones of them that are compared for the rarest feature: some at random, and some with the rarest factors."""

_MOST_CYCLES = 12_000
"""Estimated cycles of a mapping, at most."""

_MOST_MACS = 300_000
"""Multiply-accumulates of a layer, at most."""


def _every_order() -> tuple[Order, ...]:
    """Return every order of loops within a PE."""
    found = []
    for outer, inner in itertools.product(("", "M", "QC"), itertools.permutations("QSRC")):
        try:
            found.append(Order(f"{outer}{''.join(inner)}M"))
        except ValueError:
            continue
    return tuple(found)


_ORDERS = _every_order()
_STAYS = tuple(dict.fromkeys(order.stays for order in _ORDERS))
_LOOPS = "loops "
_INNER = tuple(dict.fromkeys(order.inner for order in _ORDERS))

_NONE = Dataflow(
    "any",
    "no constraint",
    frozenset("CRPMG"),
    frozenset("MPQ"),
    _ORDERS,
    m_outer=(False, True),
)

_DIMENSIONS = {
    "c_s": ("rows", "C"),
    "p_y": ("rows", "P"),
    "m_y": ("rows", "M"),
    "g_y": ("rows", "G"),
    "p_x": ("columns", "P"),
    "m_x": ("columns", "M"),
    "q_x": ("columns", "Q"),
    "c0": ("pe", "C"),
    "m0": ("pe", "M"),
    "q0": ("pe", "Q"),
    "p0": ("pe", "P"),
    "n0": ("pe", "N"),
}
"""Where a dataflow's constraints speak of a factor; ``q0`` is here that of a PE."""


# ---------------------------------------------------------------------------------------------------- features


def _of_layer(x: Layer) -> dict[str, bool]:
    window = x.r * x.s > 1
    return {
        **{f"kind {kind}": x.kind == kind for kind in KINDS},
        **{f"output {output}": x.output == output for output in ("raw", "requant")},
        "batch": x.n > 1,
        "grouped convolution": x.kind == "conv" and x.groups > 1,
        "stride y": x.stride[0] > 1 and x.p > 1,
        "stride x": x.stride[1] > 1 and x.q > 1,
        "stride beyond the window": window and x.q > 1 and x.stride[1] > (x.s - 1) * x.dilation[1] + 1,
        "dilation y": x.dilation[0] > 1 and x.r > 1,
        "dilation x": x.dilation[1] > 1 and x.s > 1,
        "padding": any(x.padding),
        "asymmetric padding": x.padding[0] != x.padding[2] or x.padding[1] != x.padding[3],
        "input columns that no filter touches": (x.w + x.padding[1] + x.padding[3] - x.s) % x.stride[1] > 0,
    }


def _of_cluster(m: ClusterMapping) -> dict[str, bool]:
    factors = {f"{name} > 1": getattr(m, name) > 1 for name in FACTORS if name not in (*FLAGS, "order")}
    inner = m.columns // max(1, m.m_x)
    return {
        **factors,
        **{f"order {stays}": m.order.stays == stays for stays in _STAYS},
        **{f"{_LOOPS}{inner}": m.order.inner == inner for inner in _INNER},
        **{name: bool(getattr(m, name)) for name in FLAGS},
        **{f"several tiles {name}": count > 1 for name, count in m.tiles.items()},
        "several tiles ct": m.ct > 1,
        "several passes of filter rows": m.r_t > 1,
        "slices in passes": m.r_d * m.s_d > 1 and m.r_t * m.s_t > 1,
        "slices that stay": m.r_d * m.s_d > 1 and m.resident,
        "thin last filter tile": m.mt > 1 and m.m_x_rest < m.m_x,
        "filter tile beyond the filters": m.mt == 1 and m.m_x_rest < m.m_x,
        "ragged channels": m.ct > 1 and m.c_rest < m.pass_channels,
        "ragged columns": m.qt > 1 and m.q_rest < m.q0,
        "ragged parts of columns": m.q_x > 1 and m.q_x_rest < m.q_x,
        "ragged blocks": m.q_blocks > 1 and m.q_block_rest < m.q_block,
        "ragged row tiles": m.pt > 1 and m.p0_rest < m.p0,
        "ragged rows": m.p_rest < m.p_n,
        "all of it ragged": m.p_rest < m.p_n and m.qt > 1 and m.q_rest < m.q0 and (m.ct > 1 or m.mt > 1),
        "idle rows": m.chains * m.chain < m.config.rows,
        "idle columns": m.columns < m.config.cols,
        "packed iacts": m.planar,
        "packed ofmap": m.ofmap_layout.planar,
        "columns fill beats together": m.merged > 1,
        "begins with a part": m.part > 0,
        "filters beside rows or columns": m.m_x > 1 and inner > 1,
        "weights stay": m.weights_stay,
        "channel groups along several chains": m.chains > 1 and m.c_s > 1,
    }


def _of_mesh(m: LayerMapping) -> dict[str, bool]:
    splits = {f"{f.name} of clusters > 1": getattr(m.splits, f.name) > 1 for f in fields(Splits)}
    s, a = m.splits, m.config
    return {
        **splits,
        **{
            f"{operand} {mode_of(same, a.mesh_rows, a.mesh_cols)}": s.replicated(operand) == same and s.clusters > 1
            for operand in LINKS
            for same in replications(operand, a.mesh_rows, a.mesh_cols)
        },
        "idle clusters": s.rows * s.cols < a.clusters,
        "several sets": m.sets.rows * m.sets.cols > 1,
        "clusters' filters in several tiles": s.filter_parts > 1 and m.cluster.mt > 1,
        "clusters' groups in several tiles": s.g_y * s.g_x > 1 and m.cluster.g_t > 1,
    }


def features(m: LayerMapping) -> dict[str, bool]:
    """Return all that a mapping can have, and whether this one has it."""
    return _of_layer(m.layer) | _of_cluster(m.cluster) | (_of_mesh(m) if m.config.clusters > 1 else {})


# ------------------------------------------------------------------------------------------------------ layers


def random_layer(rng: random.Random, name: str, kind: str | None = None) -> Layer:
    """Draw a layer: small, of any kind or a given one, and often with sizes that nothing divides."""
    while True:
        try:
            layer = _layer(rng, name, kind or rng.choice((*KINDS, "conv", "conv")))
        except ValidationError:
            continue  # a filter beyond the padded input
        if layer.macs <= _MOST_MACS:
            return layer


def _layer(rng: random.Random, name: str, kind: str) -> Layer:
    pick = rng.choice
    c, m = (pick((4, 8, 12, 16, 24, 32, 48, 64)) if rng.random() < 0.7 else rng.randint(1, 37) for _ in range(2))
    h, w = rng.randint(1, 12), rng.randint(1, 18)
    layer = {"name": name, "kind": kind, "C": c, "H": h, "W": w, "output": pick(("raw", "requant"))}
    if kind == "matmul":
        sizes = {"M": rng.randint(1, 30), "N": m, "K": c}
        return Layer.model_validate({"name": name, "kind": kind, "output": layer["output"]} | sizes)
    if kind == "fc":
        return Layer.model_validate(layer | {"N": pick((1, 2, 4, 6)), "M": m, "H": pick((1, 1, 2, 3)), "W": 1})
    if kind == "add":
        return Layer.model_validate(layer)
    r, s = pick((1, 1, 2, 3, 4)), pick((1, 1, 2, 3, 5))
    dilation = [pick((1, 1, 1, 2)), pick((1, 1, 1, 2))]
    padding = [0, 0, 0, 0] if rng.random() < 0.3 else [rng.randint(0, size - 1) for size in (r, s, r, s)]
    layer |= {"N": pick((1, 1, 2, 3, 4)), "R": r, "S": s, "padding": padding}
    layer["stride"] = [pick((1, 1, 2, 3)), pick((1, 1, 1, 2, 3))]
    if kind == "conv":
        layer |= {"M": m, "dilation": dilation}
        if rng.random() < 0.35:
            groups = pick((2, 3, 4))
            layer |= {"groups": groups, "C": pick((1, 2, 4, 8, 16)) * groups, "M": pick((1, 2, 4, 8, 12, 24)) * groups}
    elif kind == "depthwise":
        layer |= {"dilation": dilation} | ({"M": 2 * c} if rng.random() < 0.3 else {})
    return Layer.model_validate(layer)


# ----------------------------------------------------------------------------------------------------- factors


def _divisors(value: int) -> list[int]:
    return [d for d in range(1, value + 1) if value % d == 0]


def _proposals(config: ArchConfig, x: Layer, flow: Dataflow, rng: np.random.Generator) -> Ints:
    """Draw rows of factors under a dataflow; most of them break a rule."""
    m, c, g = x.m // x.groups, x.c // x.groups, x.groups
    a, one = config, np.ones(_ROWS, np.int64)

    def chance(share: float) -> np.ndarray:
        return rng.random(_ROWS) < share

    def draw(name: str, values: list[int], size: int, share: float) -> Ints:
        """Draw one of the values with a chance, else 1; only what the dataflow allows."""
        target, dimension = _DIMENSIONS[name]
        spread = {"rows": flow.rows, "columns": flow.columns}.get(target)
        if spread is not None and dimension not in spread:
            return one
        legal = [value for value in values if flow.allows(target, dimension, value, size)]
        if not legal:
            return one
        return np.where(chance(share) | (1 not in legal), rng.choice(legal, _ROWS), 1)

    def upto(most: int) -> list[int]:
        return list(range(1, max(1, most) + 1))

    f: dict[str, Ints] = {}
    alike = Counter(one.stays for one in flow.orders)
    shares = [1 / alike[one.stays] / len(alike) for one in flow.orders]
    order = rng.choice(len(flow.orders), _ROWS, p=shares)
    f["order"] = np.array([order_number(one) for one in flow.orders])[order]
    blocks = np.array([one.blocks for one in flow.orders])[order]
    sets = np.array([one.sets for one in flow.orders])[order]
    in_chain = chance(0.4) if x.r <= a.rows and "R" in flow.rows else chance(0)
    f["r_s"] = np.where(in_chain, x.r, 1)
    f["r0"] = np.where(~in_chain & chance(0.5), x.r, 1)
    f["c0"] = draw("c0", _divisors(c), c, 0.8)
    f["c_s"] = draw("c_s", upto(min(c, a.rows)), c, 0.5)
    f["c1"] = np.where(blocks, rng.choice(_divisors(c), _ROWS), 1)
    f["p_x"] = draw("p_x", upto(min(x.p, a.cols)), x.p, 0.4)
    f["q_x"] = draw("q_x", upto(min(x.q, a.cols)), x.q, 0.3)
    f["m_x"] = draw("m_x", upto(min(m, a.cols)), m, 0.5)
    # at most one of the dimensions along the rows
    along = rng.integers(0, 5, _ROWS)
    f["p_y"] = np.where(along == 0, draw("p_y", upto(min(x.p, a.rows)), x.p, 1), 1)
    f["m_y"] = np.where(along == 1, draw("m_y", [d for d in _divisors(m) if d <= a.rows], m, 1), 1)
    grouped = m == 1
    f["g_y"] = np.where(along == 2, draw("g_y", [d for d in _divisors(g) if d <= a.rows], g, 1), 1) if grouped else one
    f["g0"] = np.where(chance(0.5), rng.choice(_divisors(g), _ROWS), 1) if grouped and c == 1 else one
    if grouped:  # several groups at once need all of one in a PE
        several = f["g_y"] * f["g0"] > 1
        f["c0"] = np.where(several, c, f["c0"])
    f["m0"] = draw("m0", _divisors(m), m, 0.7)
    f["m1"] = np.where(sets & chance(0.6), rng.choice(_divisors(m), _ROWS), 1)
    # output columns of a PE, all of them often
    f["q0"] = np.where(chance(0.3) & flow.allows("pe", "Q", x.q, x.q), x.q, draw("q0", upto(x.q), x.q, 0.9)) * f["q_x"]
    f["q0"] = np.minimum(f["q0"], x.q)
    f["q1"] = np.where(blocks, np.where(chance(0.5), f["q0"], rng.integers(1, f["q0"] + 1)), 1)
    f["p0"] = draw("p0", upto(x.p), x.p, 0.5)
    f["n0"] = draw("n0", _divisors(x.n), x.n, 0.5)
    # filter rows and columns in parts; rows only in time
    f["s_t"] = np.where(chance(0.3), rng.choice(_divisors(x.s), _ROWS), 1)
    f["s_d"] = np.where(chance(0.3), rng.choice(_divisors(x.s), _ROWS), 1)
    f["r_d"] = np.where(chance(0.3) & (f["r_s"] * f["r0"] == 1), rng.choice(_divisors(x.r), _ROWS), 1)
    f["ports"] = np.where(chance(0.5), a.ports, 1)
    f["resident"] = chance(0.3).astype(np.int64)
    f["m_outer"] = rng.choice([int(outer) for outer in flow.m_outer], _ROWS)
    return np.column_stack([f[name] for name in FACTORS]).astype(np.int64)


class Drawn:
    """An endless sequence of legal mappings onto an architecture, and how often each feature has been drawn.

    Parameters
    ----------
    config : ArchConfig
        Of one array or a mesh.
    seed : int
    counts : Counter, optional
        Of features, shared with other sequences.

    Attributes
    ----------
    counts : Counter
    refused : Counter
        Mappings that pass the rules and are refused behind them, by the reason's first words.
    """

    def __init__(self, config: ArchConfig, seed: int, counts: Counter[str] | None = None) -> None:
        self.config = config
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.refused: Counter[str] = Counter()
        self._seed = seed
        self._random = random.Random(f"{config.name} {seed}")
        self._flows = [load_dataflow(name) for name in shipped_names("dataflows")]

    def __iter__(self) -> Iterator[LayerMapping]:
        number = 0
        while True:
            number += 1
            layer = random_layer(self._random, f"random{number}")
            flow = self._random.choice((_NONE, self._random.choice(self._flows)))
            found = self._legal(layer, flow, number)
            ranked = sorted(found, key=self._rarest)
            mapping = next(filter(self._runs, ranked), None)
            if mapping is not None:
                self.counts.update({name: int(has) for name, has in features(mapping).items()})
                yield mapping

    def _rarest(self, m: LayerMapping) -> int:
        """Return how often the rarest feature of a mapping has been drawn; loops are in random order as it is."""
        return min(self.counts[name] for name, has in features(m).items() if has and not name.startswith(_LOOPS))

    def _legal(self, layer: Layer, flow: Dataflow, number: int) -> list[LayerMapping]:
        """Draw some legal mappings of a layer."""
        ways, _ = ways_of(self.config, layer)
        several = [way for way in ways if way.splits.clusters > 1]
        if not ways:
            return []
        way, config = self._random.choice(several or ways), self.config.cluster
        rng = np.random.default_rng([self._seed, number, *self.config.name.encode()])
        rows = _proposals(config, way.parts[0], flow, rng)
        costs = evaluate(config, way.parts[0], rows)
        good = np.flatnonzero(costs.legal & (costs.cycles <= _MOST_CYCLES // (1 + (self.config.clusters > 1))))
        found: list[LayerMapping] = []
        good = rng.permutation(good)
        rare = good[np.argsort(self._rarity(rows[good]), kind="stable")]
        for row in dict.fromkeys([*rare[:_COMPARED], *good[:_COMPARED]]):
            try:
                found.append(way.mapping(Space(config, way.parts[0], flow), rows[row]))
            except IllegalMappingError:
                continue
        return found

    def _rarity(self, rows: Ints) -> Ints:
        """Return, for rows of factors, how often the rarest factor, flag or order of each has been drawn."""
        names = [f"{name} > 1" for name in FACTORS if name not in (*FLAGS, "order")]
        values = dict(zip(FACTORS, rows.T, strict=True))
        has = [values[name.split()[0]] > 1 for name in names]
        has += [values[name] > 0 for name in FLAGS]
        of_orders = {stays: [order_number(order) for order in _ORDERS if order.stays == stays] for stays in _STAYS}
        has += [np.isin(values["order"], numbers) for numbers in of_orders.values()]
        counts = [self.counts[name] for name in (*names, *FLAGS, *(f"order {stays}" for stays in of_orders))]
        return np.where(np.column_stack(has), counts, np.iinfo(np.int64).max).min(axis=1)

    def _runs(self, m: LayerMapping) -> bool:
        """Whether the nests have enough levels, and the deadlock check passes."""
        if beyond_limits(m):
            self.refused["loops"] += 1
            return False
        try:
            compile_layers([(m, memory_map(m))])
        except DeadlockError as error:
            self.refused[f"deadlock check: {str(error).split()[0]}"] += 1
            return False
        return True


def by_turns(configs: Sequence[ArchConfig], seed: int) -> Iterator[LayerMapping]:
    """Draw mappings onto some architectures, of each in turn."""
    counts: Counter[str] = Counter()
    for mappings in zip(*(Drawn(config, seed, counts) for config in configs), strict=True):
        yield from mappings
