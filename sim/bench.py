"""Speed of a simulation under cocotb against a C++ loop over the same design and memory.

``python -m rowmesh.sim.bench DIR`` measures any generated design for a fixed number of cycles after a
start; a real job is measured by calling :func:`bench`.
"""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rowmesh.sim.build import BuiltModel, build_model
from rowmesh.sim.machine import scratch_folder
from rowmesh.sim.run import JobFolder, SimJob, SimResult, SimulationError, beginning, simulate

__all__ = ["BenchResult", "bench", "run_loop"]


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Both speeds of one job.

    Attributes
    ----------
    cocotb : SimResult
        The job under cocotb.
    loop : SimResult
        The same under the C++ loop, without registers and traffic.
    """

    cocotb: SimResult
    loop: SimResult

    @property
    def ratio(self) -> float:
        """Speed under cocotb as a fraction of the loop's."""
        return self.cocotb.cycles_per_second / self.loop.cycles_per_second


def run_loop(job: SimJob) -> SimResult:
    """Run a job, with the deterministic memory, in the C++ loop.

    Parameters
    ----------
    job : SimJob
        What to run; its memory must be ``fast``.

    Returns
    -------
    SimResult
        Without registers and traffic.

    Raises
    ------
    SimulationError
        If the program fails.
    """
    if job.memory != "fast":
        raise ValueError(f"the C++ loop has the memory 'fast' only, not {job.memory!r}")

    def train(model: BuiltModel) -> None:
        _run_loop(beginning(job), model)

    model = build_model(job.verilog_dir, kind="loop", trainer=train, train=job.train)
    return _run_loop(job, model)


def _run_loop(job: SimJob, model: BuiltModel) -> SimResult:
    lines = []
    start = model.registers["CONTROL"].word("start")
    for name, value in (*job.register_writes.items(), ("PROGRAM", job.program_address), ("CONTROL", start)):
        register = model.registers[name]
        for index in range(register.width // 32):
            word = value >> (32 * index) & 0xFFFFFFFF
            lines.append(f"{register.offset + 4 * index} {word} {int(name == 'CONTROL')}")
    with scratch_folder() as scratch:
        folder = JobFolder(scratch, [job], model)
        writes = folder.path / "writes.txt"
        writes.write_text("\n".join(lines) + "\n", encoding="utf-8")
        process = subprocess.run(
            [str(model.executable), *folder.plusargs, f"+writes={writes}", f"+limit={job.max_cycles}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode != 0:
            raise SimulationError(f"the C++ loop ended with status {process.returncode}\n{process.stderr}")
        raw = json.loads(process.stdout.strip().splitlines()[-1])
        return SimResult(
            dumps=folder.dumps(),
            changed=folder.changed(),
            registers={},
            fields={},
            cycles=raw["cycles"],
            seconds=raw["seconds"],
            timed_out=raw["timed_out"],
            traffic={},
        )


def bench(job: SimJob, repeats: int = 1) -> BenchResult:
    """Run a job in both ways, alternating, and keep the faster run of each.

    Parameters
    ----------
    job : SimJob
        What to run; long enough to measure (a second or more).
    repeats : int
        Runs of each.

    Returns
    -------
    BenchResult

    Raises
    ------
    SimulationError
        If the two do not take the same number of cycles.
    """
    job = dataclasses.replace(job, kind="run")
    pairs = [(simulate(job), run_loop(job)) for _ in range(repeats)]
    cocotb = max((pair[0] for pair in pairs), key=lambda result: result.cycles_per_second)
    loop = max((pair[1] for pair in pairs), key=lambda result: result.cycles_per_second)
    if cocotb.cycles != loop.cycles or cocotb.dumps != loop.dumps:
        raise SimulationError(f"cocotb took {cocotb.cycles} cycles and the C++ loop {loop.cycles}, or outputs differ")
    return BenchResult(cocotb=cocotb, loop=loop)


def main() -> None:
    """Measure a design for 300,000 cycles after a start whose program is all zeros."""
    job = SimJob(verilog_dir=Path(sys.argv[1]), image=(), memory_size=1 << 20, program_address=0, max_cycles=300_000)
    result = bench(job, repeats=2)
    for label, run in (("cocotb", result.cocotb), ("C++ loop", result.loop)):
        print(f"{label:9}{run.cycles_per_second / 1000:10.1f} kcycle/s  ({run.cycles} cycles)")
    print(f"{'ratio':9}{100 * result.ratio:10.1f} %")


if __name__ == "__main__":
    main()
