"""Saliency against gradients by hand, on any form of batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flyweight.batches import run_model, targets_of
from flyweight.errors import DataError, ModelError
from flyweight.pruning import (
    fisher_information,
    masks_by_score,
    reached_weights,
    saliency_scores,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches(count=3, size=10):
    torch.manual_seed(1)
    return [(torch.randn(size, 6), torch.randint(0, 3, (size,))) for _ in range(count)]


def test_saliency_scores_by_taylor_by_hand():
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


def test_saliency_scores_by_fisher_by_hand():
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


def test_saliency_scores_find_the_useful_weights():
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
            loss=lambda model, batch: F.mse_loss(run_model(model, batch), targets_of(batch)),
        )
        kept[criterion] = masks_by_score(scores, 0.5)["weight"].flatten().tolist()
    assert kept["fisher"] == kept["taylor"] == [True] * 3 + [False] * 3


def test_saliency_scores_do_not_change_the_network():
    model = network()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = saliency_scores(model, {"0.weight": model[0].weight}, batches())
    assert model.training
    assert not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.grad is None
    assert not scores["0.weight"].requires_grad


def test_saliency_scores_refuse_what_cannot_be_scored():
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


class Tokens(nn.Module):
    """A classifier that computes its own loss from keywords, as Hugging Face models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask, labels=None):
        hidden = self.table(input_ids) * attention_mask.unsqueeze(-1)
        logits = self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def mappings():
    generator = torch.Generator().manual_seed(2)
    masks = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    return [
        {
            "input_ids": torch.randint(0, 7, (3, 4), generator=generator),
            "attention_mask": masks,
            "labels": torch.randint(0, 3, (3,), generator=generator),
        }
        for _ in range(2)
    ]


def test_fisher_information_takes_batches_of_mappings():
    model = Tokens()
    weight = model.head.weight
    expected = torch.zeros_like(weight)
    for batch in mappings():
        for place in range(3):
            one = {name: tensor[place : place + 1] for name, tensor in batch.items()}
            (gradient,) = torch.autograd.grad(model(**one)["loss"], weight)
            expected += gradient**2 / 6
    found = fisher_information(model, {"head.weight": weight}, mappings())["head.weight"]
    assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_saliency_scores_take_inputs_alone_with_a_loss(criterion):
    layer = nn.Linear(3, 2, bias=False)
    inputs = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])
    scores = saliency_scores(
        layer,
        {"weight": layer.weight},
        [inputs],
        criterion=criterion,
        loss=lambda model, batch: model(batch).square().mean(),
    )
    assert (scores["weight"] > 0).tolist() == [[True, False, True]] * 2


def test_reached_weights_takes_batches_of_mappings():
    model = Tokens()
    model.spare = nn.Linear(2, 2)
    names = ["table.weight", "head.weight", "spare.weight"]
    weights = {name: model.get_parameter(name) for name in names}
    assert [*reached_weights(model, weights, mappings())] == names[:2]


def test_saliency_scores_refuse_a_loss_that_is_not_a_scalar():
    layer = nn.Linear(2, 2)
    for value, message in [
        (lambda model, batch: model(batch), r"loss gives a Tensor of shape \(3, 2\), not a scalar"),
        (lambda model, batch: 1.0, "loss gives a float, not a scalar"),
    ]:
        with pytest.raises(ModelError, match=message):
            saliency_scores(layer, {"weight": layer.weight}, [torch.ones(3, 2)], loss=value)
