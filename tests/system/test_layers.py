"""Whole layers on whole accelerators: generated Verilog in Verilator, through AXI, every output word compared."""

import random

import pytest
from architectures import SHAPES
from random_mappings import random_layer

from rowmesh.hw.config import ArchConfig
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import ANY, load_dataflow, load_dataflows
from rowmesh.sw.program.assemble import beyond_limits
from rowmesh.sw.search.mapper import UnmappableError
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer, load_workload

SMALL = {
    "glb_iact_flits": 256,
    "glb_weight_flits": 64,
    "psum_bank_words": 96,
    "param_words": 64,
    "weight_spad": 48,
    "iact_spad": 12,
    "psum_spad": 12,
    "nest_levels": 10,
}
ARCHITECTURES = [
    ArchConfig(name="row", rows=1, cols=5, data_width=8, **SMALL),
    ArchConfig(name="column", rows=7, cols=1, data_width=16, acc_width=24, **SMALL),
    ArchConfig(name="prime", rows=3, cols=5, data_width=16, link_segment=2, pe_counters=True, **SMALL),
]


@pytest.mark.parametrize("layer", load_workload("demo").layers, ids=lambda layer: layer.name)
def test_demo_layers_pass_on_tiny(layer):
    result = flow.run_layer(load_arch("tiny"), layer)
    assert result.failures() == []
    assert result.outputs.checked == layer.outputs


@pytest.mark.parametrize("arch", ["tiny", pytest.param("primes", marks=pytest.mark.slow)])
def test_channels_that_are_no_whole_beats(arch):
    """Groups of a PE and of several chains fill beats together, but not the last one.

    On ``tiny`` a beat holds more channels than there are: neighbouring columns are in it.
    """
    config, mappings = load_arch(arch), {}
    layers = [Layer(name=kind, kind=kind, C=6, H=8, W=10, R=2, S=2) for kind in ("avgpool", "maxpool")]
    layers += [Layer(name="add", kind="add", C=10, H=5, W=5)]
    layers += [Layer(name="grouped", M=6, C=4, H=6, W=9, R=3, S=3, groups=2, output=out) for out in ("raw", "requant")]
    for layer in layers:
        for _, mapping in candidates(config, layer, load_dataflows(ANY)):
            m = mapping.cluster
            beats = "whole" if m.g0 == 1 or m.g_y % max(1, m.out_lanes // m.g0) == 0 else "ragged"
            kind = layer.name, layer.output, m.planar, m.ofmap_layout.planar, m.order, beats
            mappings.setdefault(kind, mapping)
    kinds = set(mappings)
    assert any(kind[-1] == "ragged" for kind in kinds) == (arch == "primes")
    assert any(kind[0] == "avgpool" and kind[2] for kind in kinds) == (arch == "tiny")
    chosen = [m for m in mappings.values() if not beyond_limits(m)]
    for result in flow.run_mappings(chosen):
        assert result.failures() == []


def test_the_main_job_passes():
    for layer in load_workload("demo").layers:
        result = flow.run_layer(load_arch("eyeriss"), layer)  # as `make run`
        assert result.failures() == []
        assert result.outputs.checked == layer.outputs


def test_the_next_layer_costs_no_more_than_its_first_words():
    """Layers in one program, each under another dataflow: descriptors and weights are there when a layer begins."""
    config, layer = load_arch("tiny"), load_workload("demo").layers[1]
    mappings = [flow.map_layer(config, layer, (load_dataflow(name),)).mapping for name in ("rs", "ws", "is")]
    alone = [flow.predict_mapping(mapping).predicted for mapping in mappings]
    together = flow.run_sequence(mappings)
    assert together.failures() == []
    assert together.rtl.parts["config"] == alone[0].parts["config"]
    assert together.rtl.cycles < sum(one.cycles for one in alone) - sum(one.parts["config"] for one in alone[1:])


def test_random_stalls_change_no_word_and_no_count():
    layer = load_workload("demo").layers[1]
    result = flow.run_layer(load_arch("tiny"), layer, memory="axi-random", seed=5)
    assert result.failures() == []
    mapping = flow.map_layer(load_arch("tiny"), layer).mapping
    assert flow.run_sequence([mapping, mapping], memory="axi-random", seed=6).failures() == []


def run_random(config, count, *, exact):
    """Run so many random layers, and see others refused: every word, every count, every part's cycles.

    They run one after another, and then all in one program.
    """
    rng, mappings = random.Random(config.name), []
    while len(mappings) < count:
        try:
            mappings.append(flow.map_layer(config, random_layer(rng, f"random{len(mappings)}")).mapping)
        except UnmappableError as error:
            assert "random" in str(error)
            assert "\n" not in str(error)
    for mapping, result in zip(mappings, flow.run_mappings(mappings), strict=True):
        assert result.outputs.checked == mapping.layer.outputs
        assert result.failures() == []
        assert result.rtl.parts == result.predicted.parts
    together = flow.run_sequence(mappings)
    assert together.failures() == []
    if exact:  # a layer that is shorter than the next one's program can be some cycles off
        assert together.rtl.cycles == together.predicted.cycles


def test_random_layers_are_right_and_predicted_or_refused():
    run_random(SHAPES[0], 6, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.name)
def test_many_random_layers_are_right_and_predicted_or_refused(config):
    run_random(config, 60, exact=False)
