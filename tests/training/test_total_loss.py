"""Sums of losses that have to be finite."""

import pytest
import torch

from flyweight.errors import ModelError
from flyweight.training.total_loss import TotalLoss


def test_total_loss_finds_the_first_bad_step_late_on_an_accelerator():
    total = TotalLoss(torch.device("cpu"), 100)
    total.waits = True  # as on an accelerator
    for step in range(10, 14):
        total.add_(torch.tensor(float("nan") if step in (11, 13) else 1.0), step)
    with pytest.raises(ModelError, match="the loss is nan at step 12 of 100"):
        total.check()
