"""Layers of equal shape are searched once, and each has a mapping of its own name."""

from dataclasses import dataclass, replace

import pytest

from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.model.energy import default_table
from rowmesh.sw.search.mapper import find_mapping, search
from rowmesh.sw.search.objective import Objective
from rowmesh.sw.search.once import once_a_shape
from rowmesh.sw.workload.layer import Layer, load_workload

LAYER = Layer(name="A", M=8, C=8, H=6, W=6, R=3, S=3, padding=1)


@dataclass(frozen=True)
class Found:
    mapping: object
    call: int


def test_a_search_is_done_once_for_each_shape_objective_and_seed():
    mapping, calls = find_mapping(load_arch("tiny"), LAYER), []

    @once_a_shape
    def searched(config, layer, goal="cycles", *, seed=0):
        calls.append(layer.name)
        return Found(mapping.of_layer(layer), len(calls))

    first, second = searched("tiny", LAYER), searched("tiny", LAYER.model_copy(update={"name": "B"}))
    assert (calls, first.call, second.call) == (["A"], 1, 1)
    assert (first.mapping.layer.name, second.mapping.layer.name) == ("A", "B")
    assert second.mapping.of_layer(first.mapping.layer) == first.mapping
    for changed in ({"M": 16}, {"output": "requant"}, {"N": 2}):
        searched("tiny", Layer(**LAYER.model_dump(by_alias=True) | changed))
    searched("tiny", LAYER, "energy")
    searched("eyeriss", LAYER)
    searched("tiny", LAYER, seed=1)
    assert len(calls) == 7
    dear = replace(default_table(), costs={place: 2 * cost for place, cost in default_table().costs.items()})
    searched("tiny", LAYER, Objective("energy"))
    searched("tiny", LAYER, Objective("energy"))
    searched("tiny", LAYER, Objective("energy", dear))  # of the same name
    assert len(calls) == 9


@pytest.mark.parametrize("arch", ["tiny", "mesh1x4"])
def test_a_renamed_mapping_is_the_one_that_a_search_would_find(arch):
    config, other = load_arch(arch), LAYER.model_copy(update={"name": "B"})
    first, second = search(config, LAYER), search(config, other)
    assert second.mapping.layer == other
    assert search.__wrapped__(config, other).mapping == second.mapping
    assert first.mapping.to_json() == second.mapping.to_json()


def test_a_network_with_equal_layers():
    layers = load_workload("resnet50").layers
    searched = []

    @once_a_shape
    def count(config, layer):
        searched.append(layer.name)
        return Found(find_mapping(config, LAYER), 0)

    config = load_arch("tiny")
    for layer in layers:
        count(config, layer)
    assert (len(layers), len(searched)) == (72, 30)


def test_the_next_best_dataflow_is_told_by_the_least_estimates():
    config, names = load_arch("tiny"), ("rs", "ws", "rs-b")
    alone = {name: search(config, LAYER, load_dataflows(name)) for name in names}
    both = search(config, LAYER, tuple(flow for name in names for flow in load_dataflows(name)))
    assert both.estimates == {name: found.estimate for name, found in alone.items()}
    name, share = both.rival
    others = {flow: cost for flow, cost in both.estimates.items() if flow != both.mapping.dataflow}
    assert others[name] == min(others.values())
    assert share == pytest.approx(others[name] / both.estimates[both.mapping.dataflow] - 1)
    assert alone["rs"].rival is None
    assert replace(both, estimates={"rs": 0.0, "ws": 1.0, "rs-b": 0.0}).rival is None
