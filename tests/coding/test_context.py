from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flyweight.coding import context, entropy
from flyweight.coding.context import model, plain, stream
from flyweight.coding.context.layout import Layout
from flyweight.coding.context.signed import signed_values, symbols_of
from flyweight.coding.context.stream import decode_context, encode_context
from flyweight.coding.positions import bounded_size
from flyweight.errors import FormatError, ModelError

ENGINES = ["python", "numba"]
LEAST, MOST = -(1 << 31), (1 << 31) - 1


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return request.param


def roundtrip(values, engine="python", threads=1):
    values = np.asarray(values)
    payload = encode_context(values, engine=engine, threads=threads)
    decoded = decode_context(payload, values.shape, engine=engine, threads=threads)
    assert decoded.dtype == np.int32
    assert decoded.shape == values.shape
    assert np.array_equal(decoded, values)
    return payload


def laplacian(shape, scale, zeros=0.0, seed=0):
    rng = np.random.default_rng(seed)
    values = np.rint(rng.laplace(size=shape) * scale).astype(np.int32)
    return np.where(rng.random(shape) < zeros, 0, values)


def smooth_kernels(shape=(32, 32, 3, 3), seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.rint(3 * np.cumsum(np.cumsum(noise, axis=2), axis=3)).astype(np.int32)


def bound_in_bytes(values):
    """Order-0 entropy, in bytes."""
    return entropy(np.unique(values, return_counts=True)[1]) / 8


@settings(deadline=None, max_examples=150)
@given(
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=7).flatmap(
        lambda shape: hnp.arrays(
            np.int32,
            shape,
            elements=st.one_of(
                st.just(0),
                st.integers(-3, 3),
                st.integers(-70, 70),
                st.integers(LEAST, MOST),
            ),
        )
    )
)
def test_anything_comes_back(values):
    payload = roundtrip(values)
    if values.size and "numba" in sys.modules:
        assert encode_context(values, engine="numba") == payload


@pytest.mark.parametrize("shape", [(), (1,), (600,), (64, 70), (7, 60, 3), (9, 5, 3, 3)])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("scale", [0.7, 5, 900, 1e8])
def test_both_engines_write_the_same_bytes(shape, zeros, scale):
    pytest.importorskip("numba")
    values = laplacian(shape, scale, zeros)
    payload = roundtrip(values, "numba")
    assert roundtrip(values, "python") == payload
    assert np.array_equal(decode_context(payload, shape, engine="python"), values)


def test_extreme_values_come_back(engine):
    extremes = [LEAST, MOST, 0, 1, -1, 62, 63, 64, -62, -63, LEAST + 1, 1 << 30]
    values = np.array(extremes * 3, dtype=np.int64)
    for shape in [(36,), (6, 6), (2, 6, 3), (2, 2, 3, 3), (1, 36, 1, 1)]:
        roundtrip(values.reshape(shape), engine)


def test_empty_and_all_zero(engine):
    for shape in [(0,), (3, 0), (0, 4, 3, 3)]:
        assert roundtrip(np.zeros(shape, dtype=np.int64), engine) == b""
    assert len(roundtrip(np.zeros((50, 40), dtype=np.int8), engine)) < 12
    roundtrip(np.full((10, 10, 3, 3), -7), engine)


def test_strides_and_integer_types_do_not_matter(engine):
    values = laplacian((6, 5, 7), 4)
    turned = values.transpose(2, 0, 1)
    payload = roundtrip(turned, engine)
    assert encode_context(turned.copy().astype(np.int64), engine=engine) == payload
    assert encode_context(np.array([5, 200], dtype=np.uint8)) == encode_context([5, 200])


def test_vast_and_nearly_empty_stays_within_the_size_limit():
    pytest.importorskip("numba")
    values = np.zeros((6000, 1000), dtype=np.int32)
    values[77, 5] = -9
    payload = roundtrip(values, "numba")
    assert values.size <= bounded_size(len(payload))


def test_a_known_stream(engine):
    values = [[[[0, 1, 2], [0, 3, -1], [0, 0, 0]]], [[[-70, 1, 0], [0, 0, 9], [1, 1, 1]]]]
    payload = roundtrip(values, engine)
    assert payload.hex() == "0302932dc5c202675c6b3d1a"
    assert roundtrip([5, -1, 0, 2], engine).hex() == "0200548cc4"


def test_one_zero_by_hand(engine):
    # flags: zeros occur; no thresholds; one decision at one half: 0 takes the upper half
    assert roundtrip([0], engine) == b"\x02\x00\x80"


def test_signed_values_and_symbols():
    symbols = np.arange(9)
    values = signed_values(symbols, 3)
    assert values.tolist() == [0, -3, -2, -1, 1, 2, 3, 4, 5]
    assert symbols_of(values, 3).tolist() == symbols.tolist()
    assert signed_values([1, 2], 0).tolist() == [1, 2]
    assert signed_values([1, 2], 2).tolist() == [-2, -1]


def test_bounds_part_kernel_guesses_as_the_format_says():
    for shift in (0, 1, 5, 27):
        bounds = Layout(True, 3, 3, shift).bounds
        for guess in [*range(-700, 701), -(1 << 33), 1 << 33, 17 << shift, -17 << shift]:
            steps = sum(bound < abs(guess) >> shift for bound in (0, 4, 9, 16))
            assert 1 + sum(bound < guess for bound in bounds) == 5 + (
                steps if guess > 0 else -steps
            )


def test_the_rates_reach_their_least_values_where_counting_ends():
    assert model.rates()[:, -1].tolist() == [1 << 6, 1 << 9]  # the compiled loops shift instead


def test_energies_are_sampled_alike():
    pytest.importorskip("numba")
    from flyweight.coding.context import kernels

    values = laplacian((5000,), 3, 0.5)
    for width in (1, 7, 127, 128, 129, 300, 5000, 9000):
        sample = kernels.sampled_energies(values, width, 3)
        assert sample.tolist() == plain.sampled_energies(values.tolist(), width, 3)


def test_structure_is_used():
    kernels = smooth_kernels()
    assert len(encode_context(kernels)) < 0.85 * bound_in_bytes(kernels)
    scales = np.random.default_rng(1).lognormal(sigma=1, size=(200, 1))
    rows = np.rint(np.random.default_rng(2).laplace(size=(200, 100)) * scales).astype(np.int32)
    assert len(encode_context(rows)) < 0.94 * bound_in_bytes(rows)


@pytest.mark.parametrize(("scale", "zeros"), [(5, 0.0), (1.5, 0.9)])
def test_noise_costs_its_entropy(scale, zeros):
    pytest.importorskip("numba")
    values = laplacian((1000, 1000), scale, zeros)
    size = len(roundtrip(values, "numba"))
    bound = bound_in_bytes(values)
    assert 0.999 * bound < size < 1.006 * bound


@pytest.mark.parametrize("shape", [(1001,), (13, 77), (11, 13, 7), (12, 10, 3, 3)])
def test_chunks_on_threads_are_the_same_bytes(monkeypatch, engine, shape):
    monkeypatch.setattr(stream, "_CHUNK", 100)
    values = laplacian(shape, 3, 0.3)
    payload = roundtrip(values, engine, threads=1)
    assert roundtrip(values, engine, threads=2) == payload
    assert encode_context(values, engine="python") == payload
    monkeypatch.setattr(stream, "_CHUNK", 1 << 22)
    assert len(encode_context(values)) < len(payload)


@pytest.mark.parametrize(
    "values", [[0.5], [1 << 31], [LEAST - 1], np.array([1 << 63], dtype=np.uint64), ["a"]]
)
def test_what_is_no_int32_is_refused(values):
    with pytest.raises(ModelError, match="context coding takes"):
        encode_context(values)


def test_damaged_streams_are_refused(engine):
    values = laplacian((30, 40), 3)
    payload = encode_context(values)
    for bad, shape, message in [
        (b"", (3,), "cut short"),
        (b"\2", (3,), "cut short"),
        (b"\2\0", (0,), "not empty"),
        (b"\4\0", (3,), "unknown"),
        (b"\3\0", (3, 3), "kernels"),
        (b"\3\x1c", (3, 3, 3), "out of range"),
        (b"\2\x08", (3,), "out of range"),
        (b"\2\2\5\0", (3,), "ascend"),
        (payload, (30, -40), "negative"),
        (payload, (1 << 20, 1 << 20), "cannot fit"),
        (payload + b"\0", values.shape, "does not end"),
        (payload + b"\1", values.shape, "does not end"),
        (payload[:-9], values.shape, "does not end"),
        (payload, (30, 41), "does not end"),
    ]:
        with pytest.raises(FormatError, match=message):
            decode_context(bad, shape, engine=engine)


def test_a_value_outside_int32_is_refused(engine):
    payloads = [b"\0\0" + bytes([first]) * 40 for first in range(256)]
    refused = 0
    for payload in payloads:
        try:
            decode_context(payload, (3,), engine=engine)
        except FormatError as error:
            refused += "outside int32" in str(error)
    assert refused


def test_damage_never_does_worse_than_a_wrong_array(engine):
    rng = np.random.default_rng(5)
    tensors = [laplacian((20, 30), 4), laplacian((8, 4, 3, 3), 2, 0.8), laplacian((5000,), 90)]
    for values in tensors:
        payload = encode_context(values)
        for trial in range(1200 if engine == "numba" else 60_000 // values.size):
            damaged = bytearray(payload)
            if trial % 3 == 0:
                damaged = damaged[: rng.integers(len(damaged))]
            elif trial % 3 == 1:
                damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
            else:
                damaged[2:] = rng.bytes(len(damaged) - 2)
            try:
                decoded = decode_context(bytes(damaged), values.shape, engine=engine)
            except FormatError:
                continue
            assert decoded.shape == values.shape


def test_only_what_the_encoder_writes_is_accepted(engine):
    # a chunk cut short can be the chunk of other values, but never a second one of the same
    kernels = stream._kernels(engine, 360)
    layout = Layout(True, 3, 3)
    chunk = stream._encode_chunk(laplacian((360,), 3, 0.5), layout, kernels)
    rng = np.random.default_rng(3)
    damaged = [chunk[:length] for length in range(len(chunk))]
    damaged += [chunk + bytes([last]) for last in range(256)]
    damaged += [chunk[:-4] + rng.bytes(int(rng.integers(6))) for _ in range(100)]
    accepted = 0
    for bad in damaged:
        values = np.zeros(360, dtype=np.int32)
        try:
            stream._decode_chunk(bad, values, layout, kernels)
        except FormatError:
            continue
        accepted += 1
        assert stream._encode_chunk(values, layout, kernels) == bad
    assert accepted < 60


def test_numba_is_started_only_where_it_pays(monkeypatch):
    pytest.importorskip("numba")
    from flyweight.coding.context import kernels

    monkeypatch.setattr(stream, "_coded_plainly", [0])
    monkeypatch.delitem(sys.modules, "flyweight.coding.context.kernels")
    most = stream._WORTH_STARTING
    assert stream._kernels("auto", most - 100) is None
    assert stream._kernels("auto", 100) is None
    assert stream._kernels("python", 1 << 30) is None
    assert "flyweight.coding.context.kernels" not in sys.modules
    assert stream._kernels("auto", 1).__name__ == "flyweight.coding.context.kernels"
    monkeypatch.setitem(sys.modules, "flyweight.coding.context.kernels", kernels)
    assert stream._kernels("auto", 1) is kernels


def test_without_numba_all_goes_on(monkeypatch):
    monkeypatch.setattr(stream, "_WORTH_STARTING", 0)
    monkeypatch.delitem(sys.modules, "flyweight.coding.context.kernels", raising=False)
    monkeypatch.delattr(context, "kernels", raising=False)
    monkeypatch.delitem(sys.modules, "flyweight.coding.numba_compiler", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    values = laplacian((20, 20), 3)
    payload = encode_context(values)
    assert np.array_equal(decode_context(payload, values.shape), values)
    with pytest.raises(ImportError):
        encode_context(values, engine="numba")
