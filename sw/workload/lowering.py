"""Lowering: from a layer to shapes of it that the array runs, and its tensors in these shapes.

A lowering is a list of steps, each from a layer to another one with the same outputs among its own:

- ``row``: the plane as a single row, of 1 x 1 layers, whose pixels follow one another in memory.
- ``turned``: rows for columns, of planes of one column.
- ``beats``: channels and filters of each group (or groups of one channel each) padded to whole beats, with zeros.
- ``dense``: a grouped layer as one of a single group, with zeros for the weights between groups.

A later kind of layer that is a convolution underneath is a step more. Design and numbers: docs/lowering.md.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.workload.data import LayerData
from rowmesh.sw.workload.layer import LARGEST, LARGEST_PLANE, Layer
from rowmesh.sw.workload.limits import ofmap_bits
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = ["STEPS", "Lowered", "flattened", "lower", "lowerings"]

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """A step of a lowering.

    Parameters
    ----------
    layer : callable
        From an architecture and a layer to the layer in its place, or None if there is none.
    data : callable
        From a layer, the one in its place and tensors of the first to tensors of the second.
    """

    layer: Callable[[ArchConfig, Layer], Layer | None]
    data: Callable[[Layer, Layer, LayerData], LayerData]


@dataclass(frozen=True)
class Lowered:
    """A layer as the array runs it.

    Parameters
    ----------
    origin : Layer
        As the workload has it.
    layer : Layer
        As the array runs it.
    steps : tuple of str
        What was done, of :data:`STEPS`.
    shapes : tuple of Layer
        The layer before each step.
    """

    origin: Layer
    layer: Layer
    steps: tuple[str, ...] = ()
    shapes: tuple[Layer, ...] = ()

    def data(self, data: LayerData) -> LayerData:
        """Return the tensors of the layer that the array runs for those of the workload's."""
        for step, (before, after) in zip(self.steps, itertools.pairwise((*self.shapes, self.layer)), strict=True):
            data = STEPS[step].data(before, after, data)
        return data


def lower(config: ArchConfig, layer: Layer, steps: Sequence[str]) -> Lowered | None:
    """Return a layer after some steps, or None if one of them is none, changes nothing or cannot be done.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    steps : sequence of str
        Of :data:`STEPS`.
    """
    shapes = [layer]
    for name in steps:
        step = STEPS.get(name)
        found = step.layer(config, shapes[-1]) if step else None
        if found is None:
            return None
        shapes.append(found)
    return Lowered(layer, shapes[-1], tuple(steps), tuple(shapes[:-1]))


_TIERS = (
    ((), ("row",)),
    (("beats",), ("beats", "row"), ("turned",), ("turned", "beats")),
    (("dense",), ("dense", "beats"), ("dense", "beats", "row")),
)


def lowerings(config: ArchConfig, layer: Layer) -> Iterator[list[Lowered]]:
    """Yield the lowerings of a layer that are worth a look, first the layer as it is and as a row.

    Then, by what they cost, come those for a layer of which no mapping was found before. Padding that changes nothing
    in memory is among the first: a beat's unused words are zeros.
    """
    for number, tier in enumerate(_TIERS):
        found = [lowered for steps in tier if (lowered := lower(config, layer, steps)) is not None]
        if number == 0:
            padded = [lowered for steps in _TIERS[1][:2] if (lowered := lower(config, layer, steps)) is not None]
            found += [one for one in padded if _same_in_memory(config, one)]
        if found:
            yield found


def flattened(config: ArchConfig, layer: Layer) -> list[Layer]:
    """Return the layer with its plane as a single row, where that is the same: pixels in memory follow one another."""
    found = _row(config, layer)
    return [] if found is None else [found]


def _layouts(config: ArchConfig, layer: Layer) -> tuple[TensorLayout, TensorLayout]:
    """Return the layouts of a layer's iacts and ofmap."""
    iacts = TensorLayout(layer.n, layer.c, layer.h, layer.w, config.data_width, config.beat_bytes)
    return iacts, TensorLayout(layer.n, layer.m, layer.p, layer.q, ofmap_bits(config, layer), config.beat_bytes)


def _same_in_memory(config: ArchConfig, lowered: Lowered) -> bool:
    """Whether channels are where they were, in tensors of the same size."""
    before, after = _layouts(config, lowered.origin), _layouts(config, lowered.layer)
    channel_groups = lowered.origin.groups in (1, lowered.origin.c)
    return channel_groups and all(
        not one.planar and (one.blocks, one.beats) == (other.blocks, other.beats)
        for one, other in zip(before, after, strict=True)
    )


def _convolution(layer: Layer, **fields: Any) -> Layer:
    """Return a layer as a convolution with other fields: rules of its kind need not hold, but a maximum stays one."""
    return layer.model_copy(update={**fields, "kind": layer.kind if layer.kind == "maxpool" else "conv"})


# ---------------------------------------------------------------------------------------------- planes


def _row(config: ArchConfig, layer: Layer) -> Layer | None:
    if (layer.r, layer.s, layer.stride, layer.padding) != (1, 1, (1, 1), (0, 0, 0, 0)) or layer.h == 1:
        return None
    if layer.h * layer.w > LARGEST_PLANE or any(layout.planar for layout in _layouts(config, layer)):
        return None
    return layer.as_row()


def _as_row(before: Layer, after: Layer, data: LayerData) -> LayerData:
    del before, after

    def row(tensor: _Array) -> _Array:
        return tensor.reshape(*tensor.shape[:2], 1, -1)

    return replace(data, iacts=row(data.iacts), expected=row(data.expected))


def _turned(config: ArchConfig, layer: Layer) -> Layer | None:
    del config
    top, left, bottom, right = layer.padding
    if layer.w + left + right > 1 or layer.h == 1 or layer.kind == "add":
        return None
    turned = {"h": 1, "w": layer.h, "r": 1, "s": layer.r, "padding": (0, top, 0, bottom)}
    return _convolution(layer, **turned, stride=(1, layer.stride[0]), dilation=(1, layer.dilation[0]))


def _turn(before: Layer, after: Layer, data: LayerData) -> LayerData:
    del before, after
    tensors = {name: getattr(data, name).swapaxes(2, 3) for name in ("iacts", "weights", "expected")}
    return replace(data, **tensors)


# ---------------------------------------------------------------------------------------------- channels


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _beats(config: ArchConfig, layer: Layer) -> Layer | None:
    words, out_words = (layout.words_per_beat for layout in _layouts(config, layer))
    groups, c, m = layer.groups, layer.c // layer.groups, layer.m // layer.groups
    if c == m == 1:
        groups = _up(groups, words)
    else:
        c, m = _up(c, words), _up(m, out_words)
    if (groups * c, groups * m) == (layer.c, layer.m) or max(groups * c, groups * m) > LARGEST:
        return None
    return _convolution(layer, c=groups * c, m=groups * m, groups=groups)


def _dense(config: ArchConfig, layer: Layer) -> Layer | None:
    del config
    return _convolution(layer, groups=1) if layer.groups > 1 and layer.kind == "conv" else None


def _padded(tensor: _Array, axis: int, groups: tuple[int, int], sizes: tuple[int, int], fill: int = 0) -> _Array:
    """Return a tensor with so many groups, of so many channels along an axis, each: the values before and after."""
    parts = np.moveaxis(tensor, axis, 0)
    parts = parts.reshape(groups[0], sizes[0], *parts.shape[1:])
    more = [(0, groups[1] - groups[0]), (0, sizes[1] - sizes[0]), *[(0, 0)] * (parts.ndim - 2)]
    parts = np.pad(parts, more, constant_values=fill)
    return np.moveaxis(parts.reshape(-1, *parts.shape[2:]), 0, axis)


def _pad(before: Layer, after: Layer, data: LayerData) -> LayerData:
    groups = before.groups, after.groups
    channels = before.c // before.groups, after.c // after.groups
    filters = before.m // before.groups, after.m // after.groups
    weights = _padded(data.weights, 0, groups, filters)
    return LayerData(
        iacts=_padded(data.iacts, 1, groups, channels),
        weights=_padded(weights, 1, (1, 1), channels),
        bias=_padded(data.bias, 0, groups, filters),
        scale=_padded(data.scale, 0, groups, filters, fill=1),
        expected=_padded(data.expected, 1, groups, filters),
    )


def _spread(before: Layer, after: Layer, data: LayerData) -> LayerData:
    groups, c, m = before.groups, before.c // before.groups, before.m // before.groups
    weights = np.zeros((after.m, after.c, *data.weights.shape[2:]), data.weights.dtype)
    for g in range(groups):
        weights[g * m : (g + 1) * m, g * c : (g + 1) * c] = data.weights[g * m : (g + 1) * m]
    return replace(data, weights=weights)


STEPS = {
    "row": Step(_row, _as_row),
    "turned": Step(_turned, _turn),
    "beats": Step(_beats, _pad),
    "dense": Step(_dense, _spread),
}
"""Every step of a lowering, by its name in files."""
