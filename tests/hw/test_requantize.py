import gc
import math
import random
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from amaranth.hdl import UnusedElaboratable
from amaranth.sim import Simulator

from rowmesh.hw.requantize import DelayLine, Requantizer
from rowmesh.sw.workload import golden

Case = tuple[int, int, int]  # psum, bias, bits of the scale


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def run(
    acc_width: int,
    data_width: int,
    cases: list[Case],
    zero_point: int,
    low: int,
    high: int,
) -> list[tuple[int, int]]:
    """Outputs (word, raw) of each case, in order, taken ``latency`` cycles after it entered."""
    dut = Requantizer(acc_width, data_width)
    got: list[tuple[int, int]] = []

    async def bench(ctx):
        ctx.set(dut.zero_point, zero_point)
        ctx.set(dut.clamp_low, low)
        ctx.set(dut.clamp_high, high)
        for step in range(len(cases) + dut.latency):
            psum, bias, scale = cases[step] if step < len(cases) else (0, 0, bits(1.0))
            ctx.set(dut.psum, psum)
            ctx.set(dut.bias, bias)
            ctx.set(dut.scale, scale)
            if step >= dut.latency:
                got.append((ctx.get(dut.word), ctx.get(dut.raw)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until((len(cases) + 100) * 1e-5)
    assert len(got) == len(cases), "timeout"
    return got


def expected(acc_width: int, cases: list[Case], zero_point: int, low: int, high: int) -> list[tuple[int, int]]:
    raw = golden.wrap(np.array([psum + bias for psum, bias, _ in cases]), acc_width)
    scale = np.array([scale for *_, scale in cases], np.uint32).view(np.float32)
    word = golden.requantize(raw, scale, zero_point, low, high)
    return list(zip(word.tolist(), raw.tolist(), strict=True))


def check(acc_width, data_width, cases, zero_point=0, low=None, high=None) -> list[int]:
    low = -(1 << (data_width - 1)) if low is None else low
    high = (1 << (data_width - 1)) - 1 if high is None else high
    got = run(acc_width, data_width, cases, zero_point, low, high)
    want = expected(acc_width, cases, zero_point, low, high)
    wrong = [
        (case, np.uint32(case[2]).view(np.float32), g, w) for case, g, w in zip(cases, got, want, strict=True) if g != w
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)}, first (case, scale, got, want): {wrong[:3]}"
    return [word for word, _ in got]


def random_cases(rng: random.Random, acc_width: int, data_width: int, count: int) -> Iterator[Case]:
    """Sums of every magnitude, with scales that put most results within and around the clamp limits."""
    for _ in range(count):
        total = rng.getrandbits(rng.randint(1, acc_width - 1)) * rng.choice((-1, 1))
        bias = rng.getrandbits(rng.randint(1, acc_width - 1)) * rng.choice((-1, 1))
        psum = int(golden.wrap(total - bias, acc_width))
        target = rng.uniform(0.0, 1.5 * (1 << data_width)) if rng.random() < 0.9 else 10 ** rng.uniform(-30, 30)
        scale = min(max(target / max(1, abs(total)), 1e-37), 3e38)
        yield psum, bias, bits(scale)


def half_cases(rng: random.Random, acc_width: int, data_width: int, count: int) -> Iterator[Case]:
    """Products that are exactly halves or whole, and their float32 neighbours."""
    for _ in range(count):
        power = rng.randint(1, acc_width - data_width - 2)
        odd = rng.randrange(1 << data_width) * 2 + 1
        total = (odd << (power - 1)) * rng.choice((-1, 1))
        yield total, 0, bits(2.0**-power) + rng.choice((-1, 0, 0, 1))


def rounding_cases(rng: random.Random, count: int) -> Iterator[Case]:
    """Sums halfway between two float32, whose rounding decides which side of a half the product falls."""
    for _ in range(count):
        extra = rng.randint(1, 7)
        kept = (1 << 23) | rng.getrandbits(23) if rng.random() < 0.7 else (1 << 24) - 1
        total = (kept << extra) + (1 << (extra - 1)) + rng.choice((-1, 0, 0, 1))
        total = min(total, (1 << 31) - 1) * rng.choice((-1, 1))
        goal = rng.randrange(-127, 127) + 0.5
        yield total, 0, bits(abs(np.float32(goal) / np.float32(total))) + rng.randint(-1, 1)


def tie_cases(goals: list[float]) -> Iterator[Case]:
    """Products whose rounding to float32 decides between a goal and its neighbour: ties, and one bit beside.

    The exact product is an integer of 25 to 27 bits near the goal, split into two factors that are exact.
    """
    for goal in goals:
        fraction, exponent = math.frexp(goal)
        nearest = int(fraction * 2**24)
        for extra in (1, 2, 3):
            for delta in range(1 - (1 << extra), 1 << extra, 1 if extra < 3 else 2):
                number = (nearest << extra) + delta
                for total in range(15, 3000):
                    if number % total == 0 and number // total < 2**24:
                        scale = (number // total) * 2.0 ** (exponent - 24 - extra)
                        yield total, 0, bits(scale)
                        yield -total, 0, bits(scale)
                        break


CORNER_SCALES = [
    bits(v) for v in (1.0, 0.5, 0.25, 2.0**-31, 2.0**-32, 2.0**-33, 1 - 2**-24, 1 + 2**-23, 0.1, 1e-3, 1e-10)
] + [0x00800000, 0x00800001, 0x00000001, 0x7F7FFFFF, 0x7F000000]  # least normal, a subnormal, greatest


def corner_cases(acc_width: int) -> list[Case]:
    top = 1 << (acc_width - 1)
    sums = [
        0,
        1,
        2,
        3,
        5,
        127,
        128,
        255,
        256,
        257,
        top - 1,
        top // 2,
        top // 2 + 1,
        (1 << 23) - 1,
        (1 << 22) + 1,
    ]
    values = sorted({s for v in sums for s in (v, -v)} | {-top})
    cases = [(value, 0, scale) for value in values for scale in CORNER_SCALES]
    wraps = [(top - 1, 1), (-top, -1), (top - 1, top - 1), (-top, -top), (-top, top - 1)]
    return cases + [(psum, bias, bits(2.0 ** (8 - acc_width))) for psum, bias in wraps]


@pytest.mark.parametrize(("acc_width", "data_width"), [(32, 8), (24, 8), (32, 16), (24, 16)])
def test_random_values_match_golden(acc_width, data_width):
    rng = random.Random(acc_width * 100 + data_width)
    words = check(acc_width, data_width, list(random_cases(rng, acc_width, data_width, 400)))
    limit = (1 << (data_width - 1)) - 1
    inside = [word for word in words if -limit <= word < limit]
    assert len(set(inside)) > 60, "the stimulus must not saturate everywhere"


@pytest.mark.parametrize(("acc_width", "data_width"), [(32, 8), (24, 16)])
def test_corners_match_golden(acc_width, data_width):
    check(acc_width, data_width, corner_cases(acc_width))


@pytest.mark.parametrize("data_width", [8, 16])
def test_halves_round_to_even(data_width):
    rng = random.Random(data_width)
    check(32, data_width, list(half_cases(rng, 32, data_width, 200)))
    exact = [(total, 0, bits(0.5)) for total in (1, 3, 5, 7, -1, -3, -5, -7)]
    assert check(32, data_width, exact) == [0, 2, 2, 4, 0, -2, -2, -4]


@pytest.mark.parametrize("data_width", [8, 16])
def test_product_rounds_half_to_even(data_width):
    goals = [k + 0.5 for k in range(0, 60, 5)] + [2.0**k for k in range(data_width)]
    cases = list(tie_cases(goals))
    words = check(32, data_width, cases)
    exact = [int(np.rint(total * float(np.uint32(scale).view(np.float32)))) for total, _, scale in cases]
    assert sum(word != other for word, other in zip(words, exact, strict=True)) > 20


def test_conversion_to_float32_rounds_before_the_product():
    cases = list(rounding_cases(random.Random(5), 300))
    check(32, 8, cases)
    single = expected(32, cases, 0, -128, 127)
    exact = [
        int(np.clip(np.rint(float(total) * float(np.uint32(scale).view(np.float32))), -128, 127))
        for total, _, scale in cases
    ]
    assert sum(word != other for (word, _), other in zip(single, exact, strict=True)) > 20, (
        "the stimulus must tell float32 from exact arithmetic"
    )


@pytest.mark.parametrize(
    ("zero_point", "low", "high"),
    [(-128, -128, 127), (127, -128, 127), (17, 17, 127), (-5, -100, 63), (3, 40, 40)],
)
def test_zero_point_and_clamp(zero_point, low, high):
    rng = random.Random(zero_point)
    check(32, 8, list(random_cases(rng, 32, 8, 200)) + corner_cases(32)[::5], zero_point, low, high)


def test_zero_gives_the_zero_point():
    cases = [(0, 0, scale) for scale in CORNER_SCALES] + [(7, -7, bits(1e30))]
    assert set(check(32, 8, cases, zero_point=-9)) == {-9}


def test_zero_point_at_16_bits():
    rng = random.Random(16)
    cases = list(random_cases(rng, 32, 16, 200)) + corner_cases(32)[::5]
    check(32, 16, cases, zero_point=-32768)
    check(32, 16, cases, zero_point=32767)


def test_latency_is_the_number_of_stages():
    dut = Requantizer(32, 8)
    assert dut.latency == len(dut.STAGES)
    seen = []

    async def bench(ctx):
        ctx.set(dut.clamp_low, -128)
        ctx.set(dut.clamp_high, 127)
        ctx.set(dut.scale, bits(1.0))
        await ctx.tick().repeat(2 * dut.latency)
        ctx.set(dut.psum, 99)
        for cycle in range(2 * dut.latency):
            if ctx.get(dut.word) == 99 and ctx.get(dut.raw) == 99:
                seen.append(cycle)
            elif 99 in (ctx.get(dut.word), ctx.get(dut.raw)):
                seen.append(-1)
            await ctx.tick()
            ctx.set(dut.psum, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(1e-4)
    assert seen == [dut.latency]


@pytest.mark.parametrize("depth", [2, 3, 5, 13, 17])
def test_delay_line(depth):
    dut = DelayLine(8, depth)
    rng = random.Random(depth)
    sent: list[int] = []

    async def bench(ctx):
        for _ in range(120):
            word = rng.getrandbits(8)
            ctx.set(dut.i, word)
            if len(sent) >= dut.latency:
                assert ctx.get(dut.o) == sent[len(sent) - dut.latency]
            await ctx.tick()
            sent.append(word)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run_until(1e-3)
    assert len(sent) > depth + 40


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Requantizer(32, 3), r"data_width must be from 4 to 16, not 3"),
        (lambda: Requantizer(33, 8), r"acc_width must be from data_width \(8\) to 32, not 33"),
        (lambda: DelayLine(8, 1), r"depth must be at least 2, not 1"),
    ],
)
def test_refuses(build, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)  # of the component that refused
        with pytest.raises(ValueError, match=message) as refusal:
            build()
        del refusal
        gc.collect()
