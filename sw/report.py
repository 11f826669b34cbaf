"""What the command line prints: the result table, a mapping's prediction, the list of shipped files."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rowmesh.hw.config import ArchConfig
from rowmesh.sw.results import ACCESSES, PARTS, LayerResult, Prediction
from rowmesh.sw.workload import Layer, Workload

__all__ = ["console", "missing_outputs", "prediction_lines", "result_table", "short"]

_LEVELS = (("dram", "DRAM"), ("glb", "GLB"), ("noc", "NoC"), ("spad", "spad"))
_PIPE_WIDTH = 120


def console(stream: TextIO | None = None) -> Console:
    """Return a console for a stream (standard output by default): a pipe gets 120 columns, not rich's 80."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


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


def missing_outputs(layer: Layer, result: LayerResult) -> list[str]:
    """Return a complaint if not every output word of the layer was compared."""
    if 0 < result.outputs.checked < layer.outputs:
        return [f"outputs: {result.outputs.checked:,} of {layer.outputs:,} words were compared"]
    return []


def _words(results: Sequence[LayerResult], level: str) -> Text:
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
        return Text(short(counted))
    if predicted == counted:
        return Text(f"{short(counted)} split differs", style="red")
    return Text(f"{predicted:,} != {counted:,}", style="red")


def _row(name: str, results: Sequence[LayerResult], *, passed: bool, style: str = "") -> list[Text]:
    predicted = sum(result.predicted.cycles for result in results)
    cycles = sum(result.rtl.cycles for result in results)
    slots = sum(result.rtl.cycles * result.pes for result in results)
    mismatches = sum(result.outputs.mismatches for result in results)
    flows = {result.dataflow for result in results}
    judged = all(result.judges_cycles for result in results)
    off = f"{100 * (predicted - cycles) / cycles:+.2f}%" if cycles else "-"
    late = judged and any(reason.startswith(("cycles", "part ")) for r in results for reason in r.failures())
    return [
        Text(name, style=style),
        Text(flows.pop() if len(flows) == 1 else "mixed"),
        Text(f"{predicted:,}"),
        Text(f"{cycles:,}"),
        Text(off, style="red" if late else "" if judged else "dim"),
        Text(f"{sum(result.macs for result in results) / slots:.3f}" if slots else "-"),
        *(_words(results, level) for level, _ in _LEVELS),
        Text(short(sum(result.outputs.checked for result in results))),
        Text(f"{mismatches:,}", style="red" if mismatches else ""),
        Text("pass", style="green") if passed else Text("FAIL", style="bold red"),
    ]


def result_table(title: str, layers: Sequence[Layer], results: Sequence[LayerResult]) -> Table:
    """Return the table of a run: a layer a row, then the convolutions' subtotal and the total.

    Parameters
    ----------
    title : str
        Printed above.
    layers, results : sequence
        Layer by layer, in the same order.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("flow", no_wrap=True)
    for header in ("cycles\npredicted", "cycles\nRTL", "error", "MACs/PE\n/cycle"):
        table.add_column(header, justify="right", no_wrap=True)
    for _, header in _LEVELS:
        table.add_column(f"{header}\nwords", justify="right", min_width=6)
    table.add_column("outputs\nchecked", justify="right", no_wrap=True)
    table.add_column("mis-\nmatched", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)

    passed = [
        result.passed and not missing_outputs(layer, result)
        for layer, result in zip(layers, results, strict=True)
    ]
    for layer, result, good in zip(layers, results, passed, strict=True):
        table.add_row(*_row(layer.name, [result], passed=good))
    if len(results) > 1:
        table.add_section()
        conv = [index for index, layer in enumerate(layers) if layer.kind == "conv"]
        if conv and len(conv) < len(layers):
            good = all(passed[index] for index in conv)
            table.add_row(*_row("conv layers", [results[index] for index in conv], passed=good, style="bold"))
        table.add_row(*_row("total", results, passed=all(passed), style="bold"))
    return table


def prediction_lines(layer: Layer, arch: ArchConfig, predicted: Prediction) -> list[str]:
    """Return a layer's predicted cycles by part, utilisation and access counts, for people."""
    share = layer.macs / (predicted.cycles * arch.pes) if predicted.cycles else 0.0
    parts = ", ".join(f"{name} {predicted.parts[name]:,}" for name in PARTS)
    lines = [
        f"cycles {predicted.cycles:,}, {share:.3f} MACs per PE and cycle on {arch.pes} PEs",
        f"parts  {parts}",
    ]
    for level, header in (*_LEVELS, ("pe", "PE")):
        counts = ", ".join(
            f"{name.removeprefix(f'{level}.')} {count:,}"
            for name, count in predicted.accesses.items()
            if name.startswith(f"{level}.")
        )
        lines.append(f"{header:<6} {counts}")
    return lines


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
