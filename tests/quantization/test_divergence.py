"""Tests of the divergence between outputs before and after quantization."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.errors import ModelError
from flyweight.pruning import fisher_information
from flyweight.quantization import divergence as divergence_module
from flyweight.quantization.divergence import Head, OutputDivergence, heads_of


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output(*shape):
    return torch.zeros(shape, requires_grad=True) * 2


@dataclass
class Outputs:
    """As Hugging Face models give them."""

    logits: Tensor
    hidden: Tensor


INPUTS = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("outputs", "batch", "expected"),
    [
        (output(4, 3), INPUTS, Head("", 1, True)),
        (output(4, 3), (INPUTS, torch.zeros(4).long()), Head("", 1, True)),
        (output(4, 3), (INPUTS, torch.full((4, 3), 1 / 3)), Head("", 1, True)),  # soft labels
        (output(4, 3), (INPUTS, random(4, 3)), Head("", 1, False)),  # regression
        (output(4, 3), (INPUTS, torch.ones(4, 3).long()), Head("", 1, False)),  # several labels
        (output(4, 1), INPUTS, Head("", 1, False)),
        (output(4), INPUTS, Head("", 0, False)),
        (output(4, 5, 6, 6), INPUTS, Head("", 1, False)),
        (output(4, 5, 6, 6), (INPUTS, torch.zeros(4, 6, 6).long()), Head("", 1, True)),
        (output(4, 7, 5), INPUTS, Head("", 2, False)),
        (output(4, 7, 5), (INPUTS, torch.zeros(4, 7).long()), Head("", 2, True)),
        ({"logits": output(4, 7, 5), "x": output(4, 2)}, {"a": INPUTS}, Head("logits", 2, True)),
        (Outputs(output(4, 3), output(4, 9)), {"a": INPUTS}, Head("logits", 1, True)),
        (Outputs(output(4, 1), output(4, 9)), {"a": INPUTS}, Head("logits", 1, False)),
        ((output(4, 3), output(4)), (INPUTS, torch.zeros(4).long()), Head("0", 1, True)),
    ],
)
def test_heads_of_tells_logits_from_numbers(outputs, batch, expected):
    assert heads_of(outputs, batch) == (expected,)


def test_heads_of_takes_all_tensors_that_depend_on_weights():
    weight = nn.Parameter(torch.ones(4, 2))
    outputs = {
        "a": output(4, 3),
        "b": (output(4, 7, 2), torch.zeros(4, 2)),
        "weight": weight,
        "loss": output(4, 3).sum(),
    }
    assert [head.name for head in heads_of(outputs, INPUTS)] == ["a", "b.0"]


def test_heads_of_refuses_outputs_without_gradients():
    with pytest.raises(ModelError, match="depend on none of its weights; return a tensor"):
        heads_of(torch.ones(4, 3), INPUTS)


def test_divergence_of_logits_is_kullback_leibler():
    torch.manual_seed(0)
    model, batches = nn.Linear(6, 5), [random(8, 6), random(4, 6, seed=1)]
    divergence = OutputDivergence(model, batches)
    other = nn.Linear(6, 5)
    inputs = torch.cat(batches)
    expected = F.kl_div(
        other(inputs).double().log_softmax(1),
        model(inputs).double().log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    assert divergence.of(other) == pytest.approx(expected.item(), rel=1e-6)
    assert divergence.of(model) == 0


class Tagger(nn.Module):
    """Logits of each token."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, ids, attention_mask):
        return {"logits": self.layer(self.words(ids))}


def test_divergence_of_tokens_is_their_mean_without_padding():
    torch.manual_seed(0)
    model, other = Tagger(), Tagger()
    ids, mask = torch.arange(12).view(2, 6) % 9, torch.ones(2, 6, dtype=torch.long)
    mask[1, 3:] = 0
    divergence = OutputDivergence(model, [{"ids": ids, "attention_mask": mask}])
    each = F.kl_div(
        other(ids, mask)["logits"].double().log_softmax(2),
        model(ids, mask)["logits"].double().log_softmax(2),
        log_target=True,
        reduction="none",
    ).sum(2)
    assert divergence.of(other) == pytest.approx(each[mask.bool()].mean().item(), rel=1e-6)


def test_divergence_of_numbers_is_that_of_gaussians():
    torch.manual_seed(0)
    model, other = nn.Linear(6, 1), nn.Linear(6, 1)
    inputs = random(50, 6)
    divergence = OutputDivergence(model, inputs.split(20))
    before, after = model(inputs).double(), other(inputs).double()
    expected = (before - after).square().mean() / (2 * before.var(correction=0))
    assert divergence.of(other) == pytest.approx(expected.item(), rel=1e-5)


def test_divergence_adds_features_and_heads():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, inputs):
            found = self.layer(inputs)
            return found[:, :1], 1e3 * found[:, 1:]

    torch.manual_seed(0)
    model, other, inputs = Two(), Two(), random(50, 6)
    divergence = OutputDivergence(model, [inputs])
    before, after = model.layer(inputs).double(), other.layer(inputs).double()
    expected = ((before - after).square().mean(0) / (2 * before.var(0, correction=0))).sum()
    assert divergence.of(other) == pytest.approx(expected.item(), rel=1e-5)
    assert divergence.saturation == 1.0


def test_divergence_is_the_same_without_cached_outputs(monkeypatch):
    torch.manual_seed(0)
    model, other, batches = nn.Linear(6, 5), nn.Linear(6, 5), [random(8, 6), random(4, 6, seed=1)]
    cached = OutputDivergence(model, batches).of(other)
    monkeypatch.setattr(divergence_module, "_CACHED_BYTES", 0)
    monkeypatch.setattr(divergence_module, "_CHUNK", 7)
    divergence = OutputDivergence(model, batches)
    nn.init.zeros_(model.weight)
    assert divergence.of(other) == pytest.approx(cached, rel=1e-12)


@pytest.mark.parametrize("features", [1, 3])
def test_pseudo_loss_of_numbers_gives_the_curvature(features):
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, features), random(3000, 4)
    target = random(3000, features)  # makes the outputs numbers
    batches = [(inputs, target)]
    divergence = OutputDivergence(model, batches)
    weights = {"weight": model.weight}
    fisher = fisher_information(model, weights, batches, loss=divergence.pseudo_loss())["weight"]
    other, change = copy.deepcopy(model), 1e-2
    for row in range(features):
        with torch.no_grad():
            other.weight.copy_(model.weight)
            other.weight[row, 0] += change
        expected = 2 * divergence.of(other) / change**2
        assert float(fisher[row, 0]) == pytest.approx(expected, rel=0.15)


def test_pseudo_loss_of_logits_is_cross_entropy_with_the_most_likely_class():
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 3), random(1, 4)
    loss = OutputDivergence(model, [inputs]).pseudo_loss()(model, inputs)
    logits = model(inputs)
    assert torch.equal(loss, F.cross_entropy(logits, logits.argmax(1)))


def test_divergence_of_constant_outputs_is_finite():
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    divergence = OutputDivergence(model, [random(8, 2)])
    nn.init.ones_(model.weight)
    assert math.isfinite(divergence.of(model))
