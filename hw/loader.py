"""Load engines: segments of memory to a buffet.

A read is requested only when the destination has room for the whole burst: the channel is never occupied by a transfer
that cannot go on.
"""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2, exact_log2

from rowmesh.hw.block import Block
from rowmesh.hw.config import COORDINATE_WIDTH, ArchConfig
from rowmesh.hw.descriptor import Descriptor, Engine, Field
from rowmesh.hw.link import Buffer, Fifo, Stage
from rowmesh.hw.nest import ConfigBus, LoopNest
from rowmesh.hw.segments import (
    LENGTH_WIDTH,
    Beats,
    Segments,
    Splitter,
    address_width,
    burst_layout,
    request_layout,
    segment_fields,
    segment_layout,
)

__all__ = ["DEBT", "LONGEST_SKIP", "SKIP_WIDTH", "Loader", "loader_descriptor", "order_entries"]

SKIP_WIDTH = 8
"""Bits of the number of slots skipped in one cycle."""

LONGEST_SKIP = (1 << SKIP_WIDTH) - 1
"""Slots skipped in one cycle, no more than the destination has."""

DEBT = 8
"""Beats that may have to wait for skips; see Loader."""

_BEAT_FIFO = 16  # one distributed RAM deep


def order_entries(config: ArchConfig) -> int:
    """Bursts and skips that a load engine has under way."""
    return 1 << ceil_log2(config.read_bursts + DEBT)


def loader_descriptor(config: ArchConfig, engine: Engine, clip: bool) -> Descriptor:
    """Descriptor of a load engine.

    Parameters
    ----------
    config : ArchConfig
    engine : Engine
    clip : bool
        With the coordinates of a tensor whose borders skip slots.
    """
    outputs = {"address": address_width(config)}
    fields = segment_fields(config)
    if clip:
        outputs |= {name: COORDINATE_WIDTH for name in ("x", "y", "block")}
        fields += [
            Field("width", COORDINATE_WIDTH, "beats of a row of the tensor; x outside is skipped"),
            Field("height", COORDINATE_WIDTH, "rows of the tensor; y outside is skipped"),
            Field("blocks", COORDINATE_WIDTH, "channel blocks of the tensor; a block outside is skipped"),
        ]
    return Descriptor(engine, config.nest_levels, outputs, tuple(fields))


class Loader(Block):
    """A load engine: segments of memory to a buffet, with slots skipped where a tensor ends.

    Contract: one beat a cycle sustained; the first request comes ``latency`` cycles after the start token, a
    beat leaves ``data_latency`` cycles after it came in. A request is made only if the destination has room
    for the burst.

    With ``clip``, beats x to x + length - 1 of row y of a block are wanted; what lies outside the tensor
    costs no traffic but takes its slots: left skip, data, right skip. Skips of neighbouring segments are
    merged, and a skip goes along with the beat before it where there is one, so a border costs no cycle.
    ``skip`` may therefore come together with a fill, and then stands for slots *behind* the filled word.

    Parameters
    ----------
    config : ArchConfig
    engine : Engine
    clip : bool
    depth : int
        Words of the destination.
    release_width : int, optional
        Bits of ``freed``; by default any number up to the depth.

    Members
    -------
    config : In(ConfigBus())
    start : In(stream.Signature(1))
    request : Out(stream.Signature(request_layout(config)))
        To the arbiter.
    data : In(Beats(axi_data_width))
        Beats in the order of the requests, accepted at any time.
    fill : Out(stream.Signature(axi_data_width))
        To the destination; its ready is not looked at.
    skip : Out(SKIP_WIDTH)
        Slots to skip, behind a word filled in the same cycle; only with ``clip``.
    freed : In(release_width)
        Words that the destination released in this cycle.
    idle : Out(1)
        No descriptor is left, and all beats and skips have left.
    waiting : Out(1)
        A burst or a skip waits for room.
    requested : Out(bits_for(burst_beats))
        Beats requested in this cycle.
    """

    config: Any
    start: stream.Interface
    request: stream.Interface
    data: Any
    fill: stream.Interface
    skip: Signal
    freed: Signal
    idle: Signal
    waiting: Signal
    requested: Signal

    data_latency = 2

    def __init__(
        self, config: ArchConfig, engine: Engine, *, clip: bool, depth: int, release_width: int | None = None
    ) -> None:
        if depth < config.burst_beats:
            raise ValueError(f"depth must be at least burst_beats ({config.burst_beats}), not {depth}")
        self._config, self._clip, self._depth = config, clip, depth
        self.shared = config.clusters > 1  # of each cluster
        self.descriptor = loader_descriptor(config, engine, clip)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "start": In(stream.Signature(1)),
                "request": Out(stream.Signature(request_layout(config))),
                "data": In(Beats(config.axi_data_width)),
                "fill": Out(stream.Signature(unsigned(config.axi_data_width))),
                **({"skip": Out(SKIP_WIDTH)} if clip else {}),
                "freed": In(bits_for(depth) if release_width is None else release_width),
                "idle": Out(1),
                "waiting": Out(1),
                "requested": Out(bits_for(config.burst_beats)),
            }
        )

    @staticmethod
    def cycles_to_request(config: ArchConfig, clip: bool) -> int:
        """Cycles from the start token to the first request."""
        nest = LoopNest.cycles_to_first(config.nest_levels, config.link_segment)
        clipped = 2 * Stage.latency + Buffer.latency if clip else 0
        return nest + Segments.latency + clipped + 2 * Buffer.latency + Splitter.latency + 1

    @property
    def latency(self) -> int:
        """Cycles from the start token to the first request."""
        return self.cycles_to_request(self._config, self._clip)

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        carried = data.StructLayout({"left": LENGTH_WIDTH, "right": LENGTH_WIDTH}) if self._clip else None
        segments = Segments(m, self, config, self.descriptor)
        m.submodules.link = link = Buffer(segment_layout(config, carried))
        m.submodules.splitter = splitter = Splitter(config, carried)
        wiring.connect(m, link.o, splitter.i)
        if self._clip:
            busy = self._clipped(m, segments, link.i)
        else:
            m.d.comb += [
                link.i.valid.eq(segments.valid),
                segments.ready.eq(link.i.ready),
                link.i.payload.address.eq(segments.segment.address),
                link.i.payload.beats.eq(segments.segment.length),
            ]
            busy = Const(0)
        m.submodules.ahead = ahead = Buffer(burst_layout(config, carried))  # the arbiter's grant goes no further
        wiring.connect(m, splitter.o, ahead.i)
        issuing = self._issue(m, ahead.o)
        busy = busy | segments.busy | link.o.valid | splitter.busy | ahead.o.valid | issuing
        m.d.comb += self.idle.eq(~busy)
        return m

    def _clipped(self, m: Module, segments: Segments, o: Any) -> Any:
        """Find the parts of each segment that lie outside: three stages; return whether one is occupied."""
        segment, field, shift = segments.segment, segments.field, exact_log2(self._config.beat_bytes)
        wide = signed(COORDINATE_WIDTH + 2)  # of a signed start plus an unsigned length
        ends = data.StructLayout(
            {
                "address": self._config.axi_addr_width,
                "length": LENGTH_WIDTH,
                "inside": 1,
                "x": signed(COORDINATE_WIDTH),
                "end": wide,
                "over": wide,
            }
        )
        sides = data.StructLayout(
            {
                "address": self._config.axi_addr_width,
                "length": LENGTH_WIDTH,
                "left": LENGTH_WIDTH,
                "right": LENGTH_WIDTH,
            }
        )
        m.submodules.ends = stage = Stage(ends)
        m.submodules.sides = parts = Buffer(sides)  # registers ready, half-way between the nest and the bursts
        m.submodules.clipped = clipped = Stage(o.payload.shape())

        m.d.comb += [
            stage.i.valid.eq(segments.valid),
            segments.ready.eq(stage.i.ready),
            stage.i.payload.address.eq(segment.address),
            stage.i.payload.length.eq(segment.length),
            stage.i.payload.inside.eq(
                (field["width"] != 0)
                & (segment.y >= 0)
                & (segment.y < field["height"])
                & (segment.block >= 0)
                & (segment.block < field["blocks"])
            ),
            stage.i.payload.x.eq(segment.x),
            stage.i.payload.end.eq(segment.x + segment.length),
            stage.i.payload.over.eq(segment.x + segment.length - field["width"]),
        ]

        now, made = stage.o.payload, parts.i.payload
        m.d.comb += [
            parts.i.valid.eq(stage.o.valid),
            stage.o.ready.eq(parts.i.ready),
            made.address.eq(now.address),
            made.length.eq(now.length),
        ]
        with m.If(~now.inside | (now.end <= 0) | (now.over >= now.length)):
            m.d.comb += made.left.eq(now.length)  # no data: all of it counts as left
        with m.Else():
            with m.If(now.x < 0):
                m.d.comb += made.left.eq(-now.x)
            with m.If(now.over > 0):
                m.d.comb += made.right.eq(now.over)

        side, out = parts.o.payload, clipped.i.payload
        m.d.comb += [
            clipped.i.valid.eq(parts.o.valid),
            parts.o.ready.eq(clipped.i.ready),
            out.address.eq(side.address + (side.left << shift)),
            out.beats.eq(side.length - side.left - side.right),
            out.carried.left.eq(side.left),
            out.carried.right.eq(side.right),
        ]
        wiring.connect(m, clipped.o, o)
        return stage.o.valid | parts.o.valid | clipped.o.valid

    def _issue(self, m: Module, bursts: Any) -> Any:
        """Request bursts, deliver their beats and the skips in order; return whether anything is under way.

        A skip without a burst (more than one cycle can skip, or no burst follows) takes a cycle in which a
        beat may arrive, which then waits in the FIFO. DEBT bounds how many: each such skip under way and
        each beat held counts as one.
        """
        config, clip = self._config, self._clip
        chunk = min(LONGEST_SKIP, self._depth)
        beats_shape = unsigned(bits_for(config.burst_beats))
        skip_shape = unsigned(LENGTH_WIDTH + 2)
        entry = data.StructLayout({"beats": beats_shape, **({"skip": SKIP_WIDTH} if clip else {})})
        m.submodules.order = order = Fifo(entry, order_entries(config))
        m.submodules.beats = held = Fifo(unsigned(config.axi_data_width), _BEAT_FIFO)

        # the burst to be issued, behind `skip` slots; `need` is all of it
        valid = Signal()
        burst: Any = Signal(request_layout(config), reset_less=True)
        skip: Any = Signal(skip_shape) if clip else Const(0)
        right, need = Signal(LENGTH_WIDTH), Signal(LENGTH_WIDTH + 3 if clip else beats_shape)
        credits = Signal(range(self._depth + 1), init=self._depth)
        freed = Signal.like(self.freed)
        enough, flushing, issue, take = Signal(), Signal(), Signal(), Signal()
        small = Signal(init=1)  # the skip takes one cycle
        available = Signal(range(2 * self._depth + 1))
        m.d.comb += [
            available.eq(credits + freed),
            self.request.valid.eq(valid & enough & small & ~flushing & order.i.ready),
            self.request.payload.eq(burst),
            issue.eq(self.request.valid & self.request.ready),
            take.eq(issue | (~valid & small & ~flushing)),
            bursts.ready.eq(take),
            order.i.valid.eq(issue),
            order.i.payload.beats.eq(burst.beats),
        ]
        if clip:
            m.d.comb += order.i.payload.skip.eq(skip)
        m.d.sync += [freed.eq(self.freed), credits.eq(Mux(issue, available - need, available))]

        new = bursts.payload
        before: Any = Signal(skip_shape) if clip else Const(0)
        next_need = Signal.like(need)
        m.d.comb += next_need.eq(before + Mux(bursts.valid, new.beats, 0))
        left: Any = Mux(bursts.valid & new.first, new.carried.left, 0) if clip else Const(0)
        if clip:
            m.d.comb += before.eq(Mux(valid, right, skip) + left)
        # credits - need, so that whether there is room for a burst is known with the burst. What is issued changes
        # both: only what is freed, and what is new in `need`, counts
        spare = Signal(range(-(1 << len(need)), self._depth + 1), init=self._depth)
        more = left + Mux(valid, right, 0) + Mux(bursts.valid, new.beats, 0)
        m.d.sync += spare.eq(Mux(take, spare + freed - more, spare + freed))
        m.d.comb += enough.eq(spare >= 0)
        with m.If(take):
            if clip:
                m.d.sync += [
                    right.eq(Mux(bursts.valid & new.last, new.carried.right, 0)),
                    skip.eq(before),
                    small.eq(before <= chunk),
                ]
            m.d.sync += [
                valid.eq(bursts.valid & (new.beats != 0)),
                burst.address.eq(new.address),
                burst.beats.eq(new.beats),
                need.eq(next_need),
            ]

        # a skip that cannot go with a burst: first its size, then the skip
        alone = Signal()
        pending = Signal(range(DEBT + 3))  # such skips under way
        load_alone = Signal()
        if clip:
            size, part = Signal(SKIP_WIDTH, reset_less=True), Signal(SKIP_WIDTH)
            room = Signal()
            m.d.comb += [
                part.eq(Mux(small, skip, chunk)),
                alone.eq(
                    (skip != 0)
                    & (~small | Mux(valid, ~enough, ~bursts.valid))
                    & (credits != 0)
                    & room
                    & order.i.ready
                    & ~flushing
                ),
            ]
            m.d.sync += room.eq(pending + held.level < DEBT)
            with m.If(alone):
                m.d.sync += [flushing.eq(1), size.eq(Mux(part <= credits, part, credits))]
            with m.If(flushing):
                m.d.comb += [
                    order.i.valid.eq(1),
                    order.i.payload.skip.eq(size),
                    order.i.payload.beats.eq(0),
                ]
                m.d.sync += [
                    flushing.eq(0),
                    skip.eq(skip - size),
                    small.eq(skip - size <= chunk),
                    need.eq(need - size),
                    credits.eq(available - size),
                ]
            m.d.sync += pending.eq(pending + flushing - load_alone)

        # delivery: an entry is taken up with the last beat of the one before, its skip goes behind that beat
        remaining = Signal(beats_shape)
        pop, load = Signal(), Signal()
        fill_valid, fill = Signal(), Signal(config.axi_data_width, reset_less=True)
        m.d.comb += [
            held.i.valid.eq(self.data.valid),
            held.i.payload.eq(self.data.data),
            pop.eq(held.o.valid & (remaining != 0)),
            held.o.ready.eq(remaining != 0),
            load.eq((remaining == 0) | (pop & (remaining == 1))),
            order.o.ready.eq(load),
            load_alone.eq(load & order.o.valid & (order.o.payload.beats == 0)),
            self.fill.valid.eq(fill_valid),
            self.fill.payload.eq(fill),
        ]
        m.d.sync += [fill_valid.eq(pop), fill.eq(held.o.payload)]
        with m.If(load):
            m.d.sync += remaining.eq(Mux(order.o.valid, order.o.payload.beats, 0))
        with m.Else():
            m.d.sync += remaining.eq(remaining - pop)
        skipped: Any = Const(0)
        if clip:
            skip_out = Signal(SKIP_WIDTH)
            m.d.sync += skip_out.eq(Mux(load & order.o.valid, order.o.payload.skip, 0))
            m.d.comb += self.skip.eq(skip_out)
            skipped = skip_out != 0
        m.d.sync += [
            self.waiting.eq(Mux(valid, ~enough, (skip != 0) & (credits == 0))),
            self.requested.eq(Mux(issue, burst.beats, 0)),
        ]
        return valid | (skip != 0) | order.o.valid | (remaining != 0) | fill_valid | skipped
