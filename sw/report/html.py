"""The pages of ``rowmesh report`` and ``rowmesh eyexam``: tables and plots in one file that loads nothing."""

import importlib.metadata
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.model.energy import EnergyTable, by_level, energy
from rowmesh.sw.model.utilization import pe_macs
from rowmesh.sw.report import charts
from rowmesh.sw.report.tables import array_of, short
from rowmesh.sw.results.explain import bound, losses
from rowmesh.sw.results.eyexam import Exam
from rowmesh.sw.results.file import RunLayer
from rowmesh.sw.results.layer import LayerResult
from rowmesh.sw.workload.tensors import storage_bits

__all__ = ["dram_bytes", "exam_page", "exam_rows", "report_page"]

_LEVELS = (("dram", "DRAM"), ("glb", "GLB"), ("noc", "NoC"), ("spad", "spad"))


def _render(template: str, **values: object) -> str:
    """Fill in a template of :mod:`rowmesh.sw.report.pages`; plots have to be marked as such."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("rowmesh.sw.report", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return pages.get_template(template).render(version=importlib.metadata.version("rowmesh"), **values)


def dram_bytes(one: RunLayer) -> int:
    """Return the bytes of memory that the RTL read and wrote."""
    config, accesses = one.config, one.result.rtl.accesses
    read = sum(words for name, words in accesses.items() if name.startswith("dram.") and name.endswith(".read"))
    bits = config.data_width if one.layer.output == "requant" else storage_bits(config.acc_width)
    return (read * config.data_width + accesses["dram.ofmap.write"] * bits) // 8


def _row(name: str, source: str, results: Sequence[LayerResult], table: EnergyTable, total: bool) -> dict[str, Any]:
    predicted = sum(result.predicted.cycles for result in results)
    rtl = sum(result.rtl.cycles for result in results)
    slots = sum(result.rtl.cycles * result.pes for result in results)
    flows = {result.dataflow for result in results}
    return {
        "sum": total,
        "name": name,
        "source": source,
        "dataflow": flows.pop() if len(flows) == 1 else "mixed",
        "predicted": f"{predicted:,}",
        "rtl": f"{rtl:,}",
        "error": f"{100 * (predicted - rtl) / rtl:+.2f} %",
        "rate": f"{sum(result.macs for result in results) / slots:.3f}",
        "words": [short(sum(result.rtl.words(level) for result in results)) for level, _ in _LEVELS],
        "energy": short(round(sum(energy(result.rtl.accesses, table) for result in results))),
        "checked": short(sum(result.outputs.checked for result in results)),
        "mismatches": f"{sum(result.outputs.mismatches for result in results):,}",
        "passed": all(result.passed for result in results),
    }


def _layer(one: RunLayer, name: str, table: EnergyTable) -> dict[str, Any]:
    """Return what is said of one layer."""
    result, mapping = one.result, one.mapping
    accesses, total = result.rtl.accesses, energy(result.rtl.accesses, table)
    rows = []
    for counter, words in accesses.items():
        spent = words * table.rates[counter] if counter in table.rates else None
        rows.append(
            {
                "name": counter,
                "predicted": f"{result.predicted.accesses[counter]:,}",
                "rtl": f"{words:,}",
                "energy": "" if spent is None else short(round(spent)),
                "share": "" if spent is None else f"{spent / total:.1%}" if total else "-",
            }
        )
    return {
        "name": name,
        "rtl": f"{result.rtl.cycles:,}",
        "shape": one.layer.describe(),
        "nest": mapping.loop_nest(),
        "map": Markup(charts.array_map(np.array(result.rtl.pe_macs or pe_macs(mapping)) / result.rtl.cycles)),
        "counted": bool(result.rtl.pe_macs),
        "losses": [
            {
                "cycles": f"{loss.cycles:,}",
                "share": f"{loss.cycles / result.rtl.cycles:.2%}",
                "name": loss.name,
                "words": loss.words,
            }
            for loss in losses(result, mapping)
        ],
        "bound": bound(result, mapping),
        "accesses": rows,
    }


def _group(config: ArchConfig, ones: Sequence[RunLayer], table: EnergyTable) -> dict[str, Any]:
    """Return what is said of one architecture."""
    sources = {one.source: Path(one.source).name for one in ones}
    several = len(sources) > 1
    names = [f"{one.name} ({sources[one.source]})" if several else one.name for one in ones]
    results = [one.result for one in ones]
    rows = [_row(one.name, sources[one.source], [one.result], table, total=False) for one in ones]
    if len(ones) > 1 and not several:
        rows.append(_row("total", "", results, table, total=True))
    others = sorted({result.memory for result in results if not result.judges_cycles})
    spent = [
        {place: value / one.result.macs for place, value in by_level(one.result.rtl.accesses, table).items()}
        for one in ones
    ]
    parameters = ", ".join(f"{name} {value}" for name, value in asdict(config).items() if name != "name")
    return {
        "title": f"{config.name}: {array_of(config)}, {config.data_width}-bit",
        "parameters": parameters,
        "sources": several,
        "rows": rows,
        "failures": [f"{name}: {why}" for name, one in zip(names, ones, strict=True) for why in one.result.failures()],
        "unjudged": f"Memory {', '.join(others)}: cycles are reported and not judged." if others else "",
        "scatter": Markup(
            charts.error_scatter(
                names, [result.predicted.cycles for result in results], [result.rtl.cycles for result in results]
            )
        ),
        "parts": Markup(
            charts.part_bars(
                names,
                [dict(result.predicted.parts) for result in results],
                [dict(result.rtl.parts) for result in results],
            )
        ),
        "roofline": Markup(
            charts.roofline(
                names,
                [one.result.macs / dram_bytes(one) for one in ones],
                [result.macs / result.rtl.cycles for result in results],
                config.pes,
                config.beat_bytes,
            )
        ),
        "energy": Markup(charts.energy_bars(names, spent, table.unit)),
        "layers": [_layer(one, name, table) for one, name in zip(ones, names, strict=True)],
    }


def report_page(runs: Sequence[RunLayer], table: EnergyTable) -> str:
    """Return the page of some results.

    Parameters
    ----------
    runs : sequence of RunLayer
        In the order of the page; those of one architecture are put together.
    table : EnergyTable

    Returns
    -------
    str
        HTML.

    Raises
    ------
    InputError
        If a file does not say what was run.
    """
    groups: dict[ArchConfig, list[RunLayer]] = {}
    for one in runs:
        groups.setdefault(one.config, []).append(one)
    return _render(
        "report.html",
        title="rowmesh: " + ", ".join(dict.fromkeys(Path(one.source).stem for one in runs)),
        groups=[_group(config, ones, table) for config, ones in groups.items()],
        levels=[name for _, name in _LEVELS],
        unit=table.unit,
        table=table.name,
        description=table.description,
    )


def exam_rows(exam: Exam, pes: int) -> list[dict[str, str]]:
    """Return the steps of an Eyexam as texts; ``pes`` are those of the array."""
    bounds = [step.bound for step in exam.steps]
    kept = ["", *(f"{now / before:.2%}" for before, now in itertools.pairwise(bounds))]
    return [
        {
            "number": str(step.number),
            "constraint": step.constraint,
            "bound": f"{step.bound:,.2f}",
            "share": f"{step.bound / pes:.2%}" if step.bound <= 100 * pes else "",
            "kept": share,
            "what": step.what,
        }
        for step, share in zip(exam.steps, kept, strict=True)
    ]


def exam_page(config: ArchConfig, exams: Sequence[Exam]) -> str:
    """Return the page of some layers' Eyexams.

    Parameters
    ----------
    config : ArchConfig
    exams : sequence of Exam
    """
    shown = []
    for exam in exams:
        bounds = [step.bound for step in exam.steps]
        links = exam.links
        shown.append(
            {
                "name": exam.layer.name,
                "shape": exam.layer.describe(),
                "bars": Markup(
                    charts.step_bars([f"{step.number} {step.constraint}" for step in exam.steps], bounds, config.pes)
                ),
                "rows": exam_rows(exam, config.pes),
                "roofline": Markup(
                    charts.link_rooflines(
                        [link.name for link in links],
                        [link.intensity for link in links],
                        [link.bound for link in links],
                        bounds[4],
                    )
                ),
                "links": [
                    {
                        "name": link.name,
                        "words": f"{link.words:,}",
                        "cycles": f"{link.cycles:,}",
                        "intensity": f"{link.intensity:,.2f}",
                        "bound": f"{link.bound:,.2f}",
                    }
                    for link in links
                ],
                "nest": exam.mapping.loop_nest(),
            }
        )
    return _render("eyexam.html", title=f"rowmesh: Eyexam on {config.name}", exams=shown)
