"""What a search looks at, and the best that it has seen: ways to split a layer, their mapspaces, pools of mappings.

A layer is split over the clusters of a mesh in some way (of a single array there is one way); the mappings of a
cluster's part are evaluated in closed form, and counted for all clusters.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError
from rowmesh.sw.mapping.dataflow import Dataflow
from rowmesh.sw.mapping.layer import LayerMapping, Splits, parts_of, splits_of
from rowmesh.sw.mapping.rules import RULES
from rowmesh.sw.model.counts import spread
from rowmesh.sw.model.performance import ACCESSES
from rowmesh.sw.program.assemble import beyond_limits
from rowmesh.sw.search.evaluate import FACTORS, Ints, evaluate, factors_of
from rowmesh.sw.search.objective import Budget, Floats, Objective
from rowmesh.sw.search.space import WHOLE, Space, parts_of_filter
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import Lowered, lower

__all__ = ["Candidates", "Pool", "View", "Way", "bases_of", "candidates", "chunks", "look_at", "ways_of"]

_PROMISING = 1.15
"""Mappings whose estimate is within this factor of the best one are candidates for a prediction."""

_KEPT = 2000
"""Best mappings of each way that are kept while a search goes on."""

_LOOKED_AT = 60
"""Mappings of a way that may be refused in sequence, or else no more of it are looked at."""

_CHUNK = 256
"""Bases that are expanded at once."""

_READ = [ACCESSES.index(f"dram.{what}.read") for what in ("iact", "weight", "param")]
_STORED, _DRAINED = ACCESSES.index("dram.ofmap.write"), ACCESSES.index("glb.psum.drain")


@dataclass(frozen=True)
class Way:
    """A way to split a layer over the clusters of an architecture.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
        The whole layer, as the array runs it.
    splits : Splits
    lowered : Lowered, optional
        How it came from the workload's.
    """

    config: ArchConfig
    layer: Layer
    splits: Splits
    lowered: Lowered | None = None

    @cached_property
    def parts(self) -> tuple[Layer, ...]:
        """The clusters' parts of the layer that differ, the first cluster's first."""
        return tuple(parts_of(self.layer, self.splits))

    def words(self, of_parts: Sequence[Ints]) -> Ints:
        """Return the access counts of mappings, (mappings, ACCESSES), from those of each part."""
        places = parts_of(self.layer, self.splits).values()
        return sum(  # type: ignore[return-value]
            (words.astype(np.float64) @ spread(self.splits, of_part)).astype(np.int64)
            for words, of_part in zip(of_parts, places, strict=True)
        )

    def least(self, words: Ints) -> Floats:
        """Return the least cycles that the memory and the drain, which all clusters share, take for so many words."""
        moved = np.maximum(words[:, _READ].sum(axis=1), words[:, _STORED]) / self.config.flit_words
        return np.maximum(moved, words[:, _DRAINED] / self.config.all_lanes)

    def mapping(self, space: Space, row: Ints) -> LayerMapping:
        """Return the mapping of a row of factors.

        Raises
        ------
        IllegalMappingError
            If the mesh cannot run it.
        """
        config, flow, factors = self.config.cluster, space.flow.name, factors_of(row)
        own = ClusterMapping(config=config, layer=self.parts[0], dataflow=flow, within=self.layer, **factors)
        return LayerMapping(self.config, self.layer, self.splits, own, self.lowered)


def ways_of(config: ArchConfig, layer: Layer, lowered: Lowered | None = None) -> tuple[list[Way], str]:
    """Return every way to split a layer over an architecture, and why another one is none."""
    ways, reason = [], "no dimension can be split over its clusters"
    for splits in splits_of(config.mesh_rows, config.mesh_cols, layer):
        try:
            parts_of(layer, splits)
        except IllegalMappingError as error:
            reason = str(error)
            continue
        ways.append(Way(config, layer, splits, lowered))
    return ways, reason


@dataclass
class Pool:
    """The best mappings of a way that a search has seen."""

    way: Way
    objective: Objective
    config_cycles: int
    spaces: list[Space] = field(default_factory=list)
    rows: Ints = field(default_factory=lambda: np.zeros((0, len(FACTORS)), np.int64))
    of_space: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: Floats = field(default_factory=lambda: np.zeros((0, 2)))  # costs and steps
    energy: Floats = field(default_factory=lambda: np.zeros(0))
    estimates: dict[str, float] = field(default_factory=dict)
    """The least cost of each dataflow."""

    def take(self, space: Space, rows: Ints, steps: Ints, cycles: Ints, of_parts: Sequence[Ints]) -> None:
        """Keep the best of some mappings; access counts are those of each part of the way."""
        words = self.way.words(of_parts)
        cycles = np.maximum(cycles, np.ceil(self.way.least(words)).astype(np.int64))
        values = self.objective.costs(cycles + self.config_cycles, words)
        flow = space.flow.name
        self.estimates[flow] = min(float(values.min()), self.estimates.get(flow, math.inf))
        if len(self.keys) >= _KEPT:
            better = values < self.keys[-1, 0]
            if not better.any():
                return
            rows, steps, words, values = rows[better], steps[better], words[better], values[better]
        if space not in self.spaces:
            self.spaces.append(space)
        number = self.spaces.index(space)
        keys = np.concatenate([self.keys, np.stack([values, steps.astype(np.float64)], axis=1)])
        of_space = np.concatenate([self.of_space, np.full(len(rows), number)])
        energy = np.concatenate([self.energy, self.objective.energy(words)])
        rows = np.concatenate([self.rows, rows])
        order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
        # the same factors under several dataflows: the first one's
        _, first = np.unique(rows[order], axis=0, return_index=True)
        order = order[np.sort(first)][:_KEPT]
        self.keys, self.rows, self.of_space, self.energy = keys[order], rows[order], of_space[order], energy[order]


@dataclass
class View:
    """What a search has seen of the mapspaces that some ways have in common, because their parts are the same."""

    pools: list[Pool]
    visited: int = 0
    valid: int = 0
    broken: dict[int, tuple[int, Space, Ints]] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The parts of the layer that clusters work on."""
        return self.pools[0].way.parts

    def spaces(
        self, flows: Sequence[Dataflow], *, whole: bool, narrow: bool = False, in_parts: bool = False
    ) -> list[Space]:
        """Return the mapspaces of the first cluster's part; for the parameters see :class:`Space`.

        If ``in_parts``, they are those of filters in parts (:func:`rowmesh.sw.search.space.parts_of_filter`).
        """
        config, layer = self.pools[0].way.config.cluster, self.parts[0]
        parts = parts_of_filter(config, layer) if in_parts else [WHOLE]
        return [
            Space(config, layer, flow, whole=whole, narrow=narrow, parts=some)
            for some, flow in itertools.product(parts, flows)
        ]

    def look(self, space: Space, rows: Ints) -> None:
        """Evaluate mappings and keep the best."""
        costs = [evaluate(space.config, part, rows) for part in self.parts]
        good = np.flatnonzero(np.all([cost.legal for cost in costs], axis=0))
        self.visited += len(rows)
        self.valid += len(good)
        if not len(good):
            if not self.valid:
                self._note(space, rows, costs[0].broken)
            return
        steps, cycles = (np.max([getattr(c, name)[good] for c in costs], axis=0) for name in ("steps", "cycles"))
        for pool in self.pools:
            pool.take(space, rows[good], steps, cycles, [cost.words[good] for cost in costs])

    def _note(self, space: Space, rows: Ints, broken: Ints) -> None:
        numbers, first, times = np.unique(broken, return_index=True, return_counts=True)
        for number, row, count in zip(numbers, first, times, strict=True):
            if number < len(RULES):
                before, at, example = self.broken.get(int(number), (0, space, rows[row]))
                self.broken[int(number)] = (before + int(count), at, example)

    def reason(self) -> str:
        """Return the rule that most mappings break."""
        if not self.broken:
            return "no factorisation exists"
        number = max(self.broken, key=lambda rule: self.broken[rule][0])
        _, space, row = self.broken[number]
        return RULES[number].text(ClusterMapping.bare(space.config, space.layer, **factors_of(row)))


def bases_of(space: Space, most: int | None = None) -> Ints:
    """Return the bases of a space, as many as ``most``, as rows of factors."""
    rows = list(itertools.islice(space.bases(), most))
    return np.array(rows, np.int64).reshape(-1, len(FACTORS))


Chunk = tuple[View, Space, Ints]
"""A part of a mapspace: rows of bases."""


def chunks(spaces: Iterable[tuple[View, Space, Ints]], seed: int | None = None) -> list[Chunk]:
    """Return spaces and their bases in parts, in their order or, with a seed, in random order."""
    random, found = np.random.default_rng(seed), []
    for view, space, bases in spaces:
        order = np.arange(len(bases)) if seed is None else random.permutation(len(bases))
        found += [(view, space, bases[order[first : first + _CHUNK]]) for first in range(0, len(bases), _CHUNK)]
    return found if seed is None else [found[index] for index in random.permutation(len(found))]


def look_at(chunks: Sequence[Chunk], budget: Budget, end: float) -> bool:
    """Evaluate mappings until the budget is spent; return whether all were."""
    visited = sum(view.visited for view in {id(view): view for view, _, _ in chunks}.values())
    for view, space, bases in chunks:
        rows = space.expand(bases)
        left = len(rows) if budget.mappings is None else budget.mappings - visited
        view.look(space, rows[:left])
        visited += min(left, len(rows))
        if left < len(rows) or time.monotonic() > end:
            return False
    return True


class Candidates:
    """The mappings that pools keep, by place, the cheapest first.

    Attributes
    ----------
    costs, energy : ndarray of float
    reason : str
        Why the last one that was refused cannot run.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools, self.reason = pools, ""
        costs = np.concatenate([pool.keys[:, 0] for pool in pools])
        steps = np.concatenate([pool.keys[:, 1] for pool in pools])
        of_pool = np.repeat(np.arange(len(pools)), [len(pool.keys) for pool in pools])
        of_row = np.concatenate([np.arange(len(pool.keys)) for pool in pools])
        order = np.lexsort((np.arange(len(costs)), steps, costs))
        self.costs, self._of_pool, self._of_row = costs[order], of_pool[order], of_row[order]
        self.energy = np.concatenate([pool.energy for pool in pools])[order]
        self._mappings: dict[int, LayerMapping | None] = {}
        self._runs: dict[int, bool] = {}
        self._refused = [0] * len(pools)

    def __len__(self) -> int:
        return len(self.costs)

    @cached_property
    def first(self) -> int | None:
        """The cheapest one that can run."""
        return next(filter(self.runs, range(len(self))), None)

    @cached_property
    def promising(self) -> int:
        """How many cost not much more than the first one; the others are for want of any of these that can run."""
        least = self.costs[self.first or 0]
        return int((self.costs <= least + (_PROMISING - 1) * abs(least)).sum())

    def way(self, place: int) -> Way:
        """Return the way to split the layer that a mapping is of."""
        return self.pools[self._of_pool[place]].way

    def space(self, place: int) -> Space:
        """Return the mapspace that a mapping is of."""
        pool = self.pools[self._of_pool[place]]
        return pool.spaces[pool.of_space[self._of_row[place]]]

    def row(self, place: int) -> Ints:
        """Return the factors of a mapping."""
        found: Ints = self.pools[self._of_pool[place]].rows[self._of_row[place]]
        return found

    def mapping(self, place: int) -> LayerMapping:
        """Return a mapping that can run."""
        found = self._mappings[place]
        assert found is not None
        return found

    def runs(self, place: int) -> bool:
        """Whether a mesh, and the nests' levels and fields, can run a mapping."""
        if place in self._runs:
            return self._runs[place]
        number = self._of_pool[place]
        if self._refused[number] >= _LOOKED_AT:
            return False
        reason = ""
        try:
            self._mappings[place] = mapping = self.pools[number].way.mapping(self.space(place), self.row(place))
            reason = beyond_limits(mapping)
        except IllegalMappingError as error:
            reason = str(error)
        self.reason = reason or self.reason
        self._refused[number] = self._refused[number] + 1 if reason else 0
        self._runs[place] = not reason
        return not reason

    def runnable(self, order: Iterable[int], most: int) -> list[int]:
        """Return the first few of some mappings that can run."""
        return list(itertools.islice(filter(self.runs, order), most))

    def estimates(self) -> dict[str, float]:
        """Return the least cost of each dataflow, which is not less than that of the first one that can run."""
        found: dict[str, float] = {}
        best = float(self.costs[self.first or 0])
        for name, cost in (item for pool in self.pools for item in pool.estimates.items()):
            found[name] = max(best, min(cost, found.get(name, math.inf)))
        return found


def candidates(
    config: ArchConfig, layer: Layer, flows: Sequence[Dataflow], splits: Splits | None = None
) -> Iterator[tuple[int, LayerMapping]]:
    """Yield every legal mapping that is worth a look with its steps, the fewest steps first.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : sequence of Dataflow
        Constraints; the mappings of all of them.
    splits : Splits, optional
        Over the clusters. By default one works alone, on the layer as it is and, where it can be one, as a row.
    """
    ways = [Way(config, layer, splits or Splits())]
    if splits is None and (row := lower(config, layer, ("row",))):
        ways.append(Way(config, row.layer, Splits(), row))
    spaces = [Space(config.cluster, way.parts[0], flow) for flow, way in itertools.product(flows, ways)]
    rows = [space.expand(bases_of(space)) for space in spaces]
    found = [evaluate(config.cluster, space.layer, part) for space, part in zip(spaces, rows, strict=True)]
    places = [(number, row) for number, costs in enumerate(found) for row in np.flatnonzero(costs.legal)]
    steps = [int(found[number].steps[row]) for number, row in places]
    for index in np.argsort(steps, kind="stable"):
        number, row = places[index]
        try:
            yield steps[index], ways[number % len(ways)].mapping(spaces[number], rows[number][row])
        except IllegalMappingError:
            continue
