from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.coding import DTYPES, carrier, planes
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.positions import bounded_size
from flyweight.errors import FormatError, ModelError

PATHS = [False, True] if find_spec("numba") else [False]


@pytest.fixture
def small_chunks(monkeypatch):
    """Blocks of 512 words, chunks of four blocks."""
    monkeypatch.setattr(planes, "_BLOCK", 512)
    monkeypatch.setattr(planes, "_CHUNK", 2048)


def roundtrip(values, dtype):
    """Encode on all paths and on one and two threads, decode on all, return the one payload."""
    payloads = {
        encode_planes(values, dtype, compiled=compiled, threads=threads)
        for compiled in PATHS
        for threads in (1, 2)
    }
    assert len(payloads) == 1
    payload = payloads.pop()
    assert len(payload) <= values.nbytes + 16 + values.nbytes // 10_000
    for compiled in PATHS:
        for threads in (1, 2):
            decoded = decode_planes(payload, values.size, dtype, compiled=compiled, threads=threads)
            assert decoded.dtype == carrier(dtype)
            assert decoded.tobytes() == values.tobytes()
            decoded[:1] = 0  # a new array, that can be written to
    return payload


def random_bits(count, dtype, seed=0):
    kind = carrier(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, count * kind.itemsize, dtype=np.uint8)
    return (raw & 1 if dtype == "bool" else raw).view(kind)


def weights(count, dtype="float32", seed=0):
    drawn = np.random.default_rng(seed).normal(scale=0.02, size=count).astype(np.float32)
    return (drawn.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else drawn


@pytest.mark.parametrize("count", [0, 1, 2, 5, 700, 9000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_bits_come_back(dtype, count):
    roundtrip(random_bits(count, dtype), dtype)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("count", [511, 512, 513, 2047, 2048, 2049, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_and_chunks(dtype, count):
    values = random_bits(count, dtype)
    low = values.view(np.uint8).reshape(count, -1)
    low[:, -1] &= 1 if dtype == "bool" else 5
    low[: count // 2, -1] = 1
    roundtrip(values, dtype)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_mixture_comes_back(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    count = data.draw(st.integers(0, 3000))
    values = random_bits(count, dtype, data.draw(st.integers(0, 99)))
    raw = values.view(np.uint8).reshape(count, carrier(dtype).itemsize)
    for column in range(raw.shape[1]):
        raw[:, column] &= data.draw(st.sampled_from([0, 1, 3, 255]))
    roundtrip(values, dtype)


def test_nan_payloads_and_signs_of_zero():
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0, 0x7F800000], dtype="<u4")
    roundtrip(bits.view("<f4"), "float32")
    roundtrip(np.resize(bits, 5000).view("<f4"), "float32")
    roundtrip(np.array([0x7FF0000000000001, 1 << 63], dtype="<u8").view("<f8"), "float64")


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.84), ("bfloat16", 0.67)])
def test_weights_become_shorter(dtype, share):
    values = weights(200_000, dtype)
    assert len(roundtrip(values, dtype)) < share * values.nbytes


def test_small_integers_become_shorter():
    values = np.random.default_rng(0).integers(0, 7, size=50_000)
    assert len(roundtrip(values, "int64")) < 8 * 50_000 * 0.06
    assert len(roundtrip(values.astype(np.int32), "int32")) < 4 * 50_000 * 0.12


def test_booleans_take_a_bit_each():
    values = np.random.default_rng(0).random(80_000) < 0.5
    assert len(roundtrip(values, "bool")) == 80_000 // 8 + 2
    assert len(roundtrip(np.ones(80_000, dtype=bool), "bool")) == 4


def test_bytes_done_by_hand():
    # 1.0 is 3f800000; rotated left 7f000000; planes, lowest first: 00, 00, 00, 7f
    assert roundtrip(np.float32([1.0, 1.0]), "float32").hex() == "550000007f"
    # 1.0 and -1.0 differ in the sign, which is now the lowest bit: 7f000000, 7f000001
    assert roundtrip(np.float32([1.0, -1.0]), "float32").hex() == "54" + "0001" + "00007f"
    assert roundtrip(np.uint16([0x0102, 0x0103]), "uint16").hex() == "04" + "0203" + "01"
    assert roundtrip(np.array([True, False, True]), "bool").hex() == "03" + "05"


def test_a_table_is_used_again_and_given_anew_where_weights_change():
    def tables(values):
        reader = planes.ByteReader(encode_planes(values, "float32"), "")
        blocks = range(0, values.size, planes._BLOCK)
        return [planes._read_block(reader, planes._BLOCK, 4, False)[3][0] for _ in blocks]

    even = weights(17 << 16)
    assert tables(even) == [planes._HUFFMAN, *15 * [planes._AGAIN], planes._HUFFMAN]
    uneven = even[: 6 << 16].copy()
    uneven[2 << 16 : 4 << 16] *= np.ldexp(np.float32(1), np.arange(2 << 16) % 30 - 60)
    forms = tables(uneven)
    assert forms[2] == forms[4] == planes._HUFFMAN
    roundtrip(uneven, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64"])
def test_what_is_shorter_than_a_reader_allows_is_not_written(dtype):
    values = np.zeros(1_300_000, dtype=carrier(dtype))
    payload = encode_planes(values, dtype)
    assert values.size <= bounded_size(len(payload))
    assert decode_planes(payload, values.size, dtype).tobytes() == values.tobytes()
    few = np.zeros(1_000_000, dtype=carrier(dtype))
    assert len(encode_planes(few, dtype)) < 300


def test_wrong_values_are_refused():
    with pytest.raises(ModelError, match="must come as"):
        encode_planes(np.float64([1.0]), "float32")
    with pytest.raises(ModelError, match="known are"):
        encode_planes(np.float64([1.0]), "float33")
    with pytest.raises(ModelError, match="neither 0 nor 1"):
        encode_planes(np.uint8([0, 2]).view(np.bool_), "bool")


@pytest.mark.parametrize(
    ("payload", "count", "dtype", "message"),
    [
        ("", 1, "float32", "cut short"),
        ("00", 0, "float32", "follow"),
        ("5500000000" + "00", 2, "float32", "follow"),
        ("55000000", 2, "float32", "cut short"),
        ("55000000", 1 << 40, "float32", "too many"),
        ("55", -1, "float32", "too many"),
        ("15" + "0000", 2, "uint16", "padded"),
        ("02" + "0002" + "0000", 9, "uint8", "cut short"),
        ("03" + "02" + "0000", 9, "uint8", "table before"),
        ("02" + "0202" + "f380" + "0000", 9, "uint8", "one repeated"),
        ("07" + "05" + "0000000000" + "00", 9, "uint16", "table before"),
        ("02" + "01" + "00" + "d0", 9, "uint8", "fit"),
        ("03" + "0d", 3, "bool", "padded"),
        ("01" + "02", 3, "bool", "neither"),
        ("00" + "010000", 3, "bool", "unknown"),
        ("02", 3, "bool", "unknown"),
    ],
)
def test_damaged_planes_are_refused(payload, count, dtype, message):
    with pytest.raises(FormatError, match=message):
        decode_planes(bytes.fromhex(payload), count, dtype)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_fuzz_by_flips_and_cuts(dtype):
    rng = np.random.default_rng(0)
    count = 1300
    values = random_bits(count, dtype) if dtype == "bool" else weights(count, dtype)
    payload = encode_planes(values, dtype)
    refused = 0
    for _ in range(700):
        broken = bytearray(payload)
        for _ in range(int(rng.integers(1, 4))):
            broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
        if rng.integers(4) == 0:
            del broken[rng.integers(len(broken)) :]
        outcomes = []
        for compiled in PATHS:
            try:
                decoded = decode_planes(bytes(broken), count, dtype, compiled=compiled)
                outcomes.append(decoded.tobytes())
            except FormatError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[-1]
        refused += outcomes[0] is None
    assert refused > 150
