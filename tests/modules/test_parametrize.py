"""Parametrizations: zeros survive every optimizer, and the model stays an ordinary one."""

import copy

import pytest
import torch
from torch import nn

from flyweight.errors import ModelError
from flyweight.modules import attach_, attached, detach_, straight_through
from flyweight.pruning import MaskedWeight, Pruner, PruningConfig, summarize_sparsity
from flyweight.quantization import KMeansWeight, QuantizationConfig, Quantizer

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


@pytest.mark.parametrize("regrowth", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weight_stays_zero_for_200_steps(name, regrowth):
    model = network()
    mask = torch.rand(8, 6) < 0.3
    attach_(model, {"0.weight": MaskedWeight(mask, allow_regrowth=regrowth)})
    optimizer = OPTIMIZERS[name](model.parameters())
    before = model[0].weight.detach().clone()
    for _ in range(200):
        step(model, optimizer)
        assert not model[0].weight[~mask].any()
    assert (model[0].weight[mask] != before[mask]).any()
    detach_(model, ["0.weight"])
    assert torch.equal(model[0].weight != 0, mask)
    assert set(model.state_dict()) == set(network().state_dict())


def test_masked_weight_passes_gradients_to_pruned_weights_only_with_regrowth():
    for regrowth in (False, True):
        model = network()
        mask = torch.eye(8, 6, dtype=torch.bool)
        attach_(model, {"0.weight": MaskedWeight(mask, allow_regrowth=regrowth)})
        model(torch.randn(4, 6)).sum().backward()
        gradient = model[0].parametrizations.weight.original.grad
        assert bool(gradient[:6][~mask[:6]].any()) == regrowth
        assert gradient[mask].any()
        assert not gradient[6:].any()  # nothing is left of these


def test_masked_weight_passes_no_gradient_to_an_empty_filter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(8 * 36, 10))
    mask = torch.ones(8, 3, 3, 3, dtype=torch.bool)
    mask[:3] = False
    mask[3, 1:] = False
    attach_(model, {"0.weight": MaskedWeight(mask, allow_regrowth=True)})
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


def test_masked_weight_is_in_copies_and_states():
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


def test_attach_refuses_an_unknown_name():
    with pytest.raises(ModelError, match=r"'nope.weight'"):
        attach_(network(), {"nope.weight": MaskedWeight(torch.ones(1, dtype=torch.bool))})


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(self.first(inputs).relu())


@pytest.mark.parametrize("regrowth", [False, True])
def test_attach_gives_tied_layers_one_mask(regrowth):
    torch.manual_seed(0)
    model = Tied()
    mask = torch.rand(6, 6) < 0.4
    attach_(model, {"first.weight": MaskedWeight(mask, allow_regrowth=regrowth)})
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


def test_attach_masks_the_weights_of_a_recurrent_layer():
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


def test_copied_model_has_its_own_masks():
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


def test_state_dict_restores_masks():
    model, other = network(), network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask)})
    attach_(other, {"0.weight": MaskedWeight(torch.ones_like(mask))})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)
    assert torch.equal(other[0].weight != 0, mask)


def test_masked_weight_stays_zero_under_autocast():
    model = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(model, {"0.weight": MaskedWeight(mask)})
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            step(model, optimizer)
    assert torch.equal(model[0].weight != 0, mask)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by dynamo
@pytest.mark.parametrize("regrowth", [False, True])
def test_masked_weight_trains_equally_when_compiled(regrowth):
    plain = network()
    mask = torch.rand(8, 6) < 0.5
    attach_(plain, {"0.weight": MaskedWeight(mask, allow_regrowth=regrowth)})
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


def test_attach_refuses_a_layer_without_parameters():
    with pytest.raises(ModelError, match=r"no parameter named '1\.weight'"):
        attach_(network(), {"1.weight": MaskedWeight(torch.ones(1, dtype=torch.bool))})


@pytest.mark.parametrize("shape", [(1,), (6,), (1, 6), (6, 8), (2, 8, 6)])
@pytest.mark.parametrize("make", [MaskedWeight, lambda mask: KMeansWeight(mask.long(), 1)])
def test_attach_refuses_a_mask_of_another_shape(make, shape):
    model = network()
    with pytest.raises(ModelError, match=r"'0.weight' has the shape \(8, 6\), and its \w+ \("):
        attach_(model, {"0.weight": make(torch.ones(shape, dtype=torch.bool))})
    assert not attached(model)


NORMS = [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]


@pytest.mark.parametrize("norm", NORMS)
def test_stages_refuse_foreign_parametrizations_unless_excluded(norm):
    model = network()
    norm(model[0])
    message = r"'0.weight' has a parametrization, _\w+Norm, between it and its layer; remove it"
    with pytest.raises(ModelError, match=message):
        Pruner(model, steps=1)
    with pytest.raises(ModelError, match=message):
        Quantizer(model, steps=1)
    pruner = Pruner(model, PruningConfig(exclude=("0.*",), schedule="one-shot"), steps=1)
    assert (pruner.finalize()[2].weight == 0).sum() == 18
    Quantizer(model, QuantizationConfig(exclude=("0.*",)), steps=0).finalize()


@pytest.mark.parametrize("norm", NORMS)
def test_summarize_sparsity_reads_through_a_foreign_parametrization(norm):
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
def test_pruner_warns_of_excluded_zeros_behind_a_foreign_parametrization(norm):
    model = network()
    model[0].weight.data[:, 0] = 0
    norm(model[0])
    config = PruningConfig(exclude=("0.*",), schedule="one-shot")
    with pytest.warns(UserWarning, match=r"holds zeros that training may revive") as caught:
        pruner = Pruner(model, config, steps=1)
    assert caught[0].filename == __file__
    assert (pruner.finalize()[2].weight == 0).sum() == 18


@pytest.mark.parametrize("norm", NORMS)
def test_quantizer_warns_of_excluded_zeros_behind_a_foreign_parametrization(norm):
    model = network()
    model[0].weight.data[:, 0] = 0
    norm(model[0])
    config = QuantizationConfig(exclude=("0.*",))
    with pytest.warns(UserWarning, match=r"holds zeros that training may revive") as caught:
        quantizer = Quantizer(model, config, steps=0)
    assert caught[0].filename == __file__
    assert "2.weight" in quantizer.finalize().tensors


def test_attach_and_detach_are_linear_in_the_number_of_layers(monkeypatch):
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


@pytest.mark.parametrize("leaves", [["weight"], ["bias"], ["bias", "weight"]])
def test_detach_restores_the_order_of_parameters(leaves):
    model = nn.Linear(3, 2)
    before = [*vars(model)]
    attach_(model, {leaf: MaskedWeight(getattr(model, leaf) > 0) for leaf in leaves})
    copied = copy.deepcopy(model)
    for one in (model, copied):
        for leaf in leaves:
            detach_(one, [leaf])
        assert [*one.state_dict()] == [name for name, _ in one.named_parameters()]
        assert [*one.state_dict()] == ["weight", "bias"]
        assert [*vars(one)] == before
        assert type(one).__name__ == "Linear"


def test_detach_of_one_parameter_leaves_the_other_attached():
    model = nn.Linear(3, 2)
    attach_(model, {leaf: MaskedWeight(getattr(model, leaf) > 0) for leaf in ("weight", "bias")})
    detach_(model, ["weight"])
    assert [*attached(model)] == ["bias"]
    detach_(model, ["bias"])
    assert [*model.state_dict()] == ["weight", "bias"]


def test_detach_refuses_a_plain_weight():
    with pytest.raises(ModelError, match="'weight' is a plain weight already; it was finalized"):
        detach_(nn.Linear(3, 2), ["weight"])


@pytest.mark.parametrize("regrowth", [False, True])
def test_masked_weight_passes_no_nan_for_an_infinite_gradient(regrowth):
    weight = torch.ones(3, 2, requires_grad=True)
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    seen = MaskedWeight(mask, allow_regrowth=regrowth)(weight)
    seen.backward(torch.full((3, 2), torch.inf))
    learning = mask.any(1, keepdim=True).expand(3, 2) if regrowth else mask
    assert torch.equal(weight.grad, torch.where(learning, torch.inf, 0.0))


def test_straight_through_passes_no_nan_for_an_infinite_gradient():
    weight = torch.ones(2, requires_grad=True)
    seen = straight_through(weight, torch.ones(2), torch.tensor([True, False]))
    seen.backward(torch.full((2,), torch.inf))
    assert weight.grad.tolist() == [torch.inf, 0]


def test_second_stage_on_a_prepared_model_is_refused():
    pruner = Pruner(network(), PruningConfig(sparsity=0.5), steps=1)
    quantizer = Quantizer(network(), steps=1)
    for model in (pruner.model, quantizer.model):
        for stage in (Pruner, Quantizer):
            with pytest.raises(ModelError, match=r"attached, of a Pruner .* call its finalize\(\)"):
                stage(model, steps=1)
