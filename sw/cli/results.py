"""The commands that look at what a run found: ``explain``, ``report``, ``eyexam`` and ``scorecard``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from rowmesh.hw.config import ArchConfig
from rowmesh.sim.cache import cache_folder
from rowmesh.sw.cli.options import Arch, Batch, DataflowName, EnergyName, LayerNames, WorkloadName, select_layers
from rowmesh.sw.cli.progress import StageBars
from rowmesh.sw.inputs import arch as spec
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.inputs.output import new_text
from rowmesh.sw.mapping import dataflow as dataflows
from rowmesh.sw.model.energy import DEFAULT, EnergyTable, load_energy
from rowmesh.sw.report import tables as report

if TYPE_CHECKING:  # what these import takes seconds
    from rowmesh.sw.results.explain import Change
    from rowmesh.sw.results.file import RunLayer
    from rowmesh.sw.results.scorecard import Score

__all__ = ["register"]

RunFiles = Annotated[
    list[Path],
    typer.Argument(metavar="RUN.json...", help="Results, as `rowmesh run --json` writes them.", show_default=False),
]
RunFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.json", help="Results, as `rowmesh run --json` writes them.", show_default=False),
]


def _give_matplotlib_a_folder() -> None:
    """Let matplotlib, which looks for a folder when it is imported, take one in the cache."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder("matplotlib")))


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(explain)
    app.command("report")(report_)
    app.command()(eyexam)
    app.command("scorecard")(scorecard_)


def explain(
    run: RunFile,
    layer: LayerNames = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search/--no-search", help="Look for the parameter that would help most: one search for each of them."
        ),
    ] = True,
    energy: Annotated[
        str | None,
        typer.Option(
            "--energy",
            metavar="NAME",
            help="Costs of accesses for the search, a shipped table or a file; the run's by default.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Say where a run's cycles went, and what would help.

    For each layer: the RTL's cycles by cause, what bounds it, and what the model predicts, after the same search, for
    architectures with one parameter doubled.
    """
    from rowmesh.sw.results import file as runfile

    runs = runfile.select_results(runfile.read_run(run), layer)
    for one in runs:  # what cannot be explained is refused before anything long begins
        _ = one.mapping
    from rowmesh.sw.results import explain as explained

    screen = report.console()
    for index, one in enumerate(runs):
        result = one.result
        title = f"{one.name} on {one.config.name}: {result.rtl.cycles:,} cycles in RTL, "
        title += f"{result.predicted.cycles:,} predicted, {result.utilization:.3f} MACs per PE and cycle"
        screen.print("\n" * bool(index) + title, style="bold", soft_wrap=True)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("cycles", "share"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("cause", no_wrap=True)
        table.add_column("")
        for loss in explained.losses(result, one.mapping):
            table.add_row(f"{loss.cycles:,}", f"{loss.cycles / result.rtl.cycles:.2%}", loss.name, loss.words)
        screen.print(table)
        screen.print(explained.bound(result, one.mapping), soft_wrap=True)
        if search:
            with StageBars() as progress:
                progress.start()
                before, changes = explained.what_helps(one, progress.layer(one.name, index, len(runs)), energy)
            screen.print(_changes(before, changes, one))
            screen.print(explained.verdict(before, changes, result), soft_wrap=True)
    return 0


def report_(
    run: RunFiles,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page.")],
    layer: LayerNames = None,
    energy: EnergyName = DEFAULT,
) -> int:
    """Write an HTML page with tables and plots of one or more runs.

    Predicted against RTL cycles, the parts of the cycles, a roofline, energy by level and type of data, and for each
    layer its mapping and the work of each PE. The page loads nothing from elsewhere.
    """
    from rowmesh.sw.results import file as runfile

    table = load_energy(energy)
    runs = runfile.select_results([one for path in run for one in runfile.read_run(path)], layer)
    for one in runs:
        _ = one.mapping
    _give_matplotlib_a_folder()
    from rowmesh.sw.report import html as htmlreport

    with new_text(out) as write:
        write(htmlreport.report_page(runs, table))
    print(out)
    return 0


def eyexam(
    arch: Arch,
    workload: WorkloadName,
    layer: LayerNames = None,
    batch: Batch = None,
    dataflow: DataflowName = dataflows.ANY,
    energy: EnergyName = DEFAULT,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN.json",
            help="Take mappings and RTL cycles from these results; without it both are the model's.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE.html", help="Write a page with plots.", show_default=False),
    ] = None,
) -> int:
    """Bound a layer's performance in the seven steps of Eyexam.

    From the parallelism of the layer to the cycles of the RTL, each with one more constraint: dataflow, number of PEs,
    dimensions of the array, storage, average bandwidth, access patterns. In MACs a cycle; docs/eyexam.md.
    """
    from rowmesh.sw.results import file as runfile
    from rowmesh.sw.search.objective import Objective

    config = spec.load_arch(arch)
    layers = select_layers(workload, layer, batch)
    flows, goal = dataflows.load_dataflows(dataflow), Objective(table=load_energy(energy))
    measured = {one.name: one for one in runfile.read_run(run)} if run else {}
    if run:
        for chosen in layers:
            runfile.check_same(run, measured.get(chosen.name), config, chosen, [flow.name for flow in flows])
    _give_matplotlib_a_folder()
    from rowmesh.sw.report import html as htmlreport
    from rowmesh.sw.results.eyexam import examine

    screen, exams = report.console(), []
    with new_text(html) as write:
        for index, chosen in enumerate(layers):
            exams.append(examine(config, chosen, flows, measured.get(chosen.name), goal))
            screen.print("\n" * bool(index) + chosen.describe(), style="bold", soft_wrap=True)
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column("")
            table.add_column("constraint", no_wrap=True)
            for name in ("MACs/cycle", "of array", "of step before"):
                table.add_column(name, justify="right", no_wrap=True)
            table.add_column("")
            for row in htmlreport.exam_rows(exams[-1], config.pes):
                table.add_row(*row.values())
            screen.print(table)
        if html:
            write(htmlreport.exam_page(config, exams))
    return 0


def scorecard_(
    run: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN.json...]", help="Results, as `rowmesh run --json` writes them.", show_default=False
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="ARCH",
            help="Instead of results: search mappings on this architecture, some minutes.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the mappings to this YAML file.", show_default=False),
    ] = None,
    energy: EnergyName = DEFAULT,
) -> int:
    """Put the Eyeriss chip's AlexNet table beside runs of alexnet.

    Cycles, active PEs, and megabytes of global buffer and memory for each CONV layer. Runs of the chip's batch of four
    (--batch 4) are compared as they are; those of other batches are scaled in a table of their own. With --search,
    mappings that meet the criteria below the table are searched and predicted, and beside them those of least cycles.
    """
    from rowmesh.sw.results import file as runfile

    if bool(run) == (arch is not None):
        raise InputError("give either results (RUN.json) or --search ARCH" + (", not both" if run else ""))
    if arch is not None:
        return _score_search(spec.load_arch(arch), load_energy(energy), out)
    if out:
        raise InputError("--out: is for mappings that are searched, and with results there is none: leave it out")
    runs = [one for path in run or () for one in runfile.read_run(path)]
    from rowmesh.sw.results import scorecard

    found = scorecard.scores(runs)
    whole = scorecard.CHIP_BATCH
    same = [score for score in found if score.batch == whole]
    others = [score for score in found if score.batch != whole]
    parts = []
    if same:
        parts.append((f"measured in RTL, batch {whole} as the chip", same))
    for batch in sorted({score.batch for score in others}):
        scaled = [scorecard.extrapolated(score) for score in others if score.batch == batch]
        words = f"EXTRAPOLATED to batch {whole} from RTL runs of batch {batch}, {whole / batch:g} times each number"
        parts.append((words, scaled))
    _show_scores(parts, "RTL\ncycles")
    return 0


def _score_search(config: ArchConfig, table: EnergyTable, out: Path | None) -> int:
    from rowmesh.sw import run as flow
    from rowmesh.sw.mapping import file as mappingfile
    from rowmesh.sw.results import scorecard
    from rowmesh.sw.search.objective import Objective

    with new_text(out) as write:
        found = [scorecard.best_mapping(config, name, table) for name in scorecard.CHIP]
        rs = dataflows.load_dataflows("rs")
        least = Objective(table=table)
        fastest = [(layer, flow.map_layer(config, layer, rs, least).mapping) for layer, _ in found]
        batch = f"batch {scorecard.CHIP_BATCH}"
        titles = (
            f"PREDICTED, {batch}, mappings for the criteria",
            f"PREDICTED, {batch}, mappings of least cycles",
        )
        parts = [
            (title, [scorecard.predicted_score(layer, mapping) for layer, mapping in mapped])
            for title, mapped in zip(titles, (found, fastest), strict=True)
        ]
        _show_scores(parts, "predicted\ncycles")
        if out:
            write(mappingfile.write_mappings(found, f"alexnet, {batch}, for the scorecard of {config.name}"))
    return 0


def _show_scores(parts: "list[tuple[str, list[Score]]]", cycles: str) -> None:
    from rowmesh.sw.results import scorecard

    screen = report.console()
    for title, part in parts:
        screen.print(title, style="bold", soft_wrap=True)
        screen.print(_score_table(part if len(part) == 1 else [*part, scorecard.total(part)], cycles))
        for line in scorecard.criteria(part):
            screen.print(line, soft_wrap=True)
        screen.print()
    screen.print(
        "A word counts as 16 bits, as the chip's; psums and raw outputs have 32 here. The chip's DRAM words are "
        "compressed.\nPEs: those that have work, and in brackets those active in a step, on average. "
        "Fewest: of any mapping.",
        style="dim",
        soft_wrap=True,
    )


def _score_table(found: "list[Score]", cycles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for name in (
        cycles,
        "chip\nprocessing",
        "chip with\nloads",
        "PEs",
        "chip\nPEs",
        "GLB\nMB",
        "chip\nMB",
        "DRAM\nMB",
        "fewest\nMB",
        "chip\nMB",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for score in found:
        chip = score.chip
        table.add_row(
            score.name,
            f"{score.cycles:,}",
            f"{chip.processing:,}",
            f"{chip.with_loads:,}",
            f"{score.used_pes} ({score.active_pes:.0f})",
            f"{chip.active_pes}",
            f"{score.glb:.1f}",
            f"{chip.glb:.1f}",
            f"{score.dram:.2f}",
            f"{score.fewest:.2f}",
            f"{chip.dram:.1f}",
        )
    return table


def _changes(before: int, changes: "list[Change]", one: "RunLayer") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("parameter", no_wrap=True)
    for name in ("from", "to", "predicted", "saves", "MACs/PE/cycle"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for change in changes:
        numbers = ("-", "-", "-")
        if change.cycles is not None:
            numbers = (
                f"{change.cycles:,}",
                f"{change.gain:+.2%}",
                f"{one.result.macs / (change.cycles * change.pes):.3f}",
            )
        table.add_row(change.parameter, f"{change.old:,}", f"{change.new:,}", *numbers, change.reason)
    return table
