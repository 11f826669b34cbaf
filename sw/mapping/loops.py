"""A mapping's temporal loops as a list, and for each operand the place in it where a PE's tile begins.

Programs, printed nests and files derive from the list. Three rules are all there is to it:

- the address of a word in a PE's tile is a mixed radix over the loops inside that the operand depends on;
- a word is used for the last time in the last iteration of the loops inside that the operand does not depend on;
- psums are cleared and emitted with the loops inside that reduce, and are a tile's first or last with those outside.

Source: the loops and storage boundaries of Timeloop (Parashar et al. 2019, section V.B), with one bound a loop that is
smaller at an edge.
"""

from collections.abc import Collection
from dataclasses import dataclass

from rowmesh.sw.mapping.cluster import ClusterMapping

__all__ = ["OF_SLICE", "PASSES", "RELEVANT", "ROWS", "SLICES", "Loop", "Loops", "loops_of", "tiles_that_share"]

RELEVANT = {"weight": frozenset("GMCRS"), "psum": frozenset("NGMPQ"), "iact": frozenset("NGCPQRS")}
"""Dimensions that an operand depends on."""

_TABLE: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "n": ("N", "n_t", "", ()),
    "g": ("G", "g_t", "", ()),
    "pt": ("P", "pt", "", ()),
    "qt": ("Q", "qt", "", ()),
    "mt": ("M", "mt", "", ()),
    "ct": ("C", "ct", "", ()),
    "rd": ("R", "r_d", "", ()),
    "sd": ("S", "s_d", "", ()),
    "rt": ("R", "r_t", "", ()),
    "st": ("S", "s_t", "", ()),
    "nj": ("N", "n0", "", ()),
    "pj": ("P", "p0", "p0_rest", ("pt",)),
    "mj": ("M", "m1", "", ()),
    "qb": ("Q", "q_blocks", "q_blocks_rest", ("qt",)),
    "cj": ("C", "c1", "", ()),
    "q": ("Q", "q_block", "q_block_rest", ("qt", "qb")),
    "s": ("S", "s0", "", ()),
    "r": ("R", "r0", "", ()),
    "c": ("C", "c0", "", ()),
    "m": ("M", "pe_filters", "", ()),
}
"""Every temporal loop: its dimension, the mapping's attributes with its bound and its bound at an edge, and the loops
that have to be in their last iteration there."""

_FILTERS = ("g", "mt")  # tiles with filters of their own

SLICES = ("ct", "rd", "sd")
"""Loops over the parts of a tile's iacts that are loaded one after another."""

OF_SLICE = ("rt", "st")
"""Loops over the passes of a slice."""

PASSES, ROWS = (*SLICES, *OF_SLICE), ("nj", "pj")
"""Loops over the passes of a tile, and over the row steps of a pass."""


@dataclass(frozen=True)
class Loop:
    """A temporal loop.

    Parameters
    ----------
    name, dimension : str
    bound : int
        Iterations.
    last : int
        Iterations where the loops of ``when`` are in their last one.
    when : tuple of str
        Empty if all bounds are the same.
    """

    name: str
    dimension: str
    bound: int
    last: int
    when: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loops:
    """The loops of a mapping.

    Parameters
    ----------
    loops : tuple of Loop
        Outermost first.
    begins : dict of str to int
        For each operand the number of the first loop inside a PE's tile.
    """

    loops: tuple[Loop, ...]
    begins: dict[str, int]

    def at(self, name: str) -> int:
        """Return the number of a loop."""
        return [loop.name for loop in self.loops].index(name)

    def inside(self, operand: str) -> tuple[Loop, ...]:
        """Return the loops inside a PE's tile of an operand."""
        return self.loops[self.begins[operand] :]

    def used(self, operand: str, among: Collection[Loop] | None = None) -> tuple[str, ...]:
        """Return the loops, of those inside its tile or of others, that an operand depends on."""
        loops = self.inside(operand) if among is None else among
        return tuple(loop.name for loop in loops if loop.dimension in RELEVANT[operand])

    def reused(self, operand: str, among: Collection[Loop] | None = None) -> tuple[str, ...]:
        """Return the loops, of those inside its tile or of others, over which an operand's words are used again."""
        loops = self.inside(operand) if among is None else among
        return tuple(loop.name for loop in loops if loop.dimension not in RELEVANT[operand])

    def strides(self, operand: str) -> dict[str, int]:
        """Return, by loop, the distance in a tile of an operand whose words lie in the order of their use."""
        strides, size = {}, 1
        for loop in reversed(self.inside(operand)):
            if loop.dimension in RELEVANT[operand]:
                strides[loop.name], size = size, size * loop.bound
        return strides


def _loop(m: ClusterMapping, name: str, of: Collection[str]) -> Loop:
    dimension, bound, last, when = _TABLE[name]
    size = int(getattr(m, bound))
    if name == "m" and m.g0 > 1:
        dimension = "G"
    return Loop(name, dimension, size, int(getattr(m, last)) if last else size, tuple(one for one in when if one in of))


def _behind_filters(m: ClusterMapping) -> int:
    """Return the number of the loop behind the innermost one over tiles of groups or filters that has iterations."""
    return max(
        (at + 1 for at, (name, tiles) in enumerate(m.tiles.items()) if tiles > 1 and name in _FILTERS), default=0
    )


def tiles_that_share(m: ClusterMapping) -> tuple[str, ...]:
    """Return the loops over the tiles that share weights or parameters, one tile after another."""
    return tuple(name for name in tuple(m.tiles)[_behind_filters(m) :] if name not in _FILTERS)


def loops_of(m: ClusterMapping) -> Loops:
    """Return a mapping's temporal loops and the places where a PE's tiles begin."""
    tiles, order = tuple(m.tiles), m.order
    names = (*tiles, *PASSES, *ROWS, *order.loops)
    loops = tuple(_loop(m, name, names) for name in names)
    at = {loop.name: number for number, loop in enumerate(loops)}
    within = at[order.loops[0]]
    of_pass = within + 1 if order.sets and m.n0 * m.p0 == 1 else at[ROWS[0]]
    reduced = next(number for number in range(within, len(loops)) if loops[number].dimension not in RELEVANT["psum"])
    return Loops(
        loops,
        {
            "weight": _behind_filters(m) if m.weights_stay else of_pass,
            "psum": at[PASSES[0]] if order.held else reduced,
            "iact": at["q"] if order.slides else within,
        },
    )
