"""Requantisation: from an accumulator to an output word, bit for bit as ``rowmesh.sw.workload.golden.requantize``.

The arithmetic is that of onnxruntime's ``QLinearConv`` on a CPU: int32 to float32, a float32 product, round
half to even, zero point, saturation. There is no general floating-point unit: the only exponents that matter
are those of results from one half to the clamp limits, so everything else becomes one of two flags, *vanish*
and *saturate*.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import memory
from amaranth.lib.wiring import In, Out

from rowmesh.hw.block import Block

__all__ = ["DelayLine", "Requantizer"]

_MANTISSA = 24  # bits of a float32 significand, the hidden one included
_HALF = _MANTISSA // 2
_BIAS = 127  # of a float32 exponent
_FRAME = 32  # widest accumulator, and the width in which all are normalised
_EXPONENT = 10  # bits of the signed exponent arithmetic: -159 to 170 occurs


class DelayLine(Block):
    """Delay by a fixed number of cycles, in distributed memory instead of registers.

    Contract: one word a cycle; latency ``depth`` cycles; contents are undefined until then.

    Parameters
    ----------
    width : int
        Bits of a word.
    depth : int
        Cycles of delay, at least 2.

    Members
    -------
    i : In(unsigned(width))
    o : Out(unsigned(width))

    Raises
    ------
    ValueError
        If the depth is below 2.
    """

    i: Signal
    o: Signal

    def __init__(self, width: int, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"DelayLine.depth must be at least 2, not {depth}")
        self._width, self._depth = width, depth
        super().__init__({"i": In(unsigned(width)), "o": Out(unsigned(width))})

    @property
    def latency(self) -> int:
        """Cycles from ``i`` to ``o``."""
        return self._depth

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        # The slot read is overwritten in the same cycle; the output register is the last cycle of the delay.
        slots = self._depth - 1
        store: memory.Memory[Shape, Value] = memory.Memory(shape=unsigned(self._width), depth=slots, init=[])
        m.submodules.store = store
        write, read = store.write_port(), store.read_port(domain="comb")
        slot = Signal(range(slots))
        word = Signal(self._width, reset_less=True)
        m.d.comb += [
            read.addr.eq(slot),
            write.addr.eq(slot),
            write.data.eq(self.i),
            write.en.eq(1),
            self.o.eq(word),
        ]
        m.d.sync += [word.eq(read.data), slot.eq(Mux(slot == slots - 1, 0, slot + 1))]
        return m


def _leading_zeros(value: Value) -> tuple[Value, Value]:
    """Whether a value of 2**n bits is zero and, if not, its leading zeros in n bits, as a tree."""
    if len(value) == 1:
        return ~value, Const(0, 0)
    half = len(value) // 2
    low_zero, low_count = _leading_zeros(value[:half])
    high_zero, high_count = _leading_zeros(value[half:])
    return low_zero & high_zero, Cat(Mux(high_zero, low_count, high_count), high_zero)


class Requantizer(Block):
    """Add the bias, scale in float32, round, add the zero point, clamp.

    Contract: a feed-forward pipeline that never stops; one value a cycle; latency ``latency`` cycles for both outputs.
    No data is reset: what leaves in the first cycles is undefined, and which cycles count is the user's business.

    Parameters
    ----------
    acc_width : int
        Bits of an accumulator, from ``data_width`` to 32.
    data_width : int
        Bits of an output word, 4 to 16.

    Members
    -------
    psum : In(signed(acc_width))
    bias : In(signed(acc_width))
        Added to ``psum``; the sum wraps.
    scale : In(unsigned(32))
        IEEE float32, positive and finite; the sign bit is ignored. Enters with its ``psum``.
    zero_point, clamp_low, clamp_high : In(signed(data_width))
        Held still while values are in flight; ``clamp_low <= clamp_high``.
    word : Out(signed(data_width))
        The requantised value.
    raw : Out(signed(acc_width))
        ``psum + bias``, wrapped.

    Raises
    ------
    ValueError
        For a width outside its rule.
    """

    psum: Signal
    bias: Signal
    scale: Signal
    zero_point: Signal
    clamp_low: Signal
    clamp_high: Signal
    word: Signal
    raw: Signal

    STAGES = (
        "sum",
        "magnitude",
        "count",
        "normalise",
        "convert",
        "multiply",
        "cross",
        "product",
        "select",
        "round",
        "frame",
        "align",
        "add",
        "clamp",
    )
    """Names of the pipeline's stages, in order; each register is prefixed by the stage that writes it."""

    shared = True

    def __init__(self, acc_width: int, data_width: int) -> None:
        if not 4 <= data_width <= 16:
            raise ValueError(f"Requantizer.data_width must be from 4 to 16, not {data_width}")
        if not data_width <= acc_width <= _FRAME:
            raise ValueError(
                f"Requantizer.acc_width must be from data_width ({data_width}) to {_FRAME}, not {acc_width}"
            )
        self._acc_width, self._data_width = acc_width, data_width
        super().__init__(
            {
                "psum": In(signed(acc_width)),
                "bias": In(signed(acc_width)),
                "scale": In(unsigned(32)),
                "zero_point": In(signed(data_width)),
                "clamp_low": In(signed(data_width)),
                "clamp_high": In(signed(data_width)),
                "word": Out(signed(data_width)),
                "raw": Out(signed(acc_width)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the inputs to both outputs: the number of stages."""
        return len(self.STAGES)

    def elaborate(self, platform: object) -> Module:  # noqa: D102
        m = Module()
        width, acc = self._data_width, self._acc_width
        # Integer bits of a magnitude before it certainly saturates: the clamp limits less the zero point
        # reach 2**width - 1, so 2**width and above are all alike.
        whole = width

        def register(name: str, shape: int | Shape, value: Value) -> Signal:
            """Pipeline register, never reset."""
            signal = Signal(shape, name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        def carry(stage: str, *signals: Signal) -> list[Signal]:
            """Register the same values in the next stage."""
            return [register(f"{stage}_{signal.name.partition('_')[2]}", signal.shape(), signal) for signal in signals]

        total = register("sum_total", signed(acc), self.psum + self.bias)

        m.submodules.raw_delay = raw_delay = DelayLine(acc, self.latency - 1)
        m.submodules.scale_delay = scale_delay = DelayLine(31, self.STAGES.index("multiply"))
        m.d.comb += [
            raw_delay.i.eq(total),
            self.raw.eq(raw_delay.o),
            scale_delay.i.eq(self.scale),
        ]

        negative = register("magnitude_negative", 1, total[-1])
        magnitude = register("magnitude_value", acc, Mux(total[-1], -total, total))

        # Left-aligned in 32 bits, so that the same code serves every accumulator.
        aligned = Cat(Const(0, _FRAME - acc), magnitude)
        is_zero, zeros = _leading_zeros(aligned)
        count = register("count_zeros", 5, zeros)
        zero = register("count_zero", 1, is_zero)
        (negative,) = carry("count", negative)
        unshifted = register("count_value", _FRAME, aligned)

        normal = register("normalise_value", _FRAME, unshifted << count)
        # The right shift that aligns the product, in parts: at the end,
        # 126 + whole - exponent(|total|) - exponent field of the scale - carries.
        shift = register("normalise_shift", signed(_EXPONENT), _BIAS - 1 + whole - (acc - 1) + count)
        negative, zero = carry("normalise", negative, zero)

        # int32 to float32: the top 24 bits, rounded half to even. A carry out leaves zeros below a one, and
        # the top bit is one anyway unless the value is zero, which has a flag.
        kept, rest = normal[-_MANTISSA:], normal[: _FRAME - _MANTISSA]
        rounded = Signal(_MANTISSA + 1)
        m.d.comb += rounded.eq(kept + (rest[-1] & (rest[:-1].any() | kept[0])))
        mantissa = register("convert_mantissa", _MANTISSA, Cat(rounded[: _MANTISSA - 1], 1))
        overflow = register("convert_carry", 1, rounded[-1])
        negative, zero, shift = carry("convert", negative, zero, shift)

        # 24 x 24 bits as four products of 12 x 12, each one hardware multiplier between registers.
        factor = Cat(scale_delay.o[: _MANTISSA - 1], 1)
        parts = {
            f"{i}{j}": register(
                f"multiply_part{i}{j}",
                2 * _HALF,
                mantissa.word_select(i, _HALF) * factor.word_select(j, _HALF),
            )
            for i in (0, 1)
            for j in (0, 1)
        }
        shift = register("multiply_shift", signed(_EXPONENT), shift - scale_delay.o[_MANTISSA - 1 :])
        negative, zero, overflow = carry("multiply", negative, zero, overflow)

        cross = register("cross_middle", 2 * _HALF + 1, parts["01"] + parts["10"])
        outer = register("cross_outer", 2 * _MANTISSA, Cat(parts["00"], parts["11"]))
        shift = register("cross_shift", signed(_EXPONENT), shift - overflow)
        negative, zero = carry("cross", negative, zero)

        upper = Signal(2 * _MANTISSA - _HALF)
        m.d.comb += upper.eq(outer[_HALF:] + cross)
        product = register("product_value", 2 * _MANTISSA, Cat(outer[:_HALF], upper))
        negative, zero, shift = carry("product", negative, zero, shift)

        # The product of two significands is in [1, 4): keep 24 bits, a guard and a sticky bit.
        double = product[-1]
        mantissa = register("select_mantissa", _MANTISSA, Mux(double, product[_MANTISSA:], product[_MANTISSA - 1 : -1]))
        guard = register("select_guard", 1, Mux(double, product[_MANTISSA - 1], product[_MANTISSA - 2]))
        sticky = register("select_sticky", 1, product[: _MANTISSA - 2].any() | (double & product[_MANTISSA - 2]))
        shift = register("select_shift", signed(_EXPONENT), shift - double)
        negative, zero = carry("select", negative, zero)

        rounded = Signal(_MANTISSA + 1)
        m.d.comb += rounded.eq(mantissa + (guard & (sticky | mantissa[0])))
        mantissa = register("round_mantissa", _MANTISSA, Cat(rounded[: _MANTISSA - 1], 1))
        overflow = register("round_carry", 1, rounded[-1])
        negative, zero, shift = carry("round", negative, zero, shift)

        # A frame of ``whole`` integer bits, a guard bit and a sticky bit. It only shifts right from here, so
        # one bit stands for all bits below the guard.
        below = _MANTISSA - whole - 1
        frame = register("frame_value", whole + 2, Cat(mantissa[:below].any(), mantissa[below:]))
        shift = register("frame_shift", signed(_EXPONENT), shift - overflow)
        negative, zero = carry("frame", negative, zero)

        # Shifts from 0 to ``whole`` give results from one half up to 2**whole; a longer one vanishes, and a
        # negative one saturates.
        amount = shift[: whole.bit_length()]
        spread = Signal(2 * whole + 2)
        m.d.comb += spread.eq(Cat(Const(0, whole), frame) >> amount)
        magnitude = register("align_value", whole, spread[whole + 2 :])
        guard = register("align_guard", 1, spread[whole + 1])
        sticky = register("align_sticky", 1, spread[: whole + 1].any())
        vanish = register("align_vanish", 1, zero | (shift > whole))
        saturate = register("align_saturate", 1, (shift < 0) & ~zero)
        (negative,) = carry("align", negative)

        # zero_point + value and zero_point - value are one addition: the rounding increment is its carry in.
        step = guard & (sticky | magnitude[0]) & ~vanish
        largest = Cat(magnitude & ~vanish.replicate(whole) & ~saturate.replicate(whole), saturate)
        addend = Cat(largest ^ negative.replicate(whole + 1), negative).as_signed()
        result = register("add_result", signed(whole + 2), self.zero_point + addend + (step ^ negative))

        # The order of the two limits cannot matter while low <= high.
        word = register(
            "clamp_word",
            signed(width),
            Mux(
                result > self.clamp_high,
                self.clamp_high,
                Mux(result < self.clamp_low, self.clamp_low, result),
            ),
        )
        m.d.comb += self.word.eq(word)
        return m
