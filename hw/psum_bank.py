"""A column's psum bank: a buffet that accumulates over passes and hands over only what is final.

The first pass of a tile fills at the tail without a read, middle passes read and update the same words in the same
order, the last one also makes them final. Every pass of a tile sends its words in the fill order, so the bank needs no
addresses: it is driven by three flags of each psum (first, last, start). The drain reads at offsets from the head, only
words that are final, and releases them.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block, memory_style
from rowmesh.hw.buffet import wrapped_sum
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.layouts import psum_layout
from rowmesh.hw.link import Stage

__all__ = ["BANK_EVENTS", "PsumBank", "PsumEntry"]

BANK_EVENTS = ("write", "read", "drain")
"""What a bank reports for the performance counters: words written, read for an update, read by the drain."""


def _updates(psum: Any) -> Any:
    """Whether a psum reads the word that it is added to."""
    return ~psum.first & ~psum.void


class PsumEntry(Block):
    """Register in front of a psum bank, which tells a cycle ahead whether the bank's memory will be busy.

    Contract: one psum a cycle sustained; latency 1 cycle.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    i : In(stream.Signature(psum_layout(config)))
    o : Out(stream.Signature(psum_layout(config)))
        To the bank.
    busy_next : Out(1)
        Whether the bank will be busy in the next cycle. (Only psums of a first pass wait here.)
    held : Out(1)
        A psum is held.
    """

    i: stream.Interface
    o: stream.Interface
    busy_next: Signal
    held: Signal

    latency = Stage.latency
    shared = True

    def __init__(self, config: ArchConfig) -> None:
        self._layout = psum_layout(config)
        port = stream.Signature(self._layout)
        super().__init__({"i": In(port), "o": Out(port), "busy_next": Out(1), "held": Out(1)})

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        m.submodules.stage = stage = Stage(self._layout)
        wiring.connect(m, wiring.flipped(self.i), stage.i)
        wiring.connect(m, stage.o, wiring.flipped(self.o))
        m.d.comb += [
            self.busy_next.eq(self.i.valid & stage.i.ready & _updates(self.i.payload)),
            self.held.eq(stage.o.valid),
        ]
        return m


class PsumBank(Block):
    """An accumulating buffet.

    Contract: one psum a cycle sustained; a word is final ``latency`` cycles after its last psum was accepted; updates
    go before drain reads.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    i : In(stream.Signature(psum_layout(config)))
    offset : In(unsigned)
        Word to be read by the drain, from the head.
    finals : Out(range(depth + 1))
        Words from the head that are final.
    busy : Out(1)
        The memory cannot be read in this cycle.
    enable : In(1)
        Read the word at the offset now: only a final one, and not while busy.
    free : In(1)
        Free ``release`` words at the head now (independent of enable, only final ones).
    release : In(unsigned)
    response : Out(signed(acc_width))
        The word read in the previous cycle.
    blocked : Out(1)
        A psum waits for room.
    occupied : Out(1)
        A word is held, or a psum is on its way to one.
    events : Out(len(BANK_EVENTS))
    """

    i: stream.Interface
    offset: Signal
    finals: Signal
    busy: Signal
    enable: Signal
    free: Signal
    release: Signal
    response: Signal
    blocked: Signal
    occupied: Signal
    events: Signal

    latency = 3
    shared = True

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        depth = config.psum_bank_words
        super().__init__(
            {
                "i": In(stream.Signature(psum_layout(config))),
                "offset": In(ceil_log2(depth)),
                "finals": Out(range(depth + 1)),
                "busy": Out(1),
                "enable": In(1),
                "free": In(1),
                "release": In(range(depth + 1)),
                "response": Out(signed(config.acc_width)),
                "blocked": Out(1),
                "occupied": Out(1),
                "events": Out(len(BANK_EVENTS)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        depth, width = self._config.psum_bank_words, signed(self._config.acc_width)
        store: Any
        m.submodules.store = store = memory.Memory(shape=width, depth=depth, init=[], attrs=memory_style(block=True))
        read, write = store.read_port(domain="sync"), store.write_port()

        tail, base, next_word, head = (Signal(range(depth), name=n) for n in ("tail", "base", "next_word", "head"))
        held, finals = Signal(range(depth + 1)), Signal(range(depth + 1))
        full = Signal()  # held is depth
        second = Signal()  # the next psum is the second of its pass

        psum = self.i.payload
        accept, update, busy = Signal(), Signal(), Signal()
        address = Signal(range(depth))
        stages = []
        for k in range(2):
            stages.append(
                {
                    "valid": Signal(name=f"valid{k}"),
                    "address": Signal(range(depth), name=f"address{k}"),
                    "value": Signal(width, name=f"value{k}", reset_less=True),
                    "first": Signal(name=f"first{k}", reset_less=True),
                    "last": Signal(name=f"last{k}", reset_less=True),
                    "void": Signal(name=f"void{k}", reset_less=True),
                    "start": Signal(name=f"start{k}", reset_less=True),
                    "second": Signal(name=f"second{k}", reset_less=True),
                }
            )
        one, two = stages
        old, total, written = (Signal(width, reset_less=True, name=name) for name in ("old", "total", "written"))
        # a word meets its own update, on its way to the memory, only where a pass of one or two words starts again
        again1, again2 = Signal(reset_less=True), Signal(reset_less=True)

        with m.If(psum.first):
            m.d.comb += address.eq(tail)
        with m.Elif(psum.start):
            m.d.comb += address.eq(base)
        with m.Else():
            m.d.comb += address.eq(next_word)
        m.d.comb += [
            self.i.ready.eq(~(psum.first & full)),
            accept.eq(self.i.valid & self.i.ready),
            update.eq(_updates(psum)),
            busy.eq(self.i.valid & update),
            self.blocked.eq(self.i.valid & psum.first & full),
            self.occupied.eq((held != 0) | one["valid"] | two["valid"]),
            self.finals.eq(finals),
            self.busy.eq(busy),
            read.addr.eq(Mux(busy, address, wrapped_sum(m, head, self.offset, depth, "drain_address"))),
            read.en.eq(1),  # what is read without a need is not looked at
        ]
        with m.If(accept):
            m.d.sync += [next_word.eq(wrapped_sum(m, address, 1, depth, "after")), second.eq(psum.start)]
            with m.If(psum.first):
                m.d.sync += tail.eq(wrapped_sum(m, address, 1, depth, "after_tail"))
                with m.If(psum.start):
                    m.d.sync += base.eq(tail)
        m.d.sync += [
            one["valid"].eq(accept),
            one["address"].eq(address),
            one["value"].eq(psum.value),
            one["first"].eq(psum.first),
            one["last"].eq(psum.last),
            one["void"].eq(psum.void),
            one["start"].eq(psum.start),
            one["second"].eq(second & ~psum.start),
            *[two[name].eq(one[name]) for name in one],
            again1.eq(psum.start & one["start"] & one["valid"] & ~one["void"]),
            again2.eq(Mux(psum.start, two["start"], second & two["second"]) & two["valid"] & ~two["void"]),
            old.eq(Mux(again1, total, Mux(again2, written, read.data))),
            written.eq(total),
        ]
        # with free coming late, all that it selects from is computed without it
        final = Signal()
        m.d.comb += [
            write.addr.eq(two["address"]),
            total.eq(Mux(two["first"], 0, old) + two["value"]),
            write.data.eq(total),
            write.en.eq(two["valid"] & ~two["void"]),
            final.eq(two["valid"] & two["last"]),
        ]
        for value, more in ((held, accept & psum.first), (finals, final)):
            more_left, more_kept = (Signal.like(value, name=f"{value.name}_{way}") for way in ("freed", "kept"))
            m.d.comb += [more_left.eq(value - self.release + more), more_kept.eq(value + more)]
            m.d.sync += value.eq(Mux(self.free, more_left, more_kept))
        with m.If(self.free & (self.release != 0)):
            m.d.sync += full.eq(0)
        with m.Elif(accept & psum.first & (held == depth - 1)):
            m.d.sync += full.eq(1)
        next_head = wrapped_sum(m, head, self.release, depth, "next_head")
        with m.If(self.free):
            m.d.sync += head.eq(next_head)
        m.d.comb += [
            self.response.eq(read.data),
            self.events[0].eq(write.en),
            self.events[1].eq(accept & update),
            self.events[2].eq(self.enable),
        ]
        return m
