"""`encode` and `decode`: any integers through any coder, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flyweight.coding import decode, encode
from flyweight.errors import FormatError, ModelError

NAMES = ("auto", "huffman", "rans", "context", "planes")
INTEGERS = ("bool", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")


def same(first, second):
    return (first.dtype, first.shape) == (second.dtype, second.shape) and np.array_equal(
        first, second
    )


@given(
    st.sampled_from(INTEGERS).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))
    ),
    st.sampled_from(["fast", "balanced", "smallest"]),
)
def test_any_integers_come_back(array, effort):
    assert same(decode(encode(array, effort=effort)), array)
    assert same(decode(encode(array, "planes")), array)


@pytest.mark.parametrize("coder", NAMES)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (40, 70), (4, 3, 3, 3)])
def test_every_coder_takes_every_dtype_and_shape(coder, dtype, shape):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, shape).astype(dtype)
    if dtype != "bool":
        array = (array * rng.integers(0, 100, shape).astype(dtype)).astype(dtype)
    if np.dtype(dtype).kind == "i":
        array = -array
    data = encode(array, coder)
    assert same(decode(data), array)
    if coder != "auto":
        assert len(encode(array)) <= len(data)


@pytest.mark.parametrize("coder", ["huffman", "rans"])
@pytest.mark.parametrize(("lowest", "highest"), [(-128, 127), (-5, 40), (30, 70), (250, 255)])
@pytest.mark.parametrize("count", [1, 30_000, 300_000])
def test_bytes_give_what_wider_integers_give(coder, lowest, highest, count):
    wide = np.random.default_rng(0).integers(lowest, highest + 1, count).astype("<i2")
    array = wide.astype("u1" if highest > 127 else "i1")
    data = encode(array, coder)
    assert same(decode(data), array)
    assert data[2:] == encode(wide, coder)[2:]  # behind coder and dtype


@pytest.mark.parametrize("coder", ["huffman", "rans"])
def test_symbols_may_be_16_bits_wide_and_lie_anywhere(coder):
    array = (np.arange(65_536) - 40_000).astype("<i4")
    assert same(decode(encode(array, coder)), array)
    with pytest.raises(ModelError, match="span 65537"):
        encode(np.append(array, 25_536).astype("<i4"), coder)
    for dtype in (">i2", ">u2"):  # of another byte order, where the values need both bytes
        array = np.arange(300).astype(dtype)
        assert np.array_equal(decode(encode(array, coder)), array)
    wide = np.int64([-(2**62), 2**62])
    assert same(decode(encode(wide)), wide)


def test_what_is_no_integer_is_refused():
    with pytest.raises(ModelError, match="float64"):
        encode(np.zeros(3))
    with pytest.raises(ModelError, match="'zip' is unknown"):
        encode(np.zeros(3, dtype=int), "zip")  # type: ignore[arg-type]


@pytest.mark.parametrize("coder", NAMES[1:])
def test_mutated_bytes_give_an_array_or_a_format_error(coder):
    rng = np.random.default_rng(0)
    array = (rng.integers(-5, 6, (30, 20)) * (rng.random((30, 20)) < 0.4)).astype("i2")
    data = encode(array, coder)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        kind = rng.integers(3)
        if kind == 0:
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        elif kind == 1:
            del damaged[rng.integers(len(data)) :]
        else:
            place = rng.integers(len(data))
            damaged[place:place] = rng.integers(0, 256, 3).astype("u1").tobytes()
        try:
            got = decode(bytes(damaged))
        except FormatError:
            refused += 1
        else:
            assert got.size <= (1 << 20) + 4096 * len(damaged)
    assert refused > 100
    with pytest.raises(FormatError):
        decode(b"")


def test_huge_counts_are_refused_before_anything_is_allocated():
    for coder in range(4):
        start = bytes([coder, 1, 2]) + b"\xff\xff\xff\xff\x0f" * 2
        with pytest.raises(FormatError):
            decode(start + bytes(20))
