"""cocotb tests of a psum bank."""

from itertools import pairwise

import cocotb
from cocotb_block import Bench, arch, seeds
from models import wrap

from rowmesh.hw.layouts import psum_layout
from rowmesh.hw.psum_bank import BANK_EVENTS, PsumBank

CONFIG, _ = arch()
DEPTH = CONFIG.psum_bank_words


def _available(dut):
    """Whether the word at the offset can be read now."""
    return int(dut.offset.value) < int(dut.finals.value) and not int(dut.busy.value)


class Bank:
    """A bench with the chain's stream and a model of the drain, which reads and frees at random."""

    def __init__(self, dut, seed=0):
        self.bench = Bench(dut, seed)
        self.dut = dut
        self.source = self.bench.source("i", psum_layout(CONFIG))
        self.values = []
        """Word by word in fill order: the final value, or None for a void slot."""
        self.head = 0
        self.reads = 0
        self.counts = dict.fromkeys(BANK_EVENTS, 0)
        self.busy = 0.5
        """Probability of a cycle in which the drain asks for something."""
        self.final_cycles = {}
        self.unread = set()
        self._expected = None
        for name in ("offset", "enable", "free", "release"):
            getattr(dut, name).value = 0
        self.bench.hooks.append(self._count)
        self.bench.drivers.append(self._ask)
        self.bench.hooks.insert(0, self._drain)

    def _ask(self):
        """After the edge: choose what to look at; enable comes when ``finals`` and ``busy`` have settled."""
        random, dut = self.bench.random, self.dut
        dut.enable.value = 0
        dut.free.value = 0
        self.asking = random.random() < self.busy
        left = len(self.values) - self.head
        self.offset = random.randrange(min(DEPTH, left + 2)) if left else random.randrange(DEPTH)
        self.release = random.randint(0, min(DEPTH, random.choice((1, 3, left + 1))))
        dut.offset.value = self.offset
        dut.release.value = self.release

    def _drain(self):
        dut = self.dut
        if self._expected is not None:
            place, expected = self._expected
            response = wrap(dut.response.value.to_unsigned(), CONFIG.acc_width)
            assert expected is None or response == expected, f"word {place}: {response}, not {expected}"
            self._expected = None
        if self.asking and _available(dut):
            place = self.head + self.offset
            assert place < len(self.values), f"offset {self.offset} is available, but nothing was sent there"
            dut.enable.value = 1
            self._expected = (place, self.values[place])
            self.unread.discard(place)
            self.reads += 1
        # free only what was read or is read in this cycle, so that every word is checked
        done = self.head
        while done < len(self.values) and done not in self.unread:
            done += 1
        if self.asking and 0 < self.release <= done - self.head and self.release <= int(dut.finals.value):
            dut.free.value = 1
            self.head += self.release

    def _count(self):
        # `drain` follows enable, which was written just now: it is counted as reads
        events = int(self.dut.events.value)
        for number, name in enumerate(BANK_EVENTS):
            self.counts[name] += events >> number & 1

    def send(self, random, size, passes, void=0.2):
        """Queue a tile: every pass in the fill order."""
        base = len(self.values)
        slots = [random.random() >= void for _ in range(size)]
        totals = [0] * size
        items = []
        for number in range(passes):
            for k, real in enumerate(slots):
                value = random.getrandbits(CONFIG.acc_width) if real else 0
                totals[k] = wrap(totals[k] + value, CONFIG.acc_width)
                flags = {
                    "first": number == 0,
                    "last": number == passes - 1,
                    "start": k == 0,
                    "void": not real,
                }
                items.append({"value": value, **flags})
        self.source.send(items)
        self.values += [total if real else None for total, real in zip(totals, slots, strict=True)]
        self.unread |= set(range(base, base + size))
        real = sum(slots)
        return real * passes, real * (passes - 1)


async def _start(dut):
    bank = Bank(dut)
    await bank.bench.reset()
    return bank


@cocotb.test()
async def random_tiles(dut):
    """Tiles of all sizes over one to four passes, drained concurrently in any order: every word exact."""
    bank = await _start(dut)
    writes = reads = 0
    for random in seeds(8):
        bank.bench.stall(random.choice((0.0, 0.3, 0.7)))
        bank.busy = random.choice((0.3, 0.8, 1.0))
        for _ in range(8):
            size = random.choice((1, 2, 3, DEPTH, random.randint(1, DEPTH), random.randint(1, DEPTH // 2)))
            w, r = bank.send(random, size, random.randint(1, 4))
            writes, reads = writes + w, reads + r
        await bank.bench.until(lambda: bank.head == len(bank.values), 60000)
    assert bank.counts["write"] == writes
    assert bank.counts["read"] == reads
    assert len(bank.values) > 5 * DEPTH


@cocotb.test()
async def one_update_a_cycle(dut):
    """Passes over tiles take one psum a cycle, also from tile to tile."""
    for size in (1, 2, 3, 5, DEPTH // 2):
        bank = await _start(dut)
        bank.busy = 0.0
        random = next(seeds(1))
        for _ in range(2):
            bank.send(random, size, 6, void=0.0)
        await bank.bench.until(lambda bank=bank: bank.source.done, 1000)
        cycles = bank.source.cycles
        assert cycles[-1] - cycles[0] == 12 * size - 1, f"tiles of {size}"
        bank.busy = 1.0
        await bank.bench.until(lambda bank=bank: bank.head == len(bank.values), 20000)


@cocotb.test()
async def a_short_tile_never_waits(dut):
    """The same word again, or every second one: an update a cycle, and the sum is right."""
    for size in (1, 2):
        bank = await _start(dut)
        bank.busy = 0.0
        random = next(seeds(1))
        bank.send(random, size, 10, void=0.0)
        await bank.bench.until(lambda bank=bank: bank.source.done, 100)
        cycles = bank.source.cycles
        assert {b - a for a, b in pairwise(cycles)} == {1}
        bank.busy = 1.0
        await bank.bench.until(lambda bank=bank, size=size: bank.head == size, 200)


@cocotb.test()
async def a_word_is_final_after_latency(dut):
    """A word is final ``latency`` cycles after the last psum of the word was taken, and not before."""
    bank = await _start(dut)
    bank.busy = 0.0
    bank.send(next(seeds(1)), 4, 2, void=0.0)
    seen = []

    def look():
        if _available(dut):
            seen.append(bank.bench.cycle)

    bank._ask = None
    bank.bench.drivers.clear()
    dut.offset.value = 3
    dut.enable.value = 0
    dut.free.value = 0
    bank.asking = False
    bank.bench.hooks.append(look)
    await bank.bench.run(20)
    assert seen[0] - bank.source.cycles[-1] == PsumBank.latency


@cocotb.test()
async def a_full_bank_refuses_a_fill(dut):
    """A tile too many waits for room, is reported as blocked, and goes on word by word as room is freed."""
    bank = await _start(dut)
    bank.busy = 0.0
    random = next(seeds(1))
    bank.send(random, DEPTH, 1, void=0.0)
    bank.send(random, 4, 1, void=0.0)
    await bank.bench.run(DEPTH + 10)
    assert len(bank.source.queue) == 4
    assert int(dut.blocked.value) == 1
    bank.busy = 1.0
    await bank.bench.until(lambda: bank.head == len(bank.values), 20000)


@cocotb.test()
async def updates_go_before_the_drain(dut):
    """While updates arrive each cycle nothing is available to the drain; in a cycle without one it is."""
    bank = await _start(dut)
    bank.busy = 0.0
    random = next(seeds(1))
    bank.send(random, 4, 1, void=0.0)
    await bank.bench.run(10)
    bank.send(random, 6, 5, void=0.0)
    bank.bench.drivers.clear()
    bank.asking = False
    dut.offset.value = 0
    open_cycles = []
    start = bank.bench.cycle
    bank.bench.hooks.append(lambda: open_cycles.append(int(_available(dut))))
    await bank.bench.run(6 * 5 + 2)
    assert bank.source.cycles[-1] - start < 6 * 5
    assert open_cycles[:6] == [1] * 6  # a first pass reads nothing
    assert open_cycles[6:30] == [0] * 24
    assert open_cycles[30:] == [1, 1]
