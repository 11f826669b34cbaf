"""The Eyeriss chip's AlexNet table beside runs of this project's hardware.

The chip's numbers are measured on silicon, for a batch of four images at 200 MHz: Chen et al., Eyeriss, JSSC 2017,
table V (also EcoFlow, table 2). Its memory traffic is run-length compressed; this hardware's is not.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import ANY, load_dataflows
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.counts import access_counts
from rowmesh.sw.model.energy import EnergyTable
from rowmesh.sw.model.performance import Measurement, Prediction
from rowmesh.sw.model.predict import predict
from rowmesh.sw.model.utilization import pe_steps, used_pes
from rowmesh.sw.results.file import RunLayer
from rowmesh.sw.search.mapper import search
from rowmesh.sw.search.objective import Budget, Objective
from rowmesh.sw.workload.layer import Layer, load_workload

__all__ = [
    "CHIP",
    "CHIP_BATCH",
    "DRAM_LIMIT",
    "GLB_LIMIT",
    "ChipLayer",
    "Score",
    "best_mapping",
    "criteria",
    "extrapolated",
    "fewest_dram_words",
    "goal",
    "predicted_score",
    "scores",
    "total",
]

CHIP_BATCH = 4

_CHIP_CLOCK = 200_000  # cycles a millisecond
_WORD_BYTES = 2  # of the chip

GLB_LIMIT, DRAM_LIMIT = 1.2, 1.1
"""What global buffer words may be of the chip's, and DRAM words of the fewest of any mapping."""

_VISITED = 3_000_000
"""Mappings that a search visits."""

_BEYOND = 1e15
"""Cost of being beyond a limit by its size: more than the energy of any layer."""


@dataclass(frozen=True)
class ChipLayer:
    """What the chip measured for a layer and a batch of four.

    Parameters
    ----------
    processing, with_loads : int
        Cycles; the second with the loads that do not overlap.
    active_pes : int
    glb, dram : float
        Megabytes moved; those of DRAM are compressed.
    """

    processing: int
    with_loads: int
    active_pes: int
    glb: float
    dram: float


def _chip(processing: float, with_loads: float, active_pes: int, glb: float, dram: float) -> ChipLayer:
    return ChipLayer(round(processing * _CHIP_CLOCK), round(with_loads * _CHIP_CLOCK), active_pes, glb, dram)


CHIP = {
    "CONV1": _chip(16.5, 20.9, 154, 18.5, 5.0),
    "CONV2": _chip(39.2, 41.9, 135, 77.6, 4.0),
    "CONV3": _chip(21.8, 23.6, 156, 50.2, 3.0),
    "CONV4": _chip(16.0, 18.4, 156, 37.4, 2.1),
    "CONV5": _chip(10.0, 10.5, 156, 24.9, 1.3),
}
"""By layer; times are given in milliseconds. CONV5's is the lower of the two that are published."""


@dataclass(frozen=True)
class Score:
    """A layer's numbers beside the chip's.

    Parameters
    ----------
    name : str
    batch : int
        Images that the numbers are of.
    cycles : int
        Of the RTL, or predicted.
    used_pes : int
        PEs that have work; 0 for a sum.
    active_pes : float
        MACs / steps: those that work in a step, on average.
    glb, dram, fewest : float
        Megabytes of words of 16 bits: accesses of the global buffer, words of DRAM, and the fewest of any mapping.
    chip : ChipLayer
        For a batch of four.
    """

    name: str
    batch: int
    cycles: int
    used_pes: int
    active_pes: float
    glb: float
    dram: float
    fewest: float
    chip: ChipLayer


@functools.lru_cache(maxsize=64)
def fewest_dram_words(config: ArchConfig, layer: Layer) -> int:
    """Return the fewest words of memory traffic of all mappings that a search visits, of all shipped dataflows.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    """
    return sum(
        words for name, words in access_counts(_least(config, layer, "dram")).items() if name.startswith("dram.")
    )


def _least(config: ArchConfig, layer: Layer, objective: Objective | str) -> LayerMapping:
    return search(config, layer, load_dataflows(ANY), objective, Budget(mappings=_VISITED)).mapping


def goal(chip: ChipLayer, fewest: int) -> str:
    """Return the objective that meets the criteria: first they, then the least energy.

    Parameters
    ----------
    chip : ChipLayer
    fewest : int
        Fewest words of DRAM of any mapping.
    """
    cycles, glb = chip.processing - 1, GLB_LIMIT * chip.glb * 1e6 / _WORD_BYTES
    over = (f"cycles / {cycles}", f"glb / {glb:.0f}", f"dram / {DRAM_LIMIT * fewest:.0f}")
    return f"{_BEYOND:.0e} * ({' + '.join(f'max(1, {ratio})' for ratio in over)} - {len(over)}) + energy"


def best_mapping(config: ArchConfig, name: str, table: EnergyTable | None = None) -> tuple[Layer, LayerMapping]:
    """Search the mapping of an AlexNet layer that meets the criteria for the chip's batch, or comes nearest to them.

    Parameters
    ----------
    config : ArchConfig
    name : str
        One of :data:`CHIP`.
    table : EnergyTable, optional
        Costs of accesses; the Eyeriss table by default.

    Returns
    -------
    (Layer, LayerMapping)
    """
    layer = _alexnet()[name].with_batch(CHIP_BATCH)
    return layer, _least(config, layer, Objective(goal(CHIP[name], fewest_dram_words(config, layer)), table))


def predicted_score(layer: Layer, mapping: LayerMapping) -> Score:
    """Return the score of a layer by the model's prediction of a mapping."""
    return _score(layer, mapping, predict(mapping))


def _alexnet() -> dict[str, Layer]:
    return {layer.name: layer for layer in load_workload("alexnet").layers if layer.name in CHIP}


def _score(layer: Layer, mapping: LayerMapping, found: Measurement | Prediction) -> Score:
    return Score(
        name=layer.name,
        batch=layer.n,
        cycles=found.cycles,
        used_pes=used_pes(mapping),
        active_pes=layer.macs / pe_steps(mapping),
        glb=_megabytes(found.words("glb")),
        dram=_megabytes(found.words("dram")),
        fewest=_megabytes(fewest_dram_words(mapping.config, layer)),
        chip=CHIP[layer.name],
    )


def _megabytes(words: int) -> float:
    return words * _WORD_BYTES / 1e6


def scores(runs: Sequence[RunLayer]) -> list[Score]:
    """Return the scores of the AlexNet CONV layers among some results.

    Parameters
    ----------
    runs : sequence of RunLayer

    Returns
    -------
    list of Score
        Of the batch that was run; other layers are left out.

    Raises
    ------
    InputError
        If there is none, or an image of a layer is not AlexNet's, or one is there twice for a batch.
    """
    known = _alexnet()
    found: list[Score] = []
    for run in runs:
        if run.name not in CHIP:
            continue
        if run.layer.with_batch(1) != known[run.name].with_batch(1):
            raise InputError(f"{run.source}: layer {run.name} is {run.layer.describe()}, not that of alexnet")
        if not run.result.judges_cycles:
            raise InputError(f"{run.source}: layer {run.name} was run with memory {run.result.memory}, not fast")
        if any((score.name, score.batch) == (run.name, run.layer.n) for score in found):
            raise InputError(f"{run.source}: layer {run.name} of batch {run.layer.n} is there twice")
        found.append(_score(run.layer, run.mapping, run.result.rtl))
    if not found:
        raise InputError(f"{runs[0].source}: holds none of the layers {', '.join(CHIP)} of alexnet")
    return found


def extrapolated(score: Score) -> Score:
    """Return a score as if each image of the chip's batch took what one took: nothing is shared between images."""
    factor = CHIP_BATCH / score.batch
    return replace(
        score,
        batch=CHIP_BATCH,
        cycles=round(score.cycles * factor),
        glb=score.glb * factor,
        dram=score.dram * factor,
        fewest=score.fewest * factor,
    )


def total(found: Sequence[Score]) -> Score:
    """Return the sum of some layers; active PEs are the mean over cycles."""
    cycles = sum(score.cycles for score in found)
    chips = [score.chip for score in found]
    chip = ChipLayer(
        processing=sum(one.processing for one in chips),
        with_loads=sum(one.with_loads for one in chips),
        active_pes=round(sum(one.active_pes * one.processing for one in chips) / sum(one.processing for one in chips)),
        glb=sum(one.glb for one in chips),
        dram=sum(one.dram for one in chips),
    )
    return Score(
        name="total",
        batch=found[0].batch,
        cycles=cycles,
        used_pes=round(sum(score.used_pes * score.cycles for score in found) / cycles),
        active_pes=sum(score.active_pes * score.cycles for score in found) / cycles,
        glb=sum(score.glb for score in found),
        dram=sum(score.dram for score in found),
        fewest=sum(score.fewest for score in found),
        chip=chip,
    )


def criteria(found: Sequence[Score]) -> list[str]:
    """Say what holds of scores at the chip's batch, a line each, of every layer and of all together.

    Parameters
    ----------
    found : sequence of Score
        Measured or extrapolated to a batch of four.
    """
    rules: tuple[tuple[str, Callable[[Score], float], float], ...] = (
        ("cycles below the chip's processing", lambda one: one.cycles / one.chip.processing, 1.0),
        (f"GLB words at most {GLB_LIMIT} times the chip's", lambda one: one.glb / one.chip.glb, GLB_LIMIT),
        (
            f"DRAM words at most {DRAM_LIMIT} times the fewest of any mapping",
            lambda one: one.dram / one.fewest,
            DRAM_LIMIT,
        ),
    )
    lines = []
    for rule, ratio_of, limit in rules:
        ratios = [ratio_of(one) for one in found]
        beyond = [
            f"{score.name} {ratio:.2f}"
            for score, ratio in zip(found, ratios, strict=True)
            if ratio > limit or (ratio == limit == 1)
        ]
        worst = max(range(len(found)), key=lambda index: ratios[index])
        holds = f"holds; largest ratio {found[worst].name} {ratios[worst]:.2f}"
        of_all = f"; {ratio_of(total(found)):.2f} in total" if len(found) > 1 else ""
        lines.append(f"{rule}: " + (f"not for {', '.join(beyond)}" if beyond else holds) + of_all)
    return lines
