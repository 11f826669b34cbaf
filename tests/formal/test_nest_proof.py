"""Proofs of the loop nest.

A single level is proved without a bound against a counter, for arbitrary programs that may be rewritten while they
do not run, and the affine unit against a register for each loop. Whole nests are checked to a depth that covers small
programs, against nested counters; that every level composes is what the single level's proof gives.
"""

from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Array, Cat, Mux, Signal
from prove import Proof, assert_covered, assert_proved, assert_refuted, mutant

from rowmesh.hw import nest

BOUND = 2
"""Bits of a loop bound in the proofs; in the hardware there are more."""


def small(old: str = "", new: str = "", bound: int = BOUND) -> ModuleType:
    """Return the nest's module with narrow bounds, and perhaps with a fault."""
    source = mutant(nest, "BOUND_WIDTH = 16", f"BOUND_WIDTH = {bound}")
    return mutant(source, old, new) if old else source


def level_proof(levels: int, module: ModuleType, bound: int = BOUND) -> Proof:
    """One level between an arbitrary outer level and an arbitrary consumer."""
    dut: Any = module.LoopLevel(levels)
    p = Proof(dut)
    m = p.m
    token = dut.i.payload

    m.d.comb += [
        dut.i.valid.eq(p.free(1, "i_valid")),
        token.bank.eq(p.free(1, "i_bank")),
        token.first.eq(p.free(levels, "i_first")),
        token.last.eq(p.free(levels, "i_last")),
        dut.o.ready.eq(p.free(1, "o_ready")),
        dut.write.eq(p.free(2, "write")),
        dut.write_bank.eq(p.free(1, "write_bank")),
        dut.write_data.eq(p.free(bound + levels, "write_data")),
    ]

    # the program as written, for the two banks
    def written(when: Any, word: Any, name: str) -> tuple[Array, Array]:
        value = Array(Signal(len(word), name=f"{name}{bank}") for bank in range(2))
        known = Array(Signal(name=f"{name}{bank}_known") for bank in range(2))
        with m.If(when):
            m.d.sync += [value[dut.write_bank].eq(word), known[dut.write_bank].eq(1)]
        return value, known

    word = dut.write_data[: bound + levels]
    usual, usual_known = written(dut.write == 0b01, word[:bound], "usual")
    mask, mask_known = written(dut.write[0], word[bound:], "mask")
    final, final_known = written(dut.write[1], word[:bound], "final")

    busy = Signal()
    bank = Signal()
    first = Signal(levels)
    last = Signal(levels)
    count = Signal(bound)
    end = Signal(bound)
    accept = Signal()
    p.assume(~dut.write.any() | ~busy | (dut.write_bank != bank))
    p.assume(~dut.write.any() | ~dut.i.valid | (dut.write_bank != token.bank))
    # a level without a mask needs no bound
    p.assume(~dut.i.valid | (mask_known[token.bank] & final_known[token.bank]))
    p.assume(~dut.i.valid | usual_known[token.bank] | (mask[token.bank] == 0))

    m.d.comb += accept.eq(dut.i.valid & dut.i.ready)
    masked = (mask[token.bank] & ~token.last) == 0
    with m.If(accept):
        m.d.sync += [
            busy.eq(1),
            bank.eq(token.bank),
            first.eq(token.first),
            last.eq(token.last),
            count.eq(0),
            end.eq(Mux(masked, final[token.bank], usual[token.bank])),
        ]
    with m.Elif(dut.o.ready & busy):
        m.d.sync += [count.eq(count + 1), busy.eq(count != end)]

    def flags(outer: Signal, own: Any) -> Any:
        return Cat(own, outer[: levels - 1])

    p.check("valid", dut.o.valid == busy)
    p.check("no_bubble", dut.i.ready == (~busy | ((count == end) & dut.o.ready)))
    p.check("first", ~busy | (dut.o.payload.first == flags(first, count == 0)))
    p.check("last", ~busy | (dut.o.payload.last == flags(last, count == end)))
    p.check("bank", ~busy | (dut.o.payload.bank == bank))
    p.cover("longest", busy & (count == (1 << bound) - 1) & accept)
    p.cover("masked", accept & masked & usual_known[token.bank] & (final[token.bank] != usual[token.bank]))
    p.cover("cleared", accept & ~usual_known[token.bank] & (final[token.bank] == 0))
    p.cover("other_bank_next", busy & accept & (token.bank != bank) & (count == 1))
    return p


def affine_proof(levels: int, module: ModuleType, width: int = 1) -> Proof:
    """The affine unit against a register for each loop, which holds the value at its iteration's beginning."""
    dut: Any = module.Affine(levels, {"a": width})
    p = Proof(dut)
    m = p.m
    token, step = dut.i.payload, dut.o.payload
    stride = Array(p.constant(width, f"stride{k}") for k in range(2 * (levels + 1)))  # of both banks

    # strides are written once, before the first token
    entries = 2 * (levels + 1)
    cursor = Signal(range(entries + 1))
    write = Signal()
    m.d.comb += [
        write.eq(cursor != entries),
        dut.write.eq(write),
        dut.write_bank.eq(cursor > levels),
        dut.write_level.eq(Mux(cursor > levels, cursor - (levels + 1), cursor)),
        dut.write_data.eq(stride[cursor]),
        dut.i.valid.eq(~write & p.free(1, "i_valid")),
        token.bank.eq(p.free(1, "i_bank")),
        token.first.eq(p.free(levels, "i_first")),
        token.last.eq(p.free(levels, "i_last")),
        dut.o.ready.eq(p.free(1, "o_ready")),
    ]
    m.d.sync += cursor.eq(cursor + write)
    accept, fire, begun = Signal(), Signal(), Signal()
    m.d.comb += [accept.eq(dut.i.valid & dut.i.ready), fire.eq(dut.o.valid & dut.o.ready)]
    with m.If(accept):
        m.d.sync += begun.eq(1)
    p.assume(~dut.i.valid | begun | token.first.all())  # the first of all starts a descriptor

    # the loop that advances, and the value of each loop
    kept = Array(Signal(width, name=f"kept{k}") for k in range(levels))
    which = Signal(range(levels + 1))
    m.d.comb += which.eq(levels)
    for k in reversed(range(levels)):
        with m.If(~step.first[k]):
            m.d.comb += which.eq(k)
    value = Signal(width)
    add = stride[which + Mux(step.bank, levels + 1, 0)]
    m.d.comb += value.eq(Mux(which == levels, 0, kept[which]) + add)
    with m.If(fire):
        m.d.sync += [kept[k].eq(Mux(which >= k, value, kept[k])) for k in range(levels)]

    # the tokens inside, in order: bank, first and last of the k-th one from the exit
    most = 4
    flags = Cat(token.bank, token.first, token.last)
    inside = Signal(range(most + 1))
    queue = [Signal(len(flags), name=f"queue{k}") for k in range(most + 1)]
    with m.If(fire):
        m.d.sync += [queue[k].eq(queue[k + 1]) for k in range(most)]
    for k in range(most + 1):
        with m.If(accept & (inside - fire == k)):
            m.d.sync += queue[k].eq(flags)
    m.d.sync += inside.eq(inside + accept - fire)
    full_speed = Signal(3)  # cycles in which the consumer has been ready
    m.d.sync += full_speed.eq(Mux(dut.o.ready, full_speed << 1 | 1, 0))

    p.check("nothing_extra", ~dut.o.valid | (inside != 0))
    p.check("tokens", ~dut.o.valid | (Cat(step.bank, step.first, step.last) == queue[0]))
    p.check("value", ~dut.o.valid | (step.out.a.as_unsigned() == value))
    p.check("no_bubble", ~(full_speed.all() & dut.o.ready) | dut.i.ready)
    p.check("room", inside <= most)
    p.cover("inner_after_outer", fire & (which == 0) & (value == 1) & (p.past(which, "before") == levels - 1))
    p.cover("queued", (inside == most) & ~dut.i.ready)
    return p


def nest_proof(levels: int, segment: int, module: ModuleType, *, queued: bool, runs: int = 2) -> Proof:
    """A whole nest runs ``runs`` descriptors of arbitrary banks and programs.

    ``queued``: both banks are written first, the starts are offered without a pause, and no bubble is
    allowed. Otherwise the starts come, and the words of the second bank are written, at arbitrary times
    while the first runs.
    """
    width = 2
    outputs = {"a": width}
    dut: Any = module.LoopNest(levels, outputs, segment=segment)
    p = Proof(dut)
    m = p.m

    base = Array(p.constant(width, f"base{b}") for b in range(2))
    bound = [Array(p.constant(BOUND, f"bound{b}_{k}") for b in range(2)) for k in range(levels)]
    final = [Array(p.constant(BOUND, f"final{b}_{k}") for b in range(2)) for k in range(levels)]
    mask: list[Any] = [Array(p.constant(levels, f"mask{b}_{k}") for b in range(2)) for k in range(levels)]
    stride = [Array(p.constant(width, f"stride{b}_{k}") for b in range(2)) for k in range(levels)]
    for k in range(levels):
        for b in range(2):
            p.assume(mask[k][b][: k + 1] == 0)  # only outer levels can be named

    # the descriptor writer: bank by bank, in any order of the banks
    order = Array(p.constant(1, f"order{n}") for n in range(runs))
    ready_banks = Signal(2)
    bank = Signal()
    m.d.comb += bank.eq(order[0] ^ ready_banks.any())
    nest = module.LoopNest
    contents: list[tuple[int, Any]] = [
        *((nest.bound_address(levels, k), Cat(bound[k][bank], mask[k][bank][k + 1 :])) for k in range(levels)),
        *((nest.last_address(levels, k), final[k][bank]) for k in range(levels)),
        *((nest.stride_address(levels, 0, k), stride[k][bank]) for k in range(levels)),
        (nest.stride_address(levels, 0, levels), base[bank]),
    ]
    # between them is the word that clears what has been written of the levels: the first one, or any one
    cleared = [p.constant(range(2 * levels + 1), f"cleared{b}") for b in range(2)]
    for b in range(2):
        p.assume(cleared[b] <= (2 * levels if queued else 0))
    words = len(contents) + 1
    cursor = Signal(range(words + 1))
    write, clear, place = Signal(), Signal(), Signal(range(words + 1))
    m.d.comb += [
        write.eq(~ready_banks.all() & (1 if queued else (~ready_banks.any() | p.free(1, "write")))),
        clear.eq(cursor == Array(cleared)[bank]),
        place.eq(Mux(cursor > Array(cleared)[bank], cursor - 1, cursor)),
        dut.config.valid.eq(write),
        dut.config.bank.eq(bank),
        dut.config.address.eq(Mux(clear, nest.clear_address(levels), Array(address for address, _ in contents)[place])),
        dut.config.data.eq(Mux(clear, 0, Array(word for _, word in contents)[place])),
    ]
    with m.If(write):
        m.d.sync += cursor.eq(cursor + 1)
        with m.If(cursor == words - 1):
            m.d.sync += [cursor.eq(0), ready_banks.eq(ready_banks | (1 << bank))]

    started = Signal(range(runs + 1))
    done = Signal(range(runs + 1))
    allowed = ready_banks.all() if queued else (ready_banks.bit_select(order[started], 1) & p.free(1, "start"))
    m.d.comb += [
        dut.start.valid.eq((started != runs) & allowed),
        dut.start.payload.eq(order[started]),
        dut.o.ready.eq(p.free(1, "o_ready")),
    ]
    m.d.sync += started.eq(started + (dut.start.valid & dut.start.ready))

    # nested counters
    current = order[done]
    count = [Signal(BOUND, name=f"count{k}") for k in range(levels)]
    last = Signal(levels)
    first = Signal(levels)
    fresh = Signal(init=1)  # the first step of a descriptor is next
    kept = [Signal(width, name=f"kept{k}") for k in range(levels)]
    value = [Signal(width, name=f"value{k}") for k in range(levels)]  # of the output, inner loops at their start
    for k in reversed(range(levels)):
        chosen = Array(cleared)[current]
        masked = ((mask[k][current][k + 1 :] & ~last[k + 1 :]) == 0) | (chosen > k)
        m.d.comb += [
            first[k].eq(count[k] == 0),
            last[k].eq(count[k] == Mux(masked, Mux(chosen > levels + k, 0, final[k][current]), bound[k][current])),
            value[k].eq(Mux(fresh, base[current], kept[k])),
        ]
    fire = Signal()
    m.d.comb += fire.eq(dut.o.valid & dut.o.ready)
    with m.If(fire):
        m.d.sync += [fresh.eq(last.all()), *(kept[k].eq(value[k]) for k in range(levels))]
    for k in range(levels):
        with m.If(fire & last[:k].all()):
            m.d.sync += count[k].eq(Mux(last[k], 0, count[k] + 1))
            with m.If(~last[k]):
                m.d.sync += [kept[inner].eq(value[k] + stride[k][current]) for inner in range(k + 1)]
    m.d.sync += done.eq(done + (fire & last.all()))

    step = dut.o.payload
    p.check("nothing_extra", ~dut.o.valid | (done < started))
    p.check("value", ~dut.o.valid | (step.out.a.as_unsigned() == value[0]))
    p.check("first", ~dut.o.valid | (step.first == first))
    p.check("last", ~dut.o.valid | (step.last == last))
    p.check("bank", ~dut.o.valid | (step.bank == current))
    age = Signal(range(dut.latency + 1))
    with m.If((started != 0) & (age != dut.latency)):
        m.d.sync += age.eq(age + 1)
    if queued:
        p.check("no_bubble", (started == 0) | (done == runs) | (dut.o.valid == (age >= dut.latency - 1)))
    p.cover("all_done", done == runs)
    p.cover("one_step_each", (done == runs) & (age == dut.latency) & last.any() & p.past(fire, "fired"))
    p.cover("imperfect", fire & last.all() & (count[0] == 1) & (bound[0][current] == 2) & (done == runs - 1))
    p.cover("long", fire & (count[0] == 2) & (count[1] == 2) & (value[0] == 3))
    return p


@pytest.mark.parametrize("levels", [2, 3])
def test_level(levels: int) -> None:
    proof = level_proof(levels, small())
    assert_covered(proof)
    assert_proved(proof)


@pytest.mark.slow
def test_level_wider() -> None:
    assert_proved(level_proof(3, small(bound=4), bound=4))


READY = "self.i.ready.eq(~valid | (is_last & self.o.ready))"


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (
            "valid",
            "        valid = Signal()\n        token",
            "        valid = Signal(reset_less=True)\n        token",
        ),
        ("valid", READY, "self.i.ready.eq(~valid | is_last)"),
        ("no_bubble", READY, "self.i.ready.eq(~valid)"),
        ("first", "is_first.eq(0)", "is_first.eq(is_first)"),
        ("last", "is_last.eq(left == 1)", "is_last.eq(left == 0)"),
        ("last", "masks[0]) & ~outer.last) == 0", "masks[0]) & outer.last) == 0"),
        ("last", "self.write_data[:BOUND_WIDTH] == 0", "self.write_data == 0"),
        ("bank", "self.o.payload.bank.eq(token.bank)", "self.o.payload.bank.eq(self.i.payload.bank)"),
    ],
)
def test_level_control(check: str, old: str, new: str) -> None:
    assert_refuted(level_proof(3, small(old, new)), check)


@pytest.mark.parametrize("levels", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_affine(levels: int) -> None:
    proof = affine_proof(levels, small())
    assert_covered(proof, depth=24)
    assert_proved(proof, timeout=900)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("nothing_extra", "out.i.valid.eq(summand.o.valid)", "out.i.valid.eq(1)"),
        ("tokens", "summand.o.ready.eq(out.i.ready)", "summand.o.ready.eq(1)"),
        ("value", "(now.level >= level)", "(now.level > level)"),
        ("value", "Mux(step.level == levels, 0, read.data)", "read.data"),
        ("value", "read.addr.eq(Cat(now.level, now.bank))", "read.addr.eq(now.level)"),
        ("value", "read.addr.eq(step.owner)", "read.addr.eq(step.level)"),
        ("no_bubble", "moved.o.ready.eq(summand.i.ready)", "moved.o.ready.eq(summand.i.ready & ~summand.o.valid)"),
    ],
)
def test_affine_control(check: str, old: str, new: str) -> None:
    assert_refuted(affine_proof(2, small(old, new)), check, depth=24)


@pytest.mark.parametrize(
    ("levels", "segment", "queued", "depth"),
    [
        pytest.param(2, 4, True, 36, id="2-queued", marks=pytest.mark.slow),
        pytest.param(3, 1, True, 38, id="3-queued-links"),
        pytest.param(2, 4, False, 24, id="2-overlapped"),
        pytest.param(2, 4, False, 28, id="2-overlapped-longer", marks=pytest.mark.slow),
        pytest.param(2, 1, False, 30, id="2-overlapped-links", marks=pytest.mark.slow),
        pytest.param(3, 2, True, 40, id="3-queued", marks=pytest.mark.slow),
    ],
)
def test_nest(levels: int, segment: int, queued: bool, depth: int) -> None:
    proof = nest_proof(levels, segment, small(), queued=queued)
    assert_covered(proof, depth=depth)
    assert_proved(proof, depth=depth, timeout=900)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("nothing_extra", "entry.i.valid.eq(self.start.valid)", "entry.i.valid.eq(1)"),
        ("value", 'read.data) + step["add"][name]', 'read.data) + step["add"][name] + 1'),
        ("first", "enumerate(reversed(range(self._levels)))", "enumerate(range(self._levels))"),
        ("last", "masks[0]) & ~outer.last) == 0", "masks[0]) & ~outer.first) == 0"),
        ("bank", "entry.i.payload.bank.eq(self.start.payload)", "entry.i.payload.bank.eq(0)"),
        ("last", "clear.replicate(_BOUNDS)", "Cat(clear, 0)"),
        ("last", "clear.replicate(_BOUNDS)", "Cat(0, clear)"),
        ("value", "Mux(ahead, self._levels, level_written)", "level_written"),
        (
            "no_bubble",
            "valid.eq(self.i.valid),\n                token",
            "valid.eq(self.i.valid & ~valid),\n                token",
        ),
    ],
)
def test_nest_control(check: str, old: str, new: str) -> None:
    assert_refuted(nest_proof(2, 4, small(old, new), queued=True), check, depth=36)
