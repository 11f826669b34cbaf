"""The processing element: its taps of the buses, its datapath, and its hop of the psum chain.

Steps arrive from the cluster's nest; each PE waits for its own operands. There is no dataflow in here: what a PE
computes is decided by the steps' offsets and by which words it subscribes to.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.datapath import DATAPATH_EVENTS, PE_WAITS, Datapath
from rowmesh.hw.layouts import PSUM_FLAGS, psum_layout, step_layout, word_layout
from rowmesh.hw.multicast import Tap, subscription

__all__ = ["PE_EVENTS", "PE_FIELDS", "PE_WAITS", "ProcessingElement"]

_DELIVERED = ("iact_delivered", "weight_delivered")
PE_EVENTS = (*_DELIVERED, *DATAPATH_EVENTS)
"""What a PE reports for the performance counters, one bit each."""

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
    ("maximum", 1, 16),
)
"""Subscription of a PE: field, word and bit position.

``iact_low``..``weight_high`` are the ranges of the tag's index; ``skip`` the edge flags at which the PE is absent;
``passes`` the psums of chains below that go past before each of its own; ``chain_start`` marks a chain's first PE;
with ``maximum`` a psum is the largest product instead of the sum.
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
    commit : In(1)
        What was written takes effect (one cycle).
    events : Out(len(PE_EVENTS))
    waits : Out(len(PE_WAITS))
    held : Out(1)
        A word, a step or a psum is held.
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
    commit: Signal
    events: Signal
    waits: Signal
    held: Signal

    latency = Datapath.latency + 2
    shared = True

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
                "commit": In(1),
                "events": Out(len(PE_EVENTS)),
                "waits": Out(len(PE_WAITS)),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config = self._config
        widths = {"skip": config.edge_flags, "passes": 6, "chain_start": 1, "active": 1, "maximum": 1}
        fields = {name: (word, shift, widths.get(name, config.tag_width)) for name, word, shift in PE_FIELDS}
        field = subscription(m, fields, self.write, self.write_data, self.commit)

        m.submodules.datapath = datapath = Datapath(config)
        m.d.comb += [
            datapath.skip.eq(field["skip"]),
            datapath.maximum.eq(field["maximum"]),
            self.events[len(_DELIVERED) :].eq(datapath.events),
            self.waits.eq(datapath.waits),
        ]

        # the buses: a word is taken if it is subscribed to
        taps = []
        for name, local in (("iact", datapath.iact), ("weight", datapath.weight)):
            m.submodules[f"{name}_tap"] = tap = Tap(word_layout(config), registered=False)
            taps.append(tap)
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
                local.valid.eq(tap.local.valid),
                local.payload.eq(tap.local.payload.data),
                tap.local.ready.eq(local.ready),
                self.events[PE_EVENTS.index(f"{name}_delivered")].eq(tap.local.valid & tap.local.ready),
            ]
        m.submodules.step_tap = tap = Tap(step_layout(config), registered=False)
        taps.append(tap)
        wiring.connect(m, wiring.flipped(self.step_i), tap.i)
        wiring.connect(m, tap.o, wiring.flipped(self.step_o))
        wiring.connect(m, tap.local, datapath.step)
        m.d.comb += tap.match.eq(field["active"])

        # the chain: psums of chains below go past, then one of our own. What is next waits in a register: our own psum,
        # or for one that goes past the zero that is added to it
        own = datapath.psum
        below, mine = self.psum_i.payload, own.payload
        slot: Any = Signal(psum_layout(config), reset_less=True)
        slot_valid, slot_passes = Signal(), Signal(reset_less=True)
        ahead = Signal(len(field["passes"]))  # psums that go past before the next one of our own
        turn = Signal(init=1)  # there is none
        begins, direct = Signal(), Signal(init=1)  # direct: passes is 0
        out: Any = Signal(psum_layout(config), reset_less=True)
        out_valid, out_ready = Signal(), Signal()
        passing, adding, fire, reload = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            out_ready.eq(~out_valid | self.psum_o.ready),
            adding.eq(slot_passes | ~field["chain_start"]),
            fire.eq(out_ready & slot_valid & (self.psum_i.valid | ~adding)),
            self.psum_i.ready.eq(out_ready & slot_valid & adding),
            self.psum_o.valid.eq(out_valid),
            self.psum_o.payload.eq(out),
            reload.eq(fire | ~slot_valid),
            passing.eq(~field["active"] | ~turn),
            own.ready.eq(reload & ~passing),
            # a slot for a psum that goes past is held always, also where none comes
            self.held.eq(Cat(tap.held for tap in taps).any() | datapath.held | out_valid | (slot_valid & ~slot_passes)),
        ]
        m.d.sync += [begins.eq(self.commit), direct.eq(field["passes"] == 0)]
        with m.If(out_ready):
            m.d.sync += out_valid.eq(fire)
            m.d.sync += [
                out.value.eq(Mux(adding, below.value, 0) + slot.value),
                out.void.eq((below.void | ~adding) & slot.void),
                *[out[flag].eq(Mux(slot_passes, below[flag], slot[flag])) for flag in PSUM_FLAGS],
            ]
        with m.If(reload):
            m.d.sync += [slot_valid.eq(passing | own.valid), slot_passes.eq(passing), slot.eq(mine)]
            m.d.sync += slot.start.eq(mine.start & direct)
            with m.If(passing):
                m.d.sync += [slot.value.eq(0), slot.void.eq(1)]
            with m.If(~passing & own.valid):
                m.d.sync += [ahead.eq(field["passes"]), turn.eq(direct)]
            with m.Elif(passing & field["active"]):
                m.d.sync += [ahead.eq(ahead - 1), turn.eq(ahead == 1)]
        with m.If(begins):  # with the new subscription; nothing is on the chain then
            m.d.sync += [slot_valid.eq(0), ahead.eq(field["passes"]), turn.eq(field["passes"] == 0)]
        return m
