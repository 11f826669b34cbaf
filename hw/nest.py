"""The loop nest: the one programmable unit that drives every engine.

A nest of ``levels`` loops is a pipeline of :class:`LoopLevel`, the outermost first. A level takes a token from the
loop around it and emits one token an iteration, with every affine output advanced by the level's stride and its own
first and last flags shifted in behind those of the outer loops. So a level knows neither its number nor its address,
and all levels of a nest are the same module. Each level accepts its next outer token in the cycle in which it emits
its last iteration, so no boundary of any loop costs a cycle.

A level's bound is replaced by its *last bound* where all outer levels named in its mask are in their last iteration:
so an imperfect factor is a field of the descriptor and not a second descriptor.

Two descriptors are held (two banks of the configuration memories); the token carries the bank, so the next
descriptor is written, and may even start, while the current one runs.
"""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block
from rowmesh.hw.link import Buffer

__all__ = ["BOUND_WIDTH", "ConfigBus", "LoopLevel", "LoopNest", "NestProgram", "token_layout"]

BOUND_WIDTH = 16
"""Bits of a loop bound: a level runs from 1 to 65536 iterations."""

_WORDS_FIXED = 2  # bounds, mask

NestProgram = dict[int, int]
"""Configuration words of a nest, by word address relative to its base."""


class ConfigBus(wiring.Signature):
    """A write of one 32-bit descriptor word: no backpressure, registered at will.

    Members
    -------
    valid : Out(1)
    bank : Out(1)
        Which of the two descriptors is written.
    address : Out(16)
        Word address; see :mod:`rowmesh.hw.descriptor`.
    data : Out(32)
    """

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "bank": Out(1), "address": Out(16), "data": Out(32)})


def token_layout(levels: int, outputs: Mapping[str, int]) -> data.StructLayout:
    """Layout of a nest's token.

    Parameters
    ----------
    levels : int
        Loops.
    outputs : Mapping[str, int]
        Affine outputs and their widths in bits (two's complement).
    """
    return data.StructLayout(
        {
            "bank": unsigned(1),
            "first": unsigned(levels),
            "last": unsigned(levels),
            "out": data.StructLayout({name: signed(width) for name, width in outputs.items()}),
        }
    )


class LoopLevel(Block):
    """One loop of a nest.

    Contract: one token a cycle; latency 1 cycle from an outer token to its first iteration; no bubble between the
    last iteration of one outer token and the first of the next. Bit 0 of the outgoing flags is the level's own, bit k
    that of the k-th loop around it.

    Parameters
    ----------
    levels : int
        Loops of the whole nest.
    outputs : Mapping[str, int]
        Affine outputs and their widths.

    Members
    -------
    write : In
        Write the level's word 0, 1, ...: bounds, mask (bit k: the k + 1-th loop around this one), one stride an output.
    write_bank : In(1)
    write_data : In(32)
    i : In(stream.Signature(token_layout(levels, outputs)))
    o : Out(stream.Signature(token_layout(levels, outputs)))
    """

    write: Signal
    write_bank: Signal
    write_data: Signal
    i: stream.Interface
    o: stream.Interface

    latency = 1

    def __init__(self, levels: int, outputs: Mapping[str, int]) -> None:
        self._levels, self._outputs = levels, dict(outputs)
        layout = token_layout(levels, outputs)
        super().__init__(
            {
                "write": In(_WORDS_FIXED + len(outputs)),
                "write_bank": In(1),
                "write_data": In(32),
                "i": In(stream.Signature(layout)),
                "o": Out(stream.Signature(layout)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()

        def word(index: int, name: str, width: int) -> memory.Memory:
            store: Any = memory.Memory(shape=unsigned(width), depth=2, init=[])
            m.submodules[name] = store
            write = store.write_port()
            m.d.comb += [
                write.addr.eq(self.write_bank),
                write.data.eq(self.write_data),
                write.en.eq(self.write[index]),
            ]
            return store

        bounds = word(0, "bounds", 2 * BOUND_WIDTH).read_port(domain="comb")
        mask = word(1, "mask", self._levels).read_port(domain="comb")
        m.d.comb += [bounds.addr.eq(self.i.payload.bank), mask.addr.eq(self.i.payload.bank)]

        strides = {
            name: word(_WORDS_FIXED + position, f"stride_{name}", width).read_port(domain="comb")
            for position, (name, width) in enumerate(self._outputs.items())
        }

        valid = Signal()
        token = Signal.like(self.i.payload, reset_less=True)
        index = Signal(BOUND_WIDTH, reset_less=True)
        bound = Signal(BOUND_WIDTH, reset_less=True)
        is_first = Signal(reset_less=True)
        is_last = Signal(reset_less=True)

        masked = Signal()
        new_bound = Signal(BOUND_WIDTH)
        m.d.comb += [
            masked.eq((mask.data != 0) & ((mask.data & ~self.i.payload.last) == 0)),
            new_bound.eq(Mux(masked, bounds.data[BOUND_WIDTH:], bounds.data[:BOUND_WIDTH])),
            self.i.ready.eq(~valid | (is_last & self.o.ready)),
            self.o.valid.eq(valid),
            self.o.payload.eq(token),
            self.o.payload.first.eq(Cat(is_first, token.first)),
            self.o.payload.last.eq(Cat(is_last, token.last)),
        ]
        m.d.comb += [stride.addr.eq(token.bank) for stride in strides.values()]
        with m.If(self.i.ready):
            m.d.sync += valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += [
                    token.eq(self.i.payload),
                    index.eq(0),
                    bound.eq(new_bound),
                    is_first.eq(1),
                    is_last.eq(new_bound == 0),
                ]
        with m.Elif(self.o.ready):
            m.d.sync += [index.eq(index + 1), is_first.eq(0), is_last.eq(index + 1 == bound)]
            for name, stride in strides.items():
                m.d.sync += token.out[name].eq(token.out[name] + stride.data)
        return m


class LoopNest(Block):
    """A programmable nest of affine loops.

    Contract: one step a cycle, no bubble at any boundary, also not between descriptors; the first step comes
    ``latency`` cycles after the start token.

    Parameters
    ----------
    levels : int
        Loops.
    outputs : Mapping[str, int]
        Affine outputs and their widths in bits; arithmetic wraps.
    segment : int
        Levels between two links with a registered ready.

    Members
    -------
    config : In(ConfigBus())
        Writes of this nest's words only, with addresses relative to its first one.
    start : In(stream.Signature(1))
        Bank of the descriptor to run.
    o : Out(stream.Signature(token_layout(levels, outputs)))
        One step.
    """

    config: Any
    start: stream.Interface
    o: stream.Interface

    def __init__(self, levels: int, outputs: Mapping[str, int], segment: int = 4) -> None:
        self._levels, self._outputs, self._segment = levels, dict(outputs), segment
        self._layout = token_layout(levels, outputs)
        super().__init__(
            {
                "config": In(ConfigBus()),
                "start": In(stream.Signature(1)),
                "o": Out(stream.Signature(self._layout)),
            }
        )

    @staticmethod
    def words(levels: int, outputs: Mapping[str, int]) -> int:
        """Configuration words: one base an output, then the words of each level."""
        return len(outputs) + levels * (_WORDS_FIXED + len(outputs))

    @staticmethod
    def cycles_to_first(levels: int, segment: int) -> int:
        """Cycles from the start token to the first step."""
        return Buffer.latency * (1 + (levels - 1) // segment) + LoopLevel.latency * levels

    @property
    def latency(self) -> int:
        """Cycles from the start token to the first step."""
        return self.cycles_to_first(self._levels, self._segment)

    @staticmethod
    def program(
        levels: int,
        outputs: Mapping[str, int],
        loops: list[tuple[int, int, int, Mapping[str, int]]],
        bases: Mapping[str, int],
    ) -> NestProgram:
        """Encode loops as configuration words.

        Parameters
        ----------
        levels, outputs
            As of the nest.
        loops : list of (bound, last_bound, mask, strides)
            From the innermost (level 0) outwards; missing outer levels run once. Bit k of a mask names level k.
        bases : Mapping[str, int]
            Initial value of each output.

        Raises
        ------
        ValueError
            If there are more loops than levels, a field does not fit, or a mask names a level that is not further out.
        """
        if len(loops) > levels:
            raise ValueError(f"a nest of {levels} levels cannot run {len(loops)} loops")
        words: NestProgram = {}
        for position, (name, width) in enumerate(outputs.items()):
            words[position] = _fit(bases.get(name, 0), width, f"base of {name}")
        for level in range(levels):
            bound, last, mask, strides = loops[level] if level < len(loops) else (1, 1, 0, {})
            at = len(outputs) + level * (_WORDS_FIXED + len(outputs))
            for value in (bound, last):
                if not 1 <= value <= 1 << BOUND_WIDTH:
                    raise ValueError(f"loop bound must be from 1 to {1 << BOUND_WIDTH}, not {value}")
            if mask & ((2 << level) - 1) or mask >> levels:
                raise ValueError(f"mask of level {level} must name outer levels only, not {mask:#b}")
            words[at] = (last - 1) << BOUND_WIDTH | (bound - 1)
            words[at + 1] = mask >> (level + 1)
            for position, (name, width) in enumerate(outputs.items()):
                words[at + 2 + position] = _fit(strides.get(name, 0), width, f"stride of {name}")
        return words

    def _writes(self, address: int) -> Value:
        """Whether the configuration word at an address is written."""
        config: Any = self.config
        return config.valid & (config.address == address)

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        m.submodules.entry = entry = Buffer(self._layout)
        m.d.comb += [
            entry.i.valid.eq(self.start.valid),
            self.start.ready.eq(entry.i.ready),
            entry.i.payload.bank.eq(self.start.payload),
        ]
        for position, (name, width) in enumerate(self._outputs.items()):
            store: Any = memory.Memory(shape=unsigned(width), depth=2, init=[])
            m.submodules[f"base_{name}"] = store
            write, read = store.write_port(), store.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(self.config.bank),
                write.data.eq(self.config.data),
                write.en.eq(self._writes(position)),
                read.addr.eq(self.start.payload),
                entry.i.payload.out[name].eq(read.data),
            ]
        upstream = entry.o
        for count, level in enumerate(reversed(range(self._levels))):
            if count and count % self._segment == 0:
                m.submodules[f"link{level}"] = link = Buffer(self._layout)
                wiring.connect(m, upstream, link.i)
                upstream = link.o
            m.submodules[f"level{level}"] = loop = LoopLevel(self._levels, self._outputs)
            at = len(self._outputs) + level * len(loop.write)
            m.d.comb += [
                loop.write.eq(Cat(self._writes(at + word) for word in range(len(loop.write)))),
                loop.write_bank.eq(self.config.bank),
                loop.write_data.eq(self.config.data),
            ]
            wiring.connect(m, upstream, loop.i)
            upstream = loop.o
        wiring.connect(m, upstream, wiring.flipped(self.o))
        return m


def _fit(value: int, width: int, what: str) -> int:
    if not -(1 << (width - 1)) <= value < 1 << width:
        raise ValueError(f"{what} must fit {width} bits, not {value}")
    return value & ((1 << width) - 1)
