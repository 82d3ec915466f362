from __future__ import annotations

import heapq

import numpy as np
import pytest

from flyweight.coding import (
    canonical_codewords,
    code_lengths,
    decode_symbols,
    encode_symbols,
    entropy,
    interleaved_kernels,
)
from flyweight.coding.huffman import pack_lengths, unpack_lengths
from flyweight.errors import FormatError


def huffman_cost(counts):
    """Total bits of an unlimited Huffman code: an independent implementation, with a heap."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        cost += pair
        heapq.heappush(heap, pair)
    return cost


def limited_cost(counts, limit):
    """Least total bits of any prefix code of at most ``limit`` bits, by search over lengths."""
    counts = sorted((count for count in counts if count), reverse=True)

    def search(index, room, shortest):
        if index == len(counts):
            return 0
        best = None
        for length in range(shortest, limit + 1):
            left = room - (1 << (limit - length))
            if left < len(counts) - index - 1:
                continue
            rest = search(index + 1, left, length)
            if rest is not None and (best is None or counts[index] * length + rest < best):
                best = counts[index] * length + rest
        return best

    return search(0, 1 << limit, 1)


def fibonacci(number):
    out = [1, 1]
    while len(out) < number:
        out.append(out[-1] + out[-2])
    return np.array(out)


def roundtrip(symbols, alphabet):
    table, payload = encode_symbols(symbols, alphabet)
    decoded = decode_symbols(table, payload, np.size(symbols), alphabet)
    assert decoded.dtype == np.uint16
    assert decoded.tolist() == np.ravel(symbols).tolist()
    return table, payload


def test_lengths_and_codewords_of_a_code_done_by_hand():
    lengths = code_lengths([45, 13, 12, 16, 9, 5])
    assert lengths.tolist() == [1, 3, 3, 3, 4, 4]
    assert canonical_codewords(lengths).tolist() == [0b0, 0b100, 0b101, 0b110, 0b1110, 0b1111]


def test_bytes_done_by_hand():
    # lengths 1, 2, 2; codewords 0, 10, 11; bits 0 0 0 10 0 11
    table, payload = encode_symbols([0, 0, 0, 1, 0, 2], 3)
    assert payload == bytes([0b00010011])
    # the guess is 2 bits: one less, one more, the same
    assert table == bytes([0b10110000])


@pytest.mark.parametrize(
    "counts",
    [[1, 1], [5, 2, 1, 0], [1, 1, 1, 1, 1], [100, 1, 1, 1], [0, 7, 0, 7, 3], list(range(40))],
)
def test_cost_equals_that_of_an_unlimited_huffman_code(counts):
    assert int(np.array(counts) @ code_lengths(counts)) == huffman_cost(counts)


@pytest.mark.parametrize("limit", [3, 4, 5])
@pytest.mark.parametrize(
    "counts", [[1, 1, 2, 3, 5, 8, 13, 21], [1000, 1, 1, 1, 1, 1], [9, 8, 7, 1, 1, 0, 1]]
)
def test_limited_code_is_the_best_there_is(counts, limit):
    lengths = code_lengths(counts, limit)
    assert lengths.max() <= limit
    assert int(np.array(counts) @ lengths) == limited_cost(counts, limit)


def test_fibonacci_counts_stay_within_fifteen_bits():
    counts = fibonacci(40)
    lengths = code_lengths(counts)
    assert lengths.max() == 15
    assert np.sum(2.0 ** -lengths.astype(float)) == 1.0


def test_fibonacci_symbols_come_back():
    roundtrip(np.repeat(np.arange(22), fibonacci(22)), 22)


@pytest.mark.parametrize("counts", [[], [0, 0], [0, 3, 0]])
def test_fewer_than_two_symbols(counts):
    assert code_lengths(counts).tolist() == [int(count > 0) for count in counts]


def test_no_symbols_cost_nothing():
    assert roundtrip([], 7) == (b"", b"")
    assert roundtrip([], 0) == (b"", b"")


@pytest.mark.parametrize(("symbol", "alphabet"), [(0, 1), (0, 2), (1, 2), (9, 10), (65535, 65536)])
def test_a_lone_symbol_has_no_payload(symbol, alphabet):
    table, payload = roundtrip([symbol] * 1000, alphabet)
    assert payload == b""
    assert len(table) <= 6


def test_the_widest_alphabet():
    symbols = np.arange(65536)[::-1]
    _, payload = roundtrip(symbols, 65536)
    assert len(payload) == 2 * 65536
    roundtrip([0, 65535, 65535], 65536)
    roundtrip(np.concatenate([np.arange(40_000), np.zeros(100_000, dtype=int)]), 65536)


def test_codewords_across_passes():
    symbols = np.minimum(np.arange(200_001) % 97, np.arange(200_001) % 31)
    roundtrip(symbols, 31)


def test_shape_and_stride_do_not_matter():
    symbols = np.arange(24).reshape(2, 3, 4) % 5
    assert encode_symbols(symbols, 5) == encode_symbols(symbols.ravel(), 5)
    turned = symbols.transpose(2, 0, 1)
    assert encode_symbols(turned, 5) == encode_symbols(turned.copy(), 5)


def test_a_small_table_takes_few_bytes():
    near_gauss = [2, 9, 30, 80, 150, 190, 190, 150, 80, 30, 9, 2]
    assert len(pack_lengths(code_lengths(near_gauss))) <= 6
    geometric = np.maximum(1, 2000 * 0.8 ** np.arange(100)).astype(int)
    assert len(pack_lengths(code_lengths(geometric))) <= 30


@pytest.mark.parametrize(
    ("symbols", "alphabet"), [([-1], 3), ([3], 3), ([0.5], 3), ([0], 0), ([0], 65537)]
)
def test_symbols_outside_the_alphabet_are_refused(symbols, alphabet):
    with pytest.raises(ValueError, match=r"symbols|alphabet"):
        encode_symbols(symbols, alphabet)


@pytest.mark.parametrize("counts", [[[1, 2]], [1, -1], [0] * 65537])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        code_lengths(counts)


@pytest.mark.parametrize(
    ("bits", "alphabet", "message"),
    [
        ("", 2, "cut short"),
        ("00000000" + "0" * 8, 2, "does not end"),
        ("0000000" + "1", 2, "does not end"),
        ("100" + "101", 4, "incomplete"),
        ("101" + "0" + "1000", 4, "does not end"),
        ("101" + "100" + "101", 4, "above 1"),
        ("1101" + "1101", 4, "cut short"),
        ("11100000000000000000000000000000", 4, "inside a number"),
        ("111000001" + "0000" * 2, 4, "inside a number|length"),
        ("110" + "00000000001000000000", 4, "incomplete"),
        ("1111" + "011", 4, "length"),
    ],
)
def test_a_damaged_table_is_refused(bits, alphabet, message):
    size = (len(bits) + 7) // 8
    table = int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")
    for kernels in (None, interleaved_kernels):
        with pytest.raises(FormatError, match=message):
            unpack_lengths(table, alphabet, kernels)


def test_the_compiled_loop_reads_the_same_tables_and_no_others():
    random = np.random.default_rng(0)
    whole = 0
    for _ in range(3000):
        alphabet = int(
            random.choice([2, 3, 9, 256, 5000, 65_536], p=[0.3, 0.2, 0.2, 0.2, 0.08, 0.02])
        )
        counts = random.integers(0, 50, alphabet) * (random.random(alphabet) < random.random())
        counts[:1] += not counts.any()
        table = bytearray(pack_lengths(code_lengths(counts)))
        damage = random.integers(4)
        if damage == 1 and table:
            table[random.integers(len(table))] ^= 1 << random.integers(8)
        elif damage == 2:
            table = table[: random.integers(len(table) + 1)]
        elif damage == 3:
            table += random.bytes(3)
        guess = min(15, (alphabet - 1).bit_length())
        bits = np.unpackbits(np.frombuffer(bytes(table) + bytes(10), np.uint8))
        lengths = np.zeros(alphabet, np.uint8)
        sound = interleaved_kernels.read_lengths(bits, 8 * len(table), guess, 16, lengths)
        whole += sound
        if sound:
            assert np.array_equal(unpack_lengths(bytes(table), alphabet), lengths)
        else:
            with pytest.raises(FormatError):
                unpack_lengths(bytes(table), alphabet)
    assert 600 < whole < 1500


def test_a_table_for_an_alphabet_of_one_is_refused():
    with pytest.raises(FormatError, match="one symbol"):
        unpack_lengths(b"\0", 1)
    with pytest.raises(FormatError, match="alphabet"):
        unpack_lengths(b"", 0)


def test_a_damaged_payload_is_refused():
    table, payload = encode_symbols([0, 1, 2, 2, 1, 0, 0], 3)
    for wrong in (payload[:-1], payload + b"\0", b"", payload[:-1] + bytes([payload[-1] | 1])):
        with pytest.raises(FormatError, match=r"symbols|padded"):
            decode_symbols(table, wrong, 7, 3)
    with pytest.raises(FormatError, match="cannot fit"):
        decode_symbols(table, payload, 10**15, 3)
    with pytest.raises(FormatError, match="not empty"):
        decode_symbols(table, payload, 0, 3)
    lone, _ = encode_symbols([2, 2], 3)
    with pytest.raises(FormatError, match="repeated symbol"):
        decode_symbols(lone, b"\0", 2, 3)


def test_entropy_by_hand():
    assert entropy([4, 2, 2]) == 12.0
    assert entropy([1] * 8) == 24.0
    assert entropy([7]) == entropy([]) == entropy([0, 0]) == 0.0
