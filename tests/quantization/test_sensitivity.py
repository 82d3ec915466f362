"""Rounding of all layers within a loss that fits the loss per bit."""

import pytest
import torch
from torch import nn

from flyweight.compressed import CompressedTensor
from flyweight.quantization.divergence import OutputDivergence
from flyweight.quantization.sensitivity import round_within_loss


class Rounding:
    """Gives zeros, which destroy the model, up to a round, and the weight itself from it on."""

    def __init__(self, weight, good_round):
        self.good = CompressedTensor.from_values(weight.detach().clone())
        self.bad = CompressedTensor(torch.zeros(weight.shape, dtype=torch.int32), torch.ones(1))
        self.good_round = good_round
        self.sensitivities = []

    def round(self, sensitivities, loss_per_bit, done):
        self.sensitivities.append(sensitivities["weight"])
        last = len(self.sensitivities) >= self.good_round
        return {"weight": self.good if last else self.bad}, {}


def rounded(good_round):
    torch.manual_seed(0)
    model, batches = nn.Linear(6, 4), [torch.randn(8, 6)]
    with torch.no_grad():
        model.weight.mul_(5)
    rounding = Rounding(model.weight, good_round)
    divergence = OutputDivergence(model, batches)
    round_within_loss(model, rounding, {"weight": 1.0}, 1e-6, batches, divergence)
    return rounding.sensitivities


@pytest.mark.parametrize("good_round", [1, 3, 9])
def test_round_within_loss_halves_steps_until_the_loss_is_in_proportion(good_round):
    assert rounded(good_round) == [4.0**number for number in range(good_round)]


def test_round_within_loss_warns_if_eight_halvings_are_not_enough():
    with pytest.warns(UserWarning, match=r"moves the outputs by .* nats, more than the 0\.001"):
        assert rounded(10) == [4.0**number for number in range(9)]
