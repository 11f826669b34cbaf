"""Dataflows beside each other on the Squeezelerator-like array, and beside closed forms of systolic arrays.

``python bench/dataflows.py layers`` simulates a layer of each category under WS, OS and RS; ``networks`` maps whole
networks under WS only, OS only and any dataflow, beside the published speedups; ``systolic`` simulates layers of
AlexNet, ResNet-50 and MobileNet under WS and OS beside SCALE-Sim's closed forms: alone, and as the fourth of four in
a program (``--arch systolic16 --flow ws``: on another square array, under one of them); ``limits`` simulates on
``eyeriss`` the layers that are to come near the PEs' limit or the memory's, depthwise ones also within a program.
The results also go to build/dataflows.json.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.mapping.dataflow import ANY, Dataflow, load_dataflow, load_dataflows
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.counts import beats_once
from rowmesh.sw.workload.layer import Layer, load_workload

REPORT = Path(__file__).resolve().parents[1] / "build" / "dataflows.json"

FLOWS: dict[str, tuple[str, ...]] = {"ws": ("ws",), "os": ("os-a", "os-b", "os-c"), "rs": ("rs", "rs-g")}

LAYERS = (
    ("first, 7x7", "squeezenet10", "CONV1"),
    ("first, 3x3", "mobilenet", "CONV1"),
    ("1x1", "mobilenet", "PW8"),
    ("3x3", "squeezenet11", "FIRE4_E3"),
    ("depthwise", "mobilenet", "DW7"),
)

# Squeezelerator, table 2: speedup of choosing per layer against (OS only, WS only)
PUBLISHED = {
    "alexnet": (1.00, 1.19),
    "mobilenet": (1.91, 6.35),
    "tinydarknet": (1.14, 1.32),
    "squeezenet10": (1.26, 2.06),
    "squeezenet11": (1.34, 1.18),
    "squeezenext": (1.26, 2.44),
}


def flows(names: tuple[str, ...]) -> tuple[Dataflow, ...]:
    """Load dataflows by name."""
    return tuple(load_dataflow(name) for name in names)


def _is_chosen(network: str, name: str, chosen: Sequence[str]) -> bool:
    """Whether a layer is one of those asked for, as NAME or as "NETWORK NAME"; all are if none is asked for."""
    return not chosen or name in chosen or f"{network} {name}" in chosen


def systolic(layer: Layer, size: int, kind: str) -> int:
    """Cycles of SCALE-Sim 3.0 for a size x size array, without stalls (closed forms that give its output)."""
    pixels, filters = layer.p * layer.q * layer.n, layer.m // layer.groups
    depth = layer.c // layer.groups * layer.r * layer.s

    def ceil(a: int, b: int) -> int:
        return -(-a // b)

    if kind == "os":
        one = ceil(pixels, size) * ceil(filters, size) * (depth + 2 * size - 2) - 1
    else:
        one = ceil(depth, size) * ceil(filters, size) * (pixels + 3 * size - 2) - 1
    return one * layer.groups


def run_layers(console: Console, chosen: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Simulate one layer of each category under each dataflow."""
    config = load_arch("squeezelerator")
    table = Table(title="squeezelerator, RTL cycles", title_justify="left")
    for header in ("category", "layer", *FLOWS, "limit MACs / 256", "largest error of the model"):
        table.add_column(header, justify="left" if header in ("category", "layer") else "right")
    rows = []
    for category, network, name in LAYERS:
        if not _is_chosen(network, name, chosen):
            continue
        layer = next(layer for layer in load_workload(network).layers if layer.name == name)
        row: dict[str, Any] = {"category": category, "layer": f"{network} {name}", "limit": layer.macs // config.pes}
        for title, names in FLOWS.items():
            result = flow.run_layer(config, layer, flows(names))
            if result.outputs.mismatches:
                raise SystemExit(f"{network} {name} {title}: {result.outputs.mismatches} words differ")
            row[title] = {"cycles": result.rtl.cycles, "predicted": result.predicted.cycles, "flow": result.dataflow}
            console.print(f"{network} {name} {title}: {result.rtl.cycles:,}", highlight=False)
        worst = max((row[t]["predicted"] / row[t]["cycles"] - 1 for t in FLOWS), key=abs)
        cells = (f"{row[t]['cycles']:,}" for t in FLOWS)
        table.add_row(category, row["layer"], *cells, f"{row['limit']:,}", f"{100 * worst:+.1f} %")
        rows.append(row)
    console.print(table)
    return rows


def run_networks(console: Console) -> list[dict[str, Any]]:
    """Map the convolutions of networks under one dataflow only and under any."""
    config = load_arch("squeezelerator")
    choices = {"any": load_dataflows(ANY), "os": flows(FLOWS["os"]), "ws": flows(FLOWS["ws"])}
    table = Table(title="squeezelerator, predicted: speedup of the best dataflow for each layer", title_justify="left")
    for header in ("network", "cycles", "vs OS only", "published", "vs WS only", "published"):
        table.add_column(header, justify="left" if header == "network" else "right")
    rows = []
    for network, (published_os, published_ws) in PUBLISHED.items():
        sums = dict.fromkeys(choices, 0)
        for layer in load_workload(network).layers:
            if layer.kind not in ("conv", "depthwise"):
                continue
            shape = layer.model_copy(update={"name": network})  # layers of one shape are mapped once
            for title, chosen in choices.items():
                sums[title] += flow.map_layer(config, shape, chosen).predicted.cycles
            console.print(f"{network} {layer.name}: {sums['any']:,} cycles so far", highlight=False)
        row = {"network": network, **sums, "vs_os": sums["os"] / sums["any"], "vs_ws": sums["ws"] / sums["any"]}
        rows.append(row)
        table.add_row(
            network,
            f"{sums['any']:,}",
            f"{row['vs_os']:.2f}",
            f"{published_os:.2f}",
            f"{row['vs_ws']:.2f}",
            f"{published_ws:.2f}",
        )
    console.print(table)
    return rows


KINDS = ("ws", "os")
"""Dataflows that SCALE-Sim has a form of."""

SYSTOLIC = {
    "alexnet": ("CONV2", "CONV3", "CONV4", "CONV5"),
    "resnet50": (
        *("RES2a_1", "RES2a_3", "RES2b_1", "RES3a_1", "RES3a_3"),
        *("RES4a_1", "RES4b_1", "RES4b_3", "RES5b_1", "RES5b_3"),
    ),
    "mobilenet": ("PW2", "PW3", "PW4", "PW5", "PW6", "PW7", "PW8", "PW13", "PW14"),
}
"""Layers of AlexNet, and the shapes of 1x1 layers of ResNet-50 and MobileNet."""


def _next_cycles(mapping: LayerMapping) -> int:
    """Cycles of a layer in a program of others, here itself: of a run of four less those of a run of three.

    Three, since the command processor fetches the programs of the second and the third one, as far as it has room,
    while the first one begins, which makes that slower: no cycle of the layer that is measured.
    """
    cycles = []
    for times in (3, 4):
        run = flow.run_sequence([mapping] * times)
        if failures := run.failures():
            raise SystemExit(f"{mapping.layer.name}, {times} times in a program: {failures[0]}")
        cycles.append(run.rtl.cycles)
    return cycles[1] - cycles[0]


def run_systolic(console: Console, chosen: Sequence[str], arch: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Simulate layers under WS and OS (or one of them) beside a systolic array's closed forms and the memory's limit.

    Mappings are those of the fewest cycles. A layer "in a program" is one of several, see :func:`_next_cycles`. Bold is
    what is not below the larger of both.
    """
    config = load_arch(arch)
    size = config.rows
    if config.clusters > 1 or size != config.cols:
        found = f"{arch}'s {config.clusters} of {size} x {config.cols} PEs"
        raise InputError(f"--arch: must be one square array, as in SCALE-Sim's forms, not {found}")
    table = Table(title=f"{arch}, RTL cycles beside SCALE-Sim's closed forms ({size} x {size})", title_justify="left")
    headers = [f"{kind.upper()}{text}" for kind in kinds for text in ("", " in a program", " systolic")]
    for header in ("layer", f"limit MACs / {config.pes}", "limit memory", *headers):
        table.add_column(header, justify="left" if header == "layer" else "right")
    rows = []
    for network, name in ((network, name) for network, names in SYSTOLIC.items() for name in names):
        if not _is_chosen(network, name, chosen):
            continue
        layer = next(layer for layer in load_workload(network).layers if layer.name == name)
        row: dict[str, Any] = {
            "arch": arch,
            "layer": f"{network} {name}",
            "limit": layer.macs // config.pes,
            "memory": beats_once(config, layer),
        }
        for title in kinds:
            mapping = flow.map_layer(config, layer, flows(FLOWS[title]), "latency").mapping
            alone = flow.run_mapping(mapping)
            if failures := alone.failures():
                raise SystemExit(f"{name} {title}: {failures[0]}")
            row[title], row[f"next_{title}"] = alone.rtl.cycles, _next_cycles(mapping)
            row[f"systolic_{title}"] = systolic(layer, size, title)
            row[f"bound_{title}"] = max(row[f"systolic_{title}"], row["memory"])
            console.print(f"{network} {name} {title}: {row[title]:,}, {row[f'next_{title}']:,}", highlight=False)
        cells = [f"{row[key]:,}" for key in ("limit", "memory")]
        for title in kinds:
            for key in (title, f"next_{title}"):
                over = row[key] >= row[f"bound_{title}"]
                cells.append(f"[bold]{row[key]:,}[/]" if over else f"{row[key]:,}")
            cells.append(f"{row[f'systolic_{title}']:,}")
        table.add_row(row["layer"], *cells)
        rows.append(row)
    console.print(table)
    return rows


LIMITS = {
    "alexnet": ("CONV2", "CONV3", "CONV4", "CONV5", "FC6", "FC7", "FC8"),
    "resnet50": ("RES2a_2", "RES3a_2", "RES3b_2"),
    "mobilenet": ("DW2", "DW3", "DW4", "DW5", "DW6", "DW7", "DW8", "DW13", "DW14"),
    "vgg16": ("CONV2_1", "CONV2_2", "CONV3_1", "CONV3_2", "CONV4_1", "CONV4_2", "CONV5_1"),
}
"""AlexNet from CONV2 on; a layer of each shape: 3x3 of ResNet-50, depthwise of MobileNet, VGG-16 from CONV2_1 on."""


def run_limits(console: Console, chosen: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Simulate layers on eyeriss beside the limits of PEs and memory (each word moved once).

    Depthwise layers, the shortest, also "in a program", as in :func:`run_systolic`.
    """
    config = load_arch("eyeriss")
    table = Table(title="eyeriss, RTL cycles beside its limits", title_justify="left")
    headers = ("predicted", "RTL", "MACs a PE and cycle", "limit memory", "of it", "in a program", "of limit memory")
    for header in ("layer", "flow", *headers):
        table.add_column(header, justify="left" if header in ("layer", "flow") else "right")
    rows = []
    for network, name in ((network, name) for network, names in LIMITS.items() for name in names):
        if not _is_chosen(network, name, chosen):
            continue
        layer = next(layer for layer in load_workload(network).layers if layer.name == name)
        mapping = flow.map_layer(config, layer, load_dataflows(ANY)).mapping
        result = flow.run_mapping(mapping)
        if failures := result.failures():
            raise SystemExit(f"{network} {name}: {failures[0]}")
        cycles, memory = result.rtl.cycles, beats_once(config, layer)
        use = layer.macs / config.pes / cycles
        row = {"layer": f"{network} {name}", "flow": result.dataflow, "predicted": result.predicted.cycles}
        row |= {"cycles": cycles, "macs_per_pe": use, "memory": memory}
        within = ["", ""]
        if layer.kind == "depthwise":
            row["next"] = _next_cycles(mapping)
            within = [f"{row['next']:,}", f"{memory / row['next']:.1%}"]
        table.add_row(
            *(f"{network} {name}", result.dataflow, f"{result.predicted.cycles:,}", f"{cycles:,}"),
            *(f"{use:.3f}", f"{memory:,}", f"{memory / cycles:.1%}", *within),
        )
        rows.append(row)
        console.print(f"{network} {name} {result.dataflow}: {cycles:,}", *within[:1], highlight=False)
    console.print(table)
    return rows


BENCHES: dict[str, Callable[[Console, argparse.Namespace], list[dict[str, Any]]]] = {
    "layers": lambda console, options: run_layers(console, options.layer),
    "networks": lambda console, _: run_networks(console),
    "systolic": lambda console, options: run_systolic(console, options.layer, options.arch, options.flow or KINDS),
    "limits": lambda console, options: run_limits(console, options.layer),
}
"""What the command line names."""


def main() -> None:
    """Run the benches named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="BENCH", help=f"{', '.join(BENCHES)} (default: all)")
    parser.add_argument(
        "--layer", action="append", default=[], metavar="[NETWORK ]NAME", help="not networks: this layer only; again"
    )
    parser.add_argument("--arch", default="squeezelerator", help="systolic: on this array (default: %(default)s)")
    parser.add_argument("--flow", action="append", choices=KINDS, help="systolic: this one only (default: both)")
    options = parser.parse_args()
    names = options.names or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench named {unknown[0]!r}; there are {', '.join(BENCHES)}")
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    for name in names:
        try:
            rows = BENCHES[name](console, options)
        except InputError as error:
            parser.exit(2, f"{error}\n")
        report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
        report[name] = rows
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
