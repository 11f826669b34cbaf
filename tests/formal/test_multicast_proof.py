"""Proofs of the multicast: each leg gets what it must, exactly once and in order."""

from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Array, Mux, Signal
from prove import Proof, assert_covered, assert_proved, assert_refuted, mutant

from rowmesh.hw import multicast
from rowmesh.hw.config import ArchConfig

WIDTH = 2


def tap_proof(module: ModuleType = multicast, registered: bool = True) -> Proof:
    """One tap; bit 0 of an item says whether the local consumer subscribes to it.

    The reference counts what each leg still has to get, and follows one watched item, any one, on both legs.
    """
    dut: Any = module.Tap(WIDTH, registered)
    p = Proof(dut)
    m = p.m
    room = 2 if registered else 1
    m.d.comb += [
        dut.i.valid.eq(p.free(1, "i_valid")),
        dut.i.payload.eq(p.free(WIDTH, "i_payload")),
        dut.o.ready.eq(p.free(1, "o_ready")),
        dut.local.ready.eq(p.free(1, "local_ready")),
        dut.match.eq(dut.i.payload[0]),
    ]
    push = Signal()
    m.d.comb += push.eq(dut.i.valid & dut.i.ready)
    watch = p.free(1, "watch")
    chosen = Signal()
    with m.If(watch & push):
        m.d.sync += chosen.eq(1)
    due = {}
    for name, leg, wanted in (("next", dut.o, 1), ("local", dut.local, dut.i.payload[0])):
        pop = Signal(name=f"{name}_pop")
        due[name] = left = Signal(4, name=f"{name}_due")
        ahead = Signal(4, name=f"{name}_ahead")
        watching = Signal(name=f"{name}_watching")
        data = Signal(WIDTH, name=f"{name}_data")
        arrives = Signal(name=f"{name}_arrives")
        m.d.comb += [pop.eq(leg.valid & leg.ready), arrives.eq(push & wanted)]
        m.d.sync += left.eq(left + arrives - pop)
        with m.If(watching):
            m.d.sync += [ahead.eq(ahead - pop), watching.eq(~(pop & (ahead == 0)))]
        with m.Elif(watch & ~chosen & arrives):
            m.d.sync += [watching.eq(1), data.eq(dut.i.payload), ahead.eq(left - pop)]
        p.check(f"{name}_order", ~(watching & pop & (ahead == 0)) | (leg.payload == data))
        p.check(f"{name}_once", ~leg.valid | (left != 0))
        kept, before = p.past((left != 0) & ~pop, f"{name}_kept"), p.past(leg.payload, f"{name}_before")
        if name == "next":
            p.check("next_stable", ~kept | (leg.payload == before))
        p.cover(f"{name}_watched", watching & pop & (ahead == 0) & data.all())
    head_wanted = dut.local.payload[0]
    p.check("local_subscribed", ~dut.local.valid | head_wanted)
    p.check("nothing_left_behind", (due["local"] <= due["next"]) & (due["next"] <= room))
    p.check("progress", (due["next"] == 0) | ~dut.o.ready | ~dut.local.ready | dut.o.valid)
    p.check("deaf_leg", (due["next"] == 0) | ~dut.o.ready | head_wanted | dut.o.valid)
    p.cover("full", due["local"] == room)
    streak = Signal(2)
    m.d.sync += streak.eq(Mux(push & dut.o.valid & dut.o.ready & dut.local.valid, streak + 1, 0))
    p.cover("one_a_cycle", streak == 3)
    return p


def row_tap_proof(module: ModuleType = multicast) -> Proof:
    """A row's tap, with an arbitrary subscription: the words of one watched flit, any one."""
    config = ArchConfig(axi_data_width=64, data_width=16, acc_width=24, tag_width=4, edge_flags=1)
    dut: Any = module.RowTap(config)
    p = Proof(dut)
    m = p.m
    flit = dut.i.payload
    m.d.comb += [
        dut.i.valid.eq(p.free(1, "i_valid")),
        flit.as_value().eq(p.free(flit.shape().size, "i_payload")),
        dut.o.ready.eq(p.free(1, "o_ready")),
        dut.row.ready.eq(p.free(1, "row_ready")),
    ]
    p.assume(flit.low <= flit.high)
    tags = {name: p.constant(config.tag_width, name) for name in ("phase_low", "phase_high", "index_low", "index_high")}
    lanes = {name: p.constant(2, name) for name in ("lane_low", "lane_high")}
    enable = p.constant(1, "enable")
    fields = {**tags, **lanes, "enable": enable}
    words = [Signal(32, name=f"word{k}") for k in range(2)]
    for name, word, shift in module.ROW_FIELDS:
        m.d.comb += words[word][shift : shift + len(fields[name])].eq(fields[name])
    # written, put into effect, and then written again, for the next layer
    setup = Signal(range(4))
    with m.If(setup < 2):
        m.d.comb += [dut.write.eq(1 << setup), dut.write_data.eq(Mux(setup[0], words[1], words[0]))]
    with m.Elif(setup == 3):
        m.d.comb += [dut.write.eq(p.free(2, "write")), dut.write_data.eq(p.free(32, "write_data"))]
    with m.If(setup != 3):
        m.d.sync += setup.eq(setup + 1)
    m.d.comb += dut.commit.eq(setup == 2)
    p.assume((setup == 3) | ~dut.i.valid)

    low = Signal(2)
    high = Signal(2)
    wanted = Signal()
    m.d.comb += [
        low.eq(Mux(flit.low > lanes["lane_low"], flit.low, lanes["lane_low"])),
        high.eq(Mux(flit.high < lanes["lane_high"], flit.high, lanes["lane_high"])),
        wanted.eq(
            enable
            & (flit.phase >= tags["phase_low"])
            & (flit.phase <= tags["phase_high"])
            & (flit.index >= tags["index_low"])
            & (flit.index <= tags["index_high"])
            & (low <= high)
        ),
    ]
    arrives = Signal(3)
    due = Signal(6)
    pop = Signal()
    m.d.comb += pop.eq(dut.row.valid & dut.row.ready)
    with m.If(dut.i.valid & dut.i.ready & wanted):
        m.d.comb += arrives.eq(high - low + 1)
    m.d.sync += due.eq(due + arrives - pop)
    # one word of one flit, any one
    watch = p.free(1, "watch")
    place = p.free(2, "place")
    watching = Signal()
    ahead = Signal(6)
    expected: Any = Signal(dut.row.payload.shape())
    with m.If(watching):
        m.d.sync += [ahead.eq(ahead - pop), watching.eq(~(pop & (ahead == 0)))]
    with m.Elif(watch & (place < arrives)):
        m.d.sync += [
            watching.eq(1),
            ahead.eq(due + place - pop),
            expected.data.eq(Array(flit.data[k] for k in range(4))[low + place]),
            expected.index.eq(flit.index),
            expected.edge.eq(flit.edge),
        ]
    p.check("words", ~(watching & pop & (ahead == 0)) | (dut.row.payload.as_value() == expected.as_value()))
    p.check("once", ~dut.row.valid | (due != 0))
    p.check("room", due <= 3 * 4)
    idle = Signal(2)
    m.d.sync += idle.eq(Mux((due != 0) & dut.o.ready & dut.row.ready & ~dut.row.valid, idle + 1, 0))
    p.check("progress", idle != 3)
    # where all flits are wanted, the row has a word in every cycle after the first
    eager = p.constant(1, "eager")
    p.assume(~eager | ~dut.i.valid | wanted)
    before = p.past((due != pop) & dut.o.ready, "before")
    p.check("no_bubble", ~eager | ~before | dut.row.valid)
    p.cover("watched", watching & pop & (ahead == 0) & (expected.data == 0xA5A5))
    p.cover("waiting", due == 12)
    return p


@pytest.mark.parametrize("registered", [True, False])
def test_tap(registered: bool) -> None:
    proof = tap_proof(registered=registered)
    assert_covered(proof)
    assert_proved(proof)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("next_once", "self.o.valid.eq(hold.o.valid & served)", "self.o.valid.eq(hold.o.valid)"),
        ("local_once", "hold.o.valid & head.match & self.o.ready", "hold.o.valid & head.match"),
        ("local_subscribed", "hold.o.valid & head.match & self.o.ready", "hold.o.valid & self.o.ready"),
        ("nothing_left_behind", "hold.o.ready.eq(served & self.o.ready)", "hold.o.ready.eq(self.o.ready)"),
        ("deaf_leg", "served.eq(~head.match | self.local.ready)", "served.eq(self.local.ready)"),
        ("progress", "self.o.valid.eq(hold.o.valid & served)", "self.o.valid.eq(hold.o.valid & ~head.match)"),
        ("next_order", "self.o.payload.eq(head.item)", "self.o.payload.eq(self.i.payload)"),
        ("next_stable", "hold.o.ready.eq(served & self.o.ready)", "hold.o.ready.eq(1)"),
        ("local_order", "self.local.payload.eq(head.item)", "self.local.payload.eq(self.i.payload)"),
    ],
)
def test_tap_control(check: str, old: str, new: str) -> None:
    assert_refuted(tap_proof(mutant(multicast, old, new)), check)


def test_row_tap() -> None:
    proof = row_tap_proof()
    assert_covered(proof)
    assert_proved(proof, depth=10)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("words", "lane.eq(low), end.eq(high)", "lane.eq(head.low), end.eq(high)"),
        ("words", "self.row.payload.index.eq(flit.index)", "self.row.payload.index.eq(head.index)"),
        ("once", "(arriving.index <= field", "(arriving.index >= field"),
        ("once", "with m.If(commit):", "with m.If(1):"),
        ("once", "at_end.eq(lane + 1 == end)", "at_end.eq(lane + 1 == flit.high)"),
        ("room", "~valid | (self.row.ready & at_end)", "1"),
        ("no_bubble", "valid.eq(tap.local.valid)", "valid.eq(tap.local.valid & ~valid)"),
        (
            "progress",
            "hold.o.ready.eq(served & self.o.ready)",
            "hold.o.ready.eq(served & self.o.ready & self.local.valid)",
        ),
    ],
)
def test_row_tap_control(check: str, old: str, new: str) -> None:
    assert_refuted(row_tap_proof(mutant(multicast, old, new)), check)
