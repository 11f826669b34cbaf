"""The issuer of PE steps: one nest a cluster, broadcast to all PEs."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Descriptor, Engine, Field
from rowmesh.hw.flags import matches
from rowmesh.hw.layouts import step_layout
from rowmesh.hw.link import Buffer
from rowmesh.hw.nest import ConfigBus, LoopNest

__all__ = ["Issuer", "step_descriptor"]


def step_descriptor(config: ArchConfig) -> Descriptor:
    """Descriptor of the step nest."""
    levels = config.nest_levels
    mask, release = levels + 1, ceil_log2(config.iact_spad + 1)
    outputs = {
        "iact": ceil_log2(config.iact_spad) + 1,
        "weight": ceil_log2(config.weight_spad) + 1,
        "psum": ceil_log2(config.psum_spad) + 1,
    }
    fields = (
        Field("clear_mask", mask, "levels in their first iterations: the psum starts from zero"),
        Field("emit_mask", mask, "levels in their last iterations: the psum leaves for the chain"),
        Field("slide", release, "iact words released where slide_mask holds"),
        Field("slide_mask", mask, "levels in their last iterations: the window slides"),
        Field("restart", release, "iact words released where restart_mask holds (instead of slide)"),
        Field("restart_mask", mask, "levels in their last iterations: words of a row's last window are done"),
        Field("iact_sync_mask", mask, "levels in their last iterations: the window of a position ends"),
        Field("weight_release_mask", mask, "levels in their last iterations: a step uses its weight last"),
        Field("weight_sync_mask", mask, "levels in their last iterations: the weight tile ends"),
        Field("first_mask", mask, "levels in their first iterations: first pass over the psum tile"),
        Field("last_mask", mask, "levels in their last iterations: last pass over the psum tile"),
        Field("start_mask", mask, "levels in their first iterations: first psum of a pass"),
        *(
            Field(f"edge{k}_mask", mask, f"levels whose last iterations set edge flag {k}")
            for k in range(config.edge_flags)
        ),
    )
    return Descriptor(Engine.STEP, levels, outputs, fields)


class Issuer(Block):
    """The step nest.

    Contract: one step a cycle; the first one ``latency`` cycles after the start token.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    config : In(ConfigBus())
    start : In(stream.Signature(1))
    o : Out(stream.Signature(step_layout(config)))
    issued : Out(1)
        A step leaves the nest.
    blocked : Out(1)
        A step waits for the array.
    idle : Out(1)
    held : Out(1)
        A step is held.
    """

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        self.descriptor = step_descriptor(config)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "start": In(stream.Signature(1)),
                "o": Out(stream.Signature(step_layout(config))),
                "issued": Out(1),
                "blocked": Out(1),
                "idle": Out(1),
                "held": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the start token to the first step on ``o``."""
        return LoopNest.cycles_to_first(self.descriptor.levels, self._config.link_segment) + Buffer.latency

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config, descriptor = self._config, self.descriptor
        levels = descriptor.levels
        m.submodules.nest = nest = LoopNest(levels, descriptor.outputs, config.link_segment)
        m.submodules.link = link = Buffer(step_layout(config))
        own = descriptor.connect(m, self.config, nest)
        wiring.connect(m, wiring.flipped(self.start), nest.start)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        token, step = nest.o.payload, link.i.payload
        field = {entry.name: descriptor.store(m, own, entry.name, token.bank)[0] for entry in descriptor.fields}

        def first(name: str) -> object:
            return matches(field[f"{name}_mask"], token.first, levels)

        def last(name: str) -> object:
            return matches(field[f"{name}_mask"], token.last, levels)

        m.d.comb += [
            link.i.valid.eq(nest.o.valid),
            nest.o.ready.eq(link.i.ready),
            step.iact.eq(token.out.iact),
            step.weight.eq(token.out.weight),
            step.psum.eq(token.out.psum),
            step.clear.eq(first("clear")),
            step.emit.eq(last("emit")),
            step.iact_release.eq(Mux(last("restart"), field["restart"], Mux(last("slide"), field["slide"], 0))),
            step.iact_sync.eq(last("iact_sync")),
            step.weight_release.eq(last("weight_release")),
            step.weight_sync.eq(last("weight_sync")),
            step.first.eq(first("first")),
            step.last.eq(last("last")),
            step.start.eq(first("start")),
            step.edge.eq(Cat(last(f"edge{k}") for k in range(config.edge_flags))),
            self.issued.eq(nest.o.valid & nest.o.ready),
            self.blocked.eq(nest.o.valid & ~nest.o.ready),
        ]
        running = Signal(2)
        started = self.start.valid & self.start.ready
        m.d.sync += running.eq(running + started - (self.issued & token.last.all()))
        m.d.comb += [self.idle.eq(running == 0), self.held.eq(link.o.valid)]
        return m
