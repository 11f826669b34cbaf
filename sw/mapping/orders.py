"""Orders of loops: within a PE, named after what stays there longest, and over tiles."""

from typing import Literal

__all__ = ["TILE_ORDERS", "Stationary", "permutation_of"]

Stationary = Literal["weight", "psum", "iact", "block"]

TILE_ORDERS = {False: ("n", "g", "pt", "qt", "mt"), True: ("g", "mt", "n", "pt", "qt")}
"""Loops over tiles at DRAM's level, outermost first, by :attr:`rowmesh.sw.mapping.cluster.ClusterMapping.m_outer`."""


def permutation_of(m_outer: bool) -> str:
    """Return the order of the loops over tiles in the dimensions' letters, as files have it."""
    return "".join(loop[0].upper() for loop in TILE_ORDERS[m_outer])
