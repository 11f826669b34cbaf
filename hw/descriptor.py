"""Descriptors: which engine has which configuration words, written once for hardware, compiler and documentation.

An engine's descriptor is the program of its loop nest (:meth:`rowmesh.hw.nest.LoopNest.program`) followed by a few
scalar fields of one word each. Every engine holds two descriptors, told apart by a bank bit.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import Module, Signal, ValueLike, unsigned
from amaranth.lib import memory

from rowmesh.hw.nest import LoopNest, NestProgram

__all__ = ["ENGINE_STRIDE", "Descriptor", "Engine", "Field", "field_signal"]

_STRIDE_BITS = 10
ENGINE_STRIDE = 1 << _STRIDE_BITS
"""Word addresses reserved for each engine."""


class Engine(enum.IntEnum):
    """Engines that run a loop nest; the value gives the base of the descriptor and the bit in START and WAIT."""

    LOAD_IACT = 1
    LOAD_WEIGHT = 2
    LOAD_PARAM = 3
    READ_IACT = 4
    READ_WEIGHT = 5
    STEP = 6
    DRAIN = 7
    STORE = 8
    ARRAY = 32
    """Subscriptions of the array (upper half of the address space): no nest, no start."""

    @property
    def base(self) -> int:
        """Word address of the engine's first configuration word."""
        return self.value * ENGINE_STRIDE


@dataclass(frozen=True)
class Field:
    """A scalar field of a descriptor: one word."""

    name: str
    width: int
    doc: str


@dataclass(frozen=True)
class Descriptor:
    """Layout of one engine's descriptor.

    Parameters
    ----------
    engine : Engine
    levels : int
        Loops of the engine's nest.
    outputs : Mapping[str, int]
        Affine outputs of the nest and their widths.
    fields : tuple of Field
        Scalar fields, in the order of their addresses.
    """

    engine: Engine
    levels: int
    outputs: Mapping[str, int]
    fields: tuple[Field, ...] = field(default=())

    @property
    def nest_words(self) -> int:
        """Words of the nest's program."""
        return LoopNest.words(self.levels, self.outputs)

    def address(self, name: str) -> int:
        """Word address of a scalar field.

        Raises
        ------
        KeyError
            If there is no such field.
        """
        for position, entry in enumerate(self.fields):
            if entry.name == name:
                return self.engine.base + self.nest_words + position
        raise KeyError(f"{self.engine.name} has no field {name}")

    def connect(self, m: Module, config: Any, nest: LoopNest) -> None:
        """Hand the writes of the nest's words to the engine's nest.

        Parameters
        ----------
        m : Module
        config : interface of ConfigBus
        nest : LoopNest
        """
        inner: Any = nest.config
        m.d.comb += [
            inner.valid.eq(config.valid & (config.address[_STRIDE_BITS:] == self.engine.value)),
            inner.bank.eq(config.bank),
            inner.address.eq(config.address[:_STRIDE_BITS]),
            inner.data.eq(config.data),
        ]

    def encode(
        self,
        loops: list[tuple[int, int, int, Mapping[str, int]]],
        bases: Mapping[str, int],
        values: Mapping[str, int],
    ) -> NestProgram:
        """Encode a descriptor as words by absolute address.

        Parameters
        ----------
        loops, bases
            See :meth:`rowmesh.hw.nest.LoopNest.program`.
        values : Mapping[str, int]
            Scalar fields; missing ones are 0.

        Raises
        ------
        ValueError
            If a value does not fit its field or names no field.
        """
        words = {
            self.engine.base + offset: word
            for offset, word in LoopNest.program(self.levels, self.outputs, loops, bases).items()
        }
        unknown = set(values) - {entry.name for entry in self.fields}
        if unknown:
            raise ValueError(f"{self.engine.name} has no field {', '.join(sorted(unknown))}")
        for entry in self.fields:
            value = values.get(entry.name, 0)
            if not -(1 << (entry.width - 1)) <= value < 1 << entry.width:
                raise ValueError(f"{self.engine.name}.{entry.name} must fit {entry.width} bits, not {value}")
            words[self.address(entry.name)] = value & ((1 << entry.width) - 1)
        return words


def field_signal(
    m: Module, config: Any, address: int, name: str, width: int, banks: Iterable[ValueLike]
) -> list[Signal]:
    """Store a field for both banks and return its value for each of the given bank selects.

    Parameters
    ----------
    m : Module
    config : interface of ConfigBus
    address : int
        Word address.
    name : str
        Name of the memory in the Verilog.
    width : int
    banks : iterable of 1-bit values
        Bank to read, one for each user at a different point of a pipeline.
    """
    store: Any = memory.Memory(shape=unsigned(width), depth=2, init=[])
    m.submodules[f"field_{name}"] = store
    write = store.write_port()
    m.d.comb += [
        write.addr.eq(config.bank),
        write.data.eq(config.data),
        write.en.eq(config.valid & (config.address == address)),
    ]
    values = []
    for bank in banks:
        read = store.read_port(domain="comb")
        m.d.comb += read.addr.eq(bank)
        values.append(read.data)
    return values
