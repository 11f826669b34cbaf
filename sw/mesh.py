"""A layer on a mesh: each cluster works on its share with the same mapping, and routers share out what is common.

A mesh mapping splits a layer over the clusters: along y channels (whose psums continue from cluster to cluster) and
filters, output rows or groups; along x filters, output rows or groups. What an operand does not depend on is delivered
by the routers; what it does depend on comes from banks of its own:

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
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import LINKS, Side
from rowmesh.sw.files import InputError
from rowmesh.sw.mapping import IllegalMappingError, Mapping, ceil_div
from rowmesh.sw.programs import Route
from rowmesh.sw.tensors import TensorLayout
from rowmesh.sw.workload import Layer

__all__ = [
    "CLUSTERS",
    "MODES",
    "MeshMapping",
    "Sets",
    "Share",
    "Splits",
    "check_places",
    "mode_of",
    "route_of",
    "sets_of",
    "share_of",
    "shared",
    "sharings",
    "single",
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


def sharings(operand: str, rows: int, cols: int) -> list[tuple[bool, bool]]:
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


def single(mapping: "Mapping | MeshMapping", what: str) -> Mapping:
    """Return the mapping of a single array.

    Raises
    ------
    InputError
        If it is of a mesh, which ``what`` cannot take.
    """
    if isinstance(mapping, MeshMapping):
        raise InputError(f"{what}: takes accelerators of one cluster, not the {mapping.config.clusters} of a mesh")
    return mapping


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
        See :func:`sharings`.
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
    """Into how many shares each dimension is split over the clusters: ``_y`` along the mesh's rows, ``_x`` columns.

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


class Share(NamedTuple):
    """A cluster's share of a layer: a layer, and where it begins in the whole one."""

    layer: Layer
    channel: int
    filter: int
    output_row: int
    input_row: int


def share_of(layer: Layer, splits: Splits, y: int, x: int) -> Share:
    """Return the share of the cluster at (y, x).

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
    return Share(
        layer=_part(layer, channels, filters, height, groups, padding),
        channel=y % s.c_y * channels + at_g * channels,
        filter=(at_m + at_g) * filters,
        output_row=at_p * rows,
        input_row=first,
    )


def shared(splits: Splits, operand: str) -> tuple[bool, bool]:
    """Return whether clusters along y, and along x, are sent the same words of an operand by routers."""
    s = splits
    if operand == "iact":
        differs_y, differs_x = s.c_y * s.p_y * s.g_y > 1, s.p_x * s.g_x > 1
    else:
        differs_y, differs_x = s.c_y * s.m_y * s.g_y > 1, s.m_x * s.g_x > 1
    north, east = Side.NORTH in LINKS[operand], Side.EAST in LINKS[operand]
    return s.rows > 1 and not differs_y and north, s.cols > 1 and not differs_x and east


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
    return layer.model_copy(update={"c": c, "m": m, "h": h, "groups": groups, "padding": padding, "input": "random"})


@dataclass(frozen=True)
class MeshMapping:
    """A mapping of a layer onto a mesh.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
        The whole layer.
    splits : Splits
    share : Mapping
        Of the first cluster's share; the others have the same factors.

    Raises
    ------
    IllegalMappingError
        On construction, if the hardware cannot run it.
    """

    config: ArchConfig
    layer: Layer
    splits: Splits
    share: Mapping

    def __post_init__(self) -> None:
        s, a, m = self.splits, self.config, self.share
        check_places(a, s)
        sets_of(a, s)
        if s.c_y > 1 and m.chains > 1:
            raise IllegalMappingError("channels split over clusters need one chain a column")
        if s.c_y > 1 and m.layer.kind == "maxpool":
            raise IllegalMappingError("the largest of a window cannot be taken along a chain of PEs")
        if self.param_shares > 1 and m.m_x_rest != m.m_x:
            raise IllegalMappingError("filters split over clusters need whole filter tiles")
        words = self.param_shares * m.m_x * m.column_filters
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

    # what a mapping of a single array has too

    @property
    def dataflow(self) -> str:
        """Name of the constraint set."""
        return self.share.dataflow

    @property
    def iact_layout(self) -> TensorLayout:
        """Iacts in memory."""
        return self.share.iact_layout

    @property
    def ofmap_layout(self) -> TensorLayout:
        """Ofmap in memory."""
        return self.share.ofmap_layout

    def to_json(self) -> dict[str, object]:
        """Return the factors, those of the clusters behind those of a share."""
        clusters = {f"{CLUSTERS}{f.name}": getattr(self.splits, f.name) for f in fields(self.splits)}
        modes = {f"{operand}_mode": self.mode(operand) for operand in LINKS}
        return {**self.share.to_json(), **clusters, **modes}

    def loop_nest(self) -> str:
        """Return the mapping as a loop nest by level, for people."""
        lines = ["clusters"]
        for axis in "yx":
            for name in "mpgc":
                bound = getattr(self.splits, f"{name}_{axis}", 1)
                if bound > 1:
                    chained = "    # psums continue" if name == "c" else ""
                    lines.append(f"  parallel-for {name}3 in [0, {bound}){chained}    # along {axis}")
        lines += [f"  {operand}s: {self.mode(operand)}" for operand in LINKS]
        return "\n".join([*lines, self.share.loop_nest()])

    # clusters

    @cached_property
    def shares(self) -> dict[tuple[int, int], tuple[Share, Mapping]]:
        """Share and mapping of each cluster in use, by its place."""
        found, mappings = {}, {}
        for y, x in self.splits.places():
            share = share_of(self.layer, self.splits, y, x)
            if share.layer not in mappings:
                mappings[share.layer] = replace(self.share, layer=share.layer)
            found[y, x] = share, mappings[share.layer]
        return found

    @cached_property
    def sets(self) -> Sets:
        """How clusters are drained."""
        return sets_of(self.config, self.splits)

    @property
    def param_shares(self) -> int:
        """Shares of filters."""
        s = self.splits
        return s.m_y * s.m_x * s.g_y * s.g_x

    def same(self, operand: str) -> tuple[bool, bool]:
        """Whether clusters along y, and along x, are sent the same words by routers."""
        return shared(self.splits, operand)

    def mode(self, operand: str) -> str:
        """Name of the delivery mode of an operand."""
        return mode_of(self.same(operand), self.splits.rows, self.splits.cols)

    def route(self, operand: str, y: int, x: int) -> Route:
        """Return the route of an operand at a cluster."""
        s = self.splits
        return route_of(self.same(operand), s.rows, s.cols, y, x)

    def own(self, operand: str, y: int, x: int) -> bool:
        """Whether a cluster takes an operand from its own banks."""
        return self.route(operand, y, x).source is Side.LOCAL

    def heads(self, y: int) -> bool:
        """Whether the psums of a row of clusters go to its banks."""
        return y % self.splits.c_y == self.splits.c_y - 1

    def weight_share(self, y: int, x: int) -> int:
        """Number of the share of weights that a cluster works with."""
        s = self.splits
        outer = y // s.c_y if s.m_y * s.g_y > 1 else 0
        return (outer * (s.m_x * s.g_x) + (x if s.m_x * s.g_x > 1 else 0)) * s.c_y + y % s.c_y

    @property
    def weight_shares(self) -> int:
        """Shares of weights."""
        return self.splits.c_y * self.param_shares
