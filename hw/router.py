"""Routers of the mesh: statically switched, registered forks.

A router takes flits from one of its inputs (its bank of the global buffer, or a neighbour) and hands each of them to a
fixed set of outputs (its cluster's PEs, neighbours). Source and outputs are configured for a layer. So the routes of a
data type are trees, and no router ever merges two streams.

Source: hierarchical mesh network, Efficient Processing of DNNs, section 5.9.1 and figure 5.36.
"""

import enum
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block
from rowmesh.hw.link import Buffer

__all__ = ["LINKS", "NEIGHBOURS", "Fork", "Router", "Side", "is_own", "route_word"]


class Side(enum.IntEnum):
    """Sides of a router; the value is its number as a source and as an output."""

    LOCAL = 0
    """As a source the cluster's bank, as an output its PEs."""
    NORTH = 1
    EAST = 2
    SOUTH = 3
    WEST = 4

    @property
    def opposite(self) -> "Side":
        """The side of the neighbour that this one is joined to."""
        return self if self is Side.LOCAL else Side((self.value + 1) % 4 + 1)

    @property
    def step(self) -> tuple[int, int]:
        """From a cluster to its neighbour on this side: (rows, columns); rows count northwards."""
        return ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))[self]


NEIGHBOURS = (Side.NORTH, Side.EAST, Side.SOUTH, Side.WEST)

LINKS = {"iact": NEIGHBOURS, "weight": (Side.EAST, Side.WEST)}
"""The neighbours that each data type travels to. (Psums travel north along their columns.)"""

_OUTPUTS_SHIFT = 8


def route_word(source: Side | None, outputs: tuple[Side, ...]) -> int:
    """Configuration word of a router.

    Parameters
    ----------
    source : Side or None
        None: the router is not used.
    outputs : tuple of Side
    """
    used = sum(1 << side for side in outputs) if source is not None else 0
    return (source or 0) | used << _OUTPUTS_SHIFT


def is_own(word: Value) -> Value:
    """Whether a router with this configuration word takes flits from its cluster's bank."""
    return (word[:_OUTPUTS_SHIFT] == Side.LOCAL) & word[_OUTPUTS_SHIFT:].any()


class Fork(Block):
    """A registered fork to a fixed set of outputs.

    Contract: one item a cycle sustained; latency 1 cycle; an item leaves in the one cycle in which all outputs of
    ``mask`` can take it, so each of them gets it exactly once, and the others never. No ready depends on a valid.

    Parameters
    ----------
    shape : ShapeLike
    outputs : int

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(array of stream.Signature(shape))
    mask : In(outputs)
        Changes only while nothing is held.
    moved : Out(1)
        An item leaves.
    held : Out(1)
        An item is held.
    """

    i: stream.Interface
    o: Any
    mask: Signal
    moved: Signal
    held: Signal

    latency = Buffer.latency

    def __init__(self, shape: Any, outputs: int) -> None:
        self._shape, self._outputs = shape, outputs
        port = stream.Signature(shape)
        super().__init__(
            {"i": In(port), "o": Out(port).array(outputs), "mask": In(outputs), "moved": Out(1), "held": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        m.submodules.hold = hold = Buffer(self._shape)
        wiring.connect(m, wiring.flipped(self.i), hold.i)
        served = Signal(self._outputs)
        m.d.comb += [
            *[served[k].eq(~self.mask[k] | self.o[k].ready) for k in range(self._outputs)],
            hold.o.ready.eq(served.all()),
            self.moved.eq(hold.o.valid & served.all()),
            self.held.eq(hold.o.valid),
        ]
        for k in range(self._outputs):
            others = Cat(served[other] for other in range(self._outputs) if other != k)
            m.d.comb += [
                self.o[k].payload.eq(hold.o.payload),
                self.o[k].valid.eq(hold.o.valid & self.mask[k] & others.all()),
            ]
        return m


class Router(Block):
    """A router of one data type.

    Contract: as of :class:`Fork`, for the items of the input that is the source; the other inputs are never ready. A
    new route takes effect when what was taken under the old one has left, at the earliest two cycles after its write;
    until then no input is ready.

    Parameters
    ----------
    shape : ShapeLike
    sides : tuple of Side
        Neighbours it has links to.

    Members
    -------
    i, o : arrays of streams of shape
        By side: local, then ``sides`` in their order.
    write : In(1)
        Change the route.
    write_data : In(32)
        See :func:`route_word`.
    moved : Out(1)
        An item leaves.
    links : Out
        The neighbours that it leaves for.
    held : Out(1)
        An item is held.
    """

    i: Any
    o: Any
    write: Signal
    write_data: Signal
    moved: Signal
    links: Signal
    held: Signal

    latency = Fork.latency
    shared = True

    def __init__(self, shape: Any, sides: tuple[Side, ...]) -> None:
        self._shape, self._sides = shape, (Side.LOCAL, *sides)
        port, count = stream.Signature(shape), len(self._sides)
        super().__init__(
            {
                "i": In(port).array(count),
                "o": Out(port).array(count),
                "write": In(1),
                "write_data": In(32),
                "moved": Out(1),
                "links": Out(range(count)),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        sides = self._sides
        route = data.StructLayout({"source": range(max(Side) + 1), "outputs": len(sides), "used": 1})
        changing, opened = Signal(), Signal()
        now: Any = Signal(route)
        written: Any = Signal(route)
        m.submodules.fork = fork = Fork(self._shape, len(sides))
        with m.If(self.write):
            m.d.sync += [
                changing.eq(1),
                written.source.eq(self.write_data[:_OUTPUTS_SHIFT]),
                written.outputs.eq(Cat(self.write_data[_OUTPUTS_SHIFT + side] for side in sides)),
                written.used.eq(self.write_data[_OUTPUTS_SHIFT:].any()),
            ]
        with m.Elif(changing & ~fork.held):
            m.d.sync += [now.eq(written), changing.eq(0)]
        m.d.comb += opened.eq(now.used & ~changing)
        place = {side: k for k, side in enumerate(sides)}
        by_side = [self.i[place[side]] if side in place else None for side in Side]
        m.d.comb += [
            fork.i.valid.eq(opened & Array(Const(0, 1) if i is None else i.valid for i in by_side)[now.source]),
            fork.i.payload.eq(Array(self.i[0].payload if i is None else i.payload for i in by_side)[now.source]),
            fork.mask.eq(now.outputs),
            self.moved.eq(fork.moved),
            self.held.eq(fork.held),
            self.links.eq(sum(now.outputs[1:])),
        ]
        for side, k in place.items():
            m.d.comb += self.i[k].ready.eq(opened & (now.source == side) & fork.i.ready)
            wiring.connect(m, fork.o[k], wiring.flipped(self.o[k]))
        return m
