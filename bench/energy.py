"""The energy study of Eyeriss: dataflows at equal area, figures 10 to 14 of Chen, Emer and Sze, ISCA 2016.

``python bench/energy.py [--pes 256,512,1024] [--batch 1,16,64]`` searches the mapping of least energy of every AlexNet
layer for each dataflow, number of PEs and batch, on architectures of equal storage area, and prints energy per
multiply-accumulate by level, DRAM words per multiply-accumulate, energy-delay product and ratios to row stationary.
Plots go to build/energy.svg. docs/energy.md has the rules and what differs from the paper.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.mapping.dataflow import Dataflow, Factor, load_dataflow
from rowmesh.sw.model.counts import access_counts
from rowmesh.sw.model.energy import by_level
from rowmesh.sw.model.utilization import pe_steps
from rowmesh.sw.search.mapper import UnmappableError, search
from rowmesh.sw.workload.layer import Layer, load_workload

matplotlib.use("svg")

REPORT = Path(__file__).resolve().parents[1] / "build" / "energy.json"

WORD = 2
"""Bytes of a word; psums are taken as 16 bits here, as in the paper."""

BASELINE = 512
"""Bytes of a PE's spads in the baseline, and bytes of global buffer a PE: equation (2)."""

SPAD_AREA = 1.6
"""Area of a byte of spad relative to one of global buffer. It follows from section VI.B: without spads the global
buffer is 2.6 times as large, (1 + 1.6) x 128 kB, and all storage 80 kB larger."""

SPADS = {
    "rs": (16, 216, 24),
    "ws": (16, 32, 2),
    "os-a": (32, 64, 16),
    "os-b": (32, 64, 16),
    "os-c": (32, 64, 16),
    "nlr": (16, 32, 2),
}
"""Words of iacts, weights and psums of a PE: what a dataflow keeps there, and a filter row of the others, which passes
through the PE in this hardware."""

SHAPES = {256: (16, 16), 512: (16, 32), 1024: (32, 32)}
SPLITS = (0.25, 0.5, 0.75)
"""Shares of the global buffer that iacts may have; psums have the rest. The best is taken for each layer, as the chip's
banks are assigned for each layer."""

WEIGHT_SHARE = 1 / 16
MOST_FLITS = 1 << 16
LEVELS = ("pe", "spad", "noc", "glb", "dram")


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer under a dataflow."""

    flow: str
    pes: int
    batch: int
    layer: str


@dataclasses.dataclass(frozen=True)
class Found:
    """Energy by level, DRAM words, multiply-accumulates and steps of a case."""

    energy: dict[str, float]
    dram: int
    macs: int
    steps: int


def glb_bytes(flow: str, pes: int) -> int:
    """Return the bytes of global buffer that the baseline's area leaves beside a dataflow's spads."""
    spads = WORD * sum(SPADS[flow])
    return round(pes * (BASELINE + SPAD_AREA * (BASELINE - spads)))


def architecture(flow: str, pes: int, split: float) -> ArchConfig:
    """Return the architecture of a dataflow, with a share of its global buffer for iacts."""
    rows, cols = SHAPES[pes]
    iact, weight, psum = SPADS[flow]
    words = glb_bytes(flow, pes) // WORD
    weights = int(words * WEIGHT_SHARE)
    iacts = int((words - weights) * split)
    return ArchConfig(
        name=f"{flow}-{pes}",
        rows=rows,
        cols=cols,
        data_width=16,
        iact_spad=iact,
        weight_spad=weight,
        psum_spad=psum,
        glb_iact_flits=min(iacts // 4, MOST_FLITS),
        glb_weight_flits=weights // 4,
        psum_bank_words=(words - weights - iacts) // cols,
    )


def layer_of(name: str, batch: int) -> Layer:
    """Return an AlexNet layer; of a fully connected one, images are the columns of a matrix product."""
    layer = next(layer for layer in load_workload("alexnet").layers if layer.name == name)
    if layer.kind != "fc":
        return layer.with_batch(batch)
    return Layer(name=name, kind="matmul", M=batch, K=layer.c * layer.h * layer.w, N=layer.m)


def dataflow_of(name: str) -> Dataflow:
    """Return a dataflow; NLR with two filters a PE, because a beat of memory holds two outputs of a column."""
    flow = load_dataflow(name)
    if name != "nlr":
        return flow
    return dataclasses.replace(flow, factors={**flow.factors, ("pe", "M"): Factor(2)})


def measure(case: Case) -> Found | None:
    """Search a case's mapping of least energy over the splits; None if it has none."""
    layer, best = layer_of(case.layer, case.batch), None
    for split in SPLITS:
        try:
            found = search(architecture(case.flow, case.pes, split), layer, (dataflow_of(case.flow),), "energy")
        except UnmappableError:
            continue
        if best is None or found.estimate < best.estimate:
            best = found
    if best is None:
        return None
    counts, energy = access_counts(best.mapping), dict.fromkeys(LEVELS, 0.0)
    for (level, _), spent in by_level(counts).items():
        energy[level] += spent
    dram = sum(words for name, words in counts.items() if name.startswith("dram."))
    return Found(energy, dram, layer.macs, pe_steps(best.mapping))


def together(found: Sequence[Found | None]) -> Found | None:
    """Return the sum of some layers, None if one of them has no mapping."""
    whole = [one for one in found if one is not None]
    if len(whole) < len(found):
        return None
    energy = {level: sum(one.energy[level] for one in whole) for level in LEVELS}
    return Found(energy, *(sum(getattr(one, name) for one in whole) for name in ("dram", "macs", "steps")))


def table(title: str, found: dict[tuple[int, int, str], Found | None]) -> Table:
    """Return the rows of some sums by (PEs, batch, dataflow)."""
    shown = Table(title=title, title_justify="left")
    for heading in (
        "PEs",
        "batch",
        "dataflow",
        "GLB kB",
        *LEVELS,
        "energy/MAC",
        "to RS",
        "DRAM words/MAC",
        "EDP to RS",
    ):
        shown.add_column(heading, justify="left" if heading == "dataflow" else "right")
    for (pes, batch, flow), one in found.items():
        cells = [f"{pes}", f"{batch}", flow, f"{glb_bytes(flow, pes) / 1024:.0f}"]
        rs = found[pes, batch, "rs"]
        if one is None or rs is None:
            shown.add_row(*cells, *["-"] * 9)
            continue
        total, unit = sum(one.energy.values()), sum(rs.energy.values())
        cells += [f"{one.energy[level] / one.macs:.2f}" for level in LEVELS]
        cells += [f"{total / one.macs:.2f}", f"{total / unit:.2f}", f"{one.dram / one.macs:.4f}"]
        shown.add_row(*cells, f"{total * one.steps / unit / rs.steps:.2f}")
    return shown


def plot(path: Path, parts: dict[str, dict[tuple[int, int, str], Found | None]]) -> None:
    """Draw energy per multiply-accumulate by level, a bar a dataflow."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(parts), 1, figsize=(14, 4 * len(parts)), layout="constrained")
    for axis, (title, found) in zip(axes, parts.items(), strict=True):
        bars = [(key, one) for key, one in found.items() if one is not None]
        base = [0.0] * len(bars)
        for level in LEVELS:
            heights = [one.energy[level] / one.macs for _, one in bars]
            axis.bar(range(len(bars)), heights, bottom=base, label=level)
            base = [low + high for low, high in zip(base, heights, strict=True)]
        axis.set_xticks(range(len(bars)), [f"{flow}\n{pes}, N={n}" for (pes, n, flow), _ in bars], fontsize=6)
        axis.set_title(title)
        axis.set_ylabel("energy per MAC (MACs)")
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def numbers(text: str) -> list[int]:
    """Return the numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Search, print, plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pes", type=numbers, default=list(SHAPES), help="256,512,1024")
    parser.add_argument("--batch", type=numbers, default=[1, 16, 64], help="1,16,64")
    options = parser.parse_args()
    names = [layer.name for layer in load_workload("alexnet").layers]
    keys = [(pes, batch, flow) for pes in options.pes for batch in options.batch for flow in SPADS]
    cases = [Case(flow, pes, batch, name) for pes, batch, flow in keys for name in names]
    with ProcessPoolExecutor() as pool:
        results = dict(zip(cases, pool.map(measure, cases, chunksize=8), strict=True))
    console = Console(width=150, highlight=False)
    shown = Table(title="RS by layer: energy per MAC (figure 10)", title_justify="left")
    for heading in ("PEs", "batch", "layer", *LEVELS, "spad : rest on chip"):
        shown.add_column(heading, justify="right")
    for pes, batch in ((pes, batch) for pes in options.pes[:1] for batch in options.batch):
        for name in names:
            one = results[Case("rs", pes, batch, name)]
            if one:
                rest = one.energy["noc"] + one.energy["glb"]
                cells = [f"{one.energy[level] / one.macs:.2f}" for level in LEVELS]
                shown.add_row(f"{pes}", f"{batch}", name, *cells, f"{one.energy['spad'] / rest:.1f}")
    console.print(shown)
    parts = {}
    for title, prefix in (("CONV layers (figures 11 to 13)", "CONV"), ("FC layers (figure 14)", "FC")):
        of_kind = [name for name in names if name.startswith(prefix)]
        parts[title] = {
            (pes, batch, flow): together([results[Case(flow, pes, batch, name)] for name in of_kind])
            for pes, batch, flow in keys
        }
        console.print(table(title, parts[title]))
    plot(REPORT.with_suffix(".svg"), parts)
    kept = [{**dataclasses.asdict(case), **(dataclasses.asdict(one) if one else {})} for case, one in results.items()]
    REPORT.write_text(json.dumps(kept, indent=1) + "\n")
    console.print(f"plots in {REPORT.with_suffix('.svg').relative_to(REPORT.parents[1])}")


if __name__ == "__main__":
    main()
