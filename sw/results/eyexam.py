"""Eyexam: seven bounds on a layer's performance, each with one more property of the architecture.

Source: Sze, Chen, Yang and Emer, Efficient Processing of Deep Neural Networks, section 6.5 and table 6.2. All bounds
are in multiply-accumulates (MACs) a cycle; with one a cycle and PE they are numbers of active PEs, on average.
docs/eyexam.md says how each is found here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.mapping.cluster import ceil_div
from rowmesh.sw.mapping.dataflow import Dataflow
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.counts import access_counts
from rowmesh.sw.model.predict import predict
from rowmesh.sw.model.utilization import link_cycles, pe_steps
from rowmesh.sw.results.file import RunLayer
from rowmesh.sw.results.parallelism import best_split
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.search.objective import Objective
from rowmesh.sw.search.pool import candidates, ways_of
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import flattened

__all__ = ["STEPS", "Exam", "Link", "Step", "examine"]

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
    mapping : LayerMapping
        The mapping of steps 6 and 7.
    steps : list of Step
    links : list of Link
        Of step 6.
    measured : bool
        Step 7 is the RTL's, not the model's.
    """

    layer: Layer
    mapping: LayerMapping
    steps: list[Step]
    links: list[Link] = field(default_factory=list)
    measured: bool = False


def _fewest_steps(config: ArchConfig, shapes: Sequence[Layer], flows: tuple[Dataflow, ...], most: int) -> int:
    """Return the fewest steps of all mappings, or ``most`` if none has fewer."""
    for shape in shapes:
        for way in ways_of(config, shape)[0]:
            if ceil_div(way.parts[0].macs, config.cluster.pes) < most:
                most = min(most, next((found for found, _ in candidates(config, shape, flows, way.splits)), most))
    return most


def examine(
    config: ArchConfig,
    layer: Layer,
    flows: tuple[Dataflow, ...],
    run: RunLayer | None = None,
    objective: Objective | str = "cycles",
) -> Exam:
    """Examine a layer.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flows : tuple of Dataflow
        The mapper's choice is among all of them; so is each bound.
    run : RunLayer, optional
        Results of this layer: its mapping and its cycles are taken, not the search's and the model's.
    objective : Objective or str
        Of the search.

    Raises
    ------
    InputError
        If nothing fits.
    """
    mapping = run.mapping if run else find_mapping(config, layer, flows, objective)
    # bounds are of the layer as it is, as a row, and as the mapping has it
    shapes = list(dict.fromkeys([layer, *flattened(config, layer), mapping.layer]))
    splits = [best_split(config, shapes, flows, step) for step in (2, 3, 4)]
    fewest = _fewest_steps(config, shapes, flows, pe_steps(mapping))
    counts, busy = access_counts(mapping), link_cycles(mapping)
    links = []
    for name, cycles in busy.items():
        words = sum(counts[counter] for counter in _LINK_WORDS[name])
        links.append(Link(name, words, cycles, layer.macs / words, layer.macs / cycles))
    busiest = max(links, key=lambda link: link.cycles)
    if busiest.cycles > pe_steps(mapping):
        limit = f"{busiest.name} needs {busiest.cycles:,} cycles, the mapping's steps {pe_steps(mapping):,}"
    else:
        limit = (
            f"no link needs more than the mapping's {pe_steps(mapping):,} steps ({busiest.name}: {busiest.cycles:,})"
        )
    cycles = run.result.rtl.cycles if run else predict(mapping).cycles
    what = [
        f"{layer.macs:,} MACs",
        *(f"{split.describe()}; {split.cycles:,} cycles" for split in splits),
        f"the fewest steps of all mappings: {fewest:,}",
        limit,
        f"{cycles:,} cycles " + ("in RTL" if run else "predicted"),
    ]
    each = [1, *(split.cycles for split in splits), fewest, max(pe_steps(mapping), busiest.cycles), cycles]
    found = [
        Step(number, constraint, text, layer.macs / spent)
        for number, ((constraint, _), text, spent) in enumerate(zip(STEPS, what, each, strict=True), 1)
    ]
    return Exam(layer, mapping, found, links, measured=run is not None)
