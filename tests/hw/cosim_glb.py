"""cocotb tests of a bank of the global buffer with its reader."""

from collections import deque

import cocotb
from cocotb_block import Bench, arch, seeds
from models import holds, nest

from rowmesh.hw.descriptor import Engine
from rowmesh.hw.flags import mask_word
from rowmesh.hw.glb import GlobalBank, reader_descriptor
from rowmesh.hw.layouts import flit_layout

CONFIG, SETTINGS = arch()
ENGINE = Engine[SETTINGS["engine"]]
CLIP = ENGINE is Engine.READ_IACT
DEPTH = CONFIG.glb_iact_flits if CLIP else CONFIG.glb_weight_flits
LEVELS, LANES = CONFIG.nest_levels, CONFIG.flit_words
DESCRIPTOR = reader_descriptor(CONFIG, ENGINE)
TAG = (1 << CONFIG.tag_width) - 1


class Bank:
    """A bench with the fill port as the DMA drives it: words and skipped slots, only where there is room."""

    def __init__(self, dut):
        self.dut = dut
        self.bench = Bench(dut)
        self.start = self.bench.source("start", 1)
        self.fill = self.bench.source("fill", CONFIG.axi_data_width)
        self.out = self.bench.sink("o", flit_layout(CONFIG))
        self.slots = deque()
        self.held = 0
        self.read = self.injected = self.freed = self.starved = 0
        dut.config__valid.value = 0
        if CLIP:
            dut.skip.value = 0
            self.bench.drivers.append(self._skip)
        self.bench.hooks.append(self._count)
        self.skipping = 0

    def load(self, slots):
        """Queue slots: words, or None for one that is skipped."""
        if CLIP:
            self.slots.extend(slots)
        else:
            self.fill.send(slots)

    def _skip(self):
        self.skipping = 0
        if self.fill.done:
            while self.slots and self.slots[0] is None and self.held + self.skipping < DEPTH and self.skipping < 200:
                self.slots.popleft()
                self.skipping += 1
                if self.bench.random.random() < 0.2:
                    break
            if not self.skipping:
                while self.slots and self.slots[0] is not None:
                    self.fill.send([self.slots.popleft()])
        self.dut.skip.value = self.skipping

    def _count(self):
        self.read += int(self.dut.read.value)
        self.injected += int(self.dut.injected.value)
        freed = int(self.dut.freed.value)
        self.starved += int(self.dut.starved.value)
        self.freed += freed
        taken = len(self.fill.cycles) - self.taken if hasattr(self, "taken") else len(self.fill.cycles)
        self.taken = len(self.fill.cycles)
        self.held += self.skipping + taken - freed
        assert 0 <= self.held <= DEPTH

    async def reset(self):
        await self.bench.reset()


class Golden:
    """Slots as the reader sees them, over several descriptors."""

    def __init__(self):
        self.slots = []
        self.head = self.origin = 0
        self.read = self.injected = 0

    def run(self, loops, bases, values):
        flits = []
        for token in nest(LEVELS, loops, bases):

            def last(name, token=token):
                return holds(values.get(name, 0), token.last, LEVELS)

            low = values["low_first"] if holds(values["first_mask"], token.first, LEVELS) else values["low"]
            high = values["high_edge" if last("edge_mask") else "high_last"] if last("last_mask") else values["high"]
            valid = range(low, high + 1)
            inside = {
                k: not CLIP
                or (
                    0 <= token.out["y"] < values["height"]
                    and 0 <= token.out["block"] < values["blocks"]
                    and 0 <= token.out["x"] + k * values["lanes_along_x"] < values["width"]
                )
                for k in valid
            }
            word = 0
            if any(inside.values()):
                word = self.slots[self.origin + token.out["address"]]
                assert word is not None, "the program reads a skipped slot"
            size = CONFIG.data_width
            flits.append(
                {
                    "data": {k: (word >> (size * k)) & ((1 << size) - 1) if inside[k] else 0 for k in valid},
                    "low": low,
                    "high": high,
                    "phase": token.out["phase"] & TAG,
                    "index": token.out["index"] & TAG,
                    "edge": sum(last(f"edge{k}_mask") << k for k in range(CONFIG.edge_flags)),
                }
            )
            self.read += sum(inside.values())
            self.injected += len(valid)
            if last("release_mask"):
                self.head += values["release"]
            if last("sync_mask"):
                self.origin = self.head
        return flits


def _valid_part(flit):
    data = flit["data"]
    return flit | {"data": {k: data[k] for k in range(flit["low"], flit["high"] + 1)}}


def _lanes(random):
    lows, highs = (sorted(random.choices(range(LANES), k=2)) for _ in range(2))
    middle = random.randrange(LANES)
    lows, highs = [min(low, middle) for low in lows], [max(high, middle) for high in highs]
    random.shuffle(lows)
    low, low_first = lows
    high, high_last = highs
    return {
        "low": low,
        "low_first": low_first,
        "high": high,
        "high_last": high_last,
        "high_edge": random.randint(middle, LANES - 1),
    }


def _mask(random, *choices):
    return mask_word(LEVELS, random.choice((None, *choices)))


def _program(random):
    """Rows of a padded tensor, each read several times and then released; None for the slots outside."""
    along = random.getrandbits(1) if CLIP else 0
    step = LANES if along else 1
    flits = random.randint(1, 5)
    width = random.randint((flits - 1) * step + 1, flits * step)
    height, blocks, repeats = random.randint(1, 4), random.randint(1, 2), random.randint(1, 3)
    pad_x, top, bottom = (random.randint(0, 2), random.randint(0, 2), random.randint(0, 2)) if CLIP else (0, 0, 0)
    # x, times, row, block; a row's slots are its flits, x outside has none
    tags = {name: {"phase": random.randint(-3, 3), "index": random.randint(-3, 3)} for name in "xtrb"}
    loops = [
        (
            flits + 2 * pad_x,
            random.randint(1, flits + 2 * pad_x),
            _lower(random),
            {"address": 1, "x": step} | tags["x"],
        ),
        (repeats, repeats, 0, dict(tags["t"])),
        (top + height + bottom, top + height + bottom, 0, {"y": 1} | tags["r"]),
        (blocks, blocks, 0, {"block": 1} | tags["b"]),
    ]
    if not CLIP:
        loops = [(a, b, c, {k: v for k, v in d.items() if k not in "xy" and k != "block"}) for a, b, c, d in loops]
    bases = {"address": -pad_x, "phase": random.randint(0, 9), "index": random.randint(0, 9)}
    bases |= {"x": -pad_x * step, "y": -top, "block": 0} if CLIP else {}
    values = _lanes(random) | {
        "release": flits,
        "release_mask": mask_word(LEVELS, [0, 1]),
        "sync_mask": mask_word(LEVELS, [0, 1]),
        "first_mask": _mask(random, [0], [0, 1], []),
        "last_mask": _mask(random, [0], [0, 2], [2, 3]),
        "edge_mask": _mask(random, [2], [3], [2, 3], []),
        "edge0_mask": _mask(random, [2], [2, 3]),
        "edge1_mask": _mask(random, [0], [3], []),
    }
    if CLIP:
        values |= {"width": width, "height": height, "blocks": blocks, "lanes_along_x": along}
    slots = []
    for _ in range(blocks):
        for y in range(-top, height + bottom):
            row = [random.getrandbits(CONFIG.axi_data_width) for _ in range(flits)]
            slots += row if 0 <= y < height else [None] * flits
    return (loops, bases, values), slots


def _lower(random):
    return random.choice((0, 1 << 2, 1 << 1 | 1 << 3))


async def _run(bank, golden, program, slots, number, load_first=False, load_late=False):
    await bank.bench.configure(DESCRIPTOR.encode(*program), number % 2)
    golden.slots += slots
    expected = golden.run(*program)
    if not load_late:
        bank.load(slots)
    if load_first:
        await bank.bench.until(lambda: bank.fill.done and not bank.slots, 1000)
    bank.start.send([number % 2])
    if load_late:  # the reader waits for its first flit
        await bank.bench.run(2 * GlobalBank(CONFIG, ENGINE).latency)
        bank.load(slots)
    await bank.bench.until(lambda: len(bank.out.items) >= len(expected), 20000)
    await bank.bench.run(8)
    assert [_valid_part(flit) for flit in bank.out.items] == expected
    assert int(bank.dut.idle.value) == 1
    assert bank.held == len(golden.slots) - golden.head
    return expected


@cocotb.test()
async def random_programs(dut):
    """Padding in both lane modes, lane limits, edges, releases and skipped slots, all sides stalling."""
    bank = Bank(dut)
    await bank.reset()
    golden = Golden()
    padded = 0
    for number, random in enumerate(seeds(30)):
        bank.bench.random_stalls()
        expected = await _run(bank, golden, *_program(random), number, load_late=number % 3 == 2)
        padded += sum(not any(flit["data"].values()) for flit in expected)
        bank.bench.clear()
        bank.taken = 0
    assert bank.read == golden.read
    assert bank.injected == golden.injected
    assert bank.freed == golden.head > 2 * DEPTH
    assert (padded > 50) == CLIP
    assert bank.starved


def _plain(count, times):
    loops = [(count, count, 0, {"address": 1, "index": 1}), (times, times, 0, {})]
    values = {
        "low": 0,
        "high": LANES - 1,
        "low_first": 0,
        "high_last": 0,
        "edge_mask": 0,
        "first_mask": 0,
        "last_mask": 0,
    }
    values |= {"release": 1, "release_mask": mask_word(LEVELS, [1]), "sync_mask": mask_word(LEVELS, [0, 1])}
    if CLIP:
        values |= {"width": 1, "height": 1, "blocks": 1, "lanes_along_x": 0}
    return loops, {}, values


@cocotb.test()
async def one_flit_a_cycle(dut):
    """Words that are there leave one a cycle; the first one ``latency`` cycles after the start."""
    bank = Bank(dut)
    await bank.reset()
    golden = Golden()
    random = next(seeds(1))
    slots = [random.getrandbits(CONFIG.axi_data_width) for _ in range(DEPTH)]
    await _run(bank, golden, _plain(DEPTH, 2), slots, 0, load_first=True)
    assert bank.out.cycles[0] - bank.start.cycles[0] == GlobalBank(CONFIG, ENGINE).latency
    assert bank.out.cycles[-1] - bank.out.cycles[0] == 2 * DEPTH - 1


@cocotb.test()
async def released_slots_are_refilled_at_once(dut):
    """Three times the depth streams through at one flit a cycle: fills follow releases word by word."""
    bank = Bank(dut)
    await bank.reset()
    golden = Golden()
    random = next(seeds(1))
    count = 3 * DEPTH
    loops, bases, values = _plain(count, 1)
    loops = [(count, count, 0, {"index": 1})]
    values["release_mask"] = values["sync_mask"] = mask_word(LEVELS, [])
    slots = [random.getrandbits(CONFIG.axi_data_width) for _ in range(count)]
    await _run(bank, golden, (loops, bases, values), slots, 1)
    assert bank.out.cycles[-1] - bank.out.cycles[0] == count - 1


@cocotb.test()
async def a_full_bank_refuses_a_fill(dut):
    """Nothing is overwritten: the word behind the last slot waits for a release."""
    bank = Bank(dut)
    await bank.reset()
    golden = Golden()
    random = next(seeds(1))
    slots = [random.getrandbits(CONFIG.axi_data_width) for _ in range(DEPTH + 3)]
    bank.fill.send(slots)
    await bank.bench.run(DEPTH + 20)
    assert len(bank.fill.queue) == 3
    golden.slots += slots
    loops, bases, values = _plain(DEPTH + 3, 1)
    loops = [(DEPTH + 3, DEPTH + 3, 0, {})]
    values["release_mask"] = values["sync_mask"] = mask_word(LEVELS, [])
    await _run(bank, golden, (loops, bases, values), [], 0)
