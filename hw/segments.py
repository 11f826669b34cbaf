"""Segments and bursts: what load engines, read arbiter and store engine hand to one another.

The token of a load or store engine's nest is a *segment*, a run of consecutive beats in memory. A splitter makes bursts
of it.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from rowmesh.hw.axi import PAGE_BYTES
from rowmesh.hw.block import Block
from rowmesh.hw.config import REGION_WIDTH, ArchConfig
from rowmesh.hw.descriptor import Descriptor, Field
from rowmesh.hw.flags import matches
from rowmesh.hw.link import Buffer, Stage
from rowmesh.hw.nest import LoopNest

__all__ = [
    "LENGTH_WIDTH",
    "Beats",
    "Segments",
    "Splitter",
    "address_width",
    "burst_layout",
    "is_outside",
    "request_layout",
    "segment_fields",
    "segment_layout",
    "window_layout",
    "window_port",
]

LENGTH_WIDTH = 16
"""Bits of a segment's length in beats."""


def request_layout(config: ArchConfig) -> data.StructLayout:
    """Return the layout of a read request: address of the first beat, and beats of the burst."""
    return data.StructLayout({"address": config.axi_addr_width, "beats": bits_for(config.burst_beats)})


def window_layout(config: ArchConfig) -> data.StructLayout:
    """Return the layout of an address window: the numbers of its first and its last page of 4 KB."""
    pages = config.axi_addr_width - exact_log2(PAGE_BYTES)
    return data.StructLayout({"first": pages, "last": pages})


def window_port(config: ArchConfig) -> wiring.Member:
    """Return the member by which a block is told its window; all pages if it is not connected."""
    pages = (1 << config.axi_addr_width) // PAGE_BYTES
    return In(window_layout(config), init={"first": 0, "last": pages - 1})  # type: ignore[call-arg]


def is_outside(address: Value, window: Any) -> Value:
    """Whether the page of an address is outside a window."""
    page = address[exact_log2(PAGE_BYTES) :]
    return (page < window.first) | (page > window.last)


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


def segment_fields(config: ArchConfig) -> list[Field]:
    """Return the fields of a descriptor whose tokens are segments."""
    fields = [
        Field("length", LENGTH_WIDTH, "beats of a segment"),
        Field("length_last", LENGTH_WIDTH, "beats of a segment where length_mask holds"),
        Field("length_mask", config.nest_levels + 1, "levels in their last iterations that select length_last"),
    ]
    if config.axi_addr_width > REGION_WIDTH:
        width = config.axi_addr_width - REGION_WIDTH
        fields.append(Field("address_high", width, "upper bits of all addresses (the nest counts in 4 GB)"))
    return fields


def address_width(config: ArchConfig) -> int:
    """Return the bits of an address that the nest counts in."""
    return min(config.axi_addr_width, REGION_WIDTH)


class Segments:
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
