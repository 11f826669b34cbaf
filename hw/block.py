"""Blocks: components that appear once in the Verilog, however often they are used.

Amaranth writes a module for every instance of a component. A :class:`Block` that is elaborated for an
:class:`Emission` becomes an instance of a module by name, and the emission writes that module once.
Elaborated for anything else (the simulator, a formal proof) a block is an ordinary component.
"""

import enum
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amaranth.hdl import ClockSignal, Instance, ResetSignal, Shape, ShapeCastable, Value
from amaranth.lib import wiring

__all__ = ["Block", "Emission", "memory_style"]


class Emission:
    """The set of modules of one Verilog file; passed as the platform.

    Parameters
    ----------
    root : Block
        The top component.
    name : str
        Module name of the top.
    prefix : str
        What the names of all other modules begin with.

    Attributes
    ----------
    shared : list of str
        Modules whose blocks are ``shared``, so far.
    """

    def __init__(self, root: "Block", name: str, prefix: str = "") -> None:
        self._prefix = prefix
        self._names: dict[str, str] = {root.key: name}
        self._pending: list[Block] = [root]
        self._count: dict[str, int] = {}
        self.shared: list[str] = []
        self.current: Block | None = None

    def take(self) -> "tuple[str, Block] | None":
        """Return the name and component of the next module to be written, or None."""
        if not self._pending:
            return None
        self.current = self._pending.pop(0)
        return self._names[self.current.key], self.current

    def module_name(self, block: "Block") -> str:
        """Return the module name of a block; ask for the module if it is new."""
        if block.key not in self._names:
            stem = block.label
            number = self._count.get(stem, 0) + 1
            self._count[stem] = number
            self._names[block.key] = f"{self._prefix}{stem}" + (f"_{number}" if number > 1 else "")
            self._pending.append(block)
            if block.shared:
                self.shared.append(self._names[block.key])
        return self._names[block.key]

    def instance(self, block: "Block") -> Instance:
        """Return an instance of the block's module, connected to the block's ports."""
        ports: dict[str, Any] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in block.signature.flatten(block):
            direction = "i" if member.flow is wiring.In else "o"
            value = Value.cast(value)
            if len(value):
                ports[f"{direction}_{'__'.join(map(str, path))}"] = value
        return Instance(self.module_name(block), **ports)


_LONGEST_LABEL = 60


def memory_style(block: bool) -> dict[str, Any]:
    """Return the attributes of a memory for synthesis: block or distributed RAM.

    All memories here are read only after the cycle of the write, so what a collision of the two gives does not matter.
    """
    return {"ram_style": "block" if block else "distributed", "no_rw_check": 1}


def _words(name: str, value: Any) -> list[str]:
    """Return what an argument adds to a module's name."""
    if isinstance(value, enum.Enum):
        return [value.name.lower()]
    if isinstance(value, bool):
        return [name] if value and name else []
    if isinstance(value, int):
        return [] if name else [str(value)]
    if isinstance(value, Shape | ShapeCastable):
        return [str(Shape.cast(value).width)]
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    return []


def _same(value: Any) -> str:
    """Return a text that is equal for arguments that give equal modules: of a payload only the width counts."""
    return f"<{Shape.cast(value).width}>" if isinstance(value, Shape | ShapeCastable) else repr(value)


class Block(wiring.Component):
    """Base class of every component of the accelerator (see the module's text).

    Attributes
    ----------
    key : str
        Class and arguments: equal for components that are the same module.
    label : str
        Name of the module, unless taken: class and arguments in words.
    shared : bool
        Large and used many times: simulators do well to keep its code apart, once for all instances.
    """

    key: str
    label: str
    shared: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "Block":  # noqa: D102
        self = super().__new__(cls)
        named = [("", value) for value in args] + sorted(kwargs.items())
        self.key = f"{cls.__name__}({', '.join(f'{name}={_same(value)}' for name, value in named)})"
        stem = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", cls.__name__).lower()
        label = "_".join([stem, *(word for name, value in named for word in _words(name, value))])
        self.label = label if len(label) <= _LONGEST_LABEL else stem
        return self

    if TYPE_CHECKING:  # members come from the signature, which type checkers do not see

        def __getattr__(self, name: str) -> Any: ...

        def elaborate(self, platform: object) -> Any: ...  # noqa: D102

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        build = cls.__dict__.get("elaborate")
        if build is None:
            return

        def elaborate(self: Block, platform: object) -> Any:
            if isinstance(platform, Emission) and platform.current is not self:
                return platform.instance(self)
            return build(self, platform)

        cls.elaborate = elaborate  # type: ignore[method-assign]
