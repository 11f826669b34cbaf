"""Small architectures of the whole runs: few, since each is a model to be built, and unlike each other."""

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.arch import load_arch

__all__ = ["MEDIUM", "MORE_SHAPES", "SHAPES", "of_lanes", "ported"]

MEDIUM = {
    "glb_iact_flits": 512,
    "glb_weight_flits": 64,
    "psum_bank_words": 256,
    "param_words": 64,
    "weight_spad": 96,
    "iact_spad": 48,
    "psum_spad": 16,
    "nest_levels": 11,
}
SHAPES = [
    ArchConfig(
        name="a45", rows=4, cols=5, data_width=16, drain_lanes=1, **MEDIUM | {"psum_spad": 64, "read_bursts": 32}
    ),
    ArchConfig(name="b74", rows=7, cols=4, data_width=8, acc_width=24, **MEDIUM),
    ArchConfig(
        name="c83", rows=8, cols=3, data_width=16, link_segment=2, iact_ports=2, weight_ports=2, drain_lanes=2, **MEDIUM
    ),
]
MORE_SHAPES = [
    ArchConfig(name="row", rows=1, cols=6, data_width=8, **MEDIUM),
    ArchConfig(name="column", rows=6, cols=1, data_width=16, iact_ports=3, **MEDIUM),
    ArchConfig(name="wide", rows=2, cols=9, data_width=8, chain_fifo=16, weight_ports=2, **MEDIUM),
    ArchConfig(name="square", rows=5, cols=5, data_width=16, axi_data_width=128, **MEDIUM),
    ArchConfig(name="deep", rows=11, cols=3, data_width=8, uop_fifo=4, **MEDIUM),
]


def of_lanes(lanes: int) -> ArchConfig:
    """The first of these arrays with so many columns that are drained together."""
    return SHAPES[0].replace(cols=4 if lanes > 1 else SHAPES[0].cols, drain_lanes=lanes)


def ported() -> ArchConfig:
    """Four clusters with two ports of each operand, and room for psums of blocks that are loaded in parts."""
    return load_arch("mesh2x2").replace(rows=4, iact_ports=2, weight_ports=2, psum_spad=112, pe_counters=True)
