"""The mesh of clusters: delivery modes of three kinds of layers, and cycles over the number of clusters.

``python bench/mesh.py modes`` maps and simulates a convolution, a depthwise and a fully connected layer on ``mesh2x2``
and ``mesh1x4`` (Efficient Processing of DNNs, figure 5.37): the modes that the mapper chooses, words a cycle of each
data type as predicted and as counted in RTL, and the share of the PEs that work. ``python bench/mesh.py scaling``
simulates layers on 1 to 16 clusters of ``eyeriss_v2``; ``--predict`` leaves the simulations out and goes on to more
clusters. Results also go to build/mesh.json, the curve to build/scaling.svg.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rowmesh.hw.config import MOST_CLUSTERS, ArchConfig
from rowmesh.sw import flow
from rowmesh.sw.dataflow import load_dataflow
from rowmesh.sw.mapper import UnmappableError
from rowmesh.sw.mesh import MeshMapping
from rowmesh.sw.spec import load_arch
from rowmesh.sw.workload import Layer, load_workload

BUILD = Path(__file__).resolve().parents[1] / "build"

FLOWS = ("rs", "rs-g", "ws", "os-a", "os-c")

KINDS = (
    Layer(name="CONV", M=64, C=64, H=16, W=16, R=3, S=3, padding=1, output="requant"),
    Layer(name="depthwise", kind="depthwise", C=128, H=16, W=16, R=3, S=3, padding=1, output="requant"),
    Layer(name="FC", kind="fc", M=512, C=1024, output="requant"),
)

CURVE = (("alexnet", "CONV3"), ("mobilenet", "PW8"), ("mobilenet", "DW2"))
SIZES = ((1, 1), (1, 2), (2, 2), (4, 2), (8, 2))


def _layer(workload: str, name: str) -> Layer:
    return next(layer for layer in load_workload(workload).layers if layer.name == name)


def _mapped(config: ArchConfig, layer: Layer) -> flow.MappedLayer:
    return flow.map_layer(config, layer, tuple(load_dataflow(name) for name in FLOWS))


def _modes(mapping: Any) -> tuple[str, str]:
    return tuple(mapping.mode(name) for name in ("iact", "weight")) if isinstance(mapping, MeshMapping) else ("", "")


def modes(console: Console) -> list[dict[str, Any]]:
    """Map and run a layer of each kind."""
    table = Table(title="delivery modes, words of a cycle predicted / counted in RTL")
    for heading in (
        "mesh",
        "layer",
        "iacts",
        "weights",
        "iacts to PEs",
        "weights to PEs",
        "hops",
        "MACs a PE and cycle",
    ):
        table.add_column(heading)
    rows = []
    for arch in ("mesh2x2", "mesh1x4"):
        config = load_arch(arch)
        found = [_mapped(config, layer).mapping for layer in KINDS]
        for layer, mapping, result in zip(KINDS, found, flow.run_mappings(found), strict=True):
            rates = {}
            for name in ("noc.iact.delivered", "noc.weight.delivered", "noc.iact.hops", "noc.weight.hops"):
                sides = (result.predicted, result.rtl)
                rates[name] = [side.accesses[name] / side.cycles for side in sides]
            row = {
                "mesh": arch,
                "layer": layer.name,
                "dataflow": mapping.dataflow,
                "modes": _modes(mapping),
                "words a cycle": rates,
                "utilization": result.macs / result.rtl.cycles / config.pes,
                "failures": result.failures(),
            }
            rows.append(row)
            shown = [" / ".join(f"{rate:.2f}" for rate in rates[name]) for name in list(rates)[:2]]
            hops = " / ".join(f"{a + b:.2f}" for a, b in zip(*list(rates.values())[2:], strict=True))
            table.add_row(arch, layer.name, *_modes(mapping), *shown, hops, f"{row['utilization']:.3f}")
    console.print(table)
    return rows


def scaling(console: Console, simulate: bool) -> list[dict[str, Any]]:
    """Cycles of some layers over the number of clusters."""
    one = load_arch("eyeriss_v2").cluster
    sizes = list(SIZES)
    if not simulate:
        sizes += [(16, 2)][: MOST_CLUSTERS // 32]
    table = Table(title=f"clusters of {one.rows} x {one.cols} PEs, {'RTL' if simulate else 'predicted'} cycles")
    for heading in ("layer", "clusters", "PEs", "predicted", "RTL", "of linear", "MACs a PE and cycle", "modes"):
        table.add_column(heading)
    rows = []
    for workload, name in CURVE:
        layer, first = _layer(workload, name), None
        for y, x in sizes:
            config = one.replace(mesh_rows=y, mesh_cols=x, name=f"v2_{y}x{x}")
            try:
                mapped = _mapped(config, layer)
            except UnmappableError as error:
                console.print(str(error))
                continue
            result = flow.run_mapping(mapped.mapping) if simulate else None
            cycles = result.rtl.cycles if result else mapped.predicted.cycles
            first = first or cycles * y * x
            row = {
                "layer": f"{workload} {name}",
                "clusters": y * x,
                "pes": config.pes,
                "predicted": mapped.predicted.cycles,
                "rtl": result.rtl.cycles if result else None,
                "of linear": first / (cycles * y * x),
                "utilization": layer.macs / cycles / config.pes,
                "modes": _modes(mapped.mapping),
                "failures": result.failures() if result else [],
            }
            rows.append(row)
            table.add_row(
                row["layer"], str(y * x), str(config.pes), f"{mapped.predicted.cycles:,}",
                f"{cycles:,}" if result else "", f"{row['of linear']:.1%}", f"{row['utilization']:.3f}",
                ", ".join(_modes(mapped.mapping)),
            )  # fmt: skip
            console.print(f"  {row['layer']} {y * x} clusters: {cycles:,} cycles", style="dim")
    console.print(table)
    _plot(rows)
    return rows


def _plot(rows: list[dict[str, Any]]) -> None:
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
    figure.savefig(BUILD / "scaling.svg")


def main() -> int:
    """Run a bench; exit 1 if a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("modes", "scaling"))
    parser.add_argument("--predict", action="store_true", help="scaling: leave the simulations out")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    rows = modes(console) if options.what == "modes" else scaling(console, not options.predict)
    path = BUILD / "mesh.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, options.what: rows}, indent=2) + "\n")
    return 1 if any(row["failures"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
