"""Zeros survive every optimiser; shared values get summed gradients; models stay ordinary."""

import copy

import pytest
import torch
from torch import nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.errors import ModelError
from flyweight.parametrizations import MaskedWeight, attach_, attach_shared_, detach_
from flyweight.quantization import share

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model(torch.randn(16, 6)).square().mean() - model(torch.randn(16, 6)).mean()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("recovery", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_survive_200_steps(name, recovery):
    model = network()
    mask = torch.rand(8, 6) < 0.3
    attach_(model, {"0.weight": MaskedWeight(mask, recovery=recovery)})
    optimizer = OPTIMIZERS[name](model.parameters())
    before = model[0].weight.detach().clone()
    for _ in range(200):
        step(model, optimizer)
        assert not model[0].weight[~mask].any()
    assert (model[0].weight[mask] != before[mask]).any()
    detach_(model, ["0.weight"])
    assert torch.equal(model[0].weight != 0, mask)
    assert set(model.state_dict()) == set(network().state_dict())


def test_pruned_weights_get_a_gradient_only_under_recovery():
    for recovery in (False, True):
        model = network()
        mask = torch.zeros(8, 6, dtype=torch.bool)
        attach_(model, {"0.weight": MaskedWeight(mask, recovery=recovery)})
        model(torch.randn(4, 6)).sum().backward()
        gradient = model[0].parametrizations.weight.original.grad
        assert bool(gradient.any()) == recovery


def test_a_levels_gradient_is_the_sum_over_its_weights():
    model = network()
    weight = model[0].weight.detach().clone()
    weight[0] = 0
    model[0].weight.data.copy_(weight)
    tensor = share(weight, bits=2)
    twin = network()
    twin[0].weight.data.copy_(tensor.dequantize())
    attach_shared_(model, {"0.weight": tensor})
    assert torch.equal(model[0].weight, twin[0].weight)
    x = torch.randn(5, 6)
    model(x).square().sum().backward()
    twin(x).square().sum().backward()
    expected = torch.stack([twin[0].weight.grad[tensor.symbols == k].sum() for k in range(1, 5)])
    levels = model[0].parametrizations.weight.original
    torch.testing.assert_close(levels.grad, expected)


def test_shared_weights_keep_zeros_and_few_values_while_they_train():
    model = network()
    model[0].weight.data[torch.rand(8, 6) < 0.5] = 0
    zeros = model[0].weight == 0
    attach_shared_(model, {"0.weight": share(model[0].weight, bits=2)})
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for _ in range(50):
        step(model, optimizer)
    assert not model[0].weight[zeros].any()
    assert len(model[0].weight.unique()) <= 5


def test_deepcopy_and_state_dict_carry_the_mask():
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask)})
    twin = copy.deepcopy(model)
    other = network()
    attach_(other, {"0.weight": MaskedWeight(torch.ones(8, 6, dtype=torch.bool))})
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(model(x), twin(x))
    assert torch.equal(model(x), other(x))


def test_an_unknown_name_is_refused():
    with pytest.raises(ModelError, match=r"'nope.weight'"):
        attach_(network(), {"nope.weight": MaskedWeight(torch.ones(1, dtype=torch.bool))})


def test_folding_batch_norm_keeps_the_function():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False))
    for _ in range(5):
        model(3 + 2 * torch.randn(8, 3, 9, 9))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    model.eval()
    x = torch.randn(4, 3, 9, 9)
    before = model(x)
    variance = model[2].running_var.clone()
    fold_batch_norms_(model)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert not model[1].running_mean.any()
    assert len(model[1].running_var.unique()) == 1
    assert torch.equal(model[2].running_var, variance)


def test_batch_norms_that_share_their_weights_are_not_folded():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    model(3 + torch.randn(50, 4))
    model.eval()
    x = torch.randn(6, 4)
    before = model(x)
    fold_batch_norms_(model)
    assert torch.equal(model(x), before)
    assert model[0].running_mean.any()
