"""The mapper of a mesh: how a layer is split over the clusters, and the mapping of a share for each split."""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.dataflow import Dataflow, load_dataflow
from rowmesh.sw.mapper import Pool, Search, UnmappableError, chunks, look_at, spaces_of
from rowmesh.sw.mapping import IllegalMappingError
from rowmesh.sw.mapspace import flattened
from rowmesh.sw.mesh import MeshMapping, Splits, share_of
from rowmesh.sw.meshcounts import access_counts
from rowmesh.sw.model import COARSE, config_cycles, predict_parts
from rowmesh.sw.objective import Budget, Objective
from rowmesh.sw.results import ACCESSES
from rowmesh.sw.workload import Layer

__all__ = ["search_mesh", "splits_of"]

_WORTH = 0.75
"""Splits are looked at that use this share of the most clusters that some split uses."""

_KEPT, _PREDICTED, _IN_VAIN = 3, 12, 6
"""Mappings of each split that are kept; that are predicted in all; those in sequence that are not better than one
before."""


def splits_of(config: ArchConfig, layer: Layer) -> Iterator[Splits]:
    """Yield every way to split a layer over the mesh.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    """
    m, c = layer.m // layer.groups, layer.c // layer.groups
    sizes = {"m": m if layer.groups == 1 else 1, "p": layer.p, "g": layer.groups}
    for c_y in range(1, config.mesh_rows + 1):
        if c % c_y or (c_y > 1 and layer.groups > 1):
            continue
        along_y = _along("y", sizes, config.mesh_rows // c_y)
        for of_y, of_x in itertools.product(along_y, _along("x", sizes, config.mesh_cols)):
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
    candidates: list[tuple[float, MeshMapping]] = []
    visited = valid = 0
    reason = "no dimension can be split over its clusters"
    for shape in (layer, *flattened(config, layer)):
        legal = []
        for splits in splits_of(config, shape):
            try:
                legal.append((splits, share_of(shape, splits, 0, 0).layer))
            except IllegalMappingError as error:
                reason = str(error)
        most = max((splits.rows * splits.cols for splits, _ in legal), default=0)
        pools: dict[Layer, Pool] = {}
        for splits, share in sorted(legal, key=lambda one: -one[0].rows * one[0].cols):
            if splits.rows * splits.cols < _WORTH * most and candidates:
                continue
            if share not in pools:
                pool = pools[share] = Pool(goal, config_cycles(config))
                some = spaces_of(config.cluster, share, flows, whole=False, shapes=(share,))
                look_at(pool, chunks(some, None if budget is None else seed), budget or Budget(), math.inf)
                visited, valid = visited + pool.visited, valid + pool.valid
            found, why = _best_of(pools[share], config, shape, splits, goal)
            candidates += found
            reason = why or reason
    if not candidates:
        names = ", ".join(flow.name for flow in flows)
        raise UnmappableError(f"layer {layer.name}: no mapping ({names}) fits {config.name}: {reason}")
    candidates.sort(key=lambda one: one[0])
    chosen, predicted = _chosen([mapping for _, mapping in candidates], [cost for cost, _ in candidates], goal)
    return Search(chosen, visited, valid, valid, predicted, False, candidates[0][0])


def _words(mapping: MeshMapping) -> list[int]:
    counts = access_counts(mapping)
    return [counts[name] for name in ACCESSES]


def _best_of(
    pool: Pool, config: ArchConfig, layer: Layer, splits: Splits, goal: Objective
) -> tuple[list[tuple[float, MeshMapping]], str]:
    """Return the best mappings of a split with their costs, and why there is none."""
    if not pool.valid:
        return [], pool.reason()
    found, why = [], ""
    for index in range(min(len(pool.keys), 20 * _KEPT)):
        share = pool.mapping(index)
        try:
            mapping = MeshMapping(config, layer, splits, replace(share, within=layer))
        except IllegalMappingError as error:
            why = str(error)
            continue
        counts = access_counts(mapping)
        reads = sum(words for name, words in counts.items() if name.startswith("dram") and name.endswith("read"))
        writes = counts["dram.ofmap.write"] * (share.config.flit_words // share.out_lanes)
        cycles = max(float(pool.estimates[index]), max(reads, writes) / share.config.flit_words)
        cost = float(goal.costs(np.array([cycles + pool.config_cycles]), np.array([_words(mapping)]))[0])
        found.append((cost, mapping))
        if len(found) >= 3 * _KEPT:
            break
    return sorted(found, key=lambda one: one[0])[:_KEPT], why


def _chosen(candidates: list[MeshMapping], costs: list[float], goal: Objective) -> tuple[MeshMapping, int]:
    """Predict the best candidates, and return the best of them."""
    if not goal.depends_on_cycles:
        return candidates[0], 0
    found: dict[int, float] = {}
    together, in_vain = os.cpu_count() or 1, 0
    for first in range(0, min(len(candidates), _PREDICTED), together):
        if found and (in_vain >= _IN_VAIN or costs[first] >= min(found.values())):
            break
        some = range(first, min(first + together, len(candidates)))
        least = min(found.values(), default=math.inf)
        with ThreadPoolExecutor(together) as threads:
            cycles = list(threads.map(lambda k: sum(predict_parts(candidates[k], COARSE).values()), some))
        values = goal.costs(np.array(cycles), np.array([_words(candidates[k]) for k in some]))
        found.update(zip(some, map(float, values), strict=True))
        in_vain = 0 if min(found.values()) < least else in_vain + len(some)
    return candidates[min(found, key=lambda k: (found[k], k))], len(found)
