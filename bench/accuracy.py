"""How far predictions are from the RTL: layers of the shipped networks and random ones, on several architectures.

``python bench/accuracy.py [--limit CYCLES] [--random N] [--cases N]`` simulates every case of at most so many predicted
cycles that was not simulated on these sources before, and prints the distribution of the errors and the ten worst
cases, each with the part of the cycles that differs most, and what is predicted if no iteration is left out. Cases come
in a random order, the same each time, so that the first N are of all kinds; each core simulates one at a time. Results
are kept in build/accuracy.json.
"""

import argparse
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rowmesh.hw.config import ArchConfig
from rowmesh.sw import run as flow
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.mapping.dataflow import load_dataflow
from rowmesh.sw.model.performance import PARTS
from rowmesh.sw.model.predict import Effort, predict_parts
from rowmesh.sw.results.layer import tolerance
from rowmesh.sw.search.mapper import UnmappableError
from rowmesh.sw.workload.layer import Layer, load_workload

REPORT = Path(__file__).resolve().parents[1] / "build" / "accuracy.json"

CASES = (
    # (architecture, workload, dataflows)
    ("eyeriss", "alexnet", ("rs", "rs-b", "any")),
    ("eyeriss", "vgg16", ("rs",)),
    ("eyeriss", "resnet50", ("rs", "rs-b", "any")),
    ("eyeriss", "mobilenet", ("rs-g", "rs", "os-a")),
    ("squeezelerator", "squeezenet11", ("ws", "os-b", "rs")),
    ("squeezelerator", "mobilenet", ("ws", "os-a", "is")),
    ("square16", "mobilenet", ("any",)),
    ("square16", "squeezenet10", ("any",)),
    ("primes", "squeezenet11", ("rs", "nlr", "os-c")),
    ("tiny", "demo", ("rs", "ws", "os-a", "os-b", "os-c", "is", "nlr")),
    ("fpga4x4", "mobilenet", ("any",)),
)
FLOWS_OF_ANY = ("rs", "rs-b", "rs-g", "ws", "os-a", "os-b", "os-c", "is")


def random_layer(number: int) -> Layer:
    """Return a small convolution, the same for the same number."""
    rng = random.Random(number)
    r, s = rng.randint(1, 5), rng.randint(1, 5)
    return Layer(
        name=f"random{number}",
        M=rng.choice((4, 8, 12, 16, 32, 48)),
        C=rng.choice((3, 4, 8, 16, 24)),
        H=rng.randint(r, 30),
        W=rng.randint(s, 30),
        R=r,
        S=s,
        stride=[rng.randint(1, 2), rng.randint(1, 2)],
        padding=[rng.randint(0, r - 1), rng.randint(0, s - 1)],
        output=rng.choice(("raw", "requant")),
    )


Case = tuple[str, str, Layer, str]
"""Architecture, workload, layer and dataflow."""


def cases(randoms: int) -> Iterator[Case]:
    """Yield architecture, workload, layer and dataflow of every case; layers of the same shape once."""
    for arch, workload, names in CASES:
        shapes: set[str] = set()
        for layer in load_workload(workload).layers:
            shape = json.dumps({**layer.model_dump(mode="json"), "name": ""}, sort_keys=True)
            if shape in shapes:
                continue
            shapes.add(shape)
            for name in names:
                yield arch, workload, layer, name
    for number in range(randoms):
        rng = random.Random(-number - 1)
        arch, name = rng.choice(("tiny", "primes", "eyeriss", "square16")), rng.choice(FLOWS_OF_ANY)
        yield arch, "random", random_layer(number), name


EVERYTHING = Effort(10**15, lead=8, between=2, retries=0)
"""A prediction that leaves nothing out."""


def mapped_layer(config: ArchConfig, layer: Layer, name: str) -> flow.MappedLayer:
    """Map a case."""
    return flow.map_layer(
        config, layer, tuple(load_dataflow(one) for one in (FLOWS_OF_ANY if name == "any" else (name,)))
    )


def predicted_whole(config: ArchConfig, layer: Layer, name: str) -> int:
    """Predict the cycles of a case by a run of the timing model from its first cycle to its last."""
    return sum(predict_parts(mapped_layer(config, layer, name).mapping, EVERYTHING).values())


def measure(config: ArchConfig, layer: Layer, name: str, limit: int) -> dict[str, Any] | None:
    """Predict a case and, if it is short enough, simulate it; None if it is not mappable or too long."""
    try:
        mapped = mapped_layer(config, layer, name)
    except UnmappableError:
        return None
    if mapped.predicted.cycles > limit:
        return None
    result = flow.run_mapping(mapped.mapping)
    return {
        "predicted": result.predicted.cycles,
        "rtl": result.rtl.cycles,
        "parts": {part: result.predicted.parts[part] - result.rtl.parts[part] for part in PARTS},
        "failures": result.failures(),
    }


def show(console: Console, results: dict[str, dict[str, Any]], of_key: dict[str, Case]) -> None:
    """Print the distribution and the ten worst cases."""
    rows = sorted(results.items(), key=lambda item: -abs(item[1]["predicted"] - item[1]["rtl"]) / item[1]["rtl"])
    long = [abs(r["predicted"] / r["rtl"] - 1) for _, r in rows if tolerance(r["rtl"]) != tolerance(0)]
    short = [abs(r["predicted"] - r["rtl"]) for _, r in rows if tolerance(r["rtl"]) == tolerance(0)]
    exact = sum(not any(r["parts"].values()) for _, r in rows)
    console.print(f"{len(rows)} cases, {exact} of them exact in every part", highlight=False)
    if long:
        mean, worst = 100 * sum(long) / len(long), 100 * max(long)
        console.print(f"{len(long)} above 50,000 cycles: mean error {mean:.4f} %, worst {worst:.4f} %", highlight=False)
    if short:
        console.print(f"{len(short)} shorter: worst error {max(short)} cycles", highlight=False)
    failed = [f"{name}: {r['failures'][0]}" for name, r in rows if r["failures"]]
    console.print(f"{len(failed)} outside the tolerance or wrong", *failed, sep="\n", highlight=False)
    table = Table(title="ten worst", title_justify="left")
    for header in ("case", "predicted", "RTL", "part that differs most", "by", "predicted, nothing left out"):
        table.add_column(header, justify="left" if header in ("case", "part that differs most") else "right")
    for name, r in rows[:10]:
        part = max(PARTS, key=lambda part: abs(r["parts"][part]))
        arch, _, layer, flows = of_key[name]
        whole = predicted_whole(load_arch(arch), layer, flows)
        table.add_row(name, f"{r['predicted']:,}", f"{r['rtl']:,}", part, f"{r['parts'][part]:+,}", f"{whole:,}")
    console.print(table)


def main() -> int:
    """Simulate what has not been simulated; print the errors; 1 if a case is outside its tolerance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=500_000, help="predicted cycles of the longest case (500000)")
    parser.add_argument("--random", type=int, default=40, help="random layers (40)")
    parser.add_argument("--cases", type=int, help="end when there are results of so many (default: all)")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    digest = hashlib.sha256()
    for folder in ("hw", "sw"):
        for path in sorted((Path(__file__).resolve().parents[1] / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    sources = digest.hexdigest()
    kept = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    results: dict[str, dict[str, Any]] = kept["results"] if kept.get("sources") == sources else {}
    todo = [(f"{case[0]} {case[1]} {case[2].name} {case[3]}", case) for case in cases(options.random)]
    random.Random(0).shuffle(todo)
    most = len(todo) if options.cases is None else options.cases
    running: dict[Future[dict[str, Any] | None], str] = {}
    workers = os.cpu_count() or 1
    with Progress(console=console, transient=True) as progress, ProcessPoolExecutor(workers) as pool:
        bar = progress.add_task("cases", total=len(todo))

        def finish(fewest: int) -> None:
            """Wait until no more than so many are running, and keep their results."""
            while len(running) > fewest:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key, found = running.pop(future), future.result()
                    progress.update(bar, advance=1, description=key)
                    if found:
                        results[key] = found
                        REPORT.parent.mkdir(parents=True, exist_ok=True)
                        REPORT.write_text(json.dumps({"sources": sources, "results": results}, indent=2) + "\n")

        for key, (arch, _, layer, name) in todo:
            if key in results:
                progress.update(bar, advance=1)
                continue
            finish(workers - 1)
            if len(results) >= most:
                break
            running[pool.submit(measure, load_arch(arch), layer, name, options.limit)] = key
        finish(0)
    networks = {key.split()[1] for key in results}
    console.print(f"layers of {', '.join(sorted(networks))}", highlight=False)
    show(console, results, dict(todo))
    return int(any(r["failures"] for r in results.values()))


if __name__ == "__main__":
    sys.exit(main())
