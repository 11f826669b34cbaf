"""The host's side of the wrapper, for cocotb tests: registers, start and finish, the memory.

Nothing here wakes once a cycle: a register access and a whole run each end with one event. The exception is
the memory with random stalls, which is cocotbext-axi's and runs in Python.
"""

import json
import mmap
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cocotb.triggers import FallingEdge, RisingEdge, SimTimeoutError, Timer, ValueChange, with_timeout
from cocotbext.axi import AxiBus  # type: ignore[import-untyped]
from cocotbext.axi.axi_ram import AxiRamRead, AxiRamWrite  # type: ignore[import-untyped]

from rowmesh.sim.build import Register, RegisterError

__all__ = ["CYCLE_NS", "FAULTS", "Host", "RandomMemory", "RegisterError", "Session", "stalls"]

CYCLE_NS = 10
"""Period of the wrapper's clock in simulated nanoseconds."""

FAULTS = ("fail_read", "fail_write", "hold_read", "hold_write", "extra_read", "extra_write")
"""Faults of the deterministic memory model; see :meth:`Host.set_faults`."""

_ACCESS_LIMIT = 10_000
"""Cycles after which a register access is given up."""


class Host:
    """Drives the wrapper's host ports.

    Parameters
    ----------
    dut : object
        cocotb's handle of ``simtop``.
    registers : Mapping of str to Register
        Register map, by name.
    """

    def __init__(self, dut: Any, registers: Mapping[str, Register]) -> None:
        self._dut = dut
        self._registers = registers
        self._request = 0
        dut.host_request.value = 0
        self._resets = 0
        dut.host_reset.value = 0
        self.set_faults()
        dut.host_start.value = 0

    async def ready(self) -> None:
        """Wait until the design is out of reset."""
        await Timer(1, "ns")  # before that, no initial value holds
        if self._dut.host_in_reset.value:
            await FallingEdge(self._dut.host_in_reset)

    async def reset(self, cycles: int = 16) -> None:
        """Reset the design and the memory model; the memory keeps its contents.

        Parameters
        ----------
        cycles : int
            Clock edges at which the reset is high, from 1 to 255.
        """
        self._resets ^= 1
        self._dut.host_reset_cycles.value = cycles
        self._dut.host_reset.value = self._resets
        if not self._dut.host_in_reset.value:
            await RisingEdge(self._dut.host_in_reset)
        await FallingEdge(self._dut.host_in_reset)

    def set_faults(self, **faults: int) -> None:
        """Let the deterministic memory model misbehave from now on.

        Parameters
        ----------
        **faults : int
            Numbers of bursts of a run, from 1 (0 or missing: none): ``fail_read`` and ``fail_write`` are answered with
            an error, ``hold_read`` and ``hold_write`` not at all, nor is any behind them, until the fault is taken
            back; of ``extra_read`` the last beat comes twice, of ``extra_write`` the response.

        Raises
        ------
        ValueError
            If there is no such fault.
        """
        if unknown := set(faults) - set(FAULTS):
            raise ValueError(f"a fault must be one of {', '.join(FAULTS)}, not {', '.join(sorted(unknown))}")
        for name in FAULTS:
            getattr(self._dut, f"host_{name}").value = faults.get(name, 0)

    async def access(self, offset: int, value: int | None = None, *, start: bool = False) -> tuple[int, int]:
        """Read or write one 32-bit register word.

        Parameters
        ----------
        offset : int
            Byte address.
        value : int, optional
            What to write; a read without it.
        start : bool
            The cycle counter starts with this write.

        Returns
        -------
        tuple of int, int
            The word read (meaningless for a write) and the AXI response.
        """
        dut = self._dut
        dut.host_address.value = offset
        dut.host_write.value = int(value is not None)
        dut.host_wdata.value = value or 0
        dut.host_start.value = int(start)
        self._request ^= 1
        dut.host_request.value = self._request
        try:
            await with_timeout(ValueChange(dut.host_acknowledge), _ACCESS_LIMIT * CYCLE_NS, "ns")
        except SimTimeoutError:
            verb = "read" if value is None else "write"
            raise RegisterError(
                f"a {verb} of register 0x{offset:03x} had no answer for {_ACCESS_LIMIT} cycles"
            ) from None
        return int(dut.host_rdata.value), int(dut.host_response.value)

    async def write(self, name: str, value: int, *, start: bool = False) -> None:
        """Write a register by name, the lower word of a 64-bit one first.

        Raises
        ------
        RegisterError
            If the design answers with an error, or not within 10,000 cycles.
        """
        register = self._lookup(name)
        if not 0 <= value < 1 << register.width:
            raise ValueError(f"{name} has {register.width} bits: {value:#x} does not fit")
        words = register.width // 32
        for index in range(words):
            word = value >> (32 * index) & 0xFFFFFFFF
            _, response = await self.access(register.offset + 4 * index, word, start=start and index == words - 1)
            if response:
                raise RegisterError(f"the write of {name} was answered with response {response}")

    async def read(self, name: str) -> int:
        """Read a register by name.

        Raises
        ------
        RegisterError
            If the design answers with an error, or not within 10,000 cycles.
        """
        register = self._lookup(name)
        value = 0
        for index in range(register.width // 32):
            word, response = await self.access(register.offset + 4 * index)
            if response:
                raise RegisterError(f"the read of {name} was answered with response {response}")
            value |= word << (32 * index)
        return value

    async def command(self, *names: str, start: bool = False) -> None:
        """Write CONTROL with the fields of these names set; ``start`` as of :meth:`access`."""
        await self.write("CONTROL", self._lookup("CONTROL").word(*names), start=start)

    async def field(self, register: str, name: str) -> int:
        """Read a register's field."""
        return self._lookup(register).value(name, await self.read(register))

    async def start(self, limit: int) -> None:
        """Write the start bit; the run ends with the interrupt or after a number of cycles.

        Parameters
        ----------
        limit : int
            Cycles.
        """
        self._dut.host_limit.value = limit
        await self.command("start", start=True)

    async def clear_irq(self) -> None:
        """Clear the interrupt of a run that has ended, and nothing else."""
        await self.command("irq_clear")
        if self.irq:
            await FallingEdge(self._dut.host_irq)

    async def finish(self) -> bool:
        """Wait for the end of the run; whether it ended with the interrupt."""
        if not self._dut.host_done.value:
            await RisingEdge(self._dut.host_done)
        return not self._dut.host_timed_out.value

    @property
    def irq(self) -> bool:
        """Level of the interrupt."""
        return bool(self._dut.host_irq.value)

    @property
    def cycles(self) -> int:
        """Cycles from the start to the interrupt, or until now."""
        return int(self._dut.host_cycles.value)

    @property
    def traffic(self) -> dict[str, int]:
        """Bursts and beats that the design moved since reset."""
        names = ("read_bursts", "read_beats", "write_bursts", "write_beats")
        return {name: int(getattr(self._dut, f"traffic_{name}").value) for name in names}

    def _lookup(self, name: str) -> Register:
        try:
            return self._registers[name]
        except KeyError:
            raise RegisterError(f"the design has no register {name}; it has {', '.join(self._registers)}") from None


def stalls(generator: random.Random) -> Iterator[bool]:
    """Yield whether to stall, a cycle at a time, in phases: free, light, heavy, and blocked.

    Parameters
    ----------
    generator : random.Random
        Source of the choices.
    """
    while True:
        rate, longest = generator.choice(((0.0, 60), (0.1, 60), (0.5, 60), (0.9, 40), (1.0, 30)))
        for _ in range(generator.randint(1, longest)):
            yield generator.random() < rate


class _Reader(AxiRamRead):  # type: ignore[misc]
    """A read port that answers with an error outside the memory and in one chosen burst."""

    def __init__(self, *arguments: Any, fail: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fail = fail
        self._burst = 0
        receive = self.ar_channel.recv

        async def counted() -> Any:
            item = await receive()
            self._burst += 1
            return item

        self.ar_channel.recv = counted

    async def _read(self, address: int, length: int) -> bytes:
        if self._burst == self._fail or address + length > self.size:
            raise IndexError(address)
        return bytes(self.read(address, length))


class _Writer(AxiRamWrite):  # type: ignore[misc]
    """The same for writes."""

    def __init__(self, *arguments: Any, fail: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fail = fail
        self._burst = 0
        receive = self.aw_channel.recv

        async def counted() -> Any:
            item = await receive()
            self._burst += 1
            return item

        self.aw_channel.recv = counted

    async def _write(self, address: int, data: bytes) -> None:
        if self._burst == self._fail or address + len(data) > self.size:
            raise IndexError(address)
        self.write(address, data)


class RandomMemory:
    """cocotbext-axi's memory on the wrapper's AXI4 ports, with random stalls on all five channels.

    Parameters
    ----------
    dut : object
        cocotb's handle of ``simtop``.
    contents : mmap
        The memory.
    seed : int
        Of the stalls.
    fail_read, fail_write : int
        Number of the burst that fails, from 1; 0 for none.
    """

    def __init__(self, dut: Any, contents: mmap.mmap, *, seed: int, fail_read: int = 0, fail_write: int = 0) -> None:
        bus = AxiBus.from_prefix(dut, "m_axi")
        clock, reset = dut.axi_clock, dut.host_in_reset
        self._reader = _Reader(bus.read, clock, reset, mem=contents, fail=fail_read)
        self._writer = _Writer(bus.write, clock, reset, mem=contents, fail=fail_write)
        channels = (
            self._reader.ar_channel,
            self._reader.r_channel,
            self._writer.aw_channel,
            self._writer.w_channel,
            self._writer.b_channel,
        )
        for number, channel in enumerate(channels):
            channel.set_pause_generator(stalls(random.Random(f"{seed} {number}")))


class Session:
    """What a cocotb test of a design starts with: the job, the host ports, and the memory.

    Parameters
    ----------
    dut : object
        cocotb's handle of ``simtop``.

    Attributes
    ----------
    folder : Path
        The job's folder.
    job : dict
        The job as simulate or run_test was given it, without the memory image.
    host : Host
        Registers, start and finish.
    memory : mmap
        The simulated memory, in both memory modes.
    """

    def __init__(self, dut: Any) -> None:
        self.folder = Path(os.environ["ROWMESH_JOB"])
        self.job: dict[str, Any] = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        registers = {name: Register(**entry) for name, entry in self.job["registers"].items()}
        self.host = Host(dut, registers)
        with (self.folder / "memory.bin").open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.host.set_faults(**{name: self.job[name] for name in ("fail_read", "fail_write")})
        self._random = None
        if self.job["memory"] == "axi-random":
            self._random = RandomMemory(
                dut,
                self.memory,
                seed=self.job["seed"],
                fail_read=self.job["fail_read"],
                fail_write=self.job["fail_write"],
            )

    def exchange(self, number: int) -> None:
        """Keep the memory's contents as those of the job before, and replace them by those of a job."""
        before, after = (self.folder / f"memory{k}.bin" for k in (number - 1, number))
        before.write_bytes(self.memory[:])
        contents = after.read_bytes()
        self.memory[:] = contents.ljust(len(self.memory), b"\0")
