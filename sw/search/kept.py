"""Mappings that were found are kept in the cache: a second run of a workload searches nothing.

A search is known by all that it depends on: architecture, layer (but for its name), dataflows, objective, budget,
seed, and the sources of hardware and software. A file is one mapping with what the search says of itself. It is checked
as any mapping when it is read; what cannot be read is searched again.
"""

import functools
import hashlib
import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import rowmesh.hw
import rowmesh.sw
from rowmesh.hw.config import ArchConfig
from rowmesh.sim.cache import built_once, cache_folder, keep_newest
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.dataflow import ANY, Dataflow, load_dataflows
from rowmesh.sw.mapping.layer import LayerMapping, Splits, parts_of
from rowmesh.sw.mapping.orders import Order
from rowmesh.sw.search.mapper import Search, search
from rowmesh.sw.search.objective import Budget, Objective
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import lower

__all__ = ["kept_search"]

_KEPT = 4000
_FOLDER, _FILE = "mappings", "mapping.json"
_PACKAGES = ("jit", "workload", "mapping", "program", "model", "search")
_NOT_OF_FILE = ("config", "layer", "within", "order", "dataflow")


@functools.cache
def _sources() -> str:
    """Digest of everything that a search runs."""
    paths = sorted(Path(str(rowmesh.hw.__file__)).parent.glob("*.py"))
    for package in _PACKAGES:
        paths += sorted((Path(str(rowmesh.sw.__file__)).parent / package).rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def _digest(
    config: ArchConfig, layer: Layer, flows: tuple[Dataflow, ...], goal: Objective, budget: Budget | None, seed: int
) -> str:
    constraints = [
        (
            flow.name,
            sorted(flow.rows),
            sorted(flow.columns),
            list(map(str, flow.orders)),
            flow.m_outer,
            sorted((place, factor.value, factor.most) for place, factor in flow.factors.items()),
        )
        for flow in flows
    ]
    of_layer = layer.model_dump(exclude={"name"})
    known = [asdict(config), of_layer, constraints, goal.text, repr(goal.table), budget and (budget.mappings, seed)]
    return hashlib.sha256(json.dumps([_sources(), known], sort_keys=True).encode()).hexdigest()[:32]


def _to_json(found: Search) -> dict[str, Any]:
    m = found.mapping
    return {
        "dataflow": m.dataflow,
        "order": str(m.cluster.order),
        "factors": {f.name: getattr(m.cluster, f.name) for f in fields(m.cluster) if f.name not in _NOT_OF_FILE},
        "splits": asdict(m.splits),
        "lowered": list(m.lowered.steps) if m.lowered else [],
        "search": {f.name: getattr(found, f.name) for f in fields(found) if f.name != "mapping"},
    }


def _from_json(config: ArchConfig, layer: Layer, given: dict[str, Any]) -> Search:
    lowered = lower(config, layer, given["lowered"]) if given["lowered"] else None
    if given["lowered"] and lowered is None:
        raise ValueError("no steps that can lower the layer")
    shape, splits = lowered.layer if lowered else layer, Splits(**given["splits"])
    part = next(iter(parts_of(shape, splits)))
    cluster = ClusterMapping(
        config=config.cluster,
        layer=part,
        dataflow=given["dataflow"],
        order=Order(given["order"]),
        within=shape,
        **given["factors"],
    )
    mapping = LayerMapping(config, shape, splits, cluster, lowered)
    return Search(mapping=mapping, **{**given["search"], "dropped": tuple(given["search"]["dropped"])})


def kept_search(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...] | None = None,
    objective: Objective | str = "cycles",
    budget: Budget | None = None,
    seed: int = 0,
) -> Search:
    """Search the best mapping of a layer, or take the one that an equal search has found before.

    All shipped dataflows are looked at by default. A search of so many seconds is made each time. For parameters and
    errors see :func:`rowmesh.sw.search.mapper.search`.
    """
    flows = flows or load_dataflows(ANY)
    goal = objective if isinstance(objective, Objective) else Objective(objective)
    if budget is not None and budget.seconds is not None:
        return search(config, layer, flows, goal, budget, seed)
    folder = cache_folder(_FOLDER) / _digest(config, layer, flows, goal, budget, seed)
    try:
        found = _from_json(config, layer, json.loads((folder / _FILE).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        found = search(config, layer, flows, goal, budget, seed)
        shutil.rmtree(folder, ignore_errors=True)  # what was there could not be read
        text = json.dumps(_to_json(found))
        built_once(folder, lambda new: (new / _FILE).write_text(text))
    keep_newest(folder, _KEPT)
    return found
