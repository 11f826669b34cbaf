"""Dataflows: constraint files that say which mappings the mapper may choose.

A file is one mapping ``dataflow:`` with a description and a list of constraints, one a target::

    dataflow:
      description: weight stationary
      constraints:
        - {target: rows, type: spatial, dimensions: [C]}
        - {target: columns, type: spatial, dimensions: [M]}
        - {target: pe, type: temporal, permutation: [QSRCM], factors: {R: 1}}

Targets are the array's ``rows``, its ``columns`` and a ``pe``. A spatial constraint names the dimensions that may be
spread along that axis: C and R sum up a psum chain; each output row (P), filter (M) or group (G) has its own chain.
A temporal one names the orders of loops that a PE may use (:mod:`rowmesh.sw.mapping.orders`): ``QSRCM`` keeps weights,
``SRCQM`` psums, ``MSRCQM`` iacts. Factors fix a dimension at that target: a number, 0 for the whole dimension, or
"<=n".

Source of the style: Timeloop's mapspace constraints (Parashar et al. 2019, section V.B).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.mapping.orders import BLOCK, IACT, PSUM, WEIGHT, Order, permutation_of

__all__ = ["ANY", "Dataflow", "Factor", "load_dataflow", "load_dataflows"]

ANY = "any"
"""Name that stands for all shipped dataflows."""

_TOP = "dataflow"
_TILES: Mapping[str, bool] = {permutation_of(m_outer): m_outer for m_outer in (False, True)}
"""Orders of DRAM's loops: whether filter tiles are outermost (:attr:`rowmesh.sw.mapping.cluster.Mapping.m_outer`)."""
_DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "rows": ("C", "R", "P", "M", "G"),
    "columns": ("M", "P", "Q"),
    "pe": ("C", "R", "M", "Q", "P", "N"),
}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "rows": ("target", "type", "dimensions", "factors"),
    "columns": ("target", "type", "dimensions", "factors"),
    "pe": ("target", "type", "permutation", "factors"),
}
_OPTIONAL: Mapping[str, tuple[str, ...]] = {"DRAM": ("target", "type", "permutation")}


@dataclass(frozen=True)
class Factor:
    """What a constraint says of one factor.

    Parameters
    ----------
    value : int
        The factor; 0: the whole dimension.
    most : bool
        The value is an upper bound.
    """

    value: int
    most: bool = False

    def allows(self, factor: int, size: int) -> bool:
        """Whether a factor of a dimension of ``size`` is allowed."""
        wanted = min(self.value or size, size)
        return factor <= wanted if self.most else factor == wanted


@dataclass(frozen=True)
class Dataflow:
    """Constraints of one dataflow.

    Parameters
    ----------
    name, description : str
    rows, columns : frozenset of str
        Dimensions that may be spread along each axis of the array.
    orders : tuple of Order
        Orders of loops that a PE may use.
    factors : Mapping of (target, dimension) to Factor
        What is fixed or bounded.
    m_outer : tuple of bool
        Whether filter tiles may be outermost, or have to be.
    """

    name: str
    description: str
    rows: frozenset[str]
    columns: frozenset[str]
    orders: tuple[Order, ...]
    factors: Mapping[tuple[str, str], Factor] = field(default_factory=dict)
    m_outer: tuple[bool, ...] = (False,)

    def allows(self, target: str, dimension: str, factor: int, size: int) -> bool:
        """Whether a factor is allowed at a target."""
        rule = self.factors.get((target, dimension))
        return rule is None or rule.allows(factor, size)

    def __hash__(self) -> int:
        return hash((self.name, self.rows, self.columns, self.orders, tuple(sorted(self.factors)), self.m_outer))


def load_dataflow(name_or_path: str | os.PathLike[str]) -> Dataflow:
    """Load a dataflow's constraints.

    Parameters
    ----------
    name_or_path : str or path
        Name of a shipped dataflow, or path of a YAML file.

    Raises
    ------
    InputError
        For anything wrong with it, as ``file:line: field: message``.
    """
    stem, document = files.read("dataflows", name_or_path)
    top = document.section(_TOP)
    document.known_keys((_TOP,), top, ["description", "constraints"])
    description = top.get("description", "")
    if not isinstance(description, str):
        raise document.error((_TOP, "description"), f"must be a string, not {files.show_value(description)}")
    entries = top.get("constraints")
    if not isinstance(entries, list):
        raise document.error((_TOP, "constraints"), f"must be a list, not {files.show_value(entries)}")
    spatial: dict[str, frozenset[str]] = {}
    orders: tuple[Order, ...] = ()
    outer: tuple[bool, ...] = ()
    factors: dict[tuple[str, str], Factor] = {}
    for number, raw in enumerate(entries):
        path: files.Place = (_TOP, "constraints", number)
        entry = document.mapping(path, raw)
        target = _choice(document, (*path, "target"), entry.get("target"), [*_KEYS, *_OPTIONAL])
        document.known_keys(path, entry, {**_KEYS, **_OPTIONAL}[target])
        if target in spatial or (target == "pe" and orders) or (target == "DRAM" and outer):
            raise document.error((*path, "target"), f"must be given once, not twice ({target})")
        kind = "spatial" if target in ("rows", "columns") else "temporal"
        _choice(document, (*path, "type"), entry.get("type", kind), [kind])
        if target == "DRAM":
            names = _listed(document, (*path, "permutation"), entry.get("permutation"), list(_TILES))
            outer = tuple(_TILES[name] for name in names)
            continue
        if target == "pe":
            orders = _orders(document, (*path, "permutation"), entry.get("permutation"))
        else:
            place = (*path, "dimensions")
            spatial[target] = frozenset(_listed(document, place, entry.get("dimensions"), list(_DIMENSIONS[target])))
        place = (*path, "factors")
        for dimension, value in document.mapping(place, entry.get("factors", {})).items():
            _choice(document, (*place, dimension), dimension, list(_DIMENSIONS[target]))
            factors[target, dimension] = _factor(document, (*place, dimension), value)
    for target in _KEYS:
        if target not in spatial and not (target == "pe" and orders):
            raise document.error((_TOP, "constraints"), f"must have one for target {target}")
    outer = outer or (False,)
    return Dataflow(stem, description, spatial["rows"], spatial["columns"], orders, factors, outer)


def load_dataflows(name_or_path: str | os.PathLike[str]) -> tuple[Dataflow, ...]:
    """Load a dataflow, or all shipped ones for "any".

    Raises
    ------
    InputError
        As of :func:`load_dataflow`.
    """
    names = files.shipped_names("dataflows") if name_or_path == ANY else [name_or_path]
    return tuple(load_dataflow(name) for name in names)


def _choice(document: files.Document, path: files.Place, value: object, legal: list[str]) -> str:
    if not isinstance(value, str) or value not in legal:
        near = files.suggest(value, legal) or legal[0]
        rule = f"must be one of {', '.join(legal)}" if len(legal) > 1 else f"must be {legal[0]}"
        raise document.error(path, f"{rule}, not {files.show_value(value)} (nearest legal value: {near})")
    return value


def _listed(document: files.Document, path: files.Place, value: object, legal: list[str]) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values and path[-1] == "permutation":
        raise document.error(path, f"must name at least one of {', '.join(legal)}")
    return [_choice(document, (*path, number), item, legal) for number, item in enumerate(values)]


def _orders(document: files.Document, path: files.Place, value: object) -> tuple[Order, ...]:
    shipped = [str(order) for order in (WEIGHT, BLOCK, PSUM, IACT)]
    values = value if isinstance(value, list) else [value]
    if not values:
        raise document.error(path, f"must name at least one order, as {', '.join(shipped)}")
    found = []
    for number, letters in enumerate(values):
        try:
            if not isinstance(letters, str):
                raise ValueError(f"must be a string of dimensions, as {shipped[0]}")
            found.append(Order(letters))
        except ValueError as error:
            near = files.suggest(letters, shipped) or shipped[0]
            rule = f"{error}, not {files.show_value(letters)} (nearest legal value: {near})"
            raise document.error((*path, number), rule) from None
    return tuple(dict.fromkeys(found))


def _factor(document: files.Document, path: files.Place, value: Any) -> Factor:
    if type(value) is int and value >= 0:
        return Factor(value)
    match = re.fullmatch(r"<=\s*([1-9][0-9]{0,5})", value) if isinstance(value, str) else None
    if match is None:
        raise document.error(path, f'must be a number, 0 (the whole dimension) or "<=n", not {files.show_value(value)}')
    return Factor(int(match[1]), most=True)
