"""Zeros survive every optimiser; shared values stay few; models stay ordinary."""

import copy

import pytest
import torch
from torch import nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.errors import ModelError
from flyweight.own_loop_old import prepare, prepare_quantizer_old
from flyweight.pruning import MaskedWeight
from flyweight.quantization import KMeansWeight
from flyweight.modules import attach_, attached, detach_
from flyweight.pruning import summarize_sparsity
from flyweight.quantization import quantize_kmeans
from flyweight.recipes import PruningConfig, QuantizationConfig

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model(torch.randn(16, 6)).square().mean() - model(torch.randn(16, 6)).mean()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("recovery", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_survive_200_steps(name, recovery):
    model = network()
    mask = torch.rand(8, 6) < 0.3
    attach_(model, {"0.weight": MaskedWeight(mask, recovery=recovery)})
    optimizer = OPTIMIZERS[name](model.parameters())
    before = model[0].weight.detach().clone()
    for _ in range(200):
        step(model, optimizer)
        assert not model[0].weight[~mask].any()
    assert (model[0].weight[mask] != before[mask]).any()
    detach_(model, ["0.weight"])
    assert torch.equal(model[0].weight != 0, mask)
    assert set(model.state_dict()) == set(network().state_dict())


def test_pruned_weights_get_a_gradient_only_under_recovery():
    for recovery in (False, True):
        model = network()
        mask = torch.eye(8, 6, dtype=torch.bool)
        attach_(model, {"0.weight": MaskedWeight(mask, recovery=recovery)})
        model(torch.randn(4, 6)).sum().backward()
        gradient = model[0].parametrizations.weight.original.grad
        assert bool(gradient[:6][~mask[:6]].any()) == recovery
        assert gradient[mask].any()
        assert not gradient[6:].any()  # nothing is left of these


def test_a_dead_filter_before_batch_normalisation_does_not_blow_up():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(8 * 36, 10))
    mask = torch.ones(8, 3, 3, 3, dtype=torch.bool)
    mask[:3] = False
    mask[3, 1:] = False
    attach_(model, {"0.weight": MaskedWeight(mask, recovery=True)})
    dense = model[0].parametrizations.weight.original
    before = dense.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(50):
        optimizer.zero_grad()
        images, labels = torch.randn(16, 3, 8, 8), torch.randint(0, 10, (16,))
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert torch.equal(dense[:3], before[:3])
    assert not torch.equal(dense[3, 1:], before[3, 1:])
    assert dense.abs().max() < 10


def shared(model, bits):
    tensor = quantize_kmeans(model[0].weight, bits=bits)
    parametrization = KMeansWeight(tensor.symbols, tensor.levels.numel())
    attach_(model, {"0.weight": parametrization})
    return tensor, parametrization


def test_a_shared_layer_sees_centroids_and_their_weights_get_its_gradient():
    model, twin = network(), network()
    for one in (model, twin):
        one[0].weight.data[0] = 0
    tensor, parametrization = shared(model, bits=2)
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


def test_shared_weights_keep_zeros_and_few_values_while_they_train():
    model = network()
    model[0].weight.data[torch.rand(8, 6) < 0.5] = 0
    zeros = model[0].weight == 0
    _, parametrization = shared(model, bits=2)
    weight = model[0].parametrizations.weight.original
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for number in range(50):
        step(model, optimizer)
        if number % 5 == 0:
            parametrization.reassign_(weight)
    assert not model[0].weight[zeros].any()
    assert 2 < len(model[0].weight.unique()) <= 5
    tensor = parametrization.compressed(weight)
    assert torch.equal(tensor.dequantize(), model[0].weight)
    assert len(tensor.levels) == len(tensor.symbols.unique()) - 1


def test_reassigning_is_a_round_of_lloyd_and_drops_clusters_left_empty():
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
def test_means_of_many_weights_neither_overflow_nor_drift(dtype):
    weight = torch.full((1_100_000,), 0.1).to(dtype)
    parametrization = KMeansWeight(torch.ones(weight.shape, dtype=torch.int64), 1)
    assert torch.equal(parametrization(weight), weight)
    assert torch.equal(parametrization.compressed(weight).dequantize(), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_reassigning_finds_the_nearest_mean_in_any_type(dtype):
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    most = 6e4 if dtype == torch.float16 else 3e38
    weight = (weight * most / 2).clamp(-most, most).to(dtype)
    parametrization = KMeansWeight(quantize_kmeans(weight, bits=6).symbols, 2**6)
    means = parametrization.compressed(weight).levels.double()
    assert bool(torch.isfinite(means).all())
    parametrization.reassign_(weight)  # numbers the means from the least to the largest
    found = (weight.double() - means[parametrization.symbols - 1]).abs()
    assert torch.equal(found, (weight.double()[:, None] - means).abs().min(1).values)


def test_deepcopy_and_state_dict_carry_the_mask():
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask)})
    twin = copy.deepcopy(model)
    other = network()
    attach_(other, {"0.weight": MaskedWeight(torch.ones(8, 6, dtype=torch.bool))})
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(model(x), twin(x))
    assert torch.equal(model(x), other(x))


def test_an_unknown_name_is_refused():
    with pytest.raises(ModelError, match=r"'nope.weight'"):
        attach_(network(), {"nope.weight": MaskedWeight(torch.ones(1, dtype=torch.bool))})


def test_folding_batch_norm_keeps_the_function():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False))
    for _ in range(5):
        model(3 + 2 * torch.randn(8, 3, 9, 9))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    model.eval()
    x = torch.randn(4, 3, 9, 9)
    before = model(x)
    variance = model[2].running_var.clone()
    fold_batch_norms_(model)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert not model[1].running_mean.any()
    assert len(model[1].running_var.unique()) == 1
    assert torch.equal(model[2].running_var, variance)


def test_batch_norms_that_share_their_weights_are_not_folded():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    model(3 + torch.randn(50, 4))
    model.eval()
    x = torch.randn(6, 4)
    before = model(x)
    fold_batch_norms_(model)
    assert torch.equal(model(x), before)
    assert model[0].running_mean.any()


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(self.first(inputs).relu())


@pytest.mark.parametrize("recovery", [False, True])
def test_layers_that_share_a_weight_share_its_mask(recovery):
    torch.manual_seed(0)
    model = Tied()
    mask = torch.rand(6, 6) < 0.4
    attach_(model, {"first.weight": MaskedWeight(mask, recovery=recovery)})
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    before = model.first.weight.detach().clone()
    for _ in range(20):
        step(model, optimizer)
        assert torch.equal(model.second.weight, model.first.weight)
        assert not model.second.weight[~mask].any()
    detach_(model, ["first.weight"])
    assert model.second.weight is model.first.weight
    assert not model.first.weight[~mask].any()
    assert (model.first.weight != before)[mask].all()
    assert set(model.state_dict()) == set(Tied().state_dict())


def test_a_recurrent_layer_computes_with_its_masked_weights():
    torch.manual_seed(0)
    model = nn.LSTM(5, 4, num_layers=2)
    masks = {
        name: torch.rand_like(weight) < 0.5
        for name, weight in model.named_parameters()
        if weight.ndim > 1
    }
    attach_(model, {name: MaskedWeight(mask) for name, mask in masks.items()})
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    inputs = torch.randn(7, 3, 5)
    for _ in range(5):
        optimizer.zero_grad()
        model(inputs)[0].square().mean().backward()
        optimizer.step()
    seen = model(inputs)[0]
    detach_(model, masks)
    plain = nn.LSTM(5, 4, num_layers=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(inputs)[0], seen)
    for name, mask in masks.items():
        assert torch.equal(plain.get_parameter(name) != 0, mask)


def test_a_copy_has_masks_of_its_own():
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask.clone())})
    copied = copy.deepcopy(model)
    model[0].parametrizations.weight[0].mask.fill_(True)
    assert torch.equal(copied[0].weight != 0, mask)
    optimizer = OPTIMIZERS["sgd"](copied.parameters())
    step(copied, optimizer)
    assert torch.equal(copied[0].weight != 0, mask)
    assert model[0].weight.all()


def test_masks_are_saved_with_the_state_and_come_back():
    model, other = network(), network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask)})
    attach_(other, {"0.weight": MaskedWeight(torch.ones_like(mask))})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)
    assert torch.equal(other[0].weight != 0, mask)


def test_zeros_survive_autocast():
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask)})
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            step(model, optimizer)
    assert torch.equal(model[0].weight != 0, mask)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by dynamo
@pytest.mark.parametrize("recovery", [False, True])
def test_a_compiled_network_learns_the_same(recovery):
    plain = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(plain, {"0.weight": MaskedWeight(mask, recovery=recovery)})
    other = copy.deepcopy(plain)
    fast = torch.compile(other, backend="aot_eager")
    for model, run in ((plain, plain), (other, fast)):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            step(run, optimizer)
    detach_(plain, ["0.weight"])
    detach_(other, ["0.weight"])
    assert torch.equal(plain[0].weight != 0, mask)
    for first, second in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-6)


def test_a_name_that_is_no_parameter_is_refused():
    with pytest.raises(ModelError, match=r"no parameter named '1\.weight'"):
        attach_(network(), {"1.weight": MaskedWeight(torch.ones(1, dtype=torch.bool))})


@pytest.mark.parametrize("shape", [(1,), (6,), (1, 6), (6, 8), (2, 8, 6)])
@pytest.mark.parametrize("make", [MaskedWeight, lambda mask: KMeansWeight(mask.long(), 1)])
def test_a_mask_of_another_shape_is_refused(make, shape):
    model = network()
    with pytest.raises(ModelError, match=r"'0.weight' has the shape \(8, 6\), and its \w+ \("):
        attach_(model, {"0.weight": make(torch.ones(shape, dtype=torch.bool))})
    assert not attached(model)


NORMS = [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]


@pytest.mark.parametrize("norm", NORMS)
def test_a_parametrization_of_torch_is_refused_at_the_start(norm):
    model = network()
    norm(model[0])
    said = r"'0.weight' has a parametrization, _\w+Norm, between it and its layer; take it off"
    with pytest.raises(ModelError, match=said):
        prepare(model, PruningConfig(), steps=1)
    with pytest.raises(ModelError, match=said):
        prepare_quantizer_old(model, QuantizationConfig(), steps=1)
    prepared = prepare(model, PruningConfig(keep=("0.*",), schedule="one-shot"), steps=1)
    assert (prepared.finalize()[2].weight == 0).sum() == 18


@pytest.mark.parametrize("norm", NORMS)
def test_a_summary_counts_what_the_layer_sees_and_changes_nothing(norm):
    model = network()
    with torch.no_grad():
        model[0].weight[:, 0] = 0
    norm(model[0])
    before = copy.deepcopy(model.state_dict())
    rows = summarize_sparsity(model).layers
    assert [(row.name, row.nonzeros) for row in rows] == [("0.weight", 40), ("2.weight", 24)]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("norm", NORMS)
def test_zeros_behind_a_parametrization_of_torch_are_refused_where_none_chose_it(norm):
    model = network()
    model[0].weight.data[:, 0] = 0
    norm(model[0])
    with pytest.raises(ModelError, match=r"'0.weight' has .*, since nothing keeps its zeros"):
        prepare(model, PruningConfig(keep=("0.*",), schedule="one-shot"), steps=1)


def test_twice_the_layers_are_twice_the_work(monkeypatch):
    visits = []
    walk = nn.Module.named_modules

    def counted(module, *args, **kwargs):
        visits.append(module)
        return walk(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "named_modules", counted)
    counts = []
    for number in (20, 40):
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(number)))
        mask = torch.eye(2, dtype=torch.bool)
        visits.clear()
        attach_(model, {f"{i}.weight": MaskedWeight(mask) for i in range(number)})
        detach_(model, [f"{i}.weight" for i in range(number)])
        counts.append(len(visits))
    assert counts[1] <= 2 * counts[0]
    assert all(torch.equal(layer.weight != 0, mask) for layer in model)
