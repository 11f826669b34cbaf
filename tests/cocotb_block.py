"""Tests of one block: its Verilog, built by Verilator, driven by cocotb under pytest.

The pytest side calls :func:`run_block`; the cocotb side makes a :class:`Bench` and runs it cycle by cycle.
Inputs change after the rising edge and everything is sampled at the falling edge, when all paths have
settled.
"""

import fcntl
import hashlib
import json
import os
import random
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data

from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig

__all__ = ["Bench", "Codec", "Sink", "Source", "arch", "run_block"]

_ROOT = Path(__file__).resolve().parents[1]
_BUILD = _ROOT / "build" / "cocotb"
_VARIABLE = "ROWMESH_BLOCK_CONFIG"
_FLAGS = ("-O3", "--x-assign", "unique", "--x-initial", "unique", "--assert", "--no-timing")
_KEPT = 64
_CONTROL = '`verilator_config\npublic_flat_rw -module "dut" -var "*"\n'


def run_block(block: Block, config: ArchConfig, module: str, *, seed: int = 1, **settings: Any) -> None:
    """Build a block and run a cocotb module on it.

    Parameters
    ----------
    block : Block
    config : ArchConfig
        Given to the cocotb side, see :func:`arch`.
    module : str
        Name of the cocotb module; it must be importable.
    seed : int
        Seed of cocotb, of Python's random numbers, and of the initial values of registers without reset.
    **settings
        Parameters of the block besides the configuration, see :func:`arch`.

    Raises
    ------
    AssertionError
        If a test fails, or none ran; the message holds the end of the log.
    """
    from rowmesh.hw.emit import emit

    verilog, *_ = emit(block, "dut")
    folder = _build(verilog)
    from rowmesh.sim.toolrunner import ToolRunner

    runner = ToolRunner(kind="regress")
    name = f"{module}-{hashlib.sha256(repr((config, settings, seed)).encode()).hexdigest()[:8]}"
    work = folder / f"{name}-{os.getpid()}"
    log = work / "test.log"
    work.mkdir(exist_ok=True)
    values = {field: getattr(config, field) for field in ArchConfig.__dataclass_fields__}
    path = os.pathsep.join(dict.fromkeys([str(Path(__file__).parent), *sys.path]))
    try:
        results = runner.test(
            test_module=module,
            hdl_toplevel="dut",
            hdl_toplevel_lang="verilog",
            build_dir=folder,
            test_dir=work,
            results_xml=str(work / "results.xml"),
            seed=seed,
            extra_env={
                _VARIABLE: json.dumps([values, settings]),
                "PYTHONPATH": path,
                "COCOTB_ANSI_OUTPUT": "0",
            },
            plusargs=["+verilator+rand+reset+2", f"+verilator+seed+{seed}"],
            log_file=log,
        )
    except (SystemExit, RuntimeError) as error:  # also where a test failed
        raise AssertionError(f"{module} failed: {error}\n{_failures(log)}") from None
    from cocotb_tools.runner import get_results

    tests, failed = get_results(results)
    assert tests, f"{module} has no tests\n{_failures(log)}"
    assert not failed, f"{module}: {failed} of {tests} tests failed\n{_failures(log)}"
    shutil.rmtree(work)


def _failures(log: Path) -> str:
    """Return a log without its progress, short enough for pytest's report."""
    if not log.exists():
        return "no log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return "\n".join([line for line in lines if " INFO " not in line and "***" not in line][:80])


def _build(verilog: str) -> Path:
    """Build, or find in the cache by the hash of the Verilog."""
    from cocotb_tools.runner import VerilatorControlFile, Verilog

    from rowmesh.sim.toolrunner import ToolRunner
    from rowmesh.sim.tools import require_tools

    require_tools()
    digest = hashlib.sha256(repr((verilog, _FLAGS, _CONTROL, sys.version)).encode()).hexdigest()[:16]
    folder = _BUILD / digest
    _BUILD.mkdir(parents=True, exist_ok=True)
    with (_BUILD / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "dut").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "dut.v").write_text(verilog)
        (folder / "dut.vlt").write_text(_CONTROL)
        library = _BUILD / "runtime"
        with (_BUILD / "runtime.lock").open("w") as runtime_lock:
            if not library.is_dir():
                fcntl.flock(runtime_lock, fcntl.LOCK_EX)
            runner = ToolRunner(kind="regress", library=library)
            try:
                runner.build(
                    sources=[VerilatorControlFile(folder / "dut.vlt"), Verilog(folder / "dut.v")],
                    hdl_toplevel="dut",
                    build_args=[*_FLAGS, "-Wno-fatal", "-Wno-WIDTH", "-Wno-UNOPTFLAT"],
                    build_dir=folder,
                    timescale=("1ns", "1ps"),
                    log_file=folder / "build.log",
                )
            except (RuntimeError, SystemExit) as error:
                text = (folder / "build.log").read_text(errors="replace")[-4000:]
                raise AssertionError(f"Verilator could not build the block: {error}\n{text}") from None
            if not library.is_dir():
                kept = _BUILD / f"runtime.{os.getpid()}"
                kept.mkdir()
                for path in folder.glob("verilated*.o"):
                    shutil.copy(path, kept / path.name)
                kept.rename(library)
        for path in folder.iterdir():
            if path.name not in ("dut", "dut.v", "build.log"):
                path.unlink()
    _prune()
    return folder


def _prune() -> None:
    """Keep the programs built last."""
    programs = sorted(_BUILD.glob("*/dut"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in programs[_KEPT:]:
        shutil.rmtree(path.parent, ignore_errors=True)


def arch() -> tuple[ArchConfig, dict[str, Any]]:
    """Return the configuration and the settings that :func:`run_block` was given (cocotb side)."""
    values, settings = json.loads(os.environ[_VARIABLE])
    return ArchConfig(**values), settings


class Codec:
    """Packs and unpacks a flat vector by the field offsets of its layout.

    Parameters
    ----------
    shape : ShapeLike
        A StructLayout, or a plain shape: then a payload is an integer.
    """

    def __init__(self, shape: Any) -> None:
        self._layout = shape if isinstance(shape, data.Layout) else None
        self._shape = None if self._layout is not None else Shape.cast(shape)
        self.width = Shape.cast(shape).width
        self._fields = (
            [(key, Codec(field.shape), field.offset) for key, field in shape] if self._layout is not None else []
        )

    def pack(self, value: Any) -> int:
        """Return the bits of a dict (missing fields are 0), a list, or an integer."""
        if self._layout is None:
            return int(value) & ((1 << self.width) - 1)
        if isinstance(value, Mapping):
            unknown = set(value) - {key for key, _, _ in self._fields}
            assert not unknown, f"no field {unknown}"
        bits = 0
        for key, codec, offset in self._fields:
            if isinstance(value, Mapping):
                if key in value:
                    bits |= codec.pack(value[key]) << offset
            elif key < len(value):
                bits |= codec.pack(value[key]) << offset
        return bits

    def unpack(self, bits: int) -> Any:
        """Return the dict, list or integer of a vector's bits."""
        if self._layout is None:
            value = bits & ((1 << self.width) - 1)
            return value - (1 << self.width) if self._shape.signed and value >> (self.width - 1) else value
        values = {key: codec.unpack(bits >> offset) for key, codec, offset in self._fields}
        return list(values.values()) if isinstance(self._layout, data.ArrayLayout) else values


class _Port:
    """A stream's three signals."""

    def __init__(self, bench: "Bench", name: str, shape: Any) -> None:
        self.name, self.bench, self.codec = name, bench, Codec(shape)
        self.valid = getattr(bench.dut, f"{name}__valid")
        self.ready = getattr(bench.dut, f"{name}__ready")
        self.payload = getattr(bench.dut, f"{name}__payload", None)
        assert self.payload is not None or not self.codec.width, f"{name} has no payload"
        self.stall = 0.0
        self.cycles: list[int] = []


class Source(_Port):
    """Drives a stream: an item stays offered until it is taken.

    Attributes
    ----------
    stall : float
        Probability of a cycle in which nothing new is offered.
    cycles : list of int
        Cycle of each handshake.
    """

    def __init__(self, bench: "Bench", name: str, shape: Any) -> None:
        super().__init__(bench, name, shape)
        self.queue: deque[int] = deque()
        self._offered = False
        self.valid.value = 0

    def send(self, items: Iterable[Any]) -> None:
        """Queue items."""
        self.queue.extend(self.codec.pack(item) for item in items)

    def drive(self) -> None:
        if not self._offered and self.queue and self.bench.random.random() >= self.stall:
            self._offered = True
            self.valid.value = 1
            if self.payload is not None:
                self.payload.value = self.queue[0]
        elif not self._offered:
            self.valid.value = 0
            if self.payload is not None and self.codec.width and self.bench.random.random() < 0.1:
                self.payload.value = self.bench.random.getrandbits(self.codec.width)

    def sample(self) -> None:
        if self._offered and int(self.ready.value):
            self.queue.popleft()
            self.cycles.append(self.bench.cycle)
            self._offered = False

    @property
    def done(self) -> bool:
        """Everything was taken."""
        return not self.queue


class Sink(_Port):
    """Takes a stream's items.

    Parameters
    ----------
    stable : bool
        Check that an offered item stays, unchanged, until it is taken.

    Attributes
    ----------
    stall : float
        Probability of a cycle without ready.
    items : list
        Items received, unpacked.
    cycles : list of int
        Cycle of each handshake.
    """

    def __init__(self, bench: "Bench", name: str, shape: Any, stable: bool = True) -> None:
        super().__init__(bench, name, shape)
        self.items: list[Any] = []
        self._stable, self._ready, self._pending = stable, False, None
        self.ready.value = 0

    def drive(self) -> None:
        ready = self.bench.random.random() >= self.stall
        if ready != self._ready:
            self._ready = ready
            self.ready.value = int(ready)

    def sample(self) -> None:
        if not int(self.valid.value):
            assert self._pending is None, f"{self.name}: an offered item was withdrawn in cycle {self.bench.cycle}"
            return
        if not self._ready and not self._stable:
            return
        bits = self.payload.value.to_unsigned() if self.payload is not None else 0
        assert self._pending in (None, bits), f"{self.name}: an offered item changed in cycle {self.bench.cycle}"
        self._pending = None
        if self._ready:
            self.items.append(self.codec.unpack(bits))
            self.cycles.append(self.bench.cycle)
        elif self._stable:
            self._pending = bits


class Bench:
    """One block under test: clock, streams and per-cycle hooks.

    Parameters
    ----------
    dut
        cocotb's handle of the block.
    seed : int
        Of all stalls.
    """

    def __init__(self, dut: Any, seed: int = 0) -> None:
        import cocotb

        self.dut = dut
        self.random = random.Random(f"{cocotb.RANDOM_SEED}/{seed}")
        self.cycle = 0
        self.ports: list[Source | Sink] = []
        self.hooks: list[Callable[[], None]] = []
        """Called each cycle when the outputs have settled, before the rising edge."""
        self.drivers: list[Callable[[], None]] = []
        """Called each cycle after the rising edge."""

    def source(self, name: str, shape: Any) -> Source:
        """Attach a driver."""
        self.ports.append(port := Source(self, name, shape))
        return port

    def sink(self, name: str, shape: Any, stable: bool = True) -> Sink:
        """Attach a receiver."""
        self.ports.append(port := Sink(self, name, shape, stable))
        return port

    def stall(self, probability: float, *ports: Source | Sink) -> None:
        """Set the stall probability of some ports (default: all)."""
        for port in ports or self.ports:
            port.stall = probability

    def random_stalls(self) -> None:
        """Give every port a stall probability of its own."""
        for port in self.ports:
            port.stall = self.random.choice((0.0, 0.0, 0.2, 0.5, 0.8))

    async def reset(self) -> None:
        """Start the clock and reset."""
        import cocotb
        from cocotb.clock import Clock
        from cocotb.triggers import RisingEdge

        cocotb.start_soon(Clock(self.dut.clk, 10, unit="ns", impl="gpi").start())
        self.dut.rst.value = 1
        for _ in range(3):
            await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        for _ in range(2):  # the parts of a block may have registers in their resets
            await RisingEdge(self.dut.clk)

    async def step(self) -> None:
        """Run one cycle."""
        from cocotb.triggers import FallingEdge, RisingEdge

        for port in self.ports:
            port.drive()
        for driver in self.drivers:
            driver()
        await FallingEdge(self.dut.clk)
        for port in self.ports:
            port.sample()
        for hook in self.hooks:
            hook()
        self.cycle += 1
        await RisingEdge(self.dut.clk)

    async def run(self, cycles: int) -> None:
        """Run some cycles."""
        for _ in range(cycles):
            await self.step()

    async def until(self, done: Callable[[], bool], timeout: int = 20000, what: str = "") -> None:
        """Run until a condition holds; fail at the timeout."""
        end = self.cycle + timeout
        while not done():
            assert self.cycle < end, f"nothing more after {timeout} cycles {what}: {self.state()}"
            await self.step()

    def state(self) -> str:
        """Return what each port has done."""
        return ", ".join(
            f"{p.name} {f'{len(p.queue)} left' if isinstance(p, Source) else f'{len(p.items)} taken'}"
            for p in self.ports
        )

    async def configure(self, words: Mapping[int, int], bank: int = 0) -> None:
        """Write descriptor words through the port ``config``."""
        dut = self.dut
        for address, value in words.items():
            dut.config__valid.value = 1
            dut.config__bank.value = bank
            dut.config__address.value = address
            dut.config__data.value = value
            await self.step()
        dut.config__valid.value = 0
        await self.step()

    def clear(self) -> None:
        """Forget what the ports have done so far; nothing may be left to send."""
        for port in self.ports:
            port.cycles = []
            if isinstance(port, Sink):
                port.items = []
            else:
                assert port.done, f"{port.name} has items left"


def seeds(count: int) -> Iterator[random.Random]:
    """Random generators, one a round, that depend on cocotb's seed."""
    import cocotb

    for number in range(count):
        yield random.Random(f"{cocotb.RANDOM_SEED}:{number}")
