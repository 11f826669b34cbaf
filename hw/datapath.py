"""The datapath of a processing element: spads, steps that wait for their operands, multiplier-accumulator."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block
from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.layouts import PSUM_FLAGS, psum_layout, step_layout
from rowmesh.hw.link import Fifo, Stage

__all__ = ["DATAPATH_EVENTS", "PE_WAITS", "Datapath"]

DATAPATH_EVENTS = ("mac", "gated", "psum_read", "psum_write")
"""What a datapath reports for the performance counters, one bit each; gated: a MAC with a zero operand."""

PE_WAITS = ("iact", "weight", "psum")
"""What a PE's next step waits for, one bit each."""

_BLOCK_WORDS = 64
"""A weight spad of more words than this is a block RAM."""


class Datapath(Block):
    """What a PE does with the words and steps that are for it.

    Contract: one multiply-accumulate a cycle; one word a cycle of each operand; a psum is in the queue ``latency``
    cycles after its last step was issued. No output depends combinationally on a bus: simulators evaluate the datapath
    of every PE by one piece of code.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    iact, weight : In(stream.Signature(signed(data_width)))
        Operands, into the spads.
    step : In(stream.Signature(step_layout(config)))
    psum : Out(stream.Signature(psum_layout(config)))
        Finished psums; the queue holds ``chain_fifo``.
    skip : In(edge_flags)
        Edge flags of steps at which the PE is absent: their psums are zero and void.
    maximum : In(1)
        A psum is the largest of its products instead of their sum.
    events : Out(len(DATAPATH_EVENTS))
    waits : Out(len(PE_WAITS))
    held : Out(1)
        A word, a step or a psum is held.
    """

    iact: stream.Interface
    weight: stream.Interface
    step: stream.Interface
    psum: stream.Interface
    skip: Signal
    maximum: Signal
    events: Signal
    waits: Signal
    held: Signal

    latency = 6
    shared = True

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        operand = stream.Signature(signed(config.data_width))
        super().__init__(
            {
                "iact": In(operand),
                "weight": In(operand),
                "step": In(stream.Signature(step_layout(config))),
                "psum": Out(stream.Signature(psum_layout(config))),
                "skip": In(config.edge_flags),
                "maximum": In(1),
                "events": Out(len(DATAPATH_EVENTS)),
                "waits": Out(len(PE_WAITS)),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        word = signed(config.data_width)
        m.submodules.iact_spad = iact = Buffet(word, config.iact_spad, release_width=ceil_log2(config.iact_spad + 1))
        m.submodules.weight_spad = weight = Buffet(word, config.weight_spad, block=config.weight_spad > _BLOCK_WORDS)
        # a step is held with the answer whether this PE takes part
        held_layout = data.StructLayout(
            {name: shape for name, shape in step_layout(config).members.items() if name != "edge"} | {"absent": 1}
        )
        # the queues are block RAMs: in distributed RAM they were a fifth of a PE's LUTs; one entry is the read register
        m.submodules.steps = steps = Fifo(held_layout, config.uop_fifo + 1, block=True)
        m.submodules.next_step = next_step = Stage(held_layout)
        arriving = steps.i.payload
        m.d.comb += [
            steps.i.valid.eq(self.step.valid),
            self.step.ready.eq(steps.i.ready),
            *[arriving[name].eq(self.step.payload[name]) for name in held_layout.members if name != "absent"],
            arriving.absent.eq((self.step.payload.edge & self.skip) != 0),
        ]
        wiring.connect(m, steps.o, next_step.i)
        step, absent = next_step.o.payload, next_step.o.payload.absent
        wiring.connect(m, wiring.flipped(self.iact), iact.fill)
        wiring.connect(m, wiring.flipped(self.weight), weight.fill)

        operands, room, go = Signal(), Signal(), Signal()
        reserved, reserved_all = Signal(range(config.chain_fifo + 1)), Signal()
        reserve, free = Signal(), Signal()
        m.submodules.own = own = Fifo(psum_layout(config), config.chain_fifo + 1, block=True)
        wiring.connect(m, own.o, wiring.flipped(self.psum))
        m.d.comb += [
            operands.eq(absent | (iact.available & weight.available)),
            room.eq(~step.emit | ~reserved_all),
            go.eq(next_step.o.valid & operands & room),
            next_step.o.ready.eq(operands & room),
            iact.offset.eq(step.iact),
            iact.enable.eq(go & ~absent),
            iact.release.eq(step.iact_release),
            iact.sync.eq(step.iact_sync),
            weight.offset.eq(step.weight),
            weight.enable.eq(go & ~absent),
            weight.release.eq(step.weight_release),
            weight.sync.eq(step.weight_sync),
            self.waits[0].eq(next_step.o.valid & ~absent & ~iact.available),
            self.waits[1].eq(next_step.o.valid & ~absent & ~weight.available),
            self.waits[2].eq(next_step.o.valid & ~room),
            reserve.eq(go & step.emit),
            free.eq(own.o.valid & own.o.ready),
        ]
        with m.If(reserve ^ free):
            m.d.sync += [
                reserved.eq(reserved + Cat(1, free.replicate(len(reserved) - 1))),
                reserved_all.eq(reserve & (reserved == config.chain_fifo - 1)),
            ]

        # four stages behind the buffets' read: words, operands, product, sum
        control = data.StructLayout(
            {
                "psum": unsigned(max(1, ceil_log2(config.psum_spad))),
                "clear": 1,
                "emit": 1,
                **{flag: 1 for flag in PSUM_FLAGS},
                "void": 1,
            }
        )
        stages: list[Any] = [Signal(control, name=f"stage{k}", reset_less=True) for k in range(4)]
        valid = Signal(4)
        m.d.sync += valid.eq(valid << 1 | go)
        stored = Cat(iact.held, weight.held, steps.level, reserved)
        m.d.comb += self.held.eq(stored.any() | next_step.o.valid | valid.any())
        special = {"void": absent, "clear": step.clear | absent}  # nothing of an absent PE comes from its spad
        for name in control.members:
            m.d.sync += stages[0][name].eq(special[name] if name in special else getattr(step, name))
        m.d.sync += [stages[k].eq(stages[k - 1]) for k in range(1, 4)]
        # a block RAM's output comes late in its cycle: nothing but registers behind it
        words = [Signal(word, name=name, reset_less=True) for name in ("iact_word", "weight_word")]
        m.d.sync += [words[0].eq(iact.response), words[1].eq(weight.response)]
        a, w = (Signal(word, name=name, reset_less=True) for name in ("a", "w"))
        product = Signal(signed(2 * config.data_width), reset_less=True)
        # with a zero operand the multiplier's inputs stay as they are
        zero, gated = Signal(), Signal(reset_less=True)
        m.d.comb += zero.eq((words[0] == 0) | (words[1] == 0))
        with m.If(valid[1] & ~zero):
            m.d.sync += [a.eq(words[0]), w.eq(words[1])]
        m.d.sync += [gated.eq(zero), product.eq(a * w)]
        with m.If(stages[2].void | gated):  # an absent PE's psum is zero, so that a chain can add it
            m.d.sync += product.eq(0)

        at = stages[3]
        spad: Any
        m.submodules.psum_spad = spad = memory.Memory(
            shape=signed(config.acc_width), depth=1 << max(1, ceil_log2(config.psum_spad)), init=[]
        )
        read, store = spad.read_port(domain="comb"), spad.write_port()
        total, result = Signal(signed(config.acc_width)), Signal(signed(config.acc_width))
        m.d.comb += [
            read.addr.eq(at.psum),
            total.eq(Mux(at.clear, 0, read.data) + product),
            result.eq(total),
            store.addr.eq(at.psum),
            store.data.eq(result),
            store.en.eq(valid[3] & ~at.emit & ~at.void),
            own.i.valid.eq(valid[3] & at.emit),
            own.i.payload.value.eq(result),
            own.i.payload.void.eq(at.void),
            *[own.i.payload[flag].eq(at[flag]) for flag in PSUM_FLAGS],
            self.events[DATAPATH_EVENTS.index("mac")].eq(go & ~absent),
            self.events[DATAPATH_EVENTS.index("gated")].eq(valid[1] & zero & ~stages[1].void),
            self.events[DATAPATH_EVENTS.index("psum_read")].eq(valid[3] & ~at.clear),
            self.events[DATAPATH_EVENTS.index("psum_write")].eq(valid[3] & ~at.void & ~at.emit),
        ]
        if config.max_pooling:
            with m.If(self.maximum & ~at.clear):
                m.d.comb += result.eq(Mux(read.data > product, read.data, product))
        return m
