"""Masks: exact counts, ties, extremes; the cubic schedule."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flyweight.errors import ModelError
from flyweight.pruning import cubic_sparsity, global_magnitude_masks


def zeros(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


@given(
    sparsity=st.floats(0, 1),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    distinct=st.integers(1, 50),
)
def test_exactly_the_asked_number_goes_and_always_the_smallest(sparsity, sizes, seed, distinct):
    generator = torch.Generator().manual_seed(seed)
    weights = {
        str(i): torch.randint(-distinct, distinct + 1, (n,), generator=generator).float()
        for i, n in enumerate(sizes)
    }
    masks = global_magnitude_masks(weights, sparsity)
    assert zeros(masks) == round(sparsity * sum(sizes))
    kept = [w[masks[n]].abs() for n, w in weights.items()]
    gone = [w[~masks[n]].abs() for n, w in weights.items()]
    if torch.cat(kept).numel() and torch.cat(gone).numel():
        assert torch.cat(gone).max() <= torch.cat(kept).min()


def test_agrees_with_the_percentile_of_the_pooled_magnitudes():
    weights = {"a": torch.randn(50, 7), "b": 3 * torch.randn(900)}
    masks = global_magnitude_masks(weights, 0.6)
    pooled = np.concatenate([w.abs().flatten().numpy() for w in weights.values()])
    threshold = np.percentile(pooled, 60)
    for name, weight in weights.items():
        assert torch.equal(masks[name], weight.abs() > float(threshold))


def test_masks_keep_shape_and_true_means_kept():
    masks = global_magnitude_masks({"w": torch.tensor([[0.1, -5.0], [2.0, 0.0]])}, 0.5)
    assert masks["w"].tolist() == [[False, True], [True, False]]


def test_nothing_and_everything():
    weights = {"w": torch.zeros(5)}
    assert zeros(global_magnitude_masks(weights, 0.0)) == 0
    assert zeros(global_magnitude_masks(weights, 1.0)) == 5


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, 80, float("nan")])
def test_an_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(ModelError, match="fraction from 0 to 1"):
        global_magnitude_masks({"w": torch.ones(3)}, sparsity)


def test_weights_that_cannot_be_ranked_are_refused():
    with pytest.raises(ModelError, match="NaN or infinity"):
        global_magnitude_masks({"w": torch.tensor([1.0, float("nan")])}, 0.5)
    with pytest.raises(ModelError, match="no weights"):
        global_magnitude_masks({}, 0.5)


def test_the_cubic_schedule_by_hand():
    assert cubic_sparsity(0.0, 0.8) == 0.0
    assert cubic_sparsity(0.5, 0.8) == pytest.approx(0.8 * (1 - 0.125))
    assert cubic_sparsity(1.0, 0.8) == 0.8
    assert cubic_sparsity(7.0, 0.8) == 0.8
    assert cubic_sparsity(-1.0, 0.8, initial=0.2) == pytest.approx(0.2)
