"""A layer's programs: the nests of all engines, the arrays' subscriptions, and the routes of a mesh."""

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rowmesh.hw.descriptor import Engine
from rowmesh.sw.mapping.layer import Route
from rowmesh.sw.program.nest import Nest

__all__ = ["Programs"]


@dataclass(frozen=True)
class Programs:
    """A layer's programs.

    Parameters
    ----------
    shared : Mapping[Engine, Nest]
        Nests of the engines that all clusters share.
    clusters : sequence of Mapping[Engine, Nest]
        Nests of each cluster's engines: of the operands that come from its banks.
    arrays : sequence of Mapping[int, int]
        Subscriptions of each cluster's array.
    routes : Mapping[str, sequence of Route]
        Of each operand and cluster; nothing without a mesh.
    north : sequence of bool
        Whether a cluster's psums go on to the next cluster to the north; nothing without a mesh.
    """

    shared: Dict[Engine, Nest]
    clusters: Sequence[Dict[Engine, Nest]]
    arrays: Sequence[Dict[int, int]]
    routes: Dict[str, Sequence[Route]] = field(default_factory=dict)
    north: Sequence[bool] = ()

    @property
    def started(self) -> list[Engine]:
        """Engines that are started, those of several clusters or ports once, in the order of their numbers."""
        used = {engine.first for nests in (self.shared, *self.clusters) for engine in nests}
        return sorted(used)
