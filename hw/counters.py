"""Performance counters: small registers and a sweep over a memory."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block

__all__ = ["Counters"]


class Counters(Block):
    """Performance counters of 64 bits: cycles, and those of the core.

    Each counter collects its increments in a small register; a sweep over all of them adds these to the
    64-bit values in one memory, one counter a cycle. So a counter costs little more than its increment is
    wide.

    Contract: exact when ``stable`` and not ``active``; up to a sweep late while active.

    Parameters
    ----------
    widths : sequence of int
        Bits of each counter's increment.

    Members
    -------
    clear : In(1)
        Start at zero (one cycle, the last one in which active is 0 or the first one in which it is 1).
    active : In(1)
        Count.
    counts : In(sum(widths))
        Increments of this cycle, one after another.
    index : In(unsigned)
        Counter to be read: 0 for the cycles, k + 1 for increment k.
    value : Out(64)
    stable : Out(1)
        The value belongs to this run, and is complete if the run has ended.
    """

    clear: Signal
    active: Signal
    counts: Signal
    index: Signal
    value: Signal
    stable: Signal

    def __init__(self, widths: Sequence[int]) -> None:
        self._widths = (1, *widths)
        super().__init__(
            {
                "clear": In(1),
                "active": In(1),
                "counts": In(sum(widths)),
                "index": In(range(self.entries)),
                "value": Out(64),
                "stable": Out(1),
            }
        )

    @property
    def entries(self) -> int:
        """Entries of the memory; the sweep must be longer than its pipeline."""
        return max(4, len(self._widths))

    @property
    def settle(self) -> int:
        """Cycles from the end of a run until the values are complete."""
        return self.entries + 3

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        entries = self.entries
        values: Any = memory.Memory(shape=unsigned(64), depth=entries, init=[])
        m.submodules.values = values
        write = values.write_port()
        read, sweep = values.read_port(domain="comb"), values.read_port(domain="comb")
        place = Signal(range(entries))
        fresh = Signal(range(entries + 1), init=entries)  # entries that still hold the last run's value
        settling = Signal(range(self.settle + 1))

        counted, gated = Signal(), Signal(len(self.counts))
        m.d.sync += [counted.eq(self.active), gated.eq(Mux(self.active, self.counts, 0))]
        increments: list[Any] = [counted]
        at = 0
        for width in self._widths[1:]:
            increments.append(gated[at : at + width])
            at += width
        here = Signal(entries, init=1)  # place, one bit an entry
        m.d.sync += here.eq(here.rotate_left(1))
        collected = []
        for number, (width, increment) in enumerate(zip(self._widths, increments, strict=True)):
            total = Signal(width + ceil_log2(entries + 1), name=f"collected{number}")
            collected.append(total)
            kept = Mux(here[number] | self.clear, 0, total)
            m.d.sync += total.eq(kept + increment)

        old, delta = Signal(64, reset_less=True), Signal(max(map(len, collected)), reset_less=True)
        m.d.comb += [
            sweep.addr.eq(place),
            read.addr.eq(self.index),
            self.value.eq(read.data),
            self.stable.eq((fresh == 0) & ~self.clear & (self.active | (settling == 0))),
            write.en.eq(1),
            write.data.eq(old + delta),
        ]
        m.d.sync += [
            place.eq(Mux(place == entries - 1, 0, place + 1)),
            write.addr.eq(place),
            old.eq(Mux(fresh != 0, 0, sweep.data)),
            delta.eq(Array(collected)[place]),
        ]
        with m.If(self.clear):
            m.d.sync += fresh.eq(entries)
        with m.Elif(fresh != 0):
            m.d.sync += fresh.eq(fresh - 1)
        with m.If(self.active):
            m.d.sync += settling.eq(self.settle)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        return m
