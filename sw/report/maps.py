"""What ``rowmesh map`` says of the mappings that it found: lines of a layer, the table of all, and JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.model.energy import EnergyTable, energy
from rowmesh.sw.report.tables import LEVELS, Cell, aligned, array_of, prediction_lines, short
from rowmesh.sw.results.provenance import MAP_SCHEMA, written_by
from rowmesh.sw.workload.layer import Layer

if TYPE_CHECKING:
    from rowmesh.sw.run import MappedLayer

__all__ = ["layer_lines", "map_json", "map_table"]


def _rival(mapped: "MappedLayer") -> str:
    rival = mapped.search.rival if mapped.search else None
    return f"{rival[0]} {rival[1]:+.1%}" if rival else ""


def layer_lines(layer: Layer, config: ArchConfig, mapped: "MappedLayer") -> list[str]:
    """Return a layer's loop nest, its prediction, and how the mapping was found."""
    lines = mapped.mapping.loop_nest().rstrip("\n").split("\n")
    lines += prediction_lines(layer, config, mapped.predicted)
    if mapped.search:
        lines.append(f"search {mapped.search.describe()}")
    if _rival(mapped):
        lines.append(f"flow   {mapped.mapping.dataflow}; next best, by the estimates: {_rival(mapped)}")
    return lines


def map_table(
    layers: Sequence[Layer], config: ArchConfig, found: "Sequence[MappedLayer]", table: EnergyTable, goal: str
) -> Text:
    """Return the table of predictions, a layer a row, then their total.

    Parameters
    ----------
    layers, found : sequence
        The layers and what was found for each.
    config : ArchConfig
    table : EnergyTable
        Costs of accesses.
    goal : str
        What the search minimised; empty where the mappings were given.
    """
    rivals = any(map(_rival, found))

    def row(name: str, layers: Sequence[Layer], found: "Sequence[MappedLayer]", style: str = "") -> list[Cell]:
        cycles = sum(one.predicted.cycles for one in found)
        slots = cycles * config.pes
        flows = {one.mapping.dataflow for one in found}
        cells = [
            name,
            flows.pop() if len(flows) == 1 else "mixed",
            *([_rival(found[0]) if len(found) == 1 else ""] if rivals else []),
            f"{cycles:,}",
            f"{sum(layer.macs for layer in layers) / slots:.3f}" if slots else "-",
            *(short(sum(one.predicted.words(level) for one in found)) for level, _ in LEVELS),
            short(round(sum(energy(one.predicted.accesses, table) for one in found))),
        ]
        return [([cell], style if number == 0 else "") for number, cell in enumerate(cells)]

    header: list[list[str]] = [
        ["", "layer"],
        ["data", "flow"],
        *([["next", "best"]] if rivals else []),
        ["predicted", "cycles"],
        ["MACs/PE", "/cycle"],
        *([title, "words"] for _, title in LEVELS),
        ["energy", table.unit],
    ]
    rows = [row(layer.name, [layer], [one]) for layer, one in zip(layers, found, strict=True)]
    if len(rows) > 1:
        rows.append(row("total", layers, found, "bold"))
    title = f"{config.name} ({array_of(config)}, {config.data_width}-bit), predicted"
    title += f", least {goal}" if goal else ""
    title += f", energy by {table.name}\n"
    left = (0, 1, 2) if rivals else (0, 1)
    return Text(title, "bold") + aligned([[(lines, "bold") for lines in header], *rows], left)


def map_json(
    layer: Layer, config: ArchConfig, mapped: "MappedLayer", table: EnergyTable, search: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what was found for a layer as plain values.

    Parameters
    ----------
    layer, config, mapped
        The layer, the architecture, and what was found.
    table : EnergyTable
        Costs of accesses.
    search : Mapping
        How it was looked for, as the user said it.
    """
    mapping, predicted, found = mapped.mapping, mapped.predicted, mapped.search
    counts: dict[str, Any] = {}
    if found:
        counts = {name: getattr(found, name) for name in ("visited", "valid", "evaluated", "predicted", "exhaustive")}
        counts["estimates"] = {name: cost for name, cost in found.estimates.items() if math.isfinite(cost)}
    return {
        **written_by(MAP_SCHEMA),
        "layer": layer.name,
        "dataflow": mapping.dataflow,
        "mapping": {
            **mapping.to_json(),
            "loop_nest": mapping.loop_nest(),
        },
        "predicted": predicted.to_json(),
        "macs": layer.macs,
        "pes": config.pes,
        "utilization": layer.macs / (predicted.cycles * config.pes),
        "energy": {"table": table.name, "unit": table.unit, "total": energy(predicted.accesses, table)},
        "arch": asdict(config),
        "shape": layer.model_dump(by_alias=True),
        "search": {**search, **counts},
    }
