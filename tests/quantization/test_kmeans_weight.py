"""KMeansWeight: centroids as the layer sees them, their gradient, and reassignment."""

import pytest
import torch
from torch import nn

from flyweight.modules import attach_
from flyweight.quantization import KMeansWeight, quantize_kmeans


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def attach_kmeans(model, bits):
    tensor = quantize_kmeans(model[0].weight, bits=bits)
    parametrization = KMeansWeight(tensor.symbols, tensor.levels.numel())
    attach_(model, {"0.weight": parametrization})
    return tensor, parametrization


def test_forward_gives_centroids_and_passes_the_gradient_to_their_weights():
    model, twin = network(), network()
    for one in (model, twin):
        one[0].weight.data[0] = 0
    tensor, parametrization = attach_kmeans(model, bits=2)
    twin[0].weight.data.copy_(tensor.dequantize())
    torch.testing.assert_close(model[0].weight, twin[0].weight)
    x = torch.randn(5, 6)
    model(x).square().sum().backward()
    twin(x).square().sum().backward()
    weight = model[0].parametrizations.weight.original
    expected = twin[0].weight.grad * (tensor.symbols > 0)
    torch.testing.assert_close(weight.grad, expected)
    assert expected.any()
    # A step of plain descent moves a centroid by the mean gradient of its weights.
    means = torch.stack([expected[tensor.symbols == k].mean() for k in range(1, 5)])
    torch.optim.SGD([weight], 0.1).step()
    moved = parametrization.compressed(weight).levels
    torch.testing.assert_close(moved, tensor.levels - 0.1 * means)


def test_weights_stay_clustered_and_zeros_stay_zero_in_training():
    model = network()
    model[0].weight.data[torch.rand(8, 6) < 0.5] = 0
    zeros = model[0].weight == 0
    _, parametrization = attach_kmeans(model, bits=2)
    weight = model[0].parametrizations.weight.original
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    for number in range(50):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        if number % 5 == 0:
            parametrization.reassign_(weight)
    assert not model[0].weight[zeros].any()
    assert 2 < len(model[0].weight.unique()) <= 5
    tensor = parametrization.compressed(weight)
    assert torch.equal(tensor.dequantize(), model[0].weight)
    assert len(tensor.levels) == len(tensor.symbols.unique()) - 1


def test_reassign_is_a_lloyd_iteration_and_drops_empty_clusters():
    weight = torch.tensor([0.0, 1.0, 1.2, 5.0, 1.05])
    parametrization = KMeansWeight(torch.tensor([0, 1, 2, 3, 3]), 4)  # nothing is in cluster 4
    parametrization.reassign_(weight)  # means 1, 1.2 and 3.025
    assert parametrization.symbols.tolist() == [0, 1, 2, 3, 1]
    weight[2] = 9.0
    parametrization.reassign_(weight)  # means 1.025, 9 and 5
    assert parametrization.symbols.tolist() == [0, 1, 3, 2, 1]
    weight[3] = 8.9
    parametrization.reassign_(weight)
    parametrization.symbols[3] = 3
    tensor = parametrization.compressed(weight)
    assert tensor.symbols.tolist() == [0, 1, 2, 2, 1]
    torch.testing.assert_close(tensor.levels, torch.tensor([1.025, 8.95]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_forward_means_of_many_weights_are_exact(dtype):
    weight = torch.full((1_100_000,), 0.1).to(dtype)
    parametrization = KMeansWeight(torch.ones(weight.shape, dtype=torch.int64), 1)
    assert torch.equal(parametrization(weight), weight)
    assert torch.equal(parametrization.compressed(weight).dequantize(), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_reassign_finds_the_nearest_mean_in_any_type(dtype):
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    most = 6e4 if dtype == torch.float16 else 3e38
    weight = (weight * most / 2).clamp(-most, most).to(dtype)
    parametrization = KMeansWeight(quantize_kmeans(weight, bits=6).symbols, 2**6)
    means = parametrization.compressed(weight).levels.double()
    assert bool(torch.isfinite(means).all())
    parametrization.reassign_(weight)  # numbers the means from the least to the largest
    found = (weight.double() - means[parametrization.symbols - 1]).abs()
    assert torch.equal(found, (weight.double()[:, None] - means).abs().min(1).values)
