import random
from typing import Any

import pytest
from amaranth.hdl import Module, ResetInserter
from amaranth.lib import wiring
from axi_model import Reads, simulate

from rowmesh.hw.command_processor import SETTLE_CYCLES, CommandProcessor, first_fetch
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.control import RESET_CYCLES, Control
from rowmesh.hw.counters import Counters
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.program import MAGIC, STARTABLE, Op, Program
from rowmesh.hw.read_arbiter import ReadArbiter
from rowmesh.hw.registers import ID, VERSION, ErrorCode, register_map

CONFIG = ArchConfig()
COUNTERS = {"alpha": 1, "beta": 4}
WAITS = ("one", "two", "three")
MAP = register_map(tuple(COUNTERS), WAITS)


def word_of(register: str, *fields: str) -> int:
    """The register's word with these fields all ones."""
    places = [MAP[register]["fields"][name] for name in fields]
    return sum((1 << place["width"]) - 1 << place["low"] for place in places)


START, SOFT_RESET, IRQ_CLEAR = (word_of("CONTROL", name) for name in ("start", "soft_reset", "irq_clear"))
BUSY, DONE, ERROR, RESETTING, IRQ = (word_of("STATUS", name) for name in ("busy", "done", "error", "resetting", "irq"))
AT = 0x4008  # of the program: neither aligned to a burst, nor near the end of a page


class Bench:
    """Control behind an arbiter and a memory, with engines that take starts and are busy for a while."""

    def __init__(
        self,
        program: list[int] | None = None,
        *,
        at: int = AT,
        latency: int = 20,
        stall: float = 0.0,
        seed: int = 0,
        fail: int | None = None,
        work: int = 30,
        config: ArchConfig = CONFIG,
    ) -> None:
        self.config, self.at, self.work, self.stall = config, at, work, stall
        self.rng = random.Random(seed)
        self.control = Control(config, COUNTERS, WAITS)
        self.arbiter = ReadArbiter(config, 2)
        size = config.beat_bytes
        image = b"".join(word.to_bytes(4, "little") for word in program or [])
        self.image = image + b"\xee" * 4096

        def content(address: int) -> int:
            return int.from_bytes(self.image[address - at : address - at + size], "little")

        self.memory = Reads(self.arbiter.axi, latency=latency, stall=stall, seed=seed, content=content, fail=fail)
        self.events: list[tuple[Any, ...]] = []
        self.cycle = 0
        self.config_cycles: list[int] = []
        self.reset_cycles = 0
        self.started: int | None = None
        self.active_cycles = 0
        self.counted = [0, 0]
        self.busy = [0] * len(STARTABLE)
        self.never_idle = False
        self.top = m = Module()
        control, arbiter = self.control, self.arbiter
        m.submodules.control = control
        m.submodules.arbiter = ResetInserter(control.core_reset)(arbiter)
        wiring.connect(m, control.request, arbiter.requests[0])
        wiring.connect(m, arbiter.data[0], control.data)
        m.d.comb += [
            arbiter.halt.eq(control.halt),
            control.read_error.eq(arbiter.error),
            control.read_port.eq(arbiter.error_port),
        ]
        self.hold_outstanding = False

    async def engines(self, ctx: Any) -> None:
        control = self.control
        while True:
            ctx.set(control.idle, sum((not left) << k for k, left in enumerate(self.busy)))
            ctx.set(control.outstanding, ctx.get(self.arbiter.outstanding) != 0 or self.hold_outstanding)
            for port in control.starts:
                ctx.set(port.ready, self.rng.random() >= self.stall)
            counts = self.rng.getrandbits(5)
            ctx.set(control.counts, counts)
            bus = control.config
            sampled = await ctx.tick().sample(
                bus.valid,
                bus.bank,
                bus.address,
                bus.data,
                control.active,
                control.core_reset,
                control.started,
                *[value for port in control.starts for value in (port.valid, port.ready, port.payload)],
            )
            valid, bank, address, word, active, reset, started = sampled[2:9]
            if valid:
                self.events.append(("config", bank, address, word))
                self.config_cycles.append(self.cycle)
            for k, engine in enumerate(STARTABLE):
                port_valid, ready, payload = sampled[9 + 3 * k : 12 + 3 * k]
                self.busy[k] = max(0, self.busy[k] - (not self.never_idle))
                if port_valid and ready:
                    self.events.append(("start", payload, engine))
                    self.busy[k] = self.work
            if reset:
                self.busy = [0] * len(STARTABLE)
            if active:
                self.active_cycles += 1
                self.counted[0] += counts & 1
                self.counted[1] += counts >> 1
            if started:
                self.started = self.cycle
                self.active_cycles, self.counted = 0, [0, 0]
            self.reset_cycles += reset
            self.cycle += 1

    async def write_word(self, ctx: Any, offset: int, value: int, strobe: int = 15, order: int = 0) -> int:
        """Write with the address first (0), the data first (1) or both together (2); return the response."""
        axi = self.control.s_axil
        ctx.set(axi.awaddr, offset)
        ctx.set(axi.wdata, value)
        ctx.set(axi.wstrb, strobe)
        pending = {0: ["aw", "w"], 1: ["w", "aw"], 2: ["aw+w"]}[order]
        for channels in pending:
            for name in channels.split("+"):
                ctx.set(getattr(axi, f"{name}valid"), 1)
            await ctx.tick()
            ctx.set(axi.awvalid, 0)
            ctx.set(axi.wvalid, 0)
        ctx.set(axi.bready, 1)
        (response,) = await ctx.tick().sample(axi.bresp).until(axi.bvalid)
        ctx.set(axi.bready, 0)
        return response

    async def read_word(self, ctx: Any, offset: int) -> tuple[int, int]:
        axi = self.control.s_axil
        ctx.set(axi.araddr, offset)
        ctx.set(axi.arvalid, 1)
        await ctx.tick().until(axi.arready)
        ctx.set(axi.arvalid, 0)
        ctx.set(axi.rready, 1)
        word, response = await ctx.tick().sample(axi.rdata, axi.rresp).until(axi.rvalid)
        ctx.set(axi.rready, 0)
        return word, response

    async def write(self, ctx: Any, name: str, value: int) -> None:
        for part in range(MAP[name]["width"] // 32):
            offset, word = MAP[name]["offset"] + 4 * part, value >> 32 * part & 0xFFFFFFFF
            assert await self.write_word(ctx, offset, word, order=self.rng.randrange(3)) == 0

    async def read(self, ctx: Any, name: str) -> int:
        value = 0
        for part in range(MAP[name]["width"] // 32):
            word, response = await self.read_word(ctx, MAP[name]["offset"] + 4 * part)
            assert response == 0
            value |= word << 32 * part
        return value

    async def start(self, ctx: Any) -> None:
        await self.write(ctx, "PROGRAM", self.at)
        await self.write(ctx, "CONTROL", START)

    async def finish(self, ctx: Any) -> None:
        while not ctx.get(self.control.irq):
            await ctx.tick()

    async def soft_reset(self, ctx: Any) -> None:
        await self.write(ctx, "CONTROL", SOFT_RESET)
        assert await self.read(ctx, "STATUS") & (BUSY | RESETTING) == BUSY | RESETTING
        while await self.read(ctx, "STATUS") & BUSY:
            pass

    def run(self, bench: Any, *background: Any, limit: int = 20_000) -> None:
        async def whole(ctx):
            await bench(self, ctx)

        simulate(self.top, whole, self.memory.run, self.engines, *background, limit=limit)


async def expect_error(bench: Bench, ctx: Any, code: ErrorCode) -> None:
    """The run has ended with this error; a soft reset recovers, and the interrupt is gone."""
    await bench.finish(ctx)
    assert await bench.read(ctx, "ERROR") == code
    assert await bench.read(ctx, "STATUS") & (BUSY | DONE | ERROR) == ERROR
    assert ctx.get(bench.control.halt)
    await bench.soft_reset(ctx)
    assert bench.reset_cycles == RESET_CYCLES
    assert await bench.read(ctx, "ERROR") == ErrorCode.NONE
    assert await bench.read(ctx, "STATUS") == 0
    assert not ctx.get(bench.control.irq)
    assert not ctx.get(bench.control.halt)


def small_program() -> Program:
    return Program().write(0, {5: 1, 6: 2}).start(0, Engine.STEP, Engine.STORE).wait(Engine.STORE).end()


def expected_events(words: list[int]) -> list[tuple[Any, ...]]:
    events: list[tuple[Any, ...]] = []
    for command in Program.decode(words):
        if command.op is Op.WRITE:
            events += [("config", command.bank, command.address + k, w) for k, w in enumerate(command.words)]
        elif command.op is Op.START:
            events.append((command.bank, {e for e in STARTABLE if command.address >> e.value & 1}))
    return events


def merge_starts(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Starts of one command, which come in any order, as one event."""
    merged: list[tuple[Any, ...]] = []
    for event in events:
        if event[0] == "config":
            merged.append(event)
        elif merged and merged[-1][0] == event[1] and event[2] not in merged[-1][1]:
            merged[-1][1].add(event[2])
        else:
            merged.append((event[1], {event[2]}))
    return merged


# ----------------------------------------------------------------------------------------------- registers


def test_registers():
    async def bench(self, ctx):
        assert await self.read(ctx, "ID") == ID
        assert await self.read(ctx, "VERSION") == VERSION
        for name, entry in MAP.items():
            if entry["access"] == "rw":
                assert await self.read(ctx, name) == entry["reset"]
        await self.write(ctx, "PROGRAM", 0x1122334455667788)
        assert await self.read(ctx, "PROGRAM") == 0x1122334455667788
        for order in range(3):
            assert await self.write_word(ctx, MAP["PROGRAM"]["offset"], 0xAABBCCDD, 0b0101, order) == 0
        assert await self.read(ctx, "PROGRAM") == 0x1122334455BB77DD
        await self.write(ctx, "WATCHDOG", 77)
        assert await self.read(ctx, "WATCHDOG") == 77
        assert await self.read_word(ctx, MAP["CONTROL"]["offset"]) == (0, 0)
        ctx.set(self.control.waits, 0b101)
        await ctx.tick()
        assert await self.read(ctx, "WAITS") == 0b101
        for unknown in (0x38, 0xFC, 0x100 + 8 * len(COUNTERS), 0xFFC):
            assert (await self.read_word(ctx, unknown))[1] == 2
            assert await self.write_word(ctx, unknown, 1) == 2
        assert await self.write_word(ctx, MAP["ID"]["offset"], 1) == 2
        assert await self.write_word(ctx, MAP["ALPHA"]["offset"], 1) == 2
        assert await self.read(ctx, "STATUS") == 0

    Bench().run(bench)


def test_register_accesses_at_once():
    """Back-to-back and held responses; a write and a read together."""

    async def bench(self, ctx):
        axi = self.control.s_axil
        ctx.set(axi.awaddr, MAP["WATCHDOG"]["offset"])
        ctx.set(axi.araddr, MAP["ID"]["offset"])
        ctx.set(axi.wstrb, 15)
        for name in ("awvalid", "wvalid", "arvalid"):
            ctx.set(getattr(axi, name), 1)
        words = []
        for k in range(40):
            ctx.set(axi.bready, k % 3 == 0)
            ctx.set(axi.rready, k % 4 == 0)
            ctx.set(axi.wdata, k)
            sampled = await ctx.tick().sample(axi.bvalid, axi.bready, axi.rvalid, axi.rready, axi.rdata, axi.wready)
            if sampled[4] and sampled[5]:
                words.append(sampled[6])
        assert set(words) == {ID}
        assert len(words) >= 9

    Bench().run(bench)


# ------------------------------------------------------------------------------------------------ programs


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(("seed", "width"), [(0, 64), (1, 128), (2, 64)])
def test_random_program(seed, width, stall):
    """Configuration writes and starts in the order of the program; each WAIT until the engines are idle."""
    rng = random.Random(seed)
    program = Program()
    for _ in range(6):
        bank = rng.randrange(2)
        base = rng.randrange(1 << 15)
        program.write(bank, {base + rng.randrange(40): rng.getrandbits(32) for _ in range(rng.randint(0, 40))})
        engines = rng.sample(STARTABLE, rng.randint(1, 8))
        program.start(bank, *engines).wait(*engines)
    words = program.end().words

    async def bench(self, ctx):
        for _ in range(2):
            self.events.clear()
            await self.start(ctx)
            await self.finish(ctx)
            assert not any(self.busy)
            assert merge_starts(self.events) == expected_events(words)
            assert await self.read(ctx, "STATUS") == DONE | IRQ
            assert await self.read(ctx, "CYCLES") == self.active_cycles
            assert await self.read(ctx, "ALPHA") == self.counted[0]
            assert await self.read(ctx, "BETA") == self.counted[1]
            await self.write(ctx, "CONTROL", IRQ_CLEAR)
            assert not ctx.get(self.control.irq)
            assert await self.read(ctx, "STATUS") == DONE

    config = CONFIG.replace(axi_data_width=width)
    at = (AT, 4096 - 32, 0)[seed]
    Bench(words, at=at, seed=seed, stall=stall, config=config).run(bench)


@pytest.mark.parametrize("latency", [1, 20, 100, 300])  # with the last one the first fetch is used up too early
def test_timing(latency):
    """The stated latencies; one configuration word a cycle; CYCLES is from start to interrupt."""
    count = 400
    words = Program().write(0, {k: k for k in range(count)}).end().words

    async def bench(self, ctx):
        await self.write(ctx, "PROGRAM", self.at)
        axi = self.control.s_axil
        ctx.set(axi.awaddr, MAP["CONTROL"]["offset"])
        ctx.set(axi.wdata, START)
        ctx.set(axi.wstrb, 15)
        ctx.set(axi.awvalid, 1)
        ctx.set(axi.wvalid, 1)
        ctx.set(axi.bready, 1)
        handshake = self.cycle
        await ctx.tick()
        ctx.set(axi.awvalid, 0)
        ctx.set(axi.wvalid, 0)
        first = None
        while not ctx.get(self.control.irq):
            if first is None and ctx.get(self.arbiter.axi.arvalid):
                first = self.cycle
            await ctx.tick()
        irq = self.cycle
        assert self.started == handshake + 1
        assert await self.read(ctx, "CYCLES") == irq - handshake - 2
        assert first == self.started + CommandProcessor.latency + ReadArbiter.latency
        # FIFO (2), word register, then the first three words and the register of the bus
        assert self.config_cycles[0] == first + latency + ReadArbiter.data_latency + 2 + 1 + 3 + 1
        # the first fetch is used up before the second, whose length is the second word, comes
        gap = max(0, latency + 5 + CommandProcessor.length_latency - 2 * first_fetch(CONFIG))
        assert self.config_cycles[-1] - self.config_cycles[0] == count - 1 + gap

    Bench(words, at=0x4000, latency=latency).run(bench)


def test_start_waits_for_configuration_and_wait_for_starts():
    words = Program().write(0, {1: 1}).start(0, Engine.STEP).wait(Engine.STEP).end().words

    async def bench(self, ctx):
        await self.start(ctx)
        while not ctx.get(self.control.starts[STARTABLE.index(Engine.STEP)].valid):
            assert not ctx.get(self.control.first_active)
            await ctx.tick()
        assert self.cycle - self.config_cycles[0] >= SETTLE_CYCLES
        await self.finish(ctx)

    Bench(words, work=SETTLE_CYCLES - 2).run(bench)


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("words", "detail"),
    [
        ([MAGIC ^ 1, 3, 0], 0),
        ([MAGIC, 2, 0], 0),
        ([MAGIC, 1 << 24, 0], 0),
        ([MAGIC, 3, 0x4000_0000], 0x4000_0000),
        ([MAGIC, 4, 0xF123_4567, 0], 0xF123_4567),
        ([MAGIC, 4, 0x2000_0001, 0], 0x2000_0001),
        ([MAGIC, 4, 0x3000_0200, 0], 0x3000_0200),
        ([MAGIC, 4, 0x1002_0000, 0, 0], 0x1002_0000),
        ([MAGIC, 3, 0x2000_0002, 0], 0x2000_0002),
    ],
)
def test_illegal_program(words, detail):
    with pytest.raises(ValueError, match="must"):
        Program.decode(words)

    async def bench(self, ctx):
        await self.start(ctx)
        await self.finish(ctx)
        assert await self.read(ctx, "ERROR_DETAIL") == detail
        await expect_error(self, ctx, ErrorCode.ILLEGAL_DESCRIPTOR)
        self.image = b"".join(word.to_bytes(4, "little") for word in small_program().words) + bytes(256)
        self.events.clear()
        await self.start(ctx)
        await self.finish(ctx)
        assert await self.read(ctx, "STATUS") == DONE | IRQ
        assert merge_starts(self.events) == expected_events(small_program().words)

    Bench(words).run(bench)


def test_read_error():
    async def bench(self, ctx):
        await self.start(ctx)
        await expect_error(self, ctx, ErrorCode.AXI_READ)

    Bench(small_program().words, fail=0).run(bench)


def test_write_error():
    async def bench(self, ctx):
        self.never_idle = True
        await self.start(ctx)
        await ctx.tick().repeat(100)
        ctx.set(self.control.write_error, 1)
        await ctx.tick()
        ctx.set(self.control.write_error, 0)
        await expect_error(self, ctx, ErrorCode.AXI_WRITE)

    Bench(small_program().words).run(bench)


def test_start_while_busy():
    async def bench(self, ctx):
        self.never_idle = True
        await self.start(ctx)
        await ctx.tick().repeat(100)
        assert await self.read(ctx, "STATUS") == BUSY
        await self.write(ctx, "CONTROL", START)
        await self.finish(ctx)
        await self.write(ctx, "CONTROL", IRQ_CLEAR)
        assert not ctx.get(self.control.irq)
        await self.write(ctx, "CONTROL", START)  # without effect, but for the interrupt
        assert ctx.get(self.control.irq)
        await expect_error(self, ctx, ErrorCode.START_WHILE_BUSY)

    Bench(small_program().words).run(bench)


def test_watchdog():
    async def bench(self, ctx):
        self.never_idle = True
        await self.write(ctx, "WATCHDOG", 50)
        await self.start(ctx)
        for _ in range(5):  # something moves
            await ctx.tick().repeat(40)
            ctx.set(self.control.progress, 1)
            await ctx.tick()
            ctx.set(self.control.progress, 0)
        assert not ctx.get(self.control.irq)
        ctx.set(self.control.waits, 0b010)
        since = self.cycle
        await self.finish(ctx)
        assert 50 <= self.cycle - since <= 53
        ctx.set(self.control.waits, 0)
        assert await self.read(ctx, "WAITS") == 0b010, "what waited when it came"
        assert await self.read(ctx, "ERROR_DETAIL") == 0x3000_0100
        await expect_error(self, ctx, ErrorCode.WATCHDOG)
        await self.write(ctx, "WATCHDOG", 0)
        await self.start(ctx)
        await ctx.tick().repeat(300)
        assert await self.read(ctx, "STATUS") == BUSY

    Bench(small_program().words).run(bench)


def test_irq_enable():
    async def bench(self, ctx):
        await self.write(ctx, "IRQ_ENABLE", word_of("IRQ_ENABLE", "error"))
        await self.start(ctx)
        while await self.read(ctx, "STATUS") & BUSY:
            pass
        assert await self.read(ctx, "STATUS") == DONE | IRQ
        assert not ctx.get(self.control.irq)
        await self.write(ctx, "IRQ_ENABLE", word_of("IRQ_ENABLE", "done"))
        assert ctx.get(self.control.irq)

    Bench(small_program().words).run(bench)


# ---------------------------------------------------------------------------------------------- soft reset


@pytest.mark.parametrize("after", [1, 8, 20, 35, 60, 90, 200])
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_soft_reset_in_the_middle(after, stall):
    """At any time: reads under way are waited for, then a program runs as if nothing had been."""
    program = Program()
    program.write(0, {k: k for k in range(70)}).start(0, *STARTABLE).wait(*STARTABLE)
    words = program.write(1, {9: 9}).end().words

    async def watch(ctx):
        while True:
            _, _, reset, outstanding = await ctx.tick().sample(self.control.core_reset, self.arbiter.outstanding)
            assert not (reset and outstanding)

    async def bench(self, ctx):
        await self.start(ctx)
        await ctx.tick().repeat(after)
        self.hold_outstanding = True
        await self.write(ctx, "CONTROL", SOFT_RESET)
        await ctx.tick().repeat(50)
        bursts = len(self.memory.bursts)
        assert await self.read(ctx, "STATUS") == BUSY | RESETTING, "something has not been answered"
        await ctx.tick().repeat(100)
        assert len(self.memory.bursts) == bursts
        assert self.reset_cycles == 0
        self.hold_outstanding = False
        while await self.read(ctx, "STATUS") & BUSY:
            pass
        assert self.reset_cycles == RESET_CYCLES
        self.events.clear()
        await self.start(ctx)
        await self.finish(ctx)
        assert merge_starts(self.events) == expected_events(words)
        assert await self.read(ctx, "STATUS") == DONE | IRQ

    self = Bench(words, stall=stall, latency=30)
    self.run(bench, watch)


def test_soft_reset_when_idle_and_start_during_it():
    async def bench(self, ctx):
        await self.soft_reset(ctx)
        self.hold_outstanding = True
        await self.write(ctx, "CONTROL", SOFT_RESET)
        await self.write(ctx, "CONTROL", START)
        self.hold_outstanding = False
        await self.finish(ctx)
        assert await self.read(ctx, "ERROR") == ErrorCode.START_WHILE_BUSY
        assert self.started is None
        await self.soft_reset(ctx)
        await self.start(ctx)
        await self.finish(ctx)
        assert await self.read(ctx, "STATUS") == DONE | IRQ

    Bench(small_program().words).run(bench)


# ------------------------------------------------------------------------------------------------ counters


@pytest.mark.parametrize("widths", [(), (1,), (5, 1, 8, 3, 3, 1, 1)])
def test_counters(widths):
    """Exact after each of several runs, however long; also beyond 32 bits of sum."""
    dut, rng = Counters(widths), random.Random(3)

    async def bench(ctx):
        for length in (1, 2, 3, 7, 100, 33):
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            totals = [0] * len(widths)
            ctx.set(dut.active, 1)
            for _ in range(length):
                counts = [(1 << w) - 1 if rng.random() < 0.5 else rng.getrandbits(w) for w in widths]
                totals = [total + count for total, count in zip(totals, counts, strict=True)]
                packed = shift = 0
                for width, count in zip(widths, counts, strict=True):
                    packed, shift = packed | count << shift, shift + width
                ctx.set(dut.counts, packed)
                await ctx.tick()
            ctx.set(dut.active, 0)
            waited = 0
            while not ctx.get(dut.stable):
                await ctx.tick()
                waited += 1
            assert waited <= dut.entries + dut.settle
            for index, total in enumerate([length, *totals]):
                ctx.set(dut.index, index)
                assert ctx.get(dut.value) == total
            await ctx.tick().repeat(rng.randint(0, 9))

    simulate(dut, bench)
