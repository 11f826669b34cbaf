"""Mesh mappings: shares, routes and what they reach, modes, counts, and what is refused."""

import itertools

import numpy as np
import pytest

from rowmesh.hw.config import ArchConfig, ConfigError
from rowmesh.hw.router import Side
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import IllegalMappingError
from rowmesh.sw.mapping.layer import (
    LayerMapping,
    Splits,
    mode_of,
    replications,
    route_of,
    sets_of,
    splits_of,
    sub_layer,
)
from rowmesh.sw.model.counts import access_counts
from rowmesh.sw.program.assemble import memory_map, packed_weights, programs
from rowmesh.sw.search.mapper import UnmappableError
from rowmesh.sw.workload.golden import conv2d
from rowmesh.sw.workload.layer import Layer

MESH = load_arch("mesh2x2")
LAYER = Layer(name="L", M=32, C=32, H=12, W=9, R=3, S=3, stride=[2, 1], padding=1, output="requant")
DEPTHWISE = Layer(name="D", kind="depthwise", C=64, H=12, W=9, R=3, S=3, padding=1, output="requant")


def reached(same, rows, cols, mesh_rows, mesh_cols):
    """Which clusters each bank's words reach, by walking the routes."""
    found = {}
    for start in itertools.product(range(rows), range(cols)):
        if route_of(same, rows, cols, *start).source is not Side.LOCAL:
            continue
        ends, ahead = [], [start]
        while ahead:
            y, x = ahead.pop()
            for side in route_of(same, rows, cols, y, x).outputs:
                if side is Side.LOCAL:
                    ends.append((y, x))
                    continue
                place = (y + side.step[0], x + side.step[1])
                assert 0 <= place[0] < mesh_rows
                assert 0 <= place[1] < mesh_cols
                # the neighbour listens to this side
                assert route_of(same, rows, cols, *place).source is side.opposite
                ahead.append(place)
        assert len(ends) == len(set(ends))
        found[start] = set(ends)
    return found


@pytest.mark.parametrize("operand", ["iact", "weight"])
def test_every_mode_reaches_what_it_says(operand):
    """The golden matrix: a bank's words reach its whole row, column or mesh, or its own cluster."""
    for mesh_rows, mesh_cols in itertools.product(range(1, 9), range(1, 3)):
        modes = replications(operand, mesh_rows, mesh_cols)
        vertical = operand == "iact"
        assert len(modes) == (1 + (mesh_rows > 1 and vertical)) * (1 + (mesh_cols > 1))
        for same in modes:
            for rows, cols in itertools.product(range(1, mesh_rows + 1), range(1, mesh_cols + 1)):
                golden = {
                    (y, x): {
                        (b, a) for b in (range(rows) if same[0] else [y]) for a in (range(cols) if same[1] else [x])
                    }
                    for y in ([0] if same[0] else range(rows))
                    for x in ([0] if same[1] else range(cols))
                }
                assert reached(same, rows, cols, mesh_rows, mesh_cols) == golden


def test_modes_have_the_names_of_the_book():
    names = {same: mode_of(same, 2, 2) for same in replications("iact", 2, 2)}
    assert names == {
        (False, False): "unicast",
        (False, True): "grouped multicast",
        (True, False): "interleaved multicast",
        (True, True): "broadcast",
    }
    assert mode_of((False, True), 1, 4) == "broadcast"
    assert mode_of((False, False), 1, 1) == "unicast"


@pytest.mark.parametrize(
    ("layer", "splits"),
    [
        (LAYER, Splits(m_y=2, p_x=2)),
        (LAYER, Splits(p_y=2, m_x=2)),
        (LAYER, Splits(p_y=3, p_x=2)),
        (LAYER, Splits(c_y=2, m_x=2)),
        (DEPTHWISE, Splits(g_y=2, p_x=2)),
        (DEPTHWISE, Splits(g_y=2, g_x=4)),
    ],
)
def test_shares_are_the_layer(layer, splits):
    """The outputs of all shares, each a layer of its own, are those of the layer; shares of channels are summed."""
    random = np.random.default_rng(1)
    iacts = random.integers(-9, 9, (1, layer.c, layer.h, layer.w))
    weights = random.integers(-9, 9, (layer.m, layer.c // layer.groups, layer.r, layer.s))

    def outputs(of, i, w):
        return conv2d(i, w, stride=of.stride, padding=of.padding, dilation=of.dilation, groups=of.groups, acc_width=32)

    total = np.zeros((1, layer.m, layer.p, layer.q), np.int64)
    for y, x in splits.places():
        share = sub_layer(layer, splits, y, x)
        own = share.layer
        rows = slice(share.input_row, share.input_row + own.h)
        channels = slice(share.channel, share.channel + own.c)
        filters = slice(share.filter, share.filter + own.m)
        first = share.channel if splits.c_y > 1 else 0
        w = weights[filters, first : first + own.c // own.groups]
        total[:, filters, share.output_row : share.output_row + own.p] += outputs(own, iacts[:, channels, rows], w)
    assert np.array_equal(total, outputs(layer, iacts, weights))


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (Splits(m_y=5), "must be whole shares of 5"),
        (Splits(p_y=4, m_x=2), "output rows"),
        (Splits(m_y=2, p_y=3), "one of filters"),
    ],
)
def test_what_cannot_be_split_is_refused(splits, words):
    with pytest.raises(IllegalMappingError, match=words):
        sub_layer(LAYER, splits, 0, 0)


def test_groups_exclude_splits_of_channels():
    with pytest.raises(IllegalMappingError, match="one group"):
        sub_layer(Layer(name="G", M=8, C=8, H=4, W=4, R=1, S=1, groups=2), Splits(c_y=2), 0, 0)


def test_a_mesh_too_small_is_refused():
    share = flow.map_layer(MESH.cluster, sub_layer(LAYER, Splits(m_y=4), 0, 0).layer).mapping
    with pytest.raises(IllegalMappingError, match="exceed the mesh of 2 x 2"):
        LayerMapping(MESH, LAYER, Splits(m_y=4), share.cluster)


def test_a_share_of_part_of_a_beat_is_refused():
    layer = LAYER.model_copy(update={"m": 8})
    share = flow.map_layer(MESH.cluster, sub_layer(layer, Splits(m_y=2), 0, 0).layer).mapping
    with pytest.raises(IllegalMappingError, match=r"filters of a cluster \(4\) must be whole beats of 8"):
        LayerMapping(MESH, layer, Splits(m_y=2), share.cluster)


def test_the_mapper_uses_all_clusters_and_says_how():
    found = flow.map_layer(MESH, LAYER)
    mapping = found.mapping
    assert mapping.splits.clusters == 4
    assert found.predicted.cycles < flow.map_layer(MESH.cluster, LAYER).predicted.cycles / 2.5
    text = mapping.loop_nest()
    assert text.startswith("clusters")
    assert f"iacts: {mapping.mode('iact')}" in text
    assert mapping.to_json()["iact_mode"] == mapping.mode("iact")


def test_a_layer_that_cannot_be_mapped_is_refused_with_a_reason():
    tiny = MESH.replace(weight_spad=2, iact_spad=2)
    with pytest.raises(UnmappableError, match="layer L: no mapping"):
        flow.map_layer(tiny, LAYER)


def test_every_split_of_the_space_divides():
    splits = list(splits_of(8, 2, LAYER))
    assert Splits() in splits
    assert Splits(m_y=8, m_x=2) in splits
    assert Splits(c_y=4, m_y=2, p_x=2) in splits
    assert all(LAYER.p % (s.p_y * s.p_x) == 0 and LAYER.c % s.c_y == 0 for s in splits if s.p_y == 1 or s.p_x == 1)
    assert all(s.rows <= 8 and s.cols <= 2 for s in splits)


def test_hops_are_the_links_of_the_trees():
    mapping = flow.map_layer(MESH, LAYER).mapping
    counts = access_counts(mapping)
    for operand in ("iact", "weight"):
        same_y, same_x = mapping.splits.replicated(operand)
        links = (2 if same_y else 1) * (2 if same_x else 1) - 1
        assert counts[f"noc.{operand}.hops"] == links * counts[f"noc.{operand}.injected"]
    assert counts["pe.mac"] == LAYER.macs
    assert counts["dram.ofmap.write"] == LAYER.outputs


def test_clusters_that_share_load_nothing():
    mapping = flow.map_layer(MESH, LAYER).mapping
    parts = programs(mapping, memory_map(mapping))
    for number, nests in enumerate(parts.clusters):
        own = {engine.name.split("_")[1].lower() for engine in nests}
        assert own == {
            op for op in ("iact", "weight") if mapping.splits.route(op, *divmod(number, 2)).source is Side.LOCAL
        }


def test_weights_are_packed_once_for_clusters_that_share_them():
    share = sub_layer(LAYER, Splits(p_y=2, m_x=2), 0, 0).layer
    mapping = flow.map_layer(MESH.cluster, share).mapping
    mesh = LayerMapping(MESH, LAYER, Splits(p_y=2, m_x=2), mapping.cluster)
    weights = np.arange(LAYER.m * LAYER.c * 9).reshape(LAYER.m, LAYER.c, 3, 3) % 100 + 1
    packed = np.frombuffer(packed_weights(mesh, weights), "<i1").astype(np.int64)
    assert mesh.splits.weight_parts == 2
    assert packed.sum() == weights.sum()  # what is added to fill flits is zero


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh_rows": 4097}, "mesh_rows must be from 1 to 4096"),
        ({"mesh_rows": 64, "mesh_cols": 65}, "mesh_cols must be from 1 to 64"),
    ],
)
def test_a_mesh_has_rules(changes, words):
    with pytest.raises(ConfigError, match=words):
        ArchConfig(**changes)


def drained(config, splits):
    """Which cluster's words each step of the drain takes, and in which lanes, by walking its sets."""
    sets, (high, wide) = sets_of(config, splits), config.drain_shape
    across = config.mesh_cols // wide
    for y, x in itertools.product(range(sets.rows), range(sets.cols)):
        row, col = divmod(sets.first + y * sets.step_y + x, across)
        for of_y, of_x in itertools.product(sets.members_y, range(sets.members_x)):
            yield row * high + of_y, col * wide + of_x


def test_sets_hold_every_cluster_with_psums():
    """Of every split that is legal, whatever is drained together."""
    legal = 0
    for mesh, lanes in itertools.product([(1, 4), (2, 2), (8, 2), (4, 4), (6, 2)], [0, 4, 8, 16, 32]):
        config = MESH.replace(mesh_rows=mesh[0], mesh_cols=mesh[1], axi_data_width=256)
        try:
            config = config.replace(drain_lanes=lanes)
        except ConfigError:
            continue
        for c_y, m_y, m_x in itertools.product(range(1, 9), range(1, 9), range(1, 5)):
            splits = Splits(c_y=c_y, m_y=m_y, m_x=m_x)
            if splits.rows > mesh[0] or splits.cols > mesh[1]:
                continue
            try:
                found = list(drained(config, splits))
            except IllegalMappingError:
                continue
            legal += 1
            heads = [(y, x) for y, x in splits.places() if y % c_y == c_y - 1]
            assert sorted(found) == heads
    assert legal > 100


def test_clusters_drained_together_by_default_fill_a_beat():
    """As many clusters as fill a beat and divide the mesh."""
    for cols, mesh, width, shape in (
        (4, (2, 2), 64, (1, 2)),
        (4, (8, 2), 64, (1, 2)),
        (4, (8, 2), 256, (4, 2)),
        (4, (6, 2), 256, (3, 2)),
        (3, (1, 4), 64, (1, 2)),
        (8, (2, 2), 64, (1, 1)),
        (4, (1, 1), 64, (1, 1)),
    ):
        config = MESH.replace(cols=cols, mesh_rows=mesh[0], mesh_cols=mesh[1], axi_data_width=width)
        assert config.drain_shape == shape
        assert config.all_lanes <= config.flit_words
    with pytest.raises(ConfigError, match="drain_lanes beyond a cluster's columns"):
        MESH.replace(mesh_cols=4, drain_lanes=12)


def test_larger_meshes_are_for_the_model_only():
    config = MESH.replace(mesh_rows=8, mesh_cols=8)
    found = flow.map_layer(config, Layer(name="fc", kind="fc", M=1024, C=64, output="requant"))
    assert found.mapping.splits.clusters == 64
    assert found.predicted.cycles > 0
    with pytest.raises(ConfigError, match=r"mesh_rows must be at most 4 .*nearest legal value: 4"):
        config.check_buildable()
    with pytest.raises(ConfigError, match="only the model"):
        flow.generate(config, None)
