"""Proofs of the stream registers: order, exactly once, stability and rate, for every stall pattern."""

from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Mux, Signal
from prove import Proof, assert_covered, assert_proved, assert_refuted, mutant

from rowmesh.hw import link

WIDTH = 2


def stream_proof(module: ModuleType = link, kind: str = "Buffer") -> Proof:
    """One stream register between arbitrary neighbours.

    The reference is a count of the items inside and one *watched* item, any one, with the number of items
    ahead of it. As the choice is free, what holds for the watched item holds for all.
    """
    room = {"Buffer": 2, "Stage": 1}.get(kind, 3)
    dut: Any
    if kind.startswith("Fifo"):
        dut = module.Fifo(WIDTH, room, block=kind == "Fifo block")
    else:
        dut = getattr(module, kind)(WIDTH)
    p = Proof(dut)
    m = p.m

    m.d.comb += [
        dut.i.valid.eq(p.free(1, "i_valid")),
        dut.i.payload.eq(p.free(WIDTH, "i_payload")),
        dut.o.ready.eq(p.free(1, "o_ready")),
    ]
    push = Signal()
    pop = Signal()
    inside = Signal(4)
    ahead = Signal(4)
    watching = Signal()
    data = Signal(WIDTH)
    watch = p.free(1, "watch")
    m.d.comb += [push.eq(dut.i.valid & dut.i.ready), pop.eq(dut.o.valid & dut.o.ready)]
    m.d.sync += inside.eq(inside + push - pop)
    with m.If(watching):
        m.d.sync += [ahead.eq(ahead - pop), watching.eq(~(pop & (ahead == 0)))]
    with m.Elif(watch & push):
        m.d.sync += [watching.eq(1), data.eq(dut.i.payload), ahead.eq(inside - pop)]

    p.check("order", ~(watching & pop & (ahead == 0)) | (dut.o.payload == data))
    if kind == "Fifo block":  # valid as soon as there is an item that did not come in the cycle before
        p.check("nothing_lost", dut.o.valid == p.past(inside != pop, "settled"))
    else:
        p.check("nothing_lost", dut.o.valid == (inside != 0))
    p.check("room", inside <= room)
    if kind.startswith("Fifo"):
        p.check("level", dut.level == inside)
    if kind == "Fifo block":
        p.check("ready", dut.i.ready == (inside - dut.o.valid != room - 1))
    elif kind != "Stage":
        # equal to a function of the past alone: so independent of o.ready in the same cycle
        p.check("ready", dut.i.ready == (inside != room))
    else:
        p.check("ready", dut.i.ready == ((inside != room) | dut.o.ready))
    held, before = p.past(dut.o.valid & ~dut.o.ready, "held"), p.past(dut.o.payload, "before")
    p.check("stable", ~held | (dut.o.valid & (dut.o.payload == before)))

    p.cover("full", inside == room)
    p.cover("watched_leaves", watching & pop & (ahead == 0) & (data == 3))
    streak = Signal(2)
    m.d.sync += streak.eq(Mux(push & pop, streak + 1, 0))
    p.cover("one_a_cycle", streak == 3)
    if kind != "Stage":
        p.cover("behind_another", watching & (ahead == 1))
    return p


@pytest.mark.parametrize("kind", ["Buffer", "Stage", "Fifo", "Fifo block"])
def test_link(kind: str) -> None:
    proof = stream_proof(kind=kind)
    assert_covered(proof)
    assert_proved(proof)


@pytest.mark.parametrize(
    ("kind", "check", "old", "new"),
    [
        ("Buffer", "order", "payload.eq(spare)", "payload.eq(self.i.payload)"),
        ("Buffer", "nothing_lost", "valid.eq(self.i.valid | spare_valid)", "valid.eq(self.i.valid)"),
        ("Buffer", "room", "self.i.ready.eq(~spare_valid)", "self.i.ready.eq(1)"),
        ("Buffer", "ready", "self.i.ready.eq(~spare_valid)", "self.i.ready.eq(~spare_valid & self.o.ready)"),
        ("Buffer", "stable", "with m.If(self.o.ready | ~valid):", "with m.If(1):"),
        (
            "Buffer",
            "nothing_lost",
            "valid = Signal()\n        m.d.comb += [self",
            "valid = Signal(reset_less=True)\n        m.d.comb += [self",
        ),
        ("Fifo", "order", "tail.eq(tail + push)", "tail.eq(tail + self.i.valid)"),
        ("Fifo", "nothing_lost", "held.eq(held + 1), some.eq(1)", "held.eq(held + 1), some.eq(0)"),
        ("Fifo", "level", "self.o.valid.eq(some)", "self.o.valid.eq(1)"),
        ("Fifo", "room", "self.i.ready.eq(~full)", "self.i.ready.eq(1)"),
        ("Fifo", "ready", "self.i.ready.eq(~full)", "self.i.ready.eq(~full | self.o.ready)"),
        ("Fifo", "stable", "head.eq(head + pop)", "head.eq(head + self.o.valid)"),
        ("Fifo block", "order", "read.en.eq(pop)", "read.en.eq(1)"),
        ("Fifo block", "nothing_lost", "ahead.eq(some)", "ahead.eq(some & ~ahead)"),
        ("Fifo block", "level", "self.level.eq(held + ahead)", "self.level.eq(held)"),
        ("Fifo block", "room", "self.i.ready.eq(~full)", "self.i.ready.eq(1)"),
        ("Fifo block", "ready", "full.eq(held == stored - 1)", "full.eq(1)"),
        ("Stage", "order", "m.d.sync += payload.eq(self.i.payload)\n        return", "pass\n        return"),
        (
            "Stage",
            "nothing_lost",
            "m.d.sync += valid.eq(self.i.valid)\n",
            "m.d.sync += valid.eq(self.i.valid | valid)\n",
        ),
        ("Stage", "room", "self.o.ready | ~valid),\n            self.o", "1),\n            self.o"),
        ("Stage", "ready", "self.i.ready.eq(self.o.ready | ~valid)", "self.i.ready.eq(~valid)"),
        ("Stage", "stable", "with m.If(self.i.ready):\n            m.d", "with m.If(1):\n            m.d"),
    ],
)
def test_link_control(kind: str, check: str, old: str, new: str) -> None:
    assert_refuted(stream_proof(mutant(link, old, new), kind), check)
