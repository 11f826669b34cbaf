"""DMA: load engines, the arbiter of the read channels, and the store engine.

Every engine is a loop nest whose token is a *segment*, a run of consecutive beats in memory. A splitter makes
bursts of it. A read is requested only when the destination has room for the whole burst, and a write only
when all of its beats are held: neither channel of the memory port is ever occupied by a transfer that cannot
go on.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2, exact_log2

from rowmesh.hw.axi import BURST_INCR, PAGE_BYTES, RESP_OKAY, Axi4Read, Axi4Write, beat_size
from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Descriptor, Engine, Field
from rowmesh.hw.drain import beat_layout, lane_depth
from rowmesh.hw.flags import matches
from rowmesh.hw.link import Buffer, Fifo, Stage
from rowmesh.hw.nest import ConfigBus, LoopNest

__all__ = [
    "DEBT",
    "LENGTH_WIDTH",
    "LONGEST_SKIP",
    "SKIP_WIDTH",
    "Beats",
    "Loader",
    "ReadArbiter",
    "Splitter",
    "Storer",
    "burst_layout",
    "loader_descriptor",
    "order_entries",
    "request_layout",
    "segment_layout",
    "storer_descriptor",
]

LENGTH_WIDTH = 16
"""Bits of a segment's length in beats."""

SKIP_WIDTH = 8
"""Bits of the number of slots skipped in one cycle."""

LONGEST_SKIP = (1 << SKIP_WIDTH) - 1
"""Slots skipped in one cycle, no more than the destination has."""

_COORDINATE_WIDTH = 16
_REGION_WIDTH = 32  # of an address, the part that the nest counts in; the rest is a field of the descriptor
_LANE_WIDTH = 8
_BEAT_FIFO = 16  # one distributed RAM deep
DEBT = 8
"""Beats that may have to wait for skips; see Loader."""


def order_entries(config: ArchConfig) -> int:
    """Bursts and skips that a load engine has under way."""
    return 1 << ceil_log2(config.read_bursts + DEBT)


def request_layout(config: ArchConfig) -> data.StructLayout:
    """Return the layout of a read request: address of the first beat, and beats of the burst."""
    return data.StructLayout({"address": config.axi_addr_width, "beats": bits_for(config.burst_beats)})


def segment_layout(config: ArchConfig, carried: Any = None) -> data.StructLayout:
    """Return the layout of a run of consecutive beats, with what its bursts carry along (None: nothing)."""
    return data.StructLayout(
        {
            "address": config.axi_addr_width,
            "beats": LENGTH_WIDTH,
            **({} if carried is None else {"carried": carried}),
        }
    )


def burst_layout(config: ArchConfig, carried: Any = None) -> data.StructLayout:
    """Return the layout of a burst: first and last tell its place in the segment."""
    return data.StructLayout(
        {
            "address": config.axi_addr_width,
            "beats": bits_for(config.burst_beats),
            "first": 1,
            "last": 1,
            **({} if carried is None else {"carried": carried}),
        }
    )


class Beats(wiring.Signature):
    """Beats without backpressure: the receiver has room for whatever it asked for.

    Members
    -------
    valid : Out(1)
    data : Out(width)
    """

    def __init__(self, width: int) -> None:
        super().__init__({"valid": Out(1), "data": Out(width)})


class Splitter(Block):
    """Splits segments into bursts of at most ``burst_beats`` that do not cross 4 KB.

    Contract: one burst a cycle, no bubble between segments; latency 2 cycles, the second in a link that registers both
    sides. A segment of no beats gives one burst of no beats.

    Parameters
    ----------
    config : ArchConfig
    carried : ShapeLike, optional
        Payload passed from a segment to each of its bursts.

    Members
    -------
    i : In(stream.Signature(segment_layout(config, carried)))
        The address is that of a whole beat.
    o : Out(stream.Signature(burst_layout(config, carried)))
    busy : Out(1)
        A burst is inside.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal

    latency = 1 + Buffer.latency

    def __init__(self, config: ArchConfig, carried: Any = None) -> None:
        self._config, self._carried = config, carried
        super().__init__(
            {
                "i": In(stream.Signature(segment_layout(config, carried))),
                "o": Out(stream.Signature(burst_layout(config, carried))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        m.submodules.link = link = Buffer(self.o.payload.shape())
        wiring.connect(m, link.o, wiring.flipped(self.o))
        o = link.i
        shift = exact_log2(config.beat_bytes)
        page = PAGE_BYTES // config.beat_bytes
        most = min(config.burst_beats, page)

        valid, first = Signal(), Signal(reset_less=True)
        segment: Any = Signal(segment_layout(config, self._carried), reset_less=True)
        room = Signal(range(page + 1), reset_less=True)  # beats to the end of the page
        limit = Signal(range(most + 1), reset_less=True)  # of them, what a burst can take
        fits = Signal(reset_less=True)  # what is left of the segment is one burst
        taken = Signal()
        m.d.comb += [
            taken.eq(~valid | (o.ready & fits)),
            self.i.ready.eq(taken),
            self.busy.eq(valid | link.o.valid),
            o.valid.eq(valid),
            o.payload.address.eq(segment.address),
            o.payload.beats.eq(Mux(fits, segment.beats, limit)),
            o.payload.first.eq(first),
            o.payload.last.eq(fits),
        ]
        if self._carried is not None:
            m.d.comb += o.payload.carried.eq(segment.carried)
        # both of what `taken` selects from are computed before it is known
        place = self.i.payload.address[shift : exact_log2(PAGE_BYTES)]
        near_end = place[exact_log2(most) :].all()  # fewer than `most` beats to the end of the page, or as many
        first_limit = Mux(near_end, most - place[: exact_log2(most)], most)
        rest, rest_limit = Signal.like(room), Signal.like(limit)
        left = Signal(LENGTH_WIDTH)
        m.d.comb += [
            rest.eq(room - limit),
            rest_limit.eq(Mux((rest == 0) | (rest > most), most, rest)),
            left.eq(segment.beats - limit),
        ]
        # left <= rest_limit, without waiting for it
        rest_fits = (left <= most) & ((rest == 0) | (segment.beats <= room))
        with m.If(taken | o.ready):
            m.d.sync += [
                room.eq(Mux(taken, page - place, Mux(rest == 0, page, rest))),
                limit.eq(Mux(taken, first_limit, rest_limit)),
                fits.eq(Mux(taken, self.i.payload.beats <= first_limit, rest_fits)),
                first.eq(taken),
            ]
        with m.If(taken):
            m.d.sync += [valid.eq(self.i.valid), segment.eq(self.i.payload)]
        with m.Elif(o.ready):
            m.d.sync += [
                segment.address.eq(segment.address + (limit << shift)),
                segment.beats.eq(left),
            ]
        return m


def _segment_fields(config: ArchConfig) -> list[Field]:
    fields = [
        Field("length", LENGTH_WIDTH, "beats of a segment"),
        Field("length_last", LENGTH_WIDTH, "beats of a segment where length_mask holds"),
        Field("length_mask", config.nest_levels + 1, "levels in their last iterations that select length_last"),
    ]
    if config.axi_addr_width > _REGION_WIDTH:
        width = config.axi_addr_width - _REGION_WIDTH
        fields.append(Field("address_high", width, "upper bits of all addresses (the nest counts in 4 GB)"))
    return fields


def _address_width(config: ArchConfig) -> int:
    return min(config.axi_addr_width, _REGION_WIDTH)


def loader_descriptor(config: ArchConfig, engine: Engine, clip: bool) -> Descriptor:
    """Descriptor of a load engine.

    Parameters
    ----------
    config : ArchConfig
    engine : Engine
    clip : bool
        With the coordinates of a tensor whose borders skip slots.
    """
    outputs = {"address": _address_width(config)}
    fields = _segment_fields(config)
    if clip:
        outputs |= {name: _COORDINATE_WIDTH for name in ("x", "y", "block")}
        fields += [
            Field("width", _COORDINATE_WIDTH, "beats of a row of the tensor; x outside is skipped"),
            Field("height", _COORDINATE_WIDTH, "rows of the tensor; y outside is skipped"),
            Field("blocks", _COORDINATE_WIDTH, "channel blocks of the tensor; a block outside is skipped"),
        ]
    return Descriptor(engine, config.nest_levels, outputs, tuple(fields))


def storer_descriptor(config: ArchConfig) -> Descriptor:
    """Descriptor of the store engine."""
    outputs = {"address": _address_width(config), "lane": _LANE_WIDTH, "column": _LANE_WIDTH}
    fields = [
        *_segment_fields(config),
        Field("columns", bits_for(config.cols), "columns with outputs; segments of columns beyond are dropped"),
        Field("columns_edge", bits_for(config.cols), "columns with outputs where edge_mask holds"),
        Field("edge_mask", config.nest_levels + 1, "levels in their last iterations that select columns_edge"),
    ]
    return Descriptor(Engine.STORE, config.nest_levels, outputs, tuple(fields))


class _Segments:
    """What load and store engine have in common: the nest, its fields, the count of what runs, a segment in a register.

    Attributes
    ----------
    field : dict
        Scalar fields, for the segment in the register.
    valid, ready, busy
        Handshake of the segment; busy is 1 while a descriptor or a segment is inside.
    segment
        Its address, length, edge (edge_mask holds, if there is such a field) and affine outputs but the address.
    """

    latency = Stage.latency

    def __init__(self, m: Module, block: Any, config: ArchConfig, descriptor: Descriptor) -> None:
        levels = descriptor.levels
        m.submodules.nest = nest = LoopNest(levels, descriptor.outputs, config.link_segment)
        own = descriptor.connect(m, block.config, nest)
        wiring.connect(m, wiring.flipped(block.start), nest.start)
        token = nest.o.payload
        others = [name for name in descriptor.outputs if name != "address"]
        layout = data.StructLayout(
            {
                "bank": 1,
                "address": config.axi_addr_width,
                "length": LENGTH_WIDTH,
                "edge": 1,
                **{name: signed(descriptor.outputs[name]) for name in others},
            }
        )
        m.submodules.segment = stage = Stage(layout)
        self.segment = stage.o.payload
        self.valid, self.ready = stage.o.valid, stage.o.ready
        values = {
            entry.name: descriptor.store(m, own, entry.name, token.bank, self.segment.bank)
            for entry in descriptor.fields
        }
        before, self.field = ({name: value[k] for name, value in values.items()} for k in range(2))
        address = token.out.address.as_unsigned()
        if "address_high" in before:
            address = Cat(address, before["address_high"])
        made = stage.i.payload
        m.d.comb += [
            stage.i.valid.eq(nest.o.valid),
            nest.o.ready.eq(stage.i.ready),
            made.bank.eq(token.bank),
            made.address.eq(address),
            made.length.eq(
                Mux(matches(before["length_mask"], token.last, levels), before["length_last"], before["length"])
            ),
            *[made[name].eq(token.out[name]) for name in others],
        ]
        if "edge_mask" in before:
            m.d.comb += made.edge.eq(matches(before["edge_mask"], token.last, levels))
        # the nest holds no more descriptors than it has registers, so the count cannot overflow
        running = Signal(range(2 * levels + 2 * (levels // config.link_segment) + 8))
        started = block.start.valid & block.start.ready
        m.d.sync += running.eq(running + started - (nest.o.valid & nest.o.ready & token.last.all()))
        self.busy = (running != 0) | stage.o.valid


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
        return nest + _Segments.latency + clipped + Buffer.latency + Splitter.latency + 1

    @property
    def latency(self) -> int:
        """Cycles from the start token to the first request."""
        return self.cycles_to_request(self._config, self._clip)

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        carried = data.StructLayout({"left": LENGTH_WIDTH, "right": LENGTH_WIDTH}) if self._clip else None
        segments = _Segments(m, self, config, self.descriptor)
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
        issuing = self._issue(m, splitter.o)
        busy = busy | segments.busy | link.o.valid | splitter.busy | issuing
        m.d.comb += self.idle.eq(~busy)
        return m

    def _clipped(self, m: Module, segments: _Segments, o: Any) -> Any:
        """Find the parts of each segment that lie outside: three stages; return whether one is occupied."""
        segment, field, shift = segments.segment, segments.field, exact_log2(self._config.beat_bytes)
        wide = signed(_COORDINATE_WIDTH + 2)  # of a signed start plus an unsigned length
        ends = data.StructLayout(
            {
                "address": self._config.axi_addr_width,
                "length": LENGTH_WIDTH,
                "inside": 1,
                "x": signed(_COORDINATE_WIDTH),
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

        chosen = Signal(port_shape)
        picked: Any = Signal(request_layout(config))
        go, done = Signal(), Signal()
        turn = Signal(port_shape)  # the port that went last, of those behind port 0
        with m.Switch(turn):
            for before in range(self._ports):
                others = [1 + (before + k) % (self._ports - 1) for k in range(self._ports - 1)]
                with m.Case(before):
                    for port in reversed([0, *others]):
                        with m.If(waiting[port].valid):
                            m.d.comb += [chosen.eq(port), picked.eq(waiting[port].payload)]
        with m.If(go & (chosen != 0)):
            m.d.sync += turn.eq(chosen)
        m.d.comb += [
            go.eq(
                (~axi.arvalid | axi.arready)
                & ~self.halt
                & (self.outstanding != config.read_bursts)
                & Cat(port.valid for port in waiting).any()
            ),
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
        with m.If(~axi.arvalid | axi.arready):
            m.d.sync += axi.arvalid.eq(go)
        with m.If(go):
            m.d.sync += [axi.araddr.eq(picked.address), axi.arlen.eq(picked.beats - 1)]
        m.d.sync += self.outstanding.eq(self.outstanding + go - done)

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
    idle : Out(1)
        No descriptor is left, and all responses have come.
    waiting : Out(1)
        A burst waits for beats.
    outstanding : Out(range(read_bursts + 1))
        Bursts whose response has not come; as many may be in flight as reads.
    responded : Out(1)
        A response has come.
    error : Out(1)
        It was not OKAY.
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
    idle: Signal
    waiting: Signal
    outstanding: Signal
    responded: Signal
    error: Signal
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
                "lanes": In(stream.Signature(beat_layout(config))).array(config.lanes),
                "returned": Out(config.lanes),
                "axi": Out(Axi4Write(config.axi_addr_width, config.axi_data_width)),
                "halt": In(1),
                "idle": Out(1),
                "waiting": Out(1),
                "outstanding": Out(range(config.read_bursts + 1)),
                "responded": Out(1),
                "error": Out(1),
                "written_words": Out(bits_for(config.flit_words)),
                "written_beats": Out(1),
            }
        )

    @staticmethod
    def cycles_to_burst(config: ArchConfig) -> int:
        """Cycles from the start token to the first burst, whose address is on its way if its beats are there."""
        nest = LoopNest.cycles_to_first(config.nest_levels, config.link_segment)
        return nest + _Segments.latency + Buffer.latency + Splitter.latency + Buffer.latency

    @property
    def latency(self) -> int:
        """Cycles from the start token to AWVALID."""
        return self.cycles_to_burst(self._config) + Buffer.latency

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config, axi = self._config, self.axi
        lane_shape = unsigned(max(1, ceil_log2(config.lanes)))
        segments = _Segments(m, self, config, self.descriptor)
        m.submodules.link = link = Buffer(segment_layout(config, _LANE_WIDTH))
        m.submodules.splitter = splitter = Splitter(config, _LANE_WIDTH)
        m.submodules.burst = stage = Buffer(burst_layout(config, _LANE_WIDTH))
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
        wiring.connect(m, splitter.o, stage.i)

        # a burst is issued when its beats are there: it reserves them
        transfer = data.StructLayout({"lane": lane_shape, "beats": bits_for(config.burst_beats)})
        m.submodules.transfers = transfers = Fifo(transfer, 4)
        m.submodules.address = address = Buffer(request_layout(config))
        burst = stage.o.payload
        heads: list[Any] = []
        covered = []
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
            covered.append((burst.carried == number) & (free >= burst.beats))
        enough, empty, go = Signal(), Signal(), Signal()
        m.d.comb += [
            enough.eq(Cat(covered).any()),
            empty.eq(burst.beats == 0),
            go.eq(
                enough
                & ~empty
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
        strobes = Signal(config.flit_words, reset_less=True)  # of the beat written in the cycle before
        total: Any = Const(0)
        for bit in strobes:
            total = total + bit
        m.d.sync += [
            self.outstanding.eq(self.outstanding + issue - axi.bvalid),
            self.responded.eq(axi.bvalid),
            self.error.eq(axi.bvalid & (axi.bresp != RESP_OKAY)),
            strobes.eq(Cat(view.strobe[k * word_bytes] for k in range(config.flit_words))),
            self.written_beats.eq(pop),
            self.written_words.eq(Mux(self.written_beats, total, 0)),
        ]
        busy = segments.busy | link.o.valid | splitter.busy | stage.o.valid
        m.d.comb += self.idle.eq(~(busy | (self.outstanding != 0)))
        return m
