"""Simulations of a generated design: a job in, memory contents, registers and cycles out."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from cocotb_tools.check_results import get_results

from rowmesh.sim.build import BuiltModel, build_model
from rowmesh.sim.machine import check_room, scratch_folder
from rowmesh.sim.toolrunner import BuildProgress, Kind, ToolRunner

__all__ = [
    "JobFolder",
    "RunProgress",
    "SimJob",
    "SimResult",
    "SimulationError",
    "beginning",
    "model_of",
    "run_test",
    "simulate",
    "simulate_all",
]

RunProgress = Callable[[int], None]
"""Called now and then with the number of cycles simulated so far."""


class SimulationError(Exception):
    """A simulation failed; the message holds the useful part of its log."""


@dataclass(frozen=True, kw_only=True)
class SimJob:
    """One run of a design: memory, registers, start, interrupt.

    Attributes
    ----------
    verilog_dir : Path
        Folder with the design's Verilog and rowmesh.json.
    image : sequence of (int, bytes)
        Initial contents of the memory, by address; the rest is zero.
    memory_size : int
        Bytes. Accesses beyond are answered with an error.
    program_address : int
        Written to PROGRAM.
    dumps : sequence of (int, int)
        Address and size of the regions to return.
    memory : {"fast", "axi-random"}
        The deterministic memory model, or random stalls on every channel.
    latency : int
        Cycles from a read's address to its first beat, at least 2; fast only.
    write_latency : int
        Cycles from a write's last beat to its response, at least 2; fast only.
    bytes_per_cycle : int, optional
        Limit in each direction; the bus width by default; fast only.
    seed : int
        Of the stalls and, for ``regress``, the initial values.
    max_cycles : int
        Where the run ends without an interrupt.
    register_writes : mapping of str to int
        Written before PROGRAM, in order.
    fail_read, fail_write : int
        Number of the burst, from 1, that is answered with an error; 0 for none.
    kind : {"run", "regress"}
        Speed, or assertions and random initial values.
    train : bool
        Train the model now, with the first cycles of the job; see `rowmesh.sim.build`.
    """

    verilog_dir: Path
    image: Sequence[tuple[int, bytes]]
    memory_size: int
    program_address: int
    dumps: Sequence[tuple[int, int]] = ()
    memory: Literal["fast", "axi-random"] = "fast"
    latency: int = 100
    write_latency: int = 20
    bytes_per_cycle: int | None = None
    seed: int = 0
    max_cycles: int = 100_000_000
    register_writes: Mapping[str, int] = field(default_factory=dict)
    fail_read: int = 0
    fail_write: int = 0
    kind: Kind = "run"
    train: bool = False

    def __post_init__(self) -> None:
        if self.memory not in ("fast", "axi-random"):
            raise ValueError(f"SimJob.memory must be 'fast' or 'axi-random', not {self.memory!r}")
        if self.kind not in ("run", "regress"):
            raise ValueError(f"SimJob.kind must be 'run' or 'regress', not {self.kind!r}")
        for name, least in (
            ("memory_size", 1),
            ("max_cycles", 1),
            ("latency", 2),
            ("write_latency", 2),
            ("seed", 0),
            ("fail_read", 0),
            ("fail_write", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"SimJob.{name} must be at least {least}, not {getattr(self, name)}")
        regions = [("image", address, len(content)) for address, content in self.image]
        regions += [("dumps", address, size) for address, size in self.dumps]
        for name, address, size in regions:
            if address < 0 or size < 0 or address + size > self.memory_size:
                raise ValueError(
                    f"SimJob.{name} must lie in the memory of {self.memory_size} bytes, "
                    f"not at {address:#x} with {size} bytes"
                )


@dataclass(frozen=True, kw_only=True)
class SimResult:
    """What a run left behind.

    Attributes
    ----------
    dumps : list of bytes
        The regions asked for.
    changed : int, optional
        Address of the first byte outside of them that is not what the image says (0 where it says nothing).
    registers : dict of str to int
        Every readable register after the run.
    fields : dict of str to dict of str to int
        The same by field, of registers that have fields.
    cycles : int
        Clock edges from the handshake of the start write to the first that sees irq (or to max_cycles).
    seconds : float
        Wall time of those cycles.
    timed_out : bool
        Whether max_cycles ended it.
    traffic : dict of str to int
        read_bursts, read_beats, write_bursts, write_beats on the AXI4 port.
    """

    dumps: list[bytes]
    changed: int | None
    registers: dict[str, int]
    fields: dict[str, dict[str, int]]
    cycles: int
    seconds: float
    timed_out: bool
    traffic: dict[str, int]

    @property
    def cycles_per_second(self) -> float:
        """Speed of the simulation."""
        return self.cycles / self.seconds if self.seconds else 0.0


class JobFolder:
    """Jobs on disk, as the simulation's process reads them: job.json, and the memory as a sparse file.

    The memory of a job is ``memory.bin`` while it runs, and ``memory0.bin``, ``memory1.bin`` ... before and after; of
    the only job, and of the last one after its run, it stays ``memory.bin``.

    Parameters
    ----------
    path : Path
        An empty folder.
    jobs : sequence of SimJob
        To be run one after another.
    model : BuiltModel
        Their model.
    """

    def __init__(self, path: Path, jobs: Sequence[SimJob], model: BuiltModel) -> None:
        self.path = path
        self._jobs = list(jobs)
        self._job = job = self._jobs[0]
        for number, own in enumerate(self._jobs):
            with (path / (f"memory{number}.bin" if number else "memory.bin")).open("wb") as file:
                file.truncate(own.memory_size if number else max(one.memory_size for one in self._jobs))
                for address, content in own.image:
                    file.seek(address)
                    file.write(content)
                for address, size in own.dumps:  # a full disk is an error here, and a signal for who writes the map
                    if size:
                        os.posix_fallocate(file.fileno(), address, size)
        entries: dict[str, Any] = {name: getattr(job, name) for name in ("memory", "seed", "fail_read", "fail_write")}
        entries["runs"] = [
            {
                "max_cycles": own.max_cycles,
                "program_address": own.program_address,
                "register_writes": dict(own.register_writes),
            }
            for own in self._jobs
        ]
        entries["registers"] = {name: dataclasses.asdict(r) for name, r in model.registers.items()}
        (path / "job.json").write_text(json.dumps(entries), encoding="utf-8")

    @property
    def plusargs(self) -> list[str]:
        """Arguments of the simulation's program."""
        job = self._job
        arguments = [
            f"+memory={self.path / 'memory.bin'}",
            f"+read_latency={job.latency}",
            f"+write_latency={job.write_latency}",
        ]
        if job.bytes_per_cycle is not None:
            arguments.append(f"+bytes_per_cycle={job.bytes_per_cycle}")
        if job.memory == "axi-random":
            arguments.append("+external_memory")
        if job.kind == "regress":
            arguments += [f"+verilator+seed+{job.seed % (2**31 - 1) + 1}", "+verilator+rand+reset+2"]
        return arguments

    def _memory(self, number: int, last: bool) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path / ("memory.bin" if last else f"memory{number}.bin"), np.uint8, "r")

    def dumps(self, number: int = 0, *, last: bool = True) -> list[bytes]:
        """Return the regions of memory that a job asks for; ``last``: it was the last one that was run."""
        memory = self._memory(number, last)
        return [memory[address : address + size].tobytes() for address, size in self._jobs[number].dumps]

    def changed(self, number: int = 0, *, last: bool = True) -> int | None:
        """Return the address of the first byte outside of a job's dumps that differs from its image; see `dumps`."""
        job = self._jobs[number]
        return first_change(self._memory(number, last)[: job.memory_size], job.image, job.dumps)


def first_change(
    memory: npt.NDArray[np.uint8], image: Sequence[tuple[int, bytes]], written: Sequence[tuple[int, int]]
) -> int | None:
    """Return the address of the first byte that differs from an image, but for regions that may be written.

    Parameters
    ----------
    memory : array of uint8
    image : sequence of (int, bytes)
        Contents by address, which do not overlap; all other bytes are 0.
    written : sequence of (int, int)
        Address and size of the regions that are not looked at.
    """
    expected = np.zeros(len(memory), np.uint8)
    for address, content in image:
        expected[address : address + len(content)] = np.frombuffer(content, np.uint8)
    for address, size in written:
        expected[address : address + size] = memory[address : address + size]
    different = expected != memory
    return int(different.argmax()) if different.any() else None


def simulate(
    job: SimJob,
    progress: RunProgress | None = None,
    build_progress: BuildProgress | None = None,
) -> SimResult:
    """Run a job under cocotb in a process of its own.

    Parameters
    ----------
    job : SimJob
        What to run.
    progress : callable, optional
        Called a few times a second with the cycles simulated so far.
    build_progress : callable, optional
        Called while the model is built, if it is not in the cache.

    Returns
    -------
    SimResult

    Raises
    ------
    BuildError
        If the model cannot be built.
    SimulationError
        If the simulation fails. A run that reaches max_cycles is a result, not a failure.
    """
    return simulate_all([job], progress, build_progress)[0]


_TRAINING_CYCLES = 50_000

_SHARED = ("verilog_dir", "memory", "latency", "write_latency", "bytes_per_cycle", "fail_read", "fail_write", "kind")


def simulate_all(
    jobs: Sequence[SimJob],
    progress: RunProgress | None = None,
    build_progress: BuildProgress | None = None,
) -> list[SimResult]:
    """Run jobs one after another in one simulation: nothing is reset between them but the memory's contents.

    A run that reaches max_cycles or leaves the accelerator with an error is the last one.

    Parameters
    ----------
    jobs : sequence of SimJob
        Of one design and one memory model; ``seed`` is that of the first.
    progress, build_progress : callable, optional
        As of :func:`simulate`; the cycles are those of all jobs together.

    Returns
    -------
    list of SimResult
        As many as were run, in order.

    Raises
    ------
    ValueError
        If the jobs differ in their design or memory model.
    BuildError, SimulationError
        As of :func:`simulate`.
    """
    job = jobs[0]
    for name in _SHARED:
        if any(getattr(other, name) != getattr(job, name) for other in jobs):
            raise ValueError(f"SimJob.{name} must be the same in all jobs of a simulation")
    model = model_of(dataclasses.replace(job, train=any(other.train for other in jobs)), build_progress)
    with scratch_folder() as scratch:
        folder = JobFolder(scratch, jobs, model)
        _run_cocotb(folder, job, model, "rowmesh.sim.testbench", progress)
        found = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))
        model.used(sum(raw["seconds"] for raw in found))
        return [
            SimResult(
                dumps=folder.dumps(number, last=number == len(found) - 1),
                changed=folder.changed(number, last=number == len(found) - 1),
                registers=raw["register_values"],
                fields=_fields(model, raw["register_values"]),
                cycles=raw["cycles"],
                seconds=raw["seconds"],
                timed_out=raw["timed_out"],
                traffic=raw["traffic"],
            )
            for number, raw in enumerate(found)
        ]


def _fields(model: BuiltModel, words: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Take register words apart."""
    registers = {name: model.registers[name] for name in words if model.registers[name].fields}
    return {name: {part: r.value(part, words[name]) for part in r.fields} for name, r in registers.items()}


def model_of(job: SimJob, progress: BuildProgress | None = None) -> BuiltModel:
    """Return the model that a job is simulated with, built if need be.

    Raises
    ------
    BuildError
        If it cannot be built.
    """
    trainer = None if job.kind == "regress" else functools.partial(_train, job)
    return build_model(job.verilog_dir, kind=job.kind, progress=progress, trainer=trainer, train=job.train)


def beginning(job: SimJob) -> SimJob:
    """Return as much of a job as a model is trained with."""
    return dataclasses.replace(job, max_cycles=min(job.max_cycles, _TRAINING_CYCLES))


def _train(job: SimJob, model: BuiltModel) -> None:
    """Simulate the first cycles of a job with a model that counts its branches."""
    some = beginning(job)
    with scratch_folder() as scratch:
        _run_cocotb(JobFolder(scratch, [some], model), some, model, "rowmesh.sim.testbench", None)


def run_test(job: SimJob, test_module: str, testcase: str | None = None) -> list[bytes]:
    """Run another cocotb test module on a job's design and memory.

    The module's tests begin with ``Session(dut)`` of `rowmesh.sim.host`. All of them share one simulation.

    Parameters
    ----------
    job : SimJob
        Design and memory; register_writes and program_address are left to the test.
    test_module : str
        Importable name of the module.
    testcase : str, optional
        One test of it.

    Returns
    -------
    list of bytes
        The job's dumps.

    Raises
    ------
    SimulationError
        If a test fails or there is none.
    """
    model = build_model(job.verilog_dir, kind=job.kind)
    with scratch_folder() as scratch:
        folder = JobFolder(scratch, [job], model)
        _run_cocotb(folder, job, model, test_module, None, testcase)
        return folder.dumps()


def _run_cocotb(
    folder: JobFolder,
    job: SimJob,
    model: BuiltModel,
    test_module: str,
    progress: RunProgress | None,
    testcase: str | None = None,
) -> None:
    reported = folder.path / "progress"

    def poll() -> None:
        if progress is not None and reported.exists() and (text := reported.read_text(encoding="utf-8")):
            progress(int(text))

    log = folder.path / "simulation.log"
    results = folder.path / "results.xml"
    runner = ToolRunner(poll=poll)
    try:
        runner.test(
            test_module=test_module,
            hdl_toplevel="simtop",
            hdl_toplevel_lang="verilog",
            testcase=testcase,
            seed=job.seed,
            plusargs=folder.plusargs,
            extra_env={
                "ROWMESH_JOB": str(folder.path),
                "COCOTB_LOG_LEVEL": "WARNING",
                "COCOTB_ANSI_OUTPUT": "0",
            },
            build_dir=model.directory,
            test_dir=folder.path,
            results_xml=str(results),
            log_file=log,
        )
        tests, failures = get_results(results)
    except (RuntimeError, SystemExit) as error:
        check_room(log)
        raise SimulationError(f"the simulation ended abnormally ({error})\n{_useful(log)}") from None
    if failures or not tests:
        check_room(log)
        raise SimulationError(f"{failures} of {tests} tests failed\n{_useful(log)}")


def _useful(log: Path, lines: int = 30) -> str:
    """Return a simulation log from its first failure on, or its end where it names none."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    marks = re.compile(r"%Error|%Fatal|Fatal|ERROR|CRITICAL|Traceback|Assertion failed")
    start = next((i for i, line in enumerate(text) if marks.search(line)), max(0, len(text) - lines))
    return "\n".join(text[start : start + lines])
