"""Stream registers and queues in simulation: order, exactly once and full rate, with stalls of both sides."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from rowmesh.hw.link import Buffer, Fifo, Stage

KINDS = {
    "buffer": (lambda: Buffer(16), 2),
    "stage": (lambda: Stage(16), 1),
    "fifo1": (lambda: Fifo(16, 1), 1),
    "fifo5": (lambda: Fifo(16, 5), 5),
    "fifo8": (lambda: Fifo(16, 8), 8),
}


def transfer(dut: Any, items: list[int], idle: float, stall: float, seed: int) -> int:
    """Send items through; return the cycles from the first item accepted to the last delivered."""
    rng = random.Random(seed)
    limit = 100 + int(20 * len(items) / (1 - idle) / (1 - stall))
    times: list[int] = []

    async def send(ctx: Any) -> None:
        for item in items:
            while rng.random() < idle:
                await ctx.tick()
            ctx.set(dut.i.valid, 1)
            ctx.set(dut.i.payload, item)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def receive(ctx: Any) -> None:
        received: list[int] = []
        offered = None
        for cycle in range(limit):
            ctx.set(dut.o.ready, ready := rng.random() >= stall)
            _, _, valid, payload, start = await ctx.tick().sample(dut.o.valid, dut.o.payload, dut.i.valid & dut.i.ready)
            if start and not times:
                times.append(cycle)
            if offered is not None:
                assert valid
                assert payload == offered, "an offered item changed"
            offered = payload if valid and not ready else None
            if valid and ready:
                received.append(payload)
                if len(received) == len(items):
                    times.append(cycle)
            elif len(received) == len(items):
                break
        assert received == items

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(send, background=True)
    simulator.add_testbench(receive)
    simulator.run()
    return times[1] - times[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("idle", "stall"), [(0.0, 0.6), (0.6, 0.0), (0.4, 0.4)])
def test_random_stalls(kind: str, idle: float, stall: float) -> None:
    items = [random.Random(7).getrandbits(16) ^ k for k in range(200)]
    transfer(KINDS[kind][0](), items, idle, stall, seed=11)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fifo1"])
def test_rate_and_latency(kind: str) -> None:
    """One item a cycle, and the documented latency; a queue of one item has half the rate."""
    dut: Any = KINDS[kind][0]()
    assert transfer(dut, list(range(50)), 0.0, 0.0, seed=3) == dut.latency + 49


@pytest.mark.parametrize("kind", KINDS)
def test_capacity(kind: str) -> None:
    make, room = KINDS[kind]
    dut: Any = make()

    async def bench(ctx: Any) -> None:
        ctx.set(dut.i.valid, 1)
        accepted = 0
        for _ in range(room + 4):
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            accepted += ready
        assert accepted == room

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
