"""Layers of equal shape are searched once."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.lowering import lower

__all__ = ["once_a_shape", "renamed"]

_Search = TypeVar("_Search", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Shape:
    """A layer that is equal to those of other names."""

    layer: Layer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shape) and _named(self.layer, "") == _named(other.layer, "")

    def __hash__(self) -> int:
        return hash(_named(self.layer, ""))


def _named(layer: Layer, name: str) -> Layer:
    return layer.model_copy(update={"name": name})


def renamed(mapping: LayerMapping, name: str) -> LayerMapping:
    """Return a mapping as one of an equal layer of another name."""
    origin = _named(mapping.origin, name)
    lowered = lower(mapping.config, origin, mapping.lowered.steps) if mapping.lowered else None
    return replace(mapping.of_layer(lowered.layer if lowered else origin), lowered=lowered)


def once_a_shape(search: _Search) -> _Search:
    """Decorate a search so that what it finds, for equal layers and other arguments, is found once.

    Its second argument is the layer; what it returns is a dataclass with a ``mapping``. ``cache_clear`` forgets all.
    """

    @functools.lru_cache(maxsize=1024)
    def found(config: Any, shape: _Shape, *others: Any, **named: Any) -> Any:
        return search(config, shape.layer, *others, **named)

    @functools.wraps(search)
    def once(config: Any, layer: Layer, *others: Any, **named: Any) -> Any:
        result = found(config, _Shape(layer), *others, **named)
        if result.mapping.origin.name == layer.name:
            return result
        return replace(result, mapping=renamed(result.mapping, layer.name))

    once.cache_clear = found.cache_clear  # type: ignore[attr-defined]
    return cast(_Search, once)
