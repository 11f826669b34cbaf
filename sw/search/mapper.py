"""The mapper: looks at the mappings that the dataflows allow and keeps the one that the model predicts to be best."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import Dataflow, load_dataflow
from rowmesh.sw.mapping.layer import LayerMapping, Splits
from rowmesh.sw.model.counts import access_counts
from rowmesh.sw.model.predict import COARSE, FINE, Effort, config_cycles, predict_parts, work
from rowmesh.sw.model.timing.run import StuckError
from rowmesh.sw.program.assemble import would_block
from rowmesh.sw.search.evaluate import FACTORS, Ints
from rowmesh.sw.search.objective import Budget, Objective
from rowmesh.sw.search.once import once_a_shape
from rowmesh.sw.search.pool import Candidates, Pool, View, Way, bases_of, chunks, look_at, ways_of
from rowmesh.sw.search.space import Space
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.limits import beyond_memory
from rowmesh.sw.workload.lowering import lowerings

__all__ = ["Search", "UnmappableError", "dropped_text", "find_mapping", "search"]


class UnmappableError(InputError):
    """No mapping of the layer exists on this architecture; the message gives the rule that most of them broke."""


@dataclass(frozen=True)
class Search:
    """What a search found.

    Parameters
    ----------
    mapping : ClusterMapping
    visited, valid, evaluated, predicted : int
        Sets of factors looked at; those that the hardware can run; those whose cost was evaluated in closed form; those
        whose cycles were predicted.
    exhaustive : bool
        Every mapping that the dataflows allow was visited.
    estimate : float
        The least cost in closed form.
    dropped : tuple of str
        Why mappings were dropped whose programs would block, one reason each.
    estimates : ClusterMapping
        The least of each dataflow of which a mapping can run.
    """

    mapping: LayerMapping
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


def predicted_cycles(mapping: LayerMapping, effort: Effort) -> int | str:
    """Return the cycles that are predicted for a mapping, or why its program would block."""
    try:
        return would_block(mapping) or sum(predict_parts(mapping, effort).values())
    except StuckError as error:
        return str(error)


_WORTH = 0.75
"""Of the ways to split a layer over clusters, those are looked at that use this share of the most that one uses."""

_CLUSTERS = 192
"""Clusters that are predicted at most, in all: of the largest meshes, fewer mappings."""

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

_SMALL_BASES, _SMALL = 10_000, 300_000
"""Mapspaces that are searched exhaustively without being asked to."""


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

    Mappings are evaluated in closed form (:mod:`rowmesh.sw.search.evaluate`): all of them where that is quick, or else
    those that are worth a look (:mod:`rowmesh.sw.search.space`). With a budget the search goes on after these in a
    random order of all. If the objective depends on cycles, those of the best mappings are then predicted
    (:mod:`rowmesh.sw.model.predict`), and the best of these is taken; where some are within 0.2 %, the one of least
    energy (not so if only ``latency`` counts).

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
    flows = flows or (load_dataflow("rs"),)
    goal = objective if isinstance(objective, Objective) else Objective(objective)
    end = math.inf if budget is None or budget.seconds is None else time.monotonic() + budget.seconds
    views: list[View] = []
    tiers: list[_Tier] = []
    found, refused = None, ""
    complete: dict[int, bool] = {}

    def look(tier: _Tier, *, whole: bool) -> bool:
        """Look at a tier's mapspaces; return whether a mapping that can run is known."""
        nonlocal found
        complete[id(tier)] = _look(tier, flows, goal, budget, seed, end, whole=whole)
        if pools := [pool for view in views for pool in view.pools if len(pool.keys)]:
            found = Candidates(pools)
        return found is not None and found.first is not None

    for ways, in_parts, refused in _tiers(config, layer):  # noqa: B007
        tiers.append(_Tier(_views(ways, goal), in_parts))
        views += tiers[-1].views
        if look(tiers[-1], whole=False):
            break
    if found is None or found.first is None or budget is not None:
        for tier in tiers if found is None or found.first is None else tiers[-1:]:
            if look(tier, whole=True):
                break
    unmapped = f"layer {layer.name}: no mapping ({', '.join(flow.name for flow in flows)}) fits {config.name}: "
    if found is None or found.first is None:
        broken = max(views, key=lambda view: view.visited).reason() if views else refused
        raise UnmappableError(unmapped + (found.reason if found else broken))
    estimate = float(found.costs[found.first])
    goal.check_value(estimate, layer.name)
    dropped: list[str] = []
    best = _best(found, goal, dropped)
    if best is None:
        raise UnmappableError(unmapped + dropped_text(dropped))
    chosen, predicted = best
    valid = sum(view.valid for view in views)
    return Search(
        mapping=chosen,
        visited=sum(view.visited for view in views),
        valid=valid,
        evaluated=valid,
        predicted=predicted,
        exhaustive=all(complete.values()),
        estimate=estimate,
        dropped=tuple(dropped),
        estimates=found.estimates(),
    )


def find_mapping(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective | str = "cycles",
) -> LayerMapping:
    """Return the best mapping of a layer; see :func:`search`."""
    return search(config, layer, flows, objective).mapping


class _Tier(NamedTuple):
    """Mapspaces that are looked at together: of some ways to run a layer, filters as a whole or in parts."""

    views: list[View]
    in_parts: bool


def _tiers(config: ArchConfig, layer: Layer) -> Iterator[tuple[list[Way], bool, str]]:
    """Yield ways to run a layer, and whether its filters are then in parts, those first that cost least.

    A layer is as it is or lowered, and split so that about as many clusters as can be have work; then come other ways,
    one by one. Beside them is why another way is none.
    """
    shapes = list(lowerings(config, layer))
    plain = [some for some in shapes if all(shape.layer.groups >= layer.groups for shape in some)]
    dense = [some for some in shapes if some not in plain]  # many times the work: filters in parts come first
    others: list[tuple[Way, bool]] = []
    reason = ""
    turns = [*itertools.product((False, True), plain), *itertools.product((False, True), dense)]
    for in_parts, lowered in turns:
        first: list[Way] = []
        for shape in lowered:
            if in_parts and shape.layer.r * shape.layer.s == 1:
                continue
            ways, reason = ways_of(config, shape.layer, shape if shape.steps else None)
            most = max((way.splits.clusters for way in ways), default=0)
            for way in ways:
                if way.splits.clusters >= _WORTH * most:
                    first.append(way)
                else:
                    others.append((way, in_parts))
        if first or not in_parts:
            yield first, in_parts, reason
    for way, in_parts in sorted(others, key=lambda other: -other[0].splits.clusters):
        yield [way], in_parts, reason


def _views(ways: Sequence[Way], goal: Objective) -> list[View]:
    """Return a view for each set of parts that some ways have."""
    of_parts: dict[tuple[Layer, ...], list[Pool]] = {}
    for way in ways:
        of_parts.setdefault(way.parts, []).append(Pool(way, goal, config_cycles(way.config)))
    return [View(pools) for pools in of_parts.values()]


def _look(
    tier: _Tier,
    flows: Sequence[Dataflow],
    goal: Objective,
    budget: Budget | None,
    seed: int,
    end: float,
    *,
    whole: bool,
) -> bool:
    """Look at the mapspaces of a tier until the budget is spent; return whether every mapping was visited.

    They are looked at as a whole, in a random order, or else what is worth it, or all if that is quick.
    """
    budget = budget or Budget()

    def spaces(whole: bool) -> list[tuple[View, Space]]:
        narrow = not goal.slack and not whole
        parts = tier.in_parts
        return [
            (view, space)
            for view in tier.views
            for space in view.spaces(flows, whole=whole, narrow=narrow, in_parts=parts)
        ]

    if whole:
        return look_at(
            chunks([(view, space, bases_of(space)) for view, space in spaces(whole=True)], seed), budget, end
        )
    # clusters contend for the memory, which estimates leave out, and less so with what is worth a look: even tiles
    alone = all(pool.way.config.clusters == 1 for view in tier.views for pool in view.pools)
    if alone and (small := _small(spaces(whole=True))):
        return look_at(chunks(small), budget, end)
    look_at(chunks([(view, space, bases_of(space)) for view, space in spaces(whole=False)]), budget, end)
    return False


def _small(spaces: Sequence[tuple[View, Space]]) -> list[tuple[View, Space, Ints]]:
    """Return spaces with their bases if they are so small that every mapping can be visited, or else nothing."""
    found, mappings = [], 0
    for view, space in spaces:
        bases = bases_of(space, _SMALL_BASES)
        mappings += space.count(bases)
        if len(bases) >= _SMALL_BASES or mappings > _SMALL:
            return []
        found.append((view, space, bases))
    return found


def _best(pool: Candidates, objective: Objective, dropped: list[str]) -> tuple[LayerMapping, int] | None:
    """Predict the cycles of the best mappings and return the best, if any can run, and how many were predicted.

    Mappings whose programs would block are ``dropped``: the list takes why.
    """
    costs, energy = pool.costs[: pool.promising], pool.energy[: pool.promising]
    if not objective.depends_on_cycles:
        for place in filter(pool.runs, range(len(pool))):
            if not (reason := would_block(pool.mapping(place))):
                return pool.mapping(place), 0
            dropped.append(reason)
        return None
    found: dict[int, float] = {}
    tried: set[int] = set()

    def predict(places: Sequence[int], effort: Effort = COARSE) -> None:
        some = [pool.mapping(place) for place in places]
        tried.update(places)
        with ThreadPoolExecutor(TOGETHER) as threads:  # the timing model runs without the interpreter's lock
            results = list(threads.map(lambda mapping: predicted_cycles(mapping, effort), some))
        for place, mapping, cycles in zip(places, some, results, strict=True):
            if isinstance(cycles, str):
                dropped.append(cycles)
                found.pop(place, None)
            else:
                words = [list(access_counts(mapping).values())]
                found[place] = float(objective.costs([cycles], words)[0])

    # of those that are about as good, those of the least energy first; if only cycles count, by turns with the best
    sure = min(_SURE, objective.slack)
    kinds = _kinds(pool)
    orders = []
    for share in sorted({sure, _SURE}):
        apart = costs > _beyond(costs[pool.first or 0], share)
        orders.append(_by_turns(np.lexsort((np.where(apart, costs, energy), apart)), kinds))
    number = len(set(kinds)) * len(orders)
    turns = dict.fromkeys(place for some in zip(*orders, strict=True) for place in some)
    left = iter([*turns, *range(pool.promising, len(pool))])
    order: list[int] = []
    effort, in_vain = 0, 0
    while in_vain < max(_IN_VAIN, number):
        if not found and not order:  # at first, or if all so far have been dropped
            clusters = pool.pools[0].way.config.clusters
            most = max(1, min(max(_MOST, _OF_KIND * number), _CLUSTERS // clusters))
            order, in_vain = pool.runnable(left, most), 0
            if not order:
                return None
        least = min(found.values(), default=math.inf)
        order = [place for place in order if pool.costs[place] < least]
        if not order or least <= _beyond(pool.costs[order].min(), sure * (1 + effort / _WORK)):
            break
        some, order = order[:TOGETHER], order[TOGETHER:]
        effort += sum(work(pool.mapping(place), COARSE) for place in some)
        predict(some)
        in_vain = 0 if min(found.values(), default=math.inf) < least or not found else in_vain + len(some)
    limit = _beyond(min(found.values()), objective.slack)
    chosen = min((place for place in found if found[place] <= limit), key=lambda place: (pool.energy[place], place))
    # mappings of less energy that may be as good, or even better: estimates are not exact
    cheaper = np.flatnonzero(
        (costs <= max(limit, _beyond(min(found.values()), _SURE))) & (energy < pool.energy[chosen])
    )
    cheaper = cheaper[np.argsort(energy[cheaper], kind="stable")]
    others = pool.runnable((int(place) for place in cheaper if int(place) not in tried), _LEAST_ENERGY)
    for first in range(0, len(others), TOGETHER):
        some = others[first : first + TOGETHER]
        predict(some)
        good = [place for place in some if found.get(place, math.inf) <= limit]
        if good and objective.slack:
            return pool.mapping(good[0]), len(found)
    if not objective.slack:
        best = sorted(found, key=lambda place: (found[place], pool.energy[place], place))[:_FINALISTS]
        predict(best, FINE)
        best = [place for place in best if place in found]
        if not best:
            return None
        chosen = min(best, key=lambda place: (found[place], pool.energy[place], place))
    return pool.mapping(chosen), len(found)


_Kind = tuple[str, tuple[int, int], Splits, bool]


def _kinds(pool: Candidates) -> list[_Kind]:
    """Return the kind of each mapping, for estimates favour some.

    It is the dataflow, the height of the plane and the channels (lowered or not), the splits over clusters, and an
    order in blocks or not.
    """
    in_blocks = [FACTORS.index(name) for name in ("c1", "q1")]
    return [
        (
            pool.space(place).flow.name,
            (way.layer.h, way.layer.c),
            way.splits,
            bool((pool.row(place)[in_blocks] > 1).any()),
        )
        for place, way in enumerate(map(pool.way, range(pool.promising)))
    ]


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
