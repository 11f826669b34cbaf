"""The buffet in simulation, at sizes beyond the proofs, against a Python list."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from rowmesh.hw.buffet import Buffet

CASES = {
    "iact16": {"depth": 16, "release_width": 5},
    "iact12": {"depth": 12, "release_width": 4},
    "iact12-exact": {"depth": 12, "release_width": 4, "round_up": False},
    "weight224-block": {"depth": 224, "release_width": 4, "block": True},
    "glb37-block-skip": {"depth": 37, "release_width": 6, "block": True, "round_up": False, "skip_width": 3},
    "glb37-skip": {"depth": 37, "release_width": 6, "skip_width": 3},
    "one": {"depth": 1, "release_width": 1},
}


def run(parameters: dict[str, Any], seed: int, cycles: int, busy: tuple[float, float]) -> dict[str, int]:
    """Drive both sides at random against a list of words; return how often interesting things happened."""
    rng = random.Random(seed)
    dut: Any = Buffet(16, **parameters)
    depth = parameters["depth"]
    most = (1 << parameters["release_width"]) - 1
    words: list[int | None] = []  # from the origin to the tail; None is a skipped slot
    lag = 0
    filled = 0
    hits = dict.fromkeys(("read", "full", "waited", "synced", "beyond", "skipped"), 0)

    async def bench(ctx: Any) -> None:
        nonlocal lag, filled
        answer: int | None = None
        for _ in range(cycles):
            held = len(words) - lag
            fill = rng.random() < busy[0]
            skip = 0
            if "skip_width" in parameters and rng.random() < 0.1:
                fill, skip = False, rng.randint(0, min((1 << parameters["skip_width"]) - 1, depth - held))
            word = rng.getrandbits(16)
            ctx.set(dut.fill.valid, fill)
            ctx.set(dut.fill.payload, word)
            ctx.set(dut.skip, skip)
            offset = rng.randint(lag, depth - 1) if lag < depth else lag % depth
            readable = lag <= offset < len(words)
            release = rng.randint(0, min(most, held, depth - lag)) if rng.random() < 0.5 else 0
            sync = rng.random() < 0.2 or lag + release == depth
            enable = readable and rng.random() < busy[1]
            quiet = False
            if not enable and rng.random() < busy[1] * 0.3:
                enable = quiet = True
            ctx.set(dut.offset, offset)
            ctx.set(dut.release, release)
            ctx.set(dut.sync, sync)
            ctx.set(dut.quiet, quiet)
            ctx.set(dut.enable, enable)
            answer = None
            assert ctx.get(dut.held) == held
            assert ctx.get(dut.fill.ready) == (held < depth)
            assert ctx.get(dut.available) == (offset < len(words))
            assert ctx.get(dut.covered) == (release <= held)
            hits["full"] += fill and held == depth
            hits["waited"] += offset >= len(words)
            hits["beyond"] += len(words) > depth
            hits["skipped"] += skip
            if enable and not quiet:
                answer = words[offset]
                hits["read"] += 1
            if fill and held < depth:
                words.append(word)
                filled += 1
            words.extend([None] * skip)
            if enable:
                lag += release
                if sync:
                    del words[:lag]
                    lag = 0
                    hits["synced"] += 1
            await ctx.tick()
            if answer is not None:
                assert ctx.get(dut.response) == answer

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert filled > 3 * depth, "the memory did not wrap"
    return hits


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("busy", [(0.9, 0.9), (0.9, 0.3), (0.4, 0.9)], ids=["even", "full", "empty"])
def test_random(case: str, busy: tuple[float, float]) -> None:
    cycles = 1500 if CASES[case]["depth"] < 100 else 4000
    hits = run(CASES[case], seed=5, cycles=cycles, busy=busy)
    assert hits["read"]
    assert hits["synced"]
    assert hits["waited"]
    assert ("skip_width" in CASES[case]) == bool(hits["skipped"])


def test_next_tile_beside_the_old() -> None:
    """A tile released word by word makes room for the next one before the origin has moved.

    The words from the origin to the tail are then more than the depth.
    """
    dut: Any = Buffet(8, 7, release_width=1)

    async def bench(ctx: Any) -> None:
        async def fill(word: int) -> None:
            ctx.set(dut.fill.valid, 1)
            ctx.set(dut.fill.payload, word)
            await ctx.tick().until(dut.fill.ready)
            ctx.set(dut.fill.valid, 0)

        for word in range(7):
            await fill(word)
        for offset in range(4):
            ctx.set(dut.offset, offset)
            assert ctx.get(dut.available)
            ctx.set(dut.enable, 1)
            ctx.set(dut.release, 1)
            ctx.set(dut.sync, offset == 3)
            await ctx.tick()
            assert ctx.get(dut.response) == offset
            ctx.set(dut.enable, 0)
            await fill(7 + offset)
        for offset in range(4):
            ctx.set(dut.offset, offset)
            ctx.set(dut.enable, 1)
            ctx.set(dut.sync, offset == 3)
            await ctx.tick()
            assert ctx.get(dut.response) == 4 + offset

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
