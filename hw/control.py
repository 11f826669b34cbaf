"""Control: registers, command processor, performance counters, interrupt, watchdog and soft reset.

The host writes the address of a program and a start bit; the command processor fetches the program through a
port of the read arbiter, writes descriptors, starts engines and waits for them (see
:mod:`rowmesh.hw.program`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from rowmesh.hw.axi import PAGE_BYTES, RESP_OKAY, RESP_SLVERR, Axi4Lite
from rowmesh.hw.block import Block
from rowmesh.hw.command_processor import SETTLE_CYCLES, CommandProcessor
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.counters import Counters
from rowmesh.hw.descriptor import Engine
from rowmesh.hw.nest import ConfigBus
from rowmesh.hw.program import STARTABLE
from rowmesh.hw.registers import ADDRESS_WIDTH, COUNTER_BASE, RESET_LIMIT, WRITE_PORT, ErrorCode, registers
from rowmesh.hw.segments import Beats, request_layout, window_layout

__all__ = ["RESET_CYCLES", "Control"]

RESET_CYCLES = 8
"""Cycles of core_reset in a soft reset."""


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
    reset_limit : int
        Cycles that a soft reset waits for answers of the memory.

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
    held : In(1)
        Something is held in the core, or was a few cycles ago.
    progress : In(1)
        Something moved: for the watchdog.
    read_error, write_error : In(1)
        A response was an error.
    read_port : In(8)
        With ``read_error``: the arbiter's port.
    outstanding : In(2)
        A read or a write has not been answered.
    unexpected : In(2)
        A read or a write was answered that was not asked.
    read_outside, write_outside : In(1)
        An access outside of the window was held back.
    outside_port : In(8)
        With ``read_outside``: the arbiter's port.
    window : Out(window_layout(config))
        Pages that a run may access.
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
    held: Signal
    progress: Signal
    read_error: Signal
    write_error: Signal
    read_port: Signal
    outstanding: Signal
    unexpected: Signal
    read_outside: Signal
    write_outside: Signal
    outside_port: Signal
    window: Any
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
        reset_limit: int = RESET_LIMIT,
    ) -> None:
        self._config, self._engines, self._reset_limit = config, tuple(engines), reset_limit
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
                "held": In(1),
                "progress": In(1),
                "read_error": In(1),
                "write_error": In(1),
                "read_port": In(8),
                "outstanding": In(2),
                "unexpected": In(2),
                "read_outside": In(1),
                "write_outside": In(1),
                "outside_port": In(8),
                "window": Out(window_layout(config)),
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
        program, first, last, budget = (
            Signal(64, name=name.lower(), init=reset[name])
            for name in ("PROGRAM", "WINDOW_FIRST", "WINDOW_LAST", "BUDGET")
        )
        watchdog = Signal(32, init=reset["WATCHDOG"])
        enable = Signal(2, init=reset["IRQ_ENABLE"])
        writable = {
            "PROGRAM": program,
            "WATCHDOG": watchdog,
            "IRQ_ENABLE": enable,
            "BUDGET": budget,
            "WINDOW_FIRST": first,
            "WINDOW_LAST": last,
        }
        done, error, resetting, irq_done, irq_error = (
            Signal(name=name) for name in ("done", "error", "resetting", "irq_done", "irq_error")
        )
        code, detail = Signal(8), Signal(32)
        waits = Signal(len(self._waits))
        values: dict[str, Any] = {
            "STATUS": Cat(self.active | resetting, done, error, resetting, irq_done | irq_error),
            "ERROR": code,
            "ERROR_DETAIL": detail,
            "WAITS": waits,
            **writable,
        }
        command = self._writes(m, writable)
        self._reads(m, values, counters)
        with m.If(~error):
            m.d.sync += waits.eq(self.waits)

        # the watchdog
        still, expired = Signal(32), Signal()
        with m.If(~self.active | self.progress | processor.moved):
            m.d.sync += [still.eq(0), expired.eq(0)]
        with m.Else():
            m.d.sync += [still.eq(still + 1), expired.eq((watchdog != 0) & (still + 1 >= watchdog))]

        # the budget: below zero it is spent
        left = Signal(len(budget) + 1)
        with m.If(~self.active & ~self.started):
            m.d.sync += left.eq(budget)
        with m.Else():
            m.d.sync += left.eq(left - 1)

        # addresses: of the window only the pages are looked at
        page, top = exact_log2(PAGE_BYTES), self._config.axi_addr_width
        bad: dict[str, Any] = {
            "PROGRAM": program[: exact_log2(self._config.beat_bytes)].any() | program[top:].any(),
            "WINDOW_FIRST": first[:page].any() | first[top:].any(),
            "WINDOW_LAST": ~last[:page].all(),
        }
        offsets = {register.name: register.offset for register in self.registers}
        m.d.sync += [
            self.window.first.eq(first[page:top]),
            self.window.last.eq(Mux(last[top:].any(), ~0, last[page:top])),
        ]

        # the run
        start, soft_reset, irq_clear = command
        timer = Signal(range(max(self._reset_limit, RESET_CYCLES, SETTLE_CYCLES)))
        late = Signal()
        m.d.sync += counters.clear.eq(self.started)
        m.d.comb += [
            processor.run.eq(self.started),
            processor.address.eq(program),
            processor.halt.eq(self.halt),
            processor.idle.eq(self.idle),
            processor.held.eq(self.held),
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
            m.next = "HALT"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(soft_reset):
                    begin_reset()
                with m.Elif(self.unexpected.any()):
                    fail(ErrorCode.UNEXPECTED, self.unexpected)
                with m.Elif(start):
                    m.d.sync += [done.eq(0), irq_done.eq(0), irq_error.eq(0)]
                    with m.If(Cat(bad.values()).any()):
                        for name in reversed(bad):
                            with m.If(bad[name]):
                                fail(ErrorCode.BAD_ADDRESS, offsets[name])
                    with m.Else():
                        m.d.comb += self.started.eq(1)
                        m.d.sync += self.active.eq(1)
                        m.next = "RUN"
            with m.State("RUN"):
                with m.If(soft_reset):
                    begin_reset()
                with m.Elif(self.read_error):
                    fail(ErrorCode.AXI_READ, self.read_port)
                with m.Elif(self.write_error):
                    fail(ErrorCode.AXI_WRITE, processor.command)
                with m.Elif(self.unexpected.any()):
                    fail(ErrorCode.UNEXPECTED, self.unexpected)
                with m.Elif(self.write_outside):
                    fail(ErrorCode.WINDOW, WRITE_PORT)
                with m.Elif(self.read_outside):
                    fail(ErrorCode.WINDOW, self.outside_port)
                with m.Elif(processor.illegal):
                    fail(ErrorCode.ILLEGAL_DESCRIPTOR, processor.command)
                with m.Elif(start):
                    fail(ErrorCode.START_WHILE_BUSY, processor.command)
                with m.Elif(expired & processor.ending & self.idle.all()):
                    fail(ErrorCode.LEFTOVER, processor.command)
                with m.Elif(expired):
                    fail(ErrorCode.WATCHDOG, processor.command)
                with m.Elif(left[-1]):
                    fail(ErrorCode.BUDGET, processor.command)
                with m.Elif(processor.done):
                    m.d.sync += [self.active.eq(0), done.eq(1), irq_done.eq(1)]
                    m.next = "IDLE"
            with m.State("ERROR"):
                with m.If(soft_reset):
                    begin_reset()
                with m.Elif(start):
                    m.d.sync += irq_error.eq(1)  # nothing runs, but who waits for irq is not left waiting
            with m.State("HALT"):
                with m.If(start):
                    m.d.sync += late.eq(1)
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += timer.eq(self._reset_limit - 1)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(start):
                    m.d.sync += late.eq(1)
                m.d.sync += timer.eq(timer - 1)
                with m.If(~self.outstanding.any()):
                    m.d.sync += [self.core_reset.eq(1), timer.eq(RESET_CYCLES - 1)]
                    m.next = "RESET"
                with m.Elif(timer == 0):  # an answer may still come, so nothing is reset
                    m.d.sync += [resetting.eq(0), late.eq(0)]
                    fail(ErrorCode.UNANSWERED, self.outstanding)
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
