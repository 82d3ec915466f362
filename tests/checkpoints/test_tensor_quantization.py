"""Quantized tensors are never worse than rounding each row by its largest value."""

import numpy as np
import pytest
import torch

from flyweight.checkpoints import quantize_tensor
from flyweight.coding import decode_tensor, entropy

ROWS = 256
CASES = {
    "normal": lambda draw: draw.normal(size=(512, 512)),
    "laplace": lambda draw: draw.laplace(size=(ROWS, 512)),
    "heavy tails": lambda draw: draw.standard_t(3, size=(ROWS, 512)),
    "scaled rows": lambda draw: draw.normal(size=(512, 256)) * np.exp(draw.normal(size=(512, 1))),
    "sparse": lambda draw: draw.normal(size=(ROWS, 512)) * (draw.random((ROWS, 512)) < 0.1),
    "tiny values": lambda draw: (
        np.where(draw.random((ROWS, 512)) < 0.6, 1e-9, 1) * draw.normal(size=(ROWS, 512))
    ),
    "outlier": lambda draw: (
        np.where(np.arange(ROWS * 512) == 1541, 1e4, 1).reshape(ROWS, 512)
        * draw.normal(size=(ROWS, 512))
    ),
    "outlying column": lambda draw: (
        draw.normal(size=(ROWS, 512)) * np.where(np.arange(512) == 3, 100, 1)
    ),
    "depthwise": lambda draw: (
        draw.normal(size=(1024, 1, 3, 3)) * np.exp(draw.normal(size=(1024, 1, 1, 1)))
    ),
    "small kernels": lambda draw: draw.normal(size=(64, 32, 3, 3)),
    "zero rows": lambda draw: draw.normal(size=(ROWS, 512)) * (np.arange(ROWS) % 2)[:, None],
    "one row": lambda draw: draw.normal(size=(1, 8192)),
    "pairs": lambda draw: draw.normal(size=(4096, 2)),
}


def encoded(*arguments, effort):
    tensor = quantize_tensor(*arguments)
    return tensor and tensor.encode(effort=effort)


def made(name):
    return CASES[name](np.random.default_rng(0)).astype(np.float32)


def errors(weight, values):
    """Relative error over all, and the root mean square of that of each row."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    lost = np.square(rows - values.reshape(rows.shape)).sum(axis=1)
    power = np.square(rows).sum(axis=1)
    used = power > 0
    return np.sqrt([lost.sum() / power.sum(), (lost[used] / power[used]).mean()])


def plain_rounding(weight, bits):
    """Round each row to multiples of its largest value over 2^(bits - 1) - 1."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    scales = np.abs(rows).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    integers = np.rint(rows / np.where(scales > 0, scales, 1))
    counts = np.unique(integers, return_counts=True)[1]
    return (integers * scales).reshape(weight.shape), entropy(counts) / 8 + 4 * len(scales)


@pytest.mark.parametrize("bits", [6, 7, 8])
@pytest.mark.parametrize("name", CASES)
def test_quantize_tensor_is_not_worse_than_rounding_rows_at_equal_bytes(name, bits):
    weight = made(name)
    tensor = encoded("w", weight, "float32", bits, "auto", effort="balanced")
    ours = errors(weight, decode_tensor(tensor))
    values, plain_bytes = plain_rounding(weight, bits)
    theirs = errors(weight, values)
    # One bit more for each nonzero value halves an error; levels and tables take about 3 bytes.
    saved = 8 * (plain_bytes - (tensor.stored_bytes - 3 * tensor.levels))
    at_equal_bytes = ours * 2 ** (-saved / np.count_nonzero(weight))
    assert (at_equal_bytes <= 1.02 * theirs).all()
    if name != "pairs":  # whose rows are too short for a scale of their own
        assert (ours <= 1.1 * theirs).all()


def test_quantize_tensor_at_8_bits_is_better_than_kmeans_at_equal_bytes():
    weight = made("normal")
    ours = encoded("w", weight, "float32", 8, "auto", effort="balanced")
    kmeans = encoded("w", weight, "float32", 8, "kmeans", effort="balanced")
    saved = 8 * (kmeans.stored_bytes - ours.stored_bytes) / weight.size  # bits a value
    at_equal_bytes = errors(weight, decode_tensor(ours)) * 2**-saved
    assert (at_equal_bytes < 0.95 * errors(weight, decode_tensor(kmeans))).all()


@pytest.mark.parametrize("grid", ["auto", "kmeans", "uniform"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_quantize_tensor_with_an_outlier_keeps_the_others(grid, bits, dtype):
    weight = torch.from_numpy(made("normal")[:64] * 0.02).to(getattr(torch, dtype))
    weight[3, 5] = 5e4
    stored = (weight.view(torch.uint16) if dtype == "bfloat16" else weight).numpy()
    tensor = encoded("w", stored, dtype, bits, grid, effort="fast")
    values = torch.from_numpy(decode_tensor(tensor))
    values = (values.view(torch.bfloat16) if dtype == "bfloat16" else values).double()
    assert values[3, 5] == pytest.approx(5e4, rel=0.004)
    weight[3, 5] = values[3, 5] = 0
    error = ((values - weight.double()).norm() / weight.double().norm()).item()
    assert error < {2: 0.45, 4: 0.13, 8: 0.08 if grid == "kmeans" else 0.009}[bits]


def test_quantize_tensor_scales_rows_only_where_that_pays():
    draw = np.random.default_rng(1)
    even = draw.normal(size=(64, 256)).astype(np.float32)
    uneven = even * np.exp(2 * draw.normal(size=(64, 1))).astype(np.float32)
    for bits in (3, 5, 8):
        assert not encoded("w", even, "float32", bits, "auto", effort="fast").scaled
        tensor = encoded("w", uneven, "float32", bits, "auto", effort="fast")
        assert tensor.scaled
        assert tensor.storage == "float16"  # two bytes a scale
        assert errors(uneven, decode_tensor(tensor))[1] < {3: 0.21, 5: 0.06, 8: 0.0085}[bits]


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_quantize_tensor_keeps_values_that_are_as_few_as_its_levels(bits):
    draw = np.random.default_rng(2)
    weight = draw.choice(draw.normal(size=16).astype(np.float32), size=(64, 256))
    tensor = encoded("w", weight, "float32", bits, "auto", effort="balanced")
    assert np.array_equal(decode_tensor(tensor), weight)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_quantize_tensor_has_the_error_of_the_best_levels(bits):
    weight = made("normal")
    tensor = encoded("w", weight, "float32", bits, "auto", effort="balanced")
    best = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}[bits]  # Max 1960, table I
    assert errors(weight, decode_tensor(tensor))[0] ** 2 == pytest.approx(best, rel=0.04)
    kmeans = encoded("w", weight, "float32", bits, "kmeans", effort="balanced")
    assert tensor.stored_bytes < kmeans.stored_bytes


@pytest.mark.parametrize("name", ["sparse", "tiny values", "depthwise", "outlier", "zero rows"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_quantize_tensor_keeps_zeros_and_signs(name, bits):
    weight = made(name)
    values = decode_tensor(encoded("w", weight, "float32", bits, "auto", effort="fast"))
    assert not values[weight == 0].any()
    assert (values * weight >= 0).all()


def test_quantize_tensor_gives_none_for_what_has_no_scale():
    for weight in (np.zeros((64, 64)), np.full((64, 64), np.nan), np.full((64, 64), np.inf)):
        made_of = weight.astype(np.float32)
        assert encoded("w", made_of, "float32", 4, "auto", effort="fast") is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("scale", [1e-7, 1e-30, 1e4, 1e30])
@pytest.mark.parametrize("bits", [2, 8])
def test_quantize_tensor_works_at_the_ends_of_the_range(dtype, scale, bits):
    weight = torch.from_numpy(made("normal")[:64] * scale).to(getattr(torch, dtype))
    weight = torch.nan_to_num(weight, posinf=0, neginf=0)
    stored = (weight.view(torch.uint16) if dtype == "bfloat16" else weight).numpy()
    tensor = encoded("w", stored, dtype, bits, "auto", effort="fast")
    if tensor is None:
        assert not weight.any()
        return
    values = torch.from_numpy(decode_tensor(tensor))
    values = (values.view(torch.bfloat16) if dtype == "bfloat16" else values).double()
    assert values.isfinite().all()
    error = (values - weight.double()).norm() / weight.double().norm()
    assert error < {2: 0.43, 8: 0.03}[bits]


def test_quantize_tensor_compares_grids_on_a_sample_of_large_tensors():
    draw = np.random.default_rng(3)
    weight = draw.normal(size=(3000, 1000)).astype(np.float32)
    tensor = encoded("w", weight, "float32", 4, "auto", effort="fast")
    assert not tensor.scaled
    weight *= np.exp(draw.normal(size=(3000, 1))).astype(np.float32)
    tensor = encoded("w", weight, "float32", 4, "auto", effort="fast")
    assert tensor.scaled
    assert errors(weight, decode_tensor(tensor))[1] < 0.11
    wide = weight.reshape(4, -1)
    assert errors(wide, decode_tensor(encoded("w", wide, "float32", 4, "auto", effort="fast")))[
        0
    ] == pytest.approx(0.09, abs=0.03)
