from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.coding import entropy, numba_choice, rans
from flyweight.coding.positions import bounded_size
from flyweight.coding.rans import stream
from flyweight.coding.rans.frequencies import frequencies
from flyweight.coding.rans.stream import decode_rans, encode_rans
from flyweight.errors import FormatError

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
ENGINES = ("numpy", "numba") if HAS_NUMBA else ("numpy",)


def reference_decode(table, payload, count, alphabet):
    """Decode one chunk in plain integers, as docs/format.md tells it: shares no code."""
    bits = "".join(f"{byte:08b}" for byte in table)
    at = 0

    def take(length):
        nonlocal at
        at += length
        return int(bits[at - length : at] or "0", 2)

    def golomb(order):
        nonlocal at
        zeros = bits.index("1", at) - at
        at += zeros
        return (take(zeros + 1) - 1) * 2**order + take(order)

    lanes = 2 ** take(3) if take(1) else 1
    size = 2 ** (9 + take(3))
    precision = take(3)
    order = take(3)
    if take(1):
        used = list(range(alphabet))
    elif take(1):
        used = [symbol for symbol in range(alphabet) if take(1)]
    else:
        used, symbol, is_used = [], golomb(0), True
        while symbol < alphabet:
            run = golomb(0) + 1
            if is_used:
                used += range(symbol, symbol + run)
            symbol, is_used = symbol + run, not is_used
    number = (size - len(used)) // len(used)  # an even share: the first guess
    if precision < 7:
        exponent = max(number.bit_length() - 1 - precision, 0)
        number = exponent * 2**precision + (number + 2**exponent // 2) // 2**exponent
    weights = []
    for _ in used:
        folded = golomb(order)
        number += -(folded + 1) // 2 if folded % 2 else folded // 2
        exponent = 0 if precision == 7 else max(number // 2**precision - 1, 0)
        weights.append((number - exponent * 2**precision) * 2**exponent)
    assert len(bits) - at < 8
    assert "1" not in bits[at:]
    cumulative = [
        place + sum(weights[:place]) * (size - len(used)) // sum(weights)
        for place in range(len(used) + 1)
    ]
    assert cumulative[-1] == size

    if lanes == 1:
        head = len(payload) if len(payload) <= 4 else 3 if len(payload) % 2 else 4
        states = [int.from_bytes(payload[:head], "little")]
    else:
        head = 4 * lanes
        states = [int.from_bytes(payload[4 * j : 4 * j + 4], "little") for j in range(lanes)]
    words = [payload[i] + 256 * payload[i + 1] for i in range(head, len(payload), 2)]
    out = []
    for place in range(count):
        state = states[place % lanes]
        slot = state % size
        rank = max(k for k in range(len(used)) if cumulative[k] <= slot)
        out.append(used[rank])
        share = cumulative[rank + 1] - cumulative[rank]
        state = share * (state // size) + slot - cumulative[rank]
        if state < 65536 and words:
            state = state * 65536 + words.pop(0)
        states[place % lanes] = state
    assert not words
    assert states == [0 if lanes == 1 else 65536] * lanes
    return out


def roundtrip(symbols, alphabet):
    stored = encode_rans(symbols, alphabet, engine="numpy")
    for engine, threads in product(ENGINES, (1, 2)):
        assert encode_rans(symbols, alphabet, engine=engine, threads=threads) == stored
        decoded = decode_rans(*stored, np.size(symbols), alphabet, engine=engine, threads=threads)
        assert decoded.dtype == np.uint16
        assert np.array_equal(decoded, np.ravel(symbols))
    return stored


def laplacian(count, levels=32, seed=0):
    """Symbols of weights that follow a Laplacian, in evenly spaced levels."""
    draws = np.random.default_rng(seed).laplace(size=count)
    return np.clip(np.round(draws * levels / 12 + levels / 2), 0, levels - 1).astype(np.uint16)


def sparse(count, zeros=0.9, seed=0):
    generator = np.random.default_rng(seed)
    levels = np.minimum(generator.geometric(0.25, count), 15)
    return np.where(generator.random(count) < zeros, 0, levels).astype(np.uint16)


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(stream, "_CHUNK", 1 << 10)


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
        (laplacian(3000), 40),
        (laplacian(9000, 256), 256),
        (laplacian(70_000), 32),
        (sparse(20_000), 16),
    ],
)
def test_an_independent_reader_agrees(symbols, alphabet):
    stored = roundtrip(symbols, alphabet)
    assert reference_decode(*stored, len(symbols), alphabet) == list(symbols)


def test_frequencies_make_the_shortest_code():
    for counts in ([5, 3, 1], [100, 1, 1], [40, 40, 1, 7]):
        found = frequencies(counts, 5)
        costs = {
            shares: -(np.array(counts) @ np.log2(shares))
            for shares in product(range(1, 32), repeat=len(counts))
            if sum(shares) == 32
        }
        assert found.sum() == 32
        assert costs[tuple(found.tolist())] == pytest.approx(min(costs.values()), rel=1e-12)


@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("counts", [[1, 10**12], [1] * 511 + [10**9], [3, 2], list(range(1, 400))])
def test_frequencies_sum_to_a_power_of_two(counts, bits):
    found = frequencies(counts, bits)
    assert found.sum() == 1 << bits
    assert found.min() >= 1
    assert found.max() <= (1 << bits) - (1 << bits >> 9)


def test_no_symbols_cost_nothing():
    assert roundtrip([], 7) == (b"", b"")
    assert roundtrip([], 0) == (b"", b"")


@pytest.mark.parametrize("symbol", [0, 1, 255, 256, 65535])
def test_a_lone_symbol_has_no_payload(symbol):
    table, payload = roundtrip([symbol] * 1000, symbol + 1)
    assert payload == b""
    assert table == symbol.to_bytes(2, "little").rstrip(b"\0")


@pytest.mark.parametrize("count", [2, 3, 127, 128, 129, 4095, 4096, 4097])
def test_lengths(count):
    roundtrip([0, 1] + [0] * (count - 2), 2)
    roundtrip(laplacian(count), 32)


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("lanes", [32, 128])
def test_lengths_around_a_whole_step(lanes, shift):
    count = lanes * 1024 * 8 // 4 + shift  # nearly four bits a symbol, more than 1 KiB a lane
    roundtrip(np.random.default_rng(0).integers(0, 17, count), 17)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 2047, 2048, 2049, 7001])
@pytest.mark.usefixtures("short_chunks")
def test_lengths_around_a_chunk(count):
    roundtrip(laplacian(count), 32)


def test_wide_alphabets():
    assert len(roundtrip(np.arange(65536)[::-1], 65536)[1]) <= 2 * 65536 + 512
    roundtrip([0, 65535, 65535], 65536)
    roundtrip(np.concatenate([np.arange(40_000), np.zeros(100_000, dtype=int)]), 65536)


def test_shape_stride_and_type_do_not_matter():
    symbols = np.arange(24).reshape(2, 3, 4) % 5
    turned = symbols.transpose(2, 0, 1)
    assert encode_rans(symbols, 5) == encode_rans(symbols.ravel().astype(np.uint8), 5)
    assert encode_rans(turned, 5) == encode_rans(turned.astype(">u2"), 5)


@pytest.mark.parametrize("symbols", [[-1, 0], [0, 7], [0.5], [[1, 9]]])
def test_symbols_outside_the_alphabet_are_refused(symbols):
    with pytest.raises(ValueError, match="symbols must"):
        encode_rans(symbols, 7)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 300), st.integers(0, 3000), st.floats(0, 6), st.integers(0, 2**32), st.booleans()
)
def test_any_alphabet_skew_and_length_comes_back(alphabet, count, skew, seed, short):
    generator = np.random.default_rng(seed)
    shares = np.arange(1, alphabet + 1) ** -skew
    symbols = generator.choice(alphabet, count, p=shares / shares.sum())
    with pytest.MonkeyPatch.context() as patch:
        if short:
            patch.setattr(stream, "_CHUNK", 256)
        roundtrip(generator.permutation(alphabet)[symbols], alphabet)


def test_size_is_close_to_the_entropy():
    for symbols, alphabet, excess in ((laplacian(2**20), 32, 0.001), (sparse(2**20), 16, 0.005)):
        table, payload = encode_rans(symbols, alphabet, engine=ENGINES[-1])
        least = entropy(np.bincount(symbols)) / 8
        assert least < len(payload) < (1 + excess) * least
        assert len(table) < 40


def test_a_short_stream_does_not_drown_in_its_table():
    for count, levels in ((20, 4), (100, 16), (300, 32), (1000, 32)):
        symbols = laplacian(count, levels)
        table, payload = encode_rans(symbols, levels)
        assert len(payload) <= 1.03 * entropy(np.bincount(symbols)) / 8 + 3
        assert len(table) <= 3 + 0.4 * levels


def test_a_vast_array_cannot_come_from_few_bytes():
    symbols = np.zeros(2**20 + 2**18, dtype=np.uint16)
    symbols[-1] = 1
    table, payload = encode_rans(symbols, 2, engine=ENGINES[-1])
    assert np.array_equal(decode_rans(table, payload, symbols.size, 2, engine="numpy"), symbols)
    assert 8 * len(payload) > symbols.size / 512  # and so within bounded_size, however long
    for count in (bounded_size(len(payload)) + 1, 2**40, 2**63, -1, 0):
        with pytest.raises(FormatError, match="cannot fit"):
            decode_rans(table, payload, count, 2)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [1, 60, 3000, 66_000])
def test_damage_is_refused_or_gives_other_symbols(count, engine, monkeypatch):
    if count == 66_000:
        monkeypatch.setattr(stream, "_CHUNK", 1 << 15)
    symbols = np.append(laplacian(count), 39)
    table, payload = encode_rans(symbols, 40)
    generator = np.random.default_rng(count)
    refused = 0
    rounds = 60 if count == 66_000 else 400
    for _ in range(rounds):
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
        given_count = symbols.size + int(generator.integers(-1, 2))
        try:
            decoded = decode_rans(bytes(parts[0]), bytes(parts[1]), given_count, 40, engine=engine)
        except FormatError:
            refused += 1
        else:
            assert decoded.shape == (given_count,)
            assert decoded.max() < 40
    assert refused > 0.5 * rounds


def test_random_tables_are_refused_or_read():
    generator = np.random.default_rng(0)
    for _ in range(2000):
        table = generator.bytes(generator.integers(12))
        payload = generator.bytes(generator.integers(40))
        alphabet = int(generator.choice([0, 1, 2, 7, 300, 65536, 65537]))
        try:
            decode_rans(table, payload, 50, alphabet)
        except FormatError:
            continue


@pytest.mark.parametrize("end", [b"\0", b"\1"])
def test_bytes_after_the_end_are_refused(end):
    table, payload = encode_rans(laplacian(500), 32)
    with pytest.raises(FormatError, match="does not end where"):
        decode_rans(table + end, payload, 500, 32)
    with pytest.raises(FormatError):
        decode_rans(table, payload + end, 500, 32)
    with pytest.raises(FormatError):
        decode_rans(table, payload + end + end, 500, 32)


def test_padding_that_is_not_zero_is_refused():
    table, payload = encode_rans([0, 1], 2)
    with pytest.raises(FormatError, match="does not end where"):
        decode_rans(table[:-1] + bytes([table[-1] | 1]), payload, 2, 2)


@pytest.mark.parametrize(
    ("table", "payload", "alphabet", "match"),
    [
        ("1000" + "000" * 3 + "111", b"\0\2", 2, "one lane"),
        ("0000000000" + "0100", b"\0\2", 2, "cannot hold 0 symbols"),
        ("0000000000" + "1" + "1" * 600, b"\0\2", 600, "cannot hold 600 symbols"),
        ("0000111000" + "1" + "0000000001000000000" + "1", b"\0\2", 2, "out of range"),
        ("0000111000" + "1" + "00000000111111110" + "1", b"\0\2", 2, "weight of zero"),
        ("0000000000" + "00" + "1" + "0", b"\0\2", 2, "cut short"),
        ("0000000000" + "00" + "1" + "00100", b"\0\2", 2, "beyond its alphabet"),
        ("0000000000" + "111", b"\0\0", 2, "padded with zeros"),
        ("0000000000" + "111", b"\1\0\0\0\0", 2, "padded with zeros"),
        ("1001" + "000" * 3 + "111", b"\0\0\0\1", 2, "cannot hold 2 rANS states"),
        ("1001" + "000" * 3 + "111", b"\0\0\0\1\0\0\0\1\0", 2, "cannot hold 2 rANS states"),
        ("1001" + "000" * 3 + "111", b"\0\0\0\1\0\0\0\0", 2, "below 65536"),
        ("", b"\1", 0, "alphabet"),
        ("", b"\1", 65537, "alphabet"),
        ("0" * 8 * (1 << 20), b"\1", 2, "at most"),
    ],
)
def test_defects_are_named(table, payload, alphabet, match):
    size = -(-len(table) // 8)
    stored = int(table.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")
    with pytest.raises(FormatError, match=match):
        decode_rans(stored, payload, 2, alphabet)


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


@pytest.mark.usefixtures("short_chunks")
def test_a_chunked_stream_of_one_lane_is_refused():
    table, payload = encode_rans([0, 1], 2)
    with pytest.raises(FormatError, match="only one lane"):
        decode_rans(table, payload, 5000, 2)


@needs_numba
@pytest.mark.parametrize("alphabet", [17, 256, 300])
@pytest.mark.parametrize("lanes", [8, 16, 128])
def test_vector_code_and_plain_loops_write_the_same(alphabet, lanes, monkeypatch):
    from flyweight.coding.rans import (
        kernels,
        plain,
        table,
        vectors,
    )

    here = vectors._usable()
    shares = 0.98 ** np.arange(alphabet)
    draws = np.random.default_rng(lanes).choice(alphabet, 9001, p=shares / shares.sum())
    used = np.unique(draws)
    frequency = frequencies(np.bincount(draws)[used], 12)
    model = table.Model(used, frequency, 12, lanes)
    entries, slots = plain.encoder_entries(model, alphabet), plain.decoder_slots(model)
    symbols = draws.astype(np.uint16)
    for count in (0, 1, 7, 8, lanes - 1, lanes, lanes + 1, 4 * lanes, 9001):
        found = []
        for coder, usable in [(plain, False), (kernels, False), (kernels, here)]:
            monkeypatch.setattr(vectors, "_usable", lambda usable=usable: usable)
            states = np.full(lanes, 1 << 16, dtype=np.uint32)
            words = np.zeros(0, dtype=np.uint16)
            if count or coder is kernels:
                words = coder.encode_lanes(symbols[:count], entries, 12, states).copy()
            found.append((words.tolist(), states.tolist()))
            out = np.empty(count, dtype=np.uint16)
            assert coder.decode_lanes(words, slots, 12, states, out) == words.size
            assert np.array_equal(out, symbols[:count])
            assert (states == 1 << 16).all()
        assert all(one == found[0] for one in found)


@needs_numba
def test_reciprocals_divide_exactly():
    from flyweight.coding.rans import vectors

    frequency = np.arange(1, 4096, dtype=np.uint64)
    entries = vectors._encoder_entries((np.uint64(4096) - frequency) << np.uint64(32))
    reciprocal, high = entries & np.uint64(0xFFFFFFFF), entries >> np.uint64(32)
    shift = np.uint64(32) + (high >> np.uint64(24) & np.uint64(15))
    one = high >> np.uint64(28)
    quotients = [0, 1, 2, 3, 65_535, 65_536, 600_001, (1 << 20) - 2, (1 << 20) - 1]
    quotients += np.random.default_rng(0).integers(0, 1 << 20, 200).tolist()
    for quotient in quotients:
        for state in (
            frequency * np.uint64(quotient),
            frequency * np.uint64(quotient + 1) - np.uint64(1),
        ):
            assert ((state + one) * reciprocal >> shift == state // frequency).all()


@needs_numba
def test_a_folder_that_cannot_be_cached_in_does_not_matter(monkeypatch):
    import numba

    from flyweight.coding.numba_compiler import compiled

    njit = numba.njit

    def without_cache(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    assert compiled(lambda number: 2 * number, "int64(int64)")(3) == 6


def test_everything_works_without_numba(monkeypatch):
    for least in ("_WORTH_STARTING", "_WORTH_LOADING", "_WORTH_CALLING"):
        monkeypatch.setattr(numba_choice, least, 0)
    monkeypatch.delitem(sys.modules, "flyweight.coding.rans.kernels", raising=False)
    monkeypatch.delattr(rans, "kernels", raising=False)
    monkeypatch.delitem(sys.modules, "flyweight.coding.numba_compiler", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    symbols = laplacian(1000)
    table, payload = encode_rans(symbols, 32)
    assert np.array_equal(decode_rans(table, payload, 1000, 32), symbols)
    with pytest.raises(ImportError):
        encode_rans(symbols, 32, engine="numba")


def test_a_small_stream_does_not_import_numba():
    script = (
        "import sys, numpy as np; from flyweight.coding.rans import decode_rans, encode_rans;"
        "s = np.arange(60_000) % 7; t, p = encode_rans(s, 7);"
        "assert (decode_rans(t, p, s.size, 7) == s).all(); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
