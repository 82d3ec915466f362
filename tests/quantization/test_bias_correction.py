"""Tests of bias correction."""

import copy

import pytest
import torch
from torch import nn

from flyweight.errors import DataError, ModelError
from flyweight.quantization import correct_biases_


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_correct_biases_restores_mean_outputs():
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    after = copy.deepcopy(before).train()
    for index in (0, 3):
        after[index].weight.data += 0.1 * random(*after[index].weight.shape, seed=index)
    weights = {name: p.clone() for name, p in after.named_parameters() if p.ndim > 1}
    inputs = random(48, 3, 8, 8, seed=1)

    def means(model):
        with torch.no_grad():
            return model[0](inputs).mean((0, 2, 3)), model(inputs).mean(0)

    (stem, last), (shifted_stem, shifted_last) = means(before), means(after)
    assert float((stem - shifted_stem).abs().min()) > 1e-4
    assert float((last - shifted_last).abs().min()) > 1e-4
    reference = copy.deepcopy(before.state_dict())
    correct_biases_(after, before, inputs.split([32, 16]))
    for wanted, found in zip(means(before), means(after), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert all(torch.equal(after.get_parameter(name), weights[name]) for name in weights)
    assert all(torch.equal(before.state_dict()[name], reference[name]) for name in reference)
    assert after.training
    assert not after[0]._forward_hooks
    with pytest.raises(DataError, match="no calibration batches to correct the biases"):
        correct_biases_(after, before, [])
    with pytest.raises(ModelError, match="lacks a layer"):
        correct_biases_(after, nn.Sequential(nn.Flatten()), [inputs])


class Experts(nn.Module):
    """Each example goes to one of two experts, by the sign of its first number."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, inputs):
        first = (inputs[:, :1] > 0).squeeze(1)
        found = inputs.new_zeros(len(inputs), 3)
        for expert, taken in zip(self.experts, (first, ~first), strict=True):
            if bool(taken.any()):
                found[taken] = expert(inputs[taken])
        return found


def test_correct_biases_takes_single_vectors_and_layers_that_nothing_reaches():
    class Prompted(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompt, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
            self.experts = Experts()

        def forward(self, inputs):
            none = self.experts.experts[1](inputs[:0]).sum()
            return self.last(inputs + self.prompt(torch.ones(4))) + none

    torch.manual_seed(0)
    before, inputs = Prompted(), [random(16, 4)]
    after = copy.deepcopy(before)
    after.prompt.weight.data += 0.1
    correct_biases_(after, before, inputs)
    with torch.no_grad():
        torch.testing.assert_close(after.prompt(torch.ones(4)), before.prompt(torch.ones(4)))
    assert torch.equal(after.experts.experts[1].bias, before.experts.experts[1].bias)


@pytest.mark.parametrize("parts", [[96], [40, 40, 16]])
def test_correct_biases_restores_mean_outputs_in_groups_of_layers(parts):
    torch.manual_seed(0)
    layers = [layer for _ in range(7) for layer in (nn.Linear(12, 12), nn.ReLU())]
    before = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Flatten(), *layers, nn.Linear(12, 4))
    after = copy.deepcopy(before)
    for name, weight in after.named_parameters():
        if weight.ndim > 1:
            weight.data += 0.03 * random(*weight.shape, seed=len(name))
    inputs = random(96, 3, 4, seed=1)
    plain = copy.deepcopy(after)
    correct_biases_(after, before, inputs.split(parts))

    def shift(model):
        with torch.no_grad():
            return float((model(inputs) - before(inputs)).mean(0).abs().max())

    assert shift(after) < (1e-5 if len(parts) == 1 else 0.02 * shift(plain))
