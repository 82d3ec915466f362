"""Quantised weights in training: gradients by hand, few values, zeros that stay."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from flyweight.errors import ModelError
from flyweight.quantization import (
    BinaryWeight,
    FixedPointWeight,
    LearnedStepWeight,
    TernaryWeight,
)
from flyweight.modules import attach_, detach_
from flyweight.quantization import FixedPoint, quantize_fixed_point

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
}
# What it is made of, and how many values other than zero there are at most.
KINDS = {
    "uniform": (lambda w, m: FixedPointWeight(m, FixedPoint(2)), 4),
    "symmetric": (lambda w, m: FixedPointWeight(m, FixedPoint(3, "symmetric")), 6),
    "symmetric-no-zero": (lambda w, m: FixedPointWeight(m, FixedPoint(2, "symmetric-no-zero")), 4),
    "learned step": (lambda w, m: LearnedStepWeight(w, m, bits=2), 3),
    "ternary": (lambda w, m: TernaryWeight(w, m, threshold=0.1), 2),
    "binary": (lambda w, m: BinaryWeight(m), 2),
    "asymmetric, channels": (lambda w, m: FixedPointWeight(m, FixedPoint(2, per_channel=True)), 4),
    "narrow, channels": (
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
def test_zeros_survive_and_values_stay_few(kind, name):
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
def test_pruned_weights_get_no_gradient_and_copies_are_whole(kind):
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
def test_fixed_point_is_what_the_function_gives_and_its_gradient_goes_straight(scheme):
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


def test_a_learned_step_by_hand():
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


def test_a_learned_step_for_each_channel_and_another_number_of_bits():
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


def test_a_step_that_training_makes_negative_is_still_a_step():
    weight, mask = torch.tensor([0.5, -2.0]), torch.tensor([True, True])
    layer = LearnedStepWeight(weight, mask, bits=2)
    layer.step.data.fill_(-1.0)
    assert layer(weight).tolist() == [0.0, -2.0]
    layer.step.data.fill_(0.0)
    assert torch.isfinite(layer(weight)).all()


def test_ternary_by_hand():
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


def test_binary_by_hand():
    weight = torch.tensor([[1.0, -3.0, 7.0], [-0.5, 0.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    assert BinaryWeight(mask)(weight).tolist() == [[1.125, -1.125, 0], [-1.125, 1.125, 0]]
    found = BinaryWeight(mask, per_channel=True)(weight)
    assert found.tolist() == [[2.0, -2.0, 0.0], [-0.25, 0.25, 0.0]]


def test_scales_of_many_weights_of_16_bits_are_finite():
    weight = torch.full((1_100_000,), 0.1, dtype=torch.float16)
    mask = torch.ones(weight.shape, dtype=torch.bool)
    assert torch.equal(BinaryWeight(mask)(weight), weight)
    step = LearnedStepWeight(weight, mask, bits=2).step.detach()
    assert step.dtype == torch.float16
    assert float(step) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_without_kept_weights_is_zero(kind):
    model = network()
    attached(kind, model, torch.zeros(8, 6, dtype=torch.bool))
    train(model, OPTIMIZERS["sgd"](model.parameters()), 3)
    assert not model[0].weight.any()
    assert torch.isfinite(model[0].parametrizations.weight.original).all()


@pytest.mark.parametrize("kind", KINDS)
def test_in_half_precision_too(kind):
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attached(kind, model, mask)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 6)).float().square().sum().backward()
    assert model[0].parametrizations.weight.original.grad[mask].any()
    assert parametrize.is_parametrized(model[0], "weight")


def test_the_impossible_is_refused_in_words():
    weight, mask = torch.ones(2), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ModelError, match="takes 2 to 8 bits; 1 were"):
        LearnedStepWeight(weight, mask, bits=1)
    with pytest.raises(ModelError, match=r"from 0 up to 1; found 1\.5"):
        TernaryWeight(weight, mask, threshold=1.5)
