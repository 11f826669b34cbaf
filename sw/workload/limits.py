"""What a layer may be at most, whatever its mapping: memory that addresses reach, in the layer's own fields.

Sizes of one field are limited by :mod:`rowmesh.sw.workload.layer`, all else by :mod:`rowmesh.sw.mapping.rules`.
"""

from rowmesh.hw.config import REGION_WIDTH, ArchConfig
from rowmesh.sw.workload.layer import Layer, shrunk
from rowmesh.sw.workload.tensors import TensorLayout, storage_bits

__all__ = ["beyond_memory", "beyond_reach", "ofmap_bits"]


def ofmap_bits(config: ArchConfig, layer: Layer) -> int:
    """Bits of an ofmap's word in memory."""
    return config.data_width if layer.output == "requant" else storage_bits(config.acc_width)


def _reach(config: ArchConfig) -> int:
    """Bytes that addresses reach: the loop nests count in REGION_WIDTH bits."""
    return 1 << min(config.axi_addr_width, REGION_WIDTH)


def beyond_reach(config: ArchConfig, size: int) -> str:
    """Return what is wrong with a need of so many bytes of memory, or nothing."""
    if size <= _reach(config):
        return ""
    return f"it needs {size:,} bytes of memory, more than the {_reach(config):,} that addresses reach"


def _least_bytes(config: ArchConfig, layer: Layer) -> int:
    """Bytes that a layer's tensors take at least."""
    beat = config.beat_bytes
    iacts = TensorLayout(layer.n, layer.c, layer.h, layer.w, config.data_width, beat)
    ofmap = TensorLayout(layer.n, layer.m, layer.p, layer.q, ofmap_bits(config, layer), beat)
    weights = layer.m * (layer.c // layer.groups) * layer.r * layer.s * config.data_width // 8
    return iacts.nbytes + ofmap.nbytes + weights + layer.m * beat


def beyond_memory(config: ArchConfig, layer: Layer) -> str:
    """Return why a layer's tensors do not fit the memory, with a field that would have to be less, or nothing."""
    reason = beyond_reach(config, _least_bytes(config, layer))
    if not reason:
        return ""
    for field, value, unit, smaller in shrunk(layer):
        low, high = 0, value // unit  # the most units that fit are in [low, high)
        while high - low > 1:
            middle = (low + high) // 2
            if _least_bytes(config, smaller(middle * unit)) <= _reach(config):
                low = middle
            else:
                high = middle
        if low:
            return f"{reason}: {field} must be at most {low * unit}, not {value}"
    return reason
