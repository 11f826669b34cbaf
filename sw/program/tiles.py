"""What the nests of all engines have in common: the loops over tiles, and the flags of tiles at an edge."""

from collections.abc import Collection
from collections.abc import Mapping as Dict
from dataclasses import replace

from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.loops import loops_of, tiles_that_share
from rowmesh.sw.program.nest import Loop
from rowmesh.sw.program.subscriptions import edge_flags_of

__all__ = ["edge_masks", "iact_moves", "loaded_loops", "loops_over", "tile_loops"]


def edge_masks(mapping: ClusterMapping, rows: tuple[str, ...]) -> dict[str, tuple[str, ...] | None]:
    """Conditions of the edge flags; ``rows`` are the loops that end in the last row step."""
    conditions: dict[str, tuple[str, ...] | None] = {f"edge{k}_mask": None for k in range(mapping.config.edge_flags)}
    loops: dict[str, tuple[str, ...]] = {"M": ("mt",), "C": ("ct",), "P": rows, "Q": ("qt",)}
    conditions |= {f"edge{flag}_mask": loops[name] for name, flag in edge_flags_of(mapping).items()}
    return conditions


def tile_loops(m: ClusterMapping, strides: dict[str, dict[str, int]]) -> list[Loop]:
    """Return the loops over tiles, outermost first; strides by loop and output."""
    return [Loop(name, bound, strides.get(name, {})) for name, bound in m.tiles.items()]


def iact_moves(m: ClusterMapping, columns: int = 1) -> dict[str, dict[str, int]]:
    """Return how far each loop outside of a PE moves in the iacts: rows ``y``, units of so many columns ``x``, blocks.

    What is along the array, and across it, is no loop here.
    """
    x, (uy, ux), (dy, dx) = m.layer, m.layer.stride, m.layer.dilation
    return {
        "pt": {"y": m.p0 * m.p_n * uy},
        "qt": {"x": m.q0 * ux // columns},
        "ct": {"block": m.pass_channels if m.planar else m.pass_channels // m.lanes},
        "rd": {"y": x.r // m.r_d * dy},
        "sd": {"x": x.s // m.s_d * dx // columns},
        "rt": {"y": dy},
        "st": {"x": m.s0 * dx},
        "pj": {"y": m.p_n * uy},
    }


def loops_over(m: ClusterMapping, names: Collection[str], strides: Dict[str, dict[str, int]]) -> list[Loop]:
    """Return the mapping's loops of some names, in its order; strides by loop and output."""
    return [
        Loop(loop.name, loop.bound, strides.get(loop.name, {}), *((loop.last, loop.when) if loop.when else ()))
        for loop in loops_of(m).loops
        if loop.name in names
    ]


def loaded_loops(m: ClusterMapping, strides: dict[str, dict[str, int]], stays: bool) -> list[Loop]:
    """Return the loops over tiles of what is loaded for each of them, or once if it stays."""
    once = tiles_that_share(m) if stays else ()
    return [replace(loop, bound=1) if loop.name in once else loop for loop in tile_loops(m, strides)]
