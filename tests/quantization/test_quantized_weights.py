"""Tests of quantized weights in training."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from flyweight.errors import ModelError
from flyweight.modules import attach_, detach_
from flyweight.quantization import (
    BinaryWeight,
    FixedPoint,
    FixedPointWeight,
    LearnedStepWeight,
    TernaryWeight,
    quantize_fixed_point,
)

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
}
# The parametrization, and the largest number of levels other than zero.
KINDS = {
    "uniform": (lambda w, m: FixedPointWeight(m, FixedPoint(2)), 4),
    "symmetric": (lambda w, m: FixedPointWeight(m, FixedPoint(3, "symmetric")), 6),
    "symmetric-no-zero": (lambda w, m: FixedPointWeight(m, FixedPoint(2, "symmetric-no-zero")), 4),
    "learned step": (lambda w, m: LearnedStepWeight(w, m, bits=2), 3),
    "ternary": (lambda w, m: TernaryWeight(w, m, threshold=0.1), 2),
    "binary": (lambda w, m: BinaryWeight(m), 2),
    "uniform, channels": (lambda w, m: FixedPointWeight(m, FixedPoint(2, per_channel=True)), 4),
    "symmetric, channels": (
        lambda w, m: FixedPointWeight(m, FixedPoint(3, "symmetric", per_channel=True)),
        6,
    ),
    "learned step, channels": (lambda w, m: LearnedStepWeight(w, m, bits=2, per_channel=True), 3),
    "binary, channels": (lambda w, m: BinaryWeight(m, per_channel=True), 2),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def train(model, optimizer, steps=40):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 6)).square().mean() - model(torch.randn(16, 6)).mean()
        loss.backward()
        optimizer.step()


def attached(kind, model, mask):
    parametrization = KINDS[kind][0](model[0].weight, mask)
    attach_(model, {"0.weight": parametrization})
    return parametrization


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weight_keeps_zeros_and_few_levels(kind, name):
    model = network()
    mask = torch.rand(8, 6) < 0.4
    parametrization = attached(kind, model, mask)
    optimizer = OPTIMIZERS[name](model.parameters())
    before = model.state_dict()["0.parametrizations.weight.original"].clone()
    for _ in range(5):
        train(model, optimizer, 8)
        assert not model[0].weight[~mask].any()
    dense = model[0].parametrizations.weight.original
    assert (dense[mask] != before[mask]).any()
    for row, kept in zip(model[0].weight, mask, strict=True):
        assert len(row[kept].unique()) <= KINDS[kind][1] + 1
    if "channels" not in kind:
        assert 1 <= len(model[0].weight[mask].unique()) - 1 <= KINDS[kind][1]
    tensor = parametrization.compressed(dense)
    assert torch.equal(tensor.dequantize(), model[0].weight)
    assert len(tensor.levels) <= KINDS[kind][1]
    detach_(model, ["0.weight"])
    assert torch.equal(model[0].weight, tensor.dequantize())
    assert set(model.state_dict()) == set(network().state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weight_gives_pruned_weights_no_gradient(kind):
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attached(kind, model, mask)
    copied = copy.deepcopy(model)
    other = network()
    attached(kind, other, torch.ones_like(mask))
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(copied(x), model(x))
    assert torch.equal(other(x), model(x))
    model(x).square().sum().backward()
    gradient = model[0].parametrizations.weight.original.grad
    assert not gradient[~mask].any()
    assert gradient[mask].any()


@pytest.mark.parametrize("scheme", ["uniform", "symmetric", "symmetric-no-zero"])
def test_fixed_point_weight_has_a_straight_through_gradient(scheme):
    weight = nn.Parameter(torch.tensor([0.5, -1.0, 0.3, 0.9, 0.0]))
    mask = torch.tensor([True, True, False, True, True])
    layer = FixedPointWeight(mask, FixedPoint(2, scheme))
    seen = layer(weight)
    kept = weight.detach()[:4]
    wanted = quantize_fixed_point(kept, bits=2, scheme=scheme, mask=mask[:4]).dequantize()
    assert torch.equal(seen[:4], wanted)
    (seen * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert weight.grad.tolist() == [1.0, 2.0, 0.0, 4.0, 5.0]
    layer.set_bits_(8)
    assert float((layer(weight) - weight).detach()[mask].abs().max()) < 0.01


def test_learned_step_weight_by_hand():
    weight = nn.Parameter(torch.tensor([0.0, 0.6, -1.4, 9.0, -9.0, 0.3, 5.0]))
    mask = torch.tensor([True] * 6 + [False])
    layer = LearnedStepWeight(weight, mask, bits=3)
    mean = (0.6 + 1.4 + 9 + 9 + 0.3) / 6
    assert float(layer.step.detach()) == pytest.approx(2 * mean / math.sqrt(3))
    layer.step.data.fill_(1.0)
    seen = layer(weight)
    assert seen.tolist() == [0.0, 1.0, -1.0, 3.0, -4.0, 0.0, 0.0]
    seen.backward(torch.tensor([1.0, 1.0, 10.0, 100.0, 1000.0, 1.0, 1e6]))
    assert weight.grad.tolist() == [1.0, 1.0, 10.0, 0.0, 0.0, 1.0, 0.0]
    # Inside: rounding error; outside: the end. All by 1/sqrt(6 kept weights times 3).
    wanted = 0 + 0.4 + 10 * 0.4 + 100 * 3 - 1000 * 4 - 0.3
    assert float(layer.step.grad) == pytest.approx(wanted / math.sqrt(18), rel=1e-5)


def test_learned_step_weight_per_channel_changes_bits():
    weight = torch.randn(3, 4, 2) * torch.tensor([0.1, 1.0, 10.0])[:, None, None]
    mask = torch.ones(3, 4, 2, dtype=torch.bool)
    layer = LearnedStepWeight(weight, mask, bits=4, per_channel=True)
    for row, one in zip(weight, layer.step, strict=True):
        alone = LearnedStepWeight(row, mask[0], bits=4)
        torch.testing.assert_close(alone.step.detach(), one.detach())
    seen = layer(nn.Parameter(weight))
    seen.sum().backward()
    assert layer.step.grad.shape == (3,)
    steps = layer.step.detach().clone()
    layer.set_bits_(3)
    torch.testing.assert_close(layer.step.detach(), steps * 7 / 3)
    other = LearnedStepWeight(weight, mask, bits=4, per_channel=True)
    other.load_state_dict(layer.state_dict())
    assert other.bits == 3
    assert torch.equal(other(weight), layer(weight))


def test_learned_step_weight_takes_negative_steps():
    weight, mask = torch.tensor([0.5, -2.0]), torch.tensor([True, True])
    layer = LearnedStepWeight(weight, mask, bits=2)
    layer.step.data.fill_(-1.0)
    assert layer(weight).tolist() == [0.0, -2.0]
    layer.step.data.fill_(0.0)
    assert torch.isfinite(layer(weight)).all()


def test_ternary_weight_by_hand():
    weight = nn.Parameter(torch.tensor([2.0, 1.0, 0.1, -0.1, -1.0, 50.0]))
    mask = torch.tensor([True] * 5 + [False])
    layer = TernaryWeight(weight, mask, threshold=0.1)
    seen = layer(weight)
    assert seen.tolist() == [1.5, 1.5, 0.0, 0.0, -1.0, 0.0]
    layer.negative.data.fill_(3.0)
    seen = layer(weight)
    assert seen.tolist() == [1.5, 1.5, 0.0, 0.0, -3.0, 0.0]
    seen.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    share = 5**-0.5  # of the five weights that are kept
    assert layer.positive.grad.tolist() == pytest.approx(3 * share)
    assert layer.negative.grad.tolist() == pytest.approx(-16 * share)
    assert weight.grad.tolist() == [1.5, 3.0, 4.0, 8.0, 48.0, 0.0]


def test_binary_weight_by_hand():
    weight = torch.tensor([[1.0, -3.0, 7.0], [-0.5, 0.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    assert BinaryWeight(mask)(weight).tolist() == [[1.125, -1.125, 0], [-1.125, 1.125, 0]]
    found = BinaryWeight(mask, per_channel=True)(weight)
    assert found.tolist() == [[2.0, -2.0, 0.0], [-0.25, 0.25, 0.0]]


def test_scales_of_many_16_bit_weights_are_finite():
    weight = torch.full((1_100_000,), 0.1, dtype=torch.float16)
    mask = torch.ones(weight.shape, dtype=torch.bool)
    assert torch.equal(BinaryWeight(mask)(weight), weight)
    step = LearnedStepWeight(weight, mask, bits=2).step.detach()
    assert step.dtype == torch.float16
    assert float(step) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weight_of_a_pruned_layer_is_zero(kind):
    model = network()
    attached(kind, model, torch.zeros(8, 6, dtype=torch.bool))
    train(model, OPTIMIZERS["sgd"](model.parameters()), 3)
    assert not model[0].weight.any()
    assert torch.isfinite(model[0].parametrizations.weight.original).all()


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weight_trains_under_autocast(kind):
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attached(kind, model, mask)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 6)).float().square().sum().backward()
    assert model[0].parametrizations.weight.original.grad[mask].any()
    assert parametrize.is_parametrized(model[0], "weight")


def test_quantized_weights_refuse_impossible_arguments():
    weight, mask = torch.ones(2), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ModelError, match="takes 2 to 8 bits; found 1"):
        LearnedStepWeight(weight, mask, bits=1)
    with pytest.raises(ModelError, match=r"from 0 up to 1; found 1\.5"):
        TernaryWeight(weight, mask, threshold=1.5)


@pytest.mark.parametrize("gradient", [math.inf, math.nan])
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weight_keeps_pruned_weights_from_gradients_that_are_not_finite(kind, gradient):
    model = network()
    mask = torch.rand(8, 6) < 0.5
    parametrization = attached(kind, model, mask)
    dense = model[0].parametrizations.weight.original
    model[0].weight.backward(torch.where(mask, 1.0, gradient))
    assert not dense.grad[~mask].any()
    assert all(bool(torch.isfinite(p.grad).all()) for p in parametrization.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_learned_step_weight_scales_its_floor_with_the_weights(dtype):
    weight = torch.tensor([-3e-6, 1e-6, 2e-6, 4e-6]).to(dtype)
    layer = LearnedStepWeight(weight, torch.ones(4, dtype=torch.bool), bits=4)
    step = float(layer.step.detach())
    assert 0 < step < 1e-5
    torch.testing.assert_close(layer(weight).detach(), weight, rtol=0.01, atol=0.51 * step)
    layer.step.data.zero_()
    assert torch.isfinite(layer(weight)).all()
