"""cocotb tests of the issuer of steps."""

import cocotb
from cocotb_block import Bench, arch, seeds
from models import issue

from rowmesh.hw.flags import mask_word
from rowmesh.hw.issuer import Issuer, step_descriptor
from rowmesh.hw.layouts import step_layout

CONFIG, _ = arch()
LEVELS = CONFIG.nest_levels
DESCRIPTOR = step_descriptor(CONFIG)
WIDTHS = {name: step_layout(CONFIG)[name].shape.width for name in ("iact", "weight", "psum")}


def _program(random):
    """A random descriptor: loops, bases, values."""
    loops = []
    for level in range(random.randint(1, LEVELS)):
        outer = ((1 << LEVELS) - 1) & ~((2 << level) - 1)
        bound = random.choice((1, 1, 2, 3))
        strides = {
            name: random.randrange(-(1 << (width - 1)), 1 << (width - 1)) for name, width in DESCRIPTOR.outputs.items()
        }
        mask = random.choice((0, random.getrandbits(LEVELS) & outer))
        loops.append((bound, random.randint(1, bound), mask, strides))
    bases = {name: random.getrandbits(width) for name, width in DESCRIPTOR.outputs.items()}
    values = {}
    for field in DESCRIPTOR.fields:
        if field.name.endswith("_mask"):
            chosen = random.choice((None, [], random.sample(range(LEVELS), random.randint(1, 3))))
            values[field.name] = mask_word(LEVELS, chosen)
        else:
            values[field.name] = random.getrandbits(field.width)
    return loops, bases, values


def _expected(program):
    steps = issue(LEVELS, *program, CONFIG.edge_flags)
    for step in steps:
        for name, width in WIDTHS.items():
            step[name] &= (1 << width) - 1
    return steps


async def _start(dut):
    bench = Bench(dut)
    start, steps = bench.source("start", 1), bench.sink("o", step_layout(CONFIG))
    dut.config__valid.value = 0
    await bench.reset()
    return bench, start, steps


@cocotb.test()
async def masks_become_flags(dut):
    """Random loops and masks in both banks, the next descriptor written and started while one runs."""
    bench, start, steps = await _start(dut)
    expected, marks = [], []
    for number, random in enumerate(seeds(24)):
        bench.stall(random.choice((0.0, 0.3, 0.7)), steps)
        program = _program(random)
        if number >= 2:  # the bank's last user has to be done
            await bench.until(lambda: len(steps.items) >= marks[-2], 100000)
        await bench.configure(DESCRIPTOR.encode(*program), number % 2)
        start.send([number % 2])
        expected += _expected(program)
        marks.append(len(expected))
    await bench.until(lambda: len(steps.items) >= len(expected), 100000)
    await bench.run(30)
    assert steps.items == expected
    assert int(dut.idle.value) == 1


@cocotb.test()
async def one_step_a_cycle(dut):
    """The first step ``latency`` cycles after its start, then one a cycle, also between descriptors."""
    bench, start, steps = await _start(dut)
    random = next(seeds(1))
    loops = [
        (2, 1, 0b10, {"iact": 1}),
        (3, 3, 0, {"weight": 1}),
        (1, 1, 0, {}),
        (4, 2, 1 << 5, {}),
        (1, 1, 0, {}),
    ]
    loops.append((3, 3, 0, {"psum": 1}))
    program = (loops, {}, _program(random)[2])
    expected = _expected(program)
    for bank in (0, 1):
        await bench.configure(DESCRIPTOR.encode(*program), bank)
    assert int(dut.idle.value) == 1
    start.send([0, 1])
    await bench.until(lambda: len(steps.items) == 2 * len(expected), 1000)
    assert steps.items == expected * 2
    unit = Issuer(CONFIG)
    assert steps.cycles[0] - start.cycles[0] == unit.latency
    assert steps.cycles[-1] - steps.cycles[0] == 2 * len(expected) - 1


@cocotb.test()
async def a_blocked_array_is_reported(dut):
    """``blocked`` while a step waits, ``issued`` once a step, ``idle`` only when all have left the nest."""
    bench, start, steps = await _start(dut)
    program = ([(5, 5, 0, {"iact": 1})], {}, {})
    await bench.configure(DESCRIPTOR.encode(*program), 0)
    counts = {"issued": 0, "blocked": 0}

    def count():
        for name in counts:
            counts[name] += int(getattr(dut, name).value)

    bench.hooks.append(count)
    bench.stall(1.0, steps)
    start.send([0])
    await bench.run(40)
    assert counts["issued"] == 2  # the link holds two
    assert counts["blocked"] > 10
    assert int(dut.idle.value) == 0
    bench.stall(0.0, steps)
    await bench.until(lambda: len(steps.items) == 5, 50)
    assert counts["issued"] == 5
    assert int(dut.idle.value) == 1
