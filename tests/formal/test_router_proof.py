"""Proofs of the mesh's routers: every output of the route gets every item once and in order, no other gets any."""

from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Array, Cat, Const, Mux, Signal
from prove import Proof, assert_covered, assert_proved, assert_refuted, mutant

from rowmesh.hw import router

WIDTH = 2
SIDES = {"iact": router.LINKS["iact"], "weight": router.LINKS["weight"]}


def router_proof(operand: str, module: ModuleType = router) -> Proof:
    """One router between arbitrary neighbours, with any route written at any time."""
    sides = (router.Side.LOCAL, *SIDES[operand])
    dut: Any = module.Router(WIDTH, SIDES[operand])
    p = Proof(dut)
    m = p.m
    for k in range(len(sides)):
        m.d.comb += [
            dut.i[k].valid.eq(p.free(1, f"i{k}_valid")),
            dut.i[k].payload.eq(p.free(WIDTH, f"i{k}_payload")),
            dut.o[k].ready.eq(p.free(1, f"o{k}_ready")),
        ]
    write, chosen, wanted = p.free(1, "write"), p.free(range(len(sides)), "chosen"), p.free(len(sides), "wanted")
    p.assume(chosen < len(sides))
    word = Signal(32)
    m.d.comb += [
        word.eq(Array(Const(side, 8) for side in sides)[chosen] | sum(wanted[k] << 8 + s for k, s in enumerate(sides))),
        dut.write.eq(write),
        dut.write_data.eq(word),
    ]

    # a route takes effect when nothing is held, and nothing is taken until then
    source, mask, push, moved, inside = Signal(range(len(sides))), Signal(len(sides)), Signal(), Signal(), Signal(3)
    next_source, next_mask, changing = Signal(range(len(sides))), Signal(len(sides)), Signal()
    with m.If(write):
        m.d.sync += [next_source.eq(chosen), next_mask.eq(wanted), changing.eq(1)]
    with m.Elif(changing & (inside == 0)):
        m.d.sync += [source.eq(next_source), mask.eq(next_mask), changing.eq(0)]
    taken = Cat(i.valid & i.ready for i in dut.i)
    given = Cat(o.valid & o.ready for o in dut.o)
    m.d.comb += [push.eq(taken.any()), moved.eq(given.any())]
    m.d.sync += inside.eq(inside + push - moved)
    p.check("drained", ~changing | (taken == 0))

    watch, watching, ahead, data = p.free(1, "watch"), Signal(), Signal(3), Signal(WIDTH)
    offered = Signal(WIDTH)
    m.d.comb += offered.eq(Array(i.payload for i in dut.i)[source])
    with m.If(watching):
        m.d.sync += [ahead.eq(ahead - moved), watching.eq(~(moved & (ahead == 0)))]
    with m.Elif(watch & push):
        m.d.sync += [watching.eq(1), data.eq(offered), ahead.eq(inside - moved)]
    of_source = Cat(source == k for k in range(len(sides)))
    ready = Cat(o.ready for o in dut.o)
    p.check("source", ((Cat(i.ready for i in dut.i) & ~of_source) == 0) & (mask.any() | (taken == 0)))
    p.check("once", (given == 0) | (given == mask))
    p.check("elsewhere", Cat(o.valid & ~mask[k] for k, o in enumerate(dut.o)) == 0)
    p.check("invented", ~Cat(o.valid for o in dut.o).any() | (inside != 0))
    late = watching & (ahead == 0)
    p.check("order", Cat(late & given[k] & (o.payload != data) for k, o in enumerate(dut.o)) == 0)
    p.check("room", inside <= 2)
    p.check("ready", changing | ~mask.any() | (Array(i.ready for i in dut.i)[source] == (inside != 2)))
    p.check("progress", (inside == 0) | ((mask & ~ready) != 0) | moved)
    p.check("counted", dut.moved == moved)
    p.cover("everywhere", late & (given == (1 << len(sides)) - 1) & data.all())
    streak = Signal(2)
    m.d.sync += streak.eq(Mux(push & moved, streak + 1, 0))
    p.cover("one_a_cycle", streak == 3)
    changes = Signal(2)
    m.d.sync += changes.eq(changes + (write & mask.any() & (chosen != source) & (inside != 0) & (changes != 3)))
    p.cover("changed", (changes == 2) & ~changing & moved)
    return p


@pytest.mark.parametrize("operand", SIDES)
def test_router(operand: str) -> None:
    assert_covered(router_proof(operand), depth=16)
    assert_proved(router_proof(operand))


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("source", "opened & (now.source == side) & fork.i.ready", "opened & fork.i.ready"),
        ("drained", "opened.eq(now.used & ~changing)", "opened.eq(now.used)"),
        ("once", "changing & ~fork.held", "changing"),
        ("once", "hold.o.valid & self.mask[k] & others.all()", "hold.o.valid & self.mask[k]"),
        ("elsewhere", "hold.o.valid & self.mask[k] & others.all()", "hold.o.valid & others.all()"),
        ("order", "self.o[k].payload.eq(hold.o.payload)", "self.o[k].payload.eq(self.i.payload)"),
        ("progress", "~self.mask[k] | self.o[k].ready", "self.o[k].ready"),
        ("once", "~self.mask[k] | self.o[k].ready", "~self.mask[k] | self.o[k].ready | (k > 0)"),
        ("counted", "hold.o.valid & served.all()", "served.all()"),
    ],
)
def test_router_control(check: str, old: str, new: str) -> None:
    assert_refuted(router_proof("weight", mutant(router, old, new)), check, depth=16)
