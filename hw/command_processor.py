"""The command processor: fetches a program and executes it (see :mod:`rowmesh.hw.program`)."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal, unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from rowmesh.hw.axi import PAGE_BYTES
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import CONFIG_LATENCY, Engine
from rowmesh.hw.link import Buffer, Fifo
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.program import MAGIC, STARTABLE, Op, header_layout
from rowmesh.hw.segments import Beats, request_layout

__all__ = ["CALM_CYCLES", "SETTLE_CYCLES", "CommandProcessor", "fetch_beats", "fetch_depth", "first_fetch"]

SETTLE_CYCLES = CONFIG_LATENCY + 2
"""Cycles that configuration words, start tokens and idle bits may take between control and engines."""

CALM_CYCLES = 2
"""Cycles for which what moves in the core from one place to the next may be seen in neither."""

_FETCH_BURSTS = 8  # program words that can be under way: enough for one word a cycle at 100 cycles of latency
_FIRST_WORDS = 384  # of a program that are fetched before its length is known: no later than the first loads' beats
_LENGTH_WIDTH = 24  # of a program in words


def fetch_beats(config: ArchConfig) -> int:
    """Beats of the largest burst of a program."""
    return min(config.burst_beats, PAGE_BYTES // config.beat_bytes)


def fetch_depth(config: ArchConfig) -> int:
    """Beats of a program that are fetched ahead."""
    return _FETCH_BURSTS * fetch_beats(config)


def first_fetch(config: ArchConfig) -> int:
    """Beats of a program that are fetched before its length is known: its image must be readable as far as that."""
    most = fetch_beats(config)
    return max(most, min(_FIRST_WORDS * 4 // config.beat_bytes, fetch_depth(config) - most))


class CommandProcessor(Block):
    """Fetches a program and executes it.

    Contract: one word of the program a cycle while words are there; the first request ``latency`` cycles
    after ``run``. Words are requested only when there is room for them. START begins when the configuration
    words before it have had SETTLE_CYCLES to arrive, WAIT looks at the idle bits SETTLE_CYCLES after the
    command before it.

    Parameters
    ----------
    config : ArchConfig
    engines : sequence of Engine
        Engines in the order of the members below.

    Members
    -------
    run : In(1)
        Begin (one cycle).
    address : In(axi_addr_width)
        Address of the program, while it runs.
    halt : In(1)
        Execute no further command.
    request : Out(stream.Signature(request_layout(config)))
    data : In(Beats(axi_data_width))
    config : Out(ConfigBus())
    starts : Out(array of stream.Signature(1))
    idle : In(len(engines))
    held : In(1)
        Something is held in the core, or was a few cycles ago.
    done : Out(1)
        END was executed, all words have arrived, all engines are idle and nothing is held (one cycle).
    ending : Out(1)
        END has been reached.
    illegal : Out(1)
        The last word was not legal; from then on.
    command : Out(32)
        The last header.
    first_start : Out(1)
        A START has been executed.
    moved : Out(1)
        A word was executed, or a beat came.
    """

    run: Signal
    address: Signal
    halt: Signal
    request: stream.Interface
    data: Any
    config: Any
    starts: Any
    idle: Signal
    held: Signal
    done: Signal
    ending: Signal
    illegal: Signal
    command: Signal
    first_start: Signal
    moved: Signal

    latency = 4
    end_latency = CALM_CYCLES
    """Cycles from the idle bits of the last engine, if a WAIT and END follow, to ``done``."""
    length_latency = 4 + 2
    """Cycles from the first word of a program to the request of what the first fetch does not hold: four words' time
    (the length is the second one), and a register before and behind the count of beats."""

    def __init__(self, config: ArchConfig, engines: Sequence[Engine] = STARTABLE) -> None:
        self._config, self._engines = config, tuple(engines)
        super().__init__(
            {
                "run": In(1),
                "address": In(config.axi_addr_width),
                "halt": In(1),
                "request": Out(stream.Signature(request_layout(config))),
                "data": In(Beats(config.axi_data_width)),
                "config": Out(ConfigBus()),
                "starts": Out(stream.Signature(1)).array(len(self._engines)),
                "idle": In(len(self._engines)),
                "held": In(1),
                "done": Out(1),
                "ending": Out(1),
                "illegal": Out(1),
                "command": Out(32),
                "first_start": Out(1),
                "moved": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        word, valid, take = Signal(32), Signal(), Signal()
        extend, beats = Signal(), Signal(_LENGTH_WIDTH)
        clear, drained = Signal(), Signal()
        run = Signal()
        m.d.sync += run.eq(self.run)
        self._fetch(m, run, extend, beats, clear, drained, word, valid, take)
        self._execute(m, run, extend, beats, clear, drained, word, valid, take)
        return m

    def _fetch(
        self,
        m: Module,
        run: Signal,
        extend: Signal,
        beats: Signal,
        clear: Signal,
        drained: Signal,
        word: Signal,
        valid: Signal,
        take: Signal,
    ) -> None:
        """Request the first beats after ``run``, up to ``beats`` on ``extend``; give words one by one."""
        config = self._config
        most, ahead_of_length = fetch_beats(config), first_fetch(config)
        shift = exact_log2(config.beat_bytes)
        depth = fetch_depth(config)
        m.domains.queue = ClockDomain("queue", local=True)
        m.submodules.queue = DomainRenamer("queue")(queue := Fifo(config.axi_data_width, depth, block=True))

        address = Signal(config.axi_addr_width - shift, reset_less=True)  # in beats
        remaining = Signal(_LENGTH_WIDTH)  # beats to be requested
        coming = Signal(range(depth + 1))  # beats requested that have not come
        room = Signal(range(depth + 1), init=depth)
        limit, part = Signal(range(most + 1)), Signal(range(most + 1))
        some = Signal()  # there is something to be requested, and room for it
        extended, longer = Signal(), Signal()
        more = Signal(_LENGTH_WIDTH, reset_less=True)
        prepared: Any = Signal(request_layout(config), reset_less=True)
        pending = Signal()
        go, pop = Signal(), Signal()
        m.d.comb += [
            # bursts end at multiples of their length, hence at 4 KB
            limit.eq(most - address[: exact_log2(most)] if most > 1 else 1),
            go.eq(pending & self.request.ready),
            self.request.valid.eq(pending),
            self.request.payload.eq(prepared),
            queue.i.valid.eq(self.data.valid),
            queue.i.payload.eq(self.data.data),
            ClockSignal("queue").eq(ClockSignal()),
            ResetSignal("queue").eq(ResetSignal() | clear),
        ]
        asked = Signal(range(most + 1))
        rest = Signal.like(remaining)
        m.d.comb += rest.eq(remaining - asked)
        # `some` and `part` are a cycle old: that is no more than a burst in two cycles, which is enough
        m.d.sync += [
            remaining.eq(rest),
            part.eq(Mux(remaining < limit, remaining, limit)),
            some.eq((remaining != 0) & (room >= most)),
            extended.eq(extend),
            longer.eq(beats > ahead_of_length),
            more.eq(beats - ahead_of_length),
        ]
        with m.If(~pending & some):
            m.d.comb += asked.eq(part)
            m.d.sync += [
                pending.eq(1),
                prepared.address.eq(address << shift),
                prepared.beats.eq(part),
                address.eq(address + part),
            ]
        with m.Elif(go):
            m.d.sync += pending.eq(0)
        with m.If(run):
            m.d.sync += [address.eq(self.address[shift:]), remaining.eq(ahead_of_length)]
        with m.Elif(extended & longer):
            m.d.sync += remaining.eq(rest + more)
        m.d.sync += [
            coming.eq(coming + asked - self.data.valid),
            room.eq(Mux(clear, depth, room - asked + pop)),
        ]
        m.d.comb += drained.eq((coming == 0) & (remaining == 0) & ~pending)

        words = config.axi_data_width // 32
        index = Signal(range(words))
        fetch = Signal()
        m.submodules.words = DomainRenamer("queue")(ahead := Buffer(unsigned(32)))
        m.d.comb += [
            ahead.i.valid.eq(queue.o.valid),
            ahead.i.payload.eq(queue.o.payload.word_select(index, 32)),
            fetch.eq(queue.o.valid & ahead.i.ready),
            pop.eq(fetch & (index == words - 1)),
            queue.o.ready.eq(pop),
            valid.eq(ahead.o.valid),
            word.eq(ahead.o.payload),
            ahead.o.ready.eq(take),
        ]
        with m.If(fetch):
            m.d.sync += index.eq(index + 1)
        with m.If(clear):
            m.d.sync += index.eq(0)
        m.d.sync += self.moved.eq(take | self.data.valid)

    def _execute(
        self,
        m: Module,
        run: Signal,
        extend: Signal,
        beats: Signal,
        clear: Signal,
        drained: Signal,
        word: Signal,
        valid: Signal,
        take: Signal,
    ) -> None:
        words = self._config.axi_data_width // 32
        header: Any = data.View(header_layout(), word)
        left = Signal(_LENGTH_WIDTH)  # words of the program that have not been taken
        count = Signal(header.count.shape())
        bank, place = Signal(), Signal(16)
        mask = Signal(len(self._engines))
        chosen = Signal(len(self._engines))
        named = Signal()
        settle = Signal(range(SETTLE_CYCLES + 1))
        m.d.comb += [
            *[chosen[k].eq(header.address[engine.value]) for k, engine in enumerate(self._engines)],
            named.eq((header.address & (0xFFFF & ~sum(1 << engine.value for engine in self._engines))) == 0),
            beats.eq((word + (words - 1)) >> exact_log2(words)),
        ]
        m.d.sync += self.config.valid.eq(0)
        with m.If(settle != 0):
            m.d.sync += settle.eq(settle - 1)
        works, calm = Signal(), Signal(range(CALM_CYCLES + 1))
        m.d.comb += works.eq(~self.idle.all() | self.held)
        with m.If(works):
            m.d.sync += calm.eq(0)
        with m.Elif(calm != CALM_CYCLES):
            m.d.sync += calm.eq(calm + 1)
        none_left = Signal()
        with m.If(take):
            m.d.sync += [left.eq(left - 1), none_left.eq(left == 1)]
        for port in self.starts:
            m.d.comb += port.payload.eq(bank)
            with m.If(port.valid & port.ready):
                m.d.sync += port.valid.eq(0)

        def refuse() -> None:
            m.next = "DEAD"

        ready = Signal()
        m.d.comb += ready.eq(valid & ~self.halt)
        with m.FSM():
            with m.State("IDLE"), m.If(run):
                m.d.sync += [self.first_start.eq(0), self.command.eq(0)]
                m.next = "MAGIC"
            with m.State("MAGIC"), m.If(ready):
                m.d.comb += take.eq(1)
                m.next = "LENGTH"
                with m.If(word != MAGIC):
                    refuse()
            with m.State("LENGTH"), m.If(ready):
                m.d.comb += [take.eq(1), extend.eq(1)]
                m.d.sync += [left.eq(word - 2), none_left.eq(0)]
                m.next = "HEADER"
                with m.If((word < 3) | (word >> _LENGTH_WIDTH != 0)):
                    refuse()
            with m.State("HEADER"):
                with m.If(none_left):
                    refuse()
                with m.Elif(ready):
                    m.d.comb += take.eq(1)
                    m.d.sync += [
                        self.command.eq(word),
                        bank.eq(header.bank),
                        place.eq(header.address),
                        count.eq(header.count),
                        mask.eq(chosen),
                    ]
                    with m.Switch(header.op):
                        with m.Case(Op.END):
                            m.next = "END"
                        with m.Case(Op.WRITE), m.If(header.count != 0):
                            m.next = "WRITE"
                        with m.Case(Op.START):
                            m.next = "START"
                        with m.Case(Op.WAIT):
                            m.next = "WAIT"
                        with m.Default():
                            refuse()
                    with m.If(((header.op == Op.START) | (header.op == Op.WAIT)) & ~named):
                        refuse()
            with m.State("WRITE"):
                with m.If(none_left):
                    refuse()
                with m.Elif(ready):
                    m.d.comb += take.eq(1)
                    m.d.sync += [
                        self.config.valid.eq(1),
                        self.config.bank.eq(bank),
                        self.config.address.eq(place),
                        self.config.data.eq(word),
                        place.eq(place + 1),
                        count.eq(count - 1),
                        settle.eq(SETTLE_CYCLES),
                    ]
                    with m.If(count == 1):
                        m.next = "HEADER"
            with m.State("START"), m.If((settle == 0) & ~self.halt):
                m.d.sync += [port.valid.eq(mask[k]) for k, port in enumerate(self.starts)]
                m.next = "STARTING"
            with m.State("STARTING"), m.If(~Cat(port.valid & ~port.ready for port in self.starts).any()):
                m.d.sync += [settle.eq(SETTLE_CYCLES), self.first_start.eq(1)]
                m.next = "HEADER"
            with m.State("WAIT"), m.If((settle == 0) & ((self.idle & mask) == mask)):
                m.next = "HEADER"
            with m.State("END"):
                m.d.comb += self.ending.eq(1)
                with m.If(drained & (calm == CALM_CYCLES) & ~works & (settle == 0) & ~self.halt):
                    m.d.comb += [clear.eq(1), self.done.eq(1)]
                    m.next = "IDLE"
            with m.State("DEAD"):  # until a soft reset
                m.d.comb += self.illegal.eq(1)
