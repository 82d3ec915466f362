from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import _native
from flyweight.coding import entropy
from flyweight.coding.positions import bounded_size
from flyweight.coding.rans import decode_rans, encode_rans
from flyweight.errors import FormatError

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from fly_reader import rans, rans_table

CHUNK = 1 << 21
TWINS = sorted({0, _native.best_simd()})


def decode_by(simd, fast, table, payload, count, alphabet):
    """Decode by one of the twins, with a slot table or (for devices) by search."""
    out = np.empty(count, dtype=np.uint8 if alphabet <= 256 else np.uint16)
    chunks = 2 * -(-count // (2 * CHUNK)) if count > CHUNK else min(count, 1)
    _native.rans_decode(table, payload, count, alphabet, out, 0, chunks, simd, fast)
    return out


def assert_roundtrip(symbols, alphabet):
    """Encode on one and all threads, decode by all twins, compare; return table and payload."""
    flat = np.ravel(symbols).astype(np.uint8 if alphabet <= 256 else np.uint16)
    table, payload = encode_rans(symbols, alphabet)
    assert encode_rans(flat, alphabet, threads=1) == (table, payload)
    decoded = decode_rans(table, payload, flat.size, alphabet)
    assert decoded.dtype == flat.dtype
    assert np.array_equal(decoded, flat)
    for simd, fast in product(TWINS, (False, True)):
        assert np.array_equal(decode_by(simd, fast, table, payload, flat.size, alphabet), flat)
        if payload and flat.size <= CHUNK:
            space, begin = _native.rans_encode(table, flat, alphabet, 0, simd)
            assert space[begin:] == payload
    return table, payload


def laplacian(count, levels=32, seed=0):
    """Symbols of weights that follow a Laplacian, in evenly spaced levels."""
    draws = np.random.default_rng(seed).laplace(size=count)
    return np.clip(np.round(draws * levels / 12 + levels / 2), 0, levels - 1).astype(np.uint16)


def sparse(count, zeros=0.9, seed=0):
    generator = np.random.default_rng(seed)
    levels = np.minimum(generator.geometric(0.25, count), 15)
    return np.where(generator.random(count) < zeros, 0, levels).astype(np.uint16)


def test_bytes_done_by_hand():
    # one lane, 9 bits, precision 0, order 0, all used; the first guess is right, twice
    # 256 of 512 slots each: 1 takes the state from 0 to 256, 0 takes it to 512
    table, payload = encode_rans([0, 1], 2)
    assert table == bytes([0b0_000_000_0, 0b00_1_1_1_000])
    assert payload == bytes([0, 2])


@pytest.mark.parametrize(
    ("symbols", "alphabet"),
    [
        ([0, 0, 0, 1, 0, 2], 3),
        ([5, 900, 5, 5, 17], 1000),
        (list(range(0, 64, 2)) * 3, 64),
        (laplacian(300), 32),
        (laplacian(9000, 256), 256),
        (laplacian(70_000), 32),
        (sparse(20_000), 16),
    ],
)
def test_an_independent_reader_agrees(symbols, alphabet):
    stored = assert_roundtrip(symbols, alphabet)
    assert rans(*stored, len(symbols), alphabet) == list(symbols)


@pytest.mark.parametrize("counts", [[300, 200, 12], [500, 11, 1], [40, 40, 1, 7], [9, 5, 5, 3, 1]])
def test_frequencies_make_the_shortest_code(counts):
    # so many symbols that the table is exact: then nothing is lost to rounded weights
    table, used = _native.rans_table(np.array(counts, dtype=np.uint64) << np.uint64(20))
    found = np.array(rans_table(table, len(counts))[2])
    assert used == len(counts)
    cost = -(np.array(counts) @ np.log2(found))
    for up, down in product(range(len(counts)), repeat=2):
        other = found.copy()
        other[up] += 1
        other[down] -= 1
        if other.min() > 0:
            assert cost <= -(np.array(counts) @ np.log2(other)) * (1 - 1e-12)


@pytest.mark.parametrize(
    "counts", [[1, 10**12], [1] * 511 + [10**9], [3, 2], list(range(1, 400)), [0, 7, 0, 0, 10**6]]
)
def test_frequencies_sum_to_a_power_of_two(counts):
    table, used = _native.rans_table(np.array(counts, dtype=np.uint64))
    _, symbols, found = rans_table(table, len(counts))
    assert symbols == np.flatnonzero(counts).tolist()
    assert used == len(symbols)
    assert sum(found) in {1 << bits for bits in (9, 12, 14, 16)}
    assert 1 <= min(found) <= max(found) <= sum(found) * 511 // 512


def test_no_symbols_cost_nothing():
    assert assert_roundtrip([], 7) == (b"", b"")
    assert assert_roundtrip([], 0) == (b"", b"")


@pytest.mark.parametrize("symbol", [0, 1, 255, 256, 65535])
def test_a_lone_symbol_has_no_payload(symbol):
    table, payload = assert_roundtrip([symbol] * 1000, symbol + 1)
    assert payload == b""
    assert table == symbol.to_bytes(2, "little").rstrip(b"\0")


@pytest.mark.parametrize("count", [2, 3, 127, 128, 129, 4095, 4096, 4097, 131_071, 131_073])
def test_lengths(count):
    assert_roundtrip([0, 1] + [0] * (count - 2), 2)
    assert_roundtrip(laplacian(count), 32)


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("lanes", [2, 4, 8, 16, 32, 128])
def test_lengths_around_a_whole_step(lanes, shift):
    count = lanes * 1024 * 8 // 4 + shift  # nearly four bits a symbol, more than 1 KiB a lane
    for alphabet in (17, 300):
        table, _ = assert_roundtrip(np.random.default_rng(0).integers(0, 17, count), alphabet)
        assert rans_table(table, alphabet)[0] == lanes


@pytest.mark.parametrize("count", [CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_lengths_around_a_chunk(count):
    symbols = laplacian(count)
    table, payload = assert_roundtrip(symbols, 32)
    for threads in (1, 3):
        assert encode_rans(symbols, 32, threads=threads) == (table, payload)
        assert np.array_equal(decode_rans(table, payload, count, 32, threads=threads), symbols)


def test_wide_alphabets():
    assert len(assert_roundtrip(np.arange(65536)[::-1], 65536)[1]) <= 2 * 65536 + 512
    assert_roundtrip([0, 65535, 65535], 65536)
    assert_roundtrip(np.concatenate([np.arange(40_000), np.zeros(100_000, dtype=int)]), 65536)
    table, _ = assert_roundtrip(sparse(300_000, 0.9999), 256)
    assert sum(rans_table(table, 256)[2]) == 1 << 14  # eight-byte slots of byte symbols


def test_shape_stride_and_type_do_not_matter():
    symbols = np.arange(24).reshape(2, 3, 4) % 5
    turned = symbols.transpose(2, 0, 1)
    assert encode_rans(symbols, 5) == encode_rans(symbols.ravel().astype(np.uint8), 5)
    assert encode_rans(turned, 5) == encode_rans(turned.astype(">u2"), 5)
    assert encode_rans(turned, 5) == encode_rans(turned.astype(np.uint16), 5)


@pytest.mark.parametrize(
    "symbols", [[-1, 0], [0, 7], [0.5], [[1, 9]], np.uint8([1, 7]), np.uint16([1, 7])]
)
def test_symbols_outside_the_alphabet_are_refused(symbols):
    with pytest.raises(ValueError, match="symbols must"):
        encode_rans(symbols, 7)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.integers(0, 3000), st.floats(0, 6), st.integers(0, 2**32))
def test_any_alphabet_skew_and_length_comes_back(alphabet, count, skew, seed):
    generator = np.random.default_rng(seed)
    shares = np.arange(1, alphabet + 1) ** -skew
    symbols = generator.choice(alphabet, count, p=shares / shares.sum())
    assert_roundtrip(generator.permutation(alphabet)[symbols], alphabet)


def test_size_is_close_to_the_entropy():
    for symbols, alphabet, excess in ((laplacian(2**20), 32, 0.001), (sparse(2**20), 16, 0.005)):
        table, payload = encode_rans(symbols, alphabet)
        least = entropy(np.bincount(symbols)) / 8
        assert least < len(payload) < (1 + excess) * least
        assert len(table) < 40
    for count, levels in ((20, 4), (100, 16), (300, 32), (1000, 32)):  # nor does a table drown it
        symbols = laplacian(count, levels)
        table, payload = encode_rans(symbols, levels)
        assert len(payload) <= 1.03 * entropy(np.bincount(symbols)) / 8 + 3
        assert len(table) <= 3 + 0.4 * levels


def test_a_vast_array_cannot_come_from_few_bytes():
    symbols = np.zeros(2**20 + 2**18, dtype=np.uint8)
    symbols[-1] = 1
    table, payload = encode_rans(symbols, 2)
    assert np.array_equal(decode_rans(table, payload, symbols.size, 2), symbols)
    assert 8 * len(payload) > symbols.size / 512  # and so within bounded_size, however long
    for count in (bounded_size(len(payload)) + 1, 2**40, 2**63, -1, 0):
        with pytest.raises(FormatError, match="cannot fit"):
            decode_rans(table, payload, count, 2)
    with pytest.raises(FormatError, match="so few bytes"):  # by the core itself
        _native.rans_decode(table, payload, 2**40, 2, bytearray(9), 0, 1)
    with pytest.raises(FormatError, match="out of range"):  # an output that is too small
        _native.rans_decode(table, payload, symbols.size, 2, bytearray(symbols.size - 1), 0, 1)


@pytest.mark.parametrize(("count", "alphabet"), [(1, 40), (60, 40), (3000, 40), (66_000, 300)])
def test_damage_is_refused_or_gives_other_symbols(count, alphabet):
    table, payload = encode_rans(np.append(laplacian(count), 39), alphabet)
    generator = np.random.default_rng(count)
    refused = 0
    for _ in range(300):
        parts = [bytearray(table), bytearray(payload)]
        part = parts[generator.integers(2)]
        match generator.integers(4):
            case 0:
                del part[generator.integers(len(part)) :]
            case 1:
                part[generator.integers(len(part))] ^= 1 << generator.integers(8)
            case 2:
                part += generator.bytes(generator.integers(1, 5))
            case 3:
                part[:] = generator.bytes(len(part))
        stored = (bytes(parts[0]), bytes(parts[1]), count + int(generator.integers(3)), alphabet)
        found = []
        for simd, fast in product(TWINS, (False, True)):
            try:
                found.append(decode_by(simd, fast, *stored).tolist())
            except FormatError as error:
                found.append(str(error))
        assert all(one == found[0] for one in found)
        refused += isinstance(found[0], str)
        assert isinstance(found[0], str) or max(found[0]) < alphabet
    assert refused > 150


def packed(bits):
    size = -(-len(bits) // 8)
    return int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


@pytest.mark.parametrize(
    ("table", "payload", "alphabet", "match"),
    [
        ("1000" + "000" * 3 + "111", b"\0\2", 2, "one lane"),
        ("0000000000" + "0100", b"\0\2", 2, "cannot hold so few"),
        ("0000000000" + "1" + "1" * 600, b"\0\2", 600, "cannot hold so few"),
        ("0000111000" + "1" + "0000000001000000000" + "1", b"\0\2", 2, "out of range"),
        ("0000111000" + "1" + "00000000111111110" + "1", b"\0\2", 2, "weight of zero"),
        ("0000000000" + "00" + "1" + "0", b"\0\2", 2, "cut short"),
        ("0000000000" + "1" + "1" + "0" * 20 + "1" * 30, b"\0\2", 2, "too large"),
        ("0000000000" + "00" + "1" + "00100", b"\0\2", 2, "beyond its alphabet"),
        ("0000000000" + "111" + "001", b"\0\2", 2, "does not end where"),
        ("0000000000" + "111" + "000" + "0" * 8, b"\0\2", 2, "does not end where"),
        ("0000000000" + "111", b"\0\0", 2, "padded with zeros"),
        ("0000000000" + "111", b"\1\0\0\0\0", 2, "padded with zeros"),
        ("0000000000" + "111", b"\0\2\1", 2, "do not end where"),
        ("0000000000" + "111", b"\0\2\1\1\1", 2, "do not end where"),
        ("1001" + "000" * 3 + "111", b"\0\0\0\1", 2, "cannot hold its states"),
        ("1001" + "000" * 3 + "111", b"\0\0\0\1\0\0\0\1\0", 2, "cannot hold its states"),
        ("1001" + "000" * 3 + "111", b"\0\0\0\1\0\0\0\0", 2, "below 65536"),
        ("", b"\1", 0, "alphabet"),
        ("", b"\1", 65537, "alphabet"),
        ("0" * 8 * ((1 << 19) + 1), b"\1", 2, "at most"),
    ],
)
def test_defects_are_named(table, payload, alphabet, match):
    with pytest.raises(FormatError, match=match):
        decode_rans(packed(table), payload, 2, alphabet)


@pytest.mark.parametrize(
    ("table", "count", "alphabet"),
    [
        (b"\0", 3, 5),
        (b"\5", 3, 5),
        (b"\1\0", 3, 5),
        (b"\1\1\1", 3, 65536),
        (b"\1", 0, 5),
        (b"", 1, 0),
    ],
)
def test_a_repeated_symbol_has_one_form(table, count, alphabet):
    with pytest.raises(FormatError, match="rANS stream"):
        decode_rans(table, b"", count, alphabet)


def test_chunks_are_checked():
    table, _ = encode_rans([0, 1], 2)
    with pytest.raises(FormatError, match="only one lane"):
        decode_rans(table, bytes(2000), CHUNK + 1, 2)
    symbols = laplacian(CHUNK + 1)
    table, payload = encode_rans(symbols, 32)
    for damaged in (b"\xff\xff\xff\x7f" + payload, b"\x80\0" + payload, b"\xff" * 2000):
        with pytest.raises(FormatError):
            decode_rans(table, damaged, symbols.size, 32)
