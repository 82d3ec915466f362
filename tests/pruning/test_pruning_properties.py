"""Each criterion prunes the number asked for, and the zeros last into the file."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from flyweight.compressed import CompressedModel
from flyweight.io import load_state_dict, save
from flyweight.modules import attach_, detach_, select_weights
from flyweight.pruning import (
    MaskedWeight,
    block_mask,
    channel_mask,
    filter_mask,
    global_magnitude_masks,
    masks_by_score,
    n_of_m_mask,
    percentile_mask,
    random_mask,
    saliency_scores,
    std_mask,
)
from flyweight.quantization import quantize_kmeans

STEPS = 200
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
}


def network(seed, levels):
    """Make two layers; with a small number of levels, many weights are equal."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6))
    with torch.no_grad():
        for layer in (model[0], model[3]):
            bound = layer.weight.abs().max()
            # Nowhere 0: such a weight would be a zero that no mask asked for.
            steps = (layer.weight / bound * levels).floor() + 0.5
            layer.weight.copy_(bound * steps / levels)
    return model


def batch():
    return torch.randn(16, 4, 4, 4), torch.randint(0, 6, (16,))


def each(make):
    return lambda model, weights, s: {name: make(weight, s) for name, weight in weights.items()}


def salient(criterion):
    def masks(model, weights, s):
        scores = saliency_scores(model, weights, [batch() for _ in range(2)], criterion=criterion)
        return masks_by_score(scores, s)

    return masks


def in_slices(slices):
    """Return the number of weights in the nearest number of whole slices."""
    return lambda weight, s: round(s * slices(weight)) * (weight.numel() // slices(weight))


CRITERIA = {
    "percentile": each(lambda w, s: percentile_mask(w, 100 * s)),
    "std": each(lambda w, s: std_mask(w, 2 * s)),
    "random": each(lambda w, s: random_mask(w, s)),
    "2:4": each(lambda w, s: n_of_m_mask(w, 2, 4)),
    "1:4": each(lambda w, s: n_of_m_mask(w, 1, 4)),
    "blocks": each(lambda w, s: block_mask(w, s, (2, 2, *w.shape[2:]))),
    "filters": each(filter_mask),
    "channels": each(channel_mask),
    "global": lambda model, weights, s: global_magnitude_masks(weights, s),
    "taylor": salient("taylor"),
    "fisher": salient("fisher"),
}
EXACT = {
    "random": lambda w, s: round(s * w.numel()),
    "2:4": lambda w, s: w.numel() // 2,
    "1:4": lambda w, s: w.numel() * 3 // 4,
    "blocks": in_slices(lambda w: w.shape[0] * w.shape[1] // 4),
    "filters": in_slices(lambda w: w.shape[0]),
    "channels": in_slices(lambda w: w.shape[1]),
}


def check_counts(criterion, weights, masks, sparsity):
    gone = {name: int((~mask).sum()) for name, mask in masks.items()}
    if criterion in EXACT:
        assert gone == {name: EXACT[criterion](w, sparsity) for name, w in weights.items()}
    elif criterion == "percentile":
        for name, weight in weights.items():
            assert abs(gone[name] - sparsity * weight.numel()) <= 1
    elif criterion == "std":
        for name, weight in weights.items():
            threshold = 2 * sparsity * weight.detach().double().std(correction=0)
            assert gone[name] == int((weight.detach().double().abs() < threshold).sum())
    else:
        assert sum(gone.values()) == round(sparsity * sum(w.numel() for w in weights.values()))


@pytest.mark.parametrize("criterion", CRITERIA)
@given(
    sparsity=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
    seed=st.integers(0, 999),
    levels=st.sampled_from([1, 3, 10_000]),
)
@settings(max_examples=25, deadline=None)
def test_masks_prune_the_number_asked_for(criterion, sparsity, seed, levels):
    model = network(seed, levels)
    weights = select_weights(model)
    masks = CRITERIA[criterion](model, weights, sparsity)
    assert {n: m.shape for n, m in masks.items()} == {n: w.shape for n, w in weights.items()}
    check_counts(criterion, weights, masks, sparsity)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("regrowth", "sparsity"), [(False, 0.9), (True, 0.5)])
def test_zeros_last_into_the_file(criterion, sparsity, regrowth, optimizer):
    model = network(7, 10_000)
    weights = select_weights(model)
    masks = CRITERIA[criterion](model, weights, sparsity)
    masked = {n: MaskedWeight(mask, allow_regrowth=regrowth) for n, mask in masks.items()}
    attach_(model, masked)
    layers = {"0.weight": model[0], "3.weight": model[3]}
    descent = OPTIMIZERS[optimizer](model.parameters())
    images, labels = batch()
    first = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    for _ in range(STEPS):
        descent.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        descent.step()
        for name, layer in layers.items():
            assert torch.equal(layer.weight != 0, masks[name])
    assert all(
        not torch.equal(layers[name].weight, first[name]) for name in masks if masks[name].any()
    )
    detach_(model, masks)

    state = dict(model.state_dict())
    for name in masks:
        state[name] = quantize_kmeans(state[name], bits=3)
        assert torch.equal(state[name].dequantize() != 0, masks[name])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fly"
        save(CompressedModel(state), path)
        loaded = load_state_dict(path)
    for name, mask in masks.items():
        assert torch.equal(loaded[name] != 0, mask)
        assert loaded[name].unique().numel() <= 2**3 + 1
