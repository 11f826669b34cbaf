"""Whole layers on whole accelerators: generated Verilog in Verilator, through AXI, every output word compared."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.sw import flow
from rowmesh.sw.assembler import too_many_loops
from rowmesh.sw.dataflow import ANY, load_dataflow, load_dataflows
from rowmesh.sw.mapper import UnmappableError, candidates, flattened
from rowmesh.sw.spec import load_arch
from rowmesh.sw.workload import Layer, load_workload

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


@pytest.mark.parametrize("arch", ["tiny", "primes"])
def test_channels_that_are_no_whole_beats(arch):
    """Groups of a PE and of several chains fill beats together, but not the last one.

    On ``tiny`` a beat holds more channels than there are: neighbouring columns are in it.
    """
    config, mappings = load_arch(arch), {}
    layers = [Layer(name=kind, kind=kind, C=6, H=8, W=10, R=2, S=2) for kind in ("avgpool", "maxpool")]
    layers += [Layer(name="add", kind="add", C=10, H=5, W=5)]
    layers += [Layer(name="grouped", M=6, C=4, H=6, W=9, R=3, S=3, groups=2, output=out) for out in ("raw", "requant")]
    for layer in layers:
        for shape in (layer, *flattened(config, layer)):
            for _, m in candidates(config, shape, load_dataflows(ANY)):
                beats = "whole" if m.g0 == 1 or m.g_y % max(1, m.out_lanes // m.g0) == 0 else "ragged"
                mappings.setdefault((layer.name, layer.output, m.planar, m.ofmap_layout.planar, m.stationary, beats), m)
    kinds = set(mappings)
    assert any(kind[-1] == "ragged" for kind in kinds) == (arch == "primes")
    assert any(kind[0] == "avgpool" and kind[2] for kind in kinds) == (arch == "tiny")
    chosen = [m for m in mappings.values() if not too_many_loops(m)]
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


@st.composite
def layers(draw, size=11, channels=12):
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    c = draw(st.integers(1, channels)) * (8 if groups > 1 else 1)
    m = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16])) * groups
    padding = [
        draw(st.integers(0, r - 1)),
        draw(st.integers(0, s - 1)),
        draw(st.integers(0, r - 1)),
        draw(st.integers(0, s - 1)),
    ]
    dilation = [draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2]))]
    return Layer(
        name="random",
        N=draw(st.integers(1, 2)),
        M=m,
        C=c * groups if groups > 1 else c,
        H=draw(st.integers((r - 1) * dilation[0] + 1, size)),
        W=draw(st.integers((s - 1) * dilation[1] + 1, size + 2)),
        R=r,
        S=s,
        stride=[draw(st.integers(1, 3)), draw(st.integers(1, 3))],
        padding=padding,
        dilation=dilation,
        groups=groups,
        output=draw(st.sampled_from(["raw", "requant"])),
    )


def run_random(config, examples, strategy, *, repeatable):
    """Run random layers, or see them refused: every word, every count, every part's cycles.

    They run one after another, and then all in one program.
    """
    mappings = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=repeatable,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(layer=strategy)
    def draw(layer):
        try:
            mappings.append(flow.map_layer(config, layer).mapping)
        except UnmappableError as error:
            assert "random" in str(error)
            assert "\n" not in str(error)

    draw()
    assert mappings
    for mapping, result in zip(mappings, flow.run_mappings(mappings), strict=True):
        assert result.outputs.checked == mapping.layer.outputs
        assert result.failures() == []
        assert result.rtl.parts == result.predicted.parts
    together = flow.run_sequence(mappings)
    assert together.failures() == []
    if repeatable:  # a layer that is shorter than the next one's program can be some cycles off
        assert together.rtl.cycles == together.predicted.cycles


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.name)
def test_random_layers_are_right_and_predicted_or_refused(config):
    run_random(config, 8, layers(11, 11) | layers(24, 24), repeatable=True)


@pytest.mark.slow
@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.name)
def test_many_random_layers_are_right_and_predicted_or_refused(config):
    run_random(config, 100, layers(20, 20), repeatable=False)
