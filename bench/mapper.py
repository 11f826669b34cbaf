"""The mapper's speed, and what longer searches find.

``python bench/mapper.py [--longer] [--layer NAME]`` prints, on one core, how long a mapping takes at each level of the
model, mappings a second of the closed forms one by one and together, and searches of some layers: mappings visited,
valid and evaluated, and seconds. With ``--longer`` each is compared with a search that visits a hundred times as
many.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.model.closed_form import estimate
from rowmesh.sw.model.counts import words
from rowmesh.sw.model.predict import FINE, predict_parts, work
from rowmesh.sw.search.evaluate import FACTORS, evaluate, factors_of
from rowmesh.sw.search.mapper import search
from rowmesh.sw.search.objective import Budget, Objective
from rowmesh.sw.search.space import Space
from rowmesh.sw.workload.layer import Layer, load_workload

__all__ = ["speeds"]

CASES = (
    ("eyeriss", "alexnet", ("CONV1", "CONV2", "CONV3", "CONV4", "CONV5"), "rs"),
    ("eyeriss", "vgg16", ("CONV1_1", "CONV2_1", "CONV5_1"), "rs"),
    ("eyeriss", "resnet50", ("CONV1", "RES2a_3", "RES4b_2"), "rs"),
    ("squeezelerator", "mobilenet", ("DW2", "PW2", "PW7", "PW14"), "any"),
)
_LONGER = 100


def _layer(workload: str, name: str) -> Layer:
    return next(layer for layer in load_workload(workload).layers if layer.name == name)


def _seconds(action: Any, least: float = 0.5) -> float:
    """Return the processor seconds of a call: the least of several."""
    found, end = [], time.monotonic() + least
    while not found or time.monotonic() < end:
        begin = time.process_time()
        action()
        found.append(time.process_time() - begin)
    return min(found)


def speeds(config: ArchConfig, layer: Layer) -> dict[str, float]:
    """Measure the closed forms and the predictions of a layer.

    Returns
    -------
    dict
        Mappings visited, valid and evaluated; microseconds a mapping together (of those visited, and of those valid)
        and alone (a valid one from its factors to cycles and counts); milliseconds of predictions and microseconds
        of the timing model a cycle.
    """
    space = Space(config, layer, load_dataflows("rs")[0])
    rows = space.expand(np.array(list(space.bases())).reshape(-1, len(FACTORS)))
    found = evaluate(config, layer, rows)
    valid = rows[found.legal]
    some = [factors_of(row) for row in valid[:: max(1, len(valid) // 200)]]

    def alone() -> None:
        for factors in some:
            mapping = ClusterMapping(config=config, layer=layer, dataflow="rs", **factors)
            estimate(mapping)
            words(mapping)

    best = search(config, layer).mapping
    predict_parts.__globals__["_measured"].cache_clear()
    begin = time.process_time()
    predict_parts(best)
    predicted = time.process_time() - begin
    return {
        "visited": len(rows),
        "valid": len(valid),
        "evaluated": int(np.count_nonzero(found.cycles)),
        "us a mapping visited": 1e6 * _seconds(lambda: evaluate(config, layer, rows)) / len(rows),
        "us a mapping valid": 1e6 * _seconds(lambda: evaluate(config, layer, valid)) / len(valid),
        "us a mapping alone": 1e6 * _seconds(alone) / len(some),
        "ms a prediction": 1e3 * predicted,
        "us a step of the timing model": 1e6 * predicted / work(best, FINE),
    }


def show_speeds(console: Console) -> None:
    """Print the times of a mapping."""
    config = load_arch("eyeriss")
    table = Table(title="rs on eyeriss, one core", title_justify="left")
    table.add_column("")
    names = ("CONV1", "CONV2", "CONV3", "CONV4", "CONV5")
    found = [speeds(config, _layer("alexnet", name)) for name in names]
    for name in names:
        table.add_column(name, justify="right")
    for what in found[0]:
        table.add_row(what, *(f"{one[what]:,.2f}".removesuffix(".00") for one in found))
    for title, what in (("together", "us a mapping valid"), ("alone", "us a mapping alone")):
        table.add_row(f"mappings/s {title}", *(f"{1e6 / one[what]:,.0f}" for one in found))
    console.print(table)


def show_searches(console: Console, longer: bool, chosen: Sequence[str] = ()) -> None:
    """Print searches, of all layers or some, and what a hundred times as many mappings bring."""
    table = Table(title="searches", title_justify="left")
    for heading in ("layer", "dataflow", "objective"):
        table.add_column(heading)
    for heading in ("visited", "valid", "evaluated", "predicted", "seconds"):
        table.add_column(heading, justify="right")
    if longer:
        for heading in ("visited", "all", "seconds", "better by"):
            table.add_column(heading, justify="right")
    for arch, workload, names, flow in CASES:
        config, flows = load_arch(arch), load_dataflows(flow)
        for name in (name for name in names if not chosen or name in chosen):
            for goal in ("cycles", "energy"):
                layer = _layer(workload, name)
                begin = time.monotonic()
                found = search(config, layer, flows, goal)
                counts = (found.visited, found.valid, found.evaluated, found.predicted)
                row = [f"{workload} {name}", flow, goal, *(f"{count:,}" for count in counts)]
                row.append(f"{time.monotonic() - begin:.2f}")
                if longer:
                    begin = time.monotonic()
                    more = search(config, layer, flows, Objective(goal), Budget(mappings=_LONGER * found.visited), 1)
                    row += [f"{more.visited:,}", "yes" if more.exhaustive else "no", f"{time.monotonic() - begin:.0f}"]
                    row.append(f"{1 - more.estimate / found.estimate:.3%}")
                    console.print(f"{name} {goal}: {row[-1]} better in {row[-2]} s")
                table.add_row(*row)
    console.print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--longer", action="store_true", help="compare with searches a hundred times longer")
    parser.add_argument(
        "--layer", action="append", default=[], metavar="NAME", help="only searches of this layer; again for more"
    )
    console = Console(width=150, highlight=False)
    options = parser.parse_args()
    unknown = set(options.layer) - {name for *_, names, _ in CASES for name in names}
    if unknown:
        parser.error(f"no case has a layer {', '.join(sorted(unknown))}")
    if not options.layer:
        show_speeds(console)
    show_searches(console, options.longer, options.layer)


if __name__ == "__main__":
    main()
