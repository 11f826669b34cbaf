"""Eyexam: seven bounds on a layer's performance, each with one more property of the architecture.

Source: Sze, Chen, Yang and Emer, Efficient Processing of Deep Neural Networks, section 6.5 and table 6.2. All bounds
are in multiply-accumulates (MACs) a cycle; with one a cycle and PE they are numbers of active PEs, on average.
docs/eyexam.md says how each is found here.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.activity import link_cycles, steps
from rowmesh.sw.counts import access_counts
from rowmesh.sw.dataflow import Dataflow
from rowmesh.sw.files import InputError
from rowmesh.sw.mapper import candidates, find_mapping, flattened
from rowmesh.sw.mapping import Mapping, ceil_div
from rowmesh.sw.mesh import single
from rowmesh.sw.model import predict
from rowmesh.sw.runfile import RunLayer
from rowmesh.sw.tensors import TensorLayout
from rowmesh.sw.workload import Layer

__all__ = ["STEPS", "Exam", "Link", "Split", "Step", "best_split", "examine"]

STEPS = (
    ("layer size and shape", "all MACs at once"),
    ("dataflow", "what the dataflow has in parallel, on as many PEs as it likes"),
    ("number of PEs", "the same on the array's number of PEs, in any shape"),
    ("dimensions of the array", "the same on the array's rows and columns"),
    ("storage", "mappings that fit spads, banks, flits and tags"),
    ("average bandwidth", "the mapping that is run, and its busiest link"),
    ("varying access patterns", "cycles with all waits"),
)
"""Constraint of each step, and what is bounded by it."""

_LINK_WORDS = {
    "dram read": ("dram.iact.read", "dram.weight.read", "dram.param.read"),
    "dram write": ("dram.ofmap.write",),
    "iact noc": ("noc.iact.injected",),
    "weight noc": ("noc.weight.injected",),
    "psum noc": ("noc.psum.delivered",),
    "drain": ("glb.psum.drain",),
}


@dataclass(frozen=True)
class Split:
    """What is spread over the array.

    Parameters
    ----------
    rows, columns : tuple of (str, int)
        Dimensions and how much of each is in parallel.
    cycles : int
        Of the layer, if every PE does a MAC a cycle.
    """

    rows: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, int], ...]
    cycles: int

    def describe(self) -> str:
        """Return the split for people."""

        def axis(parts: tuple[tuple[str, int], ...]) -> str:
            return " x ".join(f"{size:,} {name}" for name, size in parts if size > 1) or "1"

        return f"rows {axis(self.rows)}, columns {axis(self.columns)}"


@dataclass(frozen=True)
class _Room:
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


def best_split(config: ArchConfig, layer: Layer, flows: Sequence[Dataflow], step: int) -> Split:
    """Return the split of the fewest cycles under the constraints of a step.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : sequence of Dataflow
    step : int
        2: unlimited PEs; 3: the array's number of PEs; 4: its rows and columns.

    Raises
    ------
    InputError
        If the dataflows' factors fit no array of that size.
    """
    room = {
        2: _Room(_UNLIMITED, _UNLIMITED, _UNLIMITED),
        3: _Room(config.pes, config.pes, config.pes),
        4: _Room(config.rows, config.cols, config.pes),
    }[step]
    shapes = [layer, *flattened(config, layer)]
    best = None
    for shape, flow in itertools.product(shapes, flows):
        planar = TensorLayout(shape.n, shape.c, shape.h, shape.w, config.data_width, config.beat_bytes).planar
        found = min(_Loops(shape, flow, planar).splits(room), key=lambda split: split.cycles, default=None)
        if found is not None and (best is None or found.cycles < best.cycles):
            best = found
    if best is None:
        names = ", ".join(flow.name for flow in flows)
        raise InputError(f"layer {layer.name}: the factors of {names} do not fit {config.name}")
    return best


@dataclass(frozen=True)
class Link:
    """The roofline of one link.

    Parameters
    ----------
    name : str
    words, cycles : int
        That it carries, and for which it is busy.
    intensity : float
        MACs a word.
    bound : float
        MACs a cycle.
    """

    name: str
    words: int
    cycles: int
    intensity: float
    bound: float


@dataclass(frozen=True)
class Step:
    """A bound.

    Parameters
    ----------
    number : int
    constraint, what : str
    bound : float
        MACs a cycle.
    """

    number: int
    constraint: str
    what: str
    bound: float


@dataclass(frozen=True)
class Exam:
    """All steps of a layer.

    Parameters
    ----------
    layer : Layer
    mapping : Mapping
        The mapping of steps 6 and 7.
    steps : list of Step
    links : list of Link
        Of step 6.
    measured : bool
        Step 7 is the RTL's, not the model's.
    """

    layer: Layer
    mapping: Mapping
    steps: list[Step]
    links: list[Link] = field(default_factory=list)
    measured: bool = False


def examine(config: ArchConfig, layer: Layer, flows: tuple[Dataflow, ...], run: RunLayer | None = None) -> Exam:
    """Examine a layer.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : tuple of Dataflow
        The mapper's choice is among all of them; so is each bound.
    run : RunLayer, optional
        Results of this layer: its mapping and its cycles are taken, not the search's and the model's.

    Raises
    ------
    InputError
        If nothing fits.
    """
    mapping = run.mapping if run else single(find_mapping(config, layer, flows), "the exam")
    splits = [best_split(config, layer, flows, step) for step in (2, 3, 4)]
    fitting = next((steps(found) for _, found in candidates(config, layer, flows)), steps(mapping))
    fewest = min(fitting, steps(mapping))
    counts, busy = access_counts(mapping), link_cycles(mapping)
    links = []
    for name, cycles in busy.items():
        words = sum(counts[counter] for counter in _LINK_WORDS[name])
        links.append(Link(name, words, cycles, layer.macs / words, layer.macs / cycles))
    busiest = max(links, key=lambda link: link.cycles)
    if busiest.cycles > steps(mapping):
        limit = f"{busiest.name} needs {busiest.cycles:,} cycles, the mapping's steps {steps(mapping):,}"
    else:
        limit = f"no link needs more than the mapping's {steps(mapping):,} steps ({busiest.name}: {busiest.cycles:,})"
    cycles = run.result.rtl.cycles if run else predict(mapping).cycles
    what = [
        f"{layer.macs:,} MACs",
        *(f"{split.describe()}; {split.cycles:,} cycles" for split in splits),
        f"the fewest steps of all mappings: {fewest:,}",
        limit,
        f"{cycles:,} cycles " + ("in RTL" if run else "predicted"),
    ]
    each = [1, *(split.cycles for split in splits), fewest, max(steps(mapping), busiest.cycles), cycles]
    found = [
        Step(number, constraint, text, layer.macs / spent)
        for number, ((constraint, _), text, spent) in enumerate(zip(STEPS, what, each, strict=True), 1)
    ]
    return Exam(layer, mapping, found, links, measured=run is not None)
