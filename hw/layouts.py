"""What travels on the links: flits, words, steps and psums."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data
from amaranth.utils import ceil_log2

from rowmesh.hw.config import ArchConfig

__all__ = ["PSUM_FLAGS", "flit_layout", "lane_width", "psum_layout", "step_layout", "word_layout"]

PSUM_FLAGS = ("first", "last", "start")
"""Flags of a psum: first and last pass over its tile, and the tile's first word in a pass."""


def lane_width(config: ArchConfig) -> int:
    """Bits that number a flit's lanes."""
    return max(1, ceil_log2(config.flit_words))


def flit_layout(config: ArchConfig) -> data.StructLayout:
    """Up to one AXI beat of words with one tag.

    Fields
    ------
    data : the words, lane 0 in the low bits
    low, high : first and last valid lane (inclusive)
    phase, index : the two tag fields that subscriptions are matched with
    edge : edge flags
    """
    return data.StructLayout(
        {
            "data": data.ArrayLayout(unsigned(config.data_width), config.flit_words),
            "low": unsigned(lane_width(config)),
            "high": unsigned(lane_width(config)),
            "phase": unsigned(config.tag_width),
            "index": unsigned(config.tag_width),
            "edge": unsigned(config.edge_flags),
        }
    )


def word_layout(config: ArchConfig) -> data.StructLayout:
    """One word on a row's bus: what is left of a flit behind the row's tap."""
    return data.StructLayout(
        {
            "data": unsigned(config.data_width),
            "index": unsigned(config.tag_width),
            "edge": unsigned(config.edge_flags),
        }
    )


def step_layout(config: ArchConfig) -> data.StructLayout:
    """One multiply-accumulate step of all PEs of a cluster.

    Fields
    ------
    iact, weight : offsets in the two operand buffets
    psum : address in the psum spad
    clear : the psum starts from zero
    emit : the result leaves for the psum chain instead of the spad
    iact_release : words of the iact buffet that this step uses last
    iact_sync : the window ends with this step: offsets start again at the head
    weight_release : the step uses its weight last
    weight_sync : the weight tile ends with this step
    first, last, start : flags of an emitted psum (see PSUM_FLAGS)
    edge : edge flags
    """
    return data.StructLayout(
        {
            "iact": unsigned(ceil_log2(config.iact_spad)),
            "weight": unsigned(ceil_log2(config.weight_spad)),
            "psum": unsigned(max(1, ceil_log2(config.psum_spad))),
            "clear": unsigned(1),
            "emit": unsigned(1),
            "iact_release": unsigned(ceil_log2(config.iact_spad + 1)),
            "iact_sync": unsigned(1),
            "weight_release": unsigned(1),
            "weight_sync": unsigned(1),
            **{flag: unsigned(1) for flag in PSUM_FLAGS},
            "edge": unsigned(config.edge_flags),
        }
    )


def psum_layout(config: ArchConfig) -> data.StructLayout:
    """A psum on a column's chain.

    Fields
    ------
    value : the partial sum
    first, last, start : see PSUM_FLAGS
    void : no PE of the chain contributed: the bank keeps its slot and touches no word
    """
    return data.StructLayout(
        {
            "value": signed(config.acc_width),
            **{flag: unsigned(1) for flag in PSUM_FLAGS},
            "void": unsigned(1),
        }
    )
