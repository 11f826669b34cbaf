import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.workload.layer import LARGEST, Layer, load_workload

CONV = {"name": "L", "M": 8, "C": 4, "H": 9, "W": 7, "R": 3, "S": 3}


def write(tmp_path, text):
    path = tmp_path / "w.yaml"
    path.write_text(text)
    return path


def one_layer(tmp_path, fields):
    return write(tmp_path, f"workload:\n  layers:\n    - {{name: L, {fields}}}\n")


def refusal(tmp_path, fields):
    with pytest.raises(InputError) as info:
        load_workload(one_layer(tmp_path, fields))
    return str(info.value).removeprefix(f"{tmp_path}/w.yaml")


def outputs_by_counting(size, taps, stride, dilation, before, after):
    """Independent of the closed form: count the positions where the filter fits."""
    padded = before + size + after
    return sum(start + (taps - 1) * dilation < padded for start in range(0, padded, stride))


def test_alexnet_is_the_published_one():
    layers = {layer.name: layer for layer in load_workload("alexnet").layers}
    assert list(layers) == ["CONV1", "CONV2", "CONV3", "CONV4", "CONV5", "FC6", "FC7", "FC8"]
    assert [(layer.p, layer.q) for layer in layers.values()] == [(55, 55), (27, 27)] + 3 * [(13, 13)] + 3 * [(1, 1)]
    assert [layer.macs for layer in layers.values()] == [
        105_415_200, 223_948_800, 149_520_384, 112_140_288, 74_760_192, 37_748_736, 16_777_216, 4_096_000,
    ]  # fmt: skip
    assert [layer.groups for layer in layers.values()] == [1, 2, 1, 2, 2, 1, 1, 1]
    assert [name for name, layer in layers.items() if layer.input == "photo"] == ["CONV1"]


def test_vgg16_is_the_published_one():
    layers = load_workload("vgg16").layers
    assert len(layers) == 16
    assert (layers[0].name, layers[12].name, layers[-1].name) == ("CONV1_1", "CONV5_3", "FC8")
    assert all((layer.p, layer.q) == (layer.h, layer.w) for layer in layers[:13])
    assert sum(layer.macs for layer in layers) == 15_470_264_320
    assert sum(layer.m * layer.c * layer.r * layer.s for layer in layers) == 138_344_128


BRANCHING = {"resnet50", "squeezenet10", "squeezenet11", "squeezenext"}


@pytest.mark.parametrize("name", files.shipped_names("workloads"))
def test_shipped_workloads_load_and_chain(name):
    workload = load_workload(name)
    assert workload.name == name
    assert workload.description
    assert name in BRANCHING or all(
        before.m == after.c for before, after in zip(workload.layers, workload.layers[1:], strict=False)
    )


@pytest.mark.parametrize(
    ("name", "macs", "weights"),
    [
        ("mobilenet", 568_740_352, 4_209_088),
        ("resnet50", 4_089_184_256, 25_502_912),
        ("squeezenet11", 352_540_352, 1_231_552),
    ],
)
def test_networks_are_the_published_ones(name, macs, weights):
    layers = [layer for layer in load_workload(name).layers if layer.kind in ("conv", "depthwise", "fc")]
    assert sum(layer.macs for layer in layers) == macs
    assert sum(layer.m * layer.c // layer.groups * layer.r * layer.s for layer in layers) == weights


def test_demo_is_small_and_has_what_it_is_for():
    photo, strided, odd = load_workload("demo").layers
    assert (photo.input, photo.output) == ("photo", "requant")
    assert strided.stride == (2, 2)
    assert (odd.h, odd.w) == (13, 11)
    assert sum(layer.macs for layer in (photo, strided, odd)) < 1_000_000


@settings(deadline=None)
@given(
    size=st.integers(1, 20),
    taps=st.integers(1, 6),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 4),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    axis=st.sampled_from("HW"),
)
def test_output_size_counts_the_filter_positions(size, taps, stride, dilation, before, after, axis):
    expected = outputs_by_counting(size, taps, stride, dilation, before, after)
    tall = axis == "H"
    other = 1
    fields = {
        "name": "L", "M": 2, "C": 3, "N": 2,
        "H": size if tall else other, "W": other if tall else size,
        "R": taps if tall else 1, "S": 1 if tall else taps,
        "stride": [stride, 1] if tall else [1, stride],
        "dilation": [dilation, 1] if tall else [1, dilation],
        "padding": [before, 0, after, 0] if tall else [0, before, 0, after],
    }  # fmt: skip
    if expected == 0:
        with pytest.raises(ValidationError, match=f"{'R' if tall else 'S'} must be at most"):
            Layer.model_validate(fields)
        return
    layer = Layer.model_validate(fields)
    assert (layer.p, layer.q) == ((expected, 1) if tall else (1, expected))
    assert layer.macs == 2 * 2 * 3 * taps * expected
    assert layer.outputs == 2 * 2 * expected


def test_nearest_filter_size_is_legal_and_the_next_is_not():
    with pytest.raises(ValidationError, match=r"nearest legal value: 4\)"):
        Layer.model_validate({**CONV, "R": 9, "dilation": [3, 1], "padding": [1, 0, 0, 0]})
    assert Layer.model_validate({**CONV, "R": 4, "dilation": [3, 1], "padding": [1, 0, 0, 0]}).p == 1
    with pytest.raises(ValidationError):
        Layer.model_validate({**CONV, "R": 5, "dilation": [3, 1], "padding": [1, 0, 0, 0]})


def test_scalars_and_pairs_are_normalised():
    layer = Layer.model_validate({**CONV, "stride": 2, "dilation": [1, 2], "padding": [2, 1]})
    assert (layer.stride, layer.dilation, layer.padding) == ((2, 2), (1, 2), (2, 1, 2, 1))
    assert Layer.model_validate({**CONV, "padding": 1}).padding == (1, 1, 1, 1)
    assert Layer.model_validate({**CONV, "padding": [1, 2, 3, 4]}).padding == (1, 2, 3, 4)


def test_groups_divide_the_macs():
    plain = Layer.model_validate(CONV)
    assert Layer.model_validate({**CONV, "groups": 4}).macs * 4 == plain.macs


def test_fc_sizes():
    assert Layer.model_validate({"name": "F", "kind": "fc", "M": 10, "C": 20}).macs == 200
    layer = Layer.model_validate({"name": "F", "kind": "fc", "M": 10, "C": 20, "H": 6, "W": 5})
    assert (layer.r, layer.s, layer.p, layer.q, layer.macs) == (6, 5, 1, 1, 6000)
    assert Layer(name="F", kind="fc", M=10, C=20, H=6, W=5, R=6, S=5) == layer


def test_layer_is_frozen_and_hashable():
    layer = Layer.model_validate(CONV)
    with pytest.raises(ValidationError):
        layer.m = 9
    assert len({layer, Layer.model_validate(CONV), layer.with_batch(2)}) == 2


def test_with_batch_keeps_the_rest():
    layer = load_workload("alexnet").layers[1]
    batch = layer.with_batch(4)
    assert (batch.n, batch.macs, batch.with_batch(1)) == (4, 4 * layer.macs, layer)
    with pytest.raises(ValidationError, match="N must be"):
        layer.with_batch(0)


def test_describe_says_what_differs_from_the_default():
    assert load_workload("alexnet").layers[1].describe() == (
        "CONV2: conv N=1 M=256 C=96 H=27 W=27 R=5 S=5, padding 2, groups 2, P=27 Q=27, 223,948,800 MACs, "
        "random input, raw output"
    )
    odd = Layer.model_validate({**CONV, "padding": [1, 2, 3, 4], "stride": [2, 1]})
    assert "stride [2, 1], padding [1, 2, 3, 4]" in odd.describe()


SIZES = "M: 8, C: 4, H: 9, W: 7, R: 3, S: 3"
ONES = "H: 1, W: 1, R: 1, S: 1"
INT = "must be an integer from 1 to 65536"
PAIR = f"{INT} or a pair [y, x] of them"
PAD = "must be an integer from 0 to 65536, a pair [y, x] or [top, left, bottom, right]"
KINDS = "must be conv or fc or depthwise or matmul or avgpool or maxpool or add"
ROOM = "must be at most 7: with dilation 1 it has to fit the padded input's 7 columns"


@pytest.mark.parametrize(
    ("fields", "message", "nearest"),
    [
        (f"{SIZES}, stride: 0", f"stride: {PAIR}, not 0", "1"),
        (f"{SIZES}, stride: [2, 1.5]", f"stride: {PAIR}, not [2, 1.5]", "[2, 2]"),
        (f"{SIZES}, dilation: [1, 2, 3]", f"dilation: {PAIR}, not [1, 2, 3]", "[1, 2]"),
        (f"{SIZES}, padding: -1", f"padding: {PAD}, not -1", "0"),
        (f"{SIZES}, padding: [1, 2, 3]", f"padding: {PAD}, not [1, 2, 3]", "[1, 2, 3, 0]"),
        (f"{SIZES}, groups: 3", "groups: must be a divisor of C (4) and M (8), not 3", "2"),
        (f"M: 9, C: 4, {ONES}, groups: 2", "groups: must be a divisor of C (4) and M (9), not 2", "1"),
        (f"M: 4, C: 9, {ONES}, groups: 2", "groups: must be a divisor of C (9) and M (4), not 2", "1"),
        (f"{SIZES}, groups: true", f"groups: {INT}, not True", "1"),
        (f"{SIZES}, input: photo", "C: must be 1 or 3 where the input is a photo, not 4", "3"),
        (f"{SIZES}, input: foto", "input: must be random or photo, not 'foto'", "photo"),
        (f"{SIZES}, kind: pointwise", f"kind: {KINDS}, not 'pointwise'", "write a conv with R = S = 1"),
        (f"{SIZES}, kind: depthwise, groups: 2", "groups: must be equal to C (4) in a depthwise layer, not 2", "4"),
        (f"{SIZES}, kind: avgpool", "M: must be equal to C (4) in a avgpool layer, not 8", "4"),
        (f"{SIZES}, N: 70000", f"N: {INT}, not 70000", "65536"),
        ("M: 8, C: 4, H: 9, W: 7, R: 3, S: 8", f"S: {ROOM}, not 8", "7"),
        ("kind: fc, M: 8, C: 4, H: 9, W: 7, R: 3", "R: must be equal to H (9) in an fc layer, not 3", "9"),
        ("kind: fc, M: 8, C: 4, padding: 1", "padding: must be 0 in an fc layer, not [1, 1, 1, 1]", "0"),
        ("kind: fc, M: 8, C: 4, stride: 2", "stride: must be 1 in an fc layer, not [2, 2]", "1"),
    ],
)
def test_refusals_name_field_value_rule_and_nearest(tmp_path, fields, message, nearest):
    expected = f":3: workload.layers[0].{message} (nearest legal value: {nearest})"
    assert refusal(tmp_path, fields) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (f"{SIZES}, strides: 2", "strides: unknown key, did you mean stride?"),
        (
            f"{SIZES}, zz: 2",
            "zz: unknown key, known keys are name, kind, N, M, C, H, W, R, S, stride, padding, ",
        ),
        ("M: 8, C: 4, H: 9, W: 7, R: 3", "S: is required"),
        ("M: 8, C: 4, H: 9, W: 7, R: 3, s: 3", "s: unknown key, did you mean S?"),
    ],
)
def test_unknown_and_missing_keys(tmp_path, fields, message):
    assert refusal(tmp_path, fields).startswith(f":3: workload.layers[0].{message}")


def test_the_line_is_the_fields_own(tmp_path):
    sizes = "".join(f"    {letter}: 1\n" for letter in "MCHWRS")
    text = f"workload:\n  layers:\n  - name: A\n{sizes}  - name: B\n{sizes}    stride: zero\n    N: 0\n"
    assert text.splitlines()[16] == "    stride: zero"
    with pytest.raises(InputError) as info:
        load_workload(write(tmp_path, text))
    assert str(info.value) == (
        f"{tmp_path}/w.yaml:17: workload.layers[1].stride: {PAIR}, not 'zero' (nearest legal value: 1); "
        f"line 18: workload.layers[1].N: {INT}, not 0 (nearest legal value: 1)"
    )


FC = "{name: A, kind: fc, M: 1, C: 1}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the file is empty, it must hold a mapping workload:"),
        ("architecture: {}", ":1: architecture: unknown key, known keys are workload"),
        ("workload:\n  layers: []", ":2: workload.layers: must be a list of at least one layer, not []"),
        ("workload:\n  layers: [7]", ":2: workload.layers[0]: must be a mapping, not 7"),
        (
            f"workload:\n  layers: [{FC}]\n  description: 3",
            ":3: workload.description: must be a string, not 3",
        ),
        (
            "workload:\n  layer: []",
            ":2: workload.layer: unknown key, did you mean layers?; line 1: workload.layers: is required",
        ),
        ("workload: {}", ":1: workload.layers: is required"),
        ("workload: 5", ":1: workload: must be a mapping, not 5"),
        ("workload: {7: 8}", ":1: workload[7]: a key must be a string, not 7"),
        ("[1]", ":1: must be a mapping, not [1]"),
        (
            f"workload:\n  layers:\n  - {FC}\n  - {FC}",
            ":4: workload.layers[1].name: must be unique (layers[0] has it), not 'A' (nearest",
        ),
        ("workload: {name: a\n", ":2: not valid YAML: expected ',' or '}', but got '<stream end>'"),
        ("workload:\n  name: a\n  name: b\n", ':3: not valid YAML: found duplicate key "name"'),
        ("workload: !tag {}", ":1: workload: tags (!name) are not supported"),
        ("--- {}\n--- {}", ": holds 2 YAML documents, it must hold one"),
        (f"workload: {'[' * 1000}", ": not valid YAML: maximum recursion depth"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    with pytest.raises(InputError) as info:
        load_workload(write(tmp_path, text))
    assert str(info.value).removeprefix(f"{tmp_path}/w.yaml").startswith(message)


def test_unknown_names_and_paths(tmp_path):
    with pytest.raises(InputError, match=r"no workload named 'alexnt', did you mean alexnet\? Shipped are alexnet"):
        load_workload("alexnt")
    with pytest.raises(InputError, match="no such file; shipped workloads are alexnet"):
        load_workload(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is not a file"):
        load_workload(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"workload: \xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_workload(tmp_path / "binary.yaml")


def test_a_bomb_of_aliases_is_refused(tmp_path):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 6)]
    with pytest.raises(InputError, match="more than 100000 values"):
        load_workload(write(tmp_path, "\n".join(rows)))


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    field=st.sampled_from(
        [
            "N",
            "M",
            "C",
            "H",
            "W",
            "R",
            "S",
            "stride",
            "padding",
            "dilation",
            "groups",
            "output",
            "input",
            "kind",
        ]
    ),
    value=junk,
)
def test_any_value_is_taken_as_legal_or_refused_by_field(field, value):
    try:
        layer = Layer.model_validate({**CONV, field: value})
    except ValidationError as error:
        messages = [details["msg"] for details in error.errors()]
    else:
        messages = []
        assert min(layer.p, layer.q, layer.macs) >= 1
        assert max(layer.n, layer.m, layer.c, layer.h, layer.w) <= LARGEST
    assert all(re.search(r"^\w+ must be .*, not .* \(nearest legal value: .+\)$", text) for text in messages)
