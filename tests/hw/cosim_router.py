"""cocotb tests of the routers of a mesh: every mode, every cluster, under any backpressure."""

import cocotb
from cocotb_block import Bench, arch, seeds
from router_mesh import WIDTH

from rowmesh.hw.router import Side, route_word
from rowmesh.sw.mapping.layer import replications, route_of

_, SETTINGS = arch()
ROWS, COLS, OPERAND = SETTINGS["rows"], SETTINGS["cols"], SETTINGS["operand"]
PLACES = [(y, x) for y in range(ROWS) for x in range(COLS)]


class Unit:
    """A bench with the banks' and PEs' sides of all routers."""

    def __init__(self, dut, seed=0):
        self.bench = bench = Bench(dut, seed)
        self.banks = [bench.source(f"i__{k}", WIDTH) for k in range(ROWS * COLS)]
        self.pes = [bench.sink(f"o__{k}", WIDTH, stable=False) for k in range(ROWS * COLS)]
        dut.write.value = 0

    async def configure(self, same, rows=ROWS, cols=COLS):
        """Give every router its route; return for each cluster the bank that it gets its items from, or None."""
        dut, sources = self.bench.dut, []
        for k, (y, x) in enumerate(PLACES):
            route = route_of(same, rows, cols, y, x)
            dut.write.value = 1 << k
            dut.write_data.value = route_word(route.source, route.outputs)
            await self.bench.step()
            used = y < rows and x < cols
            # golden: the first cluster of those that share
            sources.append((0 if same[0] else y) * COLS + (0 if same[1] else x) if used else None)
        dut.write.value = 0
        await self.bench.step()
        return sources

    async def send(self, random, sources, count):
        """Send items from every bank in use; check what every cluster gets."""
        self.bench.clear()
        sent = {k: [random.getrandbits(WIDTH) for _ in range(count)] for k in {*sources} - {None}}
        for k, items in sent.items():
            self.banks[k].send(items)
        wanted = [[] if source is None else sent[source] for source in sources]
        await self.bench.until(lambda: all(len(p.items) >= len(w) for p, w in zip(self.pes, wanted, strict=True)))
        await self.bench.run(5)
        assert [pe.items for pe in self.pes] == wanted


async def _start(dut):
    unit = Unit(dut)
    await unit.bench.reset()
    return unit


@cocotb.test()
async def every_mode_under_backpressure(dut):
    """Exactly once to each cluster of the route, none elsewhere, in order; modes change while nothing is held."""
    unit = await _start(dut)
    for random in seeds(3):
        for same in replications(OPERAND, ROWS, COLS):
            for rows, cols in ((ROWS, COLS), (max(1, ROWS - 1), COLS), (ROWS, max(1, COLS // 2))):
                unit.bench.stall(0.0)
                sources = await unit.configure(same, rows, cols)
                unit.bench.random_stalls()
                await unit.send(random, sources, 40)


@cocotb.test()
async def one_item_a_cycle(dut):
    """Every bank in use sends one item a cycle, whatever the mode, and every cluster gets one."""
    unit = await _start(dut)
    random = next(seeds(1))
    for same in replications(OPERAND, ROWS, COLS):
        sources = await unit.configure(same)
        await unit.send(random, sources, 30)
        for pe in unit.pes:
            assert pe.cycles[-1] - pe.cycles[0] == 29
        for k in {*sources}:
            assert unit.banks[k].cycles[-1] - unit.banks[k].cycles[0] == 29


@cocotb.test()
async def a_hop_takes_a_cycle(dut):
    """The first item reaches a cluster one cycle after each router on its way."""
    unit = await _start(dut)
    for same in replications(OPERAND, ROWS, COLS):
        sources = await unit.configure(same)
        await unit.send(next(seeds(1)), sources, 1)
        for k, (y, x) in enumerate(PLACES):
            hops = (y if same[0] else 0) + (x if same[1] else 0)
            assert unit.pes[k].cycles[0] - unit.banks[sources[k]].cycles[0] == 1 + hops


@cocotb.test()
async def a_stopped_cluster_stops_its_tree_only(dut):
    """While a cluster takes nothing, those that share with it wait, and the others go on."""
    unit = await _start(dut)
    random = next(seeds(1))
    for same in replications(OPERAND, ROWS, COLS):
        sources = await unit.configure(same)
        unit.bench.clear()
        stopped = len(PLACES) - 1
        unit.pes[stopped].stall = 1.0
        for k in {*sources}:
            unit.banks[k].send(random.getrandbits(WIDTH) for _ in range(50))
        await unit.bench.run(120)
        for k, pe in enumerate(unit.pes):
            if sources[k] != sources[stopped]:
                assert len(pe.items) == 50
            else:
                assert len(pe.items) <= 2 * (ROWS + COLS)
        unit.pes[stopped].stall = 0.0
        await unit.bench.until(lambda unit=unit: all(len(pe.items) == 50 for pe in unit.pes))


@cocotb.test()
async def an_unused_router_takes_nothing(dut):
    """Without a route, items of a bank wait."""
    unit = await _start(dut)
    await unit.bench.run(2)
    for k in range(len(PLACES)):
        dut.write.value = 1 << k
        dut.write_data.value = route_word(None, (Side.LOCAL,))
        await unit.bench.step()
    dut.write.value = 0
    unit.banks[0].send([1])
    await unit.bench.run(20)
    assert not unit.banks[0].done
    assert not any(pe.items for pe in unit.pes)
