"""The observer: puts every cycle of a run into exactly one part, judged at the issuer of PE steps."""

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block
from rowmesh.hw.parts import PARTS

__all__ = ["Observer"]


class Observer(Block):
    """Classifies cycles.

    Contract: while ``busy``, exactly one bit of ``part`` is set in every cycle.

    Members
    -------
    busy : In(1)
        A program runs.
    active : In(1)
        The step nest has been started and has not issued its last step.
    mac : In(1)
        Some PE multiplies.
    issued : In(1)
        The issuer's step went out.
    waits : In(3)
        Some PE waits for an iact, a weight, room for a psum.
    iact_starved, weight_starved : In(1)
        The reader of that operand's bank waits for the DMA.
    part : Out(len(PARTS))
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "busy": In(1),
                "active": In(1),
                "mac": In(1),
                "issued": In(1),
                "waits": In(3),
                "iact_starved": In(1),
                "weight_starved": In(1),
                "part": Out(len(PARTS)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        started, computing, ended = Signal(), Signal(), Signal()
        with m.If(~self.busy):
            m.d.sync += [started.eq(0), computing.eq(0), ended.eq(0)]
        with m.Else():
            m.d.sync += [
                started.eq(started | self.active),
                computing.eq((computing & ~(ended & self.active)) | self.mac),
                ended.eq(started & ~self.active),
            ]

        def be(name: str) -> object:
            return self.part.eq(1 << PARTS.index(name))

        with m.If(self.busy):
            with m.If(~started):
                m.d.comb += be("config")
            with m.Elif(~computing):
                m.d.comb += be("fill")
            with m.Elif(ended):
                m.d.comb += be("drain")
            with m.Elif(self.issued):
                m.d.comb += be("compute")
            with m.Elif(self.waits[1]):
                with m.If(self.weight_starved):
                    m.d.comb += be("dma")
                with m.Else():
                    m.d.comb += be("noc")
            with m.Elif(self.waits[0]):
                with m.If(self.iact_starved):
                    m.d.comb += be("dma")
                with m.Else():
                    m.d.comb += be("noc")
            with m.Elif(self.waits[2]):
                m.d.comb += be("psum")
            with m.Else():
                m.d.comb += be("noc")
        return m
