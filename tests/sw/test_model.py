"""The model: a part of a layer's outer loops stands for all of them."""

from dataclasses import replace

import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.inputs.yaml import shipped_names
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.mapping.orders import IACT
from rowmesh.sw.model import predict as model
from rowmesh.sw.model.closed_form import estimate
from rowmesh.sw.model.performance import PARTS
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer, load_workload

CONFIG = ArchConfig(
    name="small",
    rows=4,
    cols=5,
    data_width=16,
    iact_spad=48,
    weight_spad=96,
    psum_spad=16,
    glb_iact_flits=512,
    glb_weight_flits=64,
    psum_bank_words=256,
    nest_levels=11,
)
LAYERS = [
    Layer(name="conv", N=2, M=64, C=48, H=20, W=20, R=3, S=3, padding=1),
    Layer(name="strided", M=64, C=3, H=61, W=61, R=5, S=5, stride=2, output="requant"),
    Layer(name="depthwise", kind="depthwise", C=128, H=28, W=28, R=3, S=3, padding=1),
    Layer(name="pointwise", M=128, C=128, H=14, W=14, R=1, S=1),
    Layer(name="fc", kind="fc", M=500, C=512),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("flow", ["rs", "is", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ws", "os-a"))])
def test_a_part_stands_for_the_whole(layer, flow):
    mapping = find_mapping(CONFIG, layer, (load_dataflow(flow),))
    whole = model.predict_parts(mapping, replace(model.FINE, largest=10**9))
    part = model.predict_parts(mapping, replace(model.FINE, largest=100_000))
    cycles = sum(whole.values())
    assert cycles > 50_000
    assert abs(sum(part.values()) - cycles) <= cycles // 500  # a tenth of what a prediction may be off
    assert max(abs(part[name] - whole[name]) for name in PARTS) <= cycles // 100


def test_work_is_what_is_run():
    mapping = find_mapping(CONFIG, LAYERS[0])
    whole = replace(model.FINE, largest=10**9)
    assert model.work(mapping, model.COARSE) < model.work(mapping) < model.work(mapping, whole)


# all but nlr: one filter a PE leaves a handful of mappings, of depthwise layers only
RANKED = sorted(set(shipped_names("dataflows")) - {"nlr"})
SHORT = ("rs", "ws", "is", "os-c")


@pytest.mark.parametrize(
    "flow",
    [name if name in ("rs", "ws", "is", "os-c") else pytest.param(name, marks=pytest.mark.slow) for name in RANKED],
)
def test_the_estimate_ranks_as_the_prediction_does(flow):
    layer = Layer(name="ranked", M=32, C=16, H=14, W=14, R=3, S=3, padding=1)
    found = [mapping for _, mapping in candidates(CONFIG, layer, [load_dataflow(flow)])]
    assert len(found) >= 20
    chosen = sorted(found, key=lambda mapping: estimate(mapping.cluster))[:: max(1, len(found) // 12)]
    cycles = [sum(model.predict_parts(mapping).values()) for mapping in chosen]
    pairs = [(a, b) for k, a in enumerate(cycles) for b in cycles[k + 1 :]]
    assert sum(a <= 1.02 * b for a, b in pairs) >= 0.75 * len(pairs)


def test_a_beat_that_comes_as_a_layer_ends_is_the_next_ones():
    """Four layers so short that the last one's parameters arrive in the cycle in which the third is drained."""
    config = ArchConfig(
        name="row", rows=1, cols=5, glb_iact_flits=256, glb_weight_flits=64, psum_bank_words=96, param_words=64,
        weight_spad=48, iact_spad=12, psum_spad=12,
    )  # fmt: skip
    common = {"name": "short", "N": 2, "C": 2, "output": "requant"}
    wide = {"M": 16, "H": 10, "W": 3, "R": 1, "S": 2, "dilation": 2}
    layers = [
        Layer(**common, **wide, stride=[2, 1], padding=[0, 1, 0, 1]),
        Layer(**common, **wide, stride=2, padding=[0, 1, 0, 1]),
        Layer(**common, **wide, stride=2, padding=[0, 1, 0, 0]),
        Layer(**common, M=6, H=6, W=13, R=2, S=4, stride=[3, 2], padding=[0, 1, 1, 3]),
    ]
    mappings = [find_mapping(config, layer) for layer in layers]
    cycles = [model.predict(mapping).cycles for mapping in mappings]
    assert max(cycles) < model.predict_sequence(mappings).cycles < sum(cycles)


def test_a_part_of_a_plane_that_is_mostly_padding():
    """Padding is nearly as high as the window on both sides; no part of the layer may be left without a row."""
    layer = Layer(
        name="padded", kind="maxpool", N=2, C=32, H=4, W=11, R=4, S=4, stride=1, padding=[3, 0, 3, 0], output="raw"
    )
    found = [m for _, m in candidates(CONFIG, layer, (load_dataflow("os-c"),)) if m.cluster.pt > 4 or m.cluster.qt > 4]
    for mapping in found[:40]:
        some = model.predict_parts(mapping, replace(model.COARSE, largest=100))
        assert sum(some.values()) > 0
    assert found


@pytest.mark.slow
def test_a_part_is_not_taken_where_waits_grow():
    """RES3a_S of ResNet-50 under IS: over eleven channel tiles the memory falls behind as it does not over four."""
    layer = next(layer for layer in load_workload("resnet50").layers if layer.name == "RES3a_S")
    factors = {
        "r_s": 1,
        "c_s": 12,
        "c0": 2,
        "p_x": 14,
        "m_x": 1,
        "p0": 1,
        "q0": 4,
        "m0": 4,
        "m1": 64,
        "resident": False,
    }
    own = ClusterMapping(config=load_arch("eyeriss"), layer=layer, dataflow="is", order=IACT, **factors)
    mapping = LayerMapping.alone(own)
    whole = sum(model.predict_parts(mapping, replace(model.FINE, largest=10**9)).values())
    assert abs(sum(model.predict_parts(mapping).values()) - whole) <= whole // 200
    assert abs(sum(model.predict_parts(mapping, replace(model.FINE, retries=0)).values()) - whole) > whole // 20
