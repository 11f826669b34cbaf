"""cocotb tests of the row's tap of a multicast trunk."""

import cocotb
from cocotb_block import Bench, arch, seeds
from models import row_words

from rowmesh.hw.layouts import flit_layout, word_layout
from rowmesh.hw.multicast import ROW_FIELDS

CONFIG, _ = arch()
LANES = CONFIG.flit_words


async def _start(dut, seed=0):
    bench = Bench(dut, seed)
    trunk = bench.source("i", flit_layout(CONFIG))
    onward = bench.sink("o", flit_layout(CONFIG), stable=False)  # gated by the row's leg
    row = bench.sink("row", word_layout(CONFIG))
    dut.write.value = 0
    dut.commit.value = 0
    await bench.reset()
    return bench, trunk, onward, row


async def _write(bench, values):
    words = [0, 0]
    for name, word, shift in ROW_FIELDS:
        words[word] |= values.get(name, 0) << shift
    for k, word in enumerate(words):
        bench.dut.write.value = 1 << k
        bench.dut.write_data.value = word
        await bench.step()
    bench.dut.write.value = 0


async def _commit(bench):
    bench.dut.commit.value = 1
    await bench.step()
    bench.dut.commit.value = 0


async def _subscribe(bench, values):
    await _write(bench, values)
    await _commit(bench)


def _flit(random, span):
    low, high = sorted(random.choices(range(LANES), k=2))
    return {
        "data": [random.getrandbits(CONFIG.data_width) for _ in range(LANES)],
        "low": low,
        "high": high,
        "phase": random.randrange(span),
        "index": random.randrange(span),
        "edge": random.getrandbits(CONFIG.edge_flags),
    }


def _range(random, span, name):
    low, high = sorted(random.choices(range(span), k=2))
    return {f"{name}_low": low, f"{name}_high": high}


@cocotb.test()
async def random_subscriptions(dut):
    """Exactly the subscribed words, once and in order, and every flit onward, with stalls on all sides.

    The next subscription is written meanwhile.
    """
    bench, trunk, onward, row = await _start(dut)
    delivered = 0
    cases = []
    for random in seeds(25):
        span = random.choice((2, 4, 1 << CONFIG.tag_width))
        subscription = {"enable": int(random.random() < 0.9)}
        subscription |= _range(random, span, "phase") | _range(random, span, "index") | _range(random, LANES, "lane")
        cases.append((random, span, subscription))
    await _write(bench, cases[0][2])
    for number, (random, span, subscription) in enumerate(cases):
        await _commit(bench)
        flits = [_flit(random, span) for _ in range(40)]
        expected = row_words(flits, subscription)
        total = len(expected)
        bench.random_stalls()
        trunk.send(flits)
        await bench.run(random.randrange(20))
        await _write(bench, cases[(number + 1) % len(cases)][2])
        await bench.until(lambda total=total: len(onward.items) >= 40 and len(row.items) >= total)
        await bench.run(12)
        assert onward.items == flits
        assert row.items == expected
        delivered += len(expected)
        bench.clear()
    assert delivered > 300


@cocotb.test()
async def one_flit_a_cycle_past_the_tap(dut):
    """What the row does not take passes at one flit a cycle, one cycle later."""
    bench, trunk, onward, row = await _start(dut)
    random = next(seeds(1))
    await _subscribe(bench, {"enable": 1, "lane_high": LANES - 1, "phase_low": 9, "phase_high": 9, "index_high": 15})
    flits = [_flit(random, 8) for _ in range(50)]
    trunk.send(flits)
    await bench.until(lambda: len(onward.items) == 50, 100)
    assert onward.items == flits
    assert [b - a for a, b in zip(trunk.cycles, onward.cycles, strict=True)] == [1] * 50
    assert trunk.cycles[-1] - trunk.cycles[0] == 49
    assert not row.items


@cocotb.test()
async def one_word_a_cycle_into_the_row(dut):
    """Subscribed flits give a word each cycle without a bubble, ``latency`` cycles after the flit."""
    bench, trunk, onward, row = await _start(dut)
    subscription = {"enable": 1, "lane_high": LANES - 1, "phase_high": 15, "index_high": 15}
    await _subscribe(bench, subscription)
    random = next(seeds(1))
    flits = [_flit(random, 8) for _ in range(40)]
    expected = row_words(flits, subscription)
    trunk.send(flits)
    await bench.until(lambda: len(row.items) == len(expected), 1000)
    assert row.items == expected
    assert row.cycles[0] - trunk.cycles[0] == 2
    assert row.cycles[-1] - row.cycles[0] == len(expected) - 1
    await bench.until(lambda: len(onward.items) == 40, 10)


@cocotb.test()
async def a_blocked_row_blocks_only_what_it_takes(dut):
    """Foreign flits pass while the row's bus is blocked; the next subscribed one waits and is not lost."""
    bench, trunk, onward, row = await _start(dut)
    subscription = {"enable": 1, "lane_high": LANES - 1, "phase_low": 1, "phase_high": 1, "index_high": 15}
    await _subscribe(bench, subscription)
    random = next(seeds(1))
    flits = [_flit(random, 1) | {"phase": phase} for phase in (1, 0, 0, 0, 1, 0)]
    bench.stall(1.0, row)
    trunk.send(flits)
    await bench.run(30)
    assert onward.items == flits[:4]
    assert not row.items
    bench.stall(0.0, row)
    await bench.until(lambda: len(onward.items) == 6, 100)
    await bench.run(LANES + 4)
    assert onward.items == flits
    assert row.items == row_words(flits, subscription)
