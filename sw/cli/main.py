"""The command ``rowmesh``.

Exit codes: 0 if everything asked for holds, 1 if an output differs or a prediction is outside its tolerance,
2 for bad input (one line on standard error), 3 for a fault of rowmesh itself (with a traceback), 130 when
interrupted, 141 when nobody reads the output any more.
"""

import dataclasses
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from rowmesh.hw.config import ArchConfig, ConfigError
from rowmesh.sim.cache import cache_folder
from rowmesh.sim.machine import DISK, MachineError
from rowmesh.sim.tools import require_tools
from rowmesh.sw.cli import results as resultcommands
from rowmesh.sw.cli.options import (
    Arch,
    Batch,
    Budgets,
    DataflowName,
    EnergyName,
    JsonFile,
    KeepGoing,
    LayerNames,
    MappingFile,
    Memory,
    Objectives,
    WorkloadName,
    select_layers,
)
from rowmesh.sw.cli.progress import StageBars, notes
from rowmesh.sw.inputs import arch as spec
from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError, one_line
from rowmesh.sw.inputs.output import new_files, new_text
from rowmesh.sw.mapping import dataflow as dataflows
from rowmesh.sw.model.energy import DEFAULT, load_energy
from rowmesh.sw.report import tables as report
from rowmesh.sw.results.provenance import program_version
from rowmesh.sw.workload import layer as workloads

if TYPE_CHECKING:  # what this imports takes seconds
    from rowmesh.sw.run import MappedLayer

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
        print(f"rowmesh {program_version()}")
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
        from rowmesh.sw import run as flow

        made = flow.generate(config, folder, prefix=prefix, initial_values=initial_values)
        written = [path.relative_to(folder) for path in made]
    for path in written:
        print(out / path)
    return 0


@app.command()
def show(
    arch: Arch,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Print every parameter of an architecture, and which are defaults."""
    config, given = spec.load_arch(arch), spec.given_fields(arch)
    if as_json:
        parameters = {
            ".".join(place): {"value": getattr(config, field), "default": field not in given}
            for place, field in spec.PARAMETERS.items()
        }
        print(json.dumps({"name": config.name, "parameters": parameters}, indent=2))
    else:
        report.console().print(report.parameter_table(config, given))
    return 0


@app.command("map")
def map_(
    ctx: typer.Context,
    arch: Arch,
    workload: WorkloadName,
    layer: LayerNames = None,
    batch: Batch = None,
    dataflow: DataflowName = dataflows.ANY,
    objective: Objectives = "cycles",
    budget: Budgets = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Seed of a search with a budget.")] = 0,
    energy: EnergyName = DEFAULT,
    mapping: MappingFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the mappings to this YAML file.", show_default=False),
    ] = None,
    json_file: JsonFile = None,
    keep_going: KeepGoing = False,
) -> int:
    """Find a mapping; print its loop nest and its prediction.

    The prediction is cycles by part, MACs per PE and cycle, words moved at each level, and their energy; the last lines
    are a table of all layers. The search says whether it visited every mapping that the dataflows allow (exhaustive) or
    those that are worth a look (pruned), and of several dataflows which one is the next best. With --mapping the
    mapping is that of a file, checked and predicted.
    """
    from rowmesh.sw.search.objective import Budget, Objective

    config = spec.load_arch(arch)
    refused: list[str] | None = [] if keep_going else None
    layers = select_layers(workload, layer, batch, refused)
    _only_without_file(ctx, mapping)
    flows, table = dataflows.load_dataflows(dataflow), load_energy(energy)
    goal, limit = Objective(objective, table), Budget.parse(budget) if budget is not None else None
    cache_folder()
    from rowmesh.sw import run as flow
    from rowmesh.sw.mapping import file as mappingfile
    from rowmesh.sw.program.assemble import cannot_run
    from rowmesh.sw.report import maps as mapreport

    with new_text(out) as write, new_text(json_file) as write_json:
        if mapping:
            layers, read = _mapped(
                layers, lambda one: mappingfile.read_mappings(mapping, config, [one], cannot_run)[0], refused
            )
            found = [flow.predict_mapping(one) for one in read]
            search: dict[str, Any] = {"mapping": str(mapping)}
        else:
            with StageBars() as progress:
                layers, found = _map_all(progress, config, layers, refused, flows, goal, limit, seed)
            search = {"dataflow": dataflow, "objective": objective, "energy": energy, "budget": budget, "seed": seed}
        pairs = list(zip(layers, found, strict=True))
        screen = report.console()
        for chosen, mapped in pairs:
            screen.print(chosen.describe(), style="bold", soft_wrap=True)
            lines = mapreport.layer_lines(chosen, config, mapped)
            screen.print("\n".join(f"  {line}" for line in lines) + "\n", soft_wrap=True)
        screen.print(mapreport.map_table(layers, config, found, table, "" if mapping else objective), soft_wrap=True)
        if out:
            title = f"{workload} on {config.name}; docs/mapping.md has the format"
            write(mappingfile.write_mappings([(chosen, mapped.mapping) for chosen, mapped in pairs], title))
        if json_file:
            entries = [mapreport.map_json(chosen, config, mapped, table, search) for chosen, mapped in pairs]
            write_json(json.dumps(entries, indent=2) + "\n")
    _warn_of_wraps(config, layers)
    if assumed := spec.assumed_buffers(arch):
        report.console(sys.stderr).print(assumed, style="yellow", soft_wrap=True)
    return _show_refused(refused)


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
    json_file: JsonFile = None,
    dataflow: DataflowName = dataflows.ANY,
    objective: Objectives = "cycles",
    budget: Budgets = None,
    energy: EnergyName = DEFAULT,
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
    keep_going: KeepGoing = False,
) -> int:
    """Map, simulate the Verilog, compare outputs, cycles and words.

    Every output word is compared with the golden model, the RTL's cycles (in total and by part) and access
    counts with the model's. With --one-program there is one start and one interrupt for all layers, and one line
    with their sums; each layer has tensors of its own.
    """
    from rowmesh.sw.search.objective import Budget, Objective

    config = spec.load_arch(arch, buildable=True)
    if pe_counters:
        try:
            config = config.replace(pe_counters=True)
        except ConfigError as error:
            raise InputError(f"--pe-counters: {'; '.join(text for _, text in error.complaints)}") from None
    refused: list[str] | None = [] if keep_going else None
    layers = select_layers(workload, layer, batch, refused)
    _only_without_file(ctx, mapping, "energy")
    flows = dataflows.load_dataflows(dataflow)
    goal, limit = Objective(objective, load_energy(energy)), Budget.parse(budget) if budget is not None else None
    require_tools()
    cache_folder()  # that there is one is checked before anything is said
    from rowmesh.sw import run as flow
    from rowmesh.sw.mapping import file as mappingfile
    from rowmesh.sw.mapping.layer import LayerMapping
    from rowmesh.sw.program.assemble import cannot_run

    mappings: list[LayerMapping] = []
    if mapping:
        layers, mappings = _mapped(
            layers, lambda one: mappingfile.read_mappings(mapping, config, [one], cannot_run)[0], refused
        )
    search = {"dataflow": dataflow, "objective": objective, "energy": energy}
    if mapping:
        search = {"mapping": str(mapping)}
    results = []
    with new_text(json_file) as write:
        with StageBars() as progress:
            # all are mapped first: what cannot run is refused before anything long begins
            if not mapping:
                layers, found = _map_all(progress, config, layers, refused, flows, goal, limit, seed)
                mappings = [one.mapping for one in found]
            progress.start()
            programs = [list(range(len(layers)))] if one_program else [[index] for index in range(len(layers))]
            for number, places in enumerate(programs):
                chosen_layers = [layers[index] for index in places]
                names = " + ".join(chosen.name for chosen in chosen_layers)
                stages = progress.layer(names, number, len(programs))
                result = flow.run_sequence(
                    [mappings[index] for index in places],
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
    return 1 if failures else _show_refused(refused)


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


_Mapped = TypeVar("_Mapped")


def _mapped(
    layers: Sequence[workloads.Layer], map_one: Callable[[workloads.Layer], _Mapped], refused: list[str] | None
) -> tuple[list[workloads.Layer], list[_Mapped]]:
    """Map layers; return those that can be, and what they are mapped to.

    Why others cannot is added to ``refused`` if that is a list, and raised if it is None or no layer is left.
    """
    found = []
    for layer in layers:
        try:
            found.append((layer, map_one(layer)))
        except InputError as error:
            if refused is None:
                raise
            refused.append(str(error))
    if not found:
        raise InputError("; ".join(refused or ["no layer is left"]))
    return [layer for layer, _ in found], [one for _, one in found]


def _map_all(
    progress: StageBars,
    config: ArchConfig,
    layers: Sequence[workloads.Layer],
    refused: list[str] | None,
    *search: Any,
) -> "tuple[list[workloads.Layer], list[MappedLayer]]":
    """Search a mapping for each layer; see :func:`_mapped`.

    ``search`` is what :func:`rowmesh.sw.run.map_layer` takes behind a layer.
    """
    from rowmesh.sw import run as flow

    def one(layer: workloads.Layer) -> "MappedLayer":
        progress.layer(layer.name, layers.index(layer), len(layers))("map", None)
        return flow.map_layer(config, layer, *search)

    return _mapped(layers, one, refused)


def _show_refused(refused: list[str] | None) -> int:
    """Say which layers were refused; return the exit code."""
    for reason in refused or ():
        print(f"rowmesh: refused: {one_line(reason)}", file=sys.stderr)
    return 2 if refused else 0


def _only_without_file(ctx: typer.Context, mapping: Path | None, *others: str) -> None:
    """Refuse options of the search where the mapping is given."""
    for name in ("dataflow", "objective", "budget", *others):
        source = ctx.get_parameter_source(name)
        if mapping and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name}: steers the search, and with --mapping there is none: leave one of them out")


def _warn_of_wraps(config: Any, layers: Sequence[workloads.Layer]) -> None:
    warning = report.wrap_warning(config, layers)
    if warning:
        report.console(sys.stderr).print(warning, style="yellow", soft_wrap=True)


_SURROUNDINGS = (errno.EACCES, errno.EMFILE, *DISK)


def _silenced() -> str:
    """Drop what standard output could not take, or the interpreter would try again at its end; return its name."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    return "standard output"


def _usage(error: Any) -> str:
    """Return a usage error of the command line library as one line with a hint."""
    command = getattr(getattr(error, "ctx", None), "command_path", None) or "rowmesh"
    return f"{error.format_message().rstrip('.')} (see `{command} --help`)"


def _robust_streams() -> None:
    """Let output survive a terminal that lacks a character, and a stream that is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


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
    _robust_streams()
    command = typer.main.get_command(app)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with notes():
            code = command.main(arguments, prog_name="rowmesh", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (InputError, MachineError) as error:
        message = str(error)
    except (BrokenPipeError, SystemExit):  # who read the output has enough of it; typer exits for that
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError as error:
        message = f"there is not enough memory: {error or 'a smaller layer or batch needs less'}"
    except (KeyboardInterrupt, typer.Abort):
        print("rowmesh: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):
            message = _usage(error)
        elif isinstance(error, OSError) and error.errno in _SURROUNDINGS:
            message = f"{error.filename or _silenced()}: cannot be written: {error.strerror}"
        else:
            traceback.print_exc()
            print("rowmesh: this is a fault of rowmesh, not of its input", file=sys.stderr)
            return 3
    print(f"rowmesh: {one_line(message)}", file=sys.stderr)
    return 2
