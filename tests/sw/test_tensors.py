import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowmesh.sw.workload.tensors import BASE_ALIGNMENT, TensorLayout, storage_bits

SEEDED = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@st.composite
def layouts(draw) -> TensorLayout:
    word_bits = draw(st.sampled_from([8, 16, 32]))
    return TensorLayout(
        n=draw(st.integers(1, 3)),
        c=draw(st.integers(1, 20)),
        h=draw(st.integers(1, 5)),
        w=draw(st.integers(1, 20)),
        word_bits=word_bits,
        beat_bytes=draw(st.sampled_from([4, 8, 16, 32, 64])),
    )


def values(layout: TensorLayout, seed: int) -> np.ndarray:
    limit = 1 << (layout.word_bits - 1)
    rng = np.random.default_rng(seed)
    return rng.integers(-limit, limit, (layout.n, layout.c, layout.h, layout.w))


def word_at(image: bytes, layout: TensorLayout, offset: int) -> int:
    return int.from_bytes(image[offset : offset + layout.word_bits // 8], "little", signed=True)


@SEEDED
@given(layouts(), st.integers(0, 99))
def test_unpack_inverts_pack(layout, seed):
    array = values(layout, seed)
    image = layout.pack(array)
    assert len(image) == layout.nbytes == layout.beats * layout.beat_bytes
    got = layout.unpack(image)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(layout.unpack(bytearray(image)), array)


@SEEDED
@given(layouts(), st.integers(0, 99))
def test_address_finds_every_word_and_the_rest_is_zero(layout, seed):
    array = values(layout, seed)
    image = layout.pack(array)
    used = set()
    for n, c, y, x in itertools.product(*map(range, array.shape)):
        offset = layout.address(n, c, y, x)
        assert offset % layout.word_bytes == 0
        assert word_at(image, layout, offset) == array[n, c, y, x]
        used.add(offset)
    assert len(used) == array.size
    rest = set(range(0, layout.nbytes, layout.word_bytes)) - used
    assert all(word_at(image, layout, offset) == 0 for offset in rest)


@SEEDED
@given(layouts(), st.integers(0, 99))
def test_unpack_reads_what_is_at_the_address(layout, seed):
    """One word written to memory changes one element, unused words none."""
    rng = np.random.default_rng(seed)
    image = bytearray(layout.pack(np.zeros((layout.n, layout.c, layout.h, layout.w), int)))
    place = tuple(int(rng.integers(size)) for size in (layout.n, layout.c, layout.h, layout.w))
    offset = layout.address(*place)
    image[offset : offset + layout.word_bytes] = (-2).to_bytes(layout.word_bytes, "little", signed=True)
    got = layout.unpack(bytes(image))
    assert got[place] == -2
    assert np.count_nonzero(got) == 1
    assert np.count_nonzero(layout.unpack(b"\xff" * layout.nbytes) + 1) == 0


@SEEDED
@given(layouts())
def test_strides_are_differences_of_addresses(layout):
    k = layout.words_per_beat
    per_block, per_beat = (1, k) if layout.planar else (k, 1)
    assert layout.blocks == -(-layout.c // per_block)
    assert layout.row_beats == -(-layout.w // per_beat)
    steps = [
        ((1, 0, 0, 0), layout.stride_n, layout.n > 1),
        ((0, per_block, 0, 0), layout.stride_block, layout.c > per_block),
        ((0, 0, 1, 0), layout.stride_row, layout.h > 1),
        ((0, 0, 0, per_beat), layout.stride_x, layout.w > per_beat),
    ]
    for place, stride, exists in steps:
        if exists:
            assert layout.address(*place) - layout.address(0, 0, 0, 0) == stride
    assert layout.nbytes == layout.n * layout.stride_n


def test_channels_of_a_pixel_share_a_beat():
    layout = TensorLayout(1, 10, 1, 2, 8, 8)
    assert (layout.planar, layout.blocks, layout.beats) == (False, 2, 4)
    array = np.arange(1, 21).reshape(1, 10, 1, 2)  # channel c, column x: 1 + 2c + x
    assert layout.pack(array) == bytes(
        [1, 3, 5, 7, 9, 11, 13, 15, 2, 4, 6, 8, 10, 12, 14, 16, 17, 19, *[0] * 6, 18, 20, *[0] * 6]
    )


def test_few_channels_are_planes():
    layout = TensorLayout(1, 2, 2, 5, 16, 8)
    assert (layout.planar, layout.blocks, layout.row_beats, layout.beats) == (True, 2, 2, 8)
    array = np.arange(20).reshape(1, 2, 2, 5) - 3
    words = np.frombuffer(layout.pack(array), "<i2").tolist()
    assert words[:16] == [-3, -2, -1, 0, 1, 0, 0, 0, 2, 3, 4, 5, 6, 0, 0, 0]


def test_as_many_channels_as_words_are_not_planar():
    assert not TensorLayout(1, 4, 2, 5, 16, 8).planar
    assert TensorLayout(1, 3, 2, 5, 16, 8).planar


def test_storage_bits():
    assert [storage_bits(width) for width in (8, 12, 16, 24, 32)] == [8, 16, 16, 32, 32]
    with pytest.raises(ValueError, match="from 1 to 32, not 33"):
        storage_bits(33)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"c": 0}, ValueError, "TensorLayout.c must be at least 1, not 0"),
        ({"w": 2.0}, TypeError, "TensorLayout.w must be an int, not 2.0"),
        ({"word_bits": 24}, ValueError, "word_bits must be 8, 16 or 32, not 24"),
        ({"beat_bytes": 12}, ValueError, f"power of two from 2 to {BASE_ALIGNMENT}, not 12"),
        ({"beat_bytes": 128}, ValueError, f"power of two from 2 to {BASE_ALIGNMENT}, not 128"),
        ({"beat_bytes": 1}, ValueError, "beat_bytes must be a power of two from 2"),
    ],
)
def test_layout_refuses(changes, error, message):
    shape = {"n": 1, "c": 4, "h": 2, "w": 2, "word_bits": 16, "beat_bytes": 8}
    with pytest.raises(error, match=message):
        TensorLayout(**(shape | changes))


def test_pack_and_unpack_refuse():
    layout = TensorLayout(1, 2, 2, 2, 8, 8)
    good = np.zeros((1, 2, 2, 2), int)
    with pytest.raises(ValueError, match="from -128 to 127, not from 0 to 128"):
        layout.pack(good + np.array([0, 128]))
    with pytest.raises(ValueError, match=r"of shape \(1, 2, 2, 2\), not \(2, 2, 2\)"):
        layout.pack(good[0])
    with pytest.raises(TypeError, match="must hold integers, not float64"):
        layout.pack(good + 0.5)
    with pytest.raises(ValueError, match="must be 32 bytes, not 31"):
        layout.unpack(bytes(31))
    with pytest.raises(IndexError, match="x must be from 0 to 1, not 2"):
        layout.address(0, 0, 0, 2)
