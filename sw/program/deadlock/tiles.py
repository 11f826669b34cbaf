"""Classes of tiles that no nest tells apart, and the loops over them that all nests have."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict

from rowmesh.hw.descriptor import Engine
from rowmesh.sw.mapping.loops import PASSES
from rowmesh.sw.mapping.loops import ROWS as ROW_STEPS  # which a tile's weights serve
from rowmesh.sw.program.nest import Loop, Nest

__all__ = [
    "PASSES",
    "ROW_STEPS",
    "TILES",
    "DeadlockError",
    "bound_of",
    "check_loops",
    "classes",
    "form_of",
    "named_loops",
    "only",
    "within",
]

TILES = ("n", "g", "pt", "qt", "mt")
_SHARED = (*TILES, *PASSES, *ROW_STEPS)


class DeadlockError(ValueError):
    """A program that could block; the message names the engine or the buffer, and the counts."""


def loop_of(nest: Nest, name: str) -> Loop | None:
    return next((loop for loop in nest.loops if loop.name == name), None)


def bound_of(nest: Nest, name: str) -> int:
    """Return the iterations of a nest's loop; those of one that it has not are one."""
    loop = loop_of(nest, name)
    return 1 if loop is None else loop.bound


def check_loops(engine: Engine, nest: Nest, step: Nest) -> None:
    """Check that a nest goes through tiles, passes and row steps as the steps do.

    What is loaded, or read to the PEs, may stay over some loops: these are not there, or of one iteration, and the
    innermost ones.
    """
    own, all_of = [], []
    for loop in nest.loops:
        if loop.name not in _SHARED or (loop.bound == 1 and loop.last in (None, 1)):
            continue
        own.append(loop.name)
        of_steps = loop_of(step, loop.name)
        if of_steps is None or form_of(loop) != form_of(of_steps):
            bound = 1 if of_steps is None else of_steps.bound
            raise DeadlockError(
                f"{engine.name}: loop {loop.name} has {loop.bound} iterations (the last time {loop.last}), and in STEP "
                f"{bound}: they must be equal"
            )
    all_of = [loop.name for loop in step.loops if loop.name in _SHARED and loop.bound > 1]
    if own != [name for name in all_of if name in own]:
        raise DeadlockError(f"{engine.name}: its loops {own} are in another order than those of STEP, {all_of}")
    left_out = [name for name in all_of if name not in own]
    if engine.first in (Engine.READ_IACT, Engine.DRAIN, Engine.STORE):
        needed = [name for name in left_out if engine.first is Engine.READ_IACT or name not in PASSES]
        if needed:
            raise DeadlockError(f"{engine.name}: it lacks the loops {needed} of STEP")
    if engine.first is Engine.READ_WEIGHT:
        over = [name for name in all_of if name not in ROW_STEPS]
        stays = [name for name in over if name in left_out]
        if over[len(over) - len(stays) :] != stays:
            raise DeadlockError(f"{engine.name}: what stays over the loops {stays} is not there for those inside")


def form_of(loop: Loop) -> tuple[int, int, frozenset[str]]:
    """Return a loop's iterations, those of its last time, and the loops whose last iterations make it that."""
    last = loop.bound if loop.last is None or not loop.when else loop.last
    return loop.bound, last, frozenset(loop.when) if last != loop.bound else frozenset()


def named_loops(nests: Iterable[Nest]) -> set[str]:
    """Return the loops whose last or first iterations some nests look at."""
    names: set[str] = set()
    for nest in nests:
        for loop in nest.loops:
            if loop.last not in (None, loop.bound):
                names |= set(loop.when)
        for chosen in nest.conditions.values():
            names |= set(chosen or ())
    return names


def only(nest: Nest, *conditions: str) -> Nest:
    """Return a nest with some of its conditions."""
    return Nest(nest.loops, nest.bases, {name: nest.conditions.get(name) for name in conditions}, nest.values)


def classes(step: Nest, over: Collection[str], nests: Sequence[Nest]) -> Iterator[dict[str, int]]:
    """Yield an iteration of each loop ``over``, for every combination that some nests tell apart."""
    named = named_loops(nests)
    loops = [loop for loop in step.loops if loop.name in over]
    ends = []
    for loop in loops:
        places = {0}
        if loop.name in named:
            places |= {loop.bound - 1} | ({loop.last - 1} if loop.last is not None and loop.when else set())
        ends.append(sorted(places))
    for corner in itertools.product(*ends):
        yield dict(zip((loop.name for loop in loops), corner, strict=True))


def within(corner: Dict[str, int], nest: Nest) -> dict[str, int]:
    """Return the iterations of the loops that a nest has; what stays over a loop has one of it."""
    return {name: min(at, bound_of(nest, name) - 1) for name, at in corner.items() if loop_of(nest, name)}
