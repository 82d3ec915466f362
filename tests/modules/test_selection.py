"""Selection of weights by glob and type, names of tied weights, layouts."""

import pytest
import torch
from torch import nn

from flyweight.errors import ModelError
from flyweight.modules import (
    OUTPUTS_FIRST,
    WeightLayout,
    embeddings_of,
    overrides_by_name,
    select_weights,
    weights_named,
)
from flyweight.pruning import Pruner, PruningConfig, choose_masks


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.table.weight


def test_select_weights_by_glob_and_type():
    model = Words()
    assert [*select_weights(model)] == ["table.weight", "conv.weight"]
    assert [*select_weights(model, layer_types=["Conv1d"])] == ["conv.weight"]
    assert [*select_weights(model, include=["head.*"])] == ["table.weight"]  # its other name
    assert [*select_weights(model, layer_types=["Linear"])] == ["table.weight"]
    assert [*select_weights(model, exclude=["head.*"])] == ["conv.weight"]
    assert select_weights(model)["conv.weight"] is model.conv.weight


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"include": ["stem*"]}, r"'stem\*' matches no parameter"),
        ({"exclude": ["stem*"]}, r"'stem\*' matches no parameter"),
        (
            {"layer_types": ["Conv2d"]},
            "type 'Conv2d' has parameters; there are BatchNorm1d",
        ),
        ({"exclude": ["*.weight"]}, "leave no weight"),
        ({"include": ["norm.*"]}, "leave no weight"),
    ],
)
def test_select_weights_refuses_a_selection_of_nothing(choice, message):
    with pytest.raises(ModelError, match=message):
        select_weights(Words(), **choice)


def test_overrides_by_name_finds_a_tied_weight_by_any_name():
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("inner", "embedding", "head")})
    model["head"].weight = model["embedding"].weight
    weights = select_weights(model)
    asked = {"*": 0.1, "head.*": 0.5, "inner.*": 0.2}
    found = overrides_by_name(model, weights, asked)
    assert found == {"inner.weight": 0.2, "embedding.weight": 0.5}
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    masks = choose_masks(scores, 0.0, overrides=found)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {
        "inner.weight": 3,
        "embedding.weight": 8,
    }
    for glob in ("tail.*", "*.bias"):
        with pytest.raises(ModelError, match="matches none of the selected weights"):
            overrides_by_name(model, weights, {glob: 0.5})


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str
)
def test_select_weights_leaves_out_types_without_arithmetic(dtype):
    model = nn.Sequential(nn.Linear(8, 8))
    model.table = nn.Parameter(torch.arange(64).view(8, 8).to(dtype), requires_grad=False)
    assert [*select_weights(model)] == ["0.weight"]
    with pytest.raises(ModelError, match="no weight of two or more dimensions in floats of 16"):
        select_weights(model, include=["table"])
    before = model.table.detach().clone()
    config = PruningConfig(sparsity=0.3, schedule="one-shot")
    pruned = Pruner(model, config, steps=0).finalize()
    assert torch.equal(pruned.table, before)
    assert int((pruned[0].weight == 0).sum()) == 19


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_select_weights_takes_floats_of_other_widths(dtype):
    assert [*select_weights(nn.Linear(2, 2, dtype=dtype))] == ["weight"]


def test_weights_named_gives_a_tied_weight_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found = weights_named(model, ["2.weight", "1.weight", "0.weight"])
    assert [*found] == ["2.weight", "1.weight"]
    assert found["1.weight"] is model[0].weight
    with pytest.raises(ModelError, match=r"no parameter named '3\.weight'"):
        weights_named(model, ["0.weight", "3.weight"])


def test_embeddings_of_finds_subclasses_and_tied_weights():
    class Scaled(nn.Embedding):
        pass

    model = nn.ModuleList([Scaled(4, 3), nn.EmbeddingBag(4, 3), nn.Linear(3, 4)])
    model[2].weight = model[0].weight
    assert embeddings_of(model) == {
        model[0].weight: {"Scaled"},
        model[1].weight: {"EmbeddingBag"},
    }


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_weight_layout_puts_the_outputs_of_a_transposed_convolution_first(groups):
    layer = nn.ConvTranspose2d(4, 8, 3, groups=groups, bias=False)
    layout = WeightLayout.at(nn.Sequential(layer), "0.weight")
    rows = layout.outputs_first(layer.weight)
    assert rows.shape == (8, 4 // groups, 3, 3)
    assert torch.equal(layout.as_stored(rows), layer.weight)
    for output in range(8):
        alone = torch.zeros_like(rows)
        alone[output] = 1
        with torch.no_grad():
            layer.weight.copy_(layout.as_stored(alone))
        reached = layer(torch.ones(1, 4, 5, 5)).abs().sum((0, 2, 3)).nonzero().flatten()
        assert reached.tolist() == [output]


def test_weight_layout_of_other_layers_is_unchanged():
    for layer in (nn.Linear(2, 3), nn.Conv2d(2, 3, 1), nn.Embedding(2, 3)):
        layout = WeightLayout.of(layer)
        assert layout == OUTPUTS_FIRST
        assert layout.outputs_first(layer.weight) is layer.weight


def test_weight_layout_knows_conv1d_of_transformers():
    kind = type("Conv1D", (nn.Module,), {"__module__": "transformers.pytorch_utils"})
    assert WeightLayout.of(kind()) == WeightLayout(transposed=True)


@pytest.mark.parametrize("pattern", ["0.weight", "0.parametrizations.weight.*"])
def test_select_weights_matches_a_parametrized_tensor_by_its_plain_name(pattern):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    assert [*select_weights(model, exclude=[pattern])] == ["1.weight"]
    behind = {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"}
    assert {*select_weights(model, include=[pattern])} == behind
    assert {*overrides_by_name(model, select_weights(model), {pattern: 0.5})} == behind


def test_select_weights_matches_a_parametrized_model_by_its_plain_name():
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    assert [*select_weights(model, include=["weight"])] == ["parametrizations.weight.original"]


def test_excluding_the_tensor_that_the_pruner_names_is_enough():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.raises(ModelError, match=r"tensor '0\.weight' has a parametrization"):
        Pruner(model, PruningConfig(0.5), steps=0)
    pruned = Pruner(model, PruningConfig(0.5, exclude=("0.weight",)), steps=0).finalize()
    assert int((pruned[1].weight == 0).sum()) == 8
    assert torch.equal(pruned[0].weight, model[0].weight)
