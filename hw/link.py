"""Links between blocks: registered stream stages.

A *buffer* registers both valid and ready and holds two items; a *stage* registers valid and payload only, so its
ready is combinational from its consumer. A long chain alternates stages with a buffer every few hops.
"""

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, stream
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block, memory_style

__all__ = ["Buffer", "Fifo", "Stage"]


class Buffer(Block):
    """Two-item stream register: no combinational path between its two sides.

    Contract: one item a cycle sustained; latency 1 cycle; holds up to two items.

    Parameters
    ----------
    shape : ShapeLike
        Payload.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    i: stream.Interface
    o: stream.Interface

    latency = 1
    capacity = 2

    def __init__(self, shape: Any) -> None:
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        spare = Signal(self._shape, reset_less=True)
        spare_valid = Signal()
        payload = Signal(self._shape, reset_less=True)
        valid = Signal()
        m.d.comb += [self.i.ready.eq(~spare_valid), self.o.valid.eq(valid), self.o.payload.eq(payload)]
        with m.If(self.o.ready | ~valid):
            m.d.sync += [valid.eq(self.i.valid | spare_valid), spare_valid.eq(0)]
            with m.If(spare_valid):
                m.d.sync += payload.eq(spare)
            with m.Else():
                m.d.sync += payload.eq(self.i.payload)
        with m.Elif(self.i.valid & ~spare_valid):
            m.d.sync += spare_valid.eq(1)
        with m.If(~spare_valid):
            m.d.sync += spare.eq(self.i.payload)
        return m


class Stage(Block):
    """One-item stream register whose ready is combinational from its output.

    Contract: one item a cycle sustained; latency 1 cycle; holds one item.

    Parameters
    ----------
    shape : ShapeLike
        Payload.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    i: stream.Interface
    o: stream.Interface

    latency = 1

    def __init__(self, shape: Any) -> None:
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        payload = Signal(self._shape, reset_less=True)
        valid = Signal()
        m.d.comb += [
            self.i.ready.eq(self.o.ready | ~valid),
            self.o.valid.eq(valid),
            self.o.payload.eq(payload),
        ]
        with m.If(self.i.ready):
            m.d.sync += valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += payload.eq(self.i.payload)
        return m


class Fifo(Block):
    """A first-in first-out queue.

    Contract: one item in and one out a cycle sustained; latency ``latency`` cycles; holds ``depth`` items; neither
    side's handshake depends combinationally on the other's.

    Parameters
    ----------
    shape : ShapeLike
        Payload.
    depth : int
        Items, at least 2 with ``block``.
    block : bool
        Block RAM, whose read register holds the oldest item; otherwise distributed RAM.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    level : Out(range(depth + 1))
        Items held.
    """

    i: stream.Interface
    o: stream.Interface
    level: Signal

    latency = 1
    """Of a queue in distributed RAM; one more with ``block``."""

    def __init__(self, shape: Any, depth: int, *, block: bool = False) -> None:
        self._shape, self._depth, self._block = shape, depth, block
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        # with block, one of the items is in the read register
        stored = self._depth - self._block
        pointer = unsigned(max(1, ceil_log2(stored)))
        store: Any
        m.submodules.store = store = memory.Memory(
            shape=self._shape, depth=1 << pointer.width, init=[], attrs=memory_style(self._block)
        )
        write = store.write_port()
        read = store.read_port(domain="sync" if self._block else "comb")
        head, tail = Signal(pointer), Signal(pointer)
        held = Signal(range(stored + 1))
        full, some = Signal(), Signal()
        push, pop = Signal(), Signal()
        m.d.comb += [
            push.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(~full),
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(head),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [head.eq(head + pop), tail.eq(tail + push)]
        with m.If(push & ~pop):
            m.d.sync += [held.eq(held + 1), some.eq(1), full.eq(held == stored - 1)]
        with m.Elif(pop & ~push):
            m.d.sync += [held.eq(held - 1), some.eq(held != 1), full.eq(0)]
        if self._block:
            ahead = Signal()
            m.d.comb += [
                pop.eq(some & (~ahead | self.o.ready)),
                read.en.eq(pop),
                self.o.valid.eq(ahead),
                self.level.eq(held + ahead),
            ]
            with m.If(~ahead | self.o.ready):
                m.d.sync += ahead.eq(some)
        else:
            m.d.comb += [pop.eq(self.o.valid & self.o.ready), self.o.valid.eq(some), self.level.eq(held)]
        return m
