"""Control: registers, command processor, performance counters, interrupt, watchdog and soft reset.

The host writes the address of a program and a start bit; the command processor fetches the program through a
port of the read arbiter, writes descriptors, starts engines and waits for them (see
:mod:`rowmesh.hw.program`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.hdl import Array, Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from rowmesh.hw.axi import PAGE_BYTES, RESP_OKAY, RESP_SLVERR, Axi4Lite
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import CONFIG_LATENCY, Engine
from rowmesh.hw.link import Buffer, Fifo
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.program import MAGIC, STARTABLE, Op, header_layout
from rowmesh.hw.registers import ADDRESS_WIDTH, COUNTER_BASE, ErrorCode, registers
from rowmesh.hw.segments import Beats, request_layout

__all__ = [
    "RESET_CYCLES",
    "SETTLE_CYCLES",
    "CommandProcessor",
    "Control",
    "Counters",
    "fetch_beats",
]

SETTLE_CYCLES = CONFIG_LATENCY + 2
"""Cycles that configuration words, start tokens and idle bits may take between control and engines."""

RESET_CYCLES = 8
"""Cycles of core_reset in a soft reset."""

_FETCH_BURSTS = 8  # program words that can be under way: enough for one word a cycle at 100 cycles of latency
_LENGTH_WIDTH = 24  # of a program in words


def fetch_beats(config: ArchConfig) -> int:
    """Beats of the first fetch: the program's image must be readable as far as that."""
    return min(config.burst_beats, PAGE_BYTES // config.beat_bytes)


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
    done : Out(1)
        END was executed and all words have arrived (one cycle).
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
    done: Signal
    illegal: Signal
    command: Signal
    first_start: Signal
    moved: Signal

    latency = 4
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
                "done": Out(1),
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
        most = fetch_beats(config)
        shift = exact_log2(config.beat_bytes)
        depth = _FETCH_BURSTS * most
        m.domains.queue = ClockDomain("queue", local=True)
        m.submodules.queue = DomainRenamer("queue")(queue := Fifo(config.axi_data_width, depth, block=True))

        address = Signal(config.axi_addr_width, reset_less=True)
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
            limit.eq(most - address[shift : shift + exact_log2(most)] if most > 1 else 1),
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
            longer.eq(beats > most),
            more.eq(beats - most),
        ]
        with m.If(~pending & some):
            m.d.comb += asked.eq(part)
            m.d.sync += [
                pending.eq(1),
                prepared.address.eq(address),
                prepared.beats.eq(part),
                address.eq(address + (part << shift)),
            ]
        with m.Elif(go):
            m.d.sync += pending.eq(0)
        with m.If(run):
            m.d.sync += [address[shift:].eq(self.address[shift:]), remaining.eq(most)]
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
            with m.State("END"), m.If(drained & ~self.halt):
                m.d.comb += [clear.eq(1), self.done.eq(1)]
                m.next = "IDLE"
            with m.State("DEAD"):  # until a soft reset
                m.d.comb += self.illegal.eq(1)


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


class Control(Block):
    """Registers, command processor, counters, interrupt, watchdog and soft reset.

    Contract: ``active`` rises two cycles after the handshake of the write that starts a run and falls with
    the rise of ``irq``; the register CYCLES counts the cycles between. A register is read in three cycles, a
    counter right after a run in no more than a sweep over all counters.

    Parameters
    ----------
    config : ArchConfig
    counters : Mapping[str, int]
        Names of the performance counters and bits of their increments a cycle.
    waits : sequence of str
        Names of the bits of WAITS.
    engines : sequence of Engine
        Engines in the order of ``starts`` and ``idle``.

    Members
    -------
    s_axil : In(Axi4Lite(12))
    irq : Out(1)
        Level: a run has ended; until irq_clear, the next start, or a soft reset.
    request : Out(stream.Signature(request_layout(config)))
    data : In(Beats(axi_data_width))
        Port of the read arbiter for the program.
    config : Out(ConfigBus())
    starts : Out(array of stream.Signature(1))
    idle : In(len(engines))
    counts : In
        Increments, in the order of ``counters``.
    waits : In(len(waits))
    progress : In(1)
        Something moved: for the watchdog.
    read_error, write_error : In(1)
        A response was an error.
    read_port : In(8)
        With ``read_error``: the arbiter's port.
    outstanding : In(1)
        A read or a write has not been answered.
    active : Out(1)
        A program runs.
    first_active : Out(1)
        ... and has started an engine.
    started : Out(1)
        A run begins with the next cycle.
    halt : Out(1)
        Start no further read or write.
    core_reset : Out(1)
        Reset of everything but the control, for RESET_CYCLES cycles.
    """

    s_axil: Any
    irq: Signal
    request: stream.Interface
    data: Any
    config: Any
    starts: Any
    idle: Signal
    counts: Signal
    waits: Signal
    progress: Signal
    read_error: Signal
    write_error: Signal
    read_port: Signal
    outstanding: Signal
    active: Signal
    first_active: Signal
    started: Signal
    halt: Signal
    core_reset: Signal

    def __init__(
        self,
        config: ArchConfig,
        counters: Mapping[str, int],
        waits: Sequence[str],
        engines: Sequence[Engine] = STARTABLE,
    ) -> None:
        self._config, self._engines = config, tuple(engines)
        self._counters, self._waits = dict(counters), tuple(waits)
        self.registers = registers(tuple(self._counters), self._waits)
        super().__init__(
            {
                "s_axil": In(Axi4Lite(ADDRESS_WIDTH)),
                "irq": Out(1),
                "request": Out(stream.Signature(request_layout(config))),
                "data": In(Beats(config.axi_data_width)),
                "config": Out(ConfigBus()),
                "starts": Out(stream.Signature(1)).array(len(self._engines)),
                "idle": In(len(self._engines)),
                "counts": In(sum(self._counters.values())),
                "waits": In(len(self._waits)),
                "progress": In(1),
                "read_error": In(1),
                "write_error": In(1),
                "read_port": In(8),
                "outstanding": In(1),
                "active": Out(1),
                "first_active": Out(1),
                "started": Out(1),
                "halt": Out(1),
                "core_reset": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        processor = CommandProcessor(self._config, self._engines)
        m.domains.processor = ClockDomain("processor", local=True)
        m.d.comb += [
            ClockSignal("processor").eq(ClockSignal()),
            ResetSignal("processor").eq(ResetSignal() | self.core_reset),
        ]
        m.submodules.processor = DomainRenamer("processor")(processor)
        m.submodules.counters = counters = Counters(tuple(self._counters.values()))
        wiring.connect(m, processor.request, wiring.flipped(self.request))
        wiring.connect(m, wiring.flipped(self.data), processor.data)
        wiring.connect(m, processor.config, wiring.flipped(self.config))
        for inner, outer in zip(processor.starts, self.starts, strict=True):
            wiring.connect(m, inner, wiring.flipped(outer))

        # what the registers hold
        reset = {register.name: register.reset for register in self.registers}
        program = Signal(64)
        watchdog = Signal(32, init=reset["WATCHDOG"])
        enable = Signal(2, init=reset["IRQ_ENABLE"])
        done, error, resetting, irq_done, irq_error = (
            Signal(name=name) for name in ("done", "error", "resetting", "irq_done", "irq_error")
        )
        code, detail = Signal(8), Signal(32)
        waits = Signal(len(self._waits))
        values: dict[str, Any] = {
            "STATUS": Cat(self.active | resetting, done, error, resetting, irq_done | irq_error),
            "PROGRAM": program,
            "ERROR": code,
            "ERROR_DETAIL": detail,
            "WATCHDOG": watchdog,
            "IRQ_ENABLE": enable,
            "WAITS": waits,
        }
        command = self._writes(m, {"PROGRAM": program, "WATCHDOG": watchdog, "IRQ_ENABLE": enable})
        self._reads(m, values, counters)
        with m.If(~error):
            m.d.sync += waits.eq(self.waits)

        # the watchdog
        still, expired = Signal(32), Signal()
        with m.If(~self.active | self.progress | processor.moved):
            m.d.sync += [still.eq(0), expired.eq(0)]
        with m.Else():
            m.d.sync += [still.eq(still + 1), expired.eq((watchdog != 0) & (still + 1 >= watchdog))]

        # the run
        start, soft_reset, irq_clear = command
        timer = Signal(range(max(SETTLE_CYCLES, RESET_CYCLES)))
        late = Signal()
        m.d.sync += counters.clear.eq(self.started)
        m.d.comb += [
            processor.run.eq(self.started),
            processor.address.eq(program),
            processor.halt.eq(self.halt),
            processor.idle.eq(self.idle),
            counters.active.eq(self.active),
            counters.counts.eq(self.counts),
            self.first_active.eq(self.active & processor.first_start),
            self.irq.eq((irq_done & enable[0]) | (irq_error & enable[1])),
        ]
        with m.If(irq_clear):
            m.d.sync += [irq_done.eq(0), irq_error.eq(0)]

        def fail(reason: ErrorCode, what: Any) -> None:
            m.d.sync += [
                self.active.eq(0),
                self.halt.eq(1),
                error.eq(1),
                irq_error.eq(1),
                code.eq(reason),
                detail.eq(what),
            ]
            m.next = "ERROR"

        def begin_reset() -> None:
            m.d.sync += [
                self.active.eq(0),
                self.halt.eq(1),
                resetting.eq(1),
                timer.eq(SETTLE_CYCLES - 1),
                *[flag.eq(0) for flag in (done, error, irq_done, irq_error, code, detail)],
            ]
            m.next = "DRAIN"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(soft_reset):
                    begin_reset()
                with m.Elif(start):
                    m.d.comb += self.started.eq(1)
                    m.d.sync += [self.active.eq(1), done.eq(0), irq_done.eq(0), irq_error.eq(0)]
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(soft_reset):
                    begin_reset()
                with m.Elif(self.read_error):
                    fail(ErrorCode.AXI_READ, self.read_port)
                with m.Elif(self.write_error):
                    fail(ErrorCode.AXI_WRITE, processor.command)
                with m.Elif(processor.illegal):
                    fail(ErrorCode.ILLEGAL_DESCRIPTOR, processor.command)
                with m.Elif(start):
                    fail(ErrorCode.START_WHILE_BUSY, processor.command)
                with m.Elif(expired):
                    fail(ErrorCode.WATCHDOG, processor.command)
                with m.Elif(processor.done):
                    m.d.sync += [self.active.eq(0), done.eq(1), irq_done.eq(1)]
                    m.next = "IDLE"
            with m.State("ERROR"):
                with m.If(soft_reset):
                    begin_reset()
                with m.Elif(start):
                    m.d.sync += irq_error.eq(1)  # nothing runs, but who waits for irq is not left waiting
            with m.State("DRAIN"):
                with m.If(start):
                    m.d.sync += late.eq(1)
                with m.If(timer != 0):
                    m.d.sync += timer.eq(timer - 1)
                with m.Elif(~self.outstanding):
                    m.d.sync += [self.core_reset.eq(1), timer.eq(RESET_CYCLES - 1)]
                    m.next = "RESET"
            with m.State("RESET"):
                with m.If(start):
                    m.d.sync += late.eq(1)
                with m.If(timer != 0):
                    m.d.sync += timer.eq(timer - 1)
                with m.Else():
                    m.d.sync += [self.core_reset.eq(0), resetting.eq(0), self.halt.eq(0), late.eq(0)]
                    m.next = "IDLE"
                    with m.If(late | start):
                        fail(ErrorCode.START_WHILE_BUSY, 0)
        return m

    def _writes(self, m: Module, stores: Mapping[str, Signal]) -> tuple[Signal, Signal, Signal]:
        """Take writes, address and data in any order; return the commands of CONTROL."""
        axi = self.s_axil
        address, word, strobe = Signal(ADDRESS_WIDTH), Signal(32, reset_less=True), Signal(4, reset_less=True)
        has_address, has_word, go, known = Signal(), Signal(), Signal(), Signal()
        commands = Signal(3)
        m.d.comb += [
            axi.awready.eq(~has_address),
            axi.wready.eq(~has_word),
            go.eq(has_address & has_word & ~axi.bvalid),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), address.eq(axi.awaddr)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_word.eq(1), word.eq(axi.wdata), strobe.eq(axi.wstrb)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.Switch(address[2:]):
            for register in self.registers:
                if register.access == "ro":
                    continue
                for part in range(register.words):
                    with m.Case((register.offset >> 2) + part):
                        m.d.comb += known.eq(1)
                        if register.name in stores:
                            target = stores[register.name][32 * part : 32 * part + 32]
                            for byte in range(-(-len(target) // 8)):
                                with m.If(go & strobe[byte]):
                                    m.d.sync += target[8 * byte : 8 * byte + 8].eq(word[8 * byte :])
                        else:
                            m.d.comb += commands.eq(Mux(go & strobe[0], word[:3], 0))
        with m.If(go):
            m.d.sync += [
                has_address.eq(0),
                has_word.eq(0),
                axi.bvalid.eq(1),
                axi.bresp.eq(Mux(known, RESP_OKAY, RESP_SLVERR)),
            ]
        start, soft_reset, irq_clear = Signal(), Signal(), Signal()
        m.d.comb += Cat(start, soft_reset, irq_clear).eq(commands)
        return start, soft_reset, irq_clear

    def _reads(self, m: Module, values: Mapping[str, Any], counters: Counters) -> None:
        """Answer reads; one of a counter waits until its value is complete."""
        axi = self.s_axil
        address = Signal(ADDRESS_WIDTH)
        has_address, known, of_counter = Signal(), Signal(), Signal()
        word = Signal(32)
        m.d.comb += axi.arready.eq(~has_address)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [has_address.eq(1), address.eq(axi.araddr)]
        first = COUNTER_BASE >> 3
        with m.If(address[3:] >= first):
            m.d.comb += [
                of_counter.eq(1),
                known.eq(address[3:] < first + len(self._counters)),
                counters.index.eq(address[3:] - (first - 1)),
            ]
        with m.Else(), m.Switch(address[2:]):
            for register in self.registers:
                if register.offset >= COUNTER_BASE:
                    continue
                for part in range(register.words):
                    with m.Case((register.offset >> 2) + part):
                        m.d.comb += known.eq(1)
                        if register.name == "CYCLES":
                            m.d.comb += [of_counter.eq(1), counters.index.eq(0)]
                        elif register.name in values:
                            m.d.comb += word.eq(values[register.name][32 * part : 32 * part + 32])
                        elif register.access != "wo":
                            m.d.comb += word.eq(register.reset)
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(has_address & ~axi.rvalid & (~of_counter | counters.stable)):
            m.d.sync += [
                has_address.eq(0),
                axi.rvalid.eq(1),
                axi.rdata.eq(Mux(of_counter, counters.value.word_select(address[2], 32), word)),
                axi.rresp.eq(Mux(known, RESP_OKAY, RESP_SLVERR)),
            ]
