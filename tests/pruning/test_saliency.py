"""Saliency against gradients by hand, and against what the loss really does; choice of layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flyweight.errors import DataError, ModelError
from flyweight.pruning import fisher_information, masks_by_score, saliency_scores
from flyweight.modules import select_weights


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches(count=3, size=10):
    torch.manual_seed(1)
    return [(torch.randn(size, 6), torch.randint(0, 3, (size,))) for _ in range(count)]


def test_taylor_by_hand():
    model = network().eval()
    weights = {"0.weight": model[0].weight, "3.weight": model[3].weight}
    wanted = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for inputs, targets in batches():
        model.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        for name, weight in weights.items():
            wanted[name] += (weight.grad * weight.detach()) ** 2 / 3
    scores = saliency_scores(model, weights, batches())
    for name in weights:
        assert torch.allclose(scores[name], wanted[name], rtol=1e-5)


def test_fisher_by_hand():
    model = network().eval()
    weight = model[3].weight
    wanted = torch.zeros_like(weight)
    for inputs, targets in batches():
        for one, target in zip(inputs, targets, strict=True):
            model.zero_grad()
            F.cross_entropy(model(one[None]), target[None]).backward()
            wanted += 0.5 * (weight.grad * weight.detach()) ** 2 / 30
    scores = saliency_scores(model, {"3.weight": weight}, batches(), criterion="fisher")
    assert torch.allclose(scores["3.weight"], wanted, rtol=1e-5)
    found = fisher_information(model, {"3.weight": weight}, batches())["3.weight"]
    assert torch.allclose(0.5 * found * weight**2, wanted, rtol=1e-5)


def test_fisher_tells_what_a_weight_is_worth_where_magnitude_does_not():
    torch.manual_seed(0)
    inputs = torch.randn(400, 6) * torch.tensor([9.0, 9, 9, 0.1, 0.1, 0.1])
    model = nn.Linear(6, 1, bias=False)
    nn.init.constant_(model.weight[:, 3:], 1.0)  # large, of inputs that hardly vary
    with torch.no_grad():
        model.weight[:, :3] = 0.4
    targets = model(inputs).detach() + torch.randn(400, 1)
    kept = {}
    for criterion in ("fisher", "taylor"):
        scores = saliency_scores(
            model,
            {"weight": model.weight},
            [(inputs, targets)],
            criterion=criterion,
            loss=F.mse_loss,
        )
        kept[criterion] = masks_by_score(scores, 0.5)["weight"].flatten().tolist()
    assert kept["fisher"] == kept["taylor"] == [True] * 3 + [False] * 3


def test_scoring_leaves_the_network_as_it_was():
    model = network()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = saliency_scores(model, {"0.weight": model[0].weight}, batches())
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.grad is None
    assert not scores["0.weight"].requires_grad


def test_scores_that_cannot_be_had_are_refused():
    model = network()
    weight = {"0.weight": model[0].weight}
    with pytest.raises(DataError, match="no calibration batches"):
        saliency_scores(model, weight, [])
    with pytest.raises(ModelError, match="'magnitude' is unknown"):
        saliency_scores(model, weight, batches(), criterion="magnitude")
    with pytest.raises(ModelError, match="does not depend on 'other'"):
        saliency_scores(model, {"other": nn.Parameter(torch.ones(2))}, batches())
    model[0].weight.requires_grad_(False)
    with pytest.raises(ModelError, match="no gradient"):
        saliency_scores(model, weight, batches())


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.table.weight


def test_weights_are_chosen_by_glob_and_type():
    model = Words()
    assert [*select_weights(model)] == ["table.weight", "conv.weight"]
    assert [*select_weights(model, types=["Conv1d"])] == ["conv.weight"]
    assert [*select_weights(model, layers=["head.*"])] == ["table.weight"]  # its other name
    assert [*select_weights(model, types=["Linear"])] == ["table.weight"]
    assert [*select_weights(model, keep=["head.*"])] == ["conv.weight"]
    assert select_weights(model)["conv.weight"] is model.conv.weight


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": ["stem*"]}, r"'stem\*' matches no parameter"),
        ({"keep": ["stem*"]}, r"'stem\*' matches no parameter"),
        ({"types": ["Conv2d"]}, "type 'Conv2d' has parameters; there are BatchNorm1d, Conv1d"),
        ({"keep": ["*.weight"]}, "leave no weight"),
        ({"layers": ["norm.*"]}, "leave no weight"),
    ],
)
def test_a_choice_of_nothing_is_refused(choice, message):
    with pytest.raises(ModelError, match=message):
        select_weights(Words(), **choice)
