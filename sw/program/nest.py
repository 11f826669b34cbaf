"""Loop nests by name: what the compiler writes, encoded as the descriptors that the engines read."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rowmesh.hw.descriptor import Descriptor
from rowmesh.hw.flags import mask_word
from rowmesh.hw.nest import BOUND_WIDTH

__all__ = ["Loop", "Nest"]


@dataclass(frozen=True)
class Loop:
    """One loop.

    Parameters
    ----------
    name : str
        Unique in its nest.
    bound : int
        Iterations.
    strides : Mapping[str, int]
        What an iteration adds to each affine output.
    last : int or None
        Iterations where all loops of ``when`` are in their last iteration.
    when : collection of str
        Names of loops further out.
    """

    name: str
    bound: int
    strides: Mapping[str, int] = field(default_factory=dict)
    last: int | None = None
    when: Collection[str] = ()


@dataclass(frozen=True)
class Nest:
    """A nest and the conditions and values that go with it.

    Parameters
    ----------
    loops : sequence of Loop
        From the outermost inwards.
    bases : Mapping[str, int]
        Initial values of the affine outputs.
    conditions : Mapping[str, collection of str or None]
        Mask fields of the descriptor: the loops that have to be in their last (or first) iteration; None: never.
    values : Mapping[str, int]
        Other scalar fields.
    """

    loops: Sequence[Loop]
    bases: Mapping[str, int] = field(default_factory=dict)
    conditions: Mapping[str, Collection[str] | None] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of the nest, edges included."""
        total = 0
        stack: list[tuple[int, frozenset[str], int]] = [(0, frozenset(), 1)]
        while stack:
            depth, last, count = stack.pop()
            if depth == len(self.loops):
                total += count
                continue
            loop = self.loops[depth]
            bound = self.bound_of(loop, last)
            stack.append((depth + 1, last | {loop.name}, count))
            if bound > 1:
                stack.append((depth + 1, last, count * (bound - 1)))
        return total

    @staticmethod
    def bound_of(loop: Loop, last: Collection[str]) -> int:
        """Return the iterations of a loop where some loops further out are in their last one."""
        if loop.last is not None and loop.when and set(loop.when) <= set(last):
            return loop.last
        return loop.bound

    def tokens(self, fixed: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
        """Return the steps with some loops held at one iteration, in order.

        Parameters
        ----------
        fixed : Mapping[str, int]
            Iteration of each loop that is held (bounds of edges are honoured).

        Returns
        -------
        dict
            One array of the number of steps for each affine output, plus ``first.NAME`` and ``last.NAME`` (0 or 1)
            for each loop.

        Raises
        ------
        IndexError
            If a loop has no such iteration.
        """
        names = sorted({name for loop in self.loops for name in loop.strides} | set(self.bases))
        state = {name: np.array([self.bases.get(name, 0)], np.int64) for name in names}
        for loop in self.loops:
            count = len(next(iter(state.values()))) if state else 1
            bound = np.full(count, loop.bound)
            if loop.last is not None and loop.when:
                edge = np.all([state[f"last.{name}"] == 1 for name in loop.when], axis=0)
                bound = np.where(edge, loop.last, loop.bound)
            if loop.name in fixed:
                at = fixed[loop.name]
                if not np.all((at >= 0) & (at < bound)):
                    raise IndexError(f"loop {loop.name} has no iteration {at}")
                repeat, index = np.ones(count, np.int64), np.full(count, at)
            else:
                repeat = bound
                index = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
            state = {name: np.repeat(values, repeat) for name, values in state.items()}
            for name, stride in loop.strides.items():
                state[name] = state[name] + index * stride
            state[f"first.{loop.name}"] = (index == 0).astype(np.int64)
            state[f"last.{loop.name}"] = (index == np.repeat(bound, repeat) - 1).astype(np.int64)
        return state

    def holds(self, name: str, tokens: Mapping[str, npt.NDArray[np.int64]], flag: str) -> npt.NDArray[np.bool_]:
        """Where a condition holds for tokens, with ``flag`` "first" or "last"."""
        count = len(next(iter(tokens.values())))
        chosen = self.conditions.get(name)
        if chosen is None:
            return np.zeros(count, bool)
        result = np.ones(count, bool)
        for loop in chosen:
            result &= tokens[f"{flag}.{loop}"] == 1
        return result

    def simplified(self) -> "Nest":
        """Return the same nest without loops of one iteration and with loops merged where that changes nothing."""
        unit: set[str] = set()
        kept: list[Loop] = []
        for loop in self.loops:
            when = frozenset(loop.when) - unit
            bound, last = loop.bound, loop.last
            if last is not None and loop.when and not when:  # all its conditions always hold
                bound, last = last, None
            if last is None or last == bound or not when:
                last, when = None, frozenset()
            if bound == 1 and last is None:
                unit.add(loop.name)
                continue
            kept.append(Loop(loop.name, bound, loop.strides, last, when))
        conditions = {
            name: None if chosen is None else frozenset(chosen) - unit for name, chosen in self.conditions.items()
        }
        merged = True
        while merged:
            merged = False
            for at in range(len(kept) - 1):
                outer, inner = kept[at], kept[at + 1]
                pair = {outer.name, inner.name}
                uses = [frozenset(loop.when) for loop in kept] + [c for c in conditions.values() if c is not None]
                names = set(outer.strides) | set(inner.strides)
                if (
                    outer.last is None
                    and inner.last is None
                    and outer.bound * inner.bound <= 1 << BOUND_WIDTH
                    and all(outer.strides.get(n, 0) == inner.strides.get(n, 0) * inner.bound for n in names)
                    and all(len(pair & use) != 1 for use in uses)
                ):
                    kept[at : at + 2] = [Loop(inner.name, outer.bound * inner.bound, inner.strides)]
                    kept = [Loop(k.name, k.bound, k.strides, k.last, frozenset(k.when) - {outer.name}) for k in kept]
                    conditions = {n: None if c is None else frozenset(c) - {outer.name} for n, c in conditions.items()}
                    merged = True
                    break
        return Nest(kept, self.bases, conditions, self.values)

    def encode(self, descriptor: Descriptor) -> dict[int, int]:
        """Encode as configuration words by address.

        Raises
        ------
        ValueError
            If the nest has too many loops, or a field does not fit.
        """
        nest = self.simplified()
        count = len(nest.loops)
        level = {loop.name: count - 1 - at for at, loop in enumerate(nest.loops)}
        loops: list[tuple[int, int, int, Mapping[str, int]]] = [
            (
                loop.bound,
                loop.bound if loop.last is None else loop.last,
                sum(1 << level[name] for name in loop.when),
                {name: stride for name, stride in loop.strides.items() if name in descriptor.outputs},
            )
            for loop in reversed(nest.loops)
        ]
        values = dict(nest.values)
        for name, chosen in nest.conditions.items():
            values[name] = mask_word(descriptor.levels, None if chosen is None else [level[loop] for loop in chosen])
        bases = {name: value for name, value in nest.bases.items() if name in descriptor.outputs}
        return descriptor.encode(loops, bases, values)
