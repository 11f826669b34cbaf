"""Nests of the load engines: from memory to the global buffer."""

from collections.abc import Sequence

from rowmesh.hw.nest import BOUND_WIDTH
from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div, weight_beats
from rowmesh.sw.mapping.loops import SLICES
from rowmesh.sw.program.memory_map import MemoryMap
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.tiles import iact_moves, loaded_loops, loops_over, tile_loops

__all__ = ["load_iact", "load_param", "load_weight"]

_LONGEST = 1024
"""Beats of a segment of weights or parameters, where a loop can count them."""


def load_iact(m: ClusterMapping, memory: MemoryMap, port: int) -> Nest:
    """Return the nest of a port's load engine of iacts: tiles with their halos, in parts of a block if it has any."""
    x, layout, lanes = m.layer, m.iact_layout, m.lanes
    uy, ux = x.stride
    beat = m.config.beat_bytes
    unit = lanes if m.planar else 1  # columns of a beat
    base_x = (-x.padding[1] - m.x_offset) // unit
    moves = iact_moves(m, unit)
    distance = {"y": layout.stride_row, "x": beat, "block": layout.stride_block}
    strides = {
        name: {"address": sum(distance[along] * by for along, by in move.items()), **move}
        for name, move in moves.items()
    }
    strides |= {"n": {"address": m.n0 * layout.stride_n}, "g": {"address": m.group_blocks * layout.stride_block}}
    length, groups = (m.part, m.c1) if m.part else (m.tile_beats, 1)
    blocks = m.blocks // groups
    loops = [loop for loop in tile_loops(m, strides) if not (m.resident and loop.name == "mt")]
    loops += [
        *loops_over(m, SLICES, strides),
        Loop("nj", m.n0, {"address": layout.stride_n}),
        Loop("cj", groups, {"address": blocks * layout.stride_block, "block": blocks}),
        Loop("part", m.tile_beats // length, {"address": length * beat, "x": length}),
        Loop("cb", blocks, {"address": layout.stride_block, "block": 1}),
        Loop("y", m.tile_rows, {"address": layout.stride_row, "y": 1}),
    ]
    start = memory.iact + port * m.blocks * layout.stride_block
    used_columns = min(x.w, (x.q - 1) * ux + m.width - x.padding[1])
    return Nest(
        loops,
        {
            "address": start - x.padding[0] * layout.stride_row + base_x * beat & 0xFFFFFFFF,
            "x": base_x,
            "y": -x.padding[0],
            "block": port * m.blocks,
        },
        {"length_mask": None},
        {
            "length": length,
            "width": ceil_div(used_columns, unit),
            "height": min(x.h, (x.p - 1) * uy + m.height - x.padding[0]),
            "blocks": m.group_blocks,
        },
    )


def _linear(
    m: ClusterMapping, base: int, of_group: int, beats: int, segment: int, stays: bool, stretches: Sequence[Loop] = ()
) -> Nest:
    """Load the beats of each group in order, once for each tile of n, pt and qt if they do not stay.

    ``beats`` of them are neighbours: all ``of_group``, or a stretch in each iteration of the loops ``stretches``.
    """
    beat = m.config.beat_bytes
    loops = [loop for loop in loaded_loops(m, {"g": {"address": of_group * beat}}, stays) if loop.name != "mt"]
    loops += stretches
    segment = max(segment, ceil_div(beats, 1 << BOUND_WIDTH))
    count = ceil_div(beats, segment)
    loops.append(Loop("segment", count, {"address": segment * beat}))
    return Nest(
        loops,
        {"address": base},
        {"length_mask": ("segment",)},
        {"length": segment, "length_last": beats - (count - 1) * segment},
    )


def load_weight(m: ClusterMapping, memory: MemoryMap, port: int) -> Nest:
    """Return the nest of a port's load engine of weights, which lie in memory in the order of their reader."""
    beats, longest = weight_beats(m) // m.weight_ports, _LONGEST
    if m.part:  # a channel group's weights take as many bursts as the iacts of its block: both come in the same time
        longest = min(longest, ceil_div(beats * m.part, m.blocks * m.q1))
    start = memory.weight + port * m.g_t * beats * m.config.beat_bytes
    return _linear(m, start, beats, beats, min(beats, longest), m.weights_stay)


def load_param(m: ClusterMapping, memory: MemoryMap, shares: int = 1) -> Nest:
    """Return the nest of the load engine of the parameters, a beat a filter.

    Of clusters that have ``shares`` of the filters, those of a filter tile come one cluster after another.
    """
    of_group, of_tile, beat = m.g_n * m.m, m.m_x * m.column_filters, m.config.beat_bytes
    params = of_group
    stretches: Sequence[Loop] = ()
    if shares > 1:
        tiles, clusters = {"address": of_tile * beat}, {"address": m.layer.m * beat}
        stretches, params = (Loop("mt", m.mt, tiles), Loop("cluster", shares, clusters)), of_tile
    return _linear(m, memory.param, of_group, params, min(params, _LONGEST), m.params_stay, stretches)
