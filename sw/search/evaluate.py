"""The cost of many mappings at once: rules, cycles and access counts of arrays of factors.

Nothing is written twice: numba compiles the conditions of :mod:`rowmesh.sw.mapping.rules`, the properties of
:class:`rowmesh.sw.mapping.cluster.ClusterMapping` and the closed forms of :mod:`rowmesh.sw.model.closed_form` and
:mod:`rowmesh.sw.model.counts`.
"""

import inspect
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import register_jitable
from numba.np.unsafe.ndarray import to_fixed_tuple

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.jit import records as compiled
from rowmesh.sw.jit.kernels import digest_of, kernel
from rowmesh.sw.jit.records import Choice, builder, conjunction, record
from rowmesh.sw.mapping import cluster as mapping
from rowmesh.sw.mapping import rules
from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.orders import Order
from rowmesh.sw.model import closed_form as estimate
from rowmesh.sw.model import counts
from rowmesh.sw.model import utilization as activity
from rowmesh.sw.model.performance import ACCESSES
from rowmesh.sw.workload.layer import KINDS, Layer
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = ["FACTORS", "FLAGS", "PROPERTIES", "Costs", "evaluate", "factors_of", "order_number", "order_table", "row_of"]

Ints = npt.NDArray[np.int64]

_ORDERS: list[Order] = []
PROPERTIES = ("slides", "held", "blocks", "sets")
"""What rules, forms and mapspaces ask of an order."""


def order_number(order: Order) -> int:
    """Return the number of an order of loops within a PE in arrays of factors; each gets one when it first comes."""
    if order not in _ORDERS:
        _ORDERS.append(order)
    return _ORDERS.index(order)


def order_table() -> Ints:
    """Return slides, held, blocks and sets of each order so far, (orders, 4), 0 or 1."""
    return np.array([[getattr(order, name) for name in PROPERTIES] for order in _ORDERS], np.int64).reshape(
        -1, len(PROPERTIES)
    )


FACTORS = tuple(
    field.name for field in fields(ClusterMapping) if field.name not in ("config", "layer", "dataflow", "within")
)
"""Columns of an array of factors: the parameters of a mapping; ``FLAGS`` are 0 or 1, ``order``, the last, a number."""

FLAGS = ("resident", "m_outer")


@dataclass(frozen=True)
class Costs:
    """What mappings cost; row by row as their factors.

    Parameters
    ----------
    broken : ndarray of int64
        Number of the first rule that is broken; that of all rules if none is. Of illegal mappings, the others are 0.
    steps, cycles : ndarray of int64
        Steps, and the cycles of :func:`rowmesh.sw.model.closed_form.estimate`.
    words : ndarray of int64, (mappings, counters)
        In the order of :data:`rowmesh.sw.results.layer.ACCESSES`.
    """

    broken: Ints
    steps: Ints
    cycles: Ints
    words: Ints

    @cached_property
    def legal(self) -> npt.NDArray[np.bool_]:
        """Whether the hardware can run each of them."""
        return self.broken == len(rules.RULES)

    def __getitem__(self, rows: Any) -> "Costs":
        return Costs(self.broken[rows], self.steps[rows], self.cycles[rows], self.words[rows])


def row_of(m: ClusterMapping) -> list[int]:
    """Return the row of factors of a mapping."""
    return [order_number(m.order) if name == "order" else int(getattr(m, name)) for name in FACTORS]


def factors_of(row: Ints) -> dict[str, Any]:
    """Return the factors in a row, as the parameters of :class:`rowmesh.sw.mapping.cluster.ClusterMapping`."""
    factors: dict[str, Any] = dict(zip(FACTORS, map(int, row), strict=True))
    flags = {name: bool(factors[name]) for name in FLAGS}
    return factors | flags | {"order": _ORDERS[factors["order"]]}


_MODULES = (activity, compiled, counts, estimate, mapping, rules)
_SOURCES = [Path(str(module.__file__)) for module in _MODULES]
_SOURCES += [Path(inspect.getfile(origin)) for origin in (ArchConfig, Layer, Order, TensorLayout)] + [Path(__file__)]
_COMPILED = kernel(digest_of(_SOURCES), error_model="numpy")

for _module in _MODULES:
    for _value in vars(_module).values():
        if isinstance(_value, FunctionType) and _value.__module__ == _module.__name__ and _module is not compiled:
            register_jitable(_value)

_INT: Any = types.int64
_PAIR, _FOUR = (types.UniTuple(_INT, count) for count in (2, 4))  # type: ignore[attr-defined]
_OUTPUTS = ("raw", "requant")

_CONFIG = record(
    ArchConfig,
    {field.name: types.boolean if field.type is bool else _INT for field in fields(ArchConfig) if field.type is not str}
    | dict.fromkeys(("flit_words", "lanes", "ports"), _INT),
)
_LAYER = record(
    Layer,
    dict.fromkeys(("n", "m", "c", "h", "w", "r", "s", "groups", "p", "q", "outputs"), _INT)
    | {"stride": _PAIR, "dilation": _PAIR, "padding": _FOUR, "kind": Choice(KINDS), "output": Choice(_OUTPUTS)},
)
_LAYOUT = record(TensorLayout, {"planar": types.boolean, "words_per_beat": _INT})
_ORDER = record(Order, dict.fromkeys(PROPERTIES, types.boolean))
_MAPPING = record(
    ClusterMapping,
    {"config": _CONFIG, "layer": _LAYER, "iact_layout": _LAYOUT, "ofmap_layout": _LAYOUT, "order": _ORDER}
    | dict.fromkeys(FACTORS[:-1], _INT)
    | dict.fromkeys(FLAGS, types.boolean),
)
_build_config, _build_layer, _build_layout = map(builder, (_CONFIG, _LAYER, _LAYOUT))
_build_order, _build_mapping = map(builder, (_ORDER, _MAPPING))

_first_broken = conjunction([rule.holds for rule in rules.RULES])


def _values(kind: compiled.Record, origin: object) -> tuple[Any, ...]:
    """Return a record's values of an object."""
    values = []
    for name, wanted in kind.fields.items():
        value = getattr(origin, name)
        values.append(wanted.options.index(value) if isinstance(wanted, Choice) else value)
    return tuple(tuple(map(int, value)) if isinstance(value, tuple) else int(value) for value in values)


_COLUMNS, _LEGAL, _OF_ORDER = len(FACTORS) - 1, len(rules.RULES), len(PROPERTIES)


@_COMPILED  # type: ignore[untyped-decorator]
def _evaluated(given: Any, orders: Ints, factors: Ints, broken: Ints, steps: Ints, cycles: Ints, words: Ints) -> None:
    config, layer, iacts, ofmap = given
    layouts = (_build_layout(iacts), _build_layout(ofmap))
    shared = (_build_config(config), _build_layer(layer), *layouts)
    for row in range(len(factors)):
        order = _build_order(to_fixed_tuple(orders[factors[row, _COLUMNS]], _OF_ORDER))
        m = _build_mapping((*shared, order, *to_fixed_tuple(factors[row], _COLUMNS)))
        broken[row] = _first_broken(m)
        if broken[row] == _LEGAL:
            steps[row] = activity.steps(m)
            cycles[row] = estimate.estimate(m)
            found = counts.words(m)
            for number in range(len(found)):
                words[row, number] = found[number]


def evaluate(config: ArchConfig, layer: Layer, factors: Ints) -> Costs:
    """Return what mappings cost.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    factors : ndarray of int64, (mappings, FACTORS)
        All at least 1, but for ``FLAGS`` and ``order``.
    """
    count = len(factors)
    any_mapping = ClusterMapping.bare(config, layer)
    given = (
        _values(_CONFIG, config),
        _values(_LAYER, layer),
        _values(_LAYOUT, any_mapping.iact_layout),
        _values(_LAYOUT, any_mapping.ofmap_layout),
    )
    broken, steps, cycles = (np.zeros(count, np.int64) for _ in range(3))
    words = np.zeros((count, len(ACCESSES)), np.int64)
    _evaluated(given, order_table(), np.ascontiguousarray(factors, np.int64), broken, steps, cycles, words)
    return Costs(broken, steps, cycles, words)
