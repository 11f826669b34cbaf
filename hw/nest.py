"""The loop nest: the one programmable unit that drives every engine.

A nest of ``levels`` loops is a pipeline of :class:`LoopLevel`, the outermost first. A level takes a token from the
loop around it and emits one token an iteration, with its own first and last flags shifted in behind those of the
outer loops. So a level does not know its number, and all levels of a nest are the same module. Each level accepts its
next outer token in the cycle in which it emits its last iteration, so no boundary of any loop costs a cycle.

Behind the innermost level, one :class:`Affine` unit makes the outputs: the first flags of a step tell which loop
advances, and that loop's strides are added to the values at the beginning of its iteration.

A level's bound is replaced by its *last bound* where all outer levels named in its mask are in their last iteration:
so an imperfect factor is a field of the descriptor and not a second descriptor.

Two descriptors are held (two banks of the configuration memories); the token carries the bank, so the next
descriptor is written, and may even start, while the current one runs.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from rowmesh.hw.block import Block, memory_style
from rowmesh.hw.link import Buffer, Stage

__all__ = ["BOUND_WIDTH", "Affine", "ConfigBus", "FieldError", "LoopLevel", "LoopNest", "NestProgram", "token_layout"]

BOUND_WIDTH = 16
"""Bits of a loop bound: a level runs from 1 to 65536 iterations."""

_CLEAR_ROW, _LAST_ROW, _BOUND_ROW, _STRIDE_ROW = range(4)  # rows of words; those of the strides are the last ones
_BOUNDS = 2  # words of a level that say how often it runs

NestProgram = dict[int, int]
"""Configuration words of a nest, by word address relative to its base."""


class FieldError(ValueError):
    """A value that a field of a descriptor cannot hold."""


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
    return data.StructLayout({**_flags(levels), "out": _values(outputs)})


def _flags(levels: int) -> dict[str, Any]:
    return {"bank": unsigned(1), "first": unsigned(levels), "last": unsigned(levels)}


def _values(outputs: Mapping[str, int]) -> data.StructLayout:
    return data.StructLayout({name: signed(width) for name, width in outputs.items()})


def _level_bits(levels: int) -> int:
    """Bits of a level's number; `levels` itself stands for the start of a descriptor."""
    return bits_for(levels)


class LoopLevel(Block):
    """One loop of a nest.

    Contract: one token a cycle; latency 1 cycle from an outer token to its first iteration; no bubble between the
    last iteration of one outer token and the first of the next. Bit 0 of the outgoing flags is the level's own, bit k
    that of the k-th loop around it.

    Parameters
    ----------
    levels : int
        Loops of the whole nest.

    Members
    -------
    write : In(2)
        Write the bound and its mask, or the last bound. Both: write the last bound and the mask.
    write_bank : In(1)
    write_data : In(32)
        Iterations - 1; above the bound also the mask of outer loops that select the last bound (bit k: the k + 1-th
        loop around this one). With no loop named the last bound always counts, so that zero in both makes a level
        that runs once.
    i, o : streams of bank, first and last
    """

    write: Signal
    write_bank: Signal
    write_data: Signal
    i: stream.Interface
    o: stream.Interface

    latency = 1

    def __init__(self, levels: int) -> None:
        self._levels = levels
        layout = data.StructLayout(_flags(levels))
        super().__init__(
            {
                "write": In(_BOUNDS),
                "write_bank": In(1),
                "write_data": In(32),
                "i": In(stream.Signature(layout)),
                "o": Out(stream.Signature(layout)),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        outer = self.i.payload
        masked = Signal()

        # by bank, bound and last bound; with each whether it is a single iteration
        store: Any = memory.Memory(
            shape=data.StructLayout({"value": BOUND_WIDTH, "single": 1}), depth=4, init=[], attrs=memory_style(False)
        )
        m.submodules.bounds = store
        write, read = store.write_port(), store.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(Cat(self.write[1], self.write_bank)),
            write.data.value.eq(self.write_data),
            write.data.single.eq(self.write_data[:BOUND_WIDTH] == 0),
            write.en.eq(self.write.any()),
            read.addr.eq(Cat(masked, outer.bank)),
        ]
        masks = [Signal(self._levels, name=f"mask{bank}", reset_less=True) for bank in range(2)]
        for bank, mask in enumerate(masks):
            with m.If(self.write[0] & (self.write_bank == bank)):
                m.d.sync += mask.eq(self.write_data[BOUND_WIDTH:])
        m.d.comb += masked.eq((Mux(outer.bank, masks[1], masks[0]) & ~outer.last) == 0)

        valid = Signal()
        token: Any = Signal(self.i.payload.shape(), reset_less=True)
        left = Signal(BOUND_WIDTH, reset_less=True)
        is_first = Signal(reset_less=True)
        is_last = Signal(reset_less=True)
        m.d.comb += [
            self.i.ready.eq(~valid | (is_last & self.o.ready)),
            self.o.valid.eq(valid),
            self.o.payload.bank.eq(token.bank),
            self.o.payload.first.eq(Cat(is_first, token.first)),
            self.o.payload.last.eq(Cat(is_last, token.last)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                valid.eq(self.i.valid),
                token.eq(outer),
                left.eq(read.data.value),
                is_first.eq(1),
                is_last.eq(read.data.single),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += [left.eq(left - 1), is_first.eq(0), is_last.eq(left == 1)]
        return m


class Affine(Block):
    """The affine outputs of a nest.

    A step advances one loop: the innermost one that is not in its first iteration. That loop's outputs are those at
    the beginning of its iteration before, plus its strides; they are also the new values at the beginning of all loops
    inside. So a value is kept for each loop that advanced, and each loop knows which of these is its own.

    Contract: one step a cycle; latency ``latency`` cycles. The start of a descriptor (all loops in their first
    iterations) advances the loop number ``levels``, from zero by the bases.

    Parameters
    ----------
    levels : int
        Loops of the nest.
    outputs : Mapping[str, int]
        Affine outputs and their widths; arithmetic wraps.

    Members
    -------
    write : In(len(outputs))
        Write the stride of an output.
    write_bank : In(1)
    write_level : In(range(levels + 1))
        Loop; ``levels`` for the base.
    write_data : In(32)
    i : stream of bank, first and last
    o : Out(stream.Signature(token_layout(levels, outputs)))
    """

    write: Signal
    write_bank: Signal
    write_level: Signal
    write_data: Signal
    i: stream.Interface
    o: stream.Interface

    latency = Buffer.latency + 2 * Stage.latency

    def __init__(self, levels: int, outputs: Mapping[str, int]) -> None:
        self._levels, self._outputs = levels, dict(outputs)
        super().__init__(
            {
                "write": In(len(outputs)),
                "write_bank": In(1),
                "write_level": In(_level_bits(levels)),
                "write_data": In(32),
                "i": In(stream.Signature(data.StructLayout(_flags(levels)))),
                "o": Out(stream.Signature(token_layout(levels, outputs))),
            }
        )

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        levels, number = self._levels, unsigned(_level_bits(self._levels))

        def table(name: str, width: int, depth: int) -> tuple[Any, Any]:
            store: Any = memory.Memory(shape=unsigned(width), depth=depth, init=[], attrs=memory_style(False))
            m.submodules[name] = store
            return store.write_port(), store.read_port(domain="comb")

        # which loop advances
        flags = _flags(levels)
        moved_layout = data.StructLayout({**flags, "level": number})
        m.submodules.moved = moved = Buffer(moved_layout)
        m.d.comb += [
            moved.i.valid.eq(self.i.valid),
            self.i.ready.eq(moved.i.ready),
            *[moved.i.payload[name].eq(self.i.payload[name]) for name in flags],
            moved.i.payload.level.eq(levels),
        ]
        for level in reversed(range(levels)):
            with m.If(~self.i.payload.first[level]):
                m.d.comb += moved.i.payload.level.eq(level)

        # its strides, and where the value at the beginning of its iteration is kept
        now = moved.o.payload
        sum_layout = data.StructLayout({**flags, "level": number, "owner": number, "add": _values(self._outputs)})
        m.submodules.sum = summand = Stage(sum_layout)
        owner = [Signal(number, name=f"owner{level}", reset_less=True) for level in range(levels)]
        m.d.comb += [
            summand.i.valid.eq(moved.o.valid),
            moved.o.ready.eq(summand.i.ready),
            *[summand.i.payload[name].eq(now[name]) for name in moved_layout.members],
            summand.i.payload.owner.eq(Array(owner)[now.level]),
        ]
        for level in range(levels):
            inside = (now.level >= level) if level else 1
            with m.If(moved.o.valid & moved.o.ready & inside):
                m.d.sync += owner[level].eq(now.level)
        for position, (name, width) in enumerate(self._outputs.items()):
            write, read = table(f"stride_{name}", width, 2 << number.width)
            m.d.comb += [
                write.addr.eq(Cat(self.write_level, self.write_bank)),
                write.data.eq(self.write_data),
                write.en.eq(self.write[position]),
                read.addr.eq(Cat(now.level, now.bank)),
                summand.i.payload["add"][name].eq(read.data),
            ]

        # the sum
        step = summand.o.payload
        m.submodules.out = out = Stage(self.o.payload.shape())
        m.d.comb += [
            out.i.valid.eq(summand.o.valid),
            summand.o.ready.eq(out.i.ready),
            *[out.i.payload[name].eq(step[name]) for name in flags],
        ]
        wiring.connect(m, out.o, wiring.flipped(self.o))
        for name, width in self._outputs.items():
            write, read = table(f"value_{name}", width, 1 << number.width)
            value = Signal(signed(width), name=f"next_{name}")
            m.d.comb += [
                read.addr.eq(step.owner),
                value.eq(Mux(step.level == levels, 0, read.data) + step["add"][name]),
                write.addr.eq(step.level),
                write.data.eq(value),
                write.en.eq(summand.o.valid & summand.o.ready),
                out.i.payload.out[name].eq(value),
            ]
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
    def clear_address(levels: int) -> int:
        """Address that makes all levels run once, whatever is written: the word before the first last bound."""
        return LoopNest.last_address(levels, 0) - 1

    @staticmethod
    def last_address(levels: int, level: int) -> int:
        """Address of a level's last bound."""
        return _LAST_ROW << _level_bits(levels) | level

    @staticmethod
    def bound_address(levels: int, level: int) -> int:
        """Address of a level's bound and mask."""
        return _BOUND_ROW << _level_bits(levels) | level

    @staticmethod
    def stride_address(levels: int, output: int, level: int) -> int:
        """Address of a stride of the output of a number; ``levels`` for its base, the word before the first stride."""
        return (_STRIDE_ROW + output << _level_bits(levels)) + (-1 if level == levels else level)

    @staticmethod
    def words(levels: int, outputs: Mapping[str, int]) -> int:
        """Range of the addresses of configuration words."""
        return LoopNest.stride_address(levels, len(outputs), 0)

    @staticmethod
    def cycles_to_first(levels: int, segment: int) -> int:
        """Cycles from the start token to the first step."""
        return Buffer.latency * (1 + (levels - 1) // segment) + LoopLevel.latency * levels + Affine.latency

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
        """Encode loops as configuration words, as few as they need.

        The first one clears what all levels held; so a level that runs once has no words, and a bound that is always
        the same is written as the last bound, without a mask.

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
        FieldError
            If there are more loops than levels, or a field does not fit.
        ValueError
            If a mask names a level that is not further out.
        """
        if len(loops) > levels:
            raise FieldError(f"a nest of {levels} levels cannot run {len(loops)} loops")
        words: NestProgram = {LoopNest.clear_address(levels): 0}
        for level, (bound, last, mask, strides) in enumerate(loops):
            for value in (bound, last):
                if not 1 <= value <= 1 << BOUND_WIDTH:
                    raise FieldError(f"loop bound must be from 1 to {1 << BOUND_WIDTH}, not {value}")
            if mask & ((2 << level) - 1) or mask >> levels:
                raise ValueError(f"mask of level {level} must name outer levels only, not {mask:#b}")
            words[LoopNest.last_address(levels, level)] = (last if mask else bound) - 1
            if mask:
                words[LoopNest.bound_address(levels, level)] = mask >> (level + 1) << BOUND_WIDTH | (bound - 1)
            for number, (name, width) in enumerate(outputs.items()):
                at = LoopNest.stride_address(levels, number, level)
                words[at] = _fit(strides.get(name, 0), width, f"stride of {name}")
        for number, (name, width) in enumerate(outputs.items()):
            words[LoopNest.stride_address(levels, number, levels)] = _fit(bases.get(name, 0), width, f"base of {name}")
        return words

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        config: Any = self.config
        bits = _level_bits(self._levels)
        level_written, ahead = config.address[:bits], Signal()  # the last word of a row goes with the row behind it
        rows = [config.valid & (config.address[bits:] == row) for row in range(_STRIDE_ROW + len(self._outputs))]
        clear = rows[_CLEAR_ROW] & ahead
        m.d.comb += ahead.eq(level_written.all())
        flags = data.StructLayout(_flags(self._levels))
        m.submodules.entry = entry = Buffer(flags)
        m.d.comb += [
            entry.i.valid.eq(self.start.valid),
            self.start.ready.eq(entry.i.ready),
            entry.i.payload.bank.eq(self.start.payload),
            entry.i.payload.last.eq(~0),  # what is no loop is in its last iteration, whatever a mask says
        ]
        upstream = entry.o
        for count, level in enumerate(reversed(range(self._levels))):
            if count and count % self._segment == 0:
                m.submodules[f"link{level}"] = link = Buffer(flags)
                wiring.connect(m, upstream, link.i)
                upstream = link.o
            m.submodules[f"level{level}"] = loop = LoopLevel(self._levels)
            m.d.comb += [
                loop.write.eq(
                    Cat(rows[_BOUND_ROW], rows[_LAST_ROW]) & (level_written == level).replicate(_BOUNDS)
                    | clear.replicate(_BOUNDS)
                ),
                loop.write_bank.eq(config.bank),
                loop.write_data.eq(config.data),
            ]
            wiring.connect(m, upstream, loop.i)
            upstream = loop.o
        m.submodules.affine = affine = Affine(self._levels, self._outputs)
        m.d.comb += [
            affine.write.eq(Cat(Mux(ahead, before, row) for before, row in pairwise(rows[_STRIDE_ROW - 1 :]))),
            affine.write_bank.eq(config.bank),
            affine.write_level.eq(Mux(ahead, self._levels, level_written)),
            affine.write_data.eq(config.data),
        ]
        wiring.connect(m, upstream, affine.i)
        wiring.connect(m, affine.o, wiring.flipped(self.o))
        return m


def _fit(value: int, width: int, what: str) -> int:
    if not -(1 << (width - 1)) <= value < 1 << width:
        raise FieldError(f"{what} must fit {width} bits, not {value}")
    return value & ((1 << width) - 1)
