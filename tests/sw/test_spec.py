import dataclasses
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs import arch as spec
from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path, body):
    with pytest.raises(InputError) as info:
        spec.load_arch(write(tmp_path, f"architecture:\n{body}"))
    return str(info.value).removeprefix(f"{tmp_path}/mine.yaml")


def test_shipped_architectures():
    assert files.shipped_names("arch") == [
        "eyeriss",
        "eyeriss_v2",
        "fpga4x4",
        "mesh1x4",
        "mesh2x2",
        "primes",
        "square16",
        "squeezelerator",
        "squeezelerator32",
        "systolic16",
        "tiny",
    ]
    shapes = {name: spec.load_arch(name) for name in files.shipped_names("arch")}
    assert {name: (arch.rows, arch.cols, arch.data_width) for name, arch in shapes.items()} == {
        "eyeriss": (12, 14, 16),
        "eyeriss_v2": (3, 4, 8),
        "fpga4x4": (4, 4, 8),
        "mesh1x4": (3, 4, 8),
        "mesh2x2": (3, 4, 8),
        "primes": (5, 7, 16),
        "square16": (16, 16, 8),
        "squeezelerator": (16, 16, 16),
        "squeezelerator32": (32, 32, 16),
        "systolic16": (16, 16, 8),
        "tiny": (3, 3, 8),
    }
    meshes = {name: (arch.mesh_rows, arch.mesh_cols) for name, arch in shapes.items() if arch.clusters > 1}
    assert meshes == {"eyeriss_v2": (8, 2), "mesh1x4": (1, 4), "mesh2x2": (2, 2)}
    assert all(arch.name == name and spec.describe_arch(name) for name, arch in shapes.items())


def test_eyeriss_has_the_chips_storage():
    arch = spec.load_arch("eyeriss")
    assert arch.glb_bytes == 108 * 1024
    assert (arch.iact_spad, arch.weight_spad, arch.psum_spad) == (16, 224, 24)
    assert (arch.axi_data_width, arch.acc_width) == (64, 32)


def test_every_parameter_has_one_place_in_the_file():
    fields = {field.name for field in dataclasses.fields(ArchConfig)} - {"name"}
    assert sorted(spec.PARAMETERS.values()) == sorted(fields)


@pytest.mark.parametrize(("place", "field"), spec.PARAMETERS.items())
def test_every_parameter_is_read_from_its_place(tmp_path, place, field):
    base = ArchConfig(rows=4, cols=4)
    legal = {"data_width": 16, "acc_width": 24, "axi_data_width": 128, "axi_addr_width": 40, "burst_beats": 8}
    legal |= {
        "max_pooling": False,
        "pe_counters": True,
        "iact_ports": 2,
        "weight_ports": 2,
        "drain_lanes": 3,
        "mesh_rows": 2,
        "mesh_cols": 3,
    }
    value = legal.get(field, getattr(base, field) - 1)
    tree = {"array": {"rows": 4, "cols": 4}}
    tree.setdefault(place[0], {})[place[1]] = value
    text = "architecture:\n" + "".join(f"  {group}: {keys}\n" for group, keys in tree.items())
    arch = spec.load_arch(write(tmp_path, text.replace("'", "")))
    assert arch == base.replace(name="mine", **{field: value})


def test_everything_but_the_shape_is_defaulted(tmp_path):
    text = "architecture:\n  array: {rows: 1, cols: 9}\n"
    assert spec.load_arch(write(tmp_path, text)) == ArchConfig(name="mine", rows=1, cols=9)


SHAPE = "  array: {rows: 4, cols: 4}\n"
REQUIRED = "".join(f"; line {{0}}: architecture.array.{key}: is required, for example 4" for key in ("rows", "cols"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("  array: {rows: 4}", ":2: architecture.array.cols: is required, for example 4"),
        (
            "  name: x",
            ":1: architecture.array.rows: is required, for example 4; line 1: architecture.array.cols: is required, "
            "for example 4",
        ),
        (
            "  array:\n    rows: 4\n    cols: 0",
            ":4: architecture.array.cols: must be from 1 to 64, not 0 (nearest legal value: 1)",
        ),
        (
            SHAPE + "  data:\n    data_width: 12",
            ":4: architecture.data.data_width: must be one of 8, 16, not 12 (nearest legal value: 8)",
        ),
        (SHAPE + "  spads: {iact: two}", ":3: architecture.spads.iact: must be of type int, not 'two'"),
        (SHAPE + "  spads: {iact: 16.0}", ":3: architecture.spads.iact: must be of type int, not 16.0"),
        (SHAPE + "  spads: {iact: true}", ":3: architecture.spads.iact: must be of type int, not True"),
        (SHAPE + "  spads: {iacts: 16}", ":3: architecture.spads.iacts: unknown key, did you mean iact?"),
        (
            SHAPE + "  glb: {zzz: 16}",
            ":3: architecture.glb.zzz: unknown key, known keys are iact_flits, weight_flits, psum_bank_words",
        ),
        ("  arry: {rows: 4, cols: 4}", ":2: architecture.arry: unknown key, did you mean array?" + REQUIRED.format(1)),
        ("  array: [4, 4]", ":2: architecture.array: must be a mapping, not [4, 4]" + REQUIRED.format(2)),
        (
            "  name: 4 x 4\n" + SHAPE,
            ":2: architecture.name: must be a letter, then letters, digits, _ or -, not '4 x 4' "
            "(nearest legal value: x_4)",
        ),
        ("  name: 7\n" + SHAPE, ":2: architecture.name: must be a string, not 7"),
        (
            SHAPE + "  memory:\n    data_width: 64\n    burst_beats: 24",
            ":5: architecture.memory.burst_beats: must be a power of two, not 24 (nearest legal value: 16)",
        ),
    ],
)
def test_refusals_have_line_field_and_rule(tmp_path, body, message):
    assert refusal(tmp_path, body) == message


def test_a_workload_is_not_an_architecture(tmp_path):
    path = write(tmp_path, "workload: {layers: []}")
    with pytest.raises(InputError, match=r"mine\.yaml:1: workload: unknown key, known keys are architecture"):
        spec.load_arch(path)


def test_a_shipped_name_wins_over_a_file_and_a_path_reaches_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("architecture: {array: {rows: 2, cols: 5}}")
    assert spec.load_arch("tiny").cols == 3
    assert spec.load_arch("./tiny").cols == 5


def test_numbers_keep_their_yaml_spelling(tmp_path):
    text = "architecture:\n  array: {rows: &r 0x4, cols: *r}\n  glb: {iact_flits: 1_024}\n"
    arch = spec.load_arch(write(tmp_path, text))
    assert (arch.rows, arch.cols, arch.glb_iact_flits) == (4, 4, 1024)


NUMBERS = [place for place, field in spec.PARAMETERS.items() if field not in ("max_pooling", "pe_counters")]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(NUMBERS), value=st.integers(-(10**9), 10**9))
def test_following_the_advice_ends_in_a_legal_architecture(tmp_path, place, value):
    values = {("array", "rows"): 4, ("array", "cols"): 4, place: value}
    for _ in range(5):
        tree: dict[str, list[str]] = {}
        for (group, key), number in values.items():
            tree.setdefault(group, []).append(f"{key}: {number}")
        text = "".join(f"  {group}: {{{', '.join(keys)}}}\n" for group, keys in tree.items())
        try:
            arch = spec.load_arch(write(tmp_path, f"architecture:\n{text}"))
        except InputError as error:
            advice = re.search(
                r":\d+: architecture\.(\w+)\.(\w+): must be .*, not .*\(nearest legal value: (\d+)\)$",
                str(error),
            )
        else:
            break
        assert advice
        values[advice[1], advice[2]] = int(advice[3])
    assert all(getattr(arch, spec.PARAMETERS[where]) == number for where, number in values.items())


def refused_or_read(text):
    """Return the refusal, or a stand-in if there is none."""
    try:
        files.parse(text, "f.yaml").section("architecture")
    except InputError as error:
        return str(error)
    return "f.yaml: accepted"


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_architecture_or_one_line(text):
    message = refused_or_read(text)
    assert message.startswith("f.yaml:")
    assert message.isprintable()


PIECES = [*"ab01:-,[]{}#&*!|>'\"%@?~<\n   ", "architecture: ", "&a", "*a", "<<: ", "- ", "? "]


@settings(deadline=None, max_examples=300)
@example("&a[&a")
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_anything_like_yaml_is_read_or_refused_in_one_line(text):
    message = refused_or_read(text)
    assert message.startswith("f.yaml:")
    assert message.isprintable()
