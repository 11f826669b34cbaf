"""cocotb tests of the PE array: row-stationary programs against numpy."""

import cocotb
import numpy as np
from cocotb_block import Bench, arch, seeds
from models import issue, wrap

from rowmesh.hw.array import Array, pe_words, row_words
from rowmesh.hw.flags import mask_word
from rowmesh.hw.layouts import flit_layout, psum_layout, step_layout
from rowmesh.hw.pe import PE_EVENTS
from rowmesh.sw.workload.golden import conv2d

CONFIG, _ = arch()
ROWS, COLS, LANES = CONFIG.rows, CONFIG.cols, CONFIG.flit_words
LEVELS = 6
ABSENT = 0b10
"""The edge flag of a tile in which a column has no output row."""


class Unit:
    """A bench with the array's three trunks and its columns, and its events counted."""

    def __init__(self, dut):
        self.bench = bench = Bench(dut)
        flit = flit_layout(CONFIG)
        layouts = {"iact": flit, "weight": flit, "step": step_layout(CONFIG)}
        self.i = {name: bench.source(name, layout) for name, layout in layouts.items()}
        self.psum = [bench.sink(f"psum__{col}", psum_layout(CONFIG)) for col in range(COLS)]
        self.counts = dict.fromkeys(PE_EVENTS, 0)
        self.width = Array(CONFIG).event_width
        self.mac_cycles = []
        bench.hooks.append(self._count)
        dut.config__valid.value = 0
        dut.commit.value = 0
        for col in range(COLS):
            getattr(dut, f"psum_i__{col}__valid").value = 0

    def _count(self):
        events = int(self.bench.dut.events.value)
        if not events:
            return
        for number, name in enumerate(PE_EVENTS):
            count = events >> (number * self.width) & ((1 << self.width) - 1)
            self.counts[name] += count
            if name == "mac" and count:
                self.mac_cycles.append(self.bench.cycle)

    async def begin(self):
        """Have the subscriptions that were written take effect."""
        self.bench.dut.commit.value = 1
        await self.bench.step()
        self.bench.dut.commit.value = 0


def _chains(random):
    """Split the rows into chains of the filter's height, from the bottom; rows left above are inactive."""
    height = random.randint(1, ROWS)
    return height, random.randint(1, ROWS // height)


class Layer:
    """A convolution: chains hold groups of filters, columns hold output rows, tiles follow in y."""

    def __init__(self, random, shape=None):
        r, self.groups = _chains(random) if shape is None else shape["chains"]
        small = CONFIG.iact_spad
        self.c = c = random.randint(1, min(2, LANES))
        self.s = s = random.randint(1, small // (2 * c) if small // (2 * c) < 4 else 3)
        self.m = m = random.randint(1, min(3, CONFIG.psum_spad))
        self.q = q = random.randint(1, 4)
        self.u = u = random.choice((1, min(s, 2)))
        p = random.randint(1, 2 * COLS)
        if shape is not None:
            self.c, self.s, self.m, self.q, self.u = shape["csmqu"]
            c, s, m, q, u = shape["csmqu"]
            p = COLS
        self.r, self.p = r, p
        self.tiles = -(-p // COLS)
        self.edge = p % COLS
        height, width = (p - 1) * u + r, (q - 1) * u + s
        limit = 1 << (CONFIG.data_width - 1)
        self.x = np.array([random.randrange(-limit, limit) for _ in range(c * height * width)])
        self.x = self.x.reshape(1, c, height, width)
        filters = m * self.groups
        self.w = np.array([random.randrange(-limit, limit) for _ in range(filters * c * r * s)])
        self.w = self.w.reshape(filters, c, r, s)
        self.y = conv2d(self.x, self.w, stride=(u, u), acc_width=CONFIG.acc_width)

    def words(self):
        """Subscriptions: an iact is tagged with its input row (index), a weight with its PE row (phase)."""
        words = {}
        for row in range(ROWS):
            group, r = divmod(row, self.r)
            active = int(group < self.groups)
            everything = {"enable": active, "lane_high": LANES - 1, "index_high": (1 << CONFIG.tag_width) - 1}
            words |= row_words(row, "iact", everything)
            words |= row_words(row, "weight", everything | {"phase_low": row, "phase_high": row})
            for col in range(COLS):
                h = col * self.u + r
                pe = {"iact_low": h, "iact_high": h, "weight_low": 0, "weight_high": 0}
                pe |= {"passes": group, "chain_start": int(r == 0), "active": active}
                pe["skip"] = ABSENT if self.edge and col >= self.edge else 0
                words |= pe_words(row, col, pe)
        return words

    def steps(self):
        """Steps of all PEs: channels, taps, filters, columns of the output, tiles."""
        c, s, m, q = self.c, self.s, self.m, self.q
        loops = [
            (c, c, 0, {"iact": 1, "weight": 1}),
            (s, s, 0, {"iact": c, "weight": c}),
            (m, m, 0, {"psum": 1, "weight": c * s}),
            (q, q, 0, {}),
            (self.tiles, self.tiles, 0, {}),
        ]
        values = {
            "clear_mask": mask_word(LEVELS, [0, 1]),
            "emit_mask": mask_word(LEVELS, [0, 1]),
            "slide": self.u * c,
            "slide_mask": mask_word(LEVELS, [0, 1, 2]),
            "restart": s * c,
            "restart_mask": mask_word(LEVELS, [0, 1, 2, 3]),
            "iact_sync_mask": mask_word(LEVELS, [0, 1, 2]),
            "weight_release_mask": mask_word(LEVELS, [3]),
            "weight_sync_mask": mask_word(LEVELS, [0, 1, 2, 3]),
            "first_mask": mask_word(LEVELS, []),
            "last_mask": mask_word(LEVELS, []),
            "start_mask": mask_word(LEVELS, [2, 3]),
            "edge1_mask": mask_word(LEVELS, [4]) if self.edge else 0,
        }
        return issue(LEVELS, loops, {}, values, CONFIG.edge_flags)

    def _tile_edge(self, tile):
        return ABSENT if self.edge and tile == self.tiles - 1 else 0

    def iacts(self, random):
        """Flits: column by column of the input, all rows of a tile, the channels in random lanes."""
        flits = []
        for tile in range(self.tiles):
            top = tile * COLS * self.u
            rows = (COLS - 1) * self.u + self.r
            for x in range(self.x.shape[3]):
                for h in range(rows):
                    if top + h >= self.x.shape[2]:
                        continue
                    low = random.randint(0, LANES - self.c)
                    data = [random.getrandbits(CONFIG.data_width) for _ in range(LANES)]
                    data[low : low + self.c] = [
                        int(v) & ((1 << CONFIG.data_width) - 1) for v in self.x[0, :, top + h, x]
                    ]
                    tag = {"phase": random.randrange(1), "index": h, "edge": self._tile_edge(tile)}
                    flits.append({"data": data, "low": low, "high": low + self.c - 1, **tag})
        return flits

    def weights(self, random):
        """Flits: each tile's weights, a row after the other, in the order of use."""
        flits = []
        for tile in range(self.tiles):
            for row in range(self.groups * self.r):
                group, r = divmod(row, self.r)
                part = self.w[group * self.m : (group + 1) * self.m, :, r, :]  # m, c, s
                words = [int(v) & ((1 << CONFIG.data_width) - 1) for v in part.transpose(0, 2, 1).reshape(-1)]
                tag = {"phase": row, "index": 0, "edge": self._tile_edge(tile)}
                while words:
                    count = random.randint(1, min(LANES, len(words)))
                    flits.append({"data": words[:count], "low": 0, "high": count - 1, **tag})
                    words = words[count:]
        return flits

    def psums(self, col):
        """What leaves a column: tiles, output columns, filters, chains from the bottom."""
        result = []
        for tile in range(self.tiles):
            p = tile * COLS + col
            for q in range(self.q):
                for m in range(self.m):
                    for group in range(self.groups):
                        void = int(p >= self.p)
                        value = 0 if void else wrap(int(self.y[0, group * self.m + m, p, q]), CONFIG.acc_width)
                        start = int(q == 0 and m == 0 and group == 0)
                        result.append({"value": value, "void": void, "first": 1, "last": 1, "start": start})
        return result

    @property
    def macs(self):
        """Multiply-accumulates of the layer."""
        return self.y.size * self.c * self.r * self.s


async def _run(unit, layer, random):
    await unit.bench.configure(layer.words())
    await unit.begin()
    await unit.bench.run(ROWS + 2)
    unit.i["iact"].send(layer.iacts(random))
    unit.i["weight"].send(layer.weights(random))
    unit.i["step"].send(layer.steps())
    expected = [layer.psums(col) for col in range(COLS)]
    await unit.bench.until(lambda: all(len(s.items) >= len(e) for s, e in zip(unit.psum, expected, strict=True)))
    await unit.bench.run(25)
    for col, sink in enumerate(unit.psum):
        assert sink.items == expected[col], f"column {col}"
    unit.bench.clear()


@cocotb.test()
async def random_layers(dut):
    """Row-stationary layers: random chains, strides, absent columns, all ports stalling, equal to numpy."""
    unit = Unit(dut)
    await unit.bench.reset()
    macs, kinds = 0, set()
    for random in seeds(16):
        layer = Layer(random)
        unit.bench.random_stalls()
        await _run(unit, layer, random)
        macs += layer.macs
        kinds.add((layer.groups > 1, layer.edge > 0, layer.groups * layer.r < ROWS))
    assert unit.counts["mac"] == macs
    assert unit.counts["psum_write"] == unit.counts["psum_read"]
    assert len(kinds) >= 4


@cocotb.test()
async def every_pe_works_every_cycle(dut):
    """With operands in time, all PEs do a MAC in (nearly) each cycle of a layer."""
    unit = Unit(dut)
    await unit.bench.reset()
    random = next(seeds(1))
    m = min(CONFIG.psum_spad, 4)
    layer = Layer(random, {"chains": (ROWS, 1), "csmqu": (2, 2, m, 40, 1)})
    await _run(unit, layer, random)
    steps = len(layer.steps())
    assert unit.counts["mac"] == layer.macs == steps * ROWS * COLS
    # operands enter once: rows of inputs times two words each, against 4 m steps a column
    assert unit.mac_cycles[-1] - unit.mac_cycles[0] < steps * 1.05 + 40


@cocotb.test()
async def waits_name_the_missing_operand(dut):
    """Steps without iacts wait for iacts, without weights for weights, with a blocked column for psums."""
    unit = Unit(dut)
    await unit.bench.reset()
    random = next(seeds(1))
    layer = Layer(random, {"chains": (ROWS, 1), "csmqu": (1, 1, 1, 30, 1)})
    await unit.bench.configure(layer.words())
    await unit.begin()
    await unit.bench.run(ROWS + 2)
    unit.i["step"].send(layer.steps())
    await unit.bench.run(30)
    assert int(dut.waits.value) == 0b011
    unit.i["weight"].send(layer.weights(random))
    await unit.bench.run(30)
    assert int(dut.waits.value) == 0b001
    for sink in unit.psum:
        sink.stall = 1.0
    unit.i["iact"].send(layer.iacts(random))
    await unit.bench.run(120)
    assert int(dut.waits.value) & 0b100
    for sink in unit.psum:
        sink.stall = 0.0
    expected = [layer.psums(col) for col in range(COLS)]
    await unit.bench.until(lambda: all(len(s.items) >= len(e) for s, e in zip(unit.psum, expected, strict=True)))
    assert [sink.items for sink in unit.psum] == expected
