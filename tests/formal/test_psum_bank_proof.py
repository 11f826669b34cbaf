"""Proofs of the psum bank: the drain reads the sum over all passes, never before the last update."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Cat, Mux, Signal, signed
from prove import Proof, assert_covered, assert_proved, assert_refuted, mutant

from rowmesh.hw import psum_bank


def bank_proof(module: ModuleType = psum_bank, depth: int = 3, width: int = 2) -> Proof:
    """One bank between an arbitrary column that keeps to the order of passes, and an arbitrary drain.

    The column sends tiles of any size, each in any number of passes of the same size. One word, any one, is
    watched: its sum as the psums are accepted, its place from the head, and its slot in the tile.
    """
    config: Any = SimpleNamespace(psum_bank_words=depth, acc_width=width)
    dut: Any = module.PsumBank(config)
    p = Proof(dut)
    m = p.m
    psum = dut.i.payload
    names = ("value", "first", "last", "start", "void")
    m.d.comb += dut.i.valid.eq(p.free(1, "i_valid"))
    m.d.comb += [psum[name].eq(p.free(width if name == "value" else 1, f"i_{name}")) for name in names]
    m.d.comb += [
        dut.offset.eq(p.free(dut.offset.shape(), "offset")),
        dut.enable.eq(p.free(1, "enable")),
        dut.free.eq(p.free(1, "free")),
        dut.release.eq(p.free(dut.release.shape(), "release")),
    ]
    accept = Signal()
    m.d.comb += accept.eq(dut.i.valid & dut.i.ready)
    refused = p.past(dut.i.valid & ~dut.i.ready, "refused")
    p.assume(~refused | (dut.i.valid & (psum.as_value() == p.past(psum.as_value(), "offered"))))
    p.assume(dut.offset < depth)
    available = (dut.offset < dut.finals) & ~dut.busy
    p.assume(~dut.enable | available)
    p.assume(~dut.free | (dut.release <= dut.finals))

    # the order of passes
    size = Signal(range(depth + 2))  # words of the tile
    slot = Signal(range(depth + 2))  # words of this pass so far
    first = Signal(init=1)
    last = Signal(init=1)
    over = (slot == size) | (first & (slot != 0))  # a pass may end here
    with m.If(dut.i.valid):
        with m.If(psum.start):
            p.assume_if(over | (size == 0))
            p.assume_if(psum.first == last)
        with m.Else():
            p.assume_if((psum.first == first) & (psum.last == last))
            p.assume_if((slot != 0) & (first | (slot != size)))
    at = Signal(range(depth + 2))  # slot of the psum that is offered
    m.d.comb += at.eq(Mux(psum.start, 0, slot))
    with m.If(accept):
        m.d.sync += [slot.eq(at + 1), first.eq(psum.first), last.eq(psum.last)]
        with m.If(psum.first):
            m.d.sync += size.eq(at + 1)

    # counts
    held = Signal(range(2 * depth))
    finals = Signal(range(2 * depth))
    freed = Signal(range(2 * depth))
    written = Signal(2)  # last psums on their way to the memory
    m.d.comb += freed.eq(Mux(dut.free, dut.release, 0))
    m.d.sync += [
        held.eq(held + (accept & psum.first) - freed),
        written.eq(Cat(accept & psum.last, written[0])),
        finals.eq(finals + written[1] - freed),
    ]

    # one word, any one
    watch = p.free(1, "watch")
    watching = Signal()
    known = Signal()
    complete = Signal()
    own = Signal()  # the tile that is sent is the watched word's
    place = Signal(signed(4))
    mine = Signal(range(depth + 2))
    total = Signal(width)
    with m.If(watching):
        m.d.sync += place.eq(place - freed)
        with m.If(place - freed < 0):
            m.d.sync += watching.eq(0)
        with m.If(accept & psum.first & psum.start):
            m.d.sync += own.eq(0)
        with m.Elif(accept & own & (at == mine) & ~psum.first):
            m.d.sync += [total.eq(Mux(psum.void, total, total + psum.value)), complete.eq(psum.last)]
    with m.Elif(watch & accept & psum.first):
        m.d.sync += [
            watching.eq(1),
            own.eq(1),
            known.eq(~psum.void),
            complete.eq(psum.last),
            place.eq(held - freed),
            mine.eq(at),
            total.eq(psum.value),
        ]
    asked = Signal()
    expected = Signal(width)
    m.d.sync += [asked.eq(dut.enable & watching & known & (place == dut.offset)), expected.eq(total)]

    busy = dut.i.valid & ~psum.first & ~psum.void
    p.check("room", ~psum.first | (dut.i.ready == (held < depth)))
    p.check("busy", dut.busy == busy)
    p.check("finals", dut.finals == finals)
    p.check("final", ~(available & watching & (place == dut.offset)) | complete)
    p.check("data", ~asked | (dut.response.as_unsigned() == expected))
    p.check("rate", ~dut.i.valid | psum.first | dut.i.ready)

    passes = Signal(2)
    with m.If(accept & psum.start):
        m.d.sync += passes.eq(Mux(psum.first, 0, passes + 1))
    p.cover("three_passes", asked & expected.all() & (passes == 2) & (size == 3))
    p.cover("full", held == depth)
    p.cover("next_tile", asked & ~own & (held == depth))
    p.cover("void", accept & psum.void & watching & own & known & (at == mine))
    p.cover("one_word", asked & (passes == 3) & (size == 1))
    p.cover("two_words", asked & (passes == 2) & (size == 2))
    return p


CONTROL = ("room", "busy", "finals", "rate")


def test_psum_bank() -> None:
    proof = bank_proof()
    assert_covered(proof, depth=24)
    assert_proved(bank_proof(width=1), only=CONTROL)
    assert_proved(bank_proof(width=1), depth=12)


def test_psum_bank_small() -> None:
    """Every check without a bound, for two words."""
    assert_proved(bank_proof(depth=2, width=1))


@pytest.mark.slow
def test_psum_bank_final() -> None:
    assert_proved(bank_proof(width=1), only=("final",))


@pytest.mark.slow
def test_psum_bank_deep() -> None:
    assert_proved(bank_proof(width=1), depth=14, timeout=900)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("room", "~(psum.first & full)", "1"),
        ("busy", "self.busy.eq(busy)", "self.busy.eq(self.i.valid)"),
        ("finals", "self.finals.eq(finals)", "self.finals.eq(held)"),
        ("final", "self.finals.eq(finals)", "self.finals.eq(held)"),
        ("data", "~(psum.first & full)", "1"),
        ("data", 'Mux(two["first"], 0, old)', "old"),
        ("data", 'write.en.eq(two["valid"] & ~two["void"])', 'write.en.eq(two["valid"])'),
        ("data", "m.d.sync += base.eq(tail)", "m.d.sync += base.eq(head)"),
        ("rate", "~(psum.first & full)", "~full"),
        ("data", "Mux(again1, total,", "Mux(0, total,"),
        ("data", "Mux(again2, written,", "Mux(0, written,"),
        ("data", 'second & two["second"]', "0"),
        ("data", ' & ~one["void"]', ""),
        ("data", ' & two["valid"] & ~two["void"]', ""),
    ],
)
def test_psum_bank_control(check: str, old: str, new: str) -> None:
    assert_refuted(bank_proof(mutant(psum_bank, old, new)), check, depth=24)
