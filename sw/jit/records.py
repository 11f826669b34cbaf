"""Records of integers that numba knows by the names of a Python class: its formulas are compiled as they are written.

A :class:`Record` stands for a class (a layer, a configuration, a mapping). Its fields are numbers, words of a fixed
choice, or records; every property and method of the class, whose body is taken as it is, is there as well. Those that
the class keeps once they are computed (``cached_property``) are fields too, computed when a record is built.
"""

import inspect
import operator
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from types import FunctionType
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler import Flags
from numba.core.typing import signature
from numba.extending import (
    intrinsic,
    make_attribute_wrapper,
    models,
    overload,
    overload_attribute,
    overload_method,
    register_jitable,
    register_model,
)

__all__ = ["Choice", "Record", "builder", "conjunction", "record"]


class Choice(types.Type):  # type: ignore[misc]
    """A word out of a few, kept as its place among them; it can be compared with literals.

    Parameters
    ----------
    options : sequence of str
    """

    def __init__(self, options: Sequence[str]) -> None:
        self.options = tuple(options)
        super().__init__(name=f"Choice({', '.join(self.options)})")


@register_model(Choice)
class _ChoiceModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Choice) -> None:
        super().__init__(manager, kind, ir.IntType(64))


class Record(types.Type):  # type: ignore[misc]
    """A record.

    Parameters
    ----------
    name : str
    fields : dict of str to type
        In the order of the values that it is built from.
    kept : dict of str to callable
        Properties that are fields too, those first that others need.
    """

    def __init__(self, name: str, fields: dict[str, types.Type], kept: dict[str, Callable[[Any], Any]]) -> None:
        self.fields, self.kept = fields, kept
        super().__init__(name=f"rowmesh.{name}")


def record(origin: type, fields: dict[str, types.Type]) -> Record:
    """Return the record that stands for a class.

    Parameters
    ----------
    origin : type
        Its properties that are not among ``fields`` become attributes of the record, its methods methods.
    fields : dict of str to type
    """
    kind: type[Record] = type(f"{origin.__name__}Record", (Record,), {})

    kept = _kept(origin, fields)
    members = fields | {name: _RETURNED[body.__annotations__["return"]] for name, body in kept.items()}

    def model(manager: Any, of: Record) -> models.StructModel:
        return models.StructModel(manager, of, list(members.items()))

    register_model(kind)(model)
    for name in members:
        make_attribute_wrapper(kind, name, name)
    for name, value in vars(origin).items():
        if isinstance(value, FunctionType) and not name.startswith("_"):
            _method(kind, name, value)
        elif isinstance(value, property) and value.fget is not None and name not in members:
            _attribute(kind, name, value.fget)
    return kind(origin.__name__, fields, kept)


_RETURNED = {
    int: types.int64,
    bool: types.boolean,
    tuple[int, int]: types.UniTuple(types.int64, 2),  # type: ignore[attr-defined]
}
"""What a property that is kept may be, by its annotation."""


def _kept(origin: type, fields: Collection[str]) -> dict[str, Callable[[Any], Any]]:
    """Return the properties that a class keeps, but for given fields, those first that others need."""
    members = vars(origin)
    found: dict[str, Callable[[Any], Any]] = {}

    def visit(name: str) -> None:
        value = members.get(name)
        body = value.fget if isinstance(value, property) else getattr(value, "func", value)
        if name in fields or name in found or not isinstance(body, FunctionType):
            return
        for needed in body.__code__.co_names:
            if needed != name:
                visit(needed)
        if isinstance(value, cached_property):
            found[name] = body

    for name in members:
        visit(name)
    return found


def _attribute(kind: type[Record], name: str, body: Callable[[Any], Any]) -> None:
    def chosen(self: Any) -> Callable[[Any], Any]:
        return body

    overload_attribute(kind, name, strict=False)(chosen)


def builder(kind: Record) -> Any:
    """Return a compilable function that makes a record of a tuple, a value for each of its fields.

    Values are integers for numbers, places for words, and records.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def build(context: Any, values: Any) -> Any:
        def code(target: Any, builder: Any, called: Any, arguments: Any) -> Any:
            struct = cgutils.create_struct_proxy(kind)(target, builder)
            for index, (name, wanted) in enumerate(kind.fields.items()):
                value = builder.extract_value(arguments[0], index)
                if isinstance(wanted, types.Boolean):
                    value = builder.icmp_signed("!=", value, value.type(0))
                setattr(struct, name, value)
            for name, body in kind.kept.items():
                of = signature(_RETURNED[body.__annotations__["return"]], kind)
                flags = Flags()
                flags.error_model, flags.forceinline = "numpy", True
                compiled = target.compile_subroutine(builder, body, of, flags=flags)
                setattr(struct, name, target.call_internal(builder, compiled.fndesc, of, [struct._getvalue()]))
            return struct._getvalue()

        return kind(values), code

    return build


def _method(kind: type[Record], name: str, body: Callable[..., Any]) -> None:
    def chosen(self: Any, *arguments: Any) -> Callable[..., Any]:
        return body

    chosen.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    overload_method(kind, name, strict=False)(chosen)


@intrinsic  # type: ignore[untyped-decorator]
def _place(context: Any, word: Any) -> Any:
    return types.int64(word), lambda target, builder, signature, arguments: arguments[0]


def _compared(compare: Callable[[Any, Any], Any]) -> None:
    def chosen(a: Any, b: Any) -> Callable[[Any, Any], Any] | None:
        literal = types.StringLiteral  # type: ignore[attr-defined]
        if not isinstance(a, Choice) or not isinstance(b, literal):
            return None
        place = a.options.index(b.literal_value)

        def compared(a: Any, b: Any) -> Any:
            return compare(_place(a), place)

        return compared

    overload(compare, strict=False)(chosen)


_compared(operator.eq)
_compared(operator.ne)


def conjunction(conditions: Sequence[Callable[[Any], bool]]) -> Callable[[Any], int]:
    """Return a compilable function that gives the number of the first condition that does not hold, or their count."""

    def among(first: int, end: int) -> Callable[[Any], int]:
        if end == first + 1:
            holds = register_jitable(conditions[first])

            @register_jitable  # type: ignore[untyped-decorator]
            def one(m: Any) -> int:
                return end if holds(m) else first

            return one  # type: ignore[no-any-return]
        # a tree, because the compiler recurses into what is called
        middle = (first + end) // 2
        left, right = among(first, middle), among(middle, end)

        @register_jitable  # type: ignore[untyped-decorator]
        def both(m: Any) -> int:
            number = left(m)
            return right(m) if number == middle else number

        return both  # type: ignore[no-any-return]

    return among(0, len(conditions))
