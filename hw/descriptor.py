"""Descriptors: which engine has which configuration words, written once for hardware, compiler and documentation.

An engine's descriptor is the program of its loop nest (:meth:`rowmesh.hw.nest.LoopNest.program`) and, in the upper
half of its addresses, a few scalar fields of one word each. Every engine holds two descriptors, told apart by a bank
bit.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import Module, Mux, Signal, ValueLike

from rowmesh.hw.nest import ConfigBus, FieldError, LoopNest, NestProgram

__all__ = ["CONFIG_LATENCY", "ENGINE_STRIDE", "PORT_STRIDE", "SELECT_ADDRESS", "Descriptor", "Engine", "Field"]

_STRIDE_BITS = 10
ENGINE_STRIDE = 1 << _STRIDE_BITS
"""Word addresses reserved for each engine."""

_FIELD_BASE = ENGINE_STRIDE // 2  # of an engine's addresses, those of the fields

PORT_STRIDE = 8
"""From an engine's number to that of the next port."""

SELECT_ADDRESS = 0
"""Word address of the mask of clusters that take what is written to their engines and arrays from then on."""

CONFIG_LATENCY = 2
"""Cycles from a write on the configuration bus until the word is in its place: a register in the engine, the store."""


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
    LOAD_IACT_1, LOAD_IACT_2, LOAD_IACT_3 = 9, 17, 25
    LOAD_WEIGHT_1, LOAD_WEIGHT_2, LOAD_WEIGHT_3 = 10, 18, 26
    READ_IACT_1, READ_IACT_2, READ_IACT_3 = 12, 20, 28
    READ_WEIGHT_1, READ_WEIGHT_2, READ_WEIGHT_3 = 13, 21, 29
    """Engines of further ports: each has a descriptor of its own, and starts with that of the first port."""
    ARRAY = 32
    """Subscriptions of the array (upper half of the address space): no nest, no start."""

    @property
    def base(self) -> int:
        """Word address of the engine's first configuration word."""
        return self.value * ENGINE_STRIDE

    @property
    def port(self) -> int:
        """The port it belongs to; 0 if there can be one only."""
        return 0 if self is Engine.ARRAY else (self.value - 1) // PORT_STRIDE

    @property
    def first(self) -> "Engine":
        """The engine of port 0 that does the same."""
        return Engine(self.value - self.port * PORT_STRIDE)

    def at(self, port: int) -> "Engine":
        """Return the engine of another port that does the same.

        Raises
        ------
        ValueError
            If there is none.
        """
        return Engine(self.first.value + port * PORT_STRIDE)


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

    def __post_init__(self) -> None:
        words = LoopNest.words(self.levels, self.outputs)
        if words > _FIELD_BASE:
            raise ValueError(f"{self.engine.name} must have no more than {_FIELD_BASE} words in its nest, not {words}")

    def address(self, name: str) -> int:
        """Word address of a scalar field.

        Raises
        ------
        KeyError
            If there is no such field.
        """
        for position, entry in enumerate(self.fields):
            if entry.name == name:
                return self.engine.base + _FIELD_BASE + position
        raise KeyError(f"{self.engine.name} has no field {name}")

    def connect(self, m: Module, config: Any, nest: LoopNest) -> Any:
        """Register the configuration bus and hand the writes of the nest's words to the engine's nest.

        Parameters
        ----------
        m : Module
        config : interface of ConfigBus
        nest : LoopNest

        Returns
        -------
        interface of ConfigBus
            Writes of this engine's words, a cycle later; for :meth:`store`.
        """
        own: Any = ConfigBus().create(path=("own",))
        valid = Signal(name="config_valid")
        m.d.sync += valid.eq(config.valid & (config.address[_STRIDE_BITS:] == self.engine.value))
        m.d.comb += own.valid.eq(valid)
        for name, width in (("bank", 1), ("address", _STRIDE_BITS), ("data", len(config.data))):
            kept = Signal(width, name=f"config_{name}", reset_less=True)
            m.d.sync += kept.eq(getattr(config, name))
            m.d.comb += getattr(own, name).eq(kept)
        inner: Any = nest.config
        m.d.comb += [
            inner.valid.eq(own.valid & ~own.address[_STRIDE_BITS - 1]),
            inner.bank.eq(own.bank),
            inner.address.eq(own.address[: _STRIDE_BITS - 1]),
            inner.data.eq(own.data),
        ]
        return own

    def store(self, m: Module, own: Any, name: str, *banks: ValueLike) -> list[Signal]:
        """Store a field for both banks and return its value for each of the given bank selects.

        The word that clears the nest clears it too.

        The values are registers: a field has too few words for a memory to be cheaper.

        Parameters
        ----------
        m : Module
        own : interface of ConfigBus
            As :meth:`connect` returns it.
        name : str
            The field.
        *banks : 1-bit values
            Bank to read, one for each user at a different point of a pipeline.
        """
        address = self.address(name) - self.engine.base
        cleared = own.valid & (own.address == LoopNest.clear_address(self.levels))
        width = next(entry.width for entry in self.fields if entry.name == name)
        stored = [Signal(width, name=f"field_{name}{bank}", reset_less=True) for bank in range(2)]
        written = Signal(name=f"write_{name}")
        m.d.comb += written.eq(own.valid & (own.address == address))
        for bank, value in enumerate(stored):
            with m.If((written | cleared) & (own.bank == bank)):
                m.d.sync += value.eq(own.data)
        values = []
        for number, bank in enumerate(banks):
            values.append(value := Signal(width, name=f"{name}_{number}" if number else name))
            m.d.comb += value.eq(Mux(bank, stored[1], stored[0]))
        return values

    def encode(
        self,
        loops: list[tuple[int, int, int, Mapping[str, int]]],
        bases: Mapping[str, int],
        values: Mapping[str, int],
    ) -> NestProgram:
        """Encode a descriptor as words by absolute address; the first one clears all fields, and 0 is not written.

        Parameters
        ----------
        loops, bases
            See :meth:`rowmesh.hw.nest.LoopNest.program`.
        values : Mapping[str, int]
            Scalar fields; missing ones are 0.

        Raises
        ------
        FieldError
            If a value does not fit its field.
        ValueError
            If a value names no field.
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
                raise FieldError(f"{self.engine.name}.{entry.name} must fit {entry.width} bits, not {value}")
            if value:
                words[self.address(entry.name)] = value & ((1 << entry.width) - 1)
        return words
