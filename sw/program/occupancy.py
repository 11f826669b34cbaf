"""Exact counts of loop nests: how often a condition holds, the largest value of an output, the steps themselves.

Counts and largest values are in closed form: a loop's iterations before its last one are all alike. They cost about as
much as a nest has loops, however many steps it has.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rowmesh.sw.jit.kernels import digest_of, kernel
from rowmesh.sw.program.nest import Loop, Nest

__all__ = ["Steps", "count", "expand", "peak", "times"]

Ints = npt.NDArray[np.int64]

_ALL, _ENDS = -1, -2  # iterations of a loop that are run: all, or the first and the last one


def _iterations(bound: int, at: int | None, last: bool, first: bool) -> Iterator[tuple[int, int]]:
    """Yield iterations of a loop, and how many are like it: the last one apart from the others.

    ``at`` is the only one; ``last`` and ``first`` are asked for.
    """
    if at is not None:
        if 0 <= at < bound and (not last or at == bound - 1) and (not first or at == 0):
            yield at, 1
        return
    if not first or bound == 1:
        yield bound - 1, 1
    if not last and bound > 1:
        yield 0, 1 if first else bound - 1


def count(
    nest: Nest, last: Collection[str] = (), first: Collection[str] = (), fixed: Dict[str, int] | None = None
) -> int:
    """Count the steps of a nest at which some loops are in their last, and some in their first iteration.

    Parameters
    ----------
    nest : Nest
    last, first : collection of str
        Names of loops.
    fixed : Mapping[str, int], optional
        Loops that are held at one iteration.
    """
    fixed = fixed or {}
    asked = frozenset().union(*(loop.when for loop in nest.loops))

    @functools.cache
    def below(depth: int, ended: frozenset[str]) -> int:
        if depth == len(nest.loops):
            return 1
        loop = nest.loops[depth]
        bound, name, total = nest.bound_of(loop, ended), loop.name, 0
        for at, like in _iterations(bound, fixed.get(name), name in last, name in first):
            inside = ended | {name} if name in asked and at == bound - 1 else ended
            total += like * below(depth + 1, inside)
        return total

    return below(0, frozenset())


def times(nest: Nest, condition: str, fixed: Dict[str, int] | None = None, *more: str) -> int:
    """Count the steps at which a condition of a nest holds, and some ``more``, all of last iterations."""
    loops: set[str] = set()
    for name in (condition, *more):
        chosen = nest.conditions.get(name)
        if chosen is None:
            return 0
        loops |= set(chosen)
    return count(nest, loops, (), fixed)


def peak(nest: Nest, output: str, fixed: Dict[str, int] | None = None) -> int:
    """Return the largest value of an affine output, with some loops held at one iteration.

    Raises
    ------
    ValueError
        If there is no such iteration.
    """
    fixed = fixed or {}
    asked = frozenset().union(*(loop.when for loop in nest.loops))

    @functools.cache
    def below(depth: int, ended: frozenset[str]) -> int | None:
        if depth == len(nest.loops):
            return 0
        loop = nest.loops[depth]
        bound, name, stride = nest.bound_of(loop, ended), loop.name, loop.strides.get(output, 0)
        most = None
        for at in {fixed[name]} if name in fixed else {0, max(0, bound - 2), bound - 1}:
            inside = below(depth + 1, ended | {name} if name in asked and at == bound - 1 else ended)
            if 0 <= at < bound and inside is not None:
                most = at * stride + inside if most is None else max(most, at * stride + inside)
        return most

    most = below(0, frozenset())
    if most is None:
        raise ValueError(f"no iteration {dict(fixed)}")
    return nest.bases.get(output, 0) + most


class Steps(NamedTuple):
    """Steps of a nest in order: affine outputs, and the loops in their first and last iterations as bits."""

    nest: Nest
    outputs: Dict[str, Ints]
    first: Ints
    last: Ints

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.last)

    def output(self, name: str) -> Ints:
        """Return an output, which is 0 if no loop moves it."""
        return self.outputs.get(name, np.zeros(self.number, np.int64))

    def holds(self, condition: str, flag: str = "last") -> npt.NDArray[np.bool_]:
        """Return where a condition of the nest holds, with ``flag`` "first" or "last"."""
        chosen = self.nest.conditions.get(condition)
        if chosen is None:
            return np.zeros(self.number, bool)
        mask = _bits(_places(self.nest.loops), chosen)
        return np.asarray(((self.last if flag == "last" else self.first) & mask) == mask)

    def edges(self, flags: int) -> Ints:
        """Return the edge flags as bits."""
        found = np.zeros(self.number, np.int64)
        for flag in range(flags):
            if self.nest.conditions.get(f"edge{flag}_mask") is not None:
                found |= self.holds(f"edge{flag}_mask").astype(np.int64) << flag
        return found


def _places(loops: Sequence[Loop]) -> dict[str, int]:
    return {loop.name: 1 << place for place, loop in enumerate(loops)}


def _bits(places: Dict[str, int], names: Collection[str]) -> int:
    bits = 0
    for name in names:
        bits |= places[name]
    return bits


def expand(
    nest: Nest, outputs: Collection[str], fixed: Dict[str, int] | None = None, ends: Collection[str] = ()
) -> Steps:
    """Return the steps of a nest.

    Parameters
    ----------
    nest : Nest
    outputs : collection of str
        Affine outputs that are looked at.
    fixed : Mapping[str, int], optional
        Loops that are held at one iteration; if there is no such iteration, there are no steps.
    ends : collection of str
        Loops of which only the first and the last iteration are run.
    """
    fixed, loops = fixed or {}, nest.loops
    names = [name for name in outputs if name in nest.bases or any(name in loop.strides for loop in loops)]
    places = _places(loops)
    run = [fixed.get(loop.name, _ENDS if loop.name in ends else _ALL) for loop in loops]
    table = np.array(
        [
            (loop.bound, loop.bound if loop.last is None or not loop.when else loop.last, _bits(places, loop.when), at)
            for loop, at in zip(loops, run, strict=True)
        ],
        np.int64,
    ).reshape(-1, 4)
    strides = np.array([[loop.strides.get(name, 0) for name in names] for loop in loops], np.int64)
    bases = np.array([nest.bases.get(name, 0) for name in names], np.int64)
    number = _walk(table, strides.reshape(len(loops), -1), bases, np.zeros((0, 0), np.int64))
    found = np.zeros((2 + len(names), number), np.int64)
    _walk(table, strides.reshape(len(loops), -1), bases, found)
    return Steps(nest, dict(zip(names, found[2:], strict=True)), found[0], found[1])


def _steps(table: Ints, strides: Ints, bases: Ints, found: Ints) -> int:
    """Run a nest of loops (bound, bound in last iterations of some, bits of these, iterations to run).

    ``found`` takes a row of first iterations, of last ones, and of each output; if it has none, steps are only counted.
    """
    depth, width = len(table), strides.shape[1]
    at, bound = np.zeros(depth + 1, np.int64), np.zeros(depth + 1, np.int64)
    first, last = np.zeros(depth + 1, np.int64), np.zeros(depth + 1, np.int64)
    values = np.zeros((depth + 1, width), np.int64)
    values[0] = bases
    number, level, entering = 0, 0, True
    while level >= 0:
        if level == depth:
            if len(found):
                found[0, number], found[1, number] = first[level], last[level]
                for k in range(width):
                    found[2 + k, number] = values[level, k]
            number += 1
            level -= 1
            entering = False
            continue
        run = table[level, 3]
        if entering:
            mask = table[level, 2]
            bound[level] = table[level, 1] if last[level] & mask == mask else table[level, 0]
            at[level] = max(0, run)
            if at[level] >= bound[level]:
                level -= 1
                entering = False
                continue
        else:
            at[level] += 1
            if run == -2:
                at[level] = max(at[level], bound[level] - 1)
            if run >= 0 or at[level] >= bound[level]:
                level -= 1
                continue
        bit = 1 << level
        first[level + 1] = first[level] | (bit if at[level] == 0 else 0)
        last[level + 1] = last[level] | (bit if at[level] == bound[level] - 1 else 0)
        for k in range(width):
            values[level + 1, k] = values[level, k] + at[level] * strides[level, k]
        level += 1
        entering = True
    return number


_walk = kernel(digest_of([Path(__file__)]))(_steps)
