"""Tests of fixed-point quantization."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import ModelError
from flyweight.quantization import (
    SCHEMES,
    FixedPoint,
    quantize_fixed_point,
    quantize_kmeans,
)

weights = st.lists(
    st.floats(-8, 8, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=1, max_size=40
).map(lambda values: torch.tensor(values, dtype=torch.float32))
schemes = st.sampled_from(SCHEMES)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("scheme", "bits", "expected"),
    [
        # Of −1 … 2 four levels lie at −1, 0, 1, 2; the zero weight is pruned and stays.
        ("uniform", 2, [0.0, -1.0, 0.0, 1.0, 2.0]),
        ("uniform", 1, [0.0, -1.0, -1.0, 2.0, 2.0]),
        # Levels at −2, 0, 2; then at multiples of 2/3.
        ("symmetric", 2, [0.0, 0.0, 0.0, 2.0, 2.0]),
        ("symmetric", 3, [0.0, -4 / 3, 0.0, 4 / 3, 2.0]),
        # Levels at −2, 2; then at −2, −2/3, 2/3, 2.
        ("symmetric-no-zero", 1, [0.0, -2.0, 2.0, 2.0, 2.0]),
        ("symmetric-no-zero", 2, [0.0, -2 / 3, 2 / 3, 2 / 3, 2.0]),
    ],
)
def test_quantize_fixed_point_by_hand(scheme, bits, expected):
    weight = torch.tensor([0.0, -1.0, 0.2, 1.2, 2.0])
    tensor = quantize_fixed_point(weight, bits=bits, scheme=scheme)
    torch.testing.assert_close(tensor.dequantize(), torch.tensor(expected))


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantize_fixed_point_uniform_is_dynamic_scaling(bits):
    weight = random(16, 8, 3, 3) * 0.1
    weight[random(16, 8, 3, 3, seed=1) > 0] = 0
    kept = weight[weight != 0]
    alpha, beta = kept.max() - kept.min(), kept.min()
    steps = 2**bits - 1
    unit = torch.round((weight - beta) / alpha * steps) / steps
    wanted = (alpha * unit + beta) * (weight != 0)
    found = quantize_fixed_point(weight, bits=bits)
    assert torch.equal(found.dequantize(), wanted)
    assert min(2**bits, 16) <= len(found.levels) <= 2**bits
    assert torch.equal(found.symbols == 0, weight == 0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantize_fixed_point_symmetric_is_fake_quantize_of_torch(bits):
    weight = random(9, 31)
    side = 2 ** (bits - 1) - 1
    scale = float(weight.abs().max() / side)
    wanted = torch.fake_quantize_per_tensor_affine(weight, scale, 0, -side, side)
    assert torch.equal(
        quantize_fixed_point(weight, bits=bits, scheme="symmetric").dequantize(), wanted
    )
    scales = weight.abs().amax(1) / side
    wanted = torch.fake_quantize_per_channel_affine(
        weight, scales, torch.zeros(9, dtype=torch.int32), 0, -side, side
    )
    found = quantize_fixed_point(weight, bits=bits, scheme="symmetric", per_channel=True)
    assert torch.equal(found.dequantize(), wanted)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shift", [-5.0, -0.3, 0.0, 5.0])
def test_quantize_fixed_point_zero_level_is_fake_quantize_of_torch(bits, shift):
    weight = random(200) + shift
    low, high = min(0.0, float(weight.min())), max(0.0, float(weight.max()))
    scale = (torch.tensor(high) - torch.tensor(low)) / (2**bits - 1)
    point = int(torch.round(-torch.tensor(low) / scale))
    wanted = torch.fake_quantize_per_tensor_affine(weight, float(scale), point, 0, 2**bits - 1)
    found = quantize_fixed_point(weight, bits=bits, zero_level=True).dequantize()
    assert torch.equal(found, wanted)


@given(weights, st.integers(2, 8), schemes, st.booleans())
def test_quantize_fixed_point_keeps_zeros_and_bounds(weight, bits, scheme, power_of_two):
    wanted = FixedPoint(bits, scheme, power_of_two=power_of_two)
    once = wanted.quantize(weight, weight != 0)
    assert not once[weight == 0].any()
    assert len(once[weight != 0].unique()) <= 2**bits
    twice = wanted.quantize(once, once != 0)
    # A level at zero, or a last level below the range, changes the range the next time.
    same_range = scheme == "symmetric" or not power_of_two
    if same_range and torch.equal(once != 0, weight != 0):
        torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-6)
    grid = wanted.grid(weight, weight != 0)
    step = grid.scale if grid.integers else grid.scale / grid.highest
    # A power of two may leave the last level half a step short of the largest weight.
    assert float((once - weight)[weight != 0].abs().max() if weight.any() else 0) <= (
        0.5 * float(step) * (1 + 1e-5) + 1e-6
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantize_fixed_point_rounds_steps_to_powers_of_two(scheme):
    weight = random(300) * 0.37
    for bits in range(2, 9):
        grid = FixedPoint(bits, scheme, power_of_two=True).grid(weight, weight != 0)
        exact = FixedPoint(bits, scheme).grid(weight, weight != 0)
        step, free = (float(g.scale if g.integers else g.scale / g.highest) for g in (grid, exact))
        assert math.frexp(step)[0] == 0.5
        assert free <= step < 2 * free
    exact = torch.tensor([-1.0, 0.25, 1.0])
    again = quantize_fixed_point(exact, bits=2, scheme="symmetric", power_of_two=True)
    assert again.dequantize().tolist() == [-1.0, 0.0, 1.0]


def test_quantize_fixed_point_has_a_range_for_each_channel():
    weight = random(4, 50) * torch.tensor([0.01, 0.1, 1.0, 10.0])[:, None]
    weight[2] = 0  # a channel that is pruned as a whole
    weight[3, 0] = 7.25
    weight[3, 1:] = 0  # and one of a single weight
    for scheme in SCHEMES:
        tensor = quantize_fixed_point(weight, bits=4, scheme=scheme, per_channel=True)
        for row, found in zip(weight, tensor.dequantize(), strict=True):
            alone = quantize_fixed_point(row, bits=4, scheme=scheme).dequantize()
            torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-6 * float(row.abs().max()))
            assert torch.equal(found == 0, alone == 0)
        assert not tensor.dequantize()[2].any()
        torch.testing.assert_close(tensor.dequantize()[3], weight[3], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("scheme", "levels", "scales", "offsets", "values"),
    [
        # −1 … 2 in steps of 1 around 0.5, and 1 … 7 in steps of 2 around 4.
        ("uniform", [-1.5, -0.5, 0.5, 1.5], [1, 2], [0.5, 4], [[0, -1, 0, 2], [1, 7, 3, 5]]),
        # −2, 0, 2 and −7, 0, 7; −1 is half-way and goes to the even 0.
        ("symmetric", [1], [2, 7], None, [[0, 0, 0, 2], [0, 7, 0, 7]]),
        # −2, −2/3, 2/3, 2 and −7, −7/3, 7/3, 7: no offset, since the middle is 0.
        (
            "symmetric-no-zero",
            [-0.5, 0.5, 1.5],
            [4 / 3, 14 / 3],
            None,
            [[0, -2 / 3, 2 / 3, 2], [7 / 3, 7, 7 / 3, 7]],
        ),
    ],
)
def test_quantize_fixed_point_per_channel_by_hand(scheme, levels, scales, offsets, values):
    weight = torch.tensor([[0.0, -1.0, 0.2, 2.0], [1.0, 7.0, 3.0, 5.0]])
    tensor = quantize_fixed_point(weight, bits=2, scheme=scheme, per_channel=True)
    assert tensor.levels.tolist() == levels
    torch.testing.assert_close(tensor.scales, torch.tensor(scales, dtype=torch.float32))
    assert (tensor.offsets is None) == (offsets is None)
    if offsets is not None:
        torch.testing.assert_close(tensor.offsets, torch.tensor(offsets, dtype=torch.float32))
    torch.testing.assert_close(tensor.dequantize(), torch.tensor(values, dtype=torch.float32))
    assert tensor.symbols[0, 0] == 0


def test_quantize_fixed_point_per_channel_zero_level_has_no_offsets():
    weight = random(6, 40) + torch.tensor([-5.0, -0.3, 0.0, 0.3, 5.0, 1.0])[:, None]
    tensor = quantize_fixed_point(weight, bits=3, per_channel=True, zero_level=True)
    assert tensor.offsets is None
    assert torch.equal(tensor.levels, tensor.levels.round())
    for row, found in zip(weight, tensor.dequantize(), strict=True):
        assert torch.equal(found, quantize_fixed_point(row, bits=3, zero_level=True).dequantize())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantize_fixed_point_per_channel_of_other_types(dtype, scheme):
    weight = random(5, 60).to(dtype)
    mask = random(5, 60, seed=1) > 0
    wanted = FixedPoint(4, scheme, per_channel=True)
    tensor = wanted.compressed(weight, mask)
    assert tensor.dtype == tensor.scales.dtype == dtype
    assert torch.equal(tensor.dequantize(), wanted.quantize(weight, mask))
    assert not tensor.dequantize()[~mask].any()
    error = (tensor.dequantize() - weight)[mask].abs().max()
    assert float(error) <= 0.6 * float(2 * weight.abs().max()) / 14


@given(
    st.lists(st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3), max_size=5),
    st.integers(2, 8),
    schemes,
    st.booleans(),
)
def test_quantize_fixed_point_per_channel_keeps_zeros_and_bounds(rows, bits, scheme, power_of_two):
    weight = torch.tensor(rows, dtype=torch.float32).reshape(-1, 3)
    kept = weight != 0
    wanted = FixedPoint(bits, scheme, per_channel=True, power_of_two=power_of_two)
    tensor, values = wanted.compressed(weight, kept), wanted.quantize(weight, kept)
    assert torch.equal(tensor.dequantize(), values)
    assert not values[~kept].any()
    assert len(tensor.levels) <= 2**bits
    spans = weight.amax(1) - weight.amin(1) if weight.numel() else weight.new_zeros(0)
    spans = torch.maximum(spans, 2 * weight.abs().amax(1)) if weight.numel() else spans
    error = torch.where(kept, (values - weight).abs(), 0).sum(1) / 3
    steps = 2 ** (bits - 1) - 1 if scheme == "symmetric" else 2**bits - 1
    assert bool((error <= spans / steps * (2 if power_of_two else 1) + 1e-6).all())


def test_quantize_fixed_point_per_channel_survives_a_file(tmp_path):
    tensor = quantize_fixed_point(random(32, 16, 3, 3), bits=4, per_channel=True)
    model = CompressedModel({"w": tensor})
    back = CompressedModel.from_bytes(model.to_bytes())["w"]
    assert torch.equal(back.dequantize(), tensor.dequantize())
    assert torch.equal(back.scales, tensor.scales)
    assert len(tensor.levels) == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_quantize_fixed_point_keeps_the_dtype(dtype):
    weight = random(100).to(dtype)
    tensor = quantize_fixed_point(weight, bits=8)
    assert tensor.dtype == dtype
    assert len(tensor.levels) > 60
    error = (tensor.dequantize() - weight).abs().max()
    assert float(error) <= 0.55 * float(weight.max() - weight.min()) / 255 + 0.01


def test_quantize_fixed_point_takes_masks_and_constant_or_empty_tensors():
    weight = torch.tensor([1.0, 2.0, -3.0])
    mask = torch.tensor([True, True, False])
    assert quantize_fixed_point(weight, bits=1, mask=mask).dequantize().tolist() == [1.0, 2.0, 0.0]
    same = torch.tensor([0.0, 2.5, 2.5])
    for scheme in SCHEMES:
        assert torch.equal(quantize_fixed_point(same, bits=3, scheme=scheme).dequantize(), same)
        assert not quantize_fixed_point(torch.zeros(3), bits=3, scheme=scheme).dequantize().any()
        assert quantize_fixed_point(torch.zeros(0, 2), bits=3, scheme=scheme).shape == (0, 2)


def test_from_values_keeps_every_bit():
    values = torch.tensor([[0.1, -0.0, 0.3], [0.1, -7.5, 1e-45]])
    tensor = CompressedTensor.from_values(values)
    assert tensor.symbols.tolist() == [[3, 0, 4], [3, 1, 2]]
    assert torch.equal(tensor.dequantize(), values)
    with pytest.raises(ModelError, match="at most 65535 levels; found 65536"):
        CompressedTensor.from_values(torch.arange(1.0, 65_537.0))
    with pytest.raises(ModelError, match="NaN"):
        CompressedTensor.from_values(torch.tensor([math.nan]))


FAR_APART = [
    (torch.float16, 6e4, {"bits": 1, "per_channel": True}, "from -60000 to 60000 .* 65504"),
    (torch.float16, 6e4, {"bits": 2, "scheme": "symmetric", "power_of_two": True}, "65504"),
    (torch.float32, 3e38, {"bits": 2}, r"from -3e\+38 to 3e\+38 .* 3.40282e\+38"),
    (torch.float32, 3e38, {"bits": 2, "zero_level": True}, "too far apart"),
    (torch.float32, 3e38, {"bits": 2, "power_of_two": True}, "too far apart"),
    (torch.float32, 3e38, {"bits": 2, "zero_level": True, "power_of_two": True}, "too far apart"),
    (
        torch.float32,
        3e38,
        {"bits": 2, "scheme": "symmetric-no-zero", "power_of_two": True},
        "too far apart",
    ),
    (
        torch.float32,
        3e38,
        {"bits": 2, "scheme": "symmetric-no-zero", "per_channel": True},
        "too far apart",
    ),
    (torch.bfloat16, 3e38, {"bits": 2}, "bfloat16"),
    (torch.float64, 1e308, {"bits": 2}, "float64"),
]


@pytest.mark.parametrize(("dtype", "most", "settings", "message"), FAR_APART)
def test_quantize_fixed_point_refuses_a_range_too_wide(dtype, most, settings, message):
    weight = torch.tensor([[most, -most, most / 2], [0.0, -most / 3, 1.0]], dtype=dtype)
    with pytest.raises(ModelError, match=message):
        quantize_fixed_point(weight, **settings)
    assert not torch.isfinite(FixedPoint(**settings).quantize(weight, weight != 0)).all()


def test_quantize_fixed_point_takes_a_wide_range_that_fits():
    half = torch.tensor([[6e4, -6e4], [0.0, -6e4]], dtype=torch.float16)
    assert torch.equal(quantize_fixed_point(half, bits=1).dequantize(), half)
    assert torch.equal(quantize_fixed_point(half, bits=2, scheme="symmetric").dequantize(), half)
    full = torch.tensor([3e38, 1e38, 0.0, -3e38])
    found = quantize_fixed_point(full, bits=2, scheme="symmetric").dequantize()
    torch.testing.assert_close(found, torch.tensor([3e38, 0.0, 0.0, -3e38]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "uniform, takes 1 to 8 bits; found 0"),
        ({"bits": 9}, "takes 1 to 8 bits"),
        ({"bits": 1, "scheme": "symmetric"}, "symmetric, takes 2 to 8 bits; found 1"),
        ({"bits": 4, "scheme": "wide"}, "'wide' is unknown; choose one of uniform, symmetric"),
        (
            {"bits": 4, "scheme": "symmetric", "zero_level": True},
            "zero_level is for the scheme 'uniform'",
        ),
        ({"bits": 4, "per_channel": True}, "needs two dimensions"),
        ({"bits": 4, "mask": torch.ones(2, dtype=torch.bool)}, "mask has shape"),
    ],
)
def test_quantize_fixed_point_refuses_impossible_arguments(arguments, message):
    with pytest.raises(ModelError, match=message):
        quantize_fixed_point(torch.ones(3), **arguments)
    for broken in (math.nan, math.inf):
        weight = torch.tensor([broken, 1.0])
        with pytest.raises(ModelError, match="weights hold NaN"):
            quantize_fixed_point(weight, bits=2)
        with pytest.raises(ModelError, match="weights hold NaN"):
            FixedPoint(2).compressed(weight, weight != 0)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str
)
def test_quantization_refuses_other_types_than_floats(dtype):
    weight = torch.tensor([-2, 1, 3]).to(dtype)
    for work in (quantize_fixed_point, quantize_kmeans):
        with pytest.raises(ModelError, match=f"weights of {dtype} cannot be quantized; give flo"):
            work(weight, bits=2)
