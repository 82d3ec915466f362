from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import _native
from flyweight.coding import canonical_codewords, code_lengths, entropy
from flyweight.coding.huffman import decode_huffman, encode_huffman, pack_lengths, unpack_lengths
from flyweight.errors import FormatError

CHUNK = 1 << 20
MEMORY = (-1, 0, 300, 5000, 70_000)  # of the decoder beyond the least; -1: what is fastest


def unlimited_cost(counts):
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


def skewed(count, alphabet, seed=0, rate=0.3):
    drawn = np.random.default_rng(seed).geometric(rate, size=count) - 1
    return np.minimum(drawn, alphabet - 1)


def decode_natively(table, payload, count, alphabet, simd, memory):
    """Decode by one twin with a workspace of so many bytes; None where that is refused."""
    symbols = np.empty(count, dtype=np.uint8 if alphabet <= 256 else np.uint16)
    chunks = -(-count // CHUNK)
    try:
        _native.huffman_decode(table, payload, alphabet, 0, chunks, symbols, simd, memory)
    except FormatError:
        return None
    return symbols


def assert_roundtrip(symbols, alphabet):
    """Encode on one and two threads, decode by all twins and workspaces, compare; return bytes."""
    symbols = np.asarray(symbols)
    results = {encode_huffman(symbols, alphabet, threads=threads) for threads in (1, 2)}
    assert len(results) == 1
    table, payload = results.pop()
    for threads in (1, 2):
        decoded = decode_huffman(table, payload, symbols.size, alphabet, threads=threads)
        assert decoded.dtype == (np.uint8 if alphabet <= 256 else np.uint16)
        assert np.array_equal(decoded, symbols.ravel())
    for simd in (0, -1) if symbols.size else ():
        for memory in MEMORY:
            decoded = decode_natively(table, payload, symbols.size, alphabet, simd, memory)
            assert np.array_equal(decoded, symbols.ravel())
    return table, payload


def reference_stream(symbols, lengths):
    """A stream made of the bits as text, first bit first: an independent implementation."""
    words = canonical_codewords(lengths)
    bits = "".join(f"{words[s]:0{lengths[s]}b}" for s in symbols)
    return int(bits[::-1] or "0", 2).to_bytes((len(bits) + 7) // 8, "little")


def test_code_lengths_and_codewords_by_hand():
    lengths = code_lengths([45, 13, 12, 16, 9, 5])
    assert lengths.tolist() == [1, 3, 3, 3, 4, 4]
    assert canonical_codewords(lengths).tolist() == [0b0, 0b100, 0b101, 0b110, 0b1110, 0b1111]


@given(st.lists(st.integers(0, 50), max_size=70))
def test_code_lengths_cost_what_an_unlimited_code_does(counts):
    lengths = code_lengths(counts, 32).astype(int)
    used = sum(count > 0 for count in counts)
    assert ((lengths > 0) == (np.array(counts) > 0)).all()
    if used > 1:
        assert int(np.array(counts) @ lengths) == unlimited_cost(counts)
        assert sum(2.0**-length for length in lengths if length) == 1.0


@pytest.mark.parametrize("limit", [3, 4, 5])
@pytest.mark.parametrize(
    "counts", [[1, 1, 2, 3, 5, 8, 13, 21], [1000, 1, 1, 1, 1, 1], [9, 8, 7, 1, 1, 0, 1]]
)
def test_code_lengths_are_the_best_within_a_limit(counts, limit):
    lengths = code_lengths(counts, limit)
    assert lengths.max() <= limit
    assert int(np.array(counts) @ lengths) == limited_cost(counts, limit)


def test_code_lengths_of_fibonacci_counts_stay_within_the_limit():
    lengths = code_lengths(fibonacci(40))
    assert lengths.max() == 15
    assert np.sum(2.0 ** -lengths.astype(float)) == 1.0


@pytest.mark.parametrize("counts", [[], [0, 0], [0, 3, 0]])
def test_code_lengths_of_fewer_than_two_symbols(counts):
    assert code_lengths(counts).tolist() == [int(count > 0) for count in counts]


@pytest.mark.parametrize("counts", [[[1, 2]], [1, -1], [0] * 65537, [1 << 56, 1]])
def test_code_lengths_refuses_what_are_no_counts(counts):
    with pytest.raises(ValueError, match="counts"):
        code_lengths(counts)


def test_encode_huffman_by_hand():
    # lengths 1, 2, 2; codewords 0, 10, 11; bits 0 0 0 10 0 11, the first one lowest
    # table: the guess is 2 bits: one less, one more, the same
    assert assert_roundtrip([0, 0, 0, 1, 0, 2], 3) == (bytes([0b10110000]), bytes([0b11001000]))


@pytest.mark.parametrize("alphabet", [40, 300])
@pytest.mark.parametrize("count", [4095, 4096, 4097, 4099, 40_000])
def test_encode_huffman_writes_the_streams_of_the_specification(count, alphabet):
    symbols = skewed(count, alphabet, rate=0.05)
    table, payload = assert_roundtrip(symbols, alphabet)
    lengths = unpack_lengths(table, alphabet)
    run = -(-count // 4) if count >= 4096 else count
    streams = [
        reference_stream(symbols[first : first + run], lengths) for first in range(0, count, run)
    ]
    head = b"".join(bytes([len(stream) & 0x7F | 0x80, len(stream) >> 7]) for stream in streams[:-1])
    assert payload == head + b"".join(streams)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_encode_huffman_keeps_any_symbols(data):
    alphabet = data.draw(st.sampled_from([1, 2, 3, 17, 64, 65, 256, 257, 700, 5000]))
    count = data.draw(st.integers(0, 6000))
    rate = data.draw(st.sampled_from([0.9, 0.5, 0.1, 0.02, 0.001]))
    assert_roundtrip(skewed(count, alphabet, data.draw(st.integers(0, 99)), rate), alphabet)


@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK + 1, CHUNK + 4095, 2 * CHUNK + 5000])
@pytest.mark.parametrize("alphabet", [32, 300])
def test_encode_huffman_cuts_chunks(count, alphabet):
    assert_roundtrip(skewed(count, alphabet).astype(np.uint8), alphabet)


def test_encode_huffman_keeps_a_stream_that_is_harder_than_the_others():
    symbols = np.zeros(40_000, dtype=np.uint8)
    symbols[10_000:20_000] = np.random.default_rng(0).integers(0, 256, size=10_000)
    assert_roundtrip(symbols, 256)


@pytest.mark.parametrize(
    ("used", "longest"), [(200, 12), (1024, 12), (1025, 13), (5000, 15), (40_000, 16)]
)
def test_encode_huffman_limits_codewords(used, longest):
    counts = np.append(np.full(used - 6, 1), used << np.arange(6))
    table, _ = assert_roundtrip(np.repeat(np.arange(used), counts), used)
    assert unpack_lengths(table, used).max() == longest


@pytest.mark.parametrize("alphabet", [0, 7])
def test_encode_huffman_of_no_symbols_is_empty(alphabet):
    assert assert_roundtrip([], alphabet) == (b"", b"")


@pytest.mark.parametrize(("symbol", "alphabet"), [(0, 1), (1, 2), (9, 300), (65535, 65536)])
def test_encode_huffman_of_a_lone_symbol_has_no_payload(symbol, alphabet):
    table, payload = assert_roundtrip([symbol] * 5000, alphabet)
    assert payload == b""
    assert len(table) <= 6


def test_encode_huffman_takes_the_widest_alphabet():
    assert len(assert_roundtrip(np.arange(65536)[::-1], 65536)[1]) >= 2 * 65536
    assert_roundtrip([0, 65535, 65535], 65536)


def test_encode_huffman_ignores_shape_stride_and_type():
    symbols = (np.arange(6000) % 7).reshape(20, 30, 10)
    whole = encode_huffman(symbols, 7)
    turned = symbols.transpose(2, 0, 1)
    assert encode_huffman(turned, 7) == encode_huffman(turned.copy(), 7)
    for dtype in (np.uint8, np.int8, np.uint16, np.uint64, ">u2"):
        assert encode_huffman(symbols.astype(dtype), 7) == whole


@pytest.mark.parametrize(
    ("symbols", "alphabet"), [([-1], 3), ([3], 3), ([0.5], 3), ([0], 0), ([0], 65537), ([True], 2)]
)
def test_encode_huffman_refuses_what_is_outside_the_alphabet(symbols, alphabet):
    with pytest.raises(ValueError, match=r"symbols|alphabet"):
        encode_huffman(symbols, alphabet)


@pytest.mark.parametrize(("alphabet", "dtype"), [(9, np.uint8), (100, np.uint8), (999, np.uint16)])
@pytest.mark.parametrize("symbol", [0, 1, 60, 120, 150])
def test_encode_huffman_checks_each_symbol_of_its_own_type(alphabet, dtype, symbol):
    symbols = np.zeros(100_003, dtype=dtype)
    symbols[70_000] = alphabet + symbol
    with pytest.raises(ValueError, match=f"0..{alphabet - 1}, not 0..{alphabet + symbol}"):
        encode_huffman(symbols, alphabet)


def test_native_functions_refuse_buffers_that_do_not_match():
    symbols, lengths = np.zeros(5000, np.uint8), bytes([1, 1])
    counts, sizes = np.zeros((4, 2), np.uint32), np.full(4, 1 << 60, np.uint64)
    for call in (
        lambda: _native.count_symbols(symbols, 2, 0, 0, 1, counts[:3]),
        lambda: _native.count_symbols(symbols, 2, 0, 1, 9, counts),
        lambda: _native.huffman_encode(symbols, lengths, sizes, 0, 0, 1, bytes(100)),
        lambda: _native.huffman_encode(
            symbols, lengths, np.uint64([1, 1, 1, 0]), 0, 0, 1, bytes(6)
        ),
        lambda: _native.huffman_encode(symbols, bytes([1, 1, 1]), sizes, 0, 0, 1, bytes(100)),
        lambda: _native.huffman_pack(bytes([40])),
        lambda: _native.huffman_sizes(counts, bytes([1]), sizes),
    ):
        with pytest.raises(ValueError, match=r"match|changed"):
            call()


def test_pack_lengths_takes_few_bytes():
    near_gauss = [2, 9, 30, 80, 150, 190, 190, 150, 80, 30, 9, 2]
    assert len(pack_lengths(code_lengths(near_gauss))) <= 6
    geometric = np.maximum(1, 2000 * 0.8 ** np.arange(100)).astype(int)
    assert len(pack_lengths(code_lengths(geometric))) <= 30


@given(st.lists(st.sampled_from([0, 0, 1, 5, 900]), min_size=1, max_size=300), st.integers(1, 16))
def test_unpack_lengths_gives_back_what_was_packed(counts, limit):
    lengths = code_lengths(counts, limit)
    if lengths.any():
        assert np.array_equal(unpack_lengths(pack_lengths(lengths), len(counts)), lengths)


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
        ("0" * 1000, 4, "too long"),
        ("0", 1, "one symbol"),
        ("", 0, "alphabet"),
    ],
)
def test_unpack_lengths_refuses_damage(bits, alphabet, message):
    size = (len(bits) + 7) // 8
    table = int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")
    with pytest.raises(FormatError, match=message):
        unpack_lengths(table, alphabet)


@pytest.mark.parametrize("count", [3000, 5000])
def test_decode_huffman_refuses_damage(count):
    symbols = skewed(count, 20)
    table, payload = encode_huffman(symbols, 20)
    lengths = unpack_lengths(table, 20)
    if sum(int(lengths[s]) for s in symbols[3 * -(-count // 4) :]) % 8 == 0:
        pytest.fail("the last stream has no padding to damage")
    for wrong in (payload[:-1], payload + b"\0", b"", payload[:-1] + bytes([payload[-1] | 0x80])):
        with pytest.raises(FormatError, match="Huffman"):
            decode_huffman(table, wrong, count, 20)
    for wrong in (count - 20, count + 20, 8 * len(payload) + 1, 1 << 60, -1):
        with pytest.raises(FormatError, match="Huffman"):
            decode_huffman(table, payload, wrong, 20)


@pytest.mark.parametrize("alphabet", [20, 600])
def test_decode_huffman_refuses_streams_longer_than_the_payload(alphabet):
    table, payload = encode_huffman(skewed(5000, alphabet, rate=0.05), alphabet)
    with pytest.raises(FormatError, match="longer"):
        decode_huffman(table, b"\xff\x7f" + payload[2:], 5000, alphabet)
    with pytest.raises(FormatError, match="63 bits"):
        decode_huffman(table, b"\xff" * 1200, 5000, alphabet)


@pytest.mark.parametrize(
    ("lengths", "payload", "count", "message"),
    [
        ([], b"\0", 0, "no symbols"),
        ([1, 0], b"\0", 5, "one repeated symbol"),
        ([1, 0], b"\0", 50, "one repeated symbol"),
        ([1], b"", -5, "cannot fit"),
        ([1, 1], b"", 5, "cannot fit"),
    ],
)
def test_decode_huffman_refuses_what_needs_no_bytes(lengths, payload, count, message):
    with pytest.raises(FormatError, match=message):
        decode_huffman(pack_lengths(lengths), payload, count, max(len(lengths), 1))


@pytest.mark.parametrize("alphabet", [5, 256, 300])
def test_decode_huffman_twins_refuse_the_same_damage(alphabet):
    rng = np.random.default_rng(alphabet)
    table, payload = encode_huffman(skewed(4200, alphabet, rate=0.1), alphabet)
    refused = 0
    for _ in range(400):
        parts = [bytearray(table), bytearray(payload)]
        part = parts[int(rng.integers(8) > 0)]
        for _ in range(int(rng.integers(1, 4))):
            part[rng.integers(len(part))] ^= 1 << int(rng.integers(8))
        if rng.integers(4) == 0:
            del part[rng.integers(len(part)) :]
        first, *others = (
            decode_natively(*map(bytes, parts), 4200, alphabet, simd, memory)
            for simd in (0, -1)
            for memory in MEMORY
        )
        refused += first is None
        for other in others:
            assert (other is None) if first is None else np.array_equal(other, first)
    assert refused > 100


def test_decode_huffman_raises_what_goes_wrong_on_a_thread():
    symbols = skewed(3 * CHUNK, 9)
    table, payload = encode_huffman(symbols, 9)
    broken = bytearray(payload)
    broken[1] ^= 1  # two streams of the first chunk change their lengths
    with pytest.raises(FormatError, match="Huffman"):
        decode_huffman(table, bytes(broken), symbols.size, 9, threads=2)


def test_entropy_by_hand():
    assert entropy([4, 2, 2]) == 12.0
    assert entropy([1] * 8) == 24.0
    assert entropy([7]) == entropy([]) == entropy([0, 0]) == 0.0
