"""Shapes of a layer that the array can run in its place."""

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.workload.layer import LARGEST_PLANE, Layer
from rowmesh.sw.workload.limits import ofmap_bits
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = ["flattened"]


def flattened(config: ArchConfig, layer: Layer) -> list[Layer]:
    """Return the layer with its plane as a single row, where that is the same: pixels in memory follow one another."""
    if (layer.r, layer.s, layer.stride, layer.padding) != (1, 1, (1, 1), (0, 0, 0, 0)) or layer.h == 1:
        return []
    if layer.h * layer.w > LARGEST_PLANE:
        return []
    bits = ofmap_bits(config, layer)
    for channels, width in ((layer.c, config.data_width), (layer.m, bits)):
        if TensorLayout(layer.n, channels, layer.h, layer.w, width, config.beat_bytes).planar:
            return []
    return [layer.as_row()]
