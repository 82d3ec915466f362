"""The context coder, its refusals, and a decoder that was written from `docs/format.md` alone."""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flyweight import _native
from flyweight.coding import entropy
from flyweight.coding.context import (
    context_costs,
    context_limit,
    decode_context,
    decode_context_values,
    encode_context,
    encode_context_values,
)
from flyweight.errors import FormatError, ModelError

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from fly_reader import context_coded

LEAST, MOST = -(1 << 31), (1 << 31) - 1


def roundtrip(values, threads=None):
    values = np.asarray(values)
    payload = encode_context_values(values, threads=threads)
    decoded = decode_context_values(payload, values.shape, threads=threads)
    assert decoded.dtype == np.int32
    assert decoded.shape == values.shape
    assert np.array_equal(decoded, values)
    return payload


def symbols_of(values, negatives):
    return np.where(values == 0, 0, values + negatives + (values < 0))


def laplacian(shape, scale, zeros=0.0, seed=0):
    rng = np.random.default_rng(seed)
    values = np.rint(rng.laplace(size=shape) * scale).astype(np.int32)
    return np.where(rng.random(shape) < zeros, 0, values)


def smooth_kernels(shape=(32, 32, 3, 3), scale=3.0):
    noise = np.random.default_rng(0).normal(size=shape)
    return np.rint(scale * np.cumsum(np.cumsum(noise, axis=2), axis=3)).astype(np.int32)


def entropy_in_bytes(values):
    return entropy(np.unique(values, return_counts=True)[1]) / 8


def arrays(*elements):
    shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7)
    return shapes.flatmap(lambda shape: hnp.arrays(np.int32, shape, elements=st.one_of(*elements)))


small = st.just(0), st.integers(-3, 3), st.integers(-70, 70)


@settings(deadline=None, max_examples=100)
@given(arrays(*small, st.integers(LEAST, MOST)))
def test_anything_comes_back(values):
    payload = roundtrip(values)
    assert context_coded(payload, values.shape) == values.ravel().tolist()


@settings(deadline=None, max_examples=60)
@given(arrays(*small, st.integers(-300, 300)), st.integers(0, 3), st.sampled_from([0, 5, 60_000]))
def test_symbols_come_back(values, below, above):
    """The same bytes as for values, whatever levels are not used."""
    negatives = below - int(values.min(initial=0))
    alphabet = negatives + int(values.max(initial=0)) + above + 1
    symbols = symbols_of(values, negatives).astype(np.uint8 if alphabet <= 256 else np.uint16)
    payload = encode_context(symbols, negatives)
    assert payload == encode_context_values(values)
    decoded = decode_context(payload, values.shape, negatives, alphabet)
    assert decoded.dtype == symbols.dtype
    assert np.array_equal(decoded, symbols)
    limits = negatives, alphabet - 1 - negatives
    assert context_coded(payload, values.shape, limits) == values.ravel().tolist()


EXTREMES = np.array([LEAST, MOST, 0, 1, -1, 62, 63, 64, -62, -63, LEAST + 1, 1 << 30] * 3)
MORE = (
    *(laplacian((70, 60), 1.0, zeros) for zeros in (0.0, 0.5, 0.97)),
    *(laplacian((4100,), scale, 0.3) for scale in (0.7, 900)),
    *(smooth_kernels((20, 5, *kernel), 9) for kernel in ((1, 3), (3, 3), (7, 5), (16, 16))),
    np.abs(laplacian((300, 16), 2)) + 1,
    np.repeat([[-5], [5]], 3000, 1).T,  # columns of one sign
    *(EXTREMES.reshape(shape) for shape in [(36,), (6, 6), (2, 6, 3), (2, 2, 3, 3)]),
)


@pytest.mark.parametrize("values", MORE)
def test_the_independent_reader_reads_the_same(values):
    assert context_coded(roundtrip(values), values.shape) == values.ravel().tolist()


def test_empty_and_all_alike():
    for shape in [(0,), (3, 0), (0, 4, 3, 3)]:
        assert roundtrip(np.zeros(shape, dtype=np.int64)) == b""
    assert len(roundtrip(np.zeros((50, 40), dtype=np.int8))) < 12
    assert len(roundtrip(np.full((10, 10, 3, 3), -7))) < 24
    # zeros occur, no thresholds; one decision at one half, and 0 takes the upper half
    assert roundtrip([0]) == b"\2\0\x80"


def test_strides_and_integer_types_do_not_matter():
    turned = laplacian((6, 5, 7), 4).transpose(2, 0, 1)
    payload = roundtrip(turned)
    assert encode_context_values(turned.copy().astype(np.int64)) == payload
    symbols = symbols_of(turned, 99).astype(np.uint8)
    assert encode_context(symbols, 99) == encode_context(symbols.astype(np.int64), 99) == payload


def test_structure_is_used():
    kernels = smooth_kernels()
    assert len(encode_context_values(kernels)) < 0.85 * entropy_in_bytes(kernels)
    scales = np.random.default_rng(1).lognormal(sigma=1, size=(200, 1))
    rows = np.rint(np.random.default_rng(2).laplace(size=(200, 100)) * scales).astype(np.int32)
    assert len(encode_context_values(rows)) < 0.94 * entropy_in_bytes(rows)


@pytest.mark.parametrize(("scale", "zeros"), [(5, 0.0), (1.5, 0.9)])
def test_noise_costs_its_entropy(scale, zeros):
    values = laplacian((1000, 1000), scale, zeros)
    assert 0.999 < len(roundtrip(values)) / entropy_in_bytes(values) < 1.006


@pytest.mark.parametrize("shape", [(4200, 1000), (470_000, 1, 3, 3), (1, 4_200_000)])
def test_several_chunks_on_threads_are_the_same_bytes(shape):
    rng = np.random.default_rng(3)
    values = rng.integers(-2, 3, prod(shape), dtype=np.int8)
    values[rng.random(values.size) < 0.97] = 0
    payload = encode_context_values(values.reshape(shape), threads=1)
    assert roundtrip(values.reshape(shape), threads=2) == payload
    with pytest.raises(FormatError, match=r"context|cut"):
        decode_context_values(payload[:4] + b"\1" * 7000, shape)


def test_more_elements_than_the_limit_are_refused():
    values = np.zeros((6000, 1000), dtype=np.int32)
    payload = encode_context_values(values)
    assert values.size > context_limit(len(payload)) == (1 << 20) + 512 * len(payload)
    for shape in (values.shape, (1 << 70,)):
        with pytest.raises(FormatError, match="cannot fit"):
            decode_context_values(payload, shape)


@pytest.mark.parametrize("values", [[0.5], [1 << 31], [LEAST - 1], ["a"]])
def test_what_is_no_int32_is_refused(values):
    with pytest.raises(ModelError, match="context coding takes"):
        encode_context_values(values)


def test_damaged_streams_are_refused():
    values = laplacian((70, 60), 3)
    payload = encode_context_values(values)
    for bad, shape, message in [
        (b"", (3,), "cut short"),
        (b"\2", (3,), "cut short"),
        (b"\2\3\1\2", (3,), "cut short"),
        (b"\2\0", (0,), "not empty"),
        (b"\10\0", (3,), "header"),
        (b"\1\0", (3, 3), "kernels"),
        (b"\1\0", (3, 3, 257), "kernels"),
        (b"\1\0", (3, 3, 16, 17), "kernels"),
        (b"\1\x1b", (3, 3, 3), "header"),
        (b"\2\10" + bytes(range(8)), (3,), "header"),
        (b"\2\2\5\5\0", (3,), "header"),
        (payload, (70, -60), "negative"),
        (payload + b"\0", values.shape, "does not end"),
        (payload + b"\1", values.shape, "does not end"),
        (payload[:-9], values.shape, "does not end|leaves"),
        (payload, (70, 61), "does not end"),
    ]:
        with pytest.raises(FormatError, match=message):
            decode_context_values(bad, shape)


def test_a_symbol_outside_the_alphabet_is_refused():
    values = np.array([-5, 0, 3, 1] * 9)
    payload = encode_context_values(values)
    assert decode_context(payload, (36,), 5, 9).tolist() == symbols_of(values, 5).tolist()
    for negatives, alphabet in [(4, 9), (5, 8), (4, 300), (0, 65_536), (2, 4)]:
        with pytest.raises(FormatError, match=r"alphabet|header"):
            decode_context(payload, (36,), negatives, alphabet)


def outcome(decode, *arguments):
    try:
        return np.ravel(decode(*arguments)).tolist()
    except (FormatError, ValueError):
        return "refused"


@pytest.mark.parametrize(
    "values",
    [laplacian((20, 10), 4), laplacian((8, 2, 3, 3), 2, 0.8), laplacian((60,), 1e8)],
)
def test_both_refuse_the_same_and_accept_only_what_the_encoder_writes(values):
    rng = np.random.default_rng(5)
    payload, shape = encode_context_values(values), np.array(values.shape, dtype=np.uint64)
    start = len(_native.context_header(values, 4, 0, shape)[0])
    for trial in range(150):
        damaged = bytearray(payload)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        elif trial % 3 == 1:
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        else:
            damaged[-4:] = rng.bytes(int(rng.integers(6)))
        bad = bytes(damaged)
        decoded = outcome(decode_context_values, bad, values.shape)
        assert decoded == outcome(context_coded, bad, values.shape), bad.hex()
        if decoded != "refused" and bad[:start] == payload[:start]:
            again = np.array(decoded, dtype=np.int32)
            assert _native.context_encode(again, 4, 0, shape, bad[:start], 0) == bad[start:]


@pytest.mark.parametrize(
    ("bad", "shape", "negatives", "alphabet"),
    [
        ("05e0ffffffffffffffff5f82c2d9cfeb03", (500, 2, 2, 2), 99, 199),  # offset >= size
        ("0720352c47f6970b536aee10835d9b91", (3, 2, 3, 3), 1, 40_002),  # a tree above all levels
    ],
)
def test_what_no_encoder_writes_is_refused(bad, shape, negatives, alphabet):
    with pytest.raises(FormatError, match=r"does not end|alphabet|header"):
        decode_context(bytes.fromhex(bad), shape, negatives, alphabet)


@pytest.mark.parametrize("shape", [(), (1000,), (300, 70), (16, 3, 3), (40, 30, 3, 3)])
@pytest.mark.parametrize("zeros", [0.0, 0.9])
@pytest.mark.parametrize("most", [3, 20])
def test_costs_are_what_the_coder_takes(shape, zeros, most):
    values = np.clip(laplacian(shape, 1.5, zeros), -most, most)
    costs = context_costs(values, most)
    assert costs.shape == (*values.shape, 2 * most + 1)
    assert costs.dtype == np.float32
    own = np.take_along_axis(costs, values[..., None] + most, axis=-1).sum() / 8
    length = len(encode_context_values(values))
    assert abs(own - length) <= 12 + 0.01 * length
    if values.size >= 1000:  # all that can come next have a chance, and together not more than 1
        chances = np.exp2(-costs.astype(np.float64)).sum(-1)
        assert 0.95 < chances.mean() < 1.01


def test_costs_of_several_chunks_stand_in_order():
    values = np.clip(laplacian((1 << 22) + 50_000, 0.2, 0.5), -2, 2)
    values[1 << 22 :] = 1  # the second chunk is another, and its costs too
    costs = context_costs(values, 2)
    own = np.take_along_axis(costs, values[:, None] + 2, axis=1)[:, 0]
    assert own[1 << 22 :].sum() < 1000 < own[: 1 << 22].sum()


def test_costs_refuse_buffers_of_another_size():
    values, shape = np.zeros(4, np.int32), np.array([4], np.uint64)
    header, _ = _native.context_header(values, 4, 0, shape)
    bits, out = np.zeros(4096, np.float32), np.zeros((4, 3), np.float32)
    for fields in [(bits, 2, out), (bits[1:].copy(), 1, out), (bits, 1, out[1:].copy())]:
        with pytest.raises(ValueError, match="not of this shape"):
            _native.context_costs(values, shape, header, 0, *fields)
    with pytest.raises(ValueError, match="no chunk"):
        _native.context_costs(values, shape, header, 1, bits, 1, out)
    assert context_costs(np.zeros((0, 3)), 1).shape == (0, 3, 3)
