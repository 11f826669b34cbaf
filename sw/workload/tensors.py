"""How tensors lie in memory: the one layout that programs, testbenches and drivers agree on.

A beat of the memory port carries k words. Where there are at least k channels, a beat holds k channels of one
pixel: ``[N][ceil(C/k)][H][W][k]``. Where there are fewer (an image), channels are planes and a beat holds k
pixels of a row: ``[N][C][H][ceil(W/k)][k]``. Words are little-endian two's complement, word 0 at the lowest
address; unused words of a beat are zero.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

__all__ = ["BASE_ALIGNMENT", "TensorLayout", "storage_bits"]

BASE_ALIGNMENT = 64
"""Bytes: every tensor starts at a multiple of this."""

_TYPES = {8: "<i1", 16: "<i2", 32: "<i4"}


def storage_bits(width: int) -> int:
    """Bits that a value of a width occupies in memory.

    Parameters
    ----------
    width : int
        Bits of the value, 1 to 32 (a ``data_width`` or an ``acc_width``).

    Returns
    -------
    int
        8, 16 or 32: raw 24-bit accumulators are stored sign-extended to 32 bits.

    Raises
    ------
    ValueError
        If the width is out of range.
    """
    if not 1 <= width <= 32:
        raise ValueError(f"storage_bits: width must be from 1 to 32, not {width}")
    return next(bits for bits in _TYPES if bits >= width)


@dataclass(frozen=True)
class TensorLayout:
    """Shape of a tensor and the byte offset of each of its words.

    Parameters
    ----------
    n, c, h, w : int
        Images, channels, rows and columns.
    word_bits : int
        8, 16 or 32; see :func:`storage_bits`.
    beat_bytes : int
        Bytes of a beat of the memory port, a power of two, at least a word and at most ``BASE_ALIGNMENT``.

    Raises
    ------
    TypeError
        For a value that is not an int.
    ValueError
        For a value outside its rule.
    """

    n: int
    c: int
    h: int
    w: int
    word_bits: int
    beat_bytes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int:
                raise TypeError(f"TensorLayout.{field.name} must be an int, not {value!r}")
            if value < 1:
                raise ValueError(f"TensorLayout.{field.name} must be at least 1, not {value}")
        if self.word_bits not in _TYPES:
            raise ValueError(f"TensorLayout.word_bits must be 8, 16 or 32, not {self.word_bits}")
        if self.beat_bytes & (self.beat_bytes - 1) or not self.word_bytes <= self.beat_bytes <= BASE_ALIGNMENT:
            raise ValueError(
                f"TensorLayout.beat_bytes must be a power of two from {self.word_bytes} to {BASE_ALIGNMENT}, "
                f"not {self.beat_bytes}"
            )

    @property
    def word_bytes(self) -> int:
        """Bytes of a word."""
        return self.word_bits // 8

    @property
    def words_per_beat(self) -> int:
        """Words of a beat, k."""
        return self.beat_bytes // self.word_bytes

    @property
    def planar(self) -> bool:
        """Whether a beat runs along a row of one channel, because there are fewer channels than its words."""
        return self.c < self.words_per_beat

    @property
    def blocks(self) -> int:
        """Channel blocks of an image: k channels each, or one each if planar."""
        return self.c if self.planar else -(-self.c // self.words_per_beat)

    @property
    def row_beats(self) -> int:
        """Beats of a row of a block."""
        return -(-self.w // self.words_per_beat) if self.planar else self.w

    @property
    def beats(self) -> int:
        """Beats of the whole tensor."""
        return self.n * self.blocks * self.h * self.row_beats

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor, unused words included."""
        return self.beats * self.beat_bytes

    @property
    def stride_x(self) -> int:
        """Bytes from a beat to the next of its row: one pixel, or k pixels if planar."""
        return self.beat_bytes

    @property
    def stride_row(self) -> int:
        """Bytes from a row to the next of its block."""
        return self.row_beats * self.stride_x

    @property
    def stride_block(self) -> int:
        """Bytes from a channel block (a channel if planar) to the next."""
        return self.h * self.stride_row

    @property
    def stride_n(self) -> int:
        """Bytes from an image to the next."""
        return self.blocks * self.stride_block

    def address(self, n: int, c: int, y: int, x: int) -> int:
        """Byte offset of a word from the tensor's base.

        Parameters
        ----------
        n, c, y, x : int
            Image, channel, row and column.

        Raises
        ------
        IndexError
            Outside the tensor.
        """
        for name, value, size in (("n", n, self.n), ("c", c, self.c), ("y", y, self.h), ("x", x, self.w)):
            if not 0 <= value < size:
                raise IndexError(f"TensorLayout.address: {name} must be from 0 to {size - 1}, not {value}")
        if self.planar:
            block, (beat, word) = c, divmod(x, self.words_per_beat)
        else:
            (block, word), beat = divmod(c, self.words_per_beat), x
        return (
            n * self.stride_n
            + block * self.stride_block
            + y * self.stride_row
            + beat * self.stride_x
            + word * self.word_bytes
        )

    def pack(self, array: npt.ArrayLike) -> bytes:
        """Memory image of a tensor.

        Parameters
        ----------
        array : array_like of int, [N, C, H, W]
            Signed values that fit the word.

        Returns
        -------
        bytes
            ``nbytes`` long, zeros in unused words.

        Raises
        ------
        TypeError
            If the array does not hold integers.
        ValueError
            If the shape differs or a value does not fit.
        """
        values = np.asarray(array)
        shape = (self.n, self.c, self.h, self.w)
        if values.dtype.kind not in "iu":
            raise TypeError(f"TensorLayout.pack: array must hold integers, not {values.dtype}")
        if values.shape != shape:
            raise ValueError(f"TensorLayout.pack: array must be of shape {shape}, not {values.shape}")
        limit = 1 << (self.word_bits - 1)
        low, high = int(values.min()), int(values.max())
        if low < -limit or high >= limit:
            raise ValueError(
                f"TensorLayout.pack: values must be from {-limit} to {limit - 1}, not from {low} to {high}"
            )
        k = self.words_per_beat
        if self.planar:
            padded = np.zeros((self.n, self.c, self.h, self.row_beats * k), _TYPES[self.word_bits])
            padded[..., : self.w] = values
            return padded.tobytes()
        padded = np.zeros((self.n, self.blocks * k, self.h, self.w), _TYPES[self.word_bits])
        padded[:, : self.c] = values
        return padded.reshape(self.n, self.blocks, k, self.h, self.w).transpose(0, 1, 3, 4, 2).tobytes()

    def unpack(self, image: bytes | bytearray | memoryview) -> npt.NDArray[np.int64]:
        """Tensor of a memory image; unused words are ignored.

        Parameters
        ----------
        image : bytes-like
            ``nbytes`` long.

        Returns
        -------
        ndarray of int64, [N, C, H, W]

        Raises
        ------
        ValueError
            If the length differs.
        """
        words = np.frombuffer(image, dtype=_TYPES[self.word_bits])
        if words.nbytes != self.nbytes:
            raise ValueError(f"TensorLayout.unpack: image must be {self.nbytes} bytes, not {words.nbytes}")
        k = self.words_per_beat
        if self.planar:
            return words.reshape(self.n, self.c, self.h, -1)[..., : self.w].astype(np.int64)
        beats = words.reshape(self.n, self.blocks, self.h, self.w, k).transpose(0, 1, 4, 2, 3)
        return beats.reshape(self.n, self.blocks * k, self.h, self.w)[:, : self.c].astype(np.int64)
