"""The drain with its psum banks, as one block for the tests."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from rowmesh.hw.block import Block
from rowmesh.hw.drain import Drain, beat_layout, lane_depth
from rowmesh.hw.layouts import psum_layout
from rowmesh.hw.link import Fifo
from rowmesh.hw.psum_bank import PsumBank, PsumEntry

__all__ = ["DrainUnit"]


class DrainUnit(Block):
    """Ports of the drain, the chains' side of the banks instead of the drain's, and queues as of the store engine."""

    QUEUE_LATENCY = Fifo.latency

    def __init__(self, config):
        self._config = config
        self.drain = Drain(config)
        hidden = ("banks", "returned")
        members = {name: member for name, member in self.drain.signature.members.items() if name not in hidden}
        members["psum"] = In(stream.Signature(psum_layout(config))).array(config.clusters * config.cols)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.drain = drain = self.drain
        for name in ("config", "start", "fill"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(drain, name))
        for name in ("freed", "idle", "waits"):
            m.d.comb += getattr(self, name).eq(getattr(drain, name))
        for lane in range(self._config.all_lanes):
            m.submodules[f"queue{lane}"] = queue = Fifo(beat_layout(self._config), lane_depth(self._config))
            wiring.connect(m, drain.lanes[lane], queue.i)
            wiring.connect(m, queue.o, wiring.flipped(self.lanes[lane]))
            m.d.sync += drain.returned[lane].eq(queue.o.valid & queue.o.ready)
        for number in range(self._config.clusters * self._config.cols):
            m.submodules[f"bank{number}"] = bank = PsumBank(self._config)
            m.submodules[f"entry{number}"] = entry = PsumEntry(self._config)
            wiring.connect(m, wiring.flipped(self.psum[number]), entry.i)
            wiring.connect(m, entry.o, bank.i)
            port = drain.banks[number]
            for name in ("offset", "enable", "free", "release"):
                m.d.comb += getattr(bank, name).eq(getattr(port, name))
            for name in ("finals", "response"):
                m.d.comb += getattr(port, name).eq(getattr(bank, name))
            m.d.comb += port.busy_next.eq(entry.busy_next)
        return m
