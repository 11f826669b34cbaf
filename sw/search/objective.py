"""What a search minimises, and how long it goes on.

It minimises cycles, latency, energy, energy times cycles, or an expression of the user's over named quantities.

An expression is Python's arithmetic over the names of :data:`NAMES`: ``+ - * / **``, comparisons (1 where they hold, 0
where not), ``min`` and ``max``. Nothing else is evaluated.
"""

import ast
import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError
from rowmesh.sw.model.energy import EnergyTable, default_table
from rowmesh.sw.model.performance import ACCESSES

__all__ = ["NAMES", "Budget", "Floats", "Objective"]

Floats = npt.NDArray[np.float64]

_SHORT = {"edp": "energy * cycles", "latency": "cycles"}
"""Names of whole objectives."""

_CLOSE = 0.002
"""Mappings within this share of the best are told apart by their energy."""


def _sums() -> dict[str, list[int]]:
    """Return which counters make up each name: those of a level, and those of a type of data at a level."""
    sums: dict[str, list[int]] = {}
    for number, counter in enumerate(ACCESSES):
        level, kind = counter.split(".")[:2]
        for name in ("macs",) if level == "pe" else (level, f"{level}_{kind}"):
            sums.setdefault(name, []).append(number)
    return sums


_SUMS = _sums()

NAMES = ("cycles", "energy", *_SUMS)
"""Names of an expression: ``dram``, ``glb``, ``noc`` and ``spad`` are the words of all counters of a level,
``glb_psum`` and the like those of a type of data at a level, ``macs`` the multiply-accumulates."""

_Array = Callable[..., Any]
_BINARY: Mapping[type[ast.AST], _Array] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: np.power,
}
_COMPARED: Mapping[type[ast.AST], _Array] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALLED: Mapping[str, _Array] = {"min": np.minimum, "max": np.maximum}
_LONGEST = 1000


@dataclass(frozen=True)
class Budget:
    """How long a search goes on; with neither, what is worth a look is looked at.

    Parameters
    ----------
    mappings : int, optional
        Mappings that are visited. Searches with the same budget and seed find the same.
    seconds : float, optional
    """

    mappings: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``100000`` (mappings) or ``30s`` (seconds).

        Raises
        ------
        InputError
            If it is neither.
        """
        match = re.fullmatch(r"([0-9]{1,15})|([0-9]{1,9}(?:\.[0-9]+)?)s", text.strip())
        if match is None or not float(match[1] or match[2]):
            given = files.show_value(text)
            raise InputError(f"--budget: must be a number of mappings or of seconds (30s), not {given}")
        return cls(mappings=int(match[1])) if match[1] else cls(seconds=float(match[2]))


class Objective:
    """An objective, evaluated for many mappings at once.

    Parameters
    ----------
    text : str
        ``cycles``, ``latency``, ``energy``, ``edp``, or an expression.
    table : EnergyTable, optional
        Costs of accesses; the Eyeriss table by default.

    Raises
    ------
    InputError
        If the text is no such expression; one line that names what is wrong.
    """

    def __init__(self, text: str = "cycles", table: EnergyTable | None = None) -> None:
        self.text = text
        self.table = table or default_table()
        self._tree = _parsed(_SHORT.get(text.strip(), text), text)
        self._names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)} - set(_CALLED)
        self._rates = [self.table.rates.get(name, 0.0) for name in ACCESSES]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objective) and (self.text, self.table) == (other.text, other.table)

    def __hash__(self) -> int:
        return hash((self.text, self.table.name))

    @property
    def slack(self) -> float:
        """Share by which a mapping of less energy may be worse than the best one: none if only latency counts."""
        return 0.0 if self.text.strip() == "latency" else _CLOSE

    @property
    def depends_on_cycles(self) -> bool:
        """Whether cycles are part of it."""
        return "cycles" in self._names

    def costs(self, cycles: npt.ArrayLike, words: npt.ArrayLike) -> Floats:
        """Return what mappings cost; infinity where the expression has no finite value.

        Parameters
        ----------
        cycles : array_like of int, (mappings,)
        words : array_like of int, (mappings, counters)
            In the order of :data:`rowmesh.sw.results.layer.ACCESSES`.
        """
        of_time, counted = np.atleast_1d(np.asarray(cycles, np.float64)), np.atleast_2d(np.asarray(words, np.int64))
        values: dict[str, Floats] = {"cycles": of_time}
        for name in self._names - {"cycles"}:
            values[name] = self.energy(counted) if name == "energy" else _summed(counted, _SUMS[name])
        with np.errstate(all="ignore"):
            found = np.asarray(_value(self._tree, values), np.float64)
        return np.where(np.isfinite(found), np.broadcast_to(found, of_time.shape), np.inf)

    def check_value(self, least: float, layer: str) -> None:
        """Check that the least cost of a layer's mappings is a value.

        Raises
        ------
        InputError
            If the expression has none for any of them.
        """
        if not np.isfinite(least):
            raise InputError(
                f"objective {files.show_value(self.text)}: must have a finite value, and has none for any mapping of "
                f"layer {layer}"
            )

    def energy(self, words: npt.NDArray[np.int64]) -> Floats:
        """Return the energy of mappings, in the unit of the table; for ``words`` see :meth:`costs`."""
        spent = np.zeros(len(words))
        for number, rate in enumerate(self._rates):
            spent += words[:, number] * rate
        return spent


def _summed(words: npt.NDArray[np.int64], numbers: list[int]) -> Floats:
    return words[:, numbers].sum(axis=1).astype(np.float64)


def _parsed(text: str, given: str) -> ast.expr:
    """Parse an expression and refuse everything that is not arithmetic over the names."""

    def wrong(rule: str) -> InputError:
        return InputError(f"objective {files.show_value(given)}: {rule}")

    if len(text) > _LONGEST:
        raise wrong(f"must have at most {_LONGEST} characters, not {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise wrong("is not an expression") from None
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called and node.id not in NAMES:
            near = files.suggest(node.id, NAMES)
            advice = f"did you mean {near}? " if near else ""
            raise wrong(f"there is no {node.id}, {advice}its names are {', '.join(NAMES)}")
        if isinstance(node, ast.Call) and (
            not isinstance(node.func, ast.Name) or node.func.id not in _CALLED or len(node.args) < 2 or node.keywords
        ):
            raise wrong(f"only {' and '.join(_CALLED)} of two or more values can be called")
        if isinstance(node, ast.Constant) and type(node.value) not in (int, float):
            raise wrong(f"{files.show_value(node.value)} is not a number")
        if isinstance(node, ast.Constant) and not abs(node.value) <= sys.float_info.max:  # type: ignore[operator,arg-type]
            raise wrong(f"a number must be at most {sys.float_info.max:.3g}")
        known = (ast.Name, ast.Call, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Load, *_BINARY, *_COMPARED)
        if not isinstance(node, (*known, ast.USub, ast.UAdd)):
            raise wrong(f"{type(node).__name__} is not arithmetic (+ - * / **, comparisons, min and max)")
    return tree


def _value(node: ast.expr, values: Mapping[str, Floats]) -> Any:
    if isinstance(node, ast.Constant):
        return np.float64(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, values)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.Call):
        first, *others = (_value(argument, values) for argument in node.args)
        for other in others:
            first = _CALLED[node.func.id](first, other)  # type: ignore[attr-defined]
        return first
    assert isinstance(node, ast.Compare)
    sides = [_value(side, values) for side in (node.left, *node.comparators)]
    holds: Any = np.float64(1.0)
    for compare, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
        holds = holds * np.asarray(_COMPARED[type(compare)](left, right), np.float64)
    return holds
