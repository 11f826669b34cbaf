"""The processing element: three buffers, a multiplier-accumulator, and its hop of the psum chain.

Steps arrive from the cluster's nest; each PE waits for its own operands. There is no dataflow in here: what a PE
computes is decided by the steps' offsets and by which words it subscribes to.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rowmesh.hw.block import Block
from rowmesh.hw.buffet import Buffet
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.layouts import PSUM_FLAGS, psum_layout, step_layout, word_layout
from rowmesh.hw.link import Fifo, Stage
from rowmesh.hw.multicast import Tap

__all__ = ["PE_EVENTS", "PE_FIELDS", "PE_WAITS", "ProcessingElement"]

PE_EVENTS = ("iact_delivered", "weight_delivered", "mac", "psum_read", "psum_write")
"""What a PE reports for the performance counters, one bit each."""

PE_WAITS = ("iact", "weight", "psum")
"""What a PE's next step waits for, one bit each."""

PE_FIELDS = (
    # (name, word, shift)
    ("iact_low", 0, 0),
    ("iact_high", 0, 8),
    ("weight_low", 0, 16),
    ("weight_high", 0, 24),
    ("skip", 1, 0),
    ("passes", 1, 8),
    ("chain_start", 1, 14),
    ("active", 1, 15),
)
"""Subscription of a PE: field, word and bit position.

``iact_low``..``weight_high`` are the ranges of the tag's index; ``skip`` the edge flags at which the PE is absent;
``passes`` the psums of chains below that go past before each of its own; ``chain_start`` marks a chain's first PE.
"""


class ProcessingElement(Block):
    """A PE.

    Contract: one multiply-accumulate a cycle; one word a cycle on each operand bus; one psum a cycle on the chain. A
    psum is offered to the chain ``latency`` cycles after its last step was issued.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    iact_i, iact_o, weight_i, weight_o : streams of word_layout(config)
        The row's operand buses.
    step_i, step_o : streams of step_layout(config)
        The row's step bus.
    psum_i, psum_o : streams of psum_layout(config)
        The column's chain.
    write : In(2)
        Write word 0 or 1 of the subscription.
    write_data : In(32)
    events : Out(len(PE_EVENTS))
    waits : Out(len(PE_WAITS))
    """

    iact_i: stream.Interface
    iact_o: stream.Interface
    weight_i: stream.Interface
    weight_o: stream.Interface
    step_i: stream.Interface
    step_o: stream.Interface
    psum_i: stream.Interface
    psum_o: stream.Interface
    write: Signal
    write_data: Signal
    events: Signal
    waits: Signal

    latency = 5

    def __init__(self, config: ArchConfig) -> None:
        self._config = config
        word = stream.Signature(word_layout(config))
        step = stream.Signature(step_layout(config))
        psum = stream.Signature(psum_layout(config))
        super().__init__(
            {
                "iact_i": In(word),
                "iact_o": Out(word),
                "weight_i": In(word),
                "weight_o": Out(word),
                "step_i": In(step),
                "step_o": Out(step),
                "psum_i": In(psum),
                "psum_o": Out(psum),
                "write": In(2),
                "write_data": In(32),
                "events": Out(len(PE_EVENTS)),
                "waits": Out(len(PE_WAITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        widths = {"skip": config.edge_flags, "passes": 6, "chain_start": 1, "active": 1}
        field = {}
        for name, index, shift in PE_FIELDS:
            width = widths.get(name, config.tag_width)
            field[name] = value = Signal(width, name=name)
            with m.If(self.write[index]):
                m.d.sync += value.eq(self.write_data[shift : shift + width])

        # operand buses: take a word if subscribed
        buffets = {}
        for name, depth, block in (("iact", config.iact_spad, False), ("weight", config.weight_spad, True)):
            tap = Tap(word_layout(config), registered=False)
            buffet = Buffet(
                signed(config.data_width),
                depth,
                release_width=ceil_log2(config.iact_spad + 1) if name == "iact" else 1,
                block=block and depth > 64,
            )
            m.submodules[f"{name}_tap"], m.submodules[f"{name}_spad"] = tap, buffet
            wiring.connect(m, wiring.flipped(getattr(self, f"{name}_i")), tap.i)
            wiring.connect(m, tap.o, wiring.flipped(getattr(self, f"{name}_o")))
            arriving = tap.i.payload
            m.d.comb += [
                tap.match.eq(
                    field["active"]
                    & (arriving.index >= field[f"{name}_low"])
                    & (arriving.index <= field[f"{name}_high"])
                    & ((arriving.edge & field["skip"]) == 0)
                ),
                buffet.fill.valid.eq(tap.local.valid),
                buffet.fill.payload.eq(tap.local.payload.data),
                tap.local.ready.eq(buffet.fill.ready),
                self.events[PE_EVENTS.index(f"{name}_delivered")].eq(tap.local.valid & tap.local.ready),
            ]
            buffets[name] = buffet
        iact, weight = buffets["iact"], buffets["weight"]

        # steps
        m.submodules.step_tap = step_tap = Tap(step_layout(config), registered=False)
        m.submodules.steps = steps = Fifo(step_layout(config), config.uop_fifo)
        wiring.connect(m, wiring.flipped(self.step_i), step_tap.i)
        wiring.connect(m, step_tap.o, wiring.flipped(self.step_o))
        wiring.connect(m, step_tap.local, steps.i)
        m.d.comb += step_tap.match.eq(field["active"])

        # the next step is held in a register, with the answer whether this PE takes part
        m.submodules.next_step = next_step = Stage(data.StructLayout({"step": step_layout(config), "absent": 1}))
        m.d.comb += [
            next_step.i.valid.eq(steps.o.valid),
            next_step.i.payload.step.eq(steps.o.payload),
            next_step.i.payload.absent.eq((steps.o.payload.edge & field["skip"]) != 0),
            steps.o.ready.eq(next_step.i.ready),
        ]
        step, absent = next_step.o.payload.step, next_step.o.payload.absent
        operands, room, go = Signal(), Signal(), Signal()
        reserved, reserved_all = Signal(range(config.chain_fifo + 1)), Signal()
        reserve, free = Signal(), Signal()
        m.submodules.own = own = Fifo(psum_layout(config), config.chain_fifo)
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
        with m.If(reserve & ~free):
            m.d.sync += [reserved.eq(reserved + 1), reserved_all.eq(reserved == config.chain_fifo - 1)]
        with m.Elif(free & ~reserve):
            m.d.sync += [reserved.eq(reserved - 1), reserved_all.eq(0)]

        # three stages behind the buffets' read: operands, product, sum
        control = data.StructLayout(
            {
                "psum": unsigned(max(1, ceil_log2(config.psum_spad))),
                "clear": 1,
                "emit": 1,
                **{flag: 1 for flag in PSUM_FLAGS},
                "void": 1,
            }
        )
        stages: list[Any] = [Signal(control, name=f"stage{k}", reset_less=True) for k in range(3)]
        valid = Signal(3)
        m.d.sync += valid.eq(valid << 1 | go)
        for name in control.members:
            source = absent if name == "void" else getattr(step, name)
            m.d.sync += stages[0][name].eq(source)
        m.d.sync += [stages[1].eq(stages[0]), stages[2].eq(stages[1])]
        a, w = Signal(signed(config.data_width)), Signal(signed(config.data_width))
        product = Signal(signed(2 * config.data_width))
        m.d.sync += [a.eq(iact.response), w.eq(weight.response), product.eq(a * w)]
        with m.If(stages[1].void):  # an absent PE's psum is zero, so that a chain can add it
            m.d.sync += product.eq(0)

        at = stages[2]
        spad: Any
        m.submodules.psum_spad = spad = memory.Memory(
            shape=signed(config.acc_width), depth=1 << max(1, ceil_log2(config.psum_spad)), init=[]
        )
        read, store = spad.read_port(domain="comb"), spad.write_port()
        total = Signal(signed(config.acc_width))
        m.d.comb += [
            read.addr.eq(at.psum),
            total.eq(Mux(at.clear | at.void, 0, read.data) + product),
            store.addr.eq(at.psum),
            store.data.eq(total),
            store.en.eq(valid[2] & ~at.emit & ~at.void),
            own.i.valid.eq(valid[2] & at.emit),
            own.i.payload.value.eq(total),
            own.i.payload.void.eq(at.void),
            *[own.i.payload[flag].eq(at[flag]) for flag in PSUM_FLAGS],
            self.events[PE_EVENTS.index("mac")].eq(go & ~absent),
            self.events[PE_EVENTS.index("psum_read")].eq(valid[2] & ~at.void & ~at.clear),
            self.events[PE_EVENTS.index("psum_write")].eq(valid[2] & ~at.void & ~at.emit),
        ]

        # the chain: psums of chains below go past, then one of our own
        below, mine = self.psum_i.payload, own.o.payload
        out: Any = Signal(psum_layout(config), reset_less=True)
        out_valid, out_ready = Signal(), Signal()
        passed = Signal(6)
        passing, adding, fire = Signal(), Signal(), Signal()
        m.d.comb += [
            out_ready.eq(~out_valid | self.psum_o.ready),
            passing.eq(~field["active"] | (passed != field["passes"])),
            adding.eq(~passing & ~field["chain_start"]),
            fire.eq(
                out_ready & Mux(passing, self.psum_i.valid, own.o.valid & (field["chain_start"] | self.psum_i.valid))
            ),
            self.psum_i.ready.eq(out_ready & (passing | (adding & own.o.valid))),
            own.o.ready.eq(out_ready & ~passing & (field["chain_start"] | self.psum_i.valid)),
            self.psum_o.valid.eq(out_valid),
            self.psum_o.payload.eq(out),
        ]
        with m.If(out_ready):
            m.d.sync += out_valid.eq(fire)
        with m.If(fire):
            m.d.sync += out.eq(Mux(passing, below, mine))
            with m.If(~passing):
                m.d.sync += [passed.eq(0), out.start.eq(mine.start & (field["passes"] == 0))]
                with m.If(adding):
                    m.d.sync += [out.value.eq(below.value + mine.value), out.void.eq(below.void & mine.void)]
            with m.Elif(field["active"]):
                m.d.sync += passed.eq(passed + 1)
        return m
