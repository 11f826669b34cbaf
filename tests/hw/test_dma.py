import random
from typing import Any

import pytest
from amaranth.hdl import Const, Module
from amaranth.lib import wiring
from axi_model import Reads, Writes, nest_steps, put, simulate, word_at, write_config

from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.flags import mask_word
from rowmesh.hw.loader import DEBT, LONGEST_SKIP, Loader
from rowmesh.hw.read_arbiter import ReadArbiter
from rowmesh.hw.segments import Splitter
from rowmesh.hw.storer import Storer

CONFIG = ArchConfig(nest_levels=6)
SIZE = CONFIG.beat_bytes


def holds(mask: int, last: int, levels: int) -> bool:
    """Condition of a mask field over the last flags."""
    return bool(mask >> levels) and mask & ((1 << levels) - 1) & ~last == 0


# ------------------------------------------------------------------------------------------------ splitter


@pytest.mark.parametrize(("width", "burst"), [(64, 16), (64, 1), (512, 256), (128, 4)])
def test_splitter(width, burst):
    config = CONFIG.replace(axi_data_width=width, burst_beats=burst, glb_iact_flits=1024, glb_weight_flits=1024)
    dut, rng = Splitter(config, 4), random.Random(burst)
    size, page = config.beat_bytes, 4096 // config.beat_bytes
    segments = [
        (rng.randrange(1 << 14) * size, rng.choice((0, 1, 2, 3, 40, page, 3 * page + 5)), rng.randrange(16))
        for _ in range(40 if burst > 1 else 5)
    ]
    expected = []
    for address, beats, carried in segments:
        first = 1
        while True:
            part = min(beats, burst, page - address // size % page)
            beats -= part
            expected.append((address, part, first, int(not beats), carried))
            address, first = address + part * size, 0
            if not beats:
                break

    async def feed(ctx):
        for address, beats, carried in segments:
            await put(ctx, dut.i, {"address": address, "beats": beats, "carried": carried})

    for stall in (0.0, 0.5):
        got: list[tuple[int, ...]] = []
        waits = 0

        async def bench(ctx, stall=stall, got=got):
            nonlocal waits
            while len(got) < len(expected):
                ctx.set(dut.o.ready, rng.random() >= stall)
                _, _, valid, ready, item = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
                if valid and ready:
                    got.append((item.address, item.beats, item.first, item.last, item.carried))
                elif got and not stall:
                    waits += 1

        simulate(dut, bench, feed)
        assert got == expected
        assert waits == 0, "one burst a cycle"


# -------------------------------------------------------------------------------------------------- loader


class LoadBench:
    """A loader behind an arbiter, with a memory, and a destination that counts what it holds."""

    def __init__(
        self,
        *,
        clip: bool,
        depth: int = 64,
        config: ArchConfig = CONFIG,
        latency: int = 10,
        stall: float = 0.0,
        seed: int = 0,
    ) -> None:
        engine = Engine.LOAD_IACT if clip else Engine.LOAD_WEIGHT
        self.config, self.depth = config, depth
        self.loader = Loader(config, engine, clip=clip, depth=depth)
        self.arbiter = ReadArbiter(config, 2)
        self.memory = Reads(self.arbiter.axi, latency=latency, stall=stall, seed=seed, burst=config.burst_beats)
        self.slots: list[int | None] = []
        self.fill_cycles: list[int] = []
        self.held = self.requested = self.cycle = 0
        self.first_request: int | None = None
        self.started: int | None = None
        self.stall, self.rng = stall, random.Random(seed)
        self.hold = False
        self.top = m = Module()
        m.submodules.loader, m.submodules.arbiter = self.loader, self.arbiter
        wiring.connect(m, self.loader.request, self.arbiter.requests[1])
        wiring.connect(m, self.arbiter.data[1], self.loader.data)

    def expect(self, loops: list[Any], bases: dict[str, int], fields: dict[str, int]) -> list[int | None]:
        """Slots of the destination, in order; None where one is skipped."""
        slots: list[int | None] = []
        levels, mask = self.config.nest_levels, fields.get("length_mask", 0)
        for last, out in nest_steps(levels, loops, bases):
            length = fields["length_last" if holds(mask, last, levels) else "length"]
            for beat in range(length):
                inside = "width" not in fields or (
                    0 <= out["x"] + beat < fields["width"]
                    and 0 <= out["y"] < fields["height"]
                    and 0 <= out["block"] < fields["blocks"]
                )
                address = out["address"] + beat * self.config.beat_bytes & 0xFFFFFFFF
                address |= fields.get("address_high", 0) << 32
                slots.append(word_at(address, self.config.axi_data_width) if inside else None)
        return slots

    async def destination(self, ctx: Any) -> None:
        loader = self.loader
        while True:
            room = 0
            if self.held and not self.hold and self.rng.random() >= self.stall:
                room = self.held if not self.stall else self.rng.randint(1, self.held)
            ctx.set(loader.freed, room)
            sampled = await ctx.tick().sample(
                loader.fill.valid,
                loader.fill.payload,
                getattr(loader, "skip", Const(0)),
                loader.requested,
                loader.request.valid,
                loader.start.valid,
            )
            valid, word, skip, requested, request, start = sampled[2:]
            self.held += valid + skip - room
            assert 0 <= self.held <= self.depth, "more than the credits"
            if valid:
                self.slots.append(word)
                self.fill_cycles.append(self.cycle)
            self.slots += [None] * skip
            self.requested += requested
            if request and self.first_request is None:
                self.first_request = self.cycle
            if start and self.started is None:
                self.started = self.cycle
            self.cycle += 1

    def run(self, *descriptors: Any, limit: int = 20_000) -> list[int | None]:
        """Run descriptors back to back, in alternating banks; return the expected slots."""
        expected = [slot for descriptor in descriptors for slot in self.expect(*descriptor)]
        loader = self.loader

        async def bench(ctx):
            for number, (loops, bases, fields) in enumerate(descriptors):
                bank = number % 2
                if number >= 2:
                    await ctx.tick().until(loader.idle)
                await write_config(ctx, loader.config, bank, loader.descriptor.encode(loops, bases, fields))
                await put(ctx, loader.start, bank)
            await ctx.tick()
            await ctx.tick().until(loader.idle)
            assert len(self.slots) == len(expected), "idle too early"

        simulate(self.top, bench, self.memory.run, self.destination, limit=limit)
        assert self.slots == expected
        assert self.requested == self.memory.beats == sum(slot is not None for slot in expected)
        return expected


def random_load(rng: random.Random, clip: bool, most: int) -> Any:
    levels = CONFIG.nest_levels
    loops = []
    for level in range(rng.randint(1, 3)):
        bound = rng.randint(1, 4)
        mask = rng.getrandbits(levels) >> (level + 1) << (level + 1) if rng.random() < 0.5 else 0
        strides = {"address": rng.randrange(-64, 600) * SIZE}
        if clip:
            strides |= {"x": rng.randint(-3, 9), "y": rng.randint(-1, 2), "block": rng.randint(0, 1)}
        loops.append((bound, rng.randint(1, bound), mask, strides))
    bases = {"address": rng.randrange(1 << 15) * SIZE}
    chosen = rng.choice((None, [0], [1], [0, 2], range(levels)))
    fields = {
        "length": rng.choice((0, 1, 2, 7, rng.randint(1, most), most)),
        "length_last": rng.randint(0, most),
        "length_mask": mask_word(levels, chosen),
    }
    if clip:
        bases |= {"x": rng.randint(-12, 4), "y": rng.randint(-3, 1), "block": rng.randint(-1, 1)}
        fields |= {"width": rng.randint(0, 30), "height": rng.randint(0, 5), "blocks": rng.randint(1, 3)}
    return loops, bases, fields


@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_loader_random(seed, clip, stall):
    rng = random.Random(seed)
    bench = LoadBench(clip=clip, depth=(16, 40, 300)[seed], latency=rng.choice((1, 7, 60)), stall=stall, seed=seed)
    bench.run(*[random_load(rng, clip, 24 + 20 * clip) for _ in range(4)])


@pytest.mark.parametrize("latency", [1, 40])
def test_loader_long_skips(latency):
    """Skips longer than one cycle can skip, in the middle of back-to-back beats."""
    bench = LoadBench(clip=True, depth=700, latency=latency)
    loops = [(8, 8, 0, {"x": 300, "address": 300 * SIZE}), (4, 4, 0, {"y": 1, "address": 1 << 13})]
    bench.run((loops, {"address": 0, "x": -900, "y": -1, "block": 0}, {
        "length": 300, "width": 500, "height": 2, "blocks": 1,
    }))  # fmt: skip


def test_loader_skips_in_a_saturated_memory():
    """Long skips between short bursts that arrive without a gap: the beat FIFO must not overflow."""
    bench = LoadBench(clip=True, depth=20_000, latency=30)
    bench.run(([(60, 60, 0, {"address": 8 * SIZE})], {"address": 0, "x": 0, "y": 0, "block": 0}, {
        "length": 300, "width": 8, "height": 1, "blocks": 1,
    }))  # fmt: skip
    cycles = bench.fill_cycles
    assert cycles[-1] - cycles[0] + 1 <= len(cycles) + 4 * 60, "a long skip costs a few cycles"


@pytest.mark.parametrize("bound", [DEBT, 64])
def test_loader_holds_no_more_beats_than_it_has_room_for(bound, monkeypatch):
    """Seven skips of full length behind every burst, from a near memory: without its bound the loader loses beats."""
    monkeypatch.setattr("rowmesh.hw.loader.DEBT", bound)
    bench, beats = LoadBench(clip=True, depth=20_000, latency=5), CONFIG.burst_beats
    descriptor = (
        [(20, 20, 0, {"address": beats * SIZE})],
        {"address": 0, "x": 0, "y": 0, "block": 0},
        {"length": beats + 7 * LONGEST_SKIP, "width": beats, "height": 1, "blocks": 1},
    )
    expected = bench.expect(*descriptor)

    async def start(ctx):
        await write_config(ctx, bench.loader.config, 0, bench.loader.descriptor.encode(*descriptor))
        await put(ctx, bench.loader.start, 0)
        for _ in range(1000):
            await ctx.tick()

    simulate(bench.top, start, bench.memory.run, bench.destination)
    assert (bench.slots == expected) == (bound == DEBT)


def test_loader_wide_addresses():
    """The nest counts in a region of 4 GB; the upper bits are a field."""
    bench = LoadBench(clip=False, config=CONFIG.replace(axi_addr_width=40))
    bench.run(([(2, 2, 0, {"address": 800})], {"address": -4096 * 16}, {"length": 20, "address_high": 0x12}))
    assert bench.memory.bursts[0] == (0x12_FFFF_0000, 16)


@pytest.mark.parametrize(
    ("clip", "length", "memory_latency"),
    [(False, 2, 20), (False, 16, 100), (False, 40, 100), (True, 16, 100)],
)
def test_loader_throughput(clip, length, memory_latency):
    """One beat a cycle from the first to the last, borders included; and the stated latency."""
    bench = LoadBench(clip=clip, depth=1024, latency=memory_latency)
    count = max(20, 480 // length)  # more than a memory latency
    loops = [(count, count, 0, {"address": 4 * length * SIZE, "y": 1} if clip else {"address": length * SIZE})]
    bases = {"address": 0, "x": -1, "y": 0, "block": 0} if clip else {"address": 0}
    fields = {"length": length}
    if clip:
        fields |= {"width": length - 2, "height": count, "blocks": 1}
    bench.run((loops, bases, fields))
    cycles = bench.fill_cycles
    assert cycles[-1] - cycles[0] + 1 == len(cycles)
    assert bench.first_request - bench.started == bench.loader.latency
    to_data = bench.arbiter.latency + memory_latency + bench.arbiter.data_latency + bench.loader.data_latency
    assert cycles[0] - bench.first_request == to_data


def test_loader_waits_for_room():
    """No request without room for all of it; the beats come when words are freed."""
    bench = LoadBench(clip=False, depth=20)
    bench.hold = True
    seen = []

    async def release(ctx):
        for _ in range(200):
            await ctx.tick()
        seen.append((bench.held, bench.memory.beats, ctx.get(bench.loader.waiting), ctx.get(bench.loader.idle)))
        bench.hold = False

    async def start(ctx):
        words = bench.loader.descriptor.encode([], {"address": 0}, {"length": 64})
        await write_config(ctx, bench.loader.config, 0, words)
        await put(ctx, bench.loader.start, 0)
        await ctx.tick()
        await ctx.tick().until(bench.loader.idle)

    simulate(bench.top, start, bench.memory.run, bench.destination, release)
    assert seen == [(16, 16, 1, 0)]
    assert bench.held == 0
    assert len(bench.slots) == 64


def test_loader_skip_at_the_end_of_a_tile_does_not_wait_for_the_next():
    """The skip that ends a tile is delivered though the next tile's burst has no room."""
    bench = LoadBench(clip=True, depth=32)
    bench.hold = True
    state = []

    async def start(ctx):
        words = bench.loader.descriptor.encode(
            [(2, 2, 0, {"y": 1})],
            {"address": 0, "x": 0, "y": 0, "block": 0},
            {"length": 30, "width": 28, "height": 9, "blocks": 1},
        )
        await write_config(ctx, bench.loader.config, 0, words)
        await put(ctx, bench.loader.start, 0)
        await ctx.tick().repeat(200)
        state.append(len(bench.slots))

    simulate(bench.top, start, bench.memory.run, bench.destination)
    assert state == [30]


def test_loader_fills_a_buffet():
    """Fill and skip in the same cycle, against the buffet itself."""
    rng = random.Random(5)
    bench = LoadBench(clip=True, depth=37, latency=5)
    m, loader = bench.top, bench.loader
    m.submodules.buffet = buffet = Buffet(64, 37, release_width=6, round_up=False, block=True, skip_width=8)
    m.d.comb += [
        buffet.fill.valid.eq(loader.fill.valid),
        buffet.fill.payload.eq(loader.fill.payload),
        buffet.skip.eq(loader.skip),
        buffet.release.eq(1),
        buffet.sync.eq(1),
    ]
    descriptor = (
        [(9, 9, 0, {"y": 1, "address": 256}), (4, 4, 0, {"x": 3, "address": 24})],
        {"address": 4096, "x": -4, "y": -2, "block": 0},
        {"length": 12, "width": 9, "height": 6, "blocks": 1},
    )
    expected = bench.expect(*descriptor)

    async def start(ctx):
        await write_config(ctx, loader.config, 0, loader.descriptor.encode(*descriptor))
        await put(ctx, loader.start, 0)

    async def read(ctx):
        for want in expected:
            while not ctx.get(buffet.available) or rng.random() < 0.2:
                await ctx.tick()
            ctx.set(buffet.enable, 1)
            ctx.set(loader.freed, 1)
            await ctx.tick()
            ctx.set(buffet.enable, 0)
            ctx.set(loader.freed, 0)
            if want is not None:
                assert ctx.get(buffet.response) == want

    simulate(m, read, start, bench.memory.run)


# ------------------------------------------------------------------------------------------------- arbiter


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_arbiter(stall):
    """Every beat at its port, in order; never more in flight than configured."""
    config = CONFIG.replace(read_bursts=3)
    dut, rng = ReadArbiter(config, 3), random.Random(1)
    memory = Reads(dut.axi, latency=20, stall=stall, seed=2)
    wanted = [[(rng.randrange(256) * 128, rng.randint(1, 16)) for _ in range(30)] for _ in range(3)]
    got: list[list[int]] = [[], [], []]

    def requester(port):
        async def feed(ctx):
            for address, beats in wanted[port]:
                for _ in range(rng.randint(1, 20)):
                    await ctx.tick()
                await put(ctx, dut.requests[port], {"address": address, "beats": beats})

        return feed

    async def watch(ctx):
        while True:
            sampled = await ctx.tick().sample(*[v for port in dut.data for v in (port.valid, port.data)])
            for port in range(3):
                if sampled[2 + 2 * port]:
                    got[port].append(sampled[3 + 2 * port])

    async def bench(ctx):
        total = sum(beats for port in wanted for _, beats in port)
        while sum(map(len, got)) < total:
            assert ctx.get(dut.outstanding) <= 3
            await ctx.tick()
        assert ctx.get(dut.outstanding) == 0

    simulate(dut, bench, memory.run, watch, *[requester(port) for port in range(3)])
    assert got == [[word_at(a + SIZE * k, 64) for a, n in port for k in range(n)] for port in wanted]
    assert memory.most_in_flight == 3


def test_arbiter_priority_halt_and_error():
    dut = ReadArbiter(CONFIG, 3)
    memory = Reads(dut.axi, latency=5, fail=1)
    errors: list[int] = []

    async def watch(ctx):
        while True:
            _, _, error, port = await ctx.tick().sample(dut.error, dut.error_port)
            if error:
                errors.append(port)

    async def bench(ctx):
        ctx.set(dut.halt, 1)
        for port in (2, 0, 1):
            await put(ctx, dut.requests[port], {"address": port * 1024, "beats": 2})
        await ctx.tick().repeat(20)
        assert memory.bursts == []
        ctx.set(dut.halt, 0)
        await ctx.tick().repeat(40)

    simulate(dut, bench, memory.run, watch)
    assert memory.bursts == [(0, 2), (1024, 2), (2048, 2)]
    assert errors == [1, 1]


def test_arbiter_drops_what_is_outside_of_the_window():
    """Not a beat is asked for outside; behind such a request nothing goes, and outstanding ends at 0."""
    dut = ReadArbiter(CONFIG, 2)
    memory = Reads(dut.axi, latency=20)
    dropped: list[int] = []

    async def watch(ctx):
        while True:
            _, _, outside, port = await ctx.tick().sample(dut.outside, dut.outside_port)
            if outside:
                dropped.append(port)

    async def bench(ctx):
        ctx.set(dut.window, {"first": 1, "last": 2})
        for address in (0x1000, 0x2FF8, 0x3000, 0x1000):
            await put(ctx, dut.requests[1], {"address": address, "beats": 1})
        await ctx.tick().repeat(60)
        assert ctx.get(dut.outstanding) == 0

    simulate(dut, bench, memory.run, watch)
    assert memory.bursts == [(0x1000, 1), (0x2FF8, 1)]
    assert dropped == [1]


@pytest.mark.parametrize("ports", [4, 12])
def test_arbiter_takes_turns_behind_port_0(ports):
    dut = ReadArbiter(CONFIG, ports)
    memory = Reads(dut.axi, latency=5)
    left = [3] + [4] * (ports - 1)

    def requester(port):
        async def feed(ctx):
            for _ in range(left[port]):
                await put(ctx, dut.requests[port], {"address": port * 1024, "beats": 1})

        return feed

    async def bench(ctx):
        ctx.set(dut.halt, 1)
        await ctx.tick().repeat(10)
        ctx.set(dut.halt, 0)
        await ctx.tick().repeat(20 * ports)

    simulate(dut, bench, memory.run, *[requester(port) for port in range(ports)])
    assert [address // 1024 for address, _ in memory.bursts] == [0, 0, 0, *range(1, ports)] + [*range(1, ports)] * 3


@pytest.mark.parametrize("ports", [4, 12])
def test_arbiter_begins_a_run_with_port_1(ports):
    """Whoever had the last turn of the run before."""
    dut = ReadArbiter(CONFIG, ports)
    memory = Reads(dut.axi, latency=5)

    async def bench(ctx):
        await put(ctx, dut.requests[2], {"address": 2 * 1024, "beats": 1})
        await ctx.tick().repeat(10)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.halt, 1)
        for port in range(1, ports):
            await put(ctx, dut.requests[port], {"address": port * 1024, "beats": 1})
        ctx.set(dut.halt, 0)
        await ctx.tick().repeat(20 * ports)

    simulate(dut, bench, memory.run)
    assert [address // 1024 for address, _ in memory.bursts] == [2, *range(1, ports)]


def test_arbiter_of_many_ports_chooses_as_one_of_few(monkeypatch):
    """Both ways to choose give the same bursts at the same cycles, whoever asks when."""
    ports, traces = 10, []
    for small in (1, 100):
        monkeypatch.setattr("rowmesh.hw.read_arbiter._SMALL", small)
        dut, rng = ReadArbiter(CONFIG, ports), random.Random(3)
        memory = Reads(dut.axi, latency=20, stall=0.3, seed=4)
        trace: list[tuple[int, ...]] = []
        due = [[rng.random() < 0.15 for _ in range(300)] for _ in range(ports)]

        def requester(port, dut=dut, due=due):
            async def feed(ctx):
                for asks in due[port]:
                    if asks:
                        await put(ctx, dut.requests[port], {"address": port * 1024, "beats": 1 + port % 3})
                    else:
                        await ctx.tick()

            return feed

        async def bench(ctx, dut=dut, trace=trace):
            for _ in range(400):
                _, _, *now = await ctx.tick().sample(
                    dut.axi.arvalid, dut.axi.araddr, *[port.valid for port in dut.data]
                )
                trace.append(tuple(now))

        simulate(dut, bench, memory.run, *[requester(port) for port in range(ports)])
        traces.append(trace)
        assert len(memory.bursts) > 50
    assert traces[0] == traces[1]


# -------------------------------------------------------------------------------------------------- storer


class StoreBench:
    def __init__(
        self, config: ArchConfig = CONFIG, *, latency: int = 10, stall: float = 0.0, seed: int = 0,
        fail: int | None = None,
    ) -> None:  # fmt: skip
        self.config, self.stall, self.rng = config, stall, random.Random(seed)
        self.storer = Storer(config)
        self.memory = Writes(
            self.storer.axi, latency=latency, stall=stall, seed=seed, burst=config.burst_beats, fail=fail
        )
        self.words = self.beats = self.errors = self.responses = self.cycle = 0
        self.started: int | None = None

    def expect(self, loops: Any, bases: Any, fields: Any) -> tuple[list[list[Any]], dict[int, int]]:
        """Beats (data, strobe) that each lane is to be given, and the memory."""
        config, levels = self.config, self.config.nest_levels
        lanes: list[list[Any]] = [[] for _ in range(config.lanes)]
        memory: dict[int, int] = {}
        word_bytes = config.data_width // 8
        for last, out in nest_steps(levels, loops, bases):
            columns = fields["columns_edge" if holds(fields.get("edge_mask", 0), last, levels) else "columns"]
            short = holds(fields.get("length_mask", 0), last, levels)
            length = fields["length_last"] if short else fields["length"]
            for beat in range(length if out["column"] < columns else 0):
                word = self.rng.getrandbits(config.axi_data_width)
                keep = self.rng.choice((config.flit_words, self.rng.randint(0, config.flit_words)))
                strobe = (1 << keep * word_bytes) - 1
                lanes[out["lane"]].append((word, strobe))
                for byte in range(keep * word_bytes):
                    memory[out["address"] + beat * config.beat_bytes + byte] = word >> 8 * byte & 0xFF
        return lanes, memory

    def feed(self, lane: int, beats: list[Any]) -> Any:
        async def process(ctx):
            for word, strobe in beats:
                while self.rng.random() < self.stall:
                    await ctx.tick()
                await put(ctx, self.storer.lanes[lane], {"data": word, "strobe": strobe})

        return process

    async def watch(self, ctx: Any) -> None:
        dut = self.storer
        while True:
            sampled = await ctx.tick().sample(
                dut.written_words,
                dut.written_beats,
                dut.error,
                dut.responded,
                dut.start.valid,
                dut.outstanding,
            )
            self.words += sampled[2]
            self.beats += sampled[3]
            self.errors += sampled[4]
            self.responses += sampled[5]
            if sampled[6] and self.started is None:
                self.started = self.cycle
            assert sampled[7] <= self.config.read_bursts
            self.cycle += 1

    def run(self, *descriptors: Any, lead: int = 0) -> None:
        dut = self.storer
        lanes: list[list[Any]] = [[] for _ in range(self.config.lanes)]
        memory: dict[int, int] = {}
        for descriptor in descriptors:
            more, content = self.expect(*descriptor)
            lanes = [old + new for old, new in zip(lanes, more, strict=True)]
            assert not memory.keys() & content.keys()
            memory |= content

        async def bench(ctx):
            await ctx.tick().repeat(lead + 1)
            for number, (loops, bases, fields) in enumerate(descriptors):
                if number >= 2:
                    await ctx.tick().until(dut.idle)
                await write_config(ctx, dut.config, number % 2, dut.descriptor.encode(loops, bases, fields))
                await put(ctx, dut.start, number % 2)
            await ctx.tick()
            await ctx.tick().until(dut.idle)
            assert self.memory.responses == len(self.memory.bursts)
            assert len(self.memory.beats) == sum(map(len, lanes)), "idle too early"
            await ctx.tick()

        feeds = [self.feed(lane, beats) for lane, beats in enumerate(lanes)]
        simulate(dut, bench, self.memory.run, self.watch, *feeds)
        assert self.memory.memory == memory
        assert self.words == len(memory) // (self.config.data_width // 8)
        assert self.beats == sum(map(len, lanes))
        assert self.responses == len(self.memory.bursts)


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(("data_width", "seed"), [(8, 0), (16, 1), (8, 2)])
def test_storer_random(data_width, seed, stall):
    rng = random.Random(seed)
    config = CONFIG.replace(data_width=data_width, burst_beats=rng.choice((4, 16)), cols=rng.choice((3, 8)))
    bench = StoreBench(config, stall=stall, seed=seed, latency=rng.choice((1, 30)))
    descriptors = []
    for number in range(4):
        lanes, rows = rng.randint(1, config.lanes), rng.randint(1, 3)
        length = rng.choice((1, 5, 16, 25))
        stride = rng.randint(length, 700) * SIZE
        loops = [
            (lanes, lanes, 0, {"lane": 1, "column": 1, "address": stride}),
            (rows, rows, 0, {"address": lanes * stride}),
        ]
        fields = {
            "length": length,
            "length_last": rng.randint(0, length),
            "length_mask": mask_word(6, [0, 1]),
            "columns": rng.randint(1, lanes),
            "columns_edge": rng.randint(0, lanes),
            "edge_mask": mask_word(6, [1]),
        }
        bases = {"address": (number + 1 << 24) + rng.randrange(512) * SIZE, "lane": 0, "column": 0}
        descriptors.append((loops, bases, fields))
    bench.run(*descriptors)


def test_storer_throughput():
    """Back to back from the first beat to the last once beats are there; the stated latencies."""
    bench = StoreBench(latency=100)
    lanes = CONFIG.lanes
    loops = [(lanes, lanes, 0, {"lane": 1, "address": 8 * SIZE}), (12, 12, 0, {"address": lanes * 8 * SIZE})]
    bench.run((loops, {"address": 0, "lane": 0, "column": 0}, {"length": 8, "columns": 1}), lead=40)
    cycles = bench.memory.cycles
    assert cycles[-1] - cycles[0] + 1 == len(cycles) == lanes * 12 * 8
    assert bench.memory.address_cycles[0] - bench.started == bench.storer.latency
    assert cycles[0] - bench.memory.address_cycles[0] == bench.storer.data_latency


def test_storer_waits_for_all_beats_and_halts():
    dut = Storer(CONFIG)
    memory = Writes(dut.axi)
    seen = []

    async def bench(ctx):
        await write_config(ctx, dut.config, 0, dut.descriptor.encode([], {"address": 64}, {"length": 20, "columns": 1}))
        await put(ctx, dut.start, 0)
        for _ in range(15):
            await put(ctx, dut.lanes[0], {"data": 1, "strobe": 255})
        await ctx.tick().repeat(40)
        seen.append((len(memory.bursts), ctx.get(dut.waiting), ctx.get(dut.idle)))
        await put(ctx, dut.lanes[0], {"data": 1, "strobe": 255})
        await ctx.tick().until(dut.outstanding != 0)
        ctx.set(dut.halt, 1)
        for _ in range(4):
            await put(ctx, dut.lanes[0], {"data": 1, "strobe": 255})
        await ctx.tick().repeat(60)
        seen.append((len(memory.bursts), len(memory.beats), ctx.get(dut.outstanding), ctx.get(dut.idle)))
        ctx.set(dut.halt, 0)
        await ctx.tick().until(dut.idle)

    simulate(dut, bench, memory.run)
    assert seen == [(0, 1, 0), (1, 16, 0, 0)]
    assert memory.bursts == [(64, 16), (192, 4)]


@pytest.mark.parametrize("window", [(1, 1), (2, 5), (0, 0)])
def test_storer_writes_nothing_outside_of_the_window(window):
    """A burst outside is held, and so is what is behind it."""
    dut = Storer(CONFIG)
    memory = Writes(dut.axi)

    async def feed(ctx):
        while True:
            await put(ctx, dut.lanes[0], {"data": 1, "strobe": 255})

    async def bench(ctx):
        ctx.set(dut.window, dict(zip(("first", "last"), window, strict=True)))
        bases = {"address": 4096 - 64, "lane": 0, "column": 0}
        fields = {"length": 20, "columns": 1}
        await write_config(ctx, dut.config, 0, dut.descriptor.encode([], bases, fields))
        await put(ctx, dut.start, 0)
        await ctx.tick().repeat(100)
        assert ctx.get(dut.outside)
        assert ctx.get(dut.outstanding) == 0
        assert not ctx.get(dut.idle)

    simulate(dut, bench, memory.run, feed, limit=2_000)
    assert memory.bursts == ([(4096 - 64, 8)] if window == (0, 0) else [])


def test_storer_error():
    bench = StoreBench(fail=1)
    bases = {"address": 0, "lane": 0, "column": 0}
    bench.run(([(3, 3, 0, {"address": 1024})], bases, {"length": 4, "columns": 1}))
    assert bench.errors == 1
