"""The command ``rowmesh``.

Exit codes: 0 if everything asked for holds, 1 if an output differs or a prediction is outside its tolerance,
2 for bad input (one line on standard error), 3 for a fault of rowmesh itself (with a traceback), 130 when
interrupted.
"""

import dataclasses
import errno
import importlib.metadata
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rowmesh.hw.config import ConfigError
from rowmesh.sw import dataflow as dataflows
from rowmesh.sw import files, report, resultcommands, spec, tools
from rowmesh.sw import workload as workloads
from rowmesh.sw.energy import load_energy
from rowmesh.sw.files import InputError
from rowmesh.sw.objective import Budget, Objective
from rowmesh.sw.options import (
    Arch,
    Batch,
    Budgets,
    DataflowName,
    LayerNames,
    MappingFile,
    Memory,
    Objectives,
    WorkloadName,
    select_layers,
)
from rowmesh.sw.progress import StageBars
from rowmesh.sw.writing import new_files, new_text

__all__ = ["app", "main"]

app = typer.Typer(
    name="rowmesh",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Generate DNN accelerator hardware, map layers to it, and prove on every run that outputs, "
    "cycles and access counts are what the model said.",
    epilog="ARCH and WORKLOAD are names (see `rowmesh list`) or paths of your own YAML files. "
    "Exit code: 0 everything holds, 1 a mismatch or a prediction out of tolerance, 2 bad input.",
)


def _version(value: bool) -> None:
    if value:
        print(f"rowmesh {importlib.metadata.version('rowmesh')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> int:
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
    return 0


@app.command()
def generate(
    arch: Arch,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for the files; made if it is not there."),
    ],
    prefix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the names of all modules and macros begin with, instead of the architecture's name; "
            "'' for nothing.",
            show_default=False,
        ),
    ] = None,
    initial_values: Annotated[
        bool,
        typer.Option(help="Give registers and memories values before the first reset, as an FPGA does."),
    ] = True,
) -> int:
    """Write an accelerator's Verilog, JSON description and C header."""
    config = spec.load_arch(arch, buildable=True)
    from rowmesh.hw.top import global_prefix

    if prefix and global_prefix(prefix) != f"{prefix}_":
        raise InputError(
            f"--prefix: must be letters, digits and underscores and begin with no digit, not {prefix!r}: "
            f"{global_prefix(prefix).removesuffix('_')!r} would do"
        )
    with new_files(out) as folder:
        from rowmesh.sw import flow

        written = [
            path.relative_to(folder)
            for path in flow.generate(config, folder, prefix=prefix, initial_values=initial_values)
        ]
    for path in written:
        print(out / path)
    return 0


@app.command("map")
def map_(
    ctx: typer.Context,
    arch: Arch,
    workload: WorkloadName,
    layer: LayerNames = None,
    batch: Batch = None,
    dataflow: DataflowName = "rs",
    objective: Objectives = "cycles",
    budget: Budgets = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Seed of a search with a budget.")] = 0,
    mapping: MappingFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the mappings to this YAML file.", show_default=False),
    ] = None,
) -> int:
    """Find a mapping; print its loop nest and its prediction.

    The prediction is cycles by part, MACs per PE and cycle, and words moved at each level. The search says whether
    it visited every mapping that the dataflows allow (exhaustive) or those that are worth a look (pruned). With
    --mapping the mapping is that of a file, checked and predicted.
    """
    config = spec.load_arch(arch)
    layers = select_layers(workload, layer, batch)
    _only_without_file(ctx, mapping)
    flows = dataflows.load_dataflows(dataflow)
    goal, limit = Objective(objective), Budget.parse(budget) if budget is not None else None
    from rowmesh.sw import flow, mappingfile

    given = mappingfile.read_mappings(mapping, config, layers) if mapping else None
    screen = report.console()
    found = []
    with new_text(out) as write:
        for index, chosen in enumerate(layers):
            if given:
                mapped = flow.predict_mapping(given[index])
            else:
                mapped = flow.map_layer(config, chosen, flows, goal, limit, seed)
            nest = mapped.mapping.loop_nest().rstrip("\n").split("\n")
            lines = [*nest, *report.prediction_lines(chosen, config, mapped.predicted)]
            if mapped.search:
                lines.append(f"search {mapped.search.describe()}")
            screen.print("\n" * bool(index) + chosen.describe(), style="bold", soft_wrap=True)
            screen.print("\n".join(f"  {line}" for line in lines), soft_wrap=True)
            if out:
                found.append((chosen, mapped.mapping))
        if out:
            write(mappingfile.write_mappings(found, f"{workload} on {config.name}; docs/mapping.md has the format"))
    _warn_of_wraps(config, layers)
    return 0


@app.command()
def run(
    ctx: typer.Context,
    arch: Arch,
    workload: WorkloadName,
    layer: LayerNames = None,
    batch: Batch = None,
    seed: Annotated[
        int, typer.Option(metavar="S", min=0, help="Seed of weights, random inputs and a search with a budget.")
    ] = 0,
    memory: Annotated[
        Memory,
        typer.Option(help="fast: fixed latency, cycles are compared; axi-random: random stalls, they are not."),
    ] = Memory.FAST,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the results to this file.", show_default=False),
    ] = None,
    dataflow: DataflowName = "rs",
    objective: Objectives = "cycles",
    budget: Budgets = None,
    mapping: MappingFile = None,
    one_program: Annotated[
        bool,
        typer.Option(
            "--one-program",
            help="Run the layers as one program: the next one's descriptors and weights load while a layer runs.",
        ),
    ] = False,
    pe_counters: Annotated[
        bool,
        typer.Option(
            "--pe-counters",
            help="Give each PE a counter of its multiply-accumulates; `report` draws the array from them.",
        ),
    ] = False,
) -> int:
    """Map, simulate the Verilog, compare outputs, cycles and words.

    Every output word is compared with the golden model, the RTL's cycles (in total and by part) and access
    counts with the model's. With --one-program there is one start and one interrupt for all layers, and one line
    with their sums; each layer has tensors of its own.
    """
    config = spec.load_arch(arch, buildable=True)
    if pe_counters:
        try:
            config = config.replace(pe_counters=True)
        except ConfigError as error:
            raise InputError(f"--pe-counters: {error}") from None
    layers = select_layers(workload, layer, batch)
    _only_without_file(ctx, mapping)
    flows = dataflows.load_dataflows(dataflow)
    goal, limit = Objective(objective), Budget.parse(budget) if budget is not None else None
    tools.require_tools()
    from rowmesh.sw import flow, mappingfile
    from rowmesh.sw.mapping import Mapping
    from rowmesh.sw.mesh import MeshMapping

    mappings: list[Mapping | MeshMapping] = []
    if mapping:
        mappings += mappingfile.read_mappings(mapping, config, layers)
    search = {"mapping": str(mapping)} if mapping else {"dataflow": dataflow, "objective": objective}
    results = []
    programs = [list(range(len(layers)))] if one_program else [[index] for index in range(len(layers))]
    with new_text(json_file) as write:
        with StageBars() as progress:
            # all are mapped first: what cannot run is refused before anything long begins
            for index, chosen in enumerate(() if mapping else layers):
                progress.layer(chosen.name, index, len(layers))("map", None)
                mappings.append(flow.map_layer(config, chosen, flows, goal, limit, seed).mapping)
            progress.start()
            for number, places in enumerate(programs):
                chosen_layers = [layers[index] for index in places]
                names = " + ".join(chosen.name for chosen in chosen_layers)
                stages = progress.layer(names, number, len(programs))
                result = flow.run_sequence(
                    [mappings[index] for index in places],
                    origins=chosen_layers,
                    seed=seed,
                    memory=memory.value,
                    progress=stages,
                )
                results.append(dataclasses.replace(result, memory=memory.value, search=search))
        write(json.dumps([result.to_json() for result in results], indent=2) + "\n")

    screen = report.console()
    title = f"{config.name} ({report.array_of(config)}, {config.data_width}-bit)"
    title += f", seed {seed}, memory {memory.value}"
    together = [[layers[index] for index in places] for places in programs]
    screen.print(report.result_table(title, together, results), soft_wrap=True)
    failures = [
        f"{result.layer}: {reason}"
        for chosen, result in zip(together, results, strict=True)
        for reason in [*result.failures(), *report.missing_outputs(chosen, result)]
    ]
    for failure in failures:
        screen.print(failure, style="red", soft_wrap=True)
    _warn_of_wraps(config, layers)
    speed = sum(result.cycles_per_second * result.rtl.cycles for result in results)
    cycles = sum(result.rtl.cycles for result in results)
    if cycles:
        screen.print(f"simulated {report.short(cycles)} cycles at {report.short(round(speed / cycles))} cycles/s")
    return 1 if failures else 0


@app.command("list")
def list_() -> int:
    """List the shipped architectures, workloads, dataflows and energy tables."""
    screen = report.console()
    names = files.shipped_names("arch")
    screen.print(report.arch_table((spec.load_arch(name), spec.describe_arch(name)) for name in names))
    names = files.shipped_names("workloads")
    screen.print(report.workload_table(workloads.load_workload(name) for name in names))
    screen.print(report.name_table("dataflow", dataflows.load_dataflows(dataflows.ANY)))
    screen.print(report.name_table("energy table", map(load_energy, files.shipped_names("energy"))))
    return 0


resultcommands.register(app)


def _only_without_file(ctx: typer.Context, mapping: Path | None) -> None:
    """Refuse options of the search where the mapping is given."""
    for name in ("dataflow", "objective", "budget"):
        source = ctx.get_parameter_source(name)
        if mapping and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name}: steers the search, and with --mapping there is none: leave one of them out")


def _warn_of_wraps(config: Any, layers: Sequence[workloads.Layer]) -> None:
    warning = report.wrap_warning(config, layers)
    if warning:
        report.console(sys.stderr).print(warning, style="yellow", soft_wrap=True)


_SURROUNDINGS = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE)


def _usage(error: Any) -> str:
    """Return a usage error of the command line library as one line with a hint."""
    command = getattr(getattr(error, "ctx", None), "command_path", None) or "rowmesh"
    return f"{error.format_message().rstrip('.')} (see `{command} --help`)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    command = typer.main.get_command(app)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = command.main(arguments, prog_name="rowmesh", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except InputError as error:
        message = str(error)
    except (KeyboardInterrupt, typer.Abort):
        print("rowmesh: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):
            message = _usage(error)
        elif isinstance(error, OSError) and error.errno in _SURROUNDINGS:
            message = str(error)
        else:
            traceback.print_exc()
            print("rowmesh: this is a fault of rowmesh, not of its input", file=sys.stderr)
            return 3
    print(f"rowmesh: {files.one_line(message)}", file=sys.stderr)
    return 2
