"""Nests by name: simplification changes no step, encoding refuses what does not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.issuer import step_descriptor
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.occupancy import count, expand, peak

OUTPUTS = ("iact", "weight")


@st.composite
def nests(draw):
    loops = []
    for number in range(draw(st.integers(1, 5))):
        outer = [loop.name for loop in loops]
        when = draw(st.sets(st.sampled_from(outer))) if outer else set()
        loops.append(
            Loop(
                f"l{number}",
                draw(st.integers(1, 3)),
                {name: draw(st.integers(-2, 3)) for name in OUTPUTS},
                draw(st.integers(1, 3)) if when else None,
                when,
            )
        )
    names = [loop.name for loop in loops]
    conditions = {"emit_mask": draw(st.one_of(st.none(), st.sets(st.sampled_from(names))))}
    return Nest(loops, {"iact": draw(st.integers(0, 3))}, conditions)


@settings(deadline=None, derandomize=True)
@given(nest=nests())
def test_simplified_nests_take_the_same_steps(nest):
    before, simple = nest.tokens({}), nest.simplified()
    after = simple.tokens({})
    number = len(next(iter(before.values())))
    assert nest.steps == number
    if not simple.loops:
        assert number == 1
        return
    assert simple.steps == number
    for name in OUTPUTS:
        assert np.array_equal(before[name], after.get(name, np.zeros(number, np.int64))), name
    assert np.array_equal(nest.holds("emit_mask", before, "last"), simple.holds("emit_mask", after, "last"))
    assert np.array_equal(nest.holds("emit_mask", before, "first"), simple.holds("emit_mask", after, "first"))


def test_merging_saves_levels():
    nest = Nest([Loop("n", 3), Loop("p", 4, {"iact": 5}), Loop("q", 5, {"iact": 1}), Loop("unit", 1)])
    assert [(loop.name, loop.bound) for loop in nest.simplified().loops] == [("n", 3), ("q", 20)]


def test_beyond_limits_are_refused():
    layout = step_descriptor(ArchConfig(nest_levels=6))
    nest = Nest([Loop(f"l{k}", 2, {"iact": k}) for k in range(7)])
    with pytest.raises(ValueError, match="6 levels cannot run 7 loops"):
        nest.encode(layout)


def test_an_iteration_that_does_not_exist_is_an_error():
    with pytest.raises(IndexError, match="loop p has no iteration 4"):
        Nest([Loop("p", 4)]).tokens({"p": 4})


@settings(deadline=None, derandomize=True)
@given(nest=nests(), data=st.data())
def test_counts_in_closed_form_are_those_of_the_steps(nest, data):
    names = [loop.name for loop in nest.loops]
    held = data.draw(st.sets(st.sampled_from(names)))
    fixed = {loop.name: data.draw(st.integers(0, loop.bound)) for loop in nest.loops if loop.name in held}
    last, first = (data.draw(st.sets(st.sampled_from(names))) for _ in range(2))
    asked = Nest(nest.loops, nest.bases, {"last": last, "first": first})
    steps = expand(asked, OUTPUTS, fixed)
    try:
        tokens = nest.tokens(fixed)
    except IndexError:
        tokens = None  # a loop has no such iteration where others are held, or nowhere
    if tokens is not None:
        for name in OUTPUTS:
            assert np.array_equal(steps.output(name), tokens.get(name, np.zeros(steps.number, np.int64))), name
        for flag in ("last", "first"):
            assert np.array_equal(steps.holds(flag, flag), asked.holds(flag, tokens, flag))
    assert count(nest, last, first, fixed) == np.count_nonzero(steps.holds("last") & steps.holds("first", "first"))
    for name in OUTPUTS:
        if steps.number:
            assert peak(nest, name, fixed) == steps.output(name).max()
        else:
            with pytest.raises(ValueError, match="no iteration"):
                peak(nest, name, fixed)
