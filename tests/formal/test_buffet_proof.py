"""Proofs of the buffet: occupancy, room, availability and data, for every interleaving of its sides.

The reference keeps the three counts that define a buffet (words from origin to tail, from head to tail,
from origin to head) at full width, and one *watched* word, any one, by its distance from the origin. As the
choice of the word is free, what holds for it holds for all.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Mux, Signal, signed
from prove import Proof, assert_covered, assert_proved, assert_refuted, mutant

from rowmesh.hw import buffet

WIDTH = 1


@dataclass(frozen=True)
class Case:
    """Parameters of a buffet under proof."""

    depth: int
    round_up: bool = True
    block: bool = False
    skip_width: int = 0
    release_width: int = 2

    def __str__(self) -> str:
        kind = "block" if self.block else "comb"
        single = "-single" * (self.release_width == 1)
        return f"{self.depth}-{kind}{'-round_up' * self.round_up}{'-skip' * bool(self.skip_width)}{single}"


def buffet_proof(case: Case, module: ModuleType = buffet) -> Proof:
    """One buffet between an arbitrary producer and an arbitrary reader that keeps to the contract.

    The reader reads only what is available and not released, with offsets below the memory's depth,
    releases only words that are held, and lets the head run at most one depth ahead of the origin. The
    producer skips only into room, and not while it fills.
    """
    dut: Any = module.Buffet(
        WIDTH,
        case.depth,
        release_width=case.release_width,
        round_up=case.round_up,
        block=case.block,
        skip_width=case.skip_width,
    )
    p = Proof(dut)
    m, depth = p.m, case.depth

    fill_valid = p.free(1, "fill_valid")
    payload = p.free(WIDTH, "payload")
    offset = p.free(dut.offset.shape(), "offset")
    enable = p.free(1, "enable")
    quiet = p.free(1, "quiet")
    release = p.free(case.release_width, "release")
    sync = p.free(1, "sync")
    m.d.comb += [
        dut.fill.valid.eq(fill_valid),
        dut.fill.payload.eq(payload),
        dut.offset.eq(offset),
        dut.enable.eq(enable),
        dut.quiet.eq(quiet),
        dut.release.eq(release),
        dut.sync.eq(sync),
    ]
    stored = Signal(range(4 * depth))
    held = Signal(range(4 * depth))
    lag = Signal(range(4 * depth))

    # what the two sides may do
    fill = Signal()
    arrived = Signal(range(depth + 1))
    freed = Signal(range(4 * depth))
    moved = Signal(range(4 * depth))
    m.d.comb += [fill.eq(fill_valid & dut.fill.ready), arrived.eq(fill)]
    if case.skip_width:
        skip = p.free(case.skip_width, "skip")
        m.d.comb += [dut.skip.eq(skip), arrived.eq(fill + skip)]
        p.assume((skip == 0) | (~fill_valid & (skip + held <= depth)))
    span = 1 << (depth - 1).bit_length() if case.round_up else depth
    p.assume(offset < span)
    p.assume(~enable | quiet | ((offset < stored) & (offset >= lag)))
    p.assume(~enable | ((release <= held) & (lag + release <= depth)))
    with m.If(enable):
        m.d.comb += freed.eq(release)
        with m.If(sync):
            m.d.comb += moved.eq(lag + release)
    m.d.sync += [
        held.eq(held + arrived - freed),
        stored.eq(stored + arrived - moved),
        lag.eq(lag + freed - moved),
    ]

    # one word of all, by its distance from the origin
    watch = p.free(1, "watch")
    watching = Signal()
    place = Signal(signed(stored.shape().width + 1))
    data = Signal(WIDTH)
    with m.If(watching):
        m.d.sync += place.eq(place - moved)
        with m.If(place - moved < 0):
            m.d.sync += watching.eq(0)
    with m.Elif(watch & fill):
        m.d.sync += [watching.eq(1), data.eq(payload), place.eq(stored - moved)]
    asked = Signal()  # the last word read was the watched one
    expected = Signal(WIDTH)
    m.d.sync += [asked.eq(enable & ~quiet & watching & (place == offset)), expected.eq(data)]

    p.check("occupancy", dut.held == held)
    p.check("covered", dut.covered == (release <= held))
    p.check("room", dut.fill.ready == (held < depth))
    p.check("available", dut.available == (offset < stored))
    p.check("data", ~asked | (dut.response == expected))

    p.cover("full", held == depth)
    p.cover("data_read", asked & expected[0])
    wraps = Signal(range(3 * depth))
    m.d.sync += wraps.eq(Mux(wraps < 2 * depth, wraps + fill, wraps))
    p.cover("wrapped_twice", asked & (wraps == 2 * depth))
    p.cover("next_tile_beside_the_old", (lag == depth - 1) & (held == depth))
    p.cover("released_in_advance", (lag != 0) & enable & ~quiet & watching & (place == offset))
    p.cover("back_to_back", asked & enable & ~quiet & watching & (place == offset) & fill)
    p.cover("quiet_release", enable & quiet & (release != 0))
    if case.skip_width:
        p.cover("skipped", (skip > 1) & (held != 0))
    return p


CASES = [
    Case(3),
    Case(3, release_width=1),
    Case(3, round_up=False),
    Case(4, block=True),
    Case(3, round_up=False, block=True, skip_width=2),
    Case(3, skip_width=2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_buffet(case: Case) -> None:
    proof = buffet_proof(case)
    assert_covered(proof)
    assert_proved(proof)


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(5), Case(5, round_up=False, block=True, skip_width=2)], ids=str)
def test_buffet_larger(case: Case) -> None:
    assert_proved(buffet_proof(case), timeout=300)


@pytest.mark.parametrize(
    ("check", "case", "old", "new"),
    [
        (
            "occupancy",
            Case(3, release_width=1),
            "freed.eq(self.enable & self.release)",
            "freed.eq(self.enable & self.sync)",
        ),
        ("occupancy", Case(3), "left.eq(held - self.release + filled)", "left.eq(held - self.sync + filled)"),
        ("occupancy", Case(3), "held = Signal(count)  #", "held = Signal(count, reset_less=True)  #"),
        ("room", Case(3), "fill & (held == self._depth - 1)", "fill & (stored == self._depth - 1)"),
        ("room", Case(3), "fill & (held == self._depth - 1)", "fill & (held == self._depth)"),
        ("covered", Case(3), "self.release <= held", "self.release < held"),
        ("available", Case(3), "self.offset < stored", "self.offset <= stored"),
        ("available", Case(3), "stored = Signal(range(2 * self._depth + 1))", "stored = Signal(count)"),
        ("available", Case(3), "Mux(self.enable & self.sync, left,", "Mux(self.enable & self.sync, held,"),
        ("data", Case(3), "wrapped_sum(m, head, self.release,", "wrapped_sum(m, origin, self.release,"),
        ("data", Case(3, round_up=False), "with m.If(total >= depth)", "with m.If(total > depth)"),
        ("data", Case(3), "response.eq(read.data)\n        return", "response.eq(self.fill.payload)\n        return"),
        ("data", Case(4, block=True), "read.en.eq(1)", "read.en.eq(self.quiet)"),
        ("data", Case(4, block=True), "write.en.eq(fill)", "write.en.eq(self.fill.valid)"),
        ("data", Case(3, skip_width=2), "step = 1 if not self._skip_width else filled", "step = 1"),
    ],
)
def test_buffet_control(check: str, case: Case, old: str, new: str) -> None:
    assert_refuted(buffet_proof(case, mutant(buffet, old, new)), check)
