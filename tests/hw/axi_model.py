"""An AXI4 memory, a nest in Python and other helpers for the tests of the memory and the control side."""

import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

PAGE = 4096


def word_at(address: int, width: int) -> int:
    """Content of the memory where a test does not care: a hash of the address."""
    return (address * 0x9E3779B97F4A7C15F39CC0605CEDC835 + 0x1234567) % (1 << width)


class Reads:
    """Read half of a memory; checks every burst."""

    def __init__(
        self,
        axi: Any,
        *,
        latency: int = 10,
        stall: float = 0.0,
        seed: int = 0,
        content: Callable[[int], int] | None = None,
        burst: int = 16,
        fail: int | None = None,
    ) -> None:
        self.axi, self.latency, self.stall, self.burst, self.fail = axi, latency, stall, burst, fail
        self.rng = random.Random(seed)
        self.width = len(axi.rdata)
        self.content = content or (lambda address: word_at(address, self.width))
        self.bursts: list[tuple[int, int]] = []
        self.beats = 0
        self.most_in_flight = 0
        self._extra = 0

    def answer_once_more(self) -> None:
        """Give a beat that nobody has asked for."""
        self._extra = 1

    async def run(self, ctx: Any) -> None:
        axi, size = self.axi, self.width // 8
        queue: deque[list[int]] = deque()
        cycle = 0
        while True:
            ctx.set(axi.arready, self.rng.random() >= self.stall)
            busy = bool(queue) and cycle >= queue[0][0] and self.rng.random() >= self.stall
            ctx.set(axi.rvalid, busy or self._extra)
            if not busy and self._extra:
                self._extra = 0
                ctx.set(axi.rlast, 1)
            if busy:
                _, address, beats, number = queue[0]
                ctx.set(axi.rdata, self.content(address))
                ctx.set(axi.rlast, beats == 1)
                ctx.set(axi.rresp, 2 if number == self.fail else 0)
            sampled = await ctx.tick().sample(axi.arvalid, axi.arready, axi.araddr, axi.arlen, axi.arsize, axi.rready)
            valid, ready, address, length, axsize, rready = sampled[2:]
            if busy and rready:
                self.beats += 1
                queue[0][1] += size
                queue[0][2] -= 1
                if not queue[0][2]:
                    queue.popleft()
            if valid and ready:
                assert address % size == 0
                assert 1 << axsize == size
                assert length < self.burst
                assert address % PAGE + (length + 1) * size <= PAGE, "burst crosses 4 KB"
                queue.append([cycle + self.latency, address, length + 1, len(self.bursts)])
                self.bursts.append((address, length + 1))
                self.most_in_flight = max(self.most_in_flight, len(queue))
            cycle += 1


class Writes:
    """Write half of a memory; checks every burst."""

    def __init__(
        self,
        axi: Any,
        *,
        latency: int = 10,
        stall: float = 0.0,
        seed: int = 0,
        burst: int = 16,
        fail: int | None = None,
    ) -> None:
        self.axi, self.latency, self.stall, self.burst, self.fail = axi, latency, stall, burst, fail
        self.rng = random.Random(seed)
        self.width = len(axi.wdata)
        self.bursts: list[tuple[int, int]] = []
        self.beats: list[tuple[int, int]] = []
        self.cycles: list[int] = []
        self.responses = 0
        self.address_cycles: list[int] = []

    @property
    def memory(self) -> dict[int, int]:
        """Bytes written, by address; asserts that the beats fit the bursts."""
        size, content, beats = self.width // 8, {}, iter(self.beats)
        for address, length in self.bursts:
            for beat in range(length):
                word, strobe = next(beats)
                for byte in range(size):
                    if strobe >> byte & 1:
                        place = address + beat * size + byte
                        assert place not in content, "written twice"
                        content[place] = word >> 8 * byte & 0xFF
        assert next(beats, None) is None
        return content

    async def run(self, ctx: Any) -> None:
        axi, size = self.axi, self.width // 8
        lasts: list[int] = []
        cycle, in_burst, response = 0, 0, False
        held_w: tuple[int, ...] | None = None
        while True:
            ctx.set(axi.awready, self.rng.random() >= self.stall)
            ctx.set(axi.wready, self.rng.random() >= self.stall)
            done = self.responses
            if not response:
                response = (
                    done < len(lasts)
                    and done < len(self.bursts)
                    and cycle >= lasts[done] + self.latency
                    and self.rng.random() >= self.stall
                )
            ctx.set(axi.bvalid, response)
            ctx.set(axi.bresp, 2 if done == self.fail else 0)
            sampled = await ctx.tick().sample(
                axi.awvalid, axi.awready, axi.awaddr, axi.awlen, axi.wvalid, axi.wready, axi.wlast,
                axi.wdata, axi.wstrb, axi.bready,
            )  # fmt: skip
            awvalid, awready, address, length, wvalid, wready, last, word, strobe, bready = sampled[2:]
            if response and bready:
                self.responses += 1
                response = False
            if awvalid and awready:
                assert length < self.burst
                assert address % PAGE + (length + 1) * size <= PAGE, "burst crosses 4 KB"
                self.bursts.append((address, length + 1))
                self.address_cycles.append(cycle)
            if in_burst:
                assert wvalid, "a bubble in a burst"
            if held_w is not None:
                assert (wvalid, word, strobe, last) == held_w, "W changed while it waited"
            held_w = (wvalid, word, strobe, last) if wvalid and not wready else None
            if wvalid and wready:
                self.beats.append((word, strobe))
                self.cycles.append(cycle)
                in_burst = not last
                if last:
                    lasts.append(cycle)
            cycle += 1


Loop = tuple[int, int, int, Mapping[str, int]]


def nest_steps(levels: int, loops: list[Loop], bases: Mapping[str, int]) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield (last flags, outputs) of each step of a nest."""
    loops = loops + [(1, 1, 0, {})] * (levels - len(loops))

    def level(number: int, last: int, values: dict[str, int]) -> Iterator[tuple[int, dict[str, int]]]:
        if number < 0:
            yield last, values
            return
        bound, last_bound, mask, strides = loops[number]
        count = last_bound if mask and mask & ~last == 0 else bound
        for index in range(count):
            moved = {name: value + index * strides.get(name, 0) for name, value in values.items()}
            yield from level(number - 1, last | (index == count - 1) << number, moved)

    yield from level(levels - 1, 0, dict(bases))


async def write_config(ctx: Any, bus: Any, bank: int, words: Mapping[int, int]) -> None:
    """Write descriptor words, one a cycle."""
    ctx.set(bus.valid, 1)
    ctx.set(bus.bank, bank)
    for address, word in words.items():
        ctx.set(bus.address, address)
        ctx.set(bus.data, word)
        await ctx.tick()
    ctx.set(bus.valid, 0)


async def put(ctx: Any, port: Any, value: int) -> None:
    """Put an item into a stream."""
    ctx.set(port.payload, value)
    ctx.set(port.valid, 1)
    while True:
        _, _, ready = await ctx.tick().sample(port.ready)
        if ready:
            break
    ctx.set(port.valid, 0)


def simulate(
    dut: Elaboratable,
    bench: Callable[[Any], Coroutine[Any, Any, None]],
    *background: Callable[[Any], Coroutine[Any, Any, None]],
    limit: int = 20_000,
) -> None:
    """Run a test bench to its end, within a number of cycles."""

    async def deadline(ctx: Any) -> None:
        for _ in range(limit):  # plain ticks: an abandoned repeat() or until() cannot be closed
            await ctx.tick()
        raise AssertionError(f"not finished in {limit} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for process in (*background, deadline):
        simulator.add_testbench(process, background=True)
    simulator.add_testbench(bench)
    simulator.run()
