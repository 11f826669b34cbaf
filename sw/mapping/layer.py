"""Mappings of layers: a layer is split over the clusters of a mesh, which all work on a part with the same factors.

Along y, channels are split (psums continue from cluster to cluster) and filters, output rows or groups; along x
filters, output rows or groups. A single array is a mesh of one cluster. Words of an operand that several clusters use
are replicated by routers, and come from the banks of one cluster:

===============  ===============  ========================
same along y     same along x     mode
===============  ===============  ========================
no               no               unicast
no               yes              grouped multicast
yes              no               interleaved multicast
yes              yes              broadcast
===============  ===============  ========================

Source: Efficient Processing of DNNs, section 5.9.1, figure 5.36. Where a data type has no links along an axis, clusters
along it load copies instead.
"""

import functools
import itertools
from collections.abc import Iterator
from collections.abc import Mapping as Dict
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import LINKS, Side
from rowmesh.sw.mapping.cluster import ClusterMapping, IllegalMappingError, ceil_div
from rowmesh.sw.mapping.text import loop_nest
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import Lowered
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = [
    "CLUSTERS",
    "MODES",
    "LayerMapping",
    "Route",
    "Sets",
    "Splits",
    "SubLayer",
    "check_places",
    "mode_of",
    "parts_of",
    "replications",
    "route_of",
    "sets_of",
    "splits_of",
    "sub_layer",
]

CLUSTERS = "clusters_"
"""What the names of a mesh's splits begin with in a file of results."""

MODES = {
    (False, False): "unicast",
    (False, True): "grouped multicast",
    (True, False): "interleaved multicast",
    (True, True): "broadcast",
}
"""Name of a delivery mode: the same along y, along x."""


def replications(operand: str, rows: int, cols: int) -> list[tuple[bool, bool]]:
    """Return what routers can do with an operand on a mesh: where its links lead, clusters can be sent the same.

    Parameters
    ----------
    operand : str
    rows, cols : int
        Clusters.

    Returns
    -------
    list of (bool, bool)
        The same along y, along x.
    """
    along_y = [False, True] if rows > 1 and Side.NORTH in LINKS[operand] else [False]
    along_x = [False, True] if cols > 1 and Side.EAST in LINKS[operand] else [False]
    return [(same_y, same_x) for same_y in along_y for same_x in along_x]


@dataclass(frozen=True)
class Route:
    """What a router does: where it takes flits from (None: it is not used), and where they go."""

    source: Side | None
    outputs: tuple[Side, ...] = ()


def mode_of(same: tuple[bool, bool], rows: int, cols: int) -> str:
    """Return the name of a delivery mode; in a single row or column of clusters, all that share are all there are."""
    same_y, same_x = same
    everywhere = (same_y or rows == 1) and (same_x or cols == 1)
    return MODES[True, True] if everywhere and (same_y or same_x) else MODES[same]


def route_of(same: tuple[bool, bool], rows: int, cols: int, y: int, x: int) -> Route:
    """Return the route at a cluster: from the first of those that share it eastwards, and from that row northwards.

    Parameters
    ----------
    same : (bool, bool)
        See :func:`replications`.
    rows, cols : int
        Clusters in use.
    y, x : int
    """
    if y >= rows or x >= cols:
        return Route(None)
    same_y, same_x = same
    source = Side.LOCAL
    if same_y and y > 0:
        source = Side.SOUTH
    elif same_x and x > 0:
        source = Side.WEST
    outputs = [Side.LOCAL]
    if same_y and y + 1 < rows:
        outputs.append(Side.NORTH)
    if same_x and x + 1 < cols and (y == 0 or not same_y):
        outputs.append(Side.EAST)
    return Route(source, tuple(outputs))


@dataclass(frozen=True)
class Splits:
    """Into how many parts each dimension is split over the clusters: ``_y`` along the mesh's rows, ``_x`` columns.

    Parameters
    ----------
    c_y : int
        Channels, innermost: neighbouring clusters, the psums of one continue in the next.
    m_y, p_y, g_y, m_x, p_x, g_x : int
        Filters, output rows, groups; one of an axis at most exceeds 1.
    """

    c_y: int = 1
    m_y: int = 1
    p_y: int = 1
    g_y: int = 1
    m_x: int = 1
    p_x: int = 1
    g_x: int = 1

    @property
    def rows(self) -> int:
        """Rows of clusters in use."""
        return self.c_y * self.m_y * self.p_y * self.g_y

    @property
    def cols(self) -> int:
        """Columns of clusters in use."""
        return self.m_x * self.p_x * self.g_x

    @property
    def clusters(self) -> int:
        """Clusters in use."""
        return self.rows * self.cols

    @property
    def filter_parts(self) -> int:
        """Parts into which the filters are split."""
        return self.m_y * self.m_x * self.g_y * self.g_x

    @property
    def weight_parts(self) -> int:
        """Parts into which the weights are split."""
        return self.c_y * self.filter_parts

    def weight_part(self, y: int, x: int) -> int:
        """Number of the part of the weights that a cluster works with."""
        outer = y // self.c_y if self.m_y * self.g_y > 1 else 0
        along_x = self.m_x * self.g_x
        return (outer * along_x + (x if along_x > 1 else 0)) * self.c_y + y % self.c_y

    def banks_psums(self, y: int) -> bool:
        """Whether the psums of a row of clusters go to its banks, and not on to the next row."""
        return y % self.c_y == self.c_y - 1

    def counts_params(self, y: int, x: int) -> bool:
        """Whether a cluster is the first with its part of the filters: parameters are loaded once for all of these."""
        return y % self.c_y == 0 and (self.p_y == 1 or y < self.c_y) and (self.p_x == 1 or x == 0)

    def replicated(self, operand: str) -> tuple[bool, bool]:
        """Whether clusters along y, and along x, are sent the same words of an operand by routers."""
        if operand == "iact":
            differs_y, differs_x = self.c_y * self.p_y * self.g_y > 1, self.p_x * self.g_x > 1
        else:
            differs_y, differs_x = self.c_y * self.m_y * self.g_y > 1, self.m_x * self.g_x > 1
        north, east = Side.NORTH in LINKS[operand], Side.EAST in LINKS[operand]
        return self.rows > 1 and not differs_y and north, self.cols > 1 and not differs_x and east

    def route(self, operand: str, y: int, x: int) -> Route:
        """Return the route of an operand at a cluster."""
        return route_of(self.replicated(operand), self.rows, self.cols, y, x)

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield the clusters in use, row after row."""
        for y in range(self.rows):
            for x in range(self.cols):
                yield y, x


def check_places(config: ArchConfig, splits: Splits) -> None:
    """Check that a mesh has the clusters of some splits.

    Raises
    ------
    IllegalMappingError
        If it has fewer.
    """
    rows, cols = config.mesh_rows, config.mesh_cols
    if splits.rows > rows or splits.cols > cols:
        raise IllegalMappingError(f"{splits.rows} x {splits.cols} clusters exceed the mesh of {rows} x {cols}")


class SubLayer(NamedTuple):
    """A cluster's part of a layer: a layer, and where it begins in the whole one."""

    layer: Layer
    channel: int
    filter: int
    output_row: int
    input_row: int


def sub_layer(layer: Layer, splits: Splits, y: int, x: int) -> SubLayer:
    """Return the part of a layer that the cluster at (y, x) works on.

    Raises
    ------
    IllegalMappingError
        If a dimension cannot be split so.
    """
    s = splits
    for name, size, parts in (
        ("channels of a group", layer.c // layer.groups, s.c_y),
        ("filters of a group", layer.m // layer.groups, s.m_y * s.m_x),
        ("output rows", layer.p, s.p_y * s.p_x),
        ("groups", layer.groups, s.g_y * s.g_x),
    ):
        if size % parts:
            raise IllegalMappingError(f"{name} ({size}) must be whole shares of {parts} clusters")
    if (s.c_y > 1 or s.m_y * s.m_x > 1) and layer.groups > 1:
        raise IllegalMappingError(f"channels and filters can only be split in a layer of one group, not {layer.groups}")
    if (s.m_y > 1) + (s.p_y > 1) + (s.g_y > 1) > 1 or (s.m_x > 1) + (s.p_x > 1) + (s.g_x > 1) > 1:
        raise IllegalMappingError("one of filters, output rows and groups can be split along an axis of the mesh")
    outer = y // s.c_y
    at_m = (outer if s.m_y > 1 else 0) * s.m_x + (x if s.m_x > 1 else 0)
    at_p = (outer if s.p_y > 1 else 0) * s.p_x + (x if s.p_x > 1 else 0)
    at_g = (outer if s.g_y > 1 else 0) * s.g_x + (x if s.g_x > 1 else 0)
    groups = layer.groups // (s.g_y * s.g_x)
    channels = layer.c // layer.groups // s.c_y * groups
    filters = layer.m // layer.groups // (s.m_y * s.m_x) * groups
    rows, height, padding, first = layer.p // (s.p_y * s.p_x), layer.h, layer.padding, 0
    if rows != layer.p:
        window = (layer.r - 1) * layer.dilation[0] + 1
        begin = at_p * rows * layer.stride[0] - layer.padding[0]
        end = begin + (rows - 1) * layer.stride[0] + window
        first, last = max(0, begin), min(layer.h, end)
        if last <= first:
            raise IllegalMappingError(f"{rows} output rows of a cluster have no iacts, only padding")
        height, padding = last - first, (first - begin, padding[1], end - last, padding[3])
    return SubLayer(
        layer=_part(layer, channels, filters, height, groups, padding),
        channel=y % s.c_y * channels + at_g * channels,
        filter=(at_m + at_g) * filters,
        output_row=at_p * rows,
        input_row=first,
    )


class Sets(NamedTuple):
    """How the clusters that have psums are drained: in sets, whose clusters are drained together.

    Attributes
    ----------
    rows, cols : int
        Sets with psums.
    heads_y, heads_x : int
        Clusters with psums from a set to the next.
    step_y, first : int
        Sets from one to the next along y; number of the first one.
    members_y : tuple of int
        Rows of a set that have psums.
    members_x : int
        Columns of a set that have psums.
    """

    rows: int
    cols: int
    heads_y: int
    heads_x: int
    step_y: int
    first: int
    members_y: tuple[int, ...]
    members_x: int


def sets_of(config: ArchConfig, splits: Splits) -> Sets:
    """Return how clusters are drained.

    Raises
    ------
    IllegalMappingError
        If sets would be unlike each other.
    """
    (high, wide), c_y = config.drain_shape, splits.c_y
    heads = splits.rows // c_y
    heads_y = max(1, high // c_y)
    for what, number, of_set in (("columns", splits.cols, wide), ("rows", heads, heads_y)):
        if number > of_set and number % of_set:
            raise IllegalMappingError(
                f"{number} {what} of clusters are no whole sets of {of_set} that are drained together"
            )
    if high % c_y and c_y % high:
        raise IllegalMappingError(
            f"channels over {c_y} clusters and sets of {high} rows that are drained together clash"
        )
    across, first_row = config.mesh_cols // wide, (c_y - 1) // high
    rows = [y for y in range(high) if (first_row * high + y) % c_y == c_y - 1]
    return Sets(
        rows=ceil_div(heads, heads_y),
        cols=ceil_div(splits.cols, wide),
        heads_y=heads_y,
        heads_x=wide,
        step_y=max(1, c_y // high) * across,
        first=first_row * across,
        members_y=tuple(rows[: min(heads, heads_y)]),
        members_x=min(splits.cols, wide),
    )


@functools.lru_cache(maxsize=4096)
def _part(layer: Layer, c: int, m: int, h: int, groups: int, padding: tuple[int, int, int, int]) -> Layer:
    # not checked: what a user may write is of no concern here
    return layer.model_copy(update={"c": c, "m": m, "h": h, "groups": groups, "padding": padding})


Places = tuple[tuple[int, int], ...]
"""Clusters, each as (y, x)."""


@functools.lru_cache(maxsize=4096)
def parts_of(layer: Layer, splits: Splits) -> Dict[Layer, Places]:
    """Return the clusters' parts of a layer that differ, each with its clusters, the first cluster's first.

    Raises
    ------
    IllegalMappingError
        If a dimension cannot be split so.
    """
    found: dict[Layer, list[tuple[int, int]]] = {}
    for y, x in splits.places():
        found.setdefault(sub_layer(layer, splits, y, x).layer, []).append((y, x))
    return {part: tuple(places) for part, places in found.items()}


def splits_of(rows: int, cols: int, layer: Layer) -> Iterator[Splits]:
    """Yield every way to split a layer over a mesh; that of one cluster is the first.

    Parameters
    ----------
    rows, cols : int
        Clusters.
    layer : Layer
    """
    m, c = layer.m // layer.groups, layer.c // layer.groups
    sizes = {"m": m if layer.groups == 1 else 1, "p": layer.p, "g": layer.groups}
    for c_y in range(1, rows + 1):
        if c % c_y or (c_y > 1 and layer.groups > 1):
            continue
        along_y = _along("y", sizes, rows // c_y)
        for of_y, of_x in itertools.product(along_y, _along("x", sizes, cols)):
            yield Splits(c_y=c_y, **of_y, **of_x)


def _along(axis: str, sizes: dict[str, int], most: int) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{}]
    for name, size in sizes.items():
        found += [{f"{name}_{axis}": parts} for parts in range(2, most + 1) if size % parts == 0]
    return found


@dataclass(frozen=True)
class LayerMapping:
    """A mapping of a layer onto an architecture: onto a mesh of clusters, of which a single array has one.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
        The whole layer.
    splits : Splits
        Over the clusters.
    cluster : ClusterMapping
        Of the first cluster's part of the layer; the others have the same factors.
    lowered : Lowered, optional
        How the layer came from the workload's; None, the default, if it is that.

    Raises
    ------
    IllegalMappingError
        On construction, if the hardware cannot run it.
    """

    config: ArchConfig
    layer: Layer
    splits: Splits
    cluster: ClusterMapping
    lowered: Lowered | None = None

    def __post_init__(self) -> None:
        if self.cluster.within != self.layer:  # a cluster's tensors are those of the whole layer
            object.__setattr__(self, "cluster", replace(self.cluster, within=self.layer))
        s, a, m = self.splits, self.config, self.cluster
        check_places(a, s)
        sets_of(a, s)
        if s.c_y > 1 and m.chains > 1:
            raise IllegalMappingError("channels split over clusters need one chain a column")
        if s.c_y > 1 and m.layer.kind == "maxpool":
            raise IllegalMappingError("the largest of a window cannot be taken along a chain of PEs")
        if s.filter_parts > 1 and m.m_x_rest != m.m_x:
            raise IllegalMappingError("filters split over clusters need whole filter tiles")
        words = s.filter_parts * m.m_x * m.column_filters
        if m.layer.output == "requant" and words > a.param_words:
            raise IllegalMappingError(f"parameters of {words} filters exceed {a.param_words}")
        for what, layout, split in (
            ("channels", self.iact_layout, s.c_y * s.g_y * s.g_x),
            ("filters", self.ofmap_layout, s.m_y * s.m_x * s.g_y * s.g_x),
        ):
            if split > 1 and (layout.planar or layout.c // split % layout.words_per_beat):
                raise IllegalMappingError(
                    f"{what} of a cluster ({layout.c // split}) must be whole beats of {layout.words_per_beat}"
                )
        assert m.layer in self._of_parts  # all of which are legal

    @classmethod
    def alone(cls, cluster: ClusterMapping) -> "LayerMapping":
        """Return the mapping of a layer that one cluster works on alone."""
        return cls(cluster.config, cluster.layer, Splits(), cluster)

    def of_layer(self, layer: Layer) -> "LayerMapping":
        """Return the same factors and splits of another layer."""
        part = next(iter(parts_of(layer, self.splits)))
        return LayerMapping(self.config, layer, self.splits, replace(self.cluster, layer=part, within=layer))

    @property
    def origin(self) -> Layer:
        """The layer as the workload has it."""
        return self.lowered.origin if self.lowered else self.layer

    @property
    def dataflow(self) -> str:
        """Name of the constraint set."""
        return self.cluster.dataflow

    @property
    def iact_layout(self) -> TensorLayout:
        """Iacts in memory."""
        return self.cluster.iact_layout

    @property
    def ofmap_layout(self) -> TensorLayout:
        """Ofmap in memory."""
        return self.cluster.ofmap_layout

    def to_json(self) -> dict[str, object]:
        """Return the factors; on a mesh, those of the clusters and the delivery modes behind those of a cluster.

        If the layer is not the workload's, ``lowered`` has the steps from that one to this.
        """
        lowered: dict[str, object] = {"lowered": list(self.lowered.steps)} if self.lowered else {}
        if self.config.clusters == 1:
            return {**self.cluster.to_json(), **lowered}
        clusters = {f"{CLUSTERS}{f.name}": getattr(self.splits, f.name) for f in fields(self.splits)}
        modes = {f"{operand}_mode": self.mode(operand) for operand in LINKS}
        return {**self.cluster.to_json(), **clusters, **modes, **lowered}

    def loop_nest(self) -> str:
        """Return the mapping as a loop nest by level, for people."""
        if self.config.clusters == 1:
            return loop_nest(self.cluster)
        lines = ["clusters"]
        for axis in "yx":
            for name in "mpgc":
                bound = getattr(self.splits, f"{name}_{axis}", 1)
                if bound > 1:
                    chained = "    # psums continue" if name == "c" else ""
                    lines.append(f"  parallel-for {name}3 in [0, {bound}){chained}    # along {axis}")
        lines += [f"  {operand}s: {self.mode(operand)}" for operand in LINKS]
        return "\n".join([*lines, loop_nest(self.cluster)])

    # clusters

    @property
    def parts(self) -> Dict[Layer, Places]:
        """The clusters' parts of the layer that differ; see :func:`parts_of`."""
        return parts_of(self.layer, self.splits)

    @cached_property
    def _of_parts(self) -> dict[Layer, ClusterMapping]:
        return {
            part: self.cluster if part == self.cluster.layer else replace(self.cluster, layer=part)
            for part in self.parts
        }

    def of_part(self, part: Layer) -> ClusterMapping:
        """Return the mapping of a cluster's part of the layer."""
        return self._of_parts[part]

    @cached_property
    def sets(self) -> Sets:
        """How clusters are drained."""
        return sets_of(self.config, self.splits)

    def mode(self, operand: str) -> str:
        """Name of the delivery mode of an operand."""
        return mode_of(self.splits.replicated(operand), self.splits.rows, self.splits.cols)
