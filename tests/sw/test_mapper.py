"""Mappings, their counts, and the mapper."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError, weight_beats
from rowmesh.sw.mapping.dataflow import ANY, load_dataflows
from rowmesh.sw.mapping.orders import WEIGHT
from rowmesh.sw.model.counts import access_counts, dram_beats
from rowmesh.sw.model.performance import PARTS
from rowmesh.sw.model.predict import STEPS_AHEAD, predict
from rowmesh.sw.program import engines as compiler
from rowmesh.sw.program.assemble import memory_map, packed_weights
from rowmesh.sw.search.mapper import UnmappableError, find_mapping
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer, load_workload

FLOWS = load_dataflows(ANY)
SMALL = ArchConfig(rows=4, cols=5, data_width=16, glb_iact_flits=512, glb_weight_flits=64, psum_bank_words=96)
LAYER = Layer(name="small", M=8, C=8, H=7, W=9, R=3, S=3, padding=1)


def count_tokens(mapping):
    """Access counts by walking the nests that the hardware walks."""
    nests = compiler.nests(mapping.cluster, memory_map(mapping))
    read = nests[Engine.READ_IACT]
    tokens = read.tokens({})
    low = np.where(read.holds("first_mask", tokens, "first"), read.values.get("low_first", 0), read.values["low"])
    last, edge = read.holds("last_mask", tokens, "last"), read.holds("edge_mask", tokens, "last")
    high = np.where(
        last, np.where(edge, read.values.get("high_edge", 0), read.values["high_last"]), read.values["high"]
    )
    lanes = np.arange(mapping.cluster.lanes)
    valid = (lanes >= low[:, None]) & (lanes <= high[:, None])
    x = tokens["x"][:, None] + (lanes if read.values["lanes_along_x"] else 0)
    row = (tokens["y"] >= 0) & (tokens["y"] < read.values["height"])
    row &= (tokens["block"] >= 0) & (tokens["block"] < read.values["blocks"])
    inside = row[:, None] & (x >= 0) & (x < read.values["width"])
    load = nests[Engine.LOAD_IACT]
    segments = load.tokens({})
    start, length = segments["x"], load.values["length"]
    beats = np.minimum(start + length, load.values["width"]) - np.maximum(start, 0)
    good = (segments["y"] >= 0) & (segments["y"] < load.values["height"]) & (segments["block"] < load.values["blocks"])
    return {
        "noc.iact.injected": int(valid.sum()),
        "glb.iact.read": int((valid & inside).sum()),
        "beats.iact": int(np.clip(beats, 0, None)[good].sum()),
        "steps": nests[Engine.STEP].steps,
    }


@st.composite
def layers(draw):
    r, s = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Layer(
        name="random",
        N=draw(st.integers(1, 2)),
        M=draw(st.sampled_from([2, 3, 4, 8])),
        C=draw(st.sampled_from([1, 3, 4, 6, 8, 12])),
        H=draw(st.integers(r, 9)),
        W=draw(st.integers(s, 9)),
        R=r,
        S=s,
        stride=[draw(st.integers(1, 3)), draw(st.integers(1, 3))],
        padding=[draw(st.integers(0, r - 1)), draw(st.integers(0, s - 1))],
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(layer=layers(), pick=st.integers(0, 10**6))
def test_closed_forms_equal_the_nests(layer, pick):
    found = [mapping for _, mapping in itertools.islice(candidates(SMALL, layer, FLOWS), 300)]
    assume(found)
    mapping = found[pick % len(found)]
    counted = count_tokens(mapping)
    predicted = access_counts(mapping)
    assert predicted["noc.iact.injected"] == counted["noc.iact.injected"]
    assert predicted["glb.iact.read"] == counted["glb.iact.read"]
    assert dram_beats(mapping.cluster)["iact"] == counted["beats.iact"]
    parts = predict(mapping).parts
    ahead = STEPS_AHEAD + SMALL.uop_fifo + SMALL.link_segment  # issued before the first one is done
    assert max(0, counted["steps"] - ahead) <= parts["compute"] <= counted["steps"]
    assert min(parts.values()) >= 0


@pytest.mark.parametrize("layer", load_workload("alexnet").layers[0:3:2], ids=lambda layer: layer.name)
def test_alexnet_uses_nine_tenths_of_the_array(layer):
    config = load_arch("eyeriss")
    prediction = predict(find_mapping(config, layer))
    assert list(prediction.parts) == list(PARTS)
    assert sum(prediction.parts.values()) == prediction.cycles
    assert layer.macs / config.pes / prediction.cycles > 0.89


@pytest.mark.parametrize("flow", ["ws", "systolic"])
def test_64_filters_fill_all_columns_of_the_systolic_array(flow):
    layer = next(layer for layer in load_workload("resnet50").layers if layer.name == "RES2a_1")
    config = load_arch("systolic16")
    mapping = find_mapping(config, layer, load_dataflows(flow))
    assert (mapping.cluster.m_x, mapping.cluster.c_s) == (config.cols, config.rows)


def test_every_word_of_the_weights_is_packed_once():
    mapping = find_mapping(SMALL, LAYER)
    weights = np.arange(LAYER.m * LAYER.c * 9).reshape(LAYER.m, LAYER.c, 3, 3) + 1
    packed = np.frombuffer(packed_weights(mapping, weights), "<i2")
    assert sorted(packed[packed != 0]) == list(range(1, weights.size + 1))
    assert len(packed) == weight_beats(mapping.cluster) * mapping.cluster.lanes


def test_an_illegal_mapping_names_the_rule():
    factors = find_mapping(SMALL, LAYER).cluster.to_json() | {"order": WEIGHT}
    with pytest.raises(IllegalMappingError, match="columns exceed the array's 5"):
        ClusterMapping(config=SMALL, layer=LAYER, **{**factors, "p_x": 3, "m_x": 2})
    with pytest.raises(IllegalMappingError, match="must divide"):
        ClusterMapping(config=SMALL, layer=LAYER, **{**factors, "m0": 3, "q0": 1, "p0": 1})


def test_a_layer_that_cannot_run_is_refused_with_a_reason():
    pool = Layer(name="pool", kind="maxpool", C=8, H=6, W=6, R=3, S=3)
    with pytest.raises(UnmappableError, match=r"layer pool: .*maxpool needs PEs that can \(pe\.max_pooling: true\)"):
        find_mapping(SMALL.replace(max_pooling=False), pool)


def test_a_filter_wider_than_a_spad_is_in_parts():
    """And so is a window over a plane that does not fit the global buffer."""
    wide = Layer(name="wide", M=4, C=4, H=3, W=40, R=3, S=39)
    assert find_mapping(SMALL, wide).cluster.s0 < 39
    plane = Layer(name="plane", kind="avgpool", C=16, H=190, W=190)
    m = find_mapping(SMALL, plane, load_dataflows("any")).cluster
    assert m.r_d > 1
    assert m.slice_flits * m.images_kept <= SMALL.glb_iact_flits < 190 * 190
