"""Energy of a layer: access counts times a table of costs.

A table is a file with one mapping ``energy:``, shipped in configs/energy or the user's own::

    energy:
      description: one line
      unit: pJ
      costs:
        dram: 325
        glb: {iact: 9.2, weight: 9.2, psum: 18.4}
        noc: 1.8
        spad: 0.4
        pe: 0.9

A level has one cost an access, or one for each type of data. Of the words on the network those delivered count.
"""

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.model.performance import ACCESSES

__all__ = ["DEFAULT", "EnergyTable", "by_level", "default_table", "energy", "load_energy"]

DEFAULT = "eyeriss_65nm"
"""Name of the table that the mapper uses."""

_TOP = "energy"

_COUNTED = tuple(name for name in ACCESSES if not name.endswith(".injected"))


def _place(name: str) -> tuple[str, str]:
    """Return level and type of a counter."""
    level, kind, _ = name.split(".") if name.count(".") > 1 else (*name.split("."), "")
    return level, kind


def _types() -> dict[str, list[str]]:
    """Return the types of data of each level, in the order of the counters."""
    levels: dict[str, list[str]] = {}
    for name in _COUNTED:
        level, kind = _place(name)
        if kind not in levels.setdefault(level, []):
            levels[level].append(kind)
    return levels


_LEVELS = _types()


@dataclass(frozen=True)
class EnergyTable:
    """Costs of accesses.

    Parameters
    ----------
    name, description, unit : str
    costs : Mapping of (level, type) to float
        Cost of an access, in ``unit``.
    """

    name: str
    description: str
    unit: str
    costs: Mapping[tuple[str, str], float]

    @functools.cached_property
    def rates(self) -> dict[str, float]:
        """Costs by the names of the counters."""
        return {name: self.costs[_place(name)] for name in _COUNTED}


@functools.cache
def default_table() -> EnergyTable:
    """Return the table that the mapper uses."""
    return load_energy(DEFAULT)


def by_level(accesses: Mapping[str, int], table: EnergyTable | None = None) -> dict[tuple[str, str], float]:
    """Return the energy by level and type of data.

    Parameters
    ----------
    accesses : Mapping
        Words by the names of :data:`rowmesh.sw.results.layer.ACCESSES`.
    table : EnergyTable, optional
        The Eyeriss table by default.
    """
    table = table or default_table()
    spent = dict.fromkeys(table.costs, 0.0)
    for name, cost in table.rates.items():
        spent[_place(name)] += accesses[name] * cost
    return spent


def energy(accesses: Mapping[str, int], table: EnergyTable | None = None) -> float:
    """Return the energy of a layer; for parameters see :func:`by_level`."""
    return sum(accesses[name] * cost for name, cost in (table or default_table()).rates.items())


def load_energy(name_or_path: str | os.PathLike[str]) -> EnergyTable:
    """Load a table.

    Parameters
    ----------
    name_or_path : str or path
        Name of a shipped table, or path of a YAML file.

    Raises
    ------
    InputError
        For anything wrong with it, as ``file:line: field: message``.
    """
    stem, document = files.read("energy", name_or_path)
    top = document.section(_TOP)
    document.known_keys((_TOP,), top, ["description", "unit", "costs"])
    texts = {}
    for key, value in (("description", top.get("description", "")), ("unit", top.get("unit"))):
        if not isinstance(value, str):
            rule = f"must be a string, not {files.show_value(value)}" + (" (for example pJ)" if key == "unit" else "")
            raise document.error((_TOP, key), rule)
        texts[key] = value
    levels = document.mapping((_TOP, "costs"), top.get("costs"))
    document.known_keys((_TOP, "costs"), levels, _LEVELS)
    costs = {}
    for level, kinds in _LEVELS.items():
        place: files.Place = (_TOP, "costs", level)
        if level not in levels:
            raise document.error(place, "is required: the energy of an access")
        given = levels[level]
        if isinstance(given, dict):
            document.known_keys(place, given, kinds)
        for kind in kinds:
            if isinstance(given, dict) and kind not in given:
                raise document.error((*place, kind), "is required where costs are given by type")
            here, value = ((*place, kind), given[kind]) if isinstance(given, dict) else (place, given)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise document.error(
                    here, f"must be a number of 0 or more, not {files.show_value(value)} (nearest legal value: 0)"
                )
            costs[level, kind] = float(value)
    return EnergyTable(stem, texts["description"], texts["unit"], costs)
