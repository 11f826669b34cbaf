"""Choosing layers by name, as ``--layer`` does."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from rowmesh.sw.inputs import yaml as files
from rowmesh.sw.inputs.errors import InputError

__all__ = ["select"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


def select(layers: Sequence[T], patterns: Sequence[str] | None, source: str) -> list[T]:
    """Return the layers that are asked for, in their order.

    Parameters
    ----------
    layers : sequence
        Whatever has a ``name``.
    patterns : sequence of str, optional
        Names, which may hold wildcards; all layers by default.
    source : str
        Where the layers are from, for messages.

    Raises
    ------
    InputError
        If a pattern matches no layer.
    """
    names = [layer.name for layer in layers]
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            near = files.suggest(pattern, names)
            raise InputError(
                f"--layer: no layer of {source} is named {files.show_value(pattern)}, "
                + (f"did you mean {near}? " if near else "")
                + f"Its layers are {', '.join(names)}"
            )
    return [layer for layer in layers if not patterns or any(fnmatchcase(layer.name, one) for one in patterns)]
