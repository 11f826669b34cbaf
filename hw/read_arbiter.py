"""The arbiter of the read channels."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.axi import BURST_INCR, RESP_OKAY, Axi4Read, beat_size
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.link import Buffer, Fifo
from rowmesh.hw.segments import (
    Beats,
    request_layout,
)

__all__ = ["ReadArbiter"]

_SMALL = 8  # ports up to which a list of all ports for each of them is small, and its logic that of measured prototypes


class ReadArbiter(Block):
    """Shares the read channels: port 0 goes first, the others in turn; beats come back in order.

    Contract: one burst a cycle; ``latency`` cycles from a request to ARVALID, ``data_latency`` from a beat of
    the R channel to a port. RREADY is always 1. At most ``read_bursts`` bursts are in flight.

    Parameters
    ----------
    config : ArchConfig
    ports : int

    Members
    -------
    requests : In(array of stream.Signature(request_layout(config)))
        Port 0 before all others.
    data : Out(array of Beats(axi_data_width))
    axi : Out(Axi4Read)
    clear : In(1)
        A run starts: turns begin with port 1, whoever had the last one of the run before.
    halt : In(1)
        Start no further burst.
    outstanding : Out(range(read_bursts + 1))
        Bursts whose last beat has not come.
    error : Out(1)
        A beat came with a response other than OKAY (one cycle each).
    error_port : Out(range(ports))
        With ``error``: whose beat.
    """

    requests: Any
    data: Any
    axi: Any
    clear: Signal
    halt: Signal
    outstanding: Signal
    error: Signal
    error_port: Signal

    latency = 2
    data_latency = 1

    def __init__(self, config: ArchConfig, ports: int) -> None:
        self._config, self._ports = config, ports
        super().__init__(
            {
                "requests": In(stream.Signature(request_layout(config))).array(ports),
                "data": Out(Beats(config.axi_data_width)).array(ports),
                "axi": Out(Axi4Read(config.axi_addr_width, config.axi_data_width)),
                "clear": In(1),
                "halt": In(1),
                "outstanding": Out(range(config.read_bursts + 1)),
                "error": Out(1),
                "error_port": Out(range(ports)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config, axi = self._config, self.axi
        port_shape = unsigned(max(1, ceil_log2(self._ports)))
        m.submodules.order = order = Fifo(port_shape, config.read_bursts)
        waiting = []
        for port in range(self._ports):
            m.submodules[f"request{port}"] = buffer = Buffer(request_layout(config))
            wiring.connect(m, wiring.flipped(self.requests[port]), buffer.i)
            waiting.append(buffer.o)

        m.submodules.sent = sent = Buffer(request_layout(config))
        chosen = Signal(port_shape)
        picked: Any = Signal(request_layout(config))
        go, done = Signal(), Signal()
        full = Signal()  # outstanding is read_bursts
        turn = Signal(port_shape)  # the port that went last, of those behind port 0
        choose = self._choose_of_few if self._ports <= _SMALL else self._choose_of_many
        choose(m, waiting, turn, chosen, picked)
        with m.If(go & (chosen != 0)):
            m.d.sync += turn.eq(chosen)
        with m.If(self.clear):
            m.d.sync += turn.eq(0)
        m.d.comb += [
            go.eq(sent.i.ready & ~self.halt & ~full & Cat(port.valid for port in waiting).any()),
            sent.i.valid.eq(go),
            sent.i.payload.eq(picked),
            sent.o.ready.eq(axi.arready),
            axi.arvalid.eq(sent.o.valid),
            axi.araddr.eq(sent.o.payload.address),
            axi.arlen.eq(sent.o.payload.beats - 1),
            *[port.ready.eq(go & (chosen == number)) for number, port in enumerate(waiting)],
            order.i.valid.eq(go),
            order.i.payload.eq(chosen),
            axi.arsize.eq(beat_size(config.axi_data_width)),
            axi.arburst.eq(BURST_INCR),
            axi.arcache.eq(0b0011),
            axi.rready.eq(1),
            done.eq(axi.rvalid & axi.rlast),
            order.o.ready.eq(done),
        ]
        m.d.sync += self.outstanding.eq(self.outstanding + go - done)
        with m.If(done & ~go):
            m.d.sync += full.eq(0)
        with m.Elif(go & ~done):
            m.d.sync += full.eq(self.outstanding == config.read_bursts - 1)

        beat = Signal(config.axi_data_width, reset_less=True)
        owner = order.o.payload
        m.d.sync += [
            beat.eq(axi.rdata),
            self.error.eq(axi.rvalid & (axi.rresp != RESP_OKAY)),
            self.error_port.eq(owner),
        ]
        for number, port in enumerate(self.data):
            m.d.sync += port.valid.eq(axi.rvalid & (owner == number))
            m.d.comb += port.data.eq(beat)
        return m

    def _choose_of_few(self, m: Module, waiting: list[Any], turn: Signal, chosen: Signal, picked: Any) -> None:
        """Choose the next port in turn; each port that may have been the last has its own list of all."""
        with m.Switch(turn):
            for before in range(self._ports):
                others = [1 + (before + k) % (self._ports - 1) for k in range(self._ports - 1)]
                with m.Case(before):
                    for port in reversed([0, *others]):
                        with m.If(waiting[port].valid):
                            m.d.comb += [chosen.eq(port), picked.eq(waiting[port].payload)]

    def _choose_of_many(self, m: Module, waiting: list[Any], turn: Signal, chosen: Signal, picked: Any) -> None:
        """Choose the same port; the size grows with the ports, not with their square."""
        valid = Cat(port.valid for port in waiting)
        later, first = Signal(len(waiting)), Signal(len(waiting))
        m.d.comb += [
            later.eq(valid & (~1 << turn)),  # after the one that went last
            first.eq(Mux(valid[0], 1, Mux(later.any(), later, valid))),
            picked.eq(Array(port.payload for port in waiting)[chosen]),
        ]
        with m.If(valid.any()):
            for port in reversed(range(len(waiting))):
                with m.If(first[port]):
                    m.d.comb += chosen.eq(port)
