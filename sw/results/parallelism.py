"""What of a layer can be in parallel: the split over PEs of the fewest cycles, under a dataflow and a number of PEs.

Of a mesh, a layer is first split over clusters (:class:`rowmesh.sw.mapping.layer.Splits`), and then each share over
PEs.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.cluster import IllegalMappingError, ceil_div
from rowmesh.sw.mapping.dataflow import Dataflow
from rowmesh.sw.mapping.layer import Splits, splits_of, sub_layer
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = ["Split", "best_split"]


@dataclass(frozen=True)
class Split:
    """What is spread over the array, of a mesh: over its clusters, and over the PEs of each.

    Parameters
    ----------
    rows, columns : tuple of (str, int)
        Dimensions and how much of each is in parallel.
    cycles : int
        Of the layer, if every PE does a MAC a cycle.
    clusters : Splits
    """

    rows: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, int], ...]
    cycles: int
    clusters: Splits = field(default_factory=Splits)

    def describe(self) -> str:
        """Return the split for people."""

        def axis(parts: tuple[tuple[str, int], ...]) -> str:
            return " x ".join(f"{size:,} {name}" for name, size in parts if size > 1) or "1"

        pes = f"rows {axis(self.rows)}, columns {axis(self.columns)}"
        if self.clusters == Splits():
            return pes
        along_y, along_x = (
            axis(tuple((name.upper(), getattr(self.clusters, f"{name}_{way}", 1)) for name in "mpgc")) for way in "yx"
        )
        return f"clusters {along_y} along y, {along_x} along x; {pes}"


class _Room(NamedTuple):
    """PEs along each axis, and in all."""

    rows: int
    columns: int
    pes: int


_UNLIMITED = 1 << 200
"""PEs; still more than any dimension when divided by all others."""


@functools.cache
def _parts(size: int, room: int) -> list[int]:
    """Return the numbers of parts of a dimension that are worth a look: the fewest for each number of turns."""
    if room * room >= _UNLIMITED:
        return [size]
    return sorted({ceil_div(size, ceil_div(size, parts)) for parts in range(1, min(size, room) + 1)})


@dataclass(frozen=True)
class _Loops:
    """A layer's dimensions under a dataflow, as this hardware can spread them."""

    layer: Layer
    flow: Dataflow
    planar: bool

    def size(self, name: str) -> int:
        """Return a dimension's size, per group."""
        x = self.layer
        groups = {"M": x.m // x.groups, "C": x.c // x.groups, "R": x.r, "P": x.p, "Q": x.q, "G": x.groups}
        return groups[name]

    def most(self, name: str) -> int:
        """Return how much of a dimension is left beside what the dataflow wants in a PE."""
        size, rule = self.size(name), self.flow.factors.get(("pe", name))
        if rule is None or rule.most or name == "P":  # output rows of a PE are those in time
            return size
        return ceil_div(size, min(rule.value or size, size))

    def factors(self, axis: str, name: str, room: int, most: int) -> list[int]:
        """Return the parts of a dimension along an axis that the dataflow allows."""
        if room < 1:
            return []
        allowed = self.flow.rows if axis == "rows" else self.flow.columns
        size = self.size(name)
        if name not in allowed:
            return [1]
        rule = self.flow.factors.get((axis, name))
        if rule is not None and not rule.most:
            wanted = min(rule.value or size, size)
            return [wanted] if wanted <= min(room, most) else []
        return _parts(most, min(room, rule.value or size) if rule is not None else room)

    def splits(self, room: _Room) -> Iterator[Split]:
        """Yield splits, among which is one of the fewest cycles."""
        chains = [name for name in "PMG" if name in self.flow.rows and (name != "G" or self.size("M") == 1)]
        rooms = min(room.rows, room.pes)
        for r in (part for part in self.factors("rows", "R", rooms, self.most("R")) if part in (1, self.size("R"))):
            for own in chains if r == 1 and chains else [""]:
                ys = self.factors("rows", own, rooms // r, self.most(own)) if own else [1]
                for y in ys:
                    # groups at once have all of their channels in one PE
                    most = 1 if own == "G" and y > 1 else self.most("C")
                    for c in self.factors("rows", "C", rooms // (r * y), most):
                        left = min(room.columns, room.pes // (r * y * c))
                        yield from self._across(left, r, own, y, c)

    def _across(self, left: int, r: int, own: str, y: int, c: int) -> Iterator[Split]:
        inner = ["P"] if "P" in self.flow.columns and not (own == "P" and y > 1) else []
        inner += ["Q"] if "Q" in self.flow.columns and r == 1 and not self.planar else []
        for name in inner or [""]:
            for x in self.factors("columns", name, left, self.most(name)) if name else [1]:
                most = ceil_div(self.most("M"), y) if own == "M" else self.most("M")
                if own == "G" and y > 1:
                    most = 1
                for m in self.factors("columns", "M", left // x, most)[-1:]:
                    parts = {"R": r, "C": c, "M": m, **({name: x} if name else {})}
                    if own:
                        parts[own] = parts.get(own, 1) * y
                    cycles = self.layer.n * self.layer.s
                    for dimension in "GMCRPQ":
                        cycles *= ceil_div(self.size(dimension), parts.get(dimension, 1))
                    yield Split(((own, y), ("C", c), ("R", r)), (("M", m), (name, x)), cycles)


def _cluster_parts(layer: Layer, rows: int, cols: int, clusters: int) -> Iterator[tuple[Splits, Layer]]:
    """Yield the ways to split a layer over a mesh, with the first cluster's part; the trivial one is the first.

    Parameters
    ----------
    layer : Layer
    rows, cols : int
        Clusters along each axis.
    clusters : int
        Clusters in all.
    """
    for splits in splits_of(rows, cols, layer):
        if splits.clusters <= clusters:
            try:
                yield splits, sub_layer(layer, splits, 0, 0).layer
            except IllegalMappingError:
                continue


def _whole_shares(layer: Layer) -> Iterator[tuple[Splits, Layer]]:
    """Yield the splits over as many clusters as a layer's dimensions have."""
    sizes = {"m": layer.m // layer.groups, "p": layer.p, "g": layer.groups}
    c = layer.c // layer.groups
    ways = [{}, *({name: size} for name, size in sizes.items() if size > 1)]
    for c_y, of_y, of_x in itertools.product(sorted({1, c}), ways, ways):
        if of_y.keys() & of_x.keys():
            continue
        try:
            along = {f"{name}_y": size for name, size in of_y.items()} | {f"{n}_x": size for n, size in of_x.items()}
            splits = Splits(c_y=c_y, **along)
            yield splits, sub_layer(layer, splits, 0, 0).layer
        except IllegalMappingError:
            continue


def _rooms(config: ArchConfig, layer: Layer, step: int) -> Iterator[tuple[Splits, Layer, _Room]]:
    """Yield what each cluster's share can have under the constraints of a step."""
    y, x, pes = config.mesh_rows, config.mesh_cols, config.pes
    if step == 2:
        ways = _whole_shares(layer) if config.clusters > 1 else _cluster_parts(layer, 1, 1, 1)
        for splits, share in ways:
            yield splits, share, _Room(_UNLIMITED, _UNLIMITED, _UNLIMITED)
    elif step == 3:
        for splits, share in _cluster_parts(layer, config.clusters, config.clusters, config.clusters):
            of_each = pes // splits.clusters
            yield splits, share, _Room(of_each, of_each, of_each)
    else:
        for splits, share in _cluster_parts(layer, y, x, config.clusters):
            yield splits, share, _Room(config.rows, config.cols, config.rows * config.cols)


def best_split(config: ArchConfig, shapes: Sequence[Layer], flows: Sequence[Dataflow], step: int) -> Split:
    """Return the split of the fewest cycles under the constraints of a step.

    Parameters
    ----------
    config : ArchConfig
    shapes : sequence of Layer
        The layer, and layers that the array can run in its place.
    flows : sequence of Dataflow
    step : int
        2: unlimited PEs; 3: the array's number of PEs; 4: its rows and columns.

    Raises
    ------
    InputError
        If the dataflows' factors fit no array of that size.
    """
    best = None
    for shape in shapes:
        planar = TensorLayout(shape.n, shape.c, shape.h, shape.w, config.data_width, config.beat_bytes).planar
        seen: set[tuple[Layer, _Room]] = set()
        for clusters, share, room in _rooms(config, shape, step):
            if (share, room) in seen or (best is not None and ceil_div(share.macs, room.pes) >= best.cycles):
                continue
            seen.add((share, room))
            for flow in flows:
                found = min(_Loops(share, flow, planar).splits(room), key=lambda split: split.cycles, default=None)
                if found is not None and (best is None or found.cycles < best.cycles):
                    best = replace(found, clusters=clusters)
    if best is None:
        names = ", ".join(flow.name for flow in flows)
        raise InputError(f"layer {shapes[0].name}: the factors of {names} do not fit {config.name}")
    return best
