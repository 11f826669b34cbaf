"""What the command line prints: the result table, a mapping's prediction, the list of shipped files."""

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rowmesh.hw.config import CHOICES, RANGES, ArchConfig
from rowmesh.sw.inputs.arch import PARAMETERS
from rowmesh.sw.mapping.dataflow import Dataflow
from rowmesh.sw.model.energy import EnergyTable
from rowmesh.sw.model.performance import ACCESSES, PARTS, Prediction
from rowmesh.sw.results.layer import LayerResult
from rowmesh.sw.workload.layer import Layer, Workload

__all__ = [
    "LEVELS",
    "Cell",
    "aligned",
    "arch_table",
    "array_of",
    "console",
    "missing_outputs",
    "name_table",
    "parameter_table",
    "prediction_lines",
    "result_table",
    "short",
    "workload_table",
]

LEVELS = (("dram", "DRAM"), ("glb", "GLB"), ("noc", "NoC"), ("spad", "spad"))
_PIPE_WIDTH = 120


def console(stream: TextIO | None = None) -> Console:
    """Return a console for a stream (standard output by default): a pipe gets 120 columns, not rich's 80."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def array_of(config: ArchConfig) -> str:
    """Return the shape of an array, of a mesh its clusters and theirs, for people."""
    pes = f"{config.rows} x {config.cols} PEs"
    return pes if config.clusters == 1 else f"{config.mesh_rows} x {config.mesh_cols} clusters of {pes}"


def short(count: int) -> str:
    """Return a count in at most six characters: exact below 100 000, four digits above."""
    if abs(count) < 100_000:
        return f"{count:,}"
    value = float(count)
    for unit in ("k", "M", "G", "T"):
        value /= 1000
        if abs(value) < 999.95 or unit == "T":
            break
    decimals = 3 if abs(value) < 9.9995 else 2 if abs(value) < 99.995 else 1
    return f"{value:.{decimals}f}{unit}"


def missing_outputs(layers: Sequence[Layer], result: LayerResult) -> list[str]:
    """Return a complaint if not every output word of a program's layers was compared."""
    outputs = sum(layer.outputs for layer in layers)
    if 0 < result.outputs.checked < outputs:
        return [f"outputs: {result.outputs.checked:,} of {outputs:,} words were compared"]
    return []


Cell = tuple[list[str], str]  # lines and style


def _words(results: Sequence[LayerResult], level: str) -> Cell:
    """Return one number where all counters of a level agree, both sums in red where not."""
    predicted = sum(result.predicted.words(level) for result in results)
    counted = sum(result.rtl.words(level) for result in results)
    agree = all(
        result.predicted.accesses[name] == result.rtl.accesses[name]
        for result in results
        for name in ACCESSES
        if name.startswith(f"{level}.")
    )
    if agree:
        return [short(counted)], ""
    if predicted == counted:
        return [short(counted), "but split", "otherwise"], "red"
    both = (short(predicted), short(counted))
    if both[0] == both[1]:
        return [f"{predicted:,}", f"!= {counted:,}"], "red"
    line = " != ".join(both)
    return ([line] if len(line) <= 11 else [both[0], f"!= {both[1]}"]), "red"


def _row(name: str, results: Sequence[LayerResult], *, passed: bool, style: str = "") -> list[Cell]:
    predicted = sum(result.predicted.cycles for result in results)
    cycles = sum(result.rtl.cycles for result in results)
    slots = sum(result.rtl.cycles * result.pes for result in results)
    mismatches = sum(result.outputs.mismatches for result in results)
    flows = {result.dataflow for result in results}
    judged = all(result.judges_cycles for result in results)
    off = f"{100 * (predicted - cycles) / cycles:+.2f}%" if cycles else "-"
    late = judged and any(reason.startswith(("cycles", "part ")) for result in results for reason in result.failures())
    return [
        ([name], style),
        ([flows.pop() if len(flows) == 1 else "mixed"], ""),
        ([f"{predicted:,}"], ""),
        ([f"{cycles:,}"], ""),
        ([off], "red" if late else "" if judged else "dim"),
        ([f"{sum(result.macs for result in results) / slots:.3f}" if slots else "-"], ""),
        *(_words(results, level) for level, _ in LEVELS),
        ([short(sum(result.outputs.checked for result in results))], ""),
        ([f"{mismatches:,}"], "red" if mismatches else ""),
        (["pass"], "green") if passed else (["FAIL"], "bold red"),
    ]


_HEADER: tuple[list[str], ...] = (
    ["", "layer"],
    ["data", "flow"],
    ["predicted", "cycles"],
    ["RTL", "cycles"],
    ["", "error"],
    ["MACs/PE", "/cycle"],
    *([title, "words"] for _, title in LEVELS),
    ["outputs", "checked"],
    ["mis-", "matched"],
    ["", ""],
)
_LEFT = (0, 1, len(_HEADER) - 1)  # columns of words; the others are numbers


def aligned(rows: Sequence[Sequence[Cell]], left: Collection[int]) -> Text:
    """Return rows of cells as aligned lines; nothing is ever cut off.

    Parameters
    ----------
    rows : sequence of rows
        Each cell is its lines and their style.
    left : collection of int
        Columns of words; the others are numbers.
    """
    widths = [max(len(part) for cell in column for part in cell[0]) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        for number in range(max(len(parts) for parts, _ in row)):
            line = Text()
            for column, (parts, style) in enumerate(row):
                part = parts[number] if number < len(parts) else ""
                pad = " " * (widths[column] - len(part))
                line.append("  " if column else "")
                if column in left:
                    line.append(part, style).append(pad)
                else:
                    line.append(pad).append(part, style)
            line.rstrip()
            lines.append(line)
    return Text("\n").join(lines)


def result_table(title: str, programs: Sequence[Sequence[Layer]], results: Sequence[LayerResult]) -> Text:
    """Return the table of a run: a program, mostly of one layer, a row, then the convolutions' subtotal and the total.

    Parameters
    ----------
    title : str
        Printed above.
    programs, results : sequence
        The layers of each program, and its result.
    """
    passed = [
        result.passed and not missing_outputs(layers, result) for layers, result in zip(programs, results, strict=True)
    ]
    rows = [
        _row(layers[0].name if len(layers) == 1 else f"{len(layers)} layers", [result], passed=good)
        for layers, result, good in zip(programs, results, passed, strict=True)
    ]
    if len(results) > 1:
        conv = [index for index, layers in enumerate(programs) if all(layer.kind == "conv" for layer in layers)]
        if conv and len(conv) < len(programs):
            good = all(passed[index] for index in conv)
            rows.append(_row("all conv", [results[index] for index in conv], passed=good, style="bold"))
        rows.append(_row("total", results, passed=all(passed), style="bold"))
    return Text(f"{title}\n", "bold") + aligned([[(lines, "bold") for lines in _HEADER], *rows], _LEFT)


def prediction_lines(layer: Layer, arch: ArchConfig, predicted: Prediction) -> list[str]:
    """Return a layer's predicted cycles by part, utilisation and access counts, for people."""
    share = layer.macs / (predicted.cycles * arch.pes) if predicted.cycles else 0.0
    parts = ", ".join(f"{name} {predicted.parts[name]:,}" for name in PARTS)
    lines = [
        f"cycles {predicted.cycles:,}, {share:.3f} MACs per PE and cycle on {arch.pes} PEs",
        f"parts  {parts}",
    ]
    for level, header in (*LEVELS, ("pe", "PE")):
        counts = ", ".join(
            f"{name.removeprefix(f'{level}.')} {count:,}"
            for name, count in predicted.accesses.items()
            if name.startswith(f"{level}.")
        )
        lines.append(f"{header:<6} {counts}")
    return lines


def wrap_warning(arch: ArchConfig, layers: Sequence[Layer]) -> str | None:
    """Return a line about layers whose sums can exceed the accumulators, or None.

    Hardware and golden model wrap alike; a network's own values may well be smaller than the bound.
    """
    wide = [layer for layer in layers if layer.psum_bits(arch.data_width) > arch.acc_width]
    if not wide:
        return None
    most = max(layer.psum_bits(arch.data_width) for layer in wide)
    names = ", ".join(layer.name for layer in wide[:4]) + (f" and {len(wide) - 4} more" if len(wide) > 4 else "")
    return (
        f"note: sums of {names} can need up to {most} bits for any {arch.data_width}-bit operands; "
        f"accumulators of {arch.acc_width} bits wrap"
    )


def arch_table(entries: Iterable[tuple[ArchConfig, str]]) -> Table:
    """Return the shipped architectures, one a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    for header in ("PEs", "bits", "GLB"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("")
    for arch, description in entries:
        kilobytes = f"{arch.glb_bytes / 1024:.1f}".removesuffix(".0")
        size = f"{arch.rows} x {arch.cols}"
        table.add_row(arch.name, size, str(arch.data_width), f"{kilobytes} kB", description)
    return table


def parameter_table(config: ArchConfig, given: Collection[str]) -> Table:
    """Return the parameters of an architecture, one a row, with those that its file does not give marked."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(config.name, no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("legal", no_wrap=True)
    for place, field in PARAMETERS.items():
        value = getattr(config, field)
        if field in RANGES:
            legal = f"{RANGES[field][0]} to {RANGES[field][1]}"
        else:
            legal = " or ".join(map(str, CHOICES.get(field, ("true", "false"))))
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        table.add_row(".".join(place), shown, "" if field in given else "default", legal)
    return table


def name_table(title: str, entries: Iterable[Dataflow | EnergyTable]) -> Table:
    """Return what is shipped of a kind, name and description, one a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True)
    table.add_column("")
    for entry in entries:
        table.add_row(entry.name, entry.description)
    return table


def workload_table(workloads: Iterable[Workload]) -> Table:
    """Return the shipped workloads, one a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("workload", no_wrap=True)
    for header in ("layers", "MACs"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("")
    for workload in workloads:
        table.add_row(workload.name, str(len(workload.layers)), short(workload.macs), workload.description)
    return table
