from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import _native
from flyweight.coding import DTYPES, carrier
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.positions import bounded_size
from flyweight.coding.varint import ByteReader
from flyweight.errors import FormatError, ModelError

BLOCK, CHUNK = 1 << 16, 1 << 20
RAW, CONSTANT, HUFFMAN, AGAIN = range(4)
MEMORY = (-1, 0, 1000, 100_000)  # of the decoder beyond the least; -1: what is fastest


def decode_natively(payload, count, dtype, simd, memory):
    """Decode by one twin with a workspace of so many bytes; None where that is refused."""
    values = np.empty(count, dtype=carrier(dtype))
    chunks = -(-count * (2 if dtype.startswith("complex") else 1) // CHUNK)
    number, data = DTYPES.index(dtype), values.view(np.uint8)
    try:
        _native.planes_decode(payload, number, 0, chunks, data, simd, memory)
    except FormatError:
        return None
    return values.tobytes()


def assert_roundtrip(values, dtype):
    """Encode on one and two threads, decode by all twins and workspaces, compare; return bytes."""
    payloads = {encode_planes(values, dtype, threads=threads) for threads in (1, 2)}
    assert len(payloads) == 1
    payload = payloads.pop()
    assert len(payload) <= values.nbytes + 16 + values.nbytes // 10_000
    for threads in (1, 2):
        decoded = decode_planes(payload, values.size, dtype, threads=threads)
        assert decoded.dtype == carrier(dtype)
        assert decoded.tobytes() == values.tobytes()
        decoded[:1] = 0  # a new array, that can be written to
    for simd in (0, -1):
        for memory in MEMORY:
            assert decode_natively(payload, values.size, dtype, simd, memory) == values.tobytes()
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
def test_encode_planes_keeps_any_bits(dtype, count):
    assert_roundtrip(random_bits(count, dtype), dtype)


@pytest.mark.parametrize(
    "count", [BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK + 1, CHUNK + BLOCK]
)
@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "float32", "complex64"])
def test_encode_planes_cuts_blocks_and_chunks(dtype, count):
    values = random_bits(count, dtype)
    low = values.view(np.uint8).reshape(count, -1)
    low[:, -1] &= 1 if dtype == "bool" else 5
    low[: count // 2, -1] = 1
    assert_roundtrip(values, dtype)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_encode_planes_keeps_any_mixture(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    count = data.draw(st.integers(0, 6000))
    values = random_bits(count, dtype, data.draw(st.integers(0, 99)))
    raw = values.view(np.uint8).reshape(count, carrier(dtype).itemsize)
    for column in range(raw.shape[1]):
        raw[:, column] &= data.draw(st.sampled_from([0, 1, 3, 255]))
    assert_roundtrip(values, dtype)


def test_encode_planes_keeps_nan_payloads_and_signs_of_zero():
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0, 0x7F800000], dtype="<u4")
    assert_roundtrip(bits.view("<f4"), "float32")
    assert_roundtrip(np.resize(bits, 5000).view("<f4"), "float32")
    assert_roundtrip(np.array([0x7FF0000000000001, 1 << 63], dtype="<u8").view("<f8"), "float64")


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.84), ("bfloat16", 0.67)])
def test_encode_planes_shortens_weights(dtype, share):
    values = weights(200_000, dtype)
    assert len(assert_roundtrip(values, dtype)) < share * values.nbytes


def test_encode_planes_shortens_small_integers():
    values = np.random.default_rng(0).integers(0, 7, size=50_000)
    assert len(assert_roundtrip(values, "int64")) < 8 * 50_000 * 0.06
    assert len(assert_roundtrip(values.astype(np.int32), "int32")) < 4 * 50_000 * 0.12


def test_encode_planes_takes_a_bit_for_a_boolean():
    values = np.random.default_rng(0).random(80_000) < 0.5
    assert len(assert_roundtrip(values, "bool")) == 80_000 // 8 + 2
    assert len(assert_roundtrip(np.ones(80_000, dtype=bool), "bool")) == 4


def test_encode_planes_by_hand():
    # 1.0 is 3f800000; rotated left 7f000000; planes, lowest first: 00, 00, 00, 7f
    assert assert_roundtrip(np.float32([1.0, 1.0]), "float32").hex() == "550000007f"
    # 1.0 and -1.0 differ in the sign, which is now the lowest bit: 7f000000, 7f000001
    assert assert_roundtrip(np.float32([1.0, -1.0]), "float32").hex() == "54" + "0001" + "00007f"
    assert assert_roundtrip(np.uint16([0x0102, 0x0103]), "uint16").hex() == "04" + "0203" + "01"
    assert assert_roundtrip(np.array([True, False, True]), "bool").hex() == "03" + "05"


def exponent_forms(values):
    """The form of plane 3 in each block of a float32 payload, read by the specification."""
    reader = ByteReader(encode_planes(values, "float32"), "")
    forms = []
    for _ in range(values.size // BLOCK):
        bits = reader.take(1)[0]
        for plane in range(4):
            form = bits >> 2 * plane & 3
            table = reader.varint() if form == HUFFMAN else 0
            rest = reader.varint() if form in (HUFFMAN, AGAIN) else {RAW: BLOCK, CONSTANT: 1}[form]
            reader.take(table + rest)
        forms.append(form)
    return forms


def test_encode_planes_uses_a_table_again_unless_weights_change():
    even = weights(17 * BLOCK)
    assert exponent_forms(even) == [HUFFMAN, *15 * [AGAIN], HUFFMAN]
    uneven = even[: 6 * BLOCK].copy()
    uneven[2 * BLOCK : 4 * BLOCK] *= np.ldexp(np.float32(1), np.arange(2 * BLOCK) % 30 - 60)
    forms = exponent_forms(uneven)
    assert forms[2] == forms[4] == HUFFMAN
    assert_roundtrip(uneven, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64"])
def test_encode_planes_writes_nothing_shorter_than_a_reader_allows(dtype):
    values = np.zeros(1_300_000, dtype=carrier(dtype))
    assert values.size <= bounded_size(len(assert_roundtrip(values, dtype)))
    assert len(encode_planes(values[:1_000_000], dtype)) < 300


def test_encode_planes_refuses_wrong_values():
    with pytest.raises(ModelError, match="must come as"):
        encode_planes(np.float64([1.0]), "float32")
    with pytest.raises(ModelError, match="known are"):
        encode_planes(np.float64([1.0]), "float33")
    with pytest.raises(ModelError, match="neither 0 nor 1"):
        encode_planes(np.uint8([0, 2]).view(np.bool_), "bool")


def test_native_functions_refuse_plans_that_do_not_match():
    values = weights(BLOCK).view(np.uint8)
    number = DTYPES.index("float32")
    plans = np.empty(4 * _native.planes_plan_bytes(), np.uint8)
    sizes = np.zeros(1, np.uint64)
    _native.planes_plan(values, number, False, 0, 1, plans, sizes)
    whole = int(sizes[0])
    for call in (
        lambda: _native.planes_plan(values, number, False, 0, 2, plans, sizes),
        lambda: _native.planes_plan(values, number, False, 0, 1, plans[:-8], sizes),
        lambda: _native.planes_plan(values[:-1], number, False, 0, 1, plans, sizes),
        lambda: _native.planes_encode(
            values[::-1].copy(), number, plans, sizes, 0, 1, bytes(whole)
        ),
        lambda: _native.planes_encode(values, number, plans, sizes, 0, 1, bytes(whole - 1)),
        lambda: _native.planes_encode(values, number, plans, sizes - 1, 0, 1, bytes(whole)),
        lambda: _native.planes_encode(values, 99, plans, sizes, 0, 1, bytes(whole)),
    ):
        with pytest.raises(ValueError, match=r"match|changed|chunks|dtype"):
            call()


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
def test_decode_planes_refuses_damage(payload, count, dtype, message):
    with pytest.raises(FormatError, match=message):
        decode_planes(bytes.fromhex(payload), count, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_decode_planes_twins_refuse_the_same_damage(dtype):
    rng = np.random.default_rng(0)
    values = random_bits(5000, dtype) if dtype == "bool" else weights(5000, dtype)
    payload = encode_planes(values, dtype)
    refused = 0
    for trial in range(300):
        broken = bytearray(payload)
        for _ in range(int(rng.integers(1, 4))):
            broken[rng.integers(len(broken)) if trial % 2 else rng.integers(16)] ^= 1 << int(
                rng.integers(8)
            )
        if rng.integers(4) == 0:
            del broken[rng.integers(len(broken)) :]
        outcomes = {
            decode_natively(bytes(broken), 5000, dtype, simd, memory)
            for simd in (0, -1)
            for memory in MEMORY
        }
        assert len(outcomes) == 1
        refused += outcomes == {None}
    assert refused > 60
