"""Removal of zero filters against the network whose zero filters are silenced."""

import copy

import pytest
import torch
from torch import nn

from flyweight.cifar import create_model
from flyweight.errors import ModelError
from flyweight.modules import attach_
from flyweight.pruning import MaskedWeight, Pruner, PruningConfig
from flyweight.structured import feeding_layers, remove_filters, silence_filters_

pytest.importorskip("torch_pruning")


def trained_looking(model):
    """Set statistics and biases that differ from those of a new network."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet20", "resnet20-b"])
def test_remove_filters_shrinks_a_residual_network_of_equal_outputs(name):
    model = trained_looking(create_model(name))
    config = PruningConfig(
        sparsity=0.5, pattern="filters", schedule="one-shot", include=("stages.*.conv1.weight",)
    )
    pruned = Pruner(model, config, steps=0).finalize().eval()
    images = torch.randn(4, 3, 32, 32)
    smaller = remove_filters(pruned, images[:1])
    before = copy.deepcopy(pruned.state_dict())
    assert smaller.stages[0][0].conv1.weight.shape == (8, 16, 3, 3)
    assert smaller.stages[2][2].conv2.weight.shape == (64, 32, 3, 3)
    silent = silence_filters_(copy.deepcopy(pruned), images)
    assert torch.allclose(smaller(images), silent(images), atol=1e-5)
    assert not torch.allclose(smaller(images), pruned(images), atol=1e-2)
    assert all(torch.equal(before[n], v) for n, v in pruned.state_dict().items())
    size = sum(p.numel() for p in smaller.parameters())
    assert size < 0.52 * sum(p.numel() for p in model.parameters())


def test_remove_filters_removes_added_filters_only_together():
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
    silent = silence_filters_(copy.deepcopy(model), images)
    assert torch.allclose(smaller(images), silent(images), atol=1e-5)


def test_remove_filters_leaves_one_filter_and_the_outputs():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.zeros_(model[0].weight)
    with torch.no_grad():
        model[2].weight[1] = 0
    smaller = remove_filters(model, torch.randn(2, 4))
    assert smaller[0].weight.shape == (1, 4)
    assert smaller[2].weight.shape == (3, 1)
    inputs = torch.randn(5, 4)
    silent = silence_filters_(copy.deepcopy(model), inputs)
    assert torch.allclose(smaller(inputs), silent(inputs))


def test_remove_filters_refuses_what_cannot_be_traced():
    with pytest.raises(ModelError, match="cannot be traced"):
        remove_filters(nn.Linear(4, 2), torch.randn(2, 5))


class Registered(nn.Module):
    """Two convolutions with batch normalizations that are registered in another order."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(x)).relu())


@pytest.mark.parametrize("slopes", [1, 8])
def test_remove_filters_removes_filters_before_prelu(slopes):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(slopes), nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        model[0].weight[2:5] = 0
        model[0].bias[2:5] = 0
    images = torch.randn(2, 3, 8, 8)
    smaller = remove_filters(model, images)
    assert smaller[0].weight.shape[0] == 5
    assert torch.allclose(smaller(images), model(images), atol=1e-6)


@pytest.mark.gpu
def test_remove_filters_works_on_a_gpu():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).cuda()
    with torch.no_grad():
        model[0].weight[2:5] = 0
        model[0].bias[2:5] = 0
    images = torch.randn(2, 3, 8, 8, device="cuda")
    assert remove_filters(model, images)[0].weight.shape[0] == 5


@pytest.mark.parametrize("dead", ["conv1", "conv2"])
def test_silence_filters_finds_the_batch_norm_that_a_layer_feeds(dead):
    model = trained_looking(Registered())
    norm = {"conv1": model.bn1, "conv2": model.bn2}[dead]
    with torch.no_grad():
        layer = model.get_submodule(dead)
        layer.weight[[1, 4]] = 0
        layer.bias[[1, 4]] = 0
        norm.running_mean[[1, 4]] = 0
        norm.bias[[1, 4]] = 0  # the output of the zero filter is 0
    images = torch.randn(4, 3, 8, 8)
    smaller = remove_filters(model, images[:1])
    assert smaller.get_submodule(dead).weight.shape[0] == 4
    assert torch.allclose(smaller(images), model(images), atol=1e-6)
    assert torch.allclose(silence_filters_(model, images)(images), smaller(images), atol=1e-6)


class Fed(nn.Module):
    """One batch normalization of two layers, or of a sum made in place."""

    def __init__(self, in_place):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.norm, self.in_place = nn.BatchNorm1d(4), in_place

    def forward(self, x):
        if self.in_place:
            y = self.one(x)
            y += self.two(x)
            return self.norm(y)
        return self.norm(self.one(x)) + self.norm(self.two(x))


@pytest.mark.parametrize("in_place", [False, True])
def test_silence_filters_leaves_a_batch_norm_that_another_layer_feeds(in_place):
    model = Fed(in_place).eval()
    with torch.no_grad():
        model.norm.bias.fill_(0.5)
        model.one.weight[2] = 0
    inputs = torch.randn(3, 4)
    before = model(inputs)
    assert torch.equal(silence_filters_(model, inputs)(inputs), before)


@pytest.mark.parametrize("in_place", [False, True])
def test_feeding_layers_gives_layers_in_order(in_place):
    model = Fed(in_place)
    found = feeding_layers(model, torch.randn(3, 4))
    assert found == {model.norm: [None] if in_place else [model.one, model.two]}
    assert not model.norm._forward_pre_hooks
    assert not model.one._forward_hooks
    assert model.training
    assert model.norm.num_batches_tracked == 0


def test_remove_filters_preserves_modes_and_requires_grad():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Conv2d(6, 2, 3)
    ).train()
    model[1].eval()
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[0].weight[2:] = 0
        smaller = remove_filters(model, torch.zeros(2, 3, 8, 8))
    assert smaller[0].weight.shape == (2, 3, 3, 3)
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in smaller.named_parameters()} == flags
    assert set(flags.values()) == {True, False}
    assert all(p.grad_fn is None and p.grad is None for p in smaller.parameters())
    assert model[1].num_batches_tracked == 0


def test_remove_filters_leaves_layers_that_are_not_run():
    model = Registered().eval()
    model.spare = nn.Linear(4, 4)
    nn.init.zeros_(model.spare.weight)
    assert remove_filters(model, torch.zeros(1, 3, 8, 8)).spare.weight.shape == (4, 4)


def test_remove_filters_refuses_a_masked_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    mask = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
    attach_(model, {"0.weight": MaskedWeight(mask)})
    with pytest.raises(ModelError, match=r"tensor '0\.weight' has a MaskedWeight.*finalize"):
        remove_filters(model, torch.zeros(1, 3, 8, 8))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.inner(self.embedding(x)).relu())


def test_remove_filters_refuses_to_cut_a_tied_weight():
    model, words = Tied().eval(), torch.arange(6).view(2, 3)
    smaller = remove_filters(model, words)  # nothing is zero
    assert smaller.head.weight is smaller.embedding.weight
    with torch.no_grad():
        model.inner.weight[1] = 0
    with pytest.raises(ModelError, match=r"'embedding\.weight' is shared by several layers"):
        remove_filters(model, words)


class Added(nn.Module):
    """A layer whose outputs are added to those of a transposed convolution, or to a parameter."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner, self.out = kind, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
        self.other = nn.ConvTranspose2d(3, 3, 1, bias=False)
        self.shift = nn.Parameter(torch.ones(1, 3, 1, 1))

    def forward(self, x):
        return self.out(self.inner(x) + (self.other(x) if self.kind == "layer" else self.shift))


@pytest.mark.parametrize("kind", ["layer", "parameter"])
def test_remove_filters_preserves_what_is_added_to_a_zero_filter(kind):
    model = Added(kind).eval()
    with torch.no_grad():
        model.inner.weight[1] = 0
        model.inner.bias[1] = 0
        model.other.weight[1] = 0  # an input, not an output
    images = torch.randn(2, 3, 5, 5)
    assert torch.allclose(remove_filters(model, images)(images), model(images))


def test_remove_filters_removes_outputs_of_a_transposed_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[:, 2:5] = 0
        model[0].weight[1] = 0  # an input, which stays
    images = torch.randn(2, 3, 8, 8)
    smaller = remove_filters(model, images)
    assert smaller[0].weight.shape == (3, 5, 2, 2)
    assert smaller[2].weight.shape == (4, 5, 3, 3)
    silent = silence_filters_(copy.deepcopy(model), images)
    assert silent[0].bias.eq(0).nonzero().flatten().tolist() == [2, 3, 4]
    assert torch.allclose(smaller(images), silent(images), atol=1e-6)


@pytest.mark.parametrize(
    "batch", [(torch.zeros(2, 4), torch.zeros(2)), {"input": torch.zeros(2, 4)}]
)
def test_remove_filters_takes_any_batch(batch):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].weight[1:3] = 0
    assert remove_filters(model, batch)[0].weight.shape == (4, 4)


def test_remove_filters_refuses_a_function_as_forward():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    original = model[0].forward
    model[0].forward = lambda inputs: original(inputs)
    with pytest.raises(ModelError, match="layer '0' has a forward that was set on the instance"):
        remove_filters(model, torch.zeros(1, 3, 8, 8))
