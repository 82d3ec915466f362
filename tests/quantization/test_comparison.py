"""Tests of the comparison of quantization schemes."""

import math

import pytest
import torch

from flyweight.errors import ModelError
from flyweight.quantization import compare_schemes, quantize_kmeans


def weights():
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.randn(4000, generator=generator), "b": torch.full((1000,), 3.0)}


def test_compare_schemes_averages_over_all_weights():
    exact = weights()
    (found,) = (point for point in compare_schemes(exact, bits=[3]) if point.scheme == "k-means")
    shared = quantize_kmeans(exact["a"], bits=3, init="optimal")
    lost = (shared.dequantize() - exact["a"]).double().square().sum()
    error = float(lost / exact["a"].double().square().sum())
    assert found.error == pytest.approx(0.8 * error)  # "b" loses nothing
    shares = torch.bincount(shared.symbols)[1:] / 4000
    bits = -sum(float(p) * math.log2(p) for p in shares)
    assert found.bits_per_weight == pytest.approx(0.8 * bits, rel=1e-5)


def test_compare_schemes_error_falls_with_bits():
    found = compare_schemes({"a": weights()["a"]})
    schemes = {point.scheme for point in found}
    assert len(schemes) == 8
    for scheme in schemes:
        errors = [point.error for point in found if point.scheme == scheme]
        assert errors == sorted(errors, reverse=True)
        rates = [point.bits_per_weight for point in found if point.scheme == scheme]
        assert rates == sorted(rates)
    at_four = {point.scheme: point for point in found if point.bits == 4}
    # Rate-distortion optimized quantization is nearest to the bound of Shannon.
    gaps = {s: point.error * 4**point.bits_per_weight for s, point in at_four.items()}
    assert min(gaps, key=gaps.__getitem__) == "rate and distortion"
    assert all(1 < gap < 2 for gap in gaps.values())


def test_compare_schemes_per_channel_has_less_error():
    weight = weights()["a"].view(40, 100) * torch.logspace(-2, 0, 40)[:, None]
    found = {p.scheme: p for p in compare_schemes({"a": weight, "empty": weight[:0]}, bits=[4])}
    for scheme in ("uniform", "symmetric", "symmetric-no-zero"):
        alone, each = found[scheme], found[f"{scheme} per channel"]
        assert each.error < alone.error / 2
        assert each.bits_per_weight > alone.bits_per_weight


def test_compare_schemes_refuses_no_weights():
    for none in ({}, {"a": torch.zeros(0, 3)}):
        with pytest.raises(ModelError, match="no weights to quantize"):
            compare_schemes(none)
