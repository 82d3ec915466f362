from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.coding import (
    DTYPES,
    canonical_codewords,
    carrier,
    code_lengths,
    decode_dense,
    decode_huffman,
    decode_positions,
    decode_shared,
    decode_tensor,
    encode_dense,
    encode_huffman,
    encode_lossless,
    encode_positions,
    encode_shared,
    entropy,
)
from flyweight.coding.huffman import pack_lengths, unpack_lengths
from flyweight.format import Container, dumps, loads
from flyweight.size_report import inspect

settings.register_profile("flyweight", deadline=None, derandomize=True)
settings.load_profile("flyweight")

counts = st.lists(st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**9)), max_size=80)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def symbol_streams(draw):
    alphabet = draw(st.one_of(st.integers(1, 20), st.integers(1, 65536)))
    symbols = draw(st.lists(st.integers(0, alphabet - 1), max_size=200))
    if draw(st.booleans()):  # few distinct values, uneven
        symbols = [symbols[0] if number % 3 else symbol for number, symbol in enumerate(symbols)]
    return symbols, alphabet


@st.composite
def masks(draw):
    size = draw(st.integers(0, 3000))
    density = draw(st.sampled_from([0.0, 0.001, 0.05, 0.3, 0.5, 0.8, 0.999, 1.0]))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).random(size) < density


@st.composite
def shared_tensors(draw):
    shape = draw(shapes)
    number = draw(st.integers(0, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, number + 1, shape) * (rng.random(shape) < draw(st.floats(0, 1)))
    levels = rng.normal(size=number).astype(draw(st.sampled_from(["f2", "f4"]))).astype("f4")
    return np.asarray(symbols), levels


@given(counts, st.integers(1, 16))
def test_kraft_sum_is_one_and_mean_length_is_near_the_entropy(counts, limit):
    lengths = code_lengths(counts, limit).astype(int)
    used = np.count_nonzero(counts)
    assert ((lengths > 0) == (np.array(counts, dtype=int) > 0)).all()
    if used >= 2:
        assert lengths.max() <= max(limit, int(used - 1).bit_length())
        assert sum(2 ** (16 - int(length)) for length in lengths if length) == 2**16
        total = int(np.array(counts) @ lengths)
        assert entropy(counts) <= total * (1 + 1e-12)
        if limit == 16 and max(counts) <= 1000:  # the limit cannot bind here
            assert total < entropy(counts) + sum(counts)


@given(counts)
def test_codewords_are_a_prefix_code_in_canonical_order(counts):
    lengths = code_lengths(counts)
    words = canonical_codewords(lengths)
    used = sorted(np.flatnonzero(lengths), key=lambda symbol: (lengths[symbol], symbol))
    texts = [f"{words[symbol]:0{lengths[symbol]}b}" for symbol in used]
    assert texts == sorted(texts)
    assert all(not after.startswith(text) for text, after in pairwise(texts))


@given(counts)
def test_tables_come_back(counts):
    lengths = code_lengths(counts)
    if np.any(lengths):
        assert np.array_equal(unpack_lengths(pack_lengths(lengths), lengths.size), lengths)


@given(symbol_streams())
def test_symbols_come_back_in_the_same_bytes(stream):
    symbols, alphabet = stream
    table, payload = encode_huffman(symbols, alphabet)
    assert decode_huffman(table, payload, len(symbols), alphabet).tolist() == symbols
    assert encode_huffman(np.array(symbols, dtype="i8")[::-1][::-1], alphabet) == (table, payload)


@given(masks())
def test_positions_come_back_and_are_never_larger_than_a_bitmap(mask):
    table, payload = encode_positions(mask)
    assert np.array_equal(decode_positions(table, payload, mask.size), mask)
    assert len(table) + len(payload) <= 1 + (mask.size + 7) // 8


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=30, unique=True), st.integers(0, 9))
def test_positions_far_apart_come_back(places, after):
    mask = np.zeros(max(places) + 1 + after, dtype=bool)
    mask[places] = True
    for one in (mask, ~mask):
        table, payload = encode_positions(one)
        assert np.array_equal(decode_positions(table, payload, one.size), one)


@given(shared_tensors())
def test_shared_tensors_come_back_with_exact_zeros(content):
    symbols, levels = content
    coded = encode_shared("w", symbols, levels=levels)
    got_symbols, got_levels = decode_shared(coded)
    assert got_symbols.shape == symbols.shape
    assert np.array_equal(got_symbols, symbols)
    assert got_levels.tobytes() == levels.tobytes()
    values = decode_tensor(coded)
    assert not values[symbols == 0].any()
    assert np.array_equal(values[symbols > 0], levels[symbols[symbols > 0] - 1])


@given(st.sampled_from(DTYPES), shapes, st.integers(0, 2**32 - 1), st.booleans())
def test_any_bits_of_any_dtype_come_back(dtype, shape, seed, all_equal):
    kind = carrier(dtype)
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape)) * kind.itemsize
    raw = rng.integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8).tobytes()
    if all_equal and raw:
        raw = raw[: kind.itemsize] * (size // kind.itemsize)
    values = np.frombuffer(raw, dtype=kind).reshape(shape)
    for code in (encode_dense, encode_lossless):
        decoded = decode_dense(code("t", values, dtype=dtype))
        assert (decoded.dtype, decoded.shape) == (kind, values.shape)
        assert decoded.tobytes() == raw


names = st.lists(st.text(max_size=6), min_size=1, max_size=4).map(".".join)


@given(
    st.lists(st.tuples(names, shared_tensors()), max_size=6, unique_by=lambda pair: pair[0]),
    st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3),
)
@settings(max_examples=30)
def test_containers_come_back_and_the_ledger_adds_up(content, metadata):
    tensors = []
    for name, (symbols, levels) in content:
        if symbols.size % 2:
            tensors.append(encode_shared(name, symbols, levels=levels))
        else:
            tensors.append(encode_lossless(name, symbols.astype("f4") / 3, dtype="float32"))
    container = Container(tensors=tuple(tensors), metadata=metadata)
    data = dumps(container)
    assert loads(data) == container
    assert dumps(loads(data)) == data
    account = inspect(data)
    assert account.total_bytes == len(data)
    assert account.parameters == sum(tensor.size for tensor in tensors)
