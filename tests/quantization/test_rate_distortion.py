"""Tests of rate-distortion optimized quantization."""

import itertools
import math

import numpy as np
import pytest
import torch

from flyweight import _native
from flyweight.coding import encode_shared
from flyweight.errors import ModelError
from flyweight.quantization import (
    check_loss_per_bit,
    code_bits,
    quantize_kmeans,
    rate_distortion,
    rdoq,
    steps_at_loss_per_bit,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coded_bytes(tensor):
    coded = encode_shared("w", tensor.symbols.numpy(), levels=tensor.levels.numpy(), coder="rans")
    return len(coded.parts["symbols"])


def test_code_bits_are_those_of_the_coder():
    codes = torch.tensor([0, 0, 0, 0, 1, 1, -2, 2])
    bits = code_bits(codes, 2)
    assert float(bits[2]) == pytest.approx(1.0, abs=0.1)
    assert float(bits[3]) == pytest.approx(2.0, abs=0.1)
    assert float(bits[1]) > 5  # does not occur
    weight = random(30_000)
    tensor = rdoq(weight, step=0.3, loss_per_bit=0.0)
    codes = torch.round(weight / 0.3)
    expected = float(code_bits(codes, 16)[(codes + 16).long()].sum()) / 8
    assert coded_bytes(tensor) == pytest.approx(expected, rel=0.01)


def test_rdoq_without_loss_per_bit_rounds_to_the_nearest_level():
    weight = torch.tensor([0.0, 0.4, 0.6, 0.9, -1.2, -2.4])
    tensor = rdoq(weight, step=1.0, loss_per_bit=0.0)
    torch.testing.assert_close(
        tensor.dequantize(), torch.tensor([0.0, 0.0, 0.75, 0.75, -1.2, -2.4])
    )


def test_rdoq_saves_bytes_at_a_loss_per_bit():
    weight = random(20_000)
    found = [
        rdoq(weight, step=0.5, loss_per_bit=loss_per_bit) for loss_per_bit in (0.0, 0.01, 0.03, 0.1)
    ]
    sizes = [coded_bytes(tensor) for tensor in found]
    errors = [float((tensor.dequantize() - weight).square().mean()) for tensor in found]
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert sizes[3] < 0.95 * sizes[0]


def test_rdoq_takes_fewer_bytes_than_kmeans_at_equal_error():
    weight = random(20_000)
    shared = quantize_kmeans(weight, bits=4, init="optimal")
    error = float((shared.dequantize() - weight).square().mean())
    grid = rdoq(weight, step=math.sqrt(12 * error), loss_per_bit=0.1 * error)
    assert float((grid.dequantize() - weight).square().mean()) <= 1.02 * error
    assert coded_bytes(grid) < 0.97 * coded_bytes(shared)


def test_rdoq_codes_cost_least():
    weight = torch.tensor([0.3, 0.45, 0.52, 0.9, -0.6, 1.4, 0.0, 0.0])
    loss_per_bit, step = 0.05, 0.5
    tensor = rdoq(weight, step=step, loss_per_bit=loss_per_bit)
    codes = tensor.dequantize().sign() * (tensor.dequantize().abs() / step).round()
    bits = code_bits(codes, 4)

    def cost(some):
        return float(((weight - some * step) ** 2 + loss_per_bit * bits[(some + 4).long()]).sum())

    others = itertools.product(*[range(-3, 4) for _ in range(3)])
    for codes_of_first in others:
        changed = codes.clone()
        changed[:3] = torch.tensor(codes_of_first)
        near = (changed[:3].abs() <= torch.round(weight[:3] / step).abs()).all()
        if near and (changed[:3] * weight[:3] >= 0).all():
            assert cost(codes) <= cost(changed) + 1e-9


def test_rdoq_keeps_zeros_and_weighs_errors():
    weight = random(500)
    mask = random(500, seed=1) > 0
    tensor = rdoq(weight, step=0.2, loss_per_bit=0.05, mask=mask)
    assert not tensor.dequantize()[~mask].any()
    importance = torch.where(random(500, seed=2) > 0, 10.0, 0.1)
    found = rdoq(weight, step=0.2, loss_per_bit=0.05, weights=importance).dequantize()
    error = (found - weight).square()
    assert float(error[importance > 1].mean()) < 0.5 * float(error[importance < 1].mean())


def test_steps_at_loss_per_bit_cost_least():
    sensitivities, loss_per_bit = {"a": 2.0, "b": 0.1}, 1e-4
    steps = steps_at_loss_per_bit(sensitivities, loss_per_bit)
    for name, sensitivity in sensitivities.items():

        def cost(step, sensitivity=sensitivity):
            return sensitivity * step**2 / 12 - loss_per_bit * math.log2(step)

        assert cost(steps[name]) < min(cost(0.99 * steps[name]), cost(1.01 * steps[name]))
    with pytest.raises(ModelError, match="above 0"):
        steps_at_loss_per_bit({"a": 0.0}, 1.0)


def test_rdoq_refuses_impossible_arguments():
    for step, loss_per_bit in ((0.0, 0.0), (math.inf, 0.0), (math.nan, 0.0), (1.0, math.nan)):
        with pytest.raises(ModelError, match=f"a step is above 0.*found {step} and {loss_per_bit}"):
            rdoq(torch.ones(2), step=step, loss_per_bit=loss_per_bit)
    with pytest.raises(ModelError, match="give a larger one"):
        rdoq(torch.ones(2), step=1e-6, loss_per_bit=0.0)
    for shape in ((3,), (2, 1), (1, 1)):
        with pytest.raises(ModelError, match="weights of the error have shape"):
            rdoq(torch.ones(2), step=1.0, loss_per_bit=0.1, weights=torch.ones(shape))
    for weights in (-1.0, math.nan, torch.tensor([1.0, -1.0])):
        with pytest.raises(ModelError, match="weights of the error are finite, 0 or more"):
            rdoq(torch.ones(2), step=1.0, loss_per_bit=0.1, weights=weights)


@pytest.mark.parametrize("loss_per_bit", [0.0, -1.0, math.nan, math.inf])
def test_check_loss_per_bit_refuses_impossible_values(loss_per_bit):
    with pytest.raises(ModelError, match=f"is finite and above 0; found {loss_per_bit}"):
        check_loss_per_bit(loss_per_bit)


@pytest.mark.parametrize("weighted", [True, False])
def test_rdoq_gives_the_same_in_pieces(monkeypatch, weighted):
    weight, mask = random(30, 50), random(30, 50, seed=1) > -1
    weights = random(30, 50, seed=2).abs() if weighted else 1.0
    found = []
    for piece in (1 << 20, 37):
        monkeypatch.setattr(rate_distortion, "_PIECE", piece)
        found.append(rdoq(weight, step=0.3, loss_per_bit=0.02, mask=mask, weights=weights))
    assert torch.equal(found[0].symbols, found[1].symbols)
    torch.testing.assert_close(found[0].levels, found[1].levels)


@pytest.mark.parametrize("loss_per_bit", [0.0, 0.02, 0.2])
def test_rdoq_chooses_as_all_weights_at_once(loss_per_bit):
    weight, weights, step = random(3000).double(), random(3000, seed=1).abs().double(), 0.3
    codes = torch.round(weight / step)
    largest = int(codes.abs().max())
    choices = torch.stack([codes, codes - codes.sign(), 0 * codes])
    for _ in range(20 if loss_per_bit else 0):
        bits = code_bits(codes, largest)[(choices + largest).long()]
        costs = weights * (weight - choices * step) ** 2 + loss_per_bit * bits
        codes = choices.gather(0, costs.argmin(0)[None])[0]
    found = rdoq(weight, step=step, loss_per_bit=loss_per_bit, weights=weights).dequantize()
    for code in codes.unique():
        same, some = codes == code, weights * (codes == code)
        level = float((some * weight).sum() / some.sum()) if code else 0.0
        torch.testing.assert_close(found[same], torch.full_like(found[same], level))


def test_tensor_of_codes_merges_levels_that_the_dtype_does_not_tell_apart():
    codes = torch.tensor([-1, 0, 1, 2])
    levels = torch.tensor([math.nan, -1e-9, 0.0, 1.0, 1.0 + 1e-12]).double()
    tensor = rate_distortion.tensor_of_codes(codes, 2, levels, torch.ones(4))
    assert tensor.symbols.tolist() == [1, 0, 2, 2]
    assert tensor.levels.tolist() == [torch.tensor(-1e-9).item(), 1.0]


def test_native_rdoq_refuses_buffers_that_do_not_match():
    def run(factors=None, bits=3, codes=4):
        ratios, chosen = np.zeros(4), np.zeros(codes, np.int32)
        return _native.rdoq(ratios, factors, np.zeros(bits), chosen, 0.0)

    assert run() == 0
    for wrong in ({"factors": np.zeros(3)}, {"bits": 4}, {"bits": 0}, {"codes": 3}):
        with pytest.raises(ValueError, match="buffers do not match"):
            run(**wrong)
