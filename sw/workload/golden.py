"""The golden model: what the hardware must compute, in integers, with no tolerance anywhere.

Convolution wraps at the accumulator's width as the RTL does. Requantisation follows onnxruntime's CPU kernel
of ``QLinearConv``, so that a whole network can be compared for equality.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["conv2d", "fully_connected", "max_pool", "requant_scale", "requantize", "wrap"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

_EXACT_FLOAT = 1 << 53  # every integer up to here, and so every partial sum in any order, is a float64
_CHUNK_WORDS = 1 << 22  # words of unrolled windows held at a time (32 MB)


def _integers(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise TypeError(f"{name} must hold integers that fit int64, not {array.dtype}")
    return array


def _magnitude(array: npt.NDArray[Any]) -> int:
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def wrap(values: npt.ArrayLike, width: int) -> IntArray:
    """Reduce integers to two's complement of a width, as a register of that width does.

    Parameters
    ----------
    values : array_like of int
        Any shape.
    width : int
        Bits, 1 to 64.

    Returns
    -------
    ndarray of int64
        The same shape, every value in [-2**(width-1), 2**(width-1)).

    Raises
    ------
    TypeError
        If the values are not integers.
    ValueError
        If the width is out of range.
    """
    if not 1 <= width <= 64:
        raise ValueError(f"wrap: width must be from 1 to 64, not {width}")
    unused = np.int64(64 - width)
    array = _integers("wrap: values", values).astype(np.int64)
    return np.asarray((array << unused) >> unused, dtype=np.int64)


def _output_extent(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def conv2d(
    iacts: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    acc_width: int = 32,
    bias: npt.ArrayLike | None = None,
    pad_value: int = 0,
) -> IntArray:
    """Convolve in integers and wrap at the accumulator's width.

    A sum that wraps at every step and one that wraps once at the end are equal, so the order of the
    hardware's accumulation does not matter. The windows are unrolled and multiplied by BLAS in float64 where
    the largest possible sum proves that to be exact, and in int64 (modulo 2**64) otherwise.

    Parameters
    ----------
    iacts : array_like of int, [N, C, H, W]
    weights : array_like of int, [M, C / groups, R, S]
    stride, dilation : tuple of int
        (y, x), each at least 1.
    padding : tuple of int
        (top, left, bottom, right) in elements, the order of ONNX's ``pads``.
    groups : int
        Divides C and M.
    acc_width : int
        Bits of the accumulator.
    bias : array_like of int, [M], optional
        Added to every output of a channel before wrapping.
    pad_value : int
        What padding holds: the iacts' zero point where that was not subtracted from them.

    Returns
    -------
    ndarray of int64, [N, M, P, Q]

    Raises
    ------
    TypeError
        If an operand is not integer.
    ValueError
        If shapes do not match, or the output would be empty.
    """
    x, w = _integers("conv2d: iacts", iacts), _integers("conv2d: weights", weights)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"conv2d: iacts must be [N, C, H, W] and weights [M, C/G, R, S], not {x.shape} and {w.shape}")
    (batch, channels, height, width), (filters, depth, kernel_y, kernel_x) = x.shape, w.shape
    if groups < 1 or channels % groups or filters % groups:
        raise ValueError(f"conv2d: groups must divide C ({channels}) and M ({filters}), not {groups}")
    if depth != channels // groups:
        raise ValueError(f"conv2d: weights must have C/G = {channels // groups} channels, not {depth}")
    for name, values, least in (("stride", stride, 1), ("dilation", dilation, 1), ("padding", padding, 0)):
        if min(values) < least:
            raise ValueError(f"conv2d: {name} must be at least {least}, not {values}")
    top, left, bottom, right = padding
    rows = _output_extent(height, kernel_y, stride[0], dilation[0], top, bottom)
    cols = _output_extent(width, kernel_x, stride[1], dilation[1], left, right)
    if rows < 1 or cols < 1:
        raise ValueError(f"conv2d: the kernel {w.shape[2:]} must fit the padded iacts; output is {rows} x {cols}")
    offsets = np.zeros(filters, np.int64) if bias is None else _integers("conv2d: bias", bias).astype(np.int64)
    if offsets.shape != (filters,):
        raise ValueError(f"conv2d: bias must be [M] = [{filters}], not {list(offsets.shape)}")

    reduction = depth * kernel_y * kernel_x
    bound = max(_magnitude(x), abs(pad_value)) * _magnitude(w) * reduction
    kind: type[np.float64] | type[np.int64] = np.float64 if bound < _EXACT_FLOAT else np.int64

    padded = np.full((batch, channels, height + top + bottom, width + left + right), pad_value, np.int64)
    padded[:, :, top : top + height, left : left + width] = x
    span = (dilation[0] * (kernel_y - 1) + 1, dilation[1] * (kernel_x - 1) + 1)
    planes = padded.reshape(batch, groups, depth, *padded.shape[2:])
    windows = np.lib.stride_tricks.sliding_window_view(planes, span, axis=(3, 4))  # type: ignore[call-overload]
    windows = windows[..., :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    windows = windows.transpose(0, 1, 2, 5, 6, 3, 4)  # [N, G, C/G, R, S, P, Q], still a view of the padded iacts
    matrix = w.astype(kind).reshape(groups, filters // groups, reduction)

    result = np.empty((batch, groups, filters // groups, rows, cols), np.int64)
    step = max(1, _CHUNK_WORDS // (groups * reduction * cols))
    for n in range(batch):
        for row in range(0, rows, step):
            part = windows[n, ..., row : row + step, :].astype(kind)
            lines = part.shape[-2]
            product = matrix @ part.reshape(groups, reduction, lines * cols)
            result[n, :, :, row : row + lines] = product.reshape(groups, -1, lines, cols)
    result = result.reshape(batch, filters, rows, cols)
    return wrap(result + offsets[:, None, None], acc_width)


def fully_connected(
    iacts: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    acc_width: int = 32,
    bias: npt.ArrayLike | None = None,
) -> IntArray:
    """Multiply by a matrix, as a convolution whose kernel is the whole plane.

    Parameters
    ----------
    iacts : array_like of int, [N, K] or [N, ...]
        Axes after the first are flattened to K.
    weights : array_like of int, [M, K]
    acc_width : int
        Bits of the accumulator.
    bias : array_like of int, [M], optional

    Returns
    -------
    ndarray of int64, [N, M]

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`.
    """
    x, w = np.asarray(iacts), np.asarray(weights)
    if w.ndim != 2 or x.ndim < 2:
        raise ValueError(f"fully_connected: iacts must be [N, ...] and weights [M, K], not {x.shape} and {w.shape}")
    flat = x.reshape(x.shape[0], -1, 1, 1)
    return conv2d(flat, w[:, :, None, None], acc_width=acc_width, bias=bias)[:, :, 0, 0]


def max_pool(
    iacts: npt.ArrayLike,
    window: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> IntArray:
    """Largest word of each window; padding never counts.

    Parameters
    ----------
    iacts : array_like of int [N, C, H, W]
    window, stride, dilation : (int, int)
        Along y and x.
    padding : (int, int, int, int)
        Top, left, bottom, right.

    Returns
    -------
    ndarray of int64 [N, C, P, Q]

    Raises
    ------
    TypeError
        If the iacts are not integers.
    """
    x = _integers("max_pool: iacts", iacts).astype(np.int64)
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=np.iinfo(np.int64).min)
    spans = [(taps - 1) * step + 1 for taps, step in zip(window, dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(2, 3))  # type: ignore[call-overload]
    views = views[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return np.asarray(views.max(axis=(4, 5)))


def requant_scale(x_scale: float, w_scale: npt.ArrayLike, y_scale: float) -> FloatArray:
    """Scale from accumulators to outputs, rounded as onnxruntime rounds it.

    The product x_scale * w_scale is rounded to float32 before it is divided by y_scale; float64 in between
    would change the last bit of many scales.

    Parameters
    ----------
    x_scale, y_scale : float
        Of the tensor, as float32.
    w_scale : array_like of float
        Scalar, or [M] for one a channel.

    Returns
    -------
    ndarray of float32
        The shape of ``w_scale``.

    Raises
    ------
    ValueError
        If a scale is not positive and finite.
    """
    x, w, y = np.float32(x_scale), np.asarray(w_scale, np.float32), np.float32(y_scale)
    for name, value in (("x_scale", x), ("w_scale", w), ("y_scale", y)):
        if not np.all(np.isfinite(value) & (value > 0)):
            raise ValueError(f"requant_scale: {name} must be positive and finite, not {value}")
    return np.asarray(x * w / y, np.float32)


def requantize(
    acc: npt.ArrayLike,
    scale: npt.ArrayLike,
    zero_point: int = 0,
    clamp_low: int = -128,
    clamp_high: int = 127,
) -> IntArray:
    """Turn accumulators into outputs, bit for bit as onnxruntime's CPU ``QLinearConv``.

    The accumulator is rounded to float32, multiplied in float32, rounded half to even, moved by the zero
    point and saturated. onnxruntime clamps in float before it rounds, to the limits less the zero point;
    these are integers that float32 holds, so clamping first or last gives the same value.

    Parameters
    ----------
    acc : array_like of int, [N, M, P, Q], [N, M] or [M]
        Accumulators with the bias already in them, within int32.
    scale : array_like of float32
        Scalar, or [M]; see :func:`requant_scale`.
    zero_point : int
        Of the output.
    clamp_low, clamp_high : int
        Limits of the output, both included; ReLU is ``clamp_low=zero_point``.

    Returns
    -------
    ndarray of int64
        The shape of ``acc``.

    Raises
    ------
    TypeError
        If the accumulators are not integer.
    ValueError
        If an accumulator exceeds int32, a scale is not positive and finite, or the limits are out of order.
    """
    array = _integers("requantize: acc", acc).astype(np.int64)
    if _magnitude(array) > 1 << 31 or (array.size and array.max() == 1 << 31):
        raise ValueError(f"requantize: acc must be within int32, not up to {_magnitude(array)}")
    if clamp_low > clamp_high:
        raise ValueError(f"requantize: clamp_low must not exceed clamp_high ({clamp_high}), not {clamp_low}")
    factor = np.asarray(scale, np.float32)
    if not np.all(np.isfinite(factor) & (factor > 0)):
        raise ValueError(f"requantize: scale must be positive and finite, not {factor}")
    if factor.ndim:
        channel = 0 if array.ndim == 1 else 1
        if factor.ndim > 1 or array.ndim == 0 or factor.size not in (1, array.shape[channel]):
            raise ValueError(f"requantize: scale must be scalar or [M] for acc {array.shape}, not {factor.shape}")
        factor = factor.reshape((-1,) + (1,) * (array.ndim - 1 - channel))
    with np.errstate(over="ignore", under="ignore"):  # infinity saturates like any large value, tiny values are 0
        product = array.astype(np.float32) * factor
    # float64 holds every float32 and every sum here, infinity included
    shifted = np.rint(product).astype(np.float64) + zero_point
    return np.asarray(np.clip(shifted, clamp_low, clamp_high), dtype=np.int64)
