"""Tensors of a run: real pixels where the layer asks for them, seeded words otherwise, and the expected ofmap."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.workload import golden
from rowmesh.sw.workload.layer import Layer

__all__ = ["LayerData", "make_data", "nonzero_macs"]


@dataclass(frozen=True)
class LayerData:
    """Tensors of a run.

    Parameters
    ----------
    iacts : array [N, C, H, W]
    weights : array [M, C / G, R, S]
    bias : array [M]
    scale : array [M], float32
    expected : array [N, M, P, Q]
        The golden model's output.
    """

    iacts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]
    bias: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float32]
    expected: npt.NDArray[np.int64]


def _photo(layer: Layer, width: int) -> npt.NDArray[np.int64]:
    from PIL import Image
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

    images = load_sample_images().images
    stack = []
    for n in range(layer.n):
        picture = Image.fromarray(images[n % len(images)]).resize((layer.w, layer.h), Image.Resampling.BILINEAR)
        if layer.c == 1:
            picture = picture.convert("L")
        pixels = np.asarray(picture, dtype=np.int64).reshape(layer.h, layer.w, -1)
        stack.append(pixels.transpose(2, 0, 1)[: layer.c])
    return (np.stack(stack) - 128) << (width - 8)


def make_data(config: ArchConfig, layer: Layer, seed: int) -> LayerData:
    """Make a layer's tensors: seeded random words of the full range, or a photograph as input."""
    rng = np.random.default_rng([seed, *layer.name.encode()])
    width = config.data_width
    low, high = -(1 << (width - 1)), 1 << (width - 1)
    if layer.input == "photo":
        iacts = _photo(layer, width)
    else:
        iacts = rng.integers(low, high, (layer.n, layer.c, layer.h, layer.w))
    weights = rng.integers(low, high, (layer.m, layer.c // layer.groups, layer.r, layer.s))
    if layer.kind in ("avgpool", "maxpool"):
        weights = np.ones_like(weights)
    if layer.kind == "add":  # a scale for each of the two tensors
        weights = np.broadcast_to(rng.integers(1, 128, (1, 1, 2, 1)), weights.shape)
    requant = layer.output == "requant"
    pool = layer.kind in ("avgpool", "maxpool")
    bias = rng.integers(-(1 << 12), 1 << 12, layer.m) if requant and not pool else np.zeros(layer.m, np.int64)
    if layer.kind == "maxpool":
        accumulated = golden.max_pool(iacts, (layer.r, layer.s), layer.stride, layer.padding, layer.dilation)
    else:
        accumulated = golden.conv2d(
            iacts,
            weights,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            acc_width=config.acc_width,
            bias=bias if requant else None,
        )
    scale = np.ones(layer.m, np.float32)
    expected = accumulated
    if requant:
        spread = np.maximum(accumulated.std(axis=(0, 2, 3)), 1.0)
        scale = ((high / 3) / spread * rng.uniform(0.5, 1.5, layer.m)).astype(np.float32)
        if layer.kind == "avgpool":
            scale = np.full(layer.m, 1 / (layer.r * layer.s), np.float32)
        if layer.kind == "maxpool":
            scale = np.ones(layer.m, np.float32)
        expected = golden.requantize(accumulated, scale, 0, low, high - 1)
    return LayerData(iacts, weights, bias, scale, expected)


def nonzero_macs(layer: Layer, data: LayerData) -> int:
    """Count the multiply-accumulates of which both operands differ from zero (padding of a maxpool does).

    For each tap and channel: weights that are not zero times iacts that are not.
    """
    (uy, ux), (dy, dx), groups = layer.stride, layer.dilation, layer.groups
    top, left, bottom, right = layer.padding
    pad = layer.kind == "maxpool"
    iacts = np.pad(data.iacts != 0, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=pad)
    filters = layer.m // groups
    weights = (data.weights != 0).reshape(groups, filters, -1, layer.r, layer.s).sum(axis=1)
    total = 0
    for r in range(layer.r):
        for s in range(layer.s):
            seen = iacts[:, :, r * dy :: uy, s * dx :: ux][:, :, : layer.p, : layer.q]
            per_channel = seen.sum(axis=(0, 2, 3)).reshape(groups, -1)
            total += int((per_channel * weights[:, :, r, s]).sum())
    return total
