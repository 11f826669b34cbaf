"""Multicast by subscription: taps that copy what they subscribe to and hand everything on.

A trunk runs along the rows of a cluster, a bus along the PEs of each row. At each hop a tap holds one item and
offers it to its local consumer and to the next hop. The item leaves only when every leg that must take it can, so no
leg sees it twice or misses it; each leg's valid is gated by the other leg's ready, and no ready depends on a valid.
"""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.layouts import flit_layout, lane_width, word_layout
from rowmesh.hw.link import Buffer, Stage

__all__ = ["ROW_FIELDS", "RowTap", "Tap", "subscription"]


class Tap(Block):
    """One hop of a multicast chain.

    Contract: one item a cycle sustained; latency 1 cycle to both legs; an item is delivered to ``local`` exactly once
    if ``match`` holds and never otherwise, and to ``o`` exactly once.

    Parameters
    ----------
    shape : ShapeLike
        An item.
    registered : bool
        Register the ready too (two items held); otherwise ready is combinational from both legs.

    Members
    -------
    i, o : streams of shape
        From the previous and to the next hop; tie ``o.ready`` high behind the last one.
    local : Out(stream.Signature(shape))
    match : In(1)
        The arriving item (``i.payload``) is for the local consumer; held with it, so that no ready waits for a
        comparison.
    held : Out(1)
        An item is held.
    """

    i: stream.Interface
    o: stream.Interface
    local: stream.Interface
    match: Signal
    held: Signal

    latency = 1

    def __init__(self, shape: Any, registered: bool = True) -> None:
        self._shape, self._registered = shape, registered
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "local": Out(stream.Signature(shape)),
                "match": In(1),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        layout = data.StructLayout({"item": self._shape, "match": 1})
        m.submodules.hold = hold = (Buffer if self._registered else Stage)(layout)
        head, served = hold.o.payload, Signal()
        m.d.comb += [
            hold.i.valid.eq(self.i.valid),
            hold.i.payload.item.eq(self.i.payload),
            hold.i.payload.match.eq(self.match),
            self.i.ready.eq(hold.i.ready),
            served.eq(~head.match | self.local.ready),
            self.o.payload.eq(head.item),
            self.local.payload.eq(head.item),
            self.o.valid.eq(hold.o.valid & served),
            self.local.valid.eq(hold.o.valid & head.match & self.o.ready),
            hold.o.ready.eq(served & self.o.ready),
            self.held.eq(hold.o.valid),
        ]
        return m


def subscription(
    m: Module, fields: Mapping[str, tuple[int, int, int]], write: Signal, write_data: Signal, commit: Signal
) -> dict[str, Signal]:
    """Keep a subscription in two steps: what is written takes effect at ``commit``, when the next layer begins.

    Parameters
    ----------
    m : Module
    fields : Mapping[str, (int, int, int)]
        Word, bit position and width of each field.
    write : Signal
        A bit for each word.
    write_data, commit : Signal

    Returns
    -------
    dict of str to Signal
        The fields in effect.
    """
    values = {}
    for name, (word, shift, width) in fields.items():
        written = Signal(width, name=f"{name}_written")
        values[name] = value = Signal(width, name=name)
        with m.If(write[word]):
            m.d.sync += written.eq(write_data[shift : shift + width])
        with m.If(commit):
            m.d.sync += value.eq(written)
    return values


ROW_FIELDS = (
    # (name, width, shift in the row's two words)
    ("phase_low", 0, 0),
    ("phase_high", 0, 8),
    ("index_low", 0, 16),
    ("index_high", 0, 24),
    ("lane_low", 1, 0),
    ("lane_high", 1, 8),
    ("enable", 1, 16),
)
"""Subscription of a row: field, word and bit position."""


class RowTap(Block):
    """A row's tap of the trunk: picks the flits that the row subscribes to and sends their words along the row.

    Contract: one flit a cycle past the tap; one word a cycle into the row, no bubble between flits; latency 2 cycles
    from a flit to its first word.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    i, o : streams of flit_layout(config)
    row : Out(stream.Signature(word_layout(config)))
    write : In(2)
        Write the subscription's word 0 or 1.
    write_data : In(32)
    commit : In(1)
        What was written takes effect (one cycle).
    held : Out(1)
        A flit is held.
    """

    i: stream.Interface
    o: stream.Interface
    row: stream.Interface
    write: Signal
    write_data: Signal
    commit: Signal
    held: Signal

    latency = 2
    shared = True

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(flit_layout(config))),
                "o": Out(stream.Signature(flit_layout(config))),
                "row": Out(stream.Signature(word_layout(config))),
                "write": In(2),
                "write_data": In(32),
                "commit": In(1),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        lanes = unsigned(lane_width(config))
        widths = {"enable": 1, "lane_low": lanes.width, "lane_high": lanes.width}
        fields = {name: (word, shift, widths.get(name, config.tag_width)) for name, word, shift in ROW_FIELDS}
        field = subscription(m, fields, self.write, self.write_data, self.commit)

        m.submodules.tap = tap = Tap(flit_layout(config))
        wiring.connect(m, wiring.flipped(self.i), tap.i)
        wiring.connect(m, tap.o, wiring.flipped(self.o))
        arriving, head = self.i.payload, tap.local.payload
        low, high = Signal(lanes), Signal(lanes)
        m.d.comb += [
            low.eq(Mux(head.low > field["lane_low"], head.low, field["lane_low"])),
            high.eq(Mux(head.high < field["lane_high"], head.high, field["lane_high"])),
            # the last four: the flit's lanes and the row's window overlap
            tap.match.eq(
                field["enable"]
                & (arriving.phase >= field["phase_low"])
                & (arriving.phase <= field["phase_high"])
                & (arriving.index >= field["index_low"])
                & (arriving.index <= field["index_high"])
                & (arriving.low <= field["lane_high"])
                & (arriving.high >= field["lane_low"])
                & (arriving.low <= arriving.high)
                & (field["lane_low"] <= field["lane_high"])
            ),
        ]

        flit: Any = Signal(flit_layout(config), reset_less=True)
        valid = Signal()
        lane = Signal(lanes, reset_less=True)
        end = Signal(lanes, reset_less=True)
        at_end = Signal(reset_less=True)  # lane is end
        m.d.comb += [
            self.held.eq(tap.held | valid),
            self.row.valid.eq(valid),
            self.row.payload.data.eq(Array(flit.data[k] for k in range(config.flit_words))[lane]),
            self.row.payload.index.eq(flit.index),
            self.row.payload.edge.eq(flit.edge),
            tap.local.ready.eq(~valid | (self.row.ready & at_end)),
        ]
        with m.If(tap.local.ready):
            m.d.sync += valid.eq(tap.local.valid)
            with m.If(tap.local.valid):
                m.d.sync += [flit.eq(head), lane.eq(low), end.eq(high), at_end.eq(low == high)]
        with m.Elif(self.row.ready):
            m.d.sync += [lane.eq(lane + 1), at_end.eq(lane + 1 == end)]
        return m
