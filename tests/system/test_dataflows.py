"""Every dataflow and every kind of layer on whole accelerators: right or refused, never wrong and never hung."""

import itertools
import random
from dataclasses import replace

import pytest
from architectures import MORE_SHAPES, SHAPES, of_lanes
from random_mappings import random_layer

from rowmesh.sw import run as flow
from rowmesh.sw.inputs.yaml import shipped_names
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.file import read_mappings, write_mappings
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.mapping.orders import BLOCK, PSUM, WEIGHT
from rowmesh.sw.model.counts import access_counts
from rowmesh.sw.program.assemble import beyond_limits, cannot_run
from rowmesh.sw.search.mapper import UnmappableError
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import KINDS, Layer

FLOWS = shipped_names("dataflows")


def check(mappings, exact=True):
    """Run mappings one after another: every output word, every count, the gated multipliers, every part's cycles.

    Without ``exact``, cycles need only be within the tolerance of a run.
    """
    for mapping, result in zip(mappings, flow.run_mappings(mappings), strict=True):
        assert result.outputs.checked == mapping.layer.outputs
        assert result.failures() == []
        assert not exact or result.rtl.parts == result.predicted.parts


def drawn(config, flows, kind, cases):
    """For random layers of a kind, the mapper's choice and any other mapping of its space, or a reason without.

    Each mapping is a case, and each refusal: layers are drawn until there are as many as asked for.
    """
    rng = random.Random(f"{config.name} {[one.name for one in flows]} {kind}")
    mappings, refused = [], 0
    while len(mappings) + refused < cases:
        layer = random_layer(rng, f"random{len(mappings) + refused}", kind)
        try:
            mappings.append(flow.map_layer(config, layer, flows).mapping)
        except UnmappableError as error:
            assert "random" in str(error)
            assert "\n" not in str(error)
            refused += 1
            continue
        legal = [mapping for _, mapping in itertools.islice(candidates(config, layer, flows), 400)]
        if legal:  # the mapper also searches where these few choices are not enough
            mappings.append(rng.choice(legal))
    return mappings


def test_kinds_are_right_or_refused():
    flows = tuple(load_dataflow(name) for name in FLOWS)
    mappings = [mapping for kind in KINDS for mapping in drawn(SHAPES[0], flows, kind, 6)]
    assert {mapping.layer.kind for mapping in mappings} == set(KINDS)
    check(mappings)


SHARED = {
    "channels": ("rs", {"C": 16, "M": 12, "R": 2, "S": 3}, lambda mapping: mapping.c_s),
    "filters": ("os-c", {"C": 8, "M": 16, "R": 1, "S": 1}, lambda mapping: mapping.m_y),
    "groups": ("rs-g", {"kind": "depthwise", "C": 24, "R": 3, "S": 3, "padding": 1}, lambda mapping: mapping.g_y),
}


@pytest.mark.parametrize("shared", SHARED)
def test_ports_share(shared):
    """Channels, filters or groups along the rows, each port with its own."""
    config, (name, sizes, along) = SHAPES[-1], SHARED[shared]
    layer = Layer.model_validate({"name": shared, "H": 9, "W": 7, "output": "requant"} | sizes)
    legal = [mapping for _, mapping in candidates(config, layer, (load_dataflow(name),))]
    split = [mapping for mapping in legal if mapping.cluster.ports == 2 and along(mapping.cluster) > 1]
    assert {(m.cluster.weight_ports, m.cluster.iact_ports) for m in split} == {(2, 1 if shared == "filters" else 2)}
    check(split[:: max(1, len(split) // 8)])


def test_images_share_weights():
    """Tiles of several images: in both orders that take them, whatever else stays, and one tile or several of them."""
    config, window = SHAPES[0], {"R": 3, "S": 2, "padding": 1, "H": 6, "W": 5}
    layers = (
        Layer.model_validate({"name": "conv", "N": 4, "M": 8, "C": 8, "stride": 2, "output": "requant"} | window),
        Layer.model_validate({"name": "packed", "N": 2, "M": 8, "C": 3} | window),
        Layer(name="fc", kind="fc", N=6, M=24, C=16),
        Layer.model_validate({"name": "groups", "kind": "depthwise", "N": 4, "C": 16, "output": "requant"} | window),
    )
    chosen = {}
    for layer, name in itertools.product(layers, ("rs", "rs-g", "ws", "os-b")):
        for _, mapping in candidates(config, layer, (load_dataflow(name),)):
            m = mapping.cluster
            kind = layer.name, m.order, m.resident, m.r_t > 1, m.weights_stay, m.n_t > 1
            if m.n0 > 1 and kind not in chosen and not beyond_limits(mapping):
                chosen[kind] = mapping
    assert {kind[1:4] for kind in chosen} >= set(itertools.product((WEIGHT, PSUM), (False, True), (False, True)))
    assert {kind[4:] for kind in chosen} == set(itertools.product((False, True), (False, True)))
    check(list(chosen.values()))


def test_psums_of_a_block_stay_while_channels_pass():
    """Blocks of output columns, filter tiles outermost or not; packed and blocked tensors, all kinds of last ones."""
    layers = (
        Layer.model_validate({"name": "packed", "N": 2, "M": 8, "C": 3, "H": 9, "W": 23, "R": 3, "S": 5, "stride": 2}),
        Layer.model_validate(
            {"name": "tall", "N": 2, "M": 12, "C": 3, "H": 12, "W": 17, "R": 4, "S": 4, "stride": [3, 4]}
        ),
        Layer.model_validate(
            {
                "name": "conv",
                "N": 2,
                "M": 16,
                "C": 16,
                "H": 6,
                "W": 10,
                "R": 3,
                "S": 2,
                "padding": 1,
                "output": "requant",
            }
        ),
        Layer.model_validate({"name": "jump", "M": 8, "C": 16, "H": 7, "W": 13, "R": 1, "S": 2, "stride": 3}),
        Layer.model_validate({"name": "groups", "M": 16, "C": 16, "H": 5, "W": 9, "R": 2, "S": 3, "groups": 2}),
    )
    chosen = {}
    for layer in layers:
        for _, mapping in candidates(SHAPES[0], layer, (load_dataflow("rs-b"),)):
            m = mapping.cluster
            kind = layer.name, m.blocked, m.m_outer, m.ct > 1, m.qt > 1, m.q_block_rest < m.q_block, m.resident
            if (m.blocked or m.m_outer) and kind not in chosen and not beyond_limits(mapping):
                chosen[kind] = mapping
    for name, places in (("packed", (1, 3, 4, 5)), ("conv", (2, 3, 4, 5))):
        kinds = [kind[1:] for kind in chosen if kind[0] == name]
        assert all({kind[place] for kind in kinds} == {False, True} for place in places)
    assert any(not m.cluster.blocked for m in chosen.values())
    check(list(chosen.values()))


def test_layers_begin_with_a_part_of_their_weights():
    """In parts of a block: whole and broken last parts, several rows and images, alone and before and behind others."""
    config = SHAPES[0]
    layers = [
        Layer(name="conv", N=n, M=20, C=16, H=h, W=w, R=1, S=1, output=output)
        for n, h, w, output in ((1, 1, 29, "requant"), (2, 3, 13, "raw"), (1, 2, 16, "requant"))
    ]
    factors = {"r_s": 1, "c_s": 4, "p_x": 1, "m_x": 5, "p0": 1, "m0": 4, "resident": False, "order": BLOCK}
    mappings = [
        ClusterMapping(config=config, layer=layer, dataflow="ws", c0=4 // c1, c1=c1, q0=q, q1=q, **factors)
        for layer in layers
        for c1, q in ((2, 8), (4, 8), (2, 7), (2, 12))
    ]
    mappings.append(replace(mappings[4], n0=2))
    one = layers[0].model_copy(update={"m": 1})
    mappings.append(replace(mappings[0], layer=one, m_x=1, m0=1))
    assert mappings[-1].ofmap_layout.planar
    assert mappings[-1].part == 4
    assert {(m.part, m.q1) for m in mappings} == {(4, 8), (7, 7), (4, 12)}
    assert {m.q_rest % m.part == 0 for m in mappings} == {False, True}
    assert {m.qt for m in mappings} > {2}
    mappings = [LayerMapping.alone(mapping) for mapping in mappings]
    check(mappings)
    others = [flow.map_layer(config, layer).mapping for layer in layers[:2]]
    for sequence in (mappings[:3], [mappings[0], *others, mappings[-1]], [others[0], *mappings[-2:]]):
        result = flow.run_sequence(sequence)
        assert result.outputs.checked == sum(m.layer.outputs for m in sequence)
        assert result.failures() == []
        assert result.rtl.parts == result.predicted.parts


def test_a_first_layer_shares_the_memory_with_the_fetch_of_its_program():
    """Short bursts of weights come while those of the first fetch still take places among the bursts in flight."""
    config, factors = SHAPES[0], {"r_s": 1, "c_s": 1, "c0": 1, "p_x": 1, "m_x": 1, "p0": 1, "q0": 1, "m0": 1, "g0": 4}
    layers = [
        Layer(name="add", kind="add", C=32, H=1, W=w, output=output) for w, output in ((8, "requant"), (40, "raw"))
    ]
    of_clusters = [ClusterMapping(config, layer, "os-c", resident=False, order=PSUM, **factors) for layer in layers]
    check([LayerMapping.alone(mapping) for mapping in of_clusters])


OWN = """
dataflow:
  description: channels outermost, columns between the filter's columns and rows
  constraints:
    - {target: rows, type: spatial, dimensions: [C, M]}
    - {target: columns, type: spatial, dimensions: [P, M]}
    - {target: pe, type: temporal, permutation: [CSQRM, MRQCS, QRCSM, QCQCRSM]}
"""


def test_an_order_is_a_line_of_a_file(tmp_path):
    """Orders that no shipped dataflow has; psums, iacts, weights or blocks stay, which follows from the loops."""
    path, config = tmp_path / "own.yaml", SHAPES[0]
    path.write_text(OWN)
    flow_of = load_dataflow(path)
    layer = Layer.model_validate(
        {"name": "own", "M": 8, "C": 16, "H": 9, "W": 8, "R": 3, "S": 2, "stride": [2, 1], "padding": 1}
    )
    chosen = {}
    for _, mapping in candidates(config, layer, (flow_of,)):
        m = mapping.cluster
        inside = min(m.layer.s * m.r0, m.c0, m.q_pe, m.m0) > 1 and (m.order.slides or m.r0 > 1)
        if inside and m.order not in chosen and not beyond_limits(mapping):
            chosen[m.order] = mapping
    assert set(chosen) == set(flow_of.orders)
    check(list(chosen.values()))
    text = write_mappings([(layer, mapping) for mapping in chosen.values()])
    for mapping in chosen.values():
        path.write_text(write_mappings([(layer, mapping)]))
        assert read_mappings(path, config, [layer], cannot_run) == [mapping]
        assert f"{mapping.cluster.order.inner}GM" in text


def test_the_mapper_shares_weights_among_images():
    """The weights of a batch are loaded once if its psums fit the banks."""
    layer, flows = Layer(name="fc", kind="fc", N=4, M=24, C=64), (load_dataflow("ws"),)
    mapping = flow.map_layer(SHAPES[0], layer, flows, "dram").mapping
    assert mapping.cluster.n0 == 4
    assert access_counts(mapping)["dram.weight.read"] == 24 * 64
    check([mapping])


def test_accumulators_of_more_filters_than_parameters():
    """A raw output has no parameters: a column's filters may be more than the parameter buffer holds."""
    layer = Layer(name="many", kind="fc", M=200, C=8)
    legal = [mapping for _, mapping in candidates(SHAPES[0], layer, (load_dataflow("is"),))]
    most = max(legal, key=lambda mapping: mapping.cluster.column_filters)
    assert most.cluster.column_filters > 2 * SHAPES[0].param_words
    check([most])


@pytest.mark.parametrize("width", [14, 8])
def test_the_end_waits_for_columns_without_words(width):
    """In the last row step only one column has words; the other group's are gone past when all is stored."""
    layer = {"name": "edge", "kind": "depthwise", "C": 32, "H": 7, "W": width, "R": 3, "S": 1, "output": "requant"}
    layer |= {"stride": [1, 2], "padding": [1, 0, 0, 0]}
    factors = {"r_s": 1, "c_s": 1, "c0": 1, "p_x": 5, "m_x": 1, "p0": 1, "q0": 4, "m0": 1, "g0": 16, "resident": False}
    mapping = ClusterMapping(config=SHAPES[0], layer=Layer.model_validate(layer), dataflow="rs", **factors)
    assert mapping.p_rest == 1
    assert mapping.columns > mapping.config.lanes
    check([LayerMapping.alone(mapping)])


@pytest.mark.parametrize("lanes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_columns_fill_beats_together(lanes):
    """Columns whose filters are no whole beats, in every order of a PE and with thinner last filter tiles."""
    config = of_lanes(lanes)
    sizes = {"C": 8, "H": 6, "W": 7, "R": 3, "S": 2, "padding": 1}
    shapes = [("raw", 12), ("requant", 12), ("requant", 24)]
    layers = [Layer.model_validate({"name": "shared", "M": m, "output": output} | sizes) for output, m in shapes]
    merged = [
        mapping
        for layer, name in itertools.product(layers, ("ws", "os-b", "os-c"))
        for _, mapping in candidates(config, layer, (load_dataflow(name),))
        if mapping.cluster.merged > 1
    ]
    assert {mapping.cluster.merged for mapping in merged} == ({2, 4} if lanes == 1 else {2})
    thin = [mapping for mapping in merged if mapping.cluster.m_x_rest < mapping.cluster.m_x]
    assert bool(thin) == (lanes == 1)
    some = merged[:: max(1, len(merged) // 24)] + thin[:: max(1, len(thin) // 8)]
    assert {mapping.cluster.order for mapping in some} == {WEIGHT, BLOCK, PSUM}
    check(some)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("config", [*SHAPES, *MORE_SHAPES], ids=lambda config: config.name)
def test_each_dataflow_with_each_kind(config, name, kind):
    """26 cases, two mappings of a layer or a refusal, on 8 arrays: 208 of a dataflow and a kind."""
    mappings = drawn(config, (load_dataflow(name),), kind, 26)
    if mappings:
        check(mappings, exact=False)
