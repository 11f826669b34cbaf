"""Whole layers on meshes of clusters: every output, every count, every part's cycles."""

import random

import pytest
from architectures import ported
from random_mappings import random_layer

from rowmesh.hw.router import LINKS
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import IllegalMappingError
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.layer import LayerMapping, Splits, sub_layer
from rowmesh.sw.program.assemble import beyond_limits
from rowmesh.sw.search.mapper import UnmappableError
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import KINDS, Layer

CONV = Layer(name="conv", M=32, C=32, H=10, W=9, R=3, S=3, padding=1, output="requant")
RAW = Layer(name="raw", M=32, C=16, H=11, W=8, R=3, S=3, stride=2, padding=[0, 1, 2, 0])
POINTWISE = Layer(name="pointwise", M=64, C=64, H=8, W=6, R=1, S=1, output="requant")
WIDE = Layer(name="wide", M=32, C=64, H=4, W=30, R=1, S=1, output="requant")
DEPTHWISE = Layer(name="depthwise", kind="depthwise", C=64, H=10, W=9, R=3, S=3, padding=1, output="requant")
FC = Layer(name="fc", kind="fc", M=128, C=256, output="requant")
PHOTO = Layer(name="photo", M=32, C=3, H=13, W=19, R=3, S=4, stride=2, N=2)
TWO_ROWS = Layer(name="two_rows", kind="depthwise", C=64, H=9, W=9, R=2, S=3, padding=[0, 1, 0, 1], output="requant")
GROUPED = Layer(name="grouped", M=96, C=32, groups=2, H=14, W=14, R=3, S=3, padding=1, output="requant")
THIN = Layer(name="thin", M=40, C=24, H=12, W=12, R=3, S=3, padding=1, output="requant")
POOL = Layer(name="pool", kind="maxpool", C=64, H=8, W=8, R=2, S=2)

LARGER = (
    Layer(name="conv", M=128, C=64, H=16, W=16, R=3, S=3, padding=1, output="requant"),
    Layer(name="pointwise", M=256, C=128, H=14, W=14, R=1, S=1, output="requant"),
    Layer(name="depthwise", kind="depthwise", C=128, H=16, W=16, R=3, S=3, padding=1, output="requant"),
    Layer(name="fc", kind="fc", M=1024, C=512, output="requant"),
)
"""For 16 clusters."""

SPLITS = {
    "filters": (CONV, {"m_y": 2, "m_x": 2}),
    "filters and rows": (CONV, {"m_y": 2, "p_x": 2}),
    "rows and filters": (CONV, {"p_y": 2, "m_x": 2}),
    "some clusters": (RAW, {"m_y": 2}),
    "channels": (CONV, {"c_y": 2}),
    "channels and filters": (CONV, {"c_y": 2, "m_x": 2}),
    "channels and rows": (RAW, {"c_y": 2, "p_x": 2}),
    "groups": (DEPTHWISE, {"g_y": 2, "g_x": 2}),
    "groups and rows": (DEPTHWISE, {"g_y": 2, "p_x": 2}),
    "pools": (POOL, {"g_y": 2, "p_x": 2}),
    "filters, one output": (FC, {"m_y": 2, "m_x": 2}),
    "channels, one output": (FC, {"c_y": 2, "m_x": 2}),
    "channels of two images": (FC.with_batch(2), {"c_y": 2, "m_x": 2}),
}


def check(mappings):
    assert flow.run_sequence(mappings).failures() == []
    for mapping, result in zip(mappings, flow.run_mappings(mappings), strict=True):
        assert result.outputs.checked == mapping.layer.outputs
        assert result.failures() == []
        assert result.rtl.parts == result.predicted.parts


PORTED = {
    "filters and rows": ("ws", CONV, {"m_y": 2, "p_x": 2}),
    "rows and filters": ("os-c", CONV, {"p_y": 2, "m_x": 2}),
    "channels and filters": ("ws", POINTWISE, {"c_y": 2, "m_x": 2}),
    "groups and rows": ("rs-g", TWO_ROWS, {"g_y": 2, "p_x": 2}),
}
"""Splits whose clusters' rows are shared by two ports, each with routers of its own: channels, filters, groups."""


def given(config, layer, factors, ports=1, names=("rs", "ws", "os-a")):
    splits, flows = Splits(**factors), tuple(load_dataflow(name) for name in names)
    if ports == 1:
        found = flow.map_layer(config.cluster, sub_layer(layer, splits, 0, 0).layer, flows).mapping
        return LayerMapping(config, layer, splits, found.cluster)
    found = (mapping for _, mapping in candidates(config, layer, flows, splits))
    return next(mapping for mapping in found if mapping.cluster.ports == ports)


def test_every_split_back_to_back():
    """A layer after the other on one mesh: routes, chains and banks of each are no other's, and no PE's work.

    Clusters have two ports of each operand; a layer's rows are fed by the first or by both.
    """
    config = ported()
    mappings = [given(config, layer, factors) for layer, factors in SPLITS.values()]
    mappings += [given(config, layer, factors, 2, (name,)) for name, layer, factors in PORTED.values()]
    modes = {(operand, mapping.mode(operand)) for mapping in mappings for operand in LINKS}
    assert {mode for operand, mode in modes if operand == "iact"} >= {
        "unicast",
        "grouped multicast",
        "interleaved multicast",
        "broadcast",
    }
    assert any(mapping.cluster.n0 > 1 for mapping in mappings)
    check(mappings)


def test_blocks_and_filter_tiles_outermost():
    """Shares whose psums stay for blocks of output columns, also in parts, and whose filter tiles are outermost."""
    config = ported()
    chosen = {}
    for layer, factors in ((PHOTO, {"p_y": 2, "m_x": 2}), (CONV, {"c_y": 2, "m_x": 2}), (CONV, {"m_y": 2, "p_x": 2})):
        for _, mapping in candidates(config, layer, (load_dataflow("rs-b"),), Splits(**factors)):
            m = mapping.cluster
            kind = layer.name, str(factors), m.blocked, m.m_outer
            if (m.blocked or m.m_outer) and kind not in chosen and not beyond_limits(mapping):
                chosen[kind] = mapping
    assert {kind[2:] for kind in chosen} >= {(True, False), (True, True)}
    found = (m for _, m in candidates(config, WIDE, (load_dataflow("ws"),), Splits(c_y=2, m_x=2)))
    in_parts = next(m for m in found if 0 < m.cluster.part < m.cluster.q1 and m.cluster.q_rest % m.cluster.part)
    check([*chosen.values(), in_parts])


def test_parameters_of_groups_and_of_thin_filter_tiles():
    """Shares with several filter tiles in each group, and with a last filter tile of fewer columns than the others."""
    grouped = Layer(name="grouped", M=48, C=16, H=8, W=6, R=3, S=3, padding=1, groups=2, output="requant")
    thin = Layer(name="thin", M=40, C=32, H=8, W=6, R=3, S=3, padding=1, output="requant")
    config, mappings = ported(), []
    for layer, factors, fits in (
        (grouped, {"p_x": 2}, lambda m: m.mt > 1 and m.g_t > 1),
        (grouped, {"g_y": 2, "p_x": 2}, lambda m: m.mt > 1),
        (thin, {"p_x": 2}, lambda m: m.m_x_rest < m.m_x),
        (thin, {"c_y": 2, "p_x": 2}, lambda m: m.m_x_rest < m.m_x),
    ):
        flows = tuple(load_dataflow(name) for name in ("rs", "ws"))
        found = (mapping for _, mapping in candidates(config, layer, flows, Splits(**factors)))
        mappings.append(next(mapping for mapping in found if fits(mapping.cluster)))
    check(mappings)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mesh2x2", "mesh1x4", "eyeriss_v2"])
@pytest.mark.parametrize("name", ["rs", "ws", "os-a", "os-b", "os-c", "is", "nlr", "rs-g", "rs-b"])
def test_every_dataflow_that_maps(arch, name):
    """The mapper's choice under each dataflow, for layers that are given and for two of each kind that are drawn."""
    config, mappings, rng = load_arch(arch), [], random.Random(f"{arch} {name}")
    layers = LARGER if arch == "eyeriss_v2" else (CONV, RAW, POINTWISE, DEPTHWISE, FC, POOL, GROUPED, THIN)
    drawn = [random_layer(rng, f"random{number}", kind) for number, kind in enumerate((*KINDS, *KINDS))]
    for layer in (*layers, *drawn):
        try:
            mappings.append(flow.map_layer(config, layer, (load_dataflow(name),)).mapping)
        except UnmappableError as error:
            assert layer.name in str(error)
            assert "\n" not in str(error)
    assert mappings
    check(mappings)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [2, 4, 16])
def test_clusters_drained_together(lanes):
    """Each split with sets of one cluster, and of both rows; by default clusters of a row are drained together."""
    config = load_arch("mesh2x2").replace(drain_lanes=lanes, name=f"mesh2x2_{lanes}")
    check([given(config, layer, factors) for layer, factors in SPLITS.values()])


def test_illegal_splits_are_refused():
    with pytest.raises(IllegalMappingError, match="whole shares"):
        sub_layer(CONV, Splits(m_y=3), 0, 0)
