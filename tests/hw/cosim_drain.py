"""cocotb tests of the drain, with real psum banks in front of it."""

import cocotb
import numpy as np
from cocotb_block import Bench, arch, seeds
from drain_unit import DrainUnit
from models import holds, nest, wrap

from rowmesh.hw.drain import Drain, beat_layout, drain_descriptor, lane_depth
from rowmesh.hw.flags import mask_word
from rowmesh.hw.layouts import psum_layout
from rowmesh.sw.workload.golden import requantize

CONFIG, _ = arch()
LEVELS, COLS, OWN, LANES = CONFIG.nest_levels, CONFIG.cols, CONFIG.lanes, CONFIG.all_lanes
MEMBERS = CONFIG.drain_clusters
SETS = CONFIG.clusters // MEMBERS
BANKS = range(CONFIG.clusters * COLS)
SLOTS, WIDTH = CONFIG.flit_words, CONFIG.data_width
SPAN = 32 // WIDTH
DEPTH = CONFIG.psum_bank_words
DESCRIPTOR = drain_descriptor(CONFIG)
# levels of the tests' programs: word of a beat, beat, position, group, set of clusters, short tiles, thin tiles
WORD, BEAT, POSITION, GROUP, SET, SHORT, THIN = range(7)


def place_of(bank):
    """Set, member of the set, and column of a bank."""
    cluster, col = divmod(bank, COLS)
    return *divmod(cluster, MEMBERS), col


def group_of(bank):
    """Group that a bank is drained in."""
    of_set, _, col = place_of(bank)
    return of_set * CONFIG.bank_groups + col // OWN


def lane_of(bank):
    """Lane that a bank's words take."""
    _, member, col = place_of(bank)
    return member * OWN + col % OWN


class Unit:
    """A bench with a source for each column and a sink for each lane."""

    def __init__(self, dut):
        self.bench = bench = Bench(dut)
        self.dut = dut
        self.start = bench.source("start", 1)
        self.params = bench.source("fill", 64)
        self.psums = [bench.source(f"psum__{bank}", psum_layout(CONFIG)) for bank in BANKS]
        self.lanes = [bench.sink(f"lanes__{lane}", beat_layout(CONFIG)) for lane in range(LANES)]
        self.freed = 0
        bench.hooks.append(self._count)
        dut.config__valid.value = 0

    def _count(self):
        self.freed += int(self.dut.freed.value)

    def load(self, work):
        self.params.send(work.params)
        for source, psums in zip(self.psums, work.psums, strict=True):
            source.send(psums)


class Work:
    """A descriptor's data and what has to come out."""

    def __init__(self, random, program, sizes, params, *, sets=1, passes=1):
        """``sizes`` and ``params``: words of each column and parameters of each tile, in order."""
        loops, bases, values = program
        self.words = DESCRIPTOR.encode(*program)
        self.beats = [[] for _ in range(LANES)]
        self.psums = [[] for _ in BANKS]
        own = [
            bank
            for bank in BANKS
            for of_set, member, col in [place_of(bank)]
            if of_set < sets and col < values["columns"] and values.get("members", 1) >> member & 1
        ]
        self.params = []
        big = 1 << (CONFIG.acc_width - 1)
        scale = random.choice((1e-8, 1e-6, 1e-3))
        banks, table = [[] for _ in BANKS], []
        for size, count in zip(sizes, params, strict=True):
            for bank in own:
                tile = [random.randrange(-big, big) >> random.choice((0, 8, 16)) for _ in range(size)]
                banks[bank] += tile
                parts = [[random.randrange(-big, big) for _ in range(size)] for _ in range(passes - 1)]
                rest = [wrap(value - sum(split), CONFIG.acc_width) for value, *split in zip(tile, *parts, strict=True)]
                for number, part in enumerate([*parts, rest]):
                    self.psums[bank] += [
                        {"value": value, "first": number == 0, "last": number == passes - 1, "start": k == 0}
                        for k, value in enumerate(part)
                    ]
            for _ in range(count):
                bias = random.randrange(-(1 << 20), 1 << 20)
                table.append((bias, np.float32(scale * random.uniform(0.5, 2.0))))
        self.params = [bias & 0xFFFFFFFF | int(factor.view(np.uint32)) << 32 for bias, factor in table]
        head, first_param = [0 for _ in BANKS], 0
        gathered = [[0, 0] for _ in range(LANES)]
        limits = values["zero_point"], values["clamp_low"], values["clamp_high"]
        for token in nest(LEVELS, loops, bases):

            def last(name, token=token):
                return holds(values.get(name, 0), token.last, LEVELS)

            columns = values["columns_edge" if last("edge_mask") else "columns"]
            group = [bank for bank in own if group_of(bank) == token.out["group"]]
            self.ends_with_a_word = any(place_of(bank)[2] < columns for bank in group)
            for bank in group:
                _, member, col = place_of(bank)
                if col >= columns:
                    continue
                lane = lane_of(bank)
                word = banks[bank][head[bank] + token.out["offset"]]
                bias, factor = 0, None
                if values["use_param"]:
                    distance = col % OWN * values["lane_param"] + values.get(f"member_param{member}", 0)
                    bias, factor = table[first_param + token.out["param"] + distance]
                total = wrap(word + bias, CONFIG.acc_width)
                slot, beat = token.out["slot"], gathered[lane]
                if values["raw"]:
                    beat[0] |= (total & 0xFFFFFFFF) << (slot * WIDTH)
                    beat[1] |= 0b1111 << (slot * WIDTH // 8)
                else:
                    result = int(requantize(np.array([total]), np.array([factor]), *limits)[0])
                    beat[0] |= (result & ((1 << WIDTH) - 1)) << (slot * WIDTH)
                    beat[1] |= ((1 << WIDTH // 8) - 1) << (slot * WIDTH // 8)
                if last("flush_mask"):
                    self.beats[lane].append({"data": beat[0], "strobe": beat[1]})
                    gathered[lane] = [0, 0]
            if last("release_mask"):
                released = values[f"release{last('short_mask') | last('thin_mask') << 1}"]
                for bank in group:
                    head[bank] += released
            if last("param_mask"):
                first_param += values["param_thin" if last("thin_mask") else "param_release"]
        assert all(head[bank] == len(banks[bank]) for bank in BANKS)
        assert first_param == len(table)


def _program(random):
    """Tiles of beats over positions and groups of columns; last tiles are shorter, with fewer columns."""
    raw = random.getrandbits(1)
    use_param = 1 if not raw else random.getrandbits(1)
    step = SPAN if raw else 1
    words = random.randint(1, SLOTS // step)
    words_last = random.randint(1, words)
    columns = random.randint(1, COLS)
    groups, sets = -(-columns // OWN), random.randint(1, SETS)
    of_members = {}
    if MEMBERS > 1:
        of_members = {f"member_param{member}": random.randint(0, 5) for member in range(MEMBERS)}
        of_members["members"] = random.randrange(1, 1 << MEMBERS)
    while True:
        beats, positions = random.randint(1, 3), random.randint(1, 3)
        beats_thin, positions_short = random.randint(1, beats), random.randint(1, positions)
        shorts, thins = random.randint(1, 3), random.randint(1, 2)
        merged = random.random() < 0.3 and beats * words * step <= SLOTS
        strides = {
            WORD: {"offset": random.randint(0, 3), "param": 1, "slot": step},
            BEAT: {"offset": random.randint(0, 4), "param": words, "slot": words * step if merged else 0},
            POSITION: {"offset": random.randint(0, 5)},
            GROUP: {"group": 1},
        }
        lane_param = random.randint(0, 2)

        def span(beats, positions, strides=strides):
            inner = [
                beat * strides[BEAT]["offset"] + (words_last if beat == beats - 1 else words) * strides[WORD]["offset"]
                for beat in range(beats)
            ]
            return max(inner) - strides[WORD]["offset"] + (positions - 1) * strides[POSITION]["offset"] + 1

        sizes = {
            (thin, short): span(beats_thin if thin else beats, positions_short if short else positions)
            for thin in (0, 1)
            for short in (0, 1)
        }
        beside = (OWN - 1) * lane_param + max(of_members.get(f"member_param{k}", 0) for k in range(MEMBERS))
        counts = [beats * words + beside, beats_thin * words + beside]
        if max(sizes.values()) <= DEPTH and max(counts) <= CONFIG.param_words:
            break
    extra = random.randint(0, 2) if max(sizes.values()) + 2 <= DEPTH else 0
    loops = [
        (words, words_last, 1 << BEAT, strides[WORD]),
        (beats, beats_thin, 1 << THIN, strides[BEAT]),
        (positions, positions_short, 1 << SHORT, strides[POSITION]),
        (groups, groups, 0, strides[GROUP]),
        (sets, sets, 0, {"group": CONFIG.bank_groups}),
        (shorts, shorts, 0, {}),
        (thins, thins, 0, {}),
    ]
    low, high = sorted(random.choices(range(-(1 << (WIDTH - 1)), 1 << (WIDTH - 1)), k=2))
    values = {
        "columns": columns,
        "columns_edge": random.randint(0 if groups == 1 else (groups - 1) * OWN, columns),
        "edge_mask": mask_word(LEVELS, random.choice((None, [SHORT], [SHORT, THIN]))),
        "release_mask": mask_word(LEVELS, [WORD, BEAT, POSITION]),
        **{f"release{short | thin << 1}": sizes[thin, short] + extra for thin in (0, 1) for short in (0, 1)},
        "short_mask": mask_word(LEVELS, [SHORT]),
        "thin_mask": mask_word(LEVELS, [THIN]),
        "flush_mask": mask_word(LEVELS, [WORD, BEAT] if merged else [WORD]),
        "lane_param": lane_param,
        "param_release": counts[0] if use_param else 0,
        "param_thin": counts[1] if use_param else 0,
        "param_mask": mask_word(LEVELS, [WORD, BEAT, POSITION, GROUP, SET]),
        **of_members,
        "use_param": use_param,
        "raw": raw,
        "zero_point": random.randrange(-20, 20),
        "clamp_low": low,
        "clamp_high": high,
    }
    tiles = [(t == thins - 1, s == shorts - 1) for t in range(thins) for s in range(shorts)]
    return (
        (loops, {}, values),
        [sizes[tile] + extra for tile in tiles],
        [counts[thin] * use_param for thin, _ in tiles],
        sets,
    )


@cocotb.test()
async def random_tiles(dut):
    """Random tiles, groups, sets, edges, parameters, raw and requantised, back to back, everything stalling.

    Tiles of several passes update a bank while the drain reads it.
    """
    unit = Unit(dut)
    bench = unit.bench
    await bench.reset()
    expected = [[] for _ in range(LANES)]
    before, silent, parameters, partial = [], [], 0, 0
    for number, random in enumerate(seeds(40)):
        *program, sets = _program(random)
        work = Work(random, *program, sets=sets, passes=random.randint(1, 3))
        # the bank's last user has to be done with the pipeline; of one whose last words give no beat only `idle` tells
        if number >= 2:
            marks = before[-2]
            await bench.until(
                lambda marks=marks: all(len(s.items) >= n for s, n in zip(unit.lanes, marks, strict=True))
            )
            if silent[-2]:
                await bench.until(lambda: unit.start.done and int(dut.idle.value))
        if number % 8 == 0:
            bench.random_stalls()
        await bench.configure(work.words, number % 2)
        unit.start.send([number % 2])
        unit.load(work)
        for lane, beats in enumerate(work.beats):
            expected[lane] += beats
            partial += sum(beat["strobe"] != (1 << CONFIG.beat_bytes) - 1 for beat in beats)
        silent.append(not work.ends_with_a_word)
        before.append([len(beats) for beats in expected])
        parameters += len(work.params)
    await bench.until(lambda: all(len(s.items) >= len(e) for s, e in zip(unit.lanes, expected, strict=True)))
    # words of edge columns give no beat, and may come last
    await bench.until(lambda: int(dut.idle.value) and all(source.done for source in unit.psums))
    await bench.run(30)
    for lane, sink in enumerate(unit.lanes):
        assert sink.items == expected[lane], f"lane {lane}"
    assert int(dut.idle.value) == 1
    assert unit.freed == parameters
    assert partial > 50
    assert all(source.done for source in (*unit.psums, unit.params))


def _stream(words, flush, *, raw=0, count=1):
    """One tile of a single group: ``words`` words a column in order, a beat every ``flush``."""
    loops = [
        (flush, flush, 0, {"offset": 1, "slot": SPAN if raw else 1}),
        (words // flush, words // flush, 0, {"offset": flush}),
        (count, count, 0, {}),
    ]
    columns = min(COLS, OWN)
    values = {
        **({"members": (1 << MEMBERS) - 1} if MEMBERS > 1 else {}),
        "columns": columns,
        "columns_edge": columns,
        "release_mask": mask_word(LEVELS, [0, 1]),
        "release0": words,
        "flush_mask": mask_word(LEVELS, [0]),
        "raw": raw,
        "lane_param": 0,
        "use_param": 1 - raw,
        "param_release": 1 - raw,
        "param_mask": mask_word(LEVELS, [0, 1, 2]),
        "zero_point": 3,
        "clamp_low": -90,
        "clamp_high": 100,
    }
    return (loops, {}, values), [words] * count, [0] * (count - 1) + [1 - raw]


@cocotb.test()
async def one_word_a_lane_a_cycle(dut):
    """Final psums leave one a lane a cycle; the first beat of one word ``latency`` cycles after the start."""
    unit = Unit(dut)
    bench = unit.bench
    await bench.reset()
    random = next(seeds(1))
    size = SLOTS // SPAN
    for number, (words, flush, raw) in enumerate(((12, 1, 0), (2 * SLOTS, SLOTS, 0), (4 * size, size, 1), (12, 1, 1))):
        work = Work(random, *_stream(words, flush, raw=raw))
        await bench.configure(work.words, number % 2)
        unit.load(work)
        await bench.until(lambda: all(source.done for source in (*unit.psums, unit.params)), 200)
        await bench.run(6)
        begin = bench.cycle
        unit.start.send([number % 2])
        await bench.until(lambda work=work: len(unit.lanes[0].items) == len(work.beats[0]), 300)
        await bench.run(2)
        for lane, sink in enumerate(unit.lanes):
            assert sink.items == work.beats[lane]
            assert sink.cycles[0] - begin == Drain(CONFIG).latency + DrainUnit.QUEUE_LATENCY + flush - 1
            assert sink.cycles[-1] - sink.cycles[0] == words - flush
        bench.clear()


@cocotb.test()
async def a_blocked_lane_stops_all_and_loses_nothing(dut):
    """Words go together: a lane without room at the store engine holds the others, and is reported."""
    unit = Unit(dut)
    bench = unit.bench
    await bench.reset()
    places = lane_depth(CONFIG)
    count = places // 24 + 2
    work = Work(next(seeds(1)), *_stream(24, 1, count=count))
    await bench.configure(work.words)
    unit.load(work)
    unit.start.send([0])
    bench.stall(1.0, unit.lanes[-1])
    await bench.run(100 + 2 * places)
    assert [len(sink.items) for sink in unit.lanes] == [places] * (LANES - 1) + [0]
    assert int(dut.waits.value) & 0b100
    assert int(dut.idle.value) == 0
    bench.stall(0.0, unit.lanes[-1])
    await bench.until(lambda: len(unit.lanes[-1].items) == 24 * count, 200)
    await bench.run(3)
    assert [sink.items for sink in unit.lanes] == work.beats
    assert int(dut.idle.value) == 1


@cocotb.test()
async def waits_name_what_is_missing(dut):
    """A word waits for its psum, or its parameters, and ``waits`` says which."""
    unit = Unit(dut)
    bench = unit.bench
    await bench.reset()
    work = Work(next(seeds(1)), *_stream(4, 1))
    await bench.configure(work.words)
    unit.start.send([0])
    await bench.run(40)
    assert int(dut.waits.value) == 0b011
    for source, psums in zip(unit.psums, work.psums, strict=True):
        source.send(psums)
    await bench.run(20)
    assert int(dut.waits.value) == 0b010
    unit.params.send(work.params)
    await bench.until(lambda: len(unit.lanes[0].items) == 4, 100)
    assert [sink.items for sink in unit.lanes] == work.beats


@cocotb.test()
async def constants_stay_with_their_words(dut):
    """A descriptor queued behind, with other constants, does not change the words still in the pipeline."""
    unit = Unit(dut)
    bench = unit.bench
    await bench.reset()
    random = next(seeds(1))
    works = [Work(random, *_stream(12, 1, raw=raw)) for raw in (0, 1)]
    for bank, work in enumerate(works):
        await bench.configure(work.words, bank)
        unit.load(work)
    await bench.run(40)
    unit.start.send([0, 1])
    await bench.until(lambda: len(unit.lanes[0].items) == 24, 200)
    await bench.run(2)
    for lane, sink in enumerate(unit.lanes):
        assert sink.items == works[0].beats[lane] + works[1].beats[lane]
