import functools
import time
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rowmesh.sw.workload import golden

SEEDED = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def session(op: str, inputs: dict[str, Any], output: int, **attributes: Any) -> np.ndarray:
    """Output of one ONNX node run by onnxruntime's CPU provider; all inputs but the first are constants."""
    names = ["" if value is None else name for name, value in inputs.items()]
    given_first = next(iter(inputs))
    kind = helper.np_dtype_to_tensor_dtype(inputs[given_first].dtype)
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "node",
        [helper.make_tensor_value_info(given_first, kind, inputs[given_first].shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in inputs.items()
            if name != given_first and value is not None
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return run.run(["y"], {given_first: inputs[given_first]})[0]


@functools.cache
def weight_shift() -> int:
    """1 where onnxruntime itself is inexact for 8-bit weights, so that they must be halved; 0 elsewhere.

    On x86 without VNNI its int8 kernels add pairs of products in int16 and saturate.
    """
    x, w = np.full((1, 64, 1, 1), 255, np.uint8), np.full((1, 64, 1, 1), 127, np.int8)
    return int(session("ConvInteger", {"x": x, "w": w}, TensorProto.INT32).item() != 64 * 255 * 127)


def naive_conv2d(x, w, stride, padding, dilation, groups, pad_value=0) -> list[Any]:
    """Nested loops over Python integers, nested as [N][M][P][Q]: nothing shared with the golden model."""
    (images, _, height, width), (filters, depth, kernel_y, kernel_x) = x.shape, w.shape
    top, left, bottom, right = padding
    rows = (height + top + bottom - dilation[0] * (kernel_y - 1) - 1) // stride[0] + 1
    cols = (width + left + right - dilation[1] * (kernel_x - 1) - 1) // stride[1] + 1

    def at(n, c, y, x_):
        return int(x[n, c, y, x_]) if 0 <= y < height and 0 <= x_ < width else pad_value

    def output(n, m, p, q):
        first = m // (filters // groups) * depth
        return sum(
            at(n, first + c, p * stride[0] - top + r * dilation[0], q * stride[1] - left + s * dilation[1])
            * int(w[m, c, r, s])
            for c in range(depth)
            for r in range(kernel_y)
            for s in range(kernel_x)
        )

    return [
        [[[output(n, m, p, q) for q in range(cols)] for p in range(rows)] for m in range(filters)]
        for n in range(images)
    ]


@st.composite
def layers(draw, most: int = 9) -> dict[str, Any]:
    """Shapes that have at least one output; a seed stands for the values."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    small = st.integers(1, 3)
    shape = {
        "images": draw(st.integers(1, 2)),
        "channels": groups * draw(st.integers(1, most)),
        "filters": groups * draw(st.integers(1, most)),
        "kernel": (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        "stride": (draw(small), draw(small)),
        "dilation": (draw(small), draw(small)),
        "padding": tuple(draw(st.integers(0, 3)) for _ in range(4)),
        "groups": groups,
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
    span = [d * (k - 1) + 1 for k, d in zip(shape["kernel"], shape["dilation"], strict=True)]
    pad = shape["padding"]
    shape["plane"] = tuple(
        draw(st.integers(max(1, span[axis] - pad[axis] - pad[axis + 2]), span[axis] + 8)) for axis in (0, 1)
    )
    return shape


def operands(layer: dict[str, Any], dtype: type) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(layer["seed"])
    limits = np.iinfo(dtype)

    def values(*shape):
        full = rng.integers(limits.min, limits.max, shape, endpoint=True)
        extreme = rng.choice([limits.min, limits.max], shape)
        return np.where(rng.random(shape) < 0.3, extreme, full).astype(dtype)

    depth = layer["channels"] // layer["groups"]
    x = values(layer["images"], layer["channels"], *layer["plane"])
    return rng, x, values(layer["filters"], depth, *layer["kernel"])


def geometry(layer: dict[str, Any]) -> dict[str, Any]:
    return {key: layer[key] for key in ("stride", "padding", "dilation", "groups")}


def onnx_geometry(layer: dict[str, Any]) -> dict[str, Any]:
    return {
        "strides": layer["stride"],
        "pads": layer["padding"],
        "dilations": layer["dilation"],
        "group": layer["groups"],
    }


@SEEDED
@given(layers())
def test_conv2d_matches_onnxruntime_convinteger(layer):
    _, x, w = operands(layer, np.int8)
    w >>= weight_shift()
    want = session(
        "ConvInteger",
        {"x": (x.astype(np.int16) + 128).astype(np.uint8), "w": w, "zero": np.uint8(128)},
        TensorProto.INT32,
        **onnx_geometry(layer),
    )
    np.testing.assert_array_equal(golden.conv2d(x, w, **geometry(layer)), want)


@SEEDED
@given(layers(), st.booleans(), st.booleans())
def test_layer_matches_onnxruntime_qlinearconv(layer, per_channel, with_bias):
    rng, x, w = operands(layer, np.int8)
    w >>= weight_shift()
    filters = layer["filters"]
    x_zero, y_zero = (np.int8(v) for v in rng.integers(-128, 128, 2))
    bias = rng.integers(-(2**18), 2**18, filters).astype(np.int32) if with_bias else np.zeros(filters, np.int32)
    x_scale, y_scale = (np.float32(v) for v in rng.uniform(1e-3, 0.2, 2))
    # outputs spread over a few times the int8 range, so that most are not clamped
    spread = 60 * np.sqrt(w[0].size) * 60 / rng.uniform(20, 400, filters if per_channel else None)
    w_scale = np.asarray(y_scale / x_scale / spread, np.float32)
    want = session(
        "QLinearConv",
        {
            "x": x,
            "x_scale": x_scale,
            "x_zero": x_zero,
            "w": w,
            "w_scale": w_scale,
            "w_zero": np.zeros(w_scale.shape, np.int8),
            "y_scale": y_scale,
            "y_zero": y_zero,
            "b": bias if with_bias else None,
        },
        TensorProto.INT8,
        **onnx_geometry(layer),
    )
    # as on import: the iacts' zero point goes into the bias, and padding holds it
    folded = bias - int(x_zero) * w.sum(axis=(1, 2, 3), dtype=np.int64)
    acc = golden.conv2d(x, w, **geometry(layer), bias=folded, pad_value=int(x_zero))
    got = golden.requantize(acc, golden.requant_scale(x_scale, w_scale, y_scale), int(y_zero))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("per_channel", [False, True])
def test_requantize_matches_onnxruntime_for_every_accumulator(per_channel):
    """Accumulators of all magnitudes, reached through the bias of a layer whose iacts are zero."""
    rng = np.random.default_rng(per_channel)
    count = 4096
    acc = (rng.integers(0, 2**31, count) >> rng.integers(0, 31, count)) * rng.choice([-1, 1], count)
    acc[:6] = [0, 2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 3, 1]
    if per_channel:
        scale = rng.uniform(0, 300, count) / np.maximum(1, np.abs(acc))
        scale[100:200] = 2.0 ** -rng.integers(1, 8, 100)  # halves
        acc[100:200] %= 256
        scale[200:220] = 10.0 ** rng.uniform(-37, 38, 20)
        acc[200:204] = [2**31 - 1, -(2**31), 1, -1]
        scale[200:204] = 3e38  # products overflow to infinity
    else:
        scale, acc[6:] = np.asarray(1 / 256), acc[6:] % 2**16 - 2**15
    scale = scale.astype(np.float32)
    for zero in (-128, -3, 0, 127):
        want = session(
            "QLinearConv",
            {
                "x": np.zeros((1, 1, 1, 1), np.int8),
                "x_scale": np.float32(1),
                "x_zero": np.int8(0),
                "w": np.zeros((count, 1, 1, 1), np.int8),
                "w_scale": scale,
                "w_zero": np.zeros(scale.shape, np.int8),
                "y_scale": np.float32(1),
                "y_zero": np.int8(zero),
                "b": acc.astype(np.int32),
            },
            TensorProto.INT8,
        )
        got = golden.requantize(acc, scale, zero)
        np.testing.assert_array_equal(got, want[0, :, 0, 0])
        assert len(np.unique(got)) > 100


@SEEDED
@given(layers(most=2), st.sampled_from([24, 32]), st.integers(-5, 5))
def test_int16_conv2d_matches_nested_loops(layer, acc_width, pad_value):
    rng, x, w = operands(layer, np.int16)
    bias = rng.integers(-(2**31), 2**31, layer["filters"])
    want = naive_conv2d(x, w, *geometry(layer).values(), pad_value)
    half = 1 << (acc_width - 1)
    wrapped = [
        [
            [[(value + int(bias[m]) + half) % (2 * half) - half for value in row] for row in plane]
            for m, plane in enumerate(image)
        ]
        for image in want
    ]
    got = golden.conv2d(x, w, **geometry(layer), acc_width=acc_width, bias=bias, pad_value=pad_value)
    assert got.dtype == np.int64
    assert got.tolist() == wrapped


@SEEDED
@given(layers(most=2))
def test_sums_beyond_float64_are_exact(layer):
    """30-bit operands, whose sums exceed 2**53, take the int64 path."""
    _, x, w = operands(layer, np.int16)
    x, w = x.astype(np.int64) * 2**15 + 1, w.astype(np.int64) * 2**15 - 1
    want = naive_conv2d(x, w, *geometry(layer).values())
    got = golden.conv2d(x, w, **geometry(layer), acc_width=64)
    wrapped = [(value + 2**63) % 2**64 - 2**63 for value in np.array(want, dtype=object).ravel()]
    assert got.ravel().tolist() == wrapped


@pytest.mark.parametrize(
    ("channels", "plane", "filters", "kernel", "stride", "pad", "groups"),
    [(3, 227, 96, 11, 4, 0, 1), (96, 27, 256, 5, 1, 2, 2), (128, 56, 256, 3, 1, 1, 1)],
    ids=["alexnet_conv1", "alexnet_conv2", "vgg_conv3_1"],
)
def test_real_layers_are_exact_and_fast(channels, plane, filters, kernel, stride, pad, groups):
    rng = np.random.default_rng(channels)
    x = rng.integers(-(2**15), 2**15, (1, channels, plane, plane))
    w = rng.integers(-(2**15), 2**15, (filters, channels // groups, kernel, kernel))
    start = time.perf_counter()
    got = golden.conv2d(x, w, stride=(stride,) * 2, padding=(pad,) * 4, groups=groups)
    assert time.perf_counter() - start < 5.0
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, cols = got.shape[2:]
    for m, p, q in zip(*(rng.integers(0, size, 300) for size in (filters, rows, cols)), strict=True):
        first = m // (filters // groups) * (channels // groups)
        window = padded[0, first : first + channels // groups, p * stride :, q * stride :][:, :kernel, :kernel]
        exact = sum(a * b for a, b in zip(window.ravel().tolist(), w[m].ravel().tolist(), strict=True))
        assert got[0, m, p, q] == (exact + 2**31) % 2**32 - 2**31


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 64))
@settings(SEEDED, max_examples=300)
def test_wrap(value, width):
    wrapped = int(golden.wrap(value, width))
    assert -(1 << (width - 1)) <= wrapped < 1 << (width - 1)
    assert (wrapped - value) % (1 << width) == 0


def test_wrap_keeps_shape_and_accepts_narrow_types():
    got = golden.wrap(np.array([[127, -128], [8, 7]], np.int8), 4)
    assert got.tolist() == [[-1, 0], [-8, 7]]


@SEEDED
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_fully_connected_is_a_matrix_product(images, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (images, inputs, 1, 2))
    w, bias = rng.integers(-128, 128, (outputs, 2 * inputs)), rng.integers(-999, 999, outputs)
    got = golden.fully_connected(x, w, bias=bias, acc_width=16)
    want = [
        [
            golden.wrap(sum(a * b for a, b in zip(row, col, strict=True)) + int(c), 16)
            for col, c in zip(w.tolist(), bias, strict=True)
        ]
        for row in x.reshape(images, -1).tolist()
    ]
    assert got.tolist() == want


def test_halves_round_to_even_and_limits_clamp():
    assert golden.requantize([1, 3, 5, -1, -3, -5], 0.5).tolist() == [0, 2, 2, 0, -2, -2]
    assert golden.requantize([-300, 0, 50, 300], 1.0, 4, 4, 100).tolist() == [4, 4, 54, 100]
    assert golden.requantize([-(2**31), 2**31 - 1], 3e38, 0, -32768, 32767).tolist() == [-32768, 32767]


def test_accumulators_are_rounded_to_float32_before_scaling():
    # 2**24 + 1 is not a float32: it becomes 2**24, and the product falls from above a half to the even half
    assert golden.requantize([2**24 + 1, 2**24 + 2], 0.5 / 2**24).tolist() == [0, 1]


def test_requant_scale_rounds_after_the_product_as_onnxruntime():
    rng = np.random.default_rng(3)
    x, y = np.float32(0.0123), np.float32(0.0371)
    w = rng.uniform(1e-4, 1e-2, 1000).astype(np.float32)
    got = golden.requant_scale(x, w, y)
    once = (np.float64(x) * w / np.float64(y)).astype(np.float32)
    product = (np.float64(x) * w).astype(np.float32)  # exact in float64, so rounded once
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, (product.astype(np.float64) / np.float64(y)).astype(np.float32))
    assert (got != once).any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"iacts": np.zeros((1, 2, 3, 3))}, TypeError, "iacts must hold integers"),
        ({"weights": np.zeros((4, 3, 2, 2), int)}, ValueError, "must have C/G = 2 channels, not 3"),
        ({"weights": np.zeros((4, 2), int)}, ValueError, r"weights \[M, C/G, R, S\]"),
        ({"groups": 3}, ValueError, r"must divide C \(2\) and M \(4\), not 3"),
        ({"stride": (0, 1)}, ValueError, "stride must be at least 1"),
        ({"padding": (0, 0, -1, 0)}, ValueError, "padding must be at least 0"),
        ({"dilation": (3, 3)}, ValueError, "must fit the padded iacts"),
        ({"bias": [1, 2]}, ValueError, r"bias must be \[M\] = \[4\], not \[2\]"),
        ({"acc_width": 65}, ValueError, "width must be from 1 to 64, not 65"),
    ],
)
def test_conv2d_refuses(changes, error, message):
    arguments = {"iacts": np.zeros((1, 2, 3, 3), int), "weights": np.zeros((4, 2, 2, 2), int)} | changes
    with pytest.raises(error, match=message):
        golden.conv2d(arguments.pop("iacts"), arguments.pop("weights"), **arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: golden.requantize([2**31], 1.0), ValueError, "within int32"),
        (lambda: golden.requantize([1.0], 1.0), TypeError, "must hold integers"),
        (
            lambda: golden.requantize([1], 1.0, 0, 5, 4),
            ValueError,
            r"must not exceed clamp_high \(4\), not 5",
        ),
        (lambda: golden.requantize([1], [0.0]), ValueError, "positive and finite"),
        (lambda: golden.requantize([[1, 2]], [1.0, 1.0, 1.0]), ValueError, r"scalar or \[M\]"),
        (lambda: golden.requant_scale(1.0, [1.0, -1.0], 1.0), ValueError, "w_scale must be positive"),
        (lambda: golden.fully_connected([1], [[1]]), ValueError, r"iacts must be \[N, ...\]"),
    ],
)
def test_others_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()
