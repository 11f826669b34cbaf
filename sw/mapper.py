"""The mapper: looks at the mappings that the dataflows allow and keeps the one that the model predicts to be best."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.assembler import beyond_limits, would_block
from rowmesh.sw.batch import FACTORS, Costs, Ints, evaluate, factors_of
from rowmesh.sw.counts import words
from rowmesh.sw.dataflow import Dataflow, load_dataflow
from rowmesh.sw.files import InputError
from rowmesh.sw.limits import beyond_memory
from rowmesh.sw.mapping import Mapping
from rowmesh.sw.mapspace import Space, flattened
from rowmesh.sw.mesh import MeshMapping
from rowmesh.sw.model import COARSE, FINE, Effort, config_cycles, predict_parts, work
from rowmesh.sw.objective import Budget, Floats, Objective
from rowmesh.sw.oncesearched import once_a_shape
from rowmesh.sw.rules import RULES
from rowmesh.sw.timing.run import StuckError
from rowmesh.sw.workload import Layer

__all__ = [
    "TOGETHER",
    "Pool",
    "Search",
    "UnmappableError",
    "candidates",
    "chunks",
    "dropped_text",
    "find_mapping",
    "flattened",
    "look_at",
    "predicted_cycles",
    "search",
    "spaces_of",
]


class UnmappableError(InputError):
    """No mapping of the layer exists on this architecture; the message gives the rule that most of them broke."""


@dataclass(frozen=True)
class Search:
    """What a search found.

    Parameters
    ----------
    mapping : Mapping
    visited, valid, evaluated, predicted : int
        Sets of factors looked at; those that the hardware can run; those whose cost was evaluated in closed form; those
        whose cycles were predicted.
    exhaustive : bool
        Every mapping that the dataflows allow was visited.
    estimate : float
        The least cost in closed form.
    dropped : tuple of str
        Why mappings were dropped whose programs would block, one reason each.
    estimates : Mapping
        The least of each dataflow of which a mapping can run.
    """

    mapping: Mapping | MeshMapping
    visited: int
    valid: int
    evaluated: int
    predicted: int
    exhaustive: bool
    estimate: float
    dropped: tuple[str, ...] = ()
    estimates: dict[str, float] = field(default_factory=dict)

    @property
    def rival(self) -> tuple[str, float] | None:
        """The next best dataflow, and by what share its estimate is above that of the one that was chosen."""
        own = self.estimates.get(self.mapping.dataflow, 0.0)
        others = {name: cost for name, cost in self.estimates.items() if name != self.mapping.dataflow}
        if not others or not own or not math.isfinite(own):
            return None
        name = min(others, key=lambda one: others[one])
        return name, (others[name] - own) / abs(own)

    def describe(self) -> str:
        """Return it in one line."""
        kind = "exhaustive" if self.exhaustive else "pruned"
        return (
            f"{kind}, {self.visited:,} mappings visited, {self.valid:,} valid, {self.evaluated:,} evaluated, "
            f"{self.predicted:,} predicted"
        ) + (f"; {dropped_text(self.dropped)}" if self.dropped else "")


def dropped_text(reasons: Sequence[str]) -> str:
    """Return in words that mappings were dropped whose programs would block, and why the first one."""
    return f"{len(reasons):,} dropped that would block ({reasons[0]})"


def predicted_cycles(mapping: Mapping | MeshMapping, effort: Effort) -> int | str:
    """Return the cycles that are predicted for a mapping, or why its program would block."""
    try:
        return would_block(mapping) or sum(predict_parts(mapping, effort).values())
    except StuckError as error:
        return str(error)


def spaces_of(
    config: ArchConfig,
    layer: Layer,
    flows: Sequence[Dataflow],
    *,
    whole: bool,
    narrow: bool = False,
    shapes: Sequence[Layer] = (),
) -> list[Space]:
    """Return the mapspaces of a layer, of its shapes by default as it is and as a row."""
    shapes = shapes or [layer, *flattened(config, layer)]
    pairs = itertools.product(flows, shapes)
    return [Space(config, shape, flow, whole=whole, narrow=narrow) for flow, shape in pairs]


def _bases(space: Space, most: int | None = None) -> Ints:
    rows = list(itertools.islice(space.bases(), most))
    return np.array(rows, np.int64).reshape(-1, len(FACTORS))


def candidates(
    config: ArchConfig, layer: Layer, flows: Sequence[Dataflow], shapes: Sequence[Layer] = ()
) -> Iterator[tuple[int, Mapping]]:
    """Yield every legal mapping that is worth a look with its steps, the fewest steps first.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : sequence of Dataflow
        Constraints; the mappings of all of them.
    shapes : sequence of Layer, optional
        As of :func:`spaces_of`.
    """
    spaces = spaces_of(config, layer, flows, whole=False, shapes=shapes)
    rows = [space.expand(_bases(space)) for space in spaces]
    found = [evaluate(config, space.layer, part) for space, part in zip(spaces, rows, strict=True)]
    places = [(number, row) for number, costs in enumerate(found) for row in np.flatnonzero(costs.legal)]
    steps = [int(found[number].steps[row]) for number, row in places]
    for index in np.argsort(steps, kind="stable"):
        number, row = places[index]
        yield steps[index], _mapping(spaces[number], rows[number][row])


def _mapping(space: Space, row: Ints) -> Mapping:
    return Mapping(config=space.config, layer=space.layer, dataflow=space.flow.name, **factors_of(row))


_PROMISING = 1.15
"""Mappings whose estimate is within this factor of the best one are candidates for a prediction."""

_SURE, _WORK = 0.001, 200_000
"""A prediction ends the search if the least estimate of the others is not less by more than this share, or by as much
again for every so many steps that predictions have run."""

_MOST, _OF_KIND, _IN_VAIN = 12, 3, 4
"""Mappings that are predicted at most, or of each kind (:func:`_kinds`) if that is more; and those in sequence that are
not better than one before, or as many as there are kinds."""

TOGETHER = 2
"""Mappings that are predicted side by side: a number of its own, so that the choice is the same on every machine."""

_LEAST_ENERGY = 4
"""Mappings of less energy than the best one's that are predicted as well."""

_FINALISTS = 4
"""Mappings that are predicted as finely as a report's if only cycles count."""

_KEPT = 2000
"""Best mappings that are kept while a search goes on."""

_SMALL_BASES, _SMALL = 10_000, 300_000
"""Mapspaces that are searched exhaustively without being asked to."""

_CHUNK = 256
"""Bases that are expanded at once."""


@dataclass
class Pool:
    """The best mappings that a search has seen."""

    objective: Objective
    config_cycles: int
    least: Callable[[Ints], Floats] | None = None
    """Cycles that mappings of so many words (a column for each of ACCESSES) take at least, for other reasons than their
    own: what shares the memory with them."""
    spaces: list[Space] = field(default_factory=list)
    rows: Ints = field(default_factory=lambda: np.zeros((0, len(FACTORS)), np.int64))
    of_space: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: Floats = field(default_factory=lambda: np.zeros((0, 2)))  # costs and steps
    estimates: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # cycles
    energy: Floats = field(default_factory=lambda: np.zeros(0))
    visited: int = 0
    valid: int = 0
    estimates_of: dict[str, float] = field(default_factory=dict)
    """The least cost of each dataflow."""
    broken: dict[int, tuple[int, Space, Ints]] = field(default_factory=dict)

    def look(self, space: Space, rows: Ints) -> None:
        """Evaluate mappings and keep the best."""
        costs = evaluate(space.config, space.layer, rows)
        self.visited += len(rows)
        good = np.flatnonzero(costs.legal)
        self.valid += len(good)
        if not len(good):
            if not self.valid:
                self._note(space, rows, costs)
            return
        worth = costs[good]
        cycles = worth.cycles
        if self.least is not None:
            cycles = np.maximum(cycles, np.ceil(self.least(worth.words)).astype(np.int64))
        values = self.objective.costs(cycles + self.config_cycles, worth.words)
        flow = space.flow.name
        self.estimates_of[flow] = min(float(values.min()), self.estimates_of.get(flow, math.inf))
        if len(self.keys) >= _KEPT:
            better = values < self.keys[-1, 0]
            if not better.any():
                return
            good, worth, values, cycles = good[better], worth[better], values[better], cycles[better]
        if space not in self.spaces:
            self.spaces.append(space)
        number = self.spaces.index(space)
        keys = np.concatenate([self.keys, np.stack([values, worth.steps.astype(np.float64)], axis=1)])
        rows = np.concatenate([self.rows, rows[good]])
        of_space = np.concatenate([self.of_space, np.full(len(good), number)])
        estimates = np.concatenate([self.estimates, cycles])
        energy = np.concatenate([self.energy, self.objective.energy(worth.words)])
        order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
        order = order[keys[order, 0] <= keys[order[0], 0] + (_PROMISING - 1) * abs(keys[order[0], 0])]
        # the same factors under several dataflows: the first one's
        shapes = np.array([one.layer.h for one in self.spaces])[of_space[order]]
        _, first = np.unique(np.column_stack([rows[order], shapes]), axis=0, return_index=True)
        order = order[np.sort(first)][:_KEPT]
        self.keys, self.rows, self.of_space, self.energy = keys[order], rows[order], of_space[order], energy[order]
        self.estimates = estimates[order]

    def _note(self, space: Space, rows: Ints, costs: Costs) -> None:
        numbers, first, times = np.unique(costs.broken, return_index=True, return_counts=True)
        for number, row, count in zip(numbers, first, times, strict=True):
            before, at, example = self.broken.get(int(number), (0, space, rows[row]))
            self.broken[int(number)] = (before + int(count), at, example)

    def reason(self) -> str:
        """Return the rule that most mappings break."""
        if not self.broken:
            return "no factorisation exists"
        number = max(self.broken, key=lambda rule: self.broken[rule][0])
        _, space, row = self.broken[number]
        return RULES[number].text(Mapping.bare(space.config, space.layer, **factors_of(row)))

    def mapping(self, index: int) -> Mapping:
        """Return one of the mappings, 0 the best."""
        return _mapping(self.spaces[self.of_space[index]], self.rows[index])


def chunks(spaces: Sequence[Space], seed: int | None = None) -> Iterator[tuple[Space, Ints]]:
    """Yield rows of factors of what is worth a look, as :func:`_chunks` does."""
    yield from _chunks(spaces, [_bases(space) for space in spaces], seed)


def _chunks(spaces: Sequence[Space], bases: Sequence[Ints], seed: int | None) -> Iterator[tuple[Space, Ints]]:
    """Yield rows of factors, in the order of the spaces or, with a seed, in random order."""
    random = np.random.default_rng(seed)
    parts = []
    for space, rows in zip(spaces, bases, strict=True):
        order = np.arange(len(rows)) if seed is None else random.permutation(len(rows))
        parts += [(space, rows[order[first : first + _CHUNK]]) for first in range(0, len(rows), _CHUNK)]
    for index in range(len(parts)) if seed is None else random.permutation(len(parts)):
        space, rows = parts[index]
        yield space, space.expand(rows)


def look_at(pool: Pool, chunks: Iterator[tuple[Space, Ints]], budget: Budget, end: float) -> bool:
    """Evaluate mappings until the budget is spent; return whether all were."""
    for space, rows in chunks:
        left = len(rows) if budget.mappings is None else budget.mappings - pool.visited
        pool.look(space, rows[:left])
        if left < len(rows) or time.monotonic() > end:
            return False
    return True


@once_a_shape
def search(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective | str = "cycles",
    budget: Budget | None = None,
    seed: int = 0,
) -> Search:
    """Search the best mapping of a layer.

    Mappings are evaluated in closed form (:mod:`rowmesh.sw.batch`): all of them where that is quick, or else those that
    are worth a look (:mod:`rowmesh.sw.mapspace`). With a budget the search goes on after these in a random order of
    all. If the objective depends on cycles, those of the best mappings are then predicted
    (:mod:`rowmesh.sw.model`), and the best of these is taken; where some are within 0.2 %, the one of least energy
    (not so if only ``latency`` counts).

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : tuple of Dataflow, optional
        Dataflows to choose from; row stationary by default.
    objective : Objective or str
    budget : Budget, optional
    seed : int
        Of the random order.

    Raises
    ------
    UnmappableError
        If there is none.
    InputError
        If the objective is no expression.
    """
    if reason := beyond_memory(config, layer):
        raise UnmappableError(f"layer {layer.name} does not fit {config.name}: {reason}")
    if config.clusters > 1:
        from rowmesh.sw.meshmapper import search_mesh

        return search_mesh(config, layer, flows, objective, budget, seed)
    flows = flows or (load_dataflow("rs"),)
    goal = objective if isinstance(objective, Objective) else Objective(objective)
    pool = Pool(goal, config_cycles(config))
    end = math.inf if budget is None or budget.seconds is None else time.monotonic() + budget.seconds
    budget, given = budget or Budget(), budget is not None
    spaces = spaces_of(config, layer, flows, whole=True)
    bases = [_bases(space, _SMALL_BASES) for space in spaces]
    counted = [space.count(rows) for space, rows in zip(spaces, bases, strict=True)]
    exhaustive = max(map(len, bases)) < _SMALL_BASES and sum(counted) <= _SMALL
    if exhaustive:
        exhaustive = look_at(pool, _chunks(spaces, bases, None), budget, end)
    else:
        some = spaces_of(config, layer, flows, whole=False, narrow=not goal.slack)
        going = look_at(pool, _chunks(some, [_bases(space) for space in some], None), budget, end)
        if going and (given or not pool.valid):
            exhaustive = look_at(pool, _chunks(spaces, [_bases(space) for space in spaces], seed), budget, end)
    if pool.valid:
        goal.check_value(pool.keys[0, 0], layer.name)
    dropped: list[str] = []
    best = _best(pool, dropped) if pool.valid else None
    if best is None:
        names = ", ".join(flow.name for flow in flows)
        why = beyond_limits(pool.mapping(0)) if pool.valid else pool.reason()
        reason = dropped_text(dropped) if dropped else why
        raise UnmappableError(f"layer {layer.name}: no mapping ({names}) fits {config.name}: {reason}")
    chosen, predicted = best
    return Search(
        mapping=chosen,
        visited=pool.visited,
        valid=pool.valid,
        evaluated=pool.valid,
        predicted=predicted,
        exhaustive=exhaustive,
        estimate=float(pool.keys[0, 0]),
        dropped=tuple(dropped),
        estimates=pool.estimates_of,
    )


def find_mapping(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective | str = "cycles",
) -> Mapping | MeshMapping:
    """Return the best mapping of a layer; see :func:`search`."""
    return search(config, layer, flows, objective).mapping


def _runnable(pool: Pool, order: Iterable[int], most: int) -> list[int]:
    """Return the first few of some mappings whose programs the nests can run."""
    return list(itertools.islice((index for index in order if not beyond_limits(pool.mapping(index))), most))


def _best(pool: Pool, dropped: list[str]) -> tuple[Mapping, int] | None:
    """Predict the cycles of the best mappings and return the best, if any can run, and how many were predicted.

    Mappings whose programs would block are ``dropped``: the list takes why.
    """
    costs, energy, objective = pool.keys[:, 0], pool.energy, pool.objective
    if not objective.depends_on_cycles:
        for index in range(len(costs)):
            if _runnable(pool, [index], 1):
                if not (reason := would_block(pool.mapping(index))):
                    return pool.mapping(index), 0
                dropped.append(reason)
        return None
    found: dict[int, float] = {}

    def predict(indices: Sequence[int], effort: Effort = COARSE) -> None:
        some = [pool.mapping(index) for index in indices]
        with ThreadPoolExecutor(TOGETHER) as threads:  # the timing model runs without the interpreter's lock
            results = list(threads.map(lambda mapping: predicted_cycles(mapping, effort), some))
        for index, mapping, cycles in zip(indices, some, results, strict=True):
            if isinstance(cycles, str):
                dropped.append(cycles)
                found.pop(index, None)
            else:
                found[index] = float(objective.costs([cycles], np.array([words(mapping)]))[0])

    # of those that are about as good, those of the least energy first; if only cycles count, by turns with the best
    sure = min(_SURE, objective.slack)
    kinds = _kinds(pool)
    orders = []
    for share in sorted({sure, _SURE}):
        apart = costs > _beyond(costs[0], share)
        orders.append(_by_turns(np.lexsort((np.where(apart, costs, energy), apart)), kinds))
    number = len(set(kinds)) * len(orders)
    turns = dict.fromkeys(index for some in zip(*orders, strict=True) for index in some)
    left = iter(turns)
    order: list[int] = []
    effort, in_vain = 0, 0
    while in_vain < max(_IN_VAIN, number):
        if not found and not order:  # at first, or if all so far have been dropped
            order, in_vain = _runnable(pool, left, max(_MOST, _OF_KIND * number)), 0
            if not order:
                return None
        least = min(found.values(), default=math.inf)
        order = [index for index in order if costs[index] < least]
        if not order or least <= _beyond(costs[order].min(), sure * (1 + effort / _WORK)):
            break
        some, order = order[:TOGETHER], order[TOGETHER:]
        effort += sum(work(pool.mapping(index), COARSE) for index in some)
        predict(some)
        in_vain = 0 if min(found.values(), default=math.inf) < least or not found else in_vain + len(some)
    limit = _beyond(min(found.values()), objective.slack)
    chosen = min((index for index in found if found[index] <= limit), key=lambda index: (energy[index], index))
    # mappings of less energy that may be as good, or even better: estimates are not exact
    cheaper = np.flatnonzero((costs <= max(limit, _beyond(min(found.values()), _SURE))) & (energy < energy[chosen]))
    cheaper = cheaper[np.argsort(energy[cheaper], kind="stable")]
    others = _runnable(pool, (int(index) for index in cheaper if int(index) not in found), _LEAST_ENERGY)
    for first in range(0, len(others), TOGETHER):
        some = others[first : first + TOGETHER]
        predict(some)
        good = [index for index in some if found.get(index, math.inf) <= limit]
        if good and objective.slack:
            return pool.mapping(good[0]), len(found)
    if not objective.slack:
        best = sorted(found, key=lambda index: (found[index], energy[index], index))[:_FINALISTS]
        predict(best, FINE)
        best = [index for index in best if index in found]
        if not best:
            return None
        chosen = min(best, key=lambda index: (found[index], energy[index], index))
    return pool.mapping(chosen), len(found)


_Kind = tuple[str, int, bool]


def _kinds(pool: Pool) -> list[_Kind]:
    """Return the kind of each mapping, for estimates favour some: dataflow, height of the plane (a row or not), order.

    The order is in blocks or not.
    """
    in_blocks = [FACTORS.index(name) for name in ("c1", "q1")]
    blocks: list[bool] = np.any(pool.rows[:, in_blocks] > 1, axis=1).tolist()
    spaces = (pool.spaces[number] for number in pool.of_space)
    return [(space.flow.name, space.layer.h, block) for space, block in zip(spaces, blocks, strict=True)]


def _by_turns(order: Ints, kinds: list[_Kind]) -> list[int]:
    """Return the best mapping of each kind first, then the second best."""
    seen: dict[_Kind, int] = {}
    turns = []
    for place, index in enumerate(order):
        kind = kinds[index]
        seen[kind] = seen.get(kind, 0) + 1
        turns.append((seen[kind], place, int(index)))
    return [index for _, _, index in sorted(turns)]


def _beyond(cost: float, share: float) -> float:
    """Return what is still as good as a cost."""
    return cost + share * abs(cost)
