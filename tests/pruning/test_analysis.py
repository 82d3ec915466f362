"""Analysis of pruned networks: counts, structure, sensitivity, allocation."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from flyweight.cifar import create_model, load_pretrained
from flyweight.errors import ModelError
from flyweight.pruning import (
    Pruner,
    PruningConfig,
    SensitivityPoint,
    allocate,
    channel_mask,
    filter_mask,
    filter_sums,
    percentile_mask,
    sensitivity,
    summarize_sparsity,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))


def pruned(mask_of, q):
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(mask_of(model[0].weight, q))
    return summarize_sparsity(model).layers[0]


def test_summarize_sparsity_of_the_shipped_network():
    counted = summarize_sparsity(load_pretrained("resnet20"))
    assert len(counted.layers) == 20
    assert counted.parameters == 432 + 267_264 + 640
    assert counted.nonzeros == counted.parameters
    assert counted.sparsity == 0
    assert {layer.type for layer in counted.layers} == {"Conv2d", "Linear"}
    lines = str(counted).splitlines()
    assert lines[0].split() == ["layer", "type", "parameters", "non-zeros", "sparsity"]
    assert lines[-1].split() == ["total", "268,336", "268,336", "0.0000"]
    assert len({len(line) for line in lines}) == 1


def test_summarize_sparsity_recognizes_structure():
    assert not pruned(percentile_mask, 0).structured
    single = pruned(percentile_mask, 75)
    assert (single.nonzeros, single.sparsity) == (72, 0.75)
    assert not single.structured
    filters = pruned(filter_mask, 0.25)
    assert (filters.zero_filters, filters.zero_channels, filters.structured) == (2, 0, True)
    channels = pruned(channel_mask, 0.5)
    assert (channels.zero_filters, channels.zero_channels, channels.structured) == (0, 2, True)


def test_filter_sums():
    weight = torch.randn(8, 4, 3, 3)
    sums = filter_sums(weight * filter_mask(weight, 0.5))
    assert int((sums == 0).sum()) == 4
    assert sums.max() == pytest.approx(float(weight.abs().sum((1, 2, 3)).max()))


def test_summarize_sparsity_counts_what_layers_see_in_training():
    pruner = Pruner(network(), PruningConfig(sparsity=0.5, schedule="one-shot"), steps=1)
    inside = summarize_sparsity(pruner.model)
    outside = summarize_sparsity(pruner.finalize())
    assert inside == outside
    assert inside.sparsity == 0.5


def test_summarize_sparsity_counts_a_tied_weight_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert summarize_sparsity(model).parameters == 9
    with pytest.raises(ModelError, match="no weights"):
        summarize_sparsity(nn.BatchNorm1d(3))


def test_sensitivity_prunes_one_layer_at_a_time():
    model = network()
    before = copy.deepcopy(model.state_dict())

    scored = []

    def evaluate(net):
        zeros = [float((net[i].weight == 0).float().mean()) for i in (0, 3)]
        assert min(zeros) == 0
        scored.append(zeros)
        return 1 - zeros[0] ** 2 - 0.1 * zeros[1]

    points = sensitivity(model, evaluate, (0.0, 0.5, 1.0))
    assert [(point.name, point.sparsity) for point in points] == [
        (name, sparsity) for name in ("0.weight", "3.weight") for sparsity in (0.0, 0.5, 1.0)
    ]
    assert [point.score for point in points] == pytest.approx([1, 0.75, 0, 1, 0.95, 0.9])
    assert scored == [[0, 0], [0.5, 0], [1, 0], [0, 0.5], [0, 1]]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    found = allocate(points, {"0.weight": 288, "3.weight": 80}, 0.4)
    total = (288 * found["0.weight"] + 80 * found["3.weight"]) / 368
    assert total == pytest.approx(0.4, abs=1e-6)
    assert found["3.weight"] > 2 * found["0.weight"]


def test_allocate_gives_overrides_for_a_configuration():
    model = create_model("resnet20")
    sizes = {layer.name: layer.parameters for layer in summarize_sparsity(model).layers}
    points = [
        SensitivityPoint(name, sparsity, 0.9 - sparsity**2 * (1 if "conv1" in name else 0.3))
        for name in sizes
        for sparsity in (0.0, 0.3, 0.6, 0.9)
    ]
    found = allocate(points, sizes, 0.6)
    config = PruningConfig(sparsity=0.6, overrides=found, schedule="one-shot")
    with_zeros = summarize_sparsity(Pruner(model, config, steps=0).finalize())
    assert with_zeros.sparsity == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(ModelError, match=r"goes to a sparsity of 0\.900 only, below 0\.95; scan"):
        allocate(points, sizes, 0.95)


def test_allocate_loses_least_of_all_allocations():
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    costs = {"a": 0.1, "b": 0.4, "c": 1.0}
    sizes = {"a": 40, "b": 80, "c": 20}
    points = [SensitivityPoint(n, s, -cost * s**3) for n, cost in costs.items() for s in grid]
    for asked in (0.3, 0.5, 0.8):
        found = allocate(points, sizes, asked)

        def lost(shares):
            return sum(
                np.interp(s, grid, [costs[n] * g**3 for g in grid]) for n, s in shares.items()
            )

        assert sum(found[n] * sizes[n] for n in sizes) == pytest.approx(asked * 140)
        for a, b in itertools.product(np.linspace(0, 1, 21), repeat=2):
            c = (asked * 140 - 40 * a - 80 * b) / 20
            if 0 <= c <= 1:
                assert lost(found) <= lost({"a": a, "b": b, "c": c}) + 1e-9


def test_allocate_takes_the_convex_hull_of_noisy_scores():
    scores = {"a": [0.9, 0.85, 0.89, 0.5], "b": [0.9, 0.95, 0.9, 0.88]}
    points = [
        SensitivityPoint(name, s, score)
        for name, row in scores.items()
        for s, score in zip((0.0, 0.3, 0.6, 0.9), row, strict=True)
    ]
    assert allocate(points, {"a": 10, "b": 10}, 0.45) == pytest.approx({"a": 0.0, "b": 0.9})
    assert allocate(points[::-1], {"a": 10, "b": 10}, 0.9) == pytest.approx({"a": 0.9, "b": 0.9})
    assert allocate(points, {"a": 10, "b": 10}, 0.0) == {"a": 0.0, "b": 0.0}


def test_allocate_does_not_exceed_the_sparsity_of_layers_without_loss():
    points = [SensitivityPoint(name, s, 0.9) for name in "ab" for s in (0.0, 0.9)]
    found = allocate(points, {"a": 10, "b": 30}, 0.45)
    assert found == pytest.approx({"a": 0.45, "b": 0.45})


SCAN = [SensitivityPoint(name, s, 0.9 - s) for name in "ab" for s in (0.0, 0.5)]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_allocate_refuses_scores_that_are_not_finite(score):
    points = [*SCAN, SensitivityPoint("b", 0.9, score)]
    with pytest.raises(ModelError, match=rf"score of 'b' at a sparsity of 0\.9 is {score}"):
        allocate(points, {"a": 1, "b": 1}, 0.1)


@pytest.mark.parametrize(
    ("points", "sizes", "sparsity", "message"),
    [
        (SCAN, {"a": 1, "b": 1}, -0.5, "is -0.5; give a fraction from 0 to 1"),
        (SCAN, {"a": 1, "b": 1}, float("nan"), "is nan; give a fraction"),
        (SCAN, {"a": 1}, 0.1, "'b' is in the scan without a size"),
        ([*SCAN, SCAN[1]], {"a": 1, "b": 1}, 0.1, "a sparsity of 0.5 twice for 'a'"),
        (SCAN[1:], {"a": 1, "b": 1}, 0.1, "scan of 'a' begins at a sparsity of 0.5"),
        ([SensitivityPoint("a", 1.5, 0.1)], {"a": 1}, 0.1, "is 1.5; give a fraction"),
    ],
)
def test_allocate_refuses_incomplete_scans(points, sizes, sparsity, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        allocate(points, sizes, sparsity)


@pytest.mark.parametrize(("groups", "inputs"), [(1, 4), (2, 2)])
def test_summarize_sparsity_counts_outputs_of_a_transposed_convolution(groups, inputs):
    layer = nn.ConvTranspose2d(4, 8, 2, groups=groups)
    with torch.no_grad():
        for output in (1, 6):  # of the second group where there are two
            group, place = divmod(output, 8 // groups)
            layer.weight[group * inputs : (group + 1) * inputs, place] = 0
    (row,) = summarize_sparsity(layer).layers
    assert (row.filters, row.channels) == (8, inputs)
    assert (row.zero_filters, row.zero_channels, row.structured) == (2, 0, True)
    images = torch.randn(1, 4, 3, 3)
    silent = (layer(images) == layer.bias.view(1, -1, 1, 1)).all(dim=(0, 2, 3))
    assert silent.nonzero().flatten().tolist() == [1, 6]


def test_sensitivity_takes_a_metric_of_any_number_and_a_pattern():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 2, bias=False))

    def silent_outputs(network):
        outputs = network(torch.ones(1, 4, 3, 3))
        return (outputs == 0).all(dim=(0, 2, 3)).sum()

    points = sensitivity(model, silent_outputs, (0.0, 0.25, 0.5), pattern="filters")
    assert [point.score for point in points] == [0, 2, 4]
    assert {type(point.score) for point in points} == {float}


def test_summary_table_fits_80_columns():
    model = nn.ModuleDict({"some_name_of_a_module_" * 5: nn.Linear(1000, 1000)})
    lines = str(summarize_sparsity(model)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["total", "1,000,000", "1,000,000", "0.0000"]


@torch.no_grad()
def test_sensitivity_scores_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    unpruned = float(copy.deepcopy(model).eval()(inputs).square().sum())
    points = sensitivity(
        model, lambda net: float(net(inputs).square().sum()), (0.0, 0.5), include=["0.weight"]
    )
    assert points[0].score == unpruned
    assert model.training
