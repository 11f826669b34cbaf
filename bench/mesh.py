"""The mesh of clusters: delivery modes, the cases of figure 5.37, cycles over the number of clusters, speed.

``python bench/mesh.py modes`` simulates a layer for every delivery mode of each data type on ``mesh2x2`` and
``mesh1x4``: words a cycle, predicted beside counted in RTL. ``figure`` maps and simulates a convolution, a depthwise
and a fully connected layer (Efficient Processing of DNNs, figure 5.37): the figure's modes beside those that the mapper
chooses, and the share of the PEs that work; where they differ, the figure's split as well. ``scaling`` simulates layers
on 1 to 16 clusters of ``eyeriss_v2``; ``scaling --predict`` predicts them, up to 16 thousand PEs. ``speed`` times
generation, build and simulation of ``eyeriss_v2``. Results also go to build/mesh.json, the curve to build/scaling.svg.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.router import LINKS
from rowmesh.sim.run import model_of, simulate
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.mapping.layer import LayerMapping, Splits, mode_of, replications, sub_layer
from rowmesh.sw.model.counts import beats_once
from rowmesh.sw.model.predict import predict
from rowmesh.sw.results.layer import LayerResult
from rowmesh.sw.search.mapper import UnmappableError
from rowmesh.sw.workload.data import make_data
from rowmesh.sw.workload.layer import Layer, load_workload

BUILD = Path(__file__).resolve().parents[1] / "build"

FLOWS = ("rs", "rs-g", "ws", "os-a", "os-c")

CONV = Layer(name="CONV", M=64, C=64, H=16, W=16, R=3, S=3, padding=1, output="requant")
EARLY = Layer(name="CONV, 8 channels", M=64, C=8, H=16, W=16, R=3, S=3, padding=1, output="requant")
DEPTHWISE = Layer(name="depthwise", kind="depthwise", C=128, H=16, W=16, R=3, S=3, padding=1, output="requant")
FC = Layer(name="FC", kind="fc", M=512, C=1024, output="requant")
FEW = Layer(name="depthwise, 16 channels", kind="depthwise", C=16, H=32, W=32, R=3, S=3, padding=1, output="requant")

SPLITS = {
    "mesh2x2": (
        (DEPTHWISE, {"g_y": 2, "g_x": 2}),
        (CONV, {"p_y": 2, "m_x": 2}),
        (CONV, {"m_y": 2, "p_x": 2}),
        (CONV, {"m_y": 2, "m_x": 2}),
    ),
    "mesh1x4": ((DEPTHWISE, {"g_x": 4}), (CONV, {"m_x": 4}), (CONV, {"p_x": 4})),
}
"""Splits that show every mode of each data type."""

FIGURE = (
    (CONV, "grouped and interleaved, either way", {"mesh2x2": {"m_y": 2, "p_x": 2}, "mesh1x4": {"p_x": 4}}),
    (EARLY, "grouped and interleaved, either way", {"mesh2x2": {"m_y": 2, "p_x": 2}, "mesh1x4": {"p_x": 4}}),
    (DEPTHWISE, "unicast, broadcast", {"mesh2x2": {"p_y": 2, "p_x": 2}, "mesh1x4": {"p_x": 4}}),
    (FEW, "unicast, broadcast", {"mesh2x2": {"p_y": 2, "p_x": 2}, "mesh1x4": {"p_x": 4}}),
    (FC, "broadcast, unicast", {"mesh2x2": {"m_y": 2, "m_x": 2}, "mesh1x4": {"m_x": 4}}),
)
"""Layers of figure 5.37, its modes of iacts and weights, and the splits that come closest to them."""

WIDE = 4
CURVE = (("mobilenet", "PW8", 1), ("alexnet", "CONV3", 1), ("mobilenet", "DW4", 1), ("mobilenet", "DW4", WIDE))
"""Layers of the curve, and by how much the memory and all buffers are larger than those of ``eyeriss_v2``."""

SIZES = ((1, 1), (1, 2), (2, 2), (4, 2), (8, 2))
MODELLED = ((1, 1), (8, 2), (16, 4), (16, 16), (35, 39))


def _layer(workload: str, name: str) -> Layer:
    return next(layer for layer in load_workload(workload).layers if layer.name == name)


def _mapped(config: ArchConfig, layer: Layer) -> flow.MappedLayer:
    return flow.map_layer(config, layer, tuple(load_dataflow(name) for name in FLOWS))


def _given(config: ArchConfig, layer: Layer, factors: dict[str, int]) -> LayerMapping:
    """Return a mapping with a given split, and the mapper's choice for a cluster's part."""
    splits = Splits(**factors)
    found = _mapped(config.cluster, sub_layer(layer, splits, 0, 0).layer).mapping
    return LayerMapping(config, layer, splits, found.cluster)


def _modes(mapping: LayerMapping) -> tuple[str, ...]:
    return tuple(mapping.mode(name) if mapping.config.clusters > 1 else "" for name in LINKS)


def _split(mapping: LayerMapping) -> str:
    """Return the dimensions of a split with their parts."""
    return " ".join(f"{name} {parts}" for name, parts in vars(mapping.splits).items() if parts > 1)


def _table(title: str, headings: str) -> Table:
    table = Table(title=title)
    for heading in headings.split(", "):
        table.add_column(heading)
    return table


def _rates(result: LayerResult, name: str) -> list[float]:
    return [side.accesses[name] / side.cycles for side in (result.predicted, result.rtl)]


def _pair(values: list[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def modes(console: Console) -> list[dict[str, Any]]:
    """Run a layer for every delivery mode."""
    table = _table(
        "words of a cycle, predicted / counted in RTL",
        "mesh, words, mode, layer, split, from banks, to PEs, hops, cycles",
    )
    rows = []
    for arch, given in SPLITS.items():
        config = load_arch(arch)
        mappings = [_given(config, layer, factors) for layer, factors in given]
        results = flow.run_mappings(mappings)
        for operand in LINKS:
            shape = config.mesh_rows, config.mesh_cols
            for mode in dict.fromkeys(mode_of(same, *shape) for same in replications(operand, *shape)):
                of_mode = [k for k, mapping in enumerate(mappings) if mapping.mode(operand) == mode]
                if not of_mode:
                    raise LookupError(f"{arch}: no split shows {operand}s in the mode {mode}")
                for k in of_mode:
                    rates = {
                        what: _rates(results[k], f"noc.{operand}.{what}") for what in ("injected", "delivered", "hops")
                    }
                    row = {
                        "mesh": arch, "words": operand, "mode": mode, "layer": mappings[k].layer.name,
                        "split": _split(mappings[k]), "words a cycle": rates,
                        "predicted": results[k].predicted.cycles, "rtl": results[k].rtl.cycles,
                        "failures": results[k].failures(),
                    }  # fmt: skip
                    rows.append(row)
                    shown = [str(row[name]) for name in ("mesh", "words", "mode", "layer", "split")]
                    cycles = f"{row['predicted']:,} / {row['rtl']:,}"
                    table.add_row(*shown, *(_pair(pair) for pair in rates.values()), cycles)
    console.print(table)
    return rows


def figure(console: Console) -> list[dict[str, Any]]:
    """Map and run the layers of figure 5.37."""
    table = _table(
        "figure 5.37: modes of iacts and weights, RTL",
        "mesh, layer, chosen by, split, iacts, weights, the figure's, cycles, MACs a PE and cycle, DRAM words",
    )
    rows = []
    for arch in ("mesh2x2", "mesh1x4"):
        config = load_arch(arch)
        cases = []
        for layer, wanted, splits in FIGURE:
            chosen = _mapped(config, layer).mapping
            cases.append((layer, wanted, "mapper", chosen))
            like = Splits(**splits[arch])
            if chosen.splits != like:
                cases.append((layer, wanted, "figure", _given(config, layer, splits[arch])))
        results = flow.run_mappings([mapping for *_, mapping in cases])
        for (layer, wanted, by, mapping), result in zip(cases, results, strict=True):
            words = sum(count for name, count in result.rtl.accesses.items() if name.startswith("dram"))
            row = {
                "mesh": arch, "layer": layer.name, "chosen by": by, "split": _split(mapping), "modes": _modes(mapping),
                "figure": wanted, "rtl": result.rtl.cycles, "predicted": result.predicted.cycles,
                "utilization": result.macs / result.rtl.cycles / config.pes, "dram words": words,
                "failures": result.failures(),
            }  # fmt: skip
            rows.append(row)
            table.add_row(
                arch, layer.name, by, row["split"], *row["modes"], wanted, f"{row['rtl']:,}",
                f"{row['utilization']:.3f}", f"{words:,}",
            )  # fmt: skip
    console.print(table)
    return rows


def _scaled(y: int, x: int, wide: int) -> ArchConfig:
    """Return a mesh of clusters of ``eyeriss_v2``, with a memory and buffers that are larger by a factor."""
    one = load_arch("eyeriss_v2").cluster
    sizes = ("axi_data_width", "iact_spad", "weight_spad", "psum_spad", "psum_bank_words")
    larger = {name: wide * getattr(one, name) for name in sizes}
    return one.replace(mesh_rows=y, mesh_cols=x, name=f"v2_{y}x{x}_{one.axi_data_width * wide}", **larger)


def _scaling_row(workload: str, name: str, wide: int, place: tuple[int, int], simulate_it: bool) -> dict[str, Any]:
    layer, config = _layer(workload, name), _scaled(*place, wide)
    mapped = _mapped(config, layer)
    result = flow.run_mapping(mapped.mapping) if simulate_it else None
    words = mapped.predicted.accesses
    reads = sum(words[f"dram.{what}.read"] for what in ("iact", "weight", "param"))
    cycles = result.rtl.cycles if result else mapped.predicted.cycles
    splits = mapped.mapping.splits
    return {
        "layer": f"{name}, {config.axi_data_width}-bit memory",
        "clusters": config.clusters,
        "used": splits.rows * splits.cols,
        "pes": config.pes,
        "predicted": mapped.predicted.cycles,
        "rtl": result.rtl.cycles if result else None,
        "config": mapped.predicted.parts["config"],
        "memory": -(-max(reads, words["dram.ofmap.write"]) // config.flit_words),
        "memory once": beats_once(config, layer),
        "utilization": layer.macs / cycles / config.pes,
        "split": _split(mapped.mapping),
        "modes": _modes(mapped.mapping),
        "cycles a second": result.cycles_per_second if result else None,
        "failures": result.failures() if result else [],
    }


def scaling(console: Console, simulate_it: bool, layers: list[str]) -> list[dict[str, Any]]:
    """Cycles of some layers over the number of clusters."""
    sizes = SIZES if simulate_it else MODELLED
    rows: list[dict[str, Any]] = []
    for workload, name, wide in CURVE:
        if layers and name not in layers:
            continue
        first = None
        for place in sizes if wide == 1 or not simulate_it else sizes[::2]:
            begin = time.monotonic()
            try:
                row = _scaling_row(workload, name, wide, place, simulate_it)
            except UnmappableError as error:
                console.print(str(error))
                continue
            cycles = row["rtl"] or row["predicted"]
            first = first or cycles * row["clusters"]
            row["of linear"] = first / (cycles * row["clusters"])
            rows.append(row)
            console.print(
                f"  {row['layer']}, {row['clusters']} clusters: {cycles:,} cycles, {row['of linear']:.1%} of linear "
                f"({time.monotonic() - begin:.0f} s)" + "; ".join(["", *row["failures"]]),
                style="dim",
            )
    table = _table(
        f"clusters of 12 PEs, cycles {'in RTL' if simulate_it else 'predicted'}",
        "layer, clusters (used), PEs, predicted, RTL, of linear, MACs a PE and cycle, memory's cycles (each word once)"
        ", program's cycles, split",
    )
    for row in rows:
        table.add_row(
            row["layer"], f"{row['clusters']} ({row['used']})", str(row["pes"]), f"{row['predicted']:,}",
            f"{row['rtl']:,}" if row["rtl"] else "", f"{row['of linear']:.1%}", f"{row['utilization']:.3f}",
            f"{row['memory']:,} ({row['memory once']:,})", f"{row['config']:,}", row["split"],
        )  # fmt: skip
    console.print(table)
    _plot(rows, "scaling.svg" if simulate_it else "scaling-model.svg")
    return rows


def _plot(rows: list[dict[str, Any]], file: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name in dict.fromkeys(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == name]
        start = own[0]["rtl"] or own[0]["predicted"]
        speedup = [start / (row["rtl"] or row["predicted"]) for row in own]
        axes.plot([row["clusters"] for row in own], speedup, marker="o", label=name)
    most = max(row["clusters"] for row in rows)
    axes.plot([1, most], [1, most], color="0.7", linestyle="--", label="linear")
    axes.set(xlabel="clusters of 12 PEs", ylabel="speedup over one", xscale="log", yscale="log")
    axes.legend()
    BUILD.mkdir(parents=True, exist_ok=True)
    figure.savefig(BUILD / file)


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Build into a folder of its own for a while."""
    before = os.environ.get("ROWMESH_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ROWMESH_CACHE"] = cache
        try:
            yield
        finally:
            del os.environ["ROWMESH_CACHE"]
            if before is not None:
                os.environ["ROWMESH_CACHE"] = before


def speed(console: Console) -> list[dict[str, Any]]:
    """Time generation, build and simulation of eyeriss_v2, and measure the Verilog."""
    config, layer = load_arch("eyeriss_v2"), _layer("mobilenet", "PW8")
    rows: list[dict[str, Any]] = []

    def note(what: str, value: float, unit: str, goal: str = "", met: bool | None = None) -> None:
        rows.append({"what": what, "value": value, "unit": unit, "goal": goal, "met": met, "failures": []})

    cluster = config.cluster
    for made in (
        *(config.replace(mesh_rows=y, mesh_cols=x) for y, x in SIZES),
        cluster.replace(rows=6, cols=4), cluster.replace(rows=12, cols=4), cluster.replace(rows=12, cols=16),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            flow.generate(made, Path(folder))
            seconds = time.monotonic() - begin
            text = Path(folder, "rowmesh.v").read_text()
        if made == config:
            note("generate eyeriss_v2", seconds, "s", "under 20", seconds < 20)
        shape = f"{made.clusters} clusters of {made.rows} x {made.cols} PEs"
        note(f"Verilog of {shape}, {text.count(chr(10) + 'module ')} modules", len(text) / 1e6, "MB")
    mapping = _mapped(config, layer).mapping
    cycles = predict(mapping).cycles
    with _empty_cache():
        job = flow.make_job([(mapping, make_data(config, layer, 0))], seed=0, memory="fast", max_cycles=4 * cycles)
        job = replace(job, train=True)
        seconds = model_of(job).seconds
        result = simulate(job)
    note("build and train the model of eyeriss_v2", seconds, "s", "under 120", seconds < 120)
    rate = result.cycles_per_second / 1000
    note(f"eyeriss_v2, {layer.name}, {result.cycles:,} cycles under cocotb", rate, "kcycle/s", "30 or more", rate >= 30)
    table = _table(f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}", "what, measured, unit, goal")
    for row in rows:
        mark = "" if row["met"] is None else " (met)" if row["met"] else " (missed)"
        table.add_row(row["what"], f"{row['value']:,.2f}", row["unit"], row["goal"] + mark)
    console.print(table)
    return rows


def main() -> int:
    """Run a bench; exit 1 if a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("modes", "figure", "scaling", "speed"))
    parser.add_argument("--predict", action="store_true", help="scaling: the model, without simulations, further on")
    parser.add_argument("--layer", action="append", default=[], help="scaling: this layer only (may be repeated)")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    name = options.what
    if name == "scaling":
        rows = scaling(console, not options.predict, options.layer)
        name = "scaling predicted" if options.predict else name
    else:
        rows = {"modes": modes, "figure": figure, "speed": speed}[name](console)
    path = BUILD / "mesh.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, name: rows}, indent=2) + "\n")
    for row in rows:
        for failure in row["failures"]:
            console.print(f"{row['layer']}: {failure}")
    return 1 if any(row["failures"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
