"""The store engine: beats of the drain's lanes to segments of memory.

A write is requested only when all of its beats are held: the channel is never occupied by a transfer that cannot go on.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from rowmesh.hw.axi import BURST_INCR, RESP_OKAY, Axi4Write, beat_size
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Descriptor, Engine, Field
from rowmesh.hw.drain import beat_layout, lane_depth
from rowmesh.hw.link import Buffer, Fifo, Stage
from rowmesh.hw.nest import ConfigBus, LoopNest
from rowmesh.hw.segments import (
    Segments,
    Splitter,
    address_width,
    burst_layout,
    is_outside,
    request_layout,
    segment_fields,
    segment_layout,
    window_port,
)

__all__ = ["TRANSFERS", "Storer", "storer_descriptor"]

TRANSFERS = 4
"""Bursts whose beats have not left."""

_LANE_WIDTH = 8


def storer_descriptor(config: ArchConfig) -> Descriptor:
    """Descriptor of the store engine."""
    outputs = {"address": address_width(config), "lane": _LANE_WIDTH, "column": _LANE_WIDTH}
    fields = [
        *segment_fields(config),
        Field("columns", bits_for(config.cols), "columns with outputs; segments of columns beyond are dropped"),
        Field("columns_edge", bits_for(config.cols), "columns with outputs where edge_mask holds"),
        Field("edge_mask", config.nest_levels + 1, "levels in their last iterations that select columns_edge"),
    ]
    return Descriptor(Engine.STORE, config.nest_levels, outputs, tuple(fields))


class Storer(Block):
    """The store engine: segments of memory from the beats of one lane each.

    Contract: one beat a cycle sustained, bursts back to back; a burst is started only when all of its beats
    are in the lane's FIFO, so WVALID stays 1 from a burst's first beat to its last. With all beats there,
    AWVALID comes ``latency`` cycles after the start token, and the first WVALID ``data_latency`` cycles after
    AWVALID.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    config : In(ConfigBus())
    start : In(stream.Signature(1))
    lanes : In(array of stream.Signature(beat_layout(config)))
    returned : Out(lanes)
        A beat left the lane's queue, which holds ``lane_depth(config)``.
    axi : Out(Axi4Write)
    halt : In(1)
        Start no further burst.
    window : window_port(config)
        Pages that may be written.
    outside : Out(1)
        A burst outside of them is held; it does not start.
    idle : Out(1)
        No descriptor is left, and all responses have come.
    held : Out(1)
        A beat is held that no burst has taken.
    waiting : Out(1)
        A burst waits for beats.
    outstanding : Out(range(read_bursts + 1))
        Bursts whose response has not come; as many may be in flight as reads.
    responded : Out(1)
        A response has come.
    error : Out(1)
        It was not OKAY.
    unexpected : Out(1)
        A response came that nothing waits for.
    written_words : Out(bits_for(flit_words))
        Data words of the beat written in the cycle before (those with their strobes set).
    written_beats : Out(1)
        A beat was written.
    """

    config: Any
    start: stream.Interface
    lanes: Any
    returned: Signal
    axi: Any
    halt: Signal
    window: Any
    outside: Signal
    idle: Signal
    held: Signal
    waiting: Signal
    outstanding: Signal
    responded: Signal
    error: Signal
    unexpected: Signal
    written_words: Signal
    written_beats: Signal

    data_latency = 2

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self.descriptor = storer_descriptor(config)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "start": In(stream.Signature(1)),
                "lanes": In(stream.Signature(beat_layout(config))).array(config.all_lanes),
                "returned": Out(config.all_lanes),
                "axi": Out(Axi4Write(config.axi_addr_width, config.axi_data_width)),
                "halt": In(1),
                "window": window_port(config),
                "outside": Out(1),
                "idle": Out(1),
                "held": Out(1),
                "waiting": Out(1),
                "outstanding": Out(range(config.read_bursts + 1)),
                "responded": Out(1),
                "error": Out(1),
                "unexpected": Out(1),
                "written_words": Out(bits_for(config.flit_words)),
                "written_beats": Out(1),
            }
        )

    @staticmethod
    def cycles_to_burst(config: ArchConfig) -> int:
        """Cycles from the start token to the first burst, whose address is on its way if its beats are there."""
        nest = LoopNest.cycles_to_first(config.nest_levels, config.link_segment)
        return nest + Segments.latency + Buffer.latency + Splitter.latency + Buffer.latency

    @property
    def latency(self) -> int:
        """Cycles from the start token to AWVALID."""
        return self.cycles_to_burst(self._config) + Buffer.latency

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config, axi = self._config, self.axi
        lane_shape = unsigned(max(1, ceil_log2(config.all_lanes)))
        segments = Segments(m, self, config, self.descriptor)
        m.submodules.link = link = Buffer(segment_layout(config, _LANE_WIDTH))
        m.submodules.splitter = splitter = Splitter(config, _LANE_WIDTH)
        passed = burst_layout(config, _LANE_WIDTH)
        m.submodules.burst = stage = Buffer(data.StructLayout({**passed.members, "outside": 1}))
        segment = segments.segment
        columns = Signal(bits_for(config.cols))
        m.d.comb += [
            link.i.valid.eq(segments.valid),
            segments.ready.eq(link.i.ready),
            link.i.payload.address.eq(segment.address),
            columns.eq(Mux(segment.edge, segments.field["columns_edge"], segments.field["columns"])),
            link.i.payload.beats.eq(Mux(segment.column.as_unsigned() < columns, segment.length, 0)),
            link.i.payload.carried.eq(segment.lane),
        ]
        wiring.connect(m, link.o, splitter.i)
        # a burst never crosses a page, so the page of its first beat tells
        m.d.comb += [
            stage.i.valid.eq(splitter.o.valid),
            splitter.o.ready.eq(stage.i.ready),
            *[getattr(stage.i.payload, name).eq(getattr(splitter.o.payload, name)) for name in passed.members],
            stage.i.payload.outside.eq(is_outside(splitter.o.payload.address, self.window)),
        ]

        # a burst is issued when its beats are there: it reserves them
        transfer = data.StructLayout({"lane": lane_shape, "beats": bits_for(config.burst_beats)})
        m.submodules.transfers = transfers = Fifo(transfer, TRANSFERS)
        m.submodules.address = address = Buffer(request_layout(config))
        burst = stage.o.payload
        heads: list[Any] = []
        covered, unreserved = [], []
        issue = Signal()
        for number, lane in enumerate(self.lanes):
            queue = Fifo(beat_layout(config), lane_depth(config), block=True)
            m.submodules[f"lane{number}"] = queue
            m.submodules[f"head{number}"] = head = Stage(beat_layout(config))  # behind the block RAM's slow output
            wiring.connect(m, queue.o, head.i)
            heads.append(head.o)
            m.d.sync += self.returned[number].eq(queue.o.valid & queue.o.ready)
            free = Signal(range(lane_depth(config) + 1), name=f"free{number}")  # beats held that no burst has reserved
            pushed, reserved = Signal(name=f"pushed{number}"), Signal(name=f"reserved{number}")
            m.d.comb += [
                queue.i.valid.eq(lane.valid),
                queue.i.payload.eq(lane.payload),
                lane.ready.eq(queue.i.ready),
                pushed.eq(lane.valid & lane.ready),
                reserved.eq(issue & (burst.carried == number)),
            ]
            m.d.sync += free.eq(free + pushed - Mux(reserved, burst.beats, 0))
            unreserved.append(free)
            covered.append((burst.carried == number) & (free >= burst.beats))
        enough, empty, go = Signal(), Signal(), Signal()
        m.d.comb += [
            enough.eq(Cat(covered).any()),
            empty.eq(burst.beats == 0),
            go.eq(
                enough
                & ~empty
                & ~burst.outside
                & ~self.halt
                & transfers.i.ready
                & address.i.ready
                & (self.outstanding != config.read_bursts)
            ),
            issue.eq(stage.o.valid & go),
            stage.o.ready.eq(go | empty),
            address.i.valid.eq(issue),
            address.i.payload.address.eq(burst.address),
            address.i.payload.beats.eq(burst.beats),
            transfers.i.valid.eq(issue),
            transfers.i.payload.lane.eq(burst.carried),
            transfers.i.payload.beats.eq(burst.beats),
            axi.awvalid.eq(address.o.valid),
            address.o.ready.eq(axi.awready),
            axi.awaddr.eq(address.o.payload.address),
            axi.awlen.eq(address.o.payload.beats - 1),
            axi.awsize.eq(beat_size(config.axi_data_width)),
            axi.awburst.eq(BURST_INCR),
            axi.awcache.eq(0b0011),
            axi.bready.eq(1),
        ]
        m.d.comb += [
            self.outside.eq(stage.o.valid & burst.outside & ~empty),
            self.held.eq(Cat(unreserved).any()),
        ]
        m.d.sync += self.waiting.eq(stage.o.valid & ~enough & ~empty)

        # the beats of the issued bursts, one a cycle
        last_layout = data.StructLayout({"beat": beat_layout(config), "last": 1})
        m.submodules.beats = beats = Buffer(last_layout)
        remaining = Signal(bits_for(config.burst_beats))
        current = Signal(lane_shape, reset_less=True)
        pop, load = Signal(), Signal()
        view: Any = Signal(beat_layout(config))
        m.d.comb += [
            view.eq(Array(head.payload for head in heads)[current]),
            pop.eq((remaining != 0) & Array(head.valid for head in heads)[current] & beats.i.ready),
            *[head.ready.eq(pop & (current == number)) for number, head in enumerate(heads)],
            beats.i.valid.eq(pop),
            beats.i.payload.beat.eq(view),
            beats.i.payload.last.eq(remaining == 1),
            load.eq((remaining == 0) | (pop & (remaining == 1))),
            transfers.o.ready.eq(load),
            axi.wvalid.eq(beats.o.valid),
            beats.o.ready.eq(axi.wready),
            axi.wdata.eq(beats.o.payload.beat.data),
            axi.wstrb.eq(beats.o.payload.beat.strobe),
            axi.wlast.eq(beats.o.payload.last),
        ]
        with m.If(load):
            m.d.sync += [
                remaining.eq(Mux(transfers.o.valid, transfers.o.payload.beats, 0)),
                current.eq(transfers.o.payload.lane),
            ]
        with m.Else():
            m.d.sync += remaining.eq(remaining - pop)

        word_bytes = config.data_width // 8
        answered = Signal()
        m.d.comb += answered.eq(axi.bvalid & (self.outstanding != 0))
        strobes = Signal(config.flit_words, reset_less=True)  # of the beat written in the cycle before
        total: Any = Const(0)
        for bit in strobes:
            total = total + bit
        m.d.sync += [
            self.outstanding.eq(self.outstanding + issue - answered),
            self.responded.eq(answered),
            self.error.eq(answered & (axi.bresp != RESP_OKAY)),
            self.unexpected.eq(axi.bvalid & ~answered),
            strobes.eq(Cat(view.strobe[k * word_bytes] for k in range(config.flit_words))),
            self.written_beats.eq(pop),
            self.written_words.eq(Mux(self.written_beats, total, 0)),
        ]
        busy = segments.busy | link.o.valid | splitter.busy | stage.o.valid
        m.d.comb += self.idle.eq(~(busy | (self.outstanding != 0)))
        return m
