"""Arguments and options that several commands share."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.workload import layer as workloads

__all__ = [
    "Arch",
    "Batch",
    "Budgets",
    "DataflowName",
    "EnergyName",
    "JsonFile",
    "KeepGoing",
    "LayerNames",
    "MappingFile",
    "Memory",
    "Objectives",
    "WorkloadName",
    "select_layers",
]


class Memory(StrEnum):
    """Memory models of the simulation."""

    FAST = "fast"
    AXI_RANDOM = "axi-random"


Arch = Annotated[
    str,
    typer.Argument(metavar="ARCH", help="Shipped architecture or path of a YAML file.", show_default=False),
]
WorkloadName = Annotated[
    str,
    typer.Argument(metavar="WORKLOAD", help="Shipped workload or path of a YAML file.", show_default=False),
]
LayerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="Only this layer; may be repeated and hold wildcards ('CONV*').",
        show_default=False,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        max=workloads.LARGEST,
        help="Images a layer, instead of the workload's N.",
    ),
]
DataflowName = Annotated[
    str,
    typer.Option(
        "--dataflow",
        metavar="NAME",
        help=f"Constraints of the mapping: a shipped dataflow ({', '.join(files.shipped_names('dataflows'))}), "
        "the path of a YAML file, or any: the best of all shipped ones for each layer.",
    ),
]
Objectives = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="EXPR",
        help="What the mapping minimises: cycles, latency (cycles, whatever the energy), energy, edp, or arithmetic "
        "over named quantities, for example "
        "'energy + 1e9 * (cycles > 1e6)'; docs/mapping.md has the names.",
    ),
]
Budgets = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="N|SECONDSs",
        help="Go on searching until so many mappings are visited (1000000) or for so long (30s).",
        show_default=False,
    ),
]
EnergyName = Annotated[
    str,
    typer.Option(
        "--energy",
        metavar="NAME",
        help="Costs of accesses, for objectives and reports: a shipped table "
        f"({', '.join(files.shipped_names('energy'))}) or the path of a YAML file.",
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the results to this file.", show_default=False),
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going",
        "-k",
        help="Go on with the other layers if one is refused; the exit code is 2 then, and a line says why.",
    ),
]
MappingFile = Annotated[
    Path | None,
    typer.Option(
        "--mapping",
        metavar="FILE",
        help="Take the mappings from this file, as `rowmesh map --out` writes it, instead of searching.",
        show_default=False,
    ),
]


def select_layers(
    name_or_path: str, patterns: Sequence[str] | None, batch: int | None, refused: list[str] | None = None
) -> list[workloads.Layer]:
    """Return the layers that are asked for, in the workload's order.

    Parameters
    ----------
    name_or_path : str
        Workload.
    patterns : sequence of str, optional
        Names, which may hold wildcards; all layers by default.
    batch : int, optional
        Images, instead of the workload's N.
    refused : list of str, optional
        If given, layers that are wrong are left out, and the list takes why.

    Raises
    ------
    InputError
        If a pattern matches no layer, or a layer that is asked for is wrong.
    """
    chosen = workloads.load_layers(name_or_path, patterns, refused)
    return [layer.with_batch(batch) for layer in chosen] if batch is not None else chosen
