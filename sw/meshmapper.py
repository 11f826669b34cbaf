"""The mapper of a mesh: how a layer is split over the clusters, and the mapping of a share for each split."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import LINKS
from rowmesh.sw.assembler import beyond_limits, would_block
from rowmesh.sw.batch import Ints
from rowmesh.sw.dataflow import Dataflow, load_dataflow
from rowmesh.sw.mapper import (
    TOGETHER,
    Pool,
    Search,
    UnmappableError,
    chunks,
    dropped_text,
    look_at,
    predicted_cycles,
    spaces_of,
)
from rowmesh.sw.mapping import IllegalMappingError
from rowmesh.sw.mapspace import flattened
from rowmesh.sw.mesh import MeshMapping, Splits, share_of, shared
from rowmesh.sw.meshcounts import access_counts
from rowmesh.sw.model import COARSE, config_cycles
from rowmesh.sw.objective import Budget, Floats, Objective
from rowmesh.sw.results import ACCESSES
from rowmesh.sw.workload import Layer

__all__ = ["search_mesh", "splits_of"]

_WORTH = 0.75
"""Splits are looked at that use this share of the most clusters that some split uses."""

_CLUSTERS = 512
"""Clusters that are predicted in all: of the largest meshes, fewer mappings."""

_SURE = 0.001
"""Predictions end if the least estimate of the others is not less by more than this share."""

_KEPT, _PREDICTED, _IN_VAIN = 3, 12, 6
"""Mappings of each split that are kept; that are predicted in all; those in sequence that are not better than one
before."""

_LOOKED_AT = 60
"""Mappings of each split of which some may be kept."""

_Candidate = tuple[float, float, MeshMapping]
"""A mapping with its cost and energy."""


def splits_of(rows: int, cols: int, layer: Layer) -> Iterator[Splits]:
    """Yield every way to split a layer over a mesh.

    Parameters
    ----------
    rows, cols : int
        Clusters.
    layer : Layer
    """
    m, c = layer.m // layer.groups, layer.c // layer.groups
    sizes = {"m": m if layer.groups == 1 else 1, "p": layer.p, "g": layer.groups}
    for c_y in range(1, rows + 1):
        if c % c_y or (c_y > 1 and layer.groups > 1):
            continue
        along_y = _along("y", sizes, rows // c_y)
        for of_y, of_x in itertools.product(along_y, _along("x", sizes, cols)):
            yield Splits(c_y=c_y, **of_y, **of_x)


def _along(axis: str, sizes: dict[str, int], most: int) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{}]
    for name, size in sizes.items():
        found += [{f"{name}_{axis}": parts} for parts in range(2, most + 1) if size % parts == 0]
    return found


def search_mesh(
    config: ArchConfig,
    layer: Layer,
    flows: Sequence[Dataflow] | None,
    objective: Objective | str,
    budget: Budget | None,
    seed: int,
) -> Search:
    """Search the best mapping of a layer onto a mesh; for the parameters see :func:`rowmesh.sw.mapper.search`.

    The mappings of a cluster's share are evaluated in closed form for every split that uses about as many clusters as
    can be; the memory is shared by all clusters. The cycles of the best mappings of the whole mesh are then predicted.

    Raises
    ------
    UnmappableError
        If there is none.
    """
    flows = tuple(flows or (load_dataflow("rs"),))
    goal = objective if isinstance(objective, Objective) else Objective(objective)
    candidates: list[_Candidate] = []
    looked_at: list[tuple[Pool, Layer, Splits]] = []
    visited = valid = 0
    reason = "no dimension can be split over its clusters"
    for shape in (layer, *flattened(config, layer)):
        legal = []
        for splits in splits_of(config.mesh_rows, config.mesh_cols, shape):
            try:
                legal.append((splits, share_of(shape, splits, 0, 0).layer))
            except IllegalMappingError as error:
                reason = str(error)
        most = max((splits.rows * splits.cols for splits, _ in legal), default=0)
        pools: dict[tuple[Layer, tuple[int, ...]], Pool] = {}
        for splits, share in sorted(legal, key=lambda one: -one[0].rows * one[0].cols):
            if splits.rows * splits.cols < _WORTH * most and candidates:
                continue
            kind = share, _users(splits)
            if kind not in pools:
                pool = pools[kind] = Pool(goal, config_cycles(config), functools.partial(_least, config, splits))
                some = spaces_of(config.cluster, share, flows, whole=False, shapes=(share,))
                look_at(pool, chunks(some, None if budget is None else seed), budget or Budget(), math.inf)
                visited, valid = visited + pool.visited, valid + pool.valid
            looked_at.append((pools[kind], shape, splits))
            found, why = _best_of(pools[kind], config, shape, splits, goal, _KEPT)
            candidates += found
            reason = why or reason
    if not candidates:
        names = ", ".join(flow.name for flow in flows)
        raise UnmappableError(f"layer {layer.name}: no mapping ({names}) fits {config.name}: {reason}")
    goal.check_value(min(cost for cost, _, _ in candidates), layer.name)
    dropped: list[str] = []
    chosen, predicted, best = _chosen(candidates, goal, dropped)
    if chosen is None:  # all that were kept of each split would block
        tried = [mapping for *_, mapping in candidates]
        more = [one for of in looked_at for one in _best_of(of[0], config, *of[1:], goal, _LOOKED_AT)[0]]
        chosen, predicted, best = _chosen([one for one in more if one[2] not in tried], goal, dropped)
    if chosen is None:
        names = ", ".join(flow.name for flow in flows)
        raise UnmappableError(f"layer {layer.name}: no mapping ({names}) fits {config.name}: {dropped_text(dropped)}")
    estimates: dict[str, float] = {}
    for cost, _, mapping in candidates:
        estimates[mapping.dataflow] = min(cost, estimates.get(mapping.dataflow, math.inf))
    return Search(chosen, visited, valid, valid, predicted, False, best, tuple(dropped), estimates)


def _words(mapping: MeshMapping) -> list[int]:
    counts = access_counts(mapping)
    return [counts[name] for name in ACCESSES]


def _users(splits: Splits) -> tuple[int, int, int, int]:
    """Return how many clusters load iacts and weights of their own, whose parameters differ, and that have psums."""
    rows, cols = splits.rows, splits.cols
    own = []
    for name in LINKS:
        same_y, same_x = shared(splits, name)
        own.append((1 if same_y else rows) * (1 if same_x else cols))
    return own[0], own[1], splits.m_y * splits.m_x * splits.g_y * splits.g_x, rows // splits.c_y * cols


def _least(config: ArchConfig, splits: Splits, words: Ints) -> Floats:
    """Return the least cycles that the memory and the drain take for all clusters, from the words of a share."""
    iacts, weights, params, heads = _users(splits)
    column = {name: words[:, place] for place, name in enumerate(ACCESSES)}
    reads = column["dram.iact.read"] * iacts + column["dram.weight.read"] * weights + column["dram.param.read"] * params
    stored = column["dram.ofmap.write"] * heads
    drained = column["glb.psum.drain"] * heads / config.all_lanes
    return np.maximum(np.maximum(reads, stored) / config.flit_words, drained)


def _best_of(
    pool: Pool, config: ArchConfig, layer: Layer, splits: Splits, goal: Objective, kept: int
) -> tuple[list[_Candidate], str]:
    """Return the best mappings of a split, as many as are ``kept``, and why there is none."""
    if not pool.valid:
        return [], pool.reason()
    found, why = [], ""
    costs = pool.keys[:, 0]
    apart = costs > costs[0] + goal.slack * abs(costs[0])
    for index in np.lexsort((np.where(apart, costs, pool.energy), apart))[:_LOOKED_AT]:
        share = pool.mapping(int(index))
        try:
            mapping = MeshMapping(config, layer, splits, replace(share, within=layer))
        except IllegalMappingError as error:
            why = str(error)
            continue
        if loops := beyond_limits(mapping):
            why = loops
            continue
        words = np.array([_words(mapping)])
        cycles = np.array([float(pool.estimates[index]) + pool.config_cycles])
        found.append((float(goal.costs(cycles, words)[0]), float(goal.energy(words)[0]), mapping))
        if len(found) >= kept:
            break
    return found, why


def _chosen(
    found_of_splits: Sequence[_Candidate], goal: Objective, dropped: list[str]
) -> tuple[MeshMapping | None, int, float]:
    """Predict the best candidates; return the best of them, how many were predicted, and the least estimate.

    Of those that are alike, it is the one of least energy. Mappings whose programs would block are ``dropped``: the
    list takes why.
    """
    if not found_of_splits:
        return None, 0, math.inf
    # of those that are about as good, those of the least energy first
    estimate = min(cost for cost, _, _ in found_of_splits)
    limit = estimate + goal.slack * abs(estimate)
    ranked = sorted(found_of_splits, key=lambda one: (one[0] > limit, one[0] if one[0] > limit else one[1]))
    candidates, costs = [mapping for _, _, mapping in ranked], [cost for cost, _, _ in ranked]
    if not goal.depends_on_cycles:
        for candidate in candidates:
            if not (reason := would_block(candidate)):
                return candidate, 0, estimate
            dropped.append(reason)
        return None, 0, estimate
    found: dict[int, float] = {}
    in_vain = 0
    most = max(1, min(_PREDICTED, _CLUSTERS // candidates[0].config.clusters))
    first = 0
    while first < len(candidates) and (not found or first < most):  # beyond the most if all so far have been dropped
        if found and (in_vain >= _IN_VAIN or _reached(costs[first:], min(found.values()))):
            break
        some = range(first, min(first + TOGETHER, max(most, first + 1), len(candidates)))
        first += len(some)
        least = min(found.values(), default=math.inf)
        with ThreadPoolExecutor(TOGETHER) as threads:
            results = list(threads.map(lambda k: predicted_cycles(candidates[k], COARSE), some))
        for k, cycles in zip(some, results, strict=True):
            if isinstance(cycles, str):
                dropped.append(cycles)
            else:
                found[k] = float(goal.costs(np.array([cycles]), np.array([_words(candidates[k])]))[0])
        in_vain = 0 if min(found.values(), default=math.inf) < least else in_vain + len(some)
    if not found:
        return None, 0, estimate
    best = min(found.values())
    alike = [k for k in found if found[k] <= best + goal.slack * abs(best)]
    energy = dict(zip(alike, goal.energy(np.array([_words(candidates[k]) for k in alike])), strict=True))
    return candidates[min(alike, key=lambda k: (energy[k], found[k], k))], len(found), estimate


def _reached(estimates: list[float], best: float) -> bool:
    """Whether none of the estimates promises anything better."""
    return best <= min(estimates) + _SURE * abs(best)
