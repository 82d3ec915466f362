"""Masks: exact counts, ties, extremes; the cubic schedule."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flyweight.errors import FlyweightError, ModelError
from flyweight.modules import WeightLayout
from flyweight.pruning import (
    block_mask,
    channel_mask,
    choose_masks,
    cubic_sparsity,
    filter_mask,
    filter_sums,
    global_magnitude_masks,
    linear_sparsity,
    masks_by_score,
    n_of_m_mask,
    percentile_mask,
    prunings,
    random_mask,
    sparsity_at,
    std_mask,
    zero_filters,
)


def zeros(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


@given(
    sparsity=st.floats(0, 1),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    distinct=st.integers(1, 50),
)
def test_global_magnitude_masks_prune_the_exact_number_of_smallest(sparsity, sizes, seed, distinct):
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


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10, 16, 48, 101, 900, 1250])
@pytest.mark.parametrize("q", [0.1, 5, 20, 25, 33.3, 50, 60, 75, 80, 95, 99.9, 100])
def test_global_magnitude_masks_are_within_one_weight_of_numpy_percentile(size, q):
    pooled = gaussian.flatten()[:size]
    weights = {"a": pooled[: size // 3], "b": pooled[size // 3 :]}
    masks = global_magnitude_masks(weights, q / 100)
    assert zeros(masks) == round(q / 100 * size)
    above = pooled.double().abs() > np.percentile(pooled.double().abs().numpy(), q)
    assert int((torch.cat([*masks.values()]) != above).sum()) <= 1


def test_global_magnitude_masks_have_the_shape_of_the_weights():
    masks = global_magnitude_masks({"w": torch.tensor([[0.1, -5.0], [2.0, 0.0]])}, 0.5)
    assert masks["w"].tolist() == [[False, True], [True, False]]


def test_global_magnitude_masks_prune_nothing_or_all():
    weights = {"w": torch.zeros(5)}
    assert zeros(global_magnitude_masks(weights, 0.0)) == 0
    assert zeros(global_magnitude_masks(weights, 1.0)) == 5


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, 80, float("nan")])
def test_global_magnitude_masks_refuse_an_impossible_sparsity(sparsity):
    with pytest.raises(ModelError, match="give a fraction from 0 to 1"):
        global_magnitude_masks({"w": torch.ones(3)}, sparsity)


def test_masks_refuse_weights_that_are_not_finite():
    broken = {"v": torch.ones(3), "w": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ModelError, match=r"^weights of tensor 'w' hold NaN or infinity, 1 of 2,"):
        global_magnitude_masks(broken, 0.5)
    with pytest.raises(ModelError, match=r"^scores of tensor 'w' hold NaN or infinity, 1 of 2,"):
        masks_by_score(broken, 0.5)
    with pytest.raises(ModelError, match=r"^tensor 'w': scores hold NaN or infinity, 1 of 2,"):
        choose_masks(broken, 0.5, scope="layer")
    with pytest.raises(ModelError, match="no weights to prune"):
        global_magnitude_masks({}, 0.5)


def test_cubic_sparsity_by_hand():
    assert cubic_sparsity(0.0, 0.8) == 0.0
    assert cubic_sparsity(0.5, 0.8) == pytest.approx(0.8 * (1 - 0.125))
    assert cubic_sparsity(1.0, 0.8) == 0.8
    assert cubic_sparsity(7.0, 0.8) == 0.8
    assert cubic_sparsity(-1.0, 0.8) == 0.0


tensors = st.builds(
    lambda shape, seed, distinct: torch.randint(
        -distinct, distinct + 1, shape, generator=torch.Generator().manual_seed(seed)
    ).float(),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(0, 99),
    st.integers(1, 40),
)
gaussian = torch.randn(64, 16, 3, 3, generator=torch.Generator().manual_seed(0))


@given(weight=tensors, q=st.one_of(st.floats(0, 100), st.sampled_from([0, 20, 50, 75, 100])))
def test_percentile_mask_prunes_its_fraction_despite_ties(weight, q):
    mask = percentile_mask(weight, q)
    gone = int((~mask).sum())
    assert abs(gone - q / 100 * weight.numel()) <= 1
    if 0 < gone < weight.numel():
        assert weight[~mask].abs().max() <= weight[mask].abs().min()


@pytest.mark.parametrize("q", [0, 0.1, 5, 20, 25, 33.3, 50, 60, 75, 80, 99.99, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10, 16, 48, 101, 9216])
def test_percentile_mask_matches_numpy(q, size):
    weight = gaussian.flatten()[:size]
    threshold = np.percentile(weight.abs().double().numpy(), q) if q else -1.0
    assert torch.equal(percentile_mask(weight, q), weight.double().abs() > threshold)


def test_percentile_mask_breaks_ties():
    assert percentile_mask(torch.ones(10), 50).sum() == 5
    assert percentile_mask(torch.zeros(4), 0).all()
    assert not percentile_mask(torch.ones(4), 100).any()


def test_std_mask_prunes_the_gaussian_fraction():
    weight = torch.randn(1_000_000, generator=torch.Generator().manual_seed(1))
    for sensitivity, share in ((0.25, 0.1974), (0.5, 0.3829), (1, 0.6827), (2, 0.9545)):
        pruned = float((~std_mask(weight, sensitivity)).float().mean())
        assert pruned == pytest.approx(share, abs=4 * (share * (1 - share) / 1e6) ** 0.5)


@given(weight=tensors, sensitivity=st.floats(0, 3))
def test_std_mask_takes_the_population_deviation_of_signed_weights(weight, sensitivity):
    values = weight.double().numpy()
    wanted = np.abs(values) >= sensitivity * values.std() if values.size else values == values
    near = np.isclose(np.abs(values), sensitivity * values.std()) if values.size else values != 0
    assert (near | (std_mask(weight, sensitivity).numpy() == wanted)).all()


def test_std_mask_does_not_take_the_mean_for_zero():
    shifted = torch.tensor([9.0, 10.0, 11.0])  # of the magnitudes the deviation is the same,
    assert std_mask(shifted, 5).all()
    assert not std_mask(torch.tensor([-9.0, 9.0]), 1.01).any()  # and here it would be 0


@given(weight=tensors, sparsity=st.floats(0, 1), seed=st.integers(0, 9))
def test_random_mask_prunes_the_exact_number(weight, sparsity, seed):
    def draw():
        generator = torch.Generator().manual_seed(seed)
        return random_mask(weight, sparsity, generator=generator)

    assert int((~draw()).sum()) == round(sparsity * weight.numel())
    assert torch.equal(draw(), draw())


@pytest.mark.parametrize(("ramp", "interval", "last"), [(1.0, 3, 6), (1.0, 1, 9), (0.5, 1, 4)])
def test_prunings_by_epochs_end_with_the_ramp(ramp, interval, last):
    chosen = prunings("linear", steps=100, ramp=ramp, interval=interval, unit="epochs", epochs=10)
    assert list(chosen) == [10 * epoch for epoch in range(0, last + 1, interval)]
    assert chosen[10 * last] == 1


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
    m=st.integers(1, 5),
    data=st.data(),
)
def test_n_of_m_mask_leaves_the_n_largest_of_each_m(shape, m, data):
    n = data.draw(st.integers(0, m))
    dim = data.draw(st.sampled_from([0, 1, 2, -1]))
    extents = list(shape)
    extents[dim] *= m
    weight = torch.randint(-9, 10, extents, generator=torch.Generator().manual_seed(m)).float()
    mask = n_of_m_mask(weight, n, m, dim=dim)
    rows = mask.movedim(dim, -1).reshape(-1, m)
    assert (rows.sum(1) == n).all()
    values = weight.abs().movedim(dim, -1).reshape(-1, m)
    for row, kept in zip(values, rows, strict=True):
        if 0 < n < m:
            assert row[kept].min() >= row[~kept].max()


def test_n_of_m_mask_by_hand():
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0]])
    assert n_of_m_mask(weight, 2, 4).int().tolist() == [[0, 1, 0, 1, 0, 0, 1, 1]]
    assert n_of_m_mask(weight, 1, 4).int().tolist() == [[0, 1, 0, 0, 0, 0, 0, 1]]


@given(sparsity=st.floats(0, 1), counts=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_block_mask_prunes_whole_blocks_of_smallest_norm(sparsity, counts):
    block = (2, 3)
    extents = [c * b for c, b in zip(counts, block, strict=True)]
    weight = torch.randn(extents, generator=torch.Generator().manual_seed(3))
    mask = block_mask(weight, sparsity, block)

    def in_blocks(values):
        return values.reshape(counts[0], 2, counts[1], 3).permute(0, 2, 1, 3).reshape(-1, 6)

    rows = in_blocks(mask)
    assert (rows.all(1) | ~rows.any(1)).all()
    assert int((~rows.all(1)).sum()) == round(sparsity * rows.shape[0])
    norms = (
        weight.reshape(counts[0], 2, counts[1], 3).permute(0, 2, 1, 3).reshape(-1, 6).norm(dim=1)
    )
    kept = rows.all(1)
    if kept.any() and not kept.all():
        assert norms[kept].min() >= norms[~kept].max()


@pytest.mark.parametrize(("make", "dim"), [(filter_mask, 0), (channel_mask, 1)])
def test_filter_and_channel_masks_prune_whole_slices(make, dim):
    mask = make(gaussian, 0.25)
    other = [d for d in range(4) if d != dim]
    whole = mask.all(dim=other[2]).all(dim=other[1]).all(dim=other[0])
    some = mask.any(dim=other[2]).any(dim=other[1]).any(dim=other[0])
    assert torch.equal(whole, some)
    norms = gaussian.abs().sum(dim=other)
    assert int((~whole).sum()) == gaussian.shape[dim] // 4
    assert norms[whole].min() > norms[~whole].max()


@pytest.mark.parametrize("order", [1, 2])
def test_filter_mask_of_half_precision_matches_single_precision(order):
    large = torch.tensor([9.0, 8.0]).repeat_interleave(9216).view(2, 9216)
    for mask in (filter_mask(large.half(), 0.5, order=order), filter_mask(large, 0.5)):
        assert mask.all(1).tolist() == [True, False]
    for dtype in (torch.float16, torch.bfloat16):
        weight = gaussian.to(dtype)
        for sparsity in (0.1, 0.5, 0.9):
            wanted = filter_mask(weight.float(), sparsity, order=order)
            assert torch.equal(filter_mask(weight, sparsity, order=order), wanted)


def test_masks_by_score_have_one_threshold():
    scores = {"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([[4.0], [2.0]])}
    masks = masks_by_score(scores, 0.5)
    assert masks["a"].tolist() == [True, False]
    assert masks["b"].tolist() == [[True], [False]]


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: percentile_mask(gaussian, 101), "give one from 0 to 100 per cent"),
        (lambda: percentile_mask(gaussian, -1), "give one from 0 to 100 per cent"),
        (lambda: percentile_mask(gaussian, float("nan")), "give one from 0 to 100 per cent"),
        (lambda: percentile_mask(torch.tensor([1.0, float("inf")]), 5), "NaN or infinity"),
        (lambda: std_mask(gaussian, -0.5), "give a finite number from 0"),
        (lambda: std_mask(gaussian, float("inf")), "give a finite number from 0"),
        (lambda: random_mask(gaussian, 1.5), "give a fraction from 0 to 1"),
        (lambda: n_of_m_mask(gaussian[:, :6], 2, 4), "multiple of 4 weights along dimension 1"),
        (lambda: n_of_m_mask(gaussian, 5, 4), "not N:M with 0 ≤ N ≤ M"),
        (lambda: n_of_m_mask(gaussian, 2, 4, dim=4), "has no dimension 4"),
        (lambda: block_mask(gaussian, 0.5, (5, 1, 1, 1)), "do not divide"),
        (lambda: block_mask(gaussian, 0.5, (2, 2)), "do not divide"),
        (lambda: filter_mask(torch.ones(4), 0.5), "two or more dimensions"),
        (lambda: filter_mask(torch.ones(4, 2, dtype=torch.int8), 0.5), "not of torch.int8"),
        (lambda: filter_sums(torch.ones(4)), "two or more dimensions"),
        (lambda: zero_filters(torch.ones(4)), "two or more dimensions"),
        (lambda: sparsity_at("quartic", 0.5, 0.5), "'quartic' is unknown"),
    ],
)
def test_masks_refuse_impossible_arguments(work, message):
    with pytest.raises(FlyweightError, match=message):
        work()


def test_linear_sparsity_grows_by_eight_per_cent_per_epoch():
    grown = [linear_sparsity((epoch + 1) / 10, 0.8) for epoch in range(10)]
    assert grown == pytest.approx([0.08 * (epoch + 1) for epoch in range(10)])
    assert sparsity_at("linear", 0.25, 0.8) == pytest.approx(0.2)
    assert sparsity_at("cubic", 0.25, 0.8) == cubic_sparsity(0.25, 0.8)
    assert sparsity_at("one-shot", 0.0, 0.8) == 0.8


@pytest.mark.parametrize("groups", [1, 2])
def test_filter_mask_of_a_transposed_convolution_prunes_outputs(groups):
    layer = nn.ConvTranspose2d(4, 8, 2, groups=groups, bias=False)
    layout = WeightLayout.of(layer)
    with torch.no_grad():
        for output in (0, 5):
            group, place = divmod(output, 8 // groups)
            rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
            layer.weight[rows, place] *= 1e-3
        mask = filter_mask(layer.weight, 0.25, layout=layout)
        sums = filter_sums(layer.weight, layout=layout)
        layer.weight.mul_(mask)
        silent = (layer(torch.randn(3, 4, 5, 5)) == 0).all(dim=(0, 2, 3))
    assert silent.nonzero().flatten().tolist() == [0, 5]
    assert sums.argsort()[:2].sort().values.tolist() == [0, 5]
    assert torch.equal(zero_filters(layer.weight, layout=layout), silent)


def test_channel_mask_of_a_transposed_convolution_prunes_inputs():
    layer = nn.ConvTranspose1d(4, 6, 3)
    with torch.no_grad():
        layer.weight[[1, 2]] *= 1e-3
    mask = channel_mask(layer.weight, 0.5, layout=WeightLayout.of(layer))
    assert mask.any(2).any(1).tolist() == [True, False, False, True]
