"""Optimizers, their learning rates and states, and moving averages."""

import copy

import pytest
import torch
from torch import nn

from flyweight.errors import CheckpointError
from flyweight.training import TrainingConfig
from flyweight.training.optimizers import average_, configured_optimizer, restore_, set_rates_


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_configured_optimizer_decays_matrices_only(name, kind):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = configured_optimizer(model, TrainingConfig(optimizer=name, weight_decay=0.3))
    assert type(optimizer) is kind
    matrices, vectors = optimizer.param_groups
    assert matrices["weight_decay"] == 0.3
    assert vectors["weight_decay"] == 0.0
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert {p.ndim for p in vectors["params"]} == {1}


def test_configured_optimizer_takes_momentum_and_nesterov():
    model = nn.Linear(2, 2)
    plain = configured_optimizer(model, TrainingConfig(momentum=0.8, nesterov=False))
    assert (plain.defaults["momentum"], plain.defaults["nesterov"]) == (0.8, False)
    none = configured_optimizer(model, TrainingConfig(momentum=0.0))
    assert none.defaults["nesterov"] is False


def test_set_rates_scales_the_peaks_of_another_optimizer():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 1.0}, {"params": [model.bias], "lr": 0.01}]
    )
    config = TrainingConfig(learning_rate=0.2)
    set_rates_(optimizer, 0.05, config, [1.0, 0.01])
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.0025])
    set_rates_(optimizer, 0.05, config, None)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]


class Tied(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.inputs, self.outputs = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.outputs.weight = self.inputs.weight
        self.register_buffer("count", torch.tensor(int(value)))
        nn.init.constant_(self.inputs.weight, value)


def test_average_updates_tied_weights_once_and_copies_integers():
    averaged, model = Tied(0.0), Tied(1.0)
    average_(averaged, model, 0.75)
    assert averaged.outputs.weight.item() == 0.25
    assert averaged.outputs.weight is averaged.inputs.weight
    assert averaged.count == 1


def trained(name):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = configured_optimizer(model, TrainingConfig(optimizer=name))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_restore_continues_from_its_own_state(name):
    state = trained(name).state_dict()
    fresh = configured_optimizer(nn.Linear(3, 2), TrainingConfig(optimizer=name))
    restore_(fresh, copy.deepcopy(state), configured=True)
    for number, values in fresh.state_dict()["state"].items():
        for key, value in values.items():
            assert torch.equal(value, state["state"][number][key])


def mutations(state):
    """States with one thing changed, at every place."""
    values = (None, -1, "text", [], {}, float("nan"), torch.ones(7), torch.ones(2, 2, 2))
    for key in state:
        yield {k: v for k, v in state.items() if k != key}
        for value in values:
            yield {**state, key: value}
    for number, group in enumerate(state["param_groups"]):
        for key in group:
            groups = [dict(one) for one in state["param_groups"]]
            del groups[number][key]
            yield {**state, "param_groups": groups}
            for value in values:
                changed = [dict(one) for one in state["param_groups"]]
                changed[number][key] = value
                yield {**state, "param_groups": changed}
    for number, entry in state["state"].items():
        for value in values:
            yield {**state, "state": {**state["state"], number: value}}
            yield {**state, "state": {**state["state"], "x": value}}
            for key in entry:
                yield {**state, "state": {**state["state"], number: {**entry, key: value}}}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_restore_refuses_tampered_states(name):
    """A state either raises CheckpointError or trains on."""
    state = trained(name).state_dict()
    refused = 0
    for changed in mutations(state):
        model = nn.Linear(3, 2)
        fresh = configured_optimizer(model, TrainingConfig(optimizer=name))
        try:
            restore_(fresh, changed, configured=True)
        except CheckpointError:
            refused += 1
            continue
        set_rates_(fresh, 0.1, TrainingConfig(), None)
        model(torch.ones(1, 3)).sum().backward()
        fresh.step()
        assert torch.isfinite(model.weight).all()
    assert refused > 100


def test_restore_accepts_another_optimizer_as_torch_does():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    fresh = torch.optim.Adagrad(nn.Linear(3, 2).parameters(), lr=0.1)
    restore_(fresh, optimizer.state_dict(), configured=False)
    assert torch.equal(fresh.state_dict()["state"][0]["sum"], torch.ones(2, 3))
    with pytest.raises(CheckpointError, match="groups"):
        restore_(fresh, {"state": {}, "param_groups": []}, configured=False)
