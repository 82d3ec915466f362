from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.coding import canonical_codewords, interleaved
from flyweight.coding.huffman import pack_lengths, unpack_lengths
from flyweight.coding.interleaved import decode_interleaved, encode_interleaved
from flyweight.errors import FormatError

PATHS = [False, True] if find_spec("numba") else [False]
NUMBA = pytest.mark.skipif(len(PATHS) == 1, reason="there is no Numba")


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 symbols, four streams from 16."""
    monkeypatch.setattr(interleaved, "_CHUNK", 64)
    monkeypatch.setattr(interleaved, "_FOUR_FROM", 16)


def roundtrip(symbols, alphabet):
    """Encode on all paths and on one and two threads, decode on all, return the one result."""
    symbols = np.asarray(symbols)
    results = {
        encode_interleaved(symbols, alphabet, compiled=compiled, threads=threads)
        for compiled in PATHS
        for threads in (1, 2)
    }
    assert len(results) == 1
    (table, payload) = results.pop()
    for compiled in PATHS:
        for threads in (1, 2):
            decoded = decode_interleaved(
                table, payload, symbols.size, alphabet, compiled=compiled, threads=threads
            )
            assert decoded.dtype == np.uint16
            assert np.array_equal(decoded, symbols.ravel())
    return table, payload


def reference_bits(symbols, lengths):
    """The bits of a stream as text, first bit first: an independent implementation."""
    words = canonical_codewords(lengths)
    return "".join(f"{words[s]:0{lengths[s]}b}" for s in symbols)


def reference_stream(symbols, lengths):
    bits = reference_bits(symbols, lengths)
    size = (len(bits) + 7) // 8
    return int(bits[::-1] or "0", 2).to_bytes(size, "little")


def skewed(count, alphabet, seed=0, rate=0.3):
    drawn = np.random.default_rng(seed).geometric(rate, size=count) - 1
    return np.minimum(drawn, alphabet - 1)


def test_bytes_done_by_hand():
    # lengths 1, 2, 2; codewords 0, 10, 11; bits 0 0 0 10 0 11, the first one lowest
    table, payload = roundtrip([0, 0, 0, 1, 0, 2], 3)
    assert table == bytes([0b10110000])
    assert payload == bytes([0b11001000])


def test_four_streams_done_by_hand(monkeypatch):
    monkeypatch.setattr(interleaved, "_FOUR_FROM", 8)
    # lengths 1, 2, 2 again; runs 00, 01, 02, 10; three sizes, then the streams
    table, payload = roundtrip([0, 0, 0, 1, 0, 2, 1, 0], 3)
    assert table == bytes([0b10110000])
    assert payload == bytes([1, 1, 1, 0b00, 0b010, 0b110, 0b001])


@pytest.mark.parametrize("count", [4095, 4096, 4097, 4099])
def test_streams_are_those_of_an_independent_implementation(count):
    symbols = skewed(count, 40)
    table, payload = roundtrip(symbols, 40)
    lengths = unpack_lengths(table, 40)
    run = -(-count // 4) if count >= 4096 else count
    streams = [
        reference_stream(symbols[first : first + run], lengths) for first in range(0, count, run)
    ]
    head = b"".join(bytes([len(stream) & 0x7F | 0x80, len(stream) >> 7]) for stream in streams[:-1])
    assert payload == head + b"".join(streams)


@given(
    st.integers(0, 200).flatmap(
        lambda count: st.lists(st.integers(0, 9), min_size=count, max_size=count)
    ),
    st.integers(10, 300),
)
@settings(deadline=None)
def test_any_symbols_come_back(symbols, alphabet):
    roundtrip(symbols, alphabet)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_skew_and_alphabet_comes_back(data):
    alphabet = data.draw(st.sampled_from([2, 3, 17, 64, 65, 256, 257, 700, 5000]))
    count = data.draw(st.integers(0, 6000))
    rate = data.draw(st.sampled_from([0.9, 0.5, 0.1, 0.02, 0.001]))
    roundtrip(skewed(count, alphabet, data.draw(st.integers(0, 99)), rate), alphabet)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 63, 64, 65, 79, 80, 127, 128, 129, 1000])
@pytest.mark.parametrize("rate", [0.9, 0.2])
def test_chunk_boundaries(count, rate):
    roundtrip(skewed(count, 30, rate=rate), 30)


def test_more_than_one_true_chunk():
    roundtrip(skewed(2 * (1 << 20) + 5000, 32).astype(np.uint8), 32)


def test_a_stream_that_is_harder_than_the_others():
    symbols = np.zeros(40_000, dtype=np.uint8)
    symbols[10_000:20_000] = np.random.default_rng(0).integers(0, 256, size=10_000)
    roundtrip(symbols, 256)


@pytest.mark.parametrize(
    ("used", "longest"), [(2, 12), (200, 12), (1024, 12), (1025, 13), (5000, 15), (40_000, 16)]
)
def test_length_limit(used, longest):
    counts = np.concatenate([np.full(used - 2, 1), [10**6, 10**7]])
    assert interleaved.limited_lengths(counts).max() <= longest
    symbols = np.repeat(np.arange(used), np.minimum(counts, 30_000))
    roundtrip(symbols, used)


def test_no_symbols_cost_nothing():
    assert roundtrip([], 7) == (b"", b"")
    assert roundtrip([], 0) == (b"", b"")


@pytest.mark.parametrize(("symbol", "alphabet"), [(0, 1), (0, 2), (1, 2), (9, 300), (65535, 65536)])
def test_a_lone_symbol_has_no_payload(symbol, alphabet):
    assert roundtrip([symbol] * 5000, alphabet)[1] == b""


def test_shape_stride_and_type_do_not_matter():
    symbols = (np.arange(6000) % 7).reshape(20, 30, 10)
    whole = encode_interleaved(symbols, 7)
    turned = symbols.transpose(2, 0, 1)
    assert encode_interleaved(turned, 7) == encode_interleaved(turned.copy(), 7)
    for dtype in (np.uint8, np.int8, np.uint16, np.uint64):
        for compiled in PATHS:
            assert encode_interleaved(symbols.astype(dtype), 7, compiled=compiled) == whole


@pytest.mark.parametrize(
    ("symbols", "alphabet"), [([-1], 3), ([3], 3), ([0.5], 3), ([0], 0), ([0], 65537), ([True], 2)]
)
def test_symbols_outside_the_alphabet_are_refused(symbols, alphabet):
    with pytest.raises(ValueError, match=r"symbols|alphabet"):
        encode_interleaved(symbols, alphabet)


@pytest.mark.parametrize("compiled", PATHS)
@pytest.mark.parametrize("count", [3000, 5000])
def test_a_damaged_payload_is_refused(count, compiled):
    symbols = skewed(count, 20)
    table, payload = encode_interleaved(symbols, 20)
    lengths = unpack_lengths(table, 20)
    if sum(int(lengths[s]) for s in symbols[3 * -(-count // 4) :]) % 8 == 0:
        pytest.fail("the last stream has no padding to damage")
    wrongs = [payload[:-1], payload + b"\0", b"", payload[:-1] + bytes([payload[-1] | 0x80])]
    for wrong in wrongs:
        with pytest.raises(FormatError, match=r"Huffman"):
            decode_interleaved(table, wrong, count, 20, compiled=compiled)
    for wrong in (count - 20, count + 20, 8 * len(payload) + 1, 1 << 60, -1):
        with pytest.raises(FormatError, match=r"Huffman"):
            decode_interleaved(table, payload, wrong, 20, compiled=compiled)


def test_what_is_given_for_nothing_is_refused():
    with pytest.raises(FormatError, match="no symbols"):
        decode_interleaved(b"", b"\0", 0, 3)
    with pytest.raises(FormatError, match="one repeated symbol"):
        decode_interleaved(pack_lengths(np.uint8([1, 0])), b"\0", 5, 2)
    with pytest.raises(FormatError, match="cannot fit"):
        decode_interleaved(b"", b"", -5, 1)


@pytest.mark.parametrize("compiled", PATHS)
@pytest.mark.parametrize("alphabet", [20, 600])
def test_streams_longer_than_the_payload_are_refused(compiled, alphabet):
    table, payload = encode_interleaved(skewed(5000, alphabet, rate=0.05), alphabet)
    with pytest.raises(FormatError, match="longer"):
        decode_interleaved(table, b"\xff\x7f" + payload[2:], 5000, alphabet, compiled=compiled)
    with pytest.raises(FormatError, match="63 bits"):
        decode_interleaved(table, b"\xff" * 1200, 5000, alphabet, compiled=compiled)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("alphabet", [5, 256, 300])
def test_fuzz_by_flips_and_cuts(alphabet):
    rng = np.random.default_rng(alphabet)
    symbols = skewed(300, alphabet, rate=0.1)
    table, payload = encode_interleaved(symbols, alphabet)
    refused = 0
    for _ in range(1000):
        parts = [bytearray(table), bytearray(payload)]
        part = parts[int(rng.integers(8) > 0)]
        for _ in range(int(rng.integers(1, 4))):
            part[rng.integers(len(part))] ^= 1 << int(rng.integers(8))
        if rng.integers(4) == 0:
            del part[rng.integers(len(part)) :]
        outcomes = []
        for compiled in PATHS:
            try:
                decoded = decode_interleaved(
                    bytes(parts[0]), bytes(parts[1]), 300, alphabet, compiled=compiled
                )
                outcomes.append(decoded.tolist())
            except FormatError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[-1]
        refused += outcomes[0] is None
    assert refused > 300


def test_threads_raise_what_goes_wrong():
    symbols = skewed(3 * (1 << 20), 9)
    table, payload = encode_interleaved(symbols, 9, compiled=PATHS[-1])
    broken = bytearray(payload)
    broken[-len(payload) // 5] ^= 0x55
    try:
        decoded = decode_interleaved(
            table, bytes(broken), symbols.size, 9, threads=2, compiled=PATHS[-1]
        )
    except FormatError:
        return
    assert (decoded != symbols).any()


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


SMALL = """
import sys
{first}
import numpy as np
from flyweight.coding.interleaved import decode_interleaved, encode_interleaved
symbols = np.arange({count}) % 11
table, payload = encode_interleaved(symbols, 11, compiled={compiled})
assert (decode_interleaved(table, payload, {count}, 11, compiled={compiled}) == symbols).all()
{last}
"""


def test_few_symbols_do_not_start_a_compiler():
    done = run(
        SMALL.format(
            first="", count=270_000, compiled=None, last="assert 'numba' not in sys.modules"
        )
    )
    assert done.returncode == 0, done.stderr


def test_without_numba_many_symbols_come_back():
    first = "sys.modules['numba'] = None"
    done = run(SMALL.format(first=first, count=2_100_000, compiled=None, last=""))
    assert done.returncode == 0, done.stderr


@NUMBA
def test_an_unusable_cache_folder_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    program = SMALL.format(first="", count=5000, compiled=True, last="")
    done = run(program, NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert done.returncode == 0, done.stderr
