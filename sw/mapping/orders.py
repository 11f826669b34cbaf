"""Orders of loops, within a PE and over tiles: data of dataflow and mapping files, from which all else follows.

An order within a PE is a string of dimensions, outermost first, as ``QSRCM``. Its innermost five are the loops over a
PE's tile: output columns, filter columns, filter rows, channels and, always innermost, filters. ``M`` or ``QC`` may
stand before them: sets of filters, or blocks of output columns and channel groups, one after another.

What stays in a PE follows from the places of the loops, as reuse does in Timeloop (Parashar et al. 2019, section VI.A):

- Iacts slide through a window if output columns are outside of the loops that reduce; otherwise they are a patch.
- Psums stay while the loops that reduce pass, from the outermost of these on; if nothing is outside of them, over all
  passes of a tile.
- Weights stay while output columns pass.
"""

from dataclasses import dataclass
from functools import cached_property

__all__ = ["BLOCK", "IACT", "PSUM", "REDUCED", "TILE_ORDERS", "WEIGHT", "Order", "permutation_of"]

REDUCED = "SRC"
"""Dimensions that are summed up."""

_INNER, _FILTERS = frozenset("QSRC"), "M"
_OUTER = ("", "M", "QC")
_NAMES = {"S": ("s",), "R": ("r",), "C": ("c", "cj"), "Q": ("q", "qb"), "M": ("m", "mj")}
"""Names of the loops over each dimension within a PE, innermost first."""


@dataclass(frozen=True)
class Order:
    """An order of the loops within a PE.

    Parameters
    ----------
    letters : str
        Dimensions, outermost first; the innermost M may be left out.

    Raises
    ------
    ValueError
        If it is none; the message says why.
    """

    letters: str

    def __post_init__(self) -> None:
        if not self.letters.endswith(_FILTERS):
            object.__setattr__(self, "letters", self.letters + _FILTERS)
        if frozenset(self.inner) != _INNER or len(self.letters) < 5:
            raise ValueError("must end with Q, S, R and C in any order, and M")
        if self.outer not in _OUTER:
            raise ValueError("must have nothing, M or QC outside of its last five loops")
        if self.blocks and not self.slides:
            raise ValueError("blocks of columns (QC) need Q outside of S, R and C")
        if self.sets and self.slides:
            raise ValueError("sets of filters (M) need Q inside of S, R or C")

    def __str__(self) -> str:
        return self.letters

    @property
    def inner(self) -> str:
        """The loops over a PE's tile but for the filters."""
        return self.letters[-5:-1]

    @property
    def outer(self) -> str:
        """The loops outside of a PE's tile."""
        return self.letters[:-5]

    @property
    def loops(self) -> tuple[str, ...]:
        """Names of the loops, outermost first."""
        return tuple(_NAMES[letter][self.letters.count(letter, at + 1)] for at, letter in enumerate(self.letters))

    @cached_property
    def slides(self) -> bool:
        """Iacts slide through a window along the output columns; otherwise they are a patch that stays for a pass."""
        return self.inner.startswith("Q")

    @cached_property
    def held(self) -> bool:
        """Psums stay in the PE over all passes of a tile."""
        return self.letters[0] in REDUCED

    @cached_property
    def blocks(self) -> bool:
        """Psums of a block of output columns stay in the PE while its channel groups pass."""
        return self.outer == "QC"

    @cached_property
    def sets(self) -> bool:
        """Sets of filters pass one after another for the same iacts."""
        return self.outer == "M"

    @property
    def stays(self) -> str:
        """What stays in a PE longest, for people."""
        if self.blocks:
            return "weights and psums of a block"
        return "weights" if self.slides else "psums" if self.held else "iacts"


WEIGHT, BLOCK, PSUM, IACT = map(Order, ("QSRCM", "QCQSRCM", "SRCQM", "MSRCQM"))
"""The orders of the shipped dataflows, by what stays longest."""

TILE_ORDERS = {False: ("n", "g", "pt", "qt", "mt"), True: ("g", "mt", "n", "pt", "qt")}
"""Loops over tiles at DRAM's level, outermost first, by :attr:`rowmesh.sw.mapping.cluster.ClusterMapping.m_outer`."""


def permutation_of(m_outer: bool) -> str:
    """Return the order of the loops over tiles in the dimensions' letters, as files have it."""
    return "".join(loop[0].upper() for loop in TILE_ORDERS[m_outer])
