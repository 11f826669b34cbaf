"""Blocks: components that appear once in the Verilog, however often they are used.

Amaranth writes a module for every instance of a component. A :class:`Block` that is elaborated for an
:class:`Emission` becomes an instance of a module by name, and the emission writes that module once.
Elaborated for anything else (the simulator, a formal proof) a block is an ordinary component.
"""

import re
from typing import TYPE_CHECKING, Any

from amaranth.hdl import ClockSignal, Instance, ResetSignal, Value
from amaranth.lib import wiring

__all__ = ["Block", "Emission"]


class Emission:
    """The set of modules of one Verilog file; passed as the platform.

    Parameters
    ----------
    root : Block
        The top component.
    name : str
        Module name of the top.
    """

    def __init__(self, root: "Block", name: str) -> None:
        self._names: dict[str, str] = {root.key: name}
        self._pending: list[Block] = [root]
        self._count: dict[str, int] = {}
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
            stem = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(block).__name__).lower()
            number = self._count.get(stem, 0) + 1
            self._count[stem] = number
            self._names[block.key] = stem if number == 1 else f"{stem}_{number}"
            self._pending.append(block)
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


class Block(wiring.Component):
    """Base class of every component of the accelerator (see the module's text)."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Block":  # noqa: D102
        self = super().__new__(cls)
        self.key = f"{cls.__name__}{args!r}{sorted(kwargs.items())!r}"
        return self

    key: str

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
