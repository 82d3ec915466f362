from __future__ import annotations

import numpy as np
import pytest

from flyweight.coding import (
    decode_positions,
    encode_huffman,
    encode_positions,
    entropy,
)
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError


def roundtrip(mask):
    table, payload = encode_positions(mask)
    decoded = decode_positions(table, payload, np.size(mask))
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, np.ravel(mask))
    return table, payload


def random_mask(size, density, seed=0):
    return np.random.default_rng(seed).random(size) < density


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_all_and_none_cost_at_most_one_byte(size):
    assert roundtrip(np.ones(size, dtype=bool)) == (b"", b"")
    table, payload = roundtrip(np.zeros(size, dtype=bool))
    assert len(table) <= 1
    assert payload == b""


@pytest.mark.parametrize("size", [1, 2, 9, 255, 256, 257, 5000])
def test_a_single_kept_or_pruned_weight_anywhere(size):
    for place in {0, size // 2, size - 1}:
        mask = np.zeros(size, dtype=bool)
        mask[place] = True
        roundtrip(mask)
        roundtrip(~mask)


def test_gaps_longer_than_the_alphabet_are_kept():
    mask = np.zeros(100_000, dtype=bool)
    mask[[0, 1, 2, 3, 5, 20_000, 20_001, 99_998]] = True
    table, payload = roundtrip(mask)
    assert len(table) + len(payload) < 40
    assert table[0] & 3 == 2


def test_a_table_written_by_hand():
    # alphabet 4 (choice 0): gaps 0, 1, 2 and the escape 3; the gaps are 1 and 3 + 2
    codes, payload = encode_huffman([1, 3, 2], 4)
    mask = decode_positions(bytes([2]) + varint(3) + codes, payload, 10)
    assert np.flatnonzero(mask).tolist() == [1, 7]
    mask = decode_positions(bytes([3]) + varint(3) + codes, payload, 10)
    assert np.flatnonzero(~mask).tolist() == [1, 7]


@pytest.mark.parametrize("density", [0.02, 0.1, 0.24, 0.4, 0.6, 0.9, 0.98])
def test_size_is_near_the_entropy_and_never_above_a_bitmap(density):
    mask = random_mask(36_864, density)
    table, payload = roundtrip(mask)
    stored = len(table) + len(payload)
    kept = int(mask.sum())
    bound = entropy([kept, mask.size - kept]) / 8
    assert bound < stored < 1.03 * bound + 16
    assert stored <= 1 + (mask.size + 7) // 8


def test_even_density_takes_the_bitmap():
    table, payload = roundtrip(random_mask(1001, 0.5))
    assert table == b"\x01"
    assert len(payload) == 126


def test_every_second_weight_costs_a_few_bytes():
    mask = np.arange(10_000) % 2 == 1
    table, payload = roundtrip(mask)
    assert len(table) + len(payload) < 8


def test_a_vast_nearly_empty_mask_falls_back_to_the_bitmap():
    mask = np.zeros((1 << 20) + 100_000, dtype=bool)
    mask[77] = True
    table, payload = roundtrip(mask)
    assert table == b"\x01"
    assert len(payload) == mask.size // 8


def test_shape_and_stride_do_not_matter():
    mask = random_mask((6, 5, 7), 0.2)
    assert encode_positions(mask) == encode_positions(mask.ravel())
    turned = mask.transpose(2, 0, 1)
    assert encode_positions(turned) == encode_positions(turned.copy())


def test_damaged_positions_are_refused():
    mask = random_mask(500, 0.2)
    table, payload = encode_positions(mask)
    for bad_table, bad_payload, size, message in [
        (b"\0", b"x", 500, "payload"),
        (b"", b"x", 500, "payload"),
        (b"\1", b"", 500, "bitmap"),
        (b"\1", b"\xff", 7, "padded"),
        (b"\1\0", b"\xff", 8, "unknown"),
        (bytes([0xFE]), b"", 500, "unknown"),
        (table[:1], payload, 500, "cut short"),
        (table, payload, 1 << 40, "too many"),
        (table, payload, 99, "gaps"),
        (table, payload, 400, "within"),
        (table[:1] + varint(0) + table[2:], payload, 500, "gaps"),
        (table, payload[:-1], 500, "symbols"),
    ]:
        with pytest.raises(FormatError, match=message):
            decode_positions(bad_table, bad_payload, size)


def test_an_escape_at_the_end_is_refused():
    codes, payload = encode_huffman([1, 2, 3], 4)
    with pytest.raises(FormatError, match="do not end"):
        decode_positions(bytes([2]) + varint(3) + codes, payload, 100)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63 - 1])
def test_varints_come_back(number):
    reader = ByteReader(varint(number) + b"x", "it")
    assert reader.varint() == number
    assert reader.rest() == b"x"


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\x80\0", b"\xff" * 9 + b"\1"])
def test_damaged_varints_are_refused(raw):
    with pytest.raises(FormatError, match=r"cut short|padded|63 bits"):
        ByteReader(raw, "it").varint()


@pytest.mark.parametrize("number", [-1, 2**63])
def test_varints_out_of_range_are_refused(number):
    with pytest.raises(ValueError, match="varint"):
        varint(number)
