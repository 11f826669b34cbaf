"""cocotb tests of the processing element."""

import cocotb
from cocotb_block import Bench, arch, seeds
from models import chain, deliver, issue, pe

from rowmesh.hw.flags import mask_word
from rowmesh.hw.layouts import psum_layout, step_layout, word_layout
from rowmesh.hw.pe import PE_EVENTS, PE_FIELDS, ProcessingElement

CONFIG, _ = arch()
LEVELS = 6
TAGS = 1 << CONFIG.tag_width


class Pe:
    """A bench with the PE's eight streams, and its events counted."""

    def __init__(self, dut):
        self.bench = bench = Bench(dut)
        word, step, psum = word_layout(CONFIG), step_layout(CONFIG), psum_layout(CONFIG)
        layouts = {"iact": word, "weight": word, "step": step, "psum": psum}
        self.i = {name: bench.source(f"{name}_i", layout) for name, layout in layouts.items()}
        self.o = {name: bench.sink(f"{name}_o", layout, stable=name == "psum") for name, layout in layouts.items()}
        self.counts = dict.fromkeys(PE_EVENTS, 0)
        self.mac_cycles = []
        bench.hooks.append(self._count)
        dut.write.value = 0
        dut.commit.value = 0

    def _count(self):
        events = int(self.bench.dut.events.value)
        if events:
            for number, name in enumerate(PE_EVENTS):
                self.counts[name] += events >> number & 1
            if events >> PE_EVENTS.index("mac") & 1:
                self.mac_cycles.append(self.bench.cycle)

    async def subscribe(self, values):
        words = [0, 0]
        for name, word, shift in PE_FIELDS:
            words[word] |= values.get(name, 0) << shift
        for k, word in enumerate(words):
            self.bench.dut.write.value = 1 << k
            self.bench.dut.write_data.value = word
            await self.bench.step()
        self.bench.dut.write.value = 0
        self.bench.dut.commit.value = 1
        await self.bench.step()
        self.bench.dut.commit.value = 0
        await self.bench.step()

    def clear(self):
        self.bench.clear()
        self.counts = dict.fromkeys(PE_EVENTS, 0)
        self.mac_cycles = []


def _convolution(random):
    """A one-dimensional convolution over tiles: filters, taps and channels in any order inside a column.

    Returns loops, values and the number of iacts and weights of each tile.
    """
    while True:
        extents = {"m": random.randint(1, 5), "s": random.randint(1, 4), "c": random.randint(1, 3)}
        stride = random.randint(1, extents["s"])
        window = extents["s"] * extents["c"]
        size = extents["m"] * window
        if size <= CONFIG.weight_spad and window <= CONFIG.iact_spad and extents["m"] <= CONFIG.psum_spad:
            break
    columns, tiles, passes = random.randint(1, 4), random.randint(1, 3), random.randint(1, 2)
    order = random.sample(["m", "s", "c"], 3)
    strides = {"iact": {"m": 0, "s": extents["c"], "c": 1}, "psum": {"m": 1, "s": 0, "c": 0}}
    loops, level, weight = [], {}, 1
    for number, name in enumerate(order):
        level[name] = number
        step = {"iact": strides["iact"][name], "psum": strides["psum"][name], "weight": weight}
        loops.append((extents[name], extents[name], 0, step))
        weight *= extents[name]
    loops += [(columns, columns, 0, {}), (passes, passes, 0, {}), (tiles, tiles, 0, {})]
    inner, reduction = [0, 1, 2], [level["s"], level["c"]]
    # a row's last window in one go, or word by word in its last use if that is in the order of the words
    gradual = order == ["c", "s", "m"]
    values = {
        "clear_mask": mask_word(LEVELS, reduction),
        "emit_mask": mask_word(LEVELS, reduction),
        "slide": stride * extents["c"],
        "slide_mask": mask_word(LEVELS, inner),
        "restart": 1 if gradual else window,
        "restart_mask": mask_word(LEVELS, [2, 3] if gradual else [*inner, 3]),
        "iact_sync_mask": mask_word(LEVELS, inner),
        "weight_release_mask": mask_word(LEVELS, [3]),
        "weight_sync_mask": mask_word(LEVELS, [*inner, 3]),
        "first_mask": mask_word(LEVELS, [4]),
        "last_mask": mask_word(LEVELS, [4]),
        "start_mask": mask_word(LEVELS, [level["m"], 3]),
        "edge0_mask": mask_word(LEVELS, random.choice([None, [5]])),
        "edge1_mask": mask_word(LEVELS, random.choice([None, [4], [4, 5]])),
    }
    row = (columns - 1) * stride * extents["c"] + window
    return loops, values, [(row, size)] * (tiles * passes)


def _word(random, index, edge):
    data = random.getrandbits(CONFIG.data_width) if random.random() < 0.8 else 0
    return {"data": data, "index": index, "edge": edge}


def _operands(random, steps, tiles, subscription):
    """Words on both buses: each tile's with the edge flags of its steps, and others in between."""
    buses = {"iact": [], "weight": []}
    per_tile = len(steps) // len(tiles)
    for number, counts in enumerate(tiles):
        edge = 0
        for step in steps[number * per_tile : (number + 1) * per_tile]:
            edge |= step["edge"]
        for (name, bus), count in zip(buses.items(), counts, strict=True):
            low, high = subscription[f"{name}_low"], subscription[f"{name}_high"]
            foreign = [k for k in range(TAGS) if not low <= k <= high]
            for _ in range(count):
                while foreign and random.random() < 0.2:
                    bus.append(_word(random, random.choice(foreign), random.getrandbits(CONFIG.edge_flags)))
                bus.append(_word(random, random.randint(low, high), edge))
    return buses


def _psums_below(random, own, passes, start):
    below = []
    for mine in own:
        for number in range(passes + (not start)):
            void = int(random.random() < 0.2)
            value = 0 if void else random.getrandbits(CONFIG.acc_width) - (1 << (CONFIG.acc_width - 1))
            begins = int(mine["start"] and number == 0)
            below.append({"value": value, "void": void, "first": mine["first"], "last": mine["last"], "start": begins})
    return below


@cocotb.test()
async def random_programs(dut):
    """Random loop orders, windows, tiles, passes, edges and chains against the model, all ports stalling."""
    unit = Pe(dut)
    await unit.bench.reset()
    kinds = set()
    for random in seeds(30):
        loops, values, tiles = _convolution(random)
        steps = issue(LEVELS, loops, {}, values, CONFIG.edge_flags)
        subscription = {"active": 1, "skip": random.getrandbits(2), "passes": random.choice((0, 0, 1, 3))}
        subscription["chain_start"] = random.getrandbits(1)
        subscription["maximum"] = random.random() < 0.3
        for name in ("iact", "weight"):
            low, high = sorted(random.choices(range(TAGS), k=2))
            subscription |= {f"{name}_low": low, f"{name}_high": high}
        buses = _operands(random, steps, tiles, subscription)
        taken = {
            name: deliver(
                bus,
                subscription[f"{name}_low"],
                subscription[f"{name}_high"],
                subscription["skip"],
                CONFIG.data_width,
            )
            for name, bus in buses.items()
        }
        maximum = bool(subscription["maximum"])
        golden = pe(steps, taken["iact"], taken["weight"], subscription["skip"], CONFIG.acc_width, maximum)
        below = _psums_below(random, golden.psums, subscription["passes"], subscription["chain_start"])
        links = {name: subscription[name] for name in ("passes", "active")}
        expected = chain(below, golden.psums, start=subscription["chain_start"], acc_width=CONFIG.acc_width, **links)
        total = len(expected)
        await unit.subscribe(subscription)
        unit.bench.random_stalls()
        for name, items in (*buses.items(), ("step", steps), ("psum", below)):
            unit.i[name].send(items)
        await unit.bench.until(
            lambda total=total, buses=buses: (
                len(unit.o["psum"].items) >= total
                and all(len(unit.o[name].items) >= len(bus) for name, bus in buses.items())
                and all(port.done for port in unit.i.values())
            ),
            30000,
        )
        await unit.bench.run(12)
        assert unit.o["psum"].items == expected
        for name, bus in buses.items():
            assert unit.o[name].items == bus
        assert unit.o["step"].items == steps
        events = golden.events | {f"{name}_delivered": len(words) for name, words in taken.items()}
        assert unit.counts == events
        kinds.add((subscription["chain_start"], subscription["passes"] > 0, any(p["void"] for p in golden.psums)))
        unit.clear()
    assert len(kinds) >= 6, "the random programs do not cover enough kinds of chain"


@cocotb.test()
async def inactive_is_a_pure_hop(dut):
    """An inactive PE hands on everything on all four streams and does nothing itself."""
    unit = Pe(dut)
    await unit.bench.reset()
    for random in seeds(3):
        subscription = {
            "iact_high": TAGS - 1,
            "weight_high": TAGS - 1,
            "passes": 2,
            "chain_start": random.getrandbits(1),
        }
        await unit.subscribe(subscription)
        loops, values, tiles = _convolution(random)
        steps = issue(LEVELS, loops, {}, values, CONFIG.edge_flags)
        buses = _operands(random, steps, tiles, {f"{n}_{e}": 1 for n in ("iact", "weight") for e in ("low", "high")})
        golden = [{"first": 1, "last": 0, "start": k == 0} for k in range(20)]
        below = _psums_below(random, golden, 1, 1)
        unit.bench.random_stalls()
        sent = {**buses, "step": steps, "psum": below}
        for name, items in sent.items():
            unit.i[name].send(items)
        await unit.bench.until(lambda sent=sent: all(len(unit.o[name].items) >= len(sent[name]) for name in sent))
        await unit.bench.run(10)
        for name, items in sent.items():
            assert unit.o[name].items == items, name
        assert not any(unit.counts.values())
        unit.clear()


def _dot_products(count, length):
    """Steps of ``count`` dot products, each operand used once."""
    mask = {"clear_mask": mask_word(LEVELS, [0]), "emit_mask": mask_word(LEVELS, [0]), "slide": 1}
    mask |= {"slide_mask": mask_word(LEVELS, []), "weight_release_mask": mask_word(LEVELS, [])}
    mask |= {"weight_sync_mask": mask_word(LEVELS, []), "iact_sync_mask": mask_word(LEVELS, [])}
    mask |= {"first_mask": mask_word(LEVELS, [])}
    return issue(LEVELS, [(length, length, 0, {}), (count, count, 0, {})], {}, mask, CONFIG.edge_flags)


@cocotb.test()
async def one_step_a_cycle(dut):
    """Streaming operands: a MAC each cycle, and its result ``latency`` cycles after the step."""
    unit = Pe(dut)
    await unit.bench.reset()
    await unit.subscribe({"active": 1, "iact_high": TAGS - 1, "weight_high": TAGS - 1, "chain_start": 1})
    random = next(seeds(1))
    # a place in the psum FIFO is reserved while its result is on the way
    for length in (1 if CONFIG.chain_fifo >= ProcessingElement.latency else 2, 3):
        steps = _dot_products(60 // length, length)
        iacts, weights = ([_word(random, 0, 0) for _ in steps] for _ in range(2))
        for name, items in (("iact", iacts), ("weight", weights), ("step", steps)):
            unit.i[name].send(items)
        await unit.bench.until(
            lambda length=length: len(unit.o["psum"].items) == 60 // length, 200, f"of length {length}"
        )
        expected = pe(
            steps, *(deliver(w, 0, TAGS, 0, CONFIG.data_width) for w in (iacts, weights)), 0, CONFIG.acc_width
        )
        assert unit.o["psum"].items == expected.psums
        macs = unit.mac_cycles
        assert macs[-1] - macs[0] == 59
        last_steps = macs[length - 1 :: length]
        latency = ProcessingElement.latency
        assert [b - a for a, b in zip(last_steps, unit.o["psum"].cycles, strict=True)] == [latency] * len(last_steps)
        unit.clear()


@cocotb.test()
async def one_psum_a_cycle_along_the_chain(dut):
    """A chain in the middle adds one psum a cycle and loses no step to it."""
    unit = Pe(dut)
    await unit.bench.reset()
    await unit.subscribe({"active": 1, "iact_high": TAGS - 1, "weight_high": TAGS - 1})
    random = next(seeds(1))
    length = 1 if CONFIG.chain_fifo >= ProcessingElement.latency else 2
    steps = _dot_products(50 // length, length)
    iacts, weights = ([_word(random, 0, 0) for _ in steps] for _ in range(2))
    golden = pe(steps, *(deliver(w, 0, TAGS, 0, CONFIG.data_width) for w in (iacts, weights)), 0, CONFIG.acc_width)
    below = _psums_below(random, golden.psums, 0, 0)
    for name, items in (("iact", iacts), ("weight", weights), ("step", steps), ("psum", below)):
        unit.i[name].send(items)
    await unit.bench.until(lambda: len(unit.o["psum"].items) == 50 // length, 200)
    assert unit.o["psum"].items == chain(below, golden.psums, passes=0, start=0, active=1, acc_width=CONFIG.acc_width)
    assert unit.o["psum"].cycles[-1] - unit.o["psum"].cycles[0] == 50 - length
    assert unit.mac_cycles[-1] - unit.mac_cycles[0] == 49


@cocotb.test()
async def a_blocked_chain_stops_only_results(dut):
    """With the chain blocked, steps go on until the PE's psum FIFO is reserved, and nothing is lost after."""
    unit = Pe(dut)
    await unit.bench.reset()
    await unit.subscribe({"active": 1, "iact_high": TAGS - 1, "weight_high": TAGS - 1, "chain_start": 1})
    random = next(seeds(1))
    steps = _dot_products(30, 2)
    iacts, weights = ([_word(random, 0, 0) for _ in steps] for _ in range(2))
    unit.bench.stall(1.0, unit.o["psum"])
    for name, items in (("iact", iacts), ("weight", weights), ("step", steps)):
        unit.i[name].send(items)
    await unit.bench.run(120)
    held = CONFIG.chain_fifo + 2  # and two in the registers of the chain
    assert unit.counts["mac"] == 2 * held + 1
    assert int(dut.waits.value) == 0b100
    unit.bench.stall(0.0, unit.o["psum"])
    await unit.bench.until(lambda: len(unit.o["psum"].items) == 30, 300)
    golden = pe(steps, *(deliver(w, 0, TAGS, 0, CONFIG.data_width) for w in (iacts, weights)), 0, CONFIG.acc_width)
    assert unit.o["psum"].items == golden.psums


@cocotb.test()
async def accumulators_wrap(dut):
    """Sums of extreme products wrap at acc_width, in the spad and in the chain."""
    unit = Pe(dut)
    await unit.bench.reset()
    await unit.subscribe({"active": 1, "iact_high": TAGS - 1, "weight_high": TAGS - 1})
    extreme = 1 << (CONFIG.data_width - 1)
    length = 1 << max(2, CONFIG.acc_width - 2 * CONFIG.data_width)
    length = min(length, 600)
    steps = _dot_products(2, length)
    words = [{"data": extreme, "index": 0, "edge": 0} for _ in steps]
    golden = pe(steps, *(deliver(words, 0, TAGS, 0, CONFIG.data_width) for _ in range(2)), 0, CONFIG.acc_width)
    most = (1 << (CONFIG.acc_width - 1)) - 1
    below = [{"value": v, "void": 0, "first": 1, "last": 0, "start": 0} for v in (most, -most - 1)]
    expected = chain(below, golden.psums, passes=0, start=0, active=1, acc_width=CONFIG.acc_width)
    for name, items in (("iact", words), ("weight", words), ("step", steps), ("psum", below)):
        unit.i[name].send(items)
    await unit.bench.until(lambda: len(unit.o["psum"].items) == 2, 2000)
    assert unit.o["psum"].items == expected
    raw = length * extreme * extreme + most
    assert raw != expected[0]["value"]


@cocotb.test()
async def absent_steps_touch_nothing(dut):
    """Single steps at which the PE is absent, inside a reduction: no operand, no word of the spad."""
    unit = Pe(dut)
    await unit.bench.reset()
    skip = {"active": 1, "iact_high": TAGS - 1, "weight_high": TAGS - 1, "chain_start": 1, "skip": 0b10}
    await unit.subscribe(skip)
    random = next(seeds(1))
    steps = _dot_products(20, 5)
    for step in steps:
        step["edge"] = 0 if step["clear"] or step["emit"] else random.choice((0, 0b01, 0b10, 0b11))
    count = sum(not step["edge"] & 0b10 for step in steps)
    iacts, weights = ([_word(random, 0, 0) for _ in range(count)] for _ in range(2))
    unit.bench.random_stalls()
    for name, items in (("iact", iacts), ("weight", weights), ("step", steps)):
        unit.i[name].send(items)
    await unit.bench.until(lambda: len(unit.o["psum"].items) == 20, 3000)
    taken = (deliver(words, 0, TAGS, 0b10, CONFIG.data_width) for words in (iacts, weights))
    golden = pe(steps, *taken, 0b10, CONFIG.acc_width)
    assert unit.o["psum"].items == golden.psums
    assert count < len(steps)
