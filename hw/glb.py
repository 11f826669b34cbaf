"""Global buffer banks: a buffet filled by the DMA and read by a nest that makes flits with tags.

The iact bank's reader checks coordinates: what lies outside the tensor is sent as zeros with the tag it would have
had, without touching memory, so that the programs of the PEs are the same at borders.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from rowmesh.hw.block import Block
from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import COORDINATE_WIDTH, ArchConfig
from rowmesh.hw.descriptor import Descriptor, Engine, Field
from rowmesh.hw.flags import matches
from rowmesh.hw.layouts import flit_layout, lane_width
from rowmesh.hw.link import Buffer, Fifo, Stage
from rowmesh.hw.nest import ConfigBus, LoopNest

__all__ = ["COORDINATE_WIDTH", "OUT_FIFO", "GlobalBank", "reader_descriptor"]

OUT_FIFO = 4
"""Flits of a reader's queue to the trunk."""


def reader_descriptor(config: ArchConfig, engine: Engine) -> Descriptor:
    """Descriptor of a bank's reader: READ_IACT checks coordinates, READ_WEIGHT does not."""
    clip = engine.first is Engine.READ_IACT
    depth = config.glb_iact_flits if clip else config.glb_weight_flits
    levels = config.nest_levels
    mask = levels + 1
    lanes = lane_width(config)
    outputs = {"address": ceil_log2(depth) + 1, "phase": config.tag_width, "index": config.tag_width}
    fields = [
        Field("release", bits_for(depth), "flits freed where release_mask holds"),
        Field("release_mask", mask, "levels whose last iterations end the use of `release` flits"),
        Field("sync_mask", mask, "levels whose last iterations end a tile: offsets start again at the head"),
        Field("low", lanes, "first valid lane"),
        Field("low_first", lanes, "first valid lane where first_mask holds"),
        Field("first_mask", mask, "levels in their first iterations that select low_first"),
        Field("high", lanes, "last valid lane"),
        Field("high_last", lanes, "last valid lane where last_mask holds"),
        Field("last_mask", mask, "levels in their last iterations that select high_last"),
        Field("high_edge", lanes, "last valid lane where last_mask and edge_mask hold"),
        Field("edge_mask", mask, "levels in their last iterations that, with last_mask, select high_edge"),
    ]
    fields += [
        Field(f"edge{k}_mask", mask, f"levels whose last iterations set edge flag {k}")
        for k in range(config.edge_flags)
    ]
    if clip:
        outputs |= {name: COORDINATE_WIDTH for name in ("x", "y", "block")}
        fields += [
            Field("width", COORDINATE_WIDTH, "columns of the tensor; x outside is padding"),
            Field("height", COORDINATE_WIDTH, "rows of the tensor; y outside is padding"),
            Field("blocks", COORDINATE_WIDTH, "channel blocks of the tensor; a block outside is padding"),
            Field("lanes_along_x", 1, "lane k holds column x + k (packed form) instead of column x"),
            Field("pad", config.data_width, "word that stands for padding"),
        ]
    return Descriptor(engine, levels, outputs, tuple(fields))


class GlobalBank(Block):
    """A bank of the global buffer with its read nest.

    Contract: one flit in and one flit out a cycle sustained; the first flit leaves ``latency`` cycles after the start
    token if its word is there.

    Parameters
    ----------
    config : ArchConfig
    engine : Engine
        READ_IACT or READ_WEIGHT.

    Members
    -------
    config : In(ConfigBus())
    start : In(stream.Signature(1))
    fill : In(stream.Signature(axi_data_width))
    skip : In
        Slots to skip at the tail.
    freed : Out
        Flits released in this cycle.
    o : Out(stream.Signature(flit_layout(config)))
    idle : Out(1)
    held : Out(1)
        A flit is held, here or on its way to the trunk.
    starved : Out(1)
        The next flit waits for its fill.
    injected : Out
        Words sent (one cycle later).
    read : Out
        Words read from the bank (one cycle later).
    """

    def __init__(self, config: ArchConfig, engine: Engine) -> None:
        self._config, self._engine = config, engine
        self.shared = config.clusters > 1  # of each cluster
        self.descriptor = reader_descriptor(config, engine)
        clip = engine is Engine.READ_IACT
        depth = config.glb_iact_flits if clip else config.glb_weight_flits
        count = bits_for(config.flit_words)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "start": In(stream.Signature(1)),
                "fill": In(stream.Signature(unsigned(config.axi_data_width))),
                "skip": In(8 if clip else 0),
                "freed": Out(bits_for(depth)),
                "o": Out(stream.Signature(flit_layout(config))),
                "idle": Out(1),
                "held": Out(1),
                "starved": Out(1),
                "injected": Out(count),
                "read": Out(count),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the start token to the first flit."""
        nest = LoopNest.cycles_to_first(self.descriptor.levels, self._config.link_segment)
        return nest + Stage.latency + Buffer.latency + Buffet.latency + Fifo.latency + Stage.latency

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config, descriptor = self._config, self.descriptor
        levels, words = descriptor.levels, config.flit_words
        clip = self._engine is Engine.READ_IACT
        depth = config.glb_iact_flits if clip else config.glb_weight_flits
        m.submodules.nest = nest = LoopNest(levels, descriptor.outputs, config.link_segment)
        m.submodules.buffet = buffet = Buffet(
            unsigned(config.axi_data_width),
            depth,
            release_width=bits_for(depth),
            round_up=False,
            block=True,
            skip_width=8 if clip else 0,
        )
        own = descriptor.connect(m, self.config, nest)
        wiring.connect(m, wiring.flipped(self.start), nest.start)
        wiring.connect(m, wiring.flipped(self.fill), buffet.fill)
        if clip:
            m.d.comb += buffet.skip.eq(self.skip)
        token = nest.o.payload
        pad_bank = Signal()
        field = {
            entry.name: descriptor.store(m, own, entry.name, pad_bank if entry.name == "pad" else token.bank)[0]
            for entry in descriptor.fields
        }

        # first stage: what the flit is
        plan_layout = data.StructLayout(
            {
                "offset": unsigned(len(token.out.address)),
                "release": unsigned(len(self.freed)),
                "sync": 1,
                "bank": 1,
                "touch": 1,  # some word is read
                "mask": words,  # lanes that are not padding
                "end": 1,
                **{name: flit_layout(config)[name].shape for name in ("low", "high", "phase", "index", "edge")},
            }
        )
        m.submodules.flit = flit = Stage(plan_layout)
        m.submodules.plan = plan = Buffer(plan_layout)
        low, high = Signal(lane_width(config)), Signal(lane_width(config))
        first = matches(field["first_mask"], token.first, levels)
        last = matches(field["last_mask"], token.last, levels)
        edge = matches(field["edge_mask"], token.last, levels)
        m.d.comb += [
            low.eq(Mux(first, field["low_first"], field["low"])),
            high.eq(Mux(last, Mux(edge, field["high_edge"], field["high_last"]), field["high"])),
        ]
        inside = Signal(words)
        if clip:
            bounds = {
                name: field[limit].as_signed() for name, limit in (("y", "height"), ("block", "blocks"), ("x", "width"))
            }
            row_inside = Signal()
            m.d.comb += row_inside.eq(
                (token.out.y >= 0)
                & (token.out.y < bounds["y"])
                & (token.out.block >= 0)
                & (token.out.block < bounds["block"])
            )
            for k in range(words):
                x = Signal(signed(COORDINATE_WIDTH + 1), name=f"x{k}")
                m.d.comb += [
                    x.eq(token.out.x + Mux(field["lanes_along_x"], k, 0)),
                    inside[k].eq(row_inside & (x >= 0) & (x < bounds["x"])),
                ]
        else:
            m.d.comb += inside.eq(~0)
        made = flit.i.payload
        m.d.comb += [
            flit.i.valid.eq(nest.o.valid),
            nest.o.ready.eq(flit.i.ready),
            made.bank.eq(token.bank),
            made.offset.eq(token.out.address),
            made.release.eq(Mux(matches(field["release_mask"], token.last, levels), field["release"], 0)),
            made.sync.eq(matches(field["sync_mask"], token.last, levels)),
            made.mask.eq(inside),
            made.end.eq(token.last.all()),
            made.low.eq(low),
            made.high.eq(high),
            made.phase.eq(token.out.phase),
            made.index.eq(token.out.index),
            made.edge.eq(Cat(matches(field[f"edge{k}_mask"], token.last, levels) for k in range(config.edge_flags))),
        ]

        # second stage: whether the buffet is read at all
        def words_read(plan: Any) -> Value:
            lanes = [(plan.low <= k if k < words - 1 else 1) & (plan.high >= k if k else 1) for k in range(words)]
            return plan.mask & Cat(lanes)

        m.d.comb += [
            plan.i.valid.eq(flit.o.valid),
            flit.o.ready.eq(plan.i.ready),
            plan.i.payload.eq(flit.o.payload),
            plan.i.payload.touch.eq(words_read(flit.o.payload).any()),
        ]

        # third stage: the read; a place in the out queue is reserved
        m.submodules.queue = queue = Fifo(flit_layout(config), OUT_FIFO)
        reserved = Signal(range(OUT_FIFO + 1))
        now, go, ready = plan.o.payload, Signal(), Signal()
        pending = Signal()
        held: Any = Signal(plan_layout, reset_less=True)
        m.d.comb += [
            buffet.offset.eq(now.offset),
            buffet.release.eq(now.release),
            buffet.sync.eq(now.sync),
            buffet.quiet.eq(~now.touch),
            ready.eq((~now.touch | buffet.available) & buffet.covered),
            go.eq(plan.o.valid & ready & (reserved != OUT_FIFO)),
            plan.o.ready.eq(ready & (reserved != OUT_FIFO)),
            buffet.enable.eq(go),
            self.freed.eq(Mux(go, now.release, 0)),
            self.starved.eq(plan.o.valid & ~ready),
            self.read.eq(Mux(pending, sum(words_read(held)), 0)),
            self.injected.eq(Mux(pending, held.high - held.low + 1, 0)),
        ]
        m.d.sync += [
            pending.eq(go),
            reserved.eq(reserved + go - (queue.o.valid & queue.o.ready)),
        ]
        with m.If(go):
            m.d.sync += held.eq(now)
        out = queue.i.payload
        m.d.comb += [
            queue.i.valid.eq(pending),
            *[getattr(out, name).eq(getattr(held, name)) for name in ("low", "high", "phase", "index", "edge")],
        ]
        for k in range(words):
            word = buffet.response.word_select(k, config.data_width)
            m.d.comb += out.data[k].eq(Mux(held.mask[k], word, field["pad"] if clip else 0))
        m.d.comb += pad_bank.eq(held.bank)
        m.submodules.out = out_stage = Stage(
            flit_layout(config)
        )  # behind the queue's RAM, before the taps' comparisons
        wiring.connect(m, queue.o, out_stage.i)
        wiring.connect(m, out_stage.o, wiring.flipped(self.o))

        running = Signal(2)
        started = self.start.valid & self.start.ready
        m.d.sync += running.eq(running + started - (go & now.end))
        m.d.comb += [
            self.idle.eq(running == 0),
            self.held.eq((buffet.held != 0) | (reserved != 0) | out_stage.o.valid),
        ]
        return m
