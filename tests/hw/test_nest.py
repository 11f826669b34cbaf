"""Whole loop nests against nested Python loops: random programs and random stalls."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from amaranth.sim import Simulator

from rowmesh.hw.nest import LoopNest

Loops = list[tuple[int, int, int, Mapping[str, int]]]
Step = tuple[int, int, int, dict[str, int]]  # bank, first, last, outputs

LEVELS = 5
OUTPUTS = {"a": 12, "b": 7}
MOST_STEPS = 150


def wrap(value: int, width: int) -> int:
    """Return ``value`` in two's complement of ``width`` bits."""
    return (value + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))


def nested(loops: Loops, bases: dict[str, int], levels: int, bank: int) -> Iterator[Step]:
    """Run the loops as Python does; the outermost is the last of the list."""
    loops = loops + [(1, 1, 0, {})] * (levels - len(loops))

    def run(level: int, first: int, last: int, values: dict[str, int]) -> Iterator[Step]:
        if level < 0:
            yield bank, first, last, {name: wrap(value, OUTPUTS[name]) for name, value in values.items()}
            return
        bound, final, mask, strides = loops[level]
        count = final if mask and mask & last == mask else bound
        for k in range(count):
            now = {name: value + k * strides.get(name, 0) for name, value in values.items()}
            yield from run(level - 1, first | (k == 0) << level, last | (k == count - 1) << level, now)

    yield from run(levels - 1, 0, 0, bases)


def draw(rng: random.Random) -> tuple[Loops, dict[str, int]]:
    """Draw a program of a bounded number of steps."""
    while True:
        loops: Loops = []
        steps = 1
        depth = rng.randint(1, LEVELS)
        for level in range(depth):
            bound, final = rng.choice((1, 2, 3, 7)), rng.randint(1, 4)
            outer = [k for k in range(level + 1, depth) if rng.random() < 0.5]
            strides = {name: rng.randint(-(1 << width - 1), (1 << width - 1) - 1) for name, width in OUTPUTS.items()}
            loops.append((bound, final, sum(1 << k for k in outer), strides))
            steps *= max(bound, final)
        if steps <= MOST_STEPS:
            return loops, {
                name: rng.randint(-(1 << width - 1), (1 << width - 1) - 1) for name, width in OUTPUTS.items()
            }


def simulate(segment: int, seed: int, stall: float, programs: int) -> None:
    """Run random programs in alternating banks; the next one is written while the previous one runs."""
    rng = random.Random(seed)
    dut: Any = LoopNest(LEVELS, OUTPUTS, segment)
    drawn = [draw(rng) for _ in range(programs)]
    expected = [list(nested(loops, bases, LEVELS, n % 2)) for n, (loops, bases) in enumerate(drawn)]
    limit = 200 + int((sum(map(len, expected)) + 60 * programs) / (1 - stall)) * 3
    done: list[int] = []
    bubbles: list[int] = []

    async def configure(ctx: Any) -> None:
        for n, (loops, bases) in enumerate(drawn):
            await ctx.tick().until(dut.start.ready)
            while n - len(done) >= 2:  # the bank is in use
                await ctx.tick()
            for address, word in dut.program(LEVELS, OUTPUTS, loops, bases).items():
                ctx.set(dut.config.valid, 1)
                ctx.set(dut.config.bank, n % 2)
                ctx.set(dut.config.address, address)
                ctx.set(dut.config.data, word)
                await ctx.tick()
            ctx.set(dut.config.valid, 0)
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.start.valid, 1)
            ctx.set(dut.start.payload, n % 2)
            await ctx.tick().until(dut.start.ready)
            ctx.set(dut.start.valid, 0)

    async def collect(ctx: Any) -> None:
        cycles = 0
        for steps in expected:
            for position, step in enumerate(steps):
                while True:
                    ctx.set(dut.o.ready, ready := rng.random() >= stall)
                    _, _, valid, token = await ctx.tick().sample(dut.o.valid, dut.o.payload)
                    cycles += 1
                    assert cycles < limit, "no progress"
                    if valid and ready:
                        break
                    if not valid and position:
                        bubbles.append(position)
                got = token.bank, token.first, token.last, {name: token.out[name] for name in OUTPUTS}
                assert got == step
            done.append(len(steps))
        ctx.set(dut.o.ready, 1)
        for _ in range(20):
            _, _, valid = await ctx.tick().sample(dut.o.valid)
            assert not valid, "a step too many"

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(configure, background=True)
    simulator.add_testbench(collect)
    simulator.run()
    assert len(done) == programs
    assert not bubbles


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_nest(seed: int, stall: float) -> None:
    simulate(segment=1 + seed % 4, seed=seed, stall=stall, programs=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_nest_many(seed: int) -> None:
    simulate(segment=1 + seed % 5, seed=seed, stall=0.1 * (seed % 9), programs=8)


@pytest.mark.parametrize("segment", [1, 2, 4])
def test_latency_and_queue(segment: int) -> None:
    """The first step comes after ``latency`` cycles; a queued descriptor follows without a bubble."""
    dut: Any = LoopNest(LEVELS, OUTPUTS, segment)
    loops: Loops = [(3, 3, 0, {"a": 1}), (1, 1, 0, {}), (2, 1, 0b1000, {"a": 3}), (2, 2, 0, {"b": 1})]
    steps = len(list(nested(loops, {"a": 0, "b": 0}, LEVELS, 0)))
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        for bank in range(2):
            for address, word in dut.program(LEVELS, OUTPUTS, loops, {}).items():
                ctx.set(dut.config.valid, 1)
                ctx.set(dut.config.bank, bank)
                ctx.set(dut.config.address, address)
                ctx.set(dut.config.data, word)
                await ctx.tick()
        ctx.set(dut.config.valid, 0)
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.start.valid, 1)
        started = 0
        for cycle in range(dut.latency + 2 * steps + 5):
            ctx.set(dut.start.payload, started & 1)
            _, _, ready, valid = await ctx.tick().sample(dut.start.ready, dut.o.valid)
            started += ready & (started < 2)
            ctx.set(dut.start.valid, started < 2)
            if valid:
                seen.append(cycle)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == list(range(dut.latency, dut.latency + 2 * steps))


def test_program_refuses() -> None:
    with pytest.raises(ValueError, match="a nest of 2 levels cannot run 3 loops"):
        LoopNest.program(2, OUTPUTS, [(1, 1, 0, {})] * 3, {})
    with pytest.raises(ValueError, match="loop bound must be from 1 to 65536, not 0"):
        LoopNest.program(2, OUTPUTS, [(0, 1, 0, {})], {})
    with pytest.raises(ValueError, match="stride of b must fit 7 bits, not 200"):
        LoopNest.program(2, OUTPUTS, [(1, 1, 0, {"b": 200})], {})
