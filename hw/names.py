"""Names of signals from the source's text.

A signal that is given no name is called after the variable that it is assigned to. Amaranth finds that in the
interpreter's bytecode, which differs between versions of Python, and so would the Verilog. Here the call is looked up
in the syntax tree of its file, by the position that its code object has for it: the same text gives the same names.
"""

import ast
import functools
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import CodeType
from typing import Any

from amaranth import tracer

__all__ = ["names_from_source"]

_NONE = object()


@contextmanager
def names_from_source() -> Iterator[None]:
    """Name what Amaranth makes in this context after the source's text."""
    found = tracer.get_var_name
    tracer.get_var_name = _variable
    try:
        yield
    finally:
        tracer.get_var_name = found


def _variable(depth: int = 2, default: Any = _NONE) -> Any:
    """Return the variable that the call running in a frame is assigned to; as Amaranth's function of this job."""
    frame = sys._getframe(depth)
    name = _name_at(frame.f_code, frame.f_lasti)
    if name is None and default is _NONE:
        raise tracer.NameNotFound  # type: ignore[attr-defined]
    return default if name is None else name


@functools.cache
def _name_at(code: CodeType, instruction: int) -> str | None:
    position = next(islice(code.co_positions(), instruction // 2, None))
    return _names(code.co_filename).get(position[1::2])  # no two calls end at the same place


@functools.cache
def _names(path: str) -> dict[tuple[int | None, int | None], str]:
    """Return the variables of a file's calls, by line and column of the calls' ends."""
    names: dict[tuple[int | None, int | None], str] = {}

    def give(value: ast.expr, target: ast.expr) -> None:
        """Name the calls that make a value, or the parts of one."""
        match value, target:
            case ((ast.Tuple(elts=values) | ast.List(elts=values)), ast.Tuple(elts=targets)):
                for one, its in zip(values, targets, strict=False):
                    give(one, its)
            case ast.Call(), ast.Name(id=name) | ast.Attribute(attr=name):
                names.setdefault((value.end_lineno, value.end_col_offset), name)
            case ((ast.Tuple(elts=values) | ast.List(elts=values)), _):
                for one in values:
                    give(one, target)
            case ((ast.ListComp(elt=inner) | ast.GeneratorExp(elt=inner) | ast.DictComp(value=inner)), _):
                give(inner, target)
            case ast.IfExp(body=first, orelse=second), _:
                give(first, target)
                give(second, target)

    for node in ast.walk(ast.parse("".join(linecache.getlines(path)))):
        match node:
            case (
                ast.Assign(value=value, targets=[target, *_]) | ast.AnnAssign(value=ast.expr() as value, target=target)
            ):
                give(value, target)
            case ast.NamedExpr(value=value, target=target):
                give(value, target)
    return names
