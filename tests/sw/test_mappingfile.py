"""Mapping files: what is written is read back, and what is wrong is one line."""

import itertools
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError
from rowmesh.sw.mapping.dataflow import ANY, load_dataflows
from rowmesh.sw.mapping.file import read_mappings, write_mappings
from rowmesh.sw.mapping.layer import LayerMapping, Splits
from rowmesh.sw.mapping.orders import BLOCK, IACT, PSUM, WEIGHT
from rowmesh.sw.program import assemble
from rowmesh.sw.program.assemble import beyond_limits, cannot_run
from rowmesh.sw.search.evaluate import FACTORS, FLAGS
from rowmesh.sw.search.mapper import find_mapping, search
from rowmesh.sw.search.pool import candidates
from rowmesh.sw.workload.layer import Layer

FLOWS = load_dataflows(ANY)
SMALL = ArchConfig(
    rows=4, cols=5, data_width=16, iact_ports=2, glb_iact_flits=512, glb_weight_flits=64, psum_bank_words=96
)
LAYER = Layer(name="small", M=8, C=8, H=7, W=9, R=3, S=3, padding=1)


@st.composite
def layers(draw):
    kind = draw(st.sampled_from(["conv", "conv", "conv", "depthwise", "fc", "maxpool"]))
    channels = draw(st.sampled_from([1, 3, 4, 8, 12]))
    r = draw(st.integers(1, 3))
    size = {"H": draw(st.integers(r, 9)), "W": draw(st.integers(r, 9))}
    fields = {"name": "random", "kind": kind, "N": draw(st.integers(1, 2)), "C": channels}
    if kind in ("conv", "fc"):
        fields["M"] = draw(st.sampled_from([2, 3, 4, 8]))
    if kind != "fc":
        fields |= size | {"R": r, "S": r, "stride": draw(st.integers(1, 3))}
    return Layer(**fields)


@settings(deadline=None, max_examples=60)
@given(layer=layers(), pick=st.integers(0, 10**6))
def test_round_trip(layer, pick, tmp_path_factory):
    found = [mapping for _, mapping in itertools.islice(candidates(SMALL, layer, FLOWS), 300)]
    assume(found)
    mapping = found[pick % len(found)]
    path = tmp_path_factory.mktemp("mapping") / "m.yaml"
    path.write_text(write_mappings([(layer, mapping)], "a comment"))
    assert read_mappings(path, SMALL, [layer], cannot_run) == [mapping]


def test_blocks_and_filter_tiles_outermost_round_trip(tmp_path):
    """Blocks and channel groups are loops of the PE; the order of the loops over tiles is DRAM's permutation."""
    path, kinds = tmp_path / "m.yaml", set()
    layer = LAYER.with_batch(2)
    for _, mapping in itertools.islice(candidates(SMALL, layer, load_dataflows("rs-b")), 0, None, 31):
        if beyond_limits(mapping):
            continue
        path.write_text(write_mappings([(layer, mapping)]))
        assert read_mappings(path, SMALL, [layer], cannot_run) == [mapping]
        assert ("GMNPQ" in path.read_text()) == mapping.cluster.m_outer
        if mapping.cluster.blocked:
            kinds.add((mapping.cluster.m_outer, mapping.cluster.q_block_rest < mapping.cluster.q_block))
    assert kinds == {*itertools.product((False, True), repeat=2)}


def test_a_mapping_whose_program_would_block_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.yaml"
    path.write_text(write_mappings([(LAYER, find_mapping(SMALL, LAYER))]))
    monkeypatch.setattr(assemble, "would_block", lambda m: "DRAIN: it waits")
    with pytest.raises(InputError, match=r"m\.yaml:\d+: .*mapping of small cannot run: DRAIN: it waits$"):
        read_mappings(path, SMALL, [LAYER], cannot_run)


def test_a_plane_as_a_row_is_kept(tmp_path):
    layer = Layer(name="point", M=8, C=8, H=6, W=5, R=1, S=1)
    flat = [m for _, m in candidates(SMALL, layer, FLOWS) if m.layer.h == 1]
    path = tmp_path / "m.yaml"
    path.write_text(write_mappings([(layer, flat[0])]))
    assert "lowered: [row]" in path.read_text()
    assert read_mappings(path, SMALL, [layer], cannot_run) == flat[:1]


@pytest.fixture
def edited(tmp_path):
    """Write the mapping of LAYER, replace text in it, and read it."""

    def read(*changes):
        text = write_mappings([(LAYER, find_mapping(SMALL, LAYER))])
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "m.yaml"
        path.write_text(text)
        return read_mappings(path, SMALL, [LAYER], cannot_run)[0]

    return read


def spad(m):
    return f"{{Q: {m.q0}, S: 3, R: 1, C: {m.c0}, G: 1, M: {m.m0}}}"


def test_what_remains_may_be_left_out(edited):
    own = find_mapping(SMALL, LAYER)
    m = own.cluster
    whole = f"factors: {{N: 1, G: 1, P: {m.pt}, Q: {m.qt}, M: {m.mt}}}"
    assert edited((whole, "factors: {}")) == own
    assert edited((whole, "factors: {N: 0, M: 0}")) == own
    assert edited((f", permutation: NGPQM, {whole}", "")) == own
    changed = edited((whole, "factors: {}"), (spad(m), spad(m).replace(f"Q: {m.q0}", "Q: 2"))).cluster
    assert (changed.q0, changed.qt) == (2, 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target: DRAM", "target: DRAN", "nest[0].target: must be one of DRAM, .*, GLB, .* not 'DRAN' .*: DRAM"),
        ("target: GLB", "target: DRAM", "nest[1].target: must be given once, not twice"),
        ("type: spatial", "type: temporal", "nest[2].type: must be spatial at columns"),
        ("{N: 1,", "{N: 2,", "nest[0].factors.N: must be what the other factors leave .* not 2 .*: 1"),
        ("{N: 1,", "{N: -2,", "nest[0].factors.N: must be an integer from 0 to 65536 .* not -2 .*: 0"),
        ("{G: 1, P: 1, M: 1, C", "{G: 1, P: yes, M: 1, C", "nest[3].factors.P: must be an integer from 1"),
        ("{N: 1,", "{K: 1,", "nest[0].factors.K: DRAM has no factor of that name, it has N, G, P, Q, M"),
        (
            "permutation: MQC, factors: {M: 1, Q: 1",
            "permutation: MQC, factors: {M: 1, Q: 2",
            "nest[4].factors.Q: .*: 1",
        ),
        (
            "QSRCGM",
            "MSRCGQ",
            "nest[5].permutation: must be an order that keeps weights: Q first, not 'MSRCGQ' .*: QSRCGM",
        ),
        (", permutation: GPMCR", ", ports: 3", "nest[3].ports: must be 1 or the architecture's ports (2), not 3 .*: 2"),
        ("keep: [weight]", "keep: [ofmap]", "nest[5].keep: must be of weight, psum, iact"),
        ("keep: [weight]", "keep: [weight, iact]", "nest[5].keep: must be one of"),
        ("keep: [weight]", "keep: [psum]", "nest[1].keep: must be with psum unless the spad keeps psums"),
        (", keep: [weight]", "", "nest: must have target spad with keep"),
        ("factors: {N", "factor: {N", "nest[0].factor: unknown key, did you mean factors?"),
        ("layer: small", "layer: smell", "must have a mapping of layer small, did you mean it by smell?"),
        ("dataflow: rs", "dataflow: [1]", "dataflow: must be a label"),
        ("dataflow: rs", "plane: row", "plane: must be left out"),
        ("dataflow: rs", "lowered: [[row]]", "lowered: must be of row, turned, beats, dense, or left out"),
        ("permutation: QSRCGM", "permutation: [1, {Q: 2}]", "nest[5].permutation: must be the order"),
        ("permutation: QSRCGM", "permutation: [QS, R]", "nest[5].permutation: must be the order"),
        ("dataflow: rs", "lowered: [column]", "lowered: must be of row, turned, beats, dense, or left out"),
    ],
)
def test_bad_files(edited, old, new, message):
    with pytest.raises(
        InputError, match=r"^[^\n]*m\.yaml:\d+: mapping\.layers.*" + re.sub(r"([\[()])", r"\\\1", message)
    ) as error:
        edited((old, new))
    assert re.search(r"[^.]$", str(error.value))


def test_every_broken_rule_is_named(edited):
    m = find_mapping(SMALL, LAYER).cluster
    wide = (f"{{M: {m.m_x}, P: {m.p_x}, Q: 1}}", "{M: 1, P: 6, Q: 1}")
    rules = r"breaks 5 rules: \(1\) 6 columns exceed the array's 5 \(array\.cols\); \(2\) 24 iacts .*; \(3\) 576 "
    with pytest.raises(InputError, match=rules):
        edited(wide, (spad(m), "{Q: 1, S: 3, R: 1, C: 8, G: 1, M: 24}"))


@settings(deadline=None, max_examples=200)
@given(
    factors=st.fixed_dictionaries(
        {name: st.integers(1, 12) for name in FACTORS if name not in (*FLAGS, "order", "ports")}
    ),
    order=st.sampled_from([WEIGHT, PSUM, IACT, BLOCK]),
    resident=st.booleans(),
    m_outer=st.booleans(),
    ports=st.integers(1, 3),
)
def test_broken_rules_and_the_constructor_agree(factors, order, resident, m_outer, ports):
    flags = {"resident": resident, "m_outer": m_outer}
    everything = {**factors, **flags, "ports": ports, "order": order, "dataflow": "own"}
    broken = ClusterMapping.broken_rules(SMALL, LAYER, **everything)
    try:
        ClusterMapping(config=SMALL, layer=LAYER, **everything)
    except IllegalMappingError as error:
        assert broken[0] == str(error)
    else:
        assert broken == []


def test_map_writes_and_reads(tmp_path, capsys):
    path = tmp_path / "m.yaml"
    assert cli.main(["map", "tiny", "demo", "--dataflow", "rs", "--out", str(path)]) == 0
    searched = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  search ") for line in searched) == 3
    assert cli.main(["map", "tiny", "demo", "--mapping", str(path)]) == 0
    given = [line.replace(", least cycles", "") for line in searched if not line.startswith("  search ")]
    assert capsys.readouterr().out.splitlines() == given
    for argv in (["--dataflow", "rs"], ["--objective", "cycles"]):
        assert cli.main(["map", "tiny", "demo", "--mapping", str(path), *argv]) == 2
        assert "with --mapping there is none" in capsys.readouterr().err
    assert cli.main(["map", "tiny", "demo", "--mapping", "none.yaml"]) == 2
    assert "'none.yaml': no such file; a mapping is what `rowmesh map ... --out FILE` writes" in capsys.readouterr().err


MESH = SMALL.replace(mesh_rows=2, mesh_cols=2, drain_lanes=0, nest_levels=12)
WIDE = Layer(name="wide", M=32, C=32, H=6, W=9, R=3, S=3, padding=1, N=2)


def test_meshes_round_trip(tmp_path):
    """How a layer is split over the clusters is part of its mapping."""
    path, layer = tmp_path / "m.yaml", Layer(name="point", M=32, C=32, H=6, W=6, R=1, S=1)
    for shape in (WIDE, layer):
        found = search(MESH, shape, FLOWS[:1], "dram").mapping
        assert found.splits.rows * found.splits.cols == 4
        path.write_text(write_mappings([(shape, found)]))
        assert read_mappings(path, MESH, [shape], cannot_run) == [found]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mesh_y, type: spatial", "mesh_y, type: temporal", "nest[1].type: must be spatial at mesh_y"),
        ("mesh_x", "mesh_z", "nest[2].target: must be one of DRAM, mesh_y, mesh_x, .* not 'mesh_z' .*: mesh_y"),
        ("{M: 1, P: 1, G: 1}", "{M: 1, P: 1, C: 1}", "nest[2].factors.C: mesh_x has no factor of that name"),
        ("{M: 1, P: 1, G: 1}", "{M: 0, P: 1, G: 1}", "nest[2].factors.M: must be an integer from 1 to 65536"),
        (
            "{M: 1, P: 1, G: 1}",
            "{M: 3, P: 1, G: 1}",
            "breaks a rule: (1) 1 x 3 clusters exceed the mesh",
        ),
        (
            "{M: 1, P: 1, G: 1}",
            "{M: 1, P: 1, G: 2}",
            "breaks a rule: (1) groups (1) must be whole shares",
        ),
    ],
)
def test_bad_files_of_meshes(tmp_path, old, new, message):
    path = tmp_path / "m.yaml"
    own = find_mapping(MESH.cluster, WIDE, FLOWS[:1], "dram").cluster
    path.write_text(write_mappings([(WIDE, LayerMapping(MESH, WIDE, Splits(), own))]))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"m\.yaml:\d+: mapping\.layers.*" + re.sub(r"([\[()])", r"\\\1", message)):
        read_mappings(path, MESH, [WIDE], cannot_run)


def test_a_mapping_of_a_mesh_needs_one(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(write_mappings([(WIDE, search(MESH, WIDE, FLOWS[:1], "dram").mapping)]))
    with pytest.raises(InputError, match=r"breaks a rule: \(1\) \d x \d clusters exceed the mesh of 1 x 1"):
        read_mappings(path, SMALL, [WIDE], cannot_run)
