"""Removed filters: the smaller network says what the larger one with silent filters says."""

import copy

import pytest
import torch
from torch import nn

from flyweight.errors import ModelError
from flyweight.models import create_model
from flyweight.own_loop import prepare
from flyweight.recipes import PruningRecipe
from flyweight.structured import remove_filters, silence_filters_

pytest.importorskip("torch_pruning")


def trained_looking(model):
    """Statistics and shifts that are not those of a fresh network."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b"])
def test_a_residual_network_shrinks_and_says_the_same(name):
    model = trained_looking(create_model(name))
    recipe = PruningRecipe(
        sparsity=0.5, pattern="filters", schedule="one-shot", layers=("stages.*.conv1.weight",)
    )
    pruned = prepare(model, recipe, steps=1).finalize().eval()
    images = torch.randn(4, 3, 32, 32)
    smaller = remove_filters(pruned, images[:1])
    before = copy.deepcopy(pruned.state_dict())
    assert smaller.stages[0][0].conv1.weight.shape == (8, 16, 3, 3)
    assert smaller.stages[2][2].conv2.weight.shape == (64, 32, 3, 3)
    silent = silence_filters_(copy.deepcopy(pruned))
    assert torch.allclose(smaller(images), silent(images), atol=1e-5)
    assert not torch.allclose(smaller(images), pruned(images), atol=1e-2)
    assert all(torch.equal(before[n], v) for n, v in pruned.state_dict().items())
    size = sum(p.numel() for p in smaller.parameters())
    assert size < 0.52 * sum(p.numel() for p in model.parameters())


def test_filters_that_are_added_go_only_together():
    model = trained_looking(create_model("resnet20"))
    with torch.no_grad():
        model.stages[0][0].conv2.weight[3] = 0
    images = torch.randn(2, 3, 32, 32)
    shapes = [p.shape for p in remove_filters(model, images).parameters()]
    assert shapes == [p.shape for p in model.parameters()]
    with torch.no_grad():
        model.conv1.weight[3] = 0
        for block in model.stages[0]:
            block.conv2.weight[3] = 0
        for stage in model.stages[1:]:  # shortcut A pads, and so moves the channel
            for block in stage:
                block.conv2.weight[3 + (8 if stage is model.stages[1] else 24)] = 0
    smaller = remove_filters(model, images)
    silent = silence_filters_(copy.deepcopy(model))
    assert torch.allclose(smaller(images), silent(images), atol=1e-5)


def test_a_layer_keeps_one_filter_and_the_network_its_outputs():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[2].weight[1] = 0
    smaller = remove_filters(model, torch.randn(2, 4))
    assert smaller[0].weight.shape == (1, 4)
    assert smaller[2].weight.shape == (3, 1)
    inputs = torch.randn(5, 4)
    assert torch.allclose(smaller(inputs), silence_filters_(copy.deepcopy(model))(inputs))


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(ModelError, match="cannot be followed"):
        remove_filters(nn.Linear(4, 2), torch.randn(2, 5))
