"""Proximal steps after torch optimizers: minimizers, exact zeros, states, other tools."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

from flyweight.errors import ModelError, RecipeError
from flyweight.proximal import (
    Penalty,
    attach_proximal_,
    elastic_net,
    group_soft_threshold,
    n_of_m,
    soft_threshold,
    trimmed_l1,
)
from flyweight.pruning import summarize_sparsity
from flyweight.sparse_regression import ista, trimmed_ista
from flyweight.training import TrainingConfig, train_

X = torch.tensor([[-2, 2, 1, -1, -1], [-2, 1, -2, 0, 1], [1, 0, -2, 2, -1]], dtype=torch.float64)
Y = torch.tensor([5, 1, 1], dtype=torch.float64)
SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def linear():
    model = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return model


def descend(model, optimizer, steps, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(X).squeeze(1) - Y) ** 2).sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        yield model.weight.detach().flatten().numpy().copy()


@pytest.mark.parametrize("strength", [0.2, 2.0])
def test_attach_proximal_makes_sgd_ista(strength):
    model = linear()
    optimizer = SGD(model.parameters(), lr=0.02)
    steps = attach_proximal_(optimizer, model, Penalty(strength))
    expected = ista(X.numpy(), Y.numpy(), step=0.02, steps=200, strength=strength).weights[1:]
    found = np.stack(list(descend(model, optimizer, 200)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
    assert ((found[-1] == 0) == (expected[-1] == 0)).all()
    assert steps.number == 200
    assert steps.sparsity == (found[-1] == 0).mean()


def test_attach_proximal_takes_any_operator():
    model = linear()
    optimizer = SGD(model.parameters(), lr=0.02)
    trimmed = functools.partial(trimmed_l1, nonzeros=2)
    attach_proximal_(optimizer, model, Penalty(5.0, operator=trimmed))
    expected = trimmed_ista(X.numpy(), Y.numpy(), step=0.02, steps=99, strength=5.0).weights[1:]
    np.testing.assert_allclose(list(descend(model, optimizer, 99)), expected, atol=1e-13)
    weight = nn.Linear(8, 4)
    optimizer = SGD(weight.parameters(), lr=0.1)
    two_of_four = Penalty(0.0, operator=lambda values, strength, *, step: n_of_m(values, 2, 4))
    steps = attach_proximal_(optimizer, weight, two_of_four)
    weight(torch.randn(3, 8)).square().mean().backward()
    optimizer.step()
    assert steps.sparsity == 0.5


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (functools.partial(SGD, momentum=0.9), 0.005),
        (functools.partial(SGD, momentum=0.9, nesterov=True), 0.005),
        (functools.partial(SGD, momentum=0.8, dampening=0.5), 0.02),
        (ADAM, 0.05),
        (functools.partial(ADAM, amsgrad=True), 0.05),
        (functools.partial(ADAMW, weight_decay=0.0), 0.05),
        (functools.partial(ADAM, foreach=True), 0.05),
    ],
)
def test_attach_proximal_reaches_the_lasso_solution_with_each_optimizer(make, rate):
    model = linear()
    optimizer = make(model.parameters(), lr=rate)
    attach_proximal_(optimizer, model, Penalty(1.0))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    *_, found = descend(model, optimizer, 1000, scheduler)
    np.testing.assert_allclose(found, [0, 2 - 1 / 14, 0, 0, -1 + 1 / 7], atol=1e-3)
    assert (found == 0).tolist() == [True, False, True, True, False]


def test_weight_decay_is_part_of_the_loss():
    model, other = linear(), linear()
    decayed = SGD(model.parameters(), lr=0.02, weight_decay=0.6)
    attach_proximal_(decayed, model, Penalty(1.0))
    plain = SGD(other.parameters(), lr=0.02)
    ridge = functools.partial(elastic_net, ridge=0.6)
    attach_proximal_(plain, other, Penalty(1.0, operator=ridge))
    *_, first = descend(model, decayed, 800)
    *_, second = descend(other, plain, 800)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert 0 < (first == 0).sum() < 5


def test_plain_metric_takes_the_learning_rate_of_any_optimizer():
    model = linear()
    nn.init.constant_(model.weight, 0.1)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.0)
    attach_proximal_(optimizer, model, Penalty(3.0, metric="plain"))
    optimizer.param_groups[0]["lr"] = 0.01
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    np.testing.assert_allclose(model.weight.detach(), [[0.07] * 5])
    momentum = SGD(model.parameters(), lr=0.01, momentum=0.9)
    attach_proximal_(momentum, model, Penalty(3.0, metric="plain"))
    momentum.step()
    np.testing.assert_allclose(model.weight.detach(), [[0.04] * 5])


def test_proximal_step_follows_the_learning_rate_scheduler():
    model = linear()
    nn.init.ones_(model.weight)
    optimizer = SGD(model.parameters(), lr=0.1)
    attach_proximal_(optimizer, model, Penalty(1.0))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen = []
    for _ in range(3):
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
        scheduler.step()
        seen.append(float(model.weight.detach()[0, 0]))
    assert seen == pytest.approx([0.9, 0.85, 0.825])


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )


def train(model, optimizer, number, step=None):
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        images = torch.randn(16, 3, 8, 8, generator=generator)
        loss = nn.functional.cross_entropy(model(images), torch.arange(16) % 10)
        optimizer.zero_grad()
        if step is None:
            loss.backward()
            optimizer.step()
        else:
            step(loss)


def test_proximal_steps_give_zeros_where_l1_in_the_loss_does_not():
    plain = network()
    optimizer = SGD(plain.parameters(), lr=0.05, momentum=0.9)

    def with_l1(loss):
        (loss + 0.01 * sum(plain[i].weight.abs().sum() for i in (0, 4))).backward()
        optimizer.step()

    train(plain, optimizer, 60, with_l1)
    assert summarize_sparsity(plain).sparsity == 0
    proximal = network()
    optimizer = SGD(proximal.parameters(), lr=0.05, momentum=0.9)
    attach_proximal_(optimizer, proximal, Penalty(0.01))
    train(proximal, optimizer, 60)
    assert summarize_sparsity(proximal).sparsity > 0.5
    assert proximal[1].weight.all()
    assert proximal[4].bias.all()


@pytest.mark.parametrize(
    "make", [functools.partial(SGD, lr=0.1, momentum=0.9), functools.partial(ADAM, lr=0.01)]
)
def test_group_lasso_removes_useless_filters(make):
    torch.manual_seed(0)
    teacher, model = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        teacher.weight[3:] = 0
    optimizer = make(model.parameters())
    attach_proximal_(optimizer, model, Penalty(0.002, operator=group_soft_threshold))
    for _ in range(150):
        images = torch.randn(8, 3, 6, 6)
        optimizer.zero_grad()
        (model(images) - teacher(images)).square().mean().backward()
        optimizer.step()
    alive = model.weight.flatten(1).any(1)
    assert alive.tolist() == [True] * 3 + [False] * 5
    assert model.weight[:3].all()
    assert model.bias.all()
    (layer,) = summarize_sparsity(model).layers
    assert (layer.zero_filters, layer.structured) == (5, True)


def test_penalty_has_overrides_and_a_warm_up():
    model = network()
    optimizer = SGD(model.parameters(), lr=1.0)
    penalty = Penalty(0.001, overrides={"4.*": 0.002}, warmup=4)
    attach_proximal_(optimizer, model, penalty)
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[4].weight)
    seen = []
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        seen.append(
            (float(model[0].weight.detach().mean()), float(model[4].weight.detach().mean()))
        )
    down = [0.25, 0.75, 1.5, 2.5, 3.5]
    assert [a for a, _ in seen] == pytest.approx([1 - 0.001 * d for d in down], abs=1e-5)
    assert [b for _, b in seen] == pytest.approx([1 - 0.002 * d for d in down], abs=1e-5)


def test_proximal_step_skips_excluded_weights_and_those_without_gradient():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = SGD(model.parameters(), lr=1.0)
    steps = attach_proximal_(optimizer, model, Penalty(9.0, exclude=("0.*",)))
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    optimizer.step()
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    model[4].weight.grad = torch.zeros_like(model[4].weight)
    optimizer.step()
    assert not model[4].weight.any()
    assert torch.equal(before["0.weight"], model[0].weight)
    assert steps.sparsity == 1.0


@pytest.mark.parametrize("make", [functools.partial(SGD, lr=0.05, momentum=0.9), ADAMW])
def test_proximal_steps_resume_exactly(make):
    penalty = Penalty(0.01, warmup=12)
    whole = network()
    optimizer = make(whole.parameters())
    attach_proximal_(optimizer, whole, penalty)
    train(whole, optimizer, 8)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    train(whole, optimizer, 8)

    rest = network()
    optimizer = make(rest.parameters())
    steps = attach_proximal_(optimizer, rest, penalty)
    rest.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert steps.number == 8
    train(rest, optimizer, 8)
    assert all(torch.equal(v, rest.state_dict()[n]) for n, v in whole.state_dict().items())

    plain = make(network().parameters())
    plain.load_state_dict(saved[1])  # the entry more does not disturb
    steps = attach_proximal_(make(rest.parameters()), rest, penalty)
    assert steps.number == 0


@pytest.mark.parametrize("fused", [False, True])
def test_proximal_steps_follow_a_gradient_scaler(fused):
    torch.manual_seed(0)
    scaled, plain = nn.Linear(6, 4), nn.Linear(6, 4)
    plain.load_state_dict(scaled.state_dict())
    runs = []
    for model in (scaled, plain):
        optimizer = SGD(model.parameters(), lr=0.1, fused=fused)
        runs.append((optimizer, attach_proximal_(optimizer, model, Penalty(0.05))))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    inputs = torch.randn(8, 6)
    for number in range(6):
        before = scaled.weight.detach().clone()
        loss = scaled(inputs).square().mean()
        runs[0][0].zero_grad()
        scaler.scale(loss).backward()
        if number == 3:
            scaled.weight.grad[0, 0] = torch.inf
        scaler.step(runs[0][0])
        scaler.update()
        if number == 3:
            assert torch.equal(before, scaled.weight)
            continue
        runs[1][0].zero_grad()
        plain(inputs).square().mean().backward()
        runs[1][0].step()
        torch.testing.assert_close(scaled.weight, plain.weight)
    assert [steps.number for _, steps in runs] == [5, 5]
    assert (scaled.weight == 0).any()


def test_proximal_steps_work_with_accelerate():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, plain = network(), network()
    optimizer, other = (SGD(m.parameters(), lr=0.05) for m in (model, plain))
    steps = attach_proximal_(optimizer, model, Penalty(0.5))
    attach_proximal_(other, plain, Penalty(0.5))
    joined, prepared = accelerator.prepare(model, optimizer)

    def step(loss):
        with accelerator.accumulate(joined):
            accelerator.backward(loss)
            prepared.step()
            prepared.zero_grad()

    generator = torch.Generator().manual_seed(1)
    for number in range(4):
        images = torch.randn(16, 3, 8, 8, generator=generator)
        step(nn.functional.cross_entropy(joined(images), torch.arange(16) % 10))
        (nn.functional.cross_entropy(plain(images), torch.arange(16) % 10) / 2).backward()
        if number % 2:
            other.step()
            other.zero_grad()
    assert steps.number == 2
    assert prepared.state_dict()["proximal"] == {"number": 2}
    assert 0 < steps.sparsity < 1
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_several_penalties_on_one_optimizer_count_separately():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.05)
    first = attach_proximal_(optimizer, model, Penalty(0.01, layer_types=("Linear",)))
    train(model, optimizer, 3)
    second = attach_proximal_(optimizer, model, Penalty(0.01, layer_types=("Conv2d",)))
    train(model, optimizer, 1)
    state = optimizer.state_dict()
    first.number = second.number = 0
    optimizer.load_state_dict(state)
    assert (first.number, second.number) == (4, 1)


def test_detach_leaves_the_plain_optimizer():
    model, other = network(), network()
    optimizer, plain = (SGD(m.parameters(), lr=0.05) for m in (model, other))
    attach_proximal_(optimizer, model, Penalty(1.0)).detach_()
    train(model, optimizer, 3)
    train(other, plain, 3)
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in model.state_dict().items())
    assert set(optimizer.state_dict()) == set(plain.state_dict())


def test_train_attaches_a_penalty_and_resumes_exactly(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 10) for _ in range(3)
    ]
    config = TrainingConfig(epochs=2, learning_rate=0.05, ema_decay=0.0)
    penalty = Penalty(5e-3, warmup=3)

    def run(checkpoint=None, stop=False):
        model = network()

        def after_epoch(epoch, loss):
            if stop:
                raise KeyboardInterrupt

        train_(
            model,
            data,
            config,
            attach=lambda optimizer: attach_proximal_(optimizer, model, penalty),
            after_epoch=after_epoch,
            device=torch.device("cpu"),
            checkpoint=checkpoint,
        )
        return model

    path = tmp_path / "state.pt"
    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(path, stop=True)
    rest = run(path)
    assert summarize_sparsity(whole).sparsity > 0.01
    assert all(torch.equal(v, rest.state_dict()[n]) for n, v in whole.state_dict().items())


@pytest.mark.parametrize(
    "operator",
    [group_soft_threshold, lambda values, strength, *, step: n_of_m(values, 2, 4)],
)
def test_operator_sees_the_outputs_of_a_transposed_convolution_first(operator):
    seen = []

    def recorded(values, strength, *, step):
        seen.append((tuple(values.shape), tuple(step.shape)))
        return operator(values, strength, step=step)

    torch.manual_seed(0)
    model = nn.ConvTranspose2d(4, 6, 2, bias=False)
    with torch.no_grad():
        model.weight[:, 2] *= 1e-3
    optimizer = ADAM(model.parameters(), lr=1e-3)
    attach_proximal_(optimizer, model, Penalty(0.05, operator=recorded))
    (model(torch.randn(2, 4, 3, 3)).square().mean()).backward()
    optimizer.step()
    assert seen == [((6, 4, 2, 2), (6, 4, 2, 2))]
    if operator is group_soft_threshold:
        assert not model.weight[:, 2].any()
        assert model.weight[:, 3].any()
    else:
        assert ((model.weight != 0).sum(0) == 2).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, "for 'strength' is -1.0; give"),
        ({"strength": float("nan")}, "is nan; give a finite"),
        ({"strength": 1.0, "overrides": {"a": -2.0}}, "for 'a' is -2.0"),
        ({"strength": 1.0, "warmup": -1}, "-1 steps; give 0 or more"),
        ({"strength": 1.0, "metric": "other"}, "is 'other'; give 'optimizer' or 'plain'"),
    ],
)
def test_penalty_refuses_impossible_values(settings, message):
    with pytest.raises(RecipeError, match=message):
        Penalty(**settings)


def test_attach_proximal_refuses_what_does_not_fit():
    model = network()
    for penalty, message in [
        (Penalty(1.0, include=("none.*",)), "matches no parameter"),
        (Penalty(1.0, overrides={"none.*": 1.0}), "none of the selected weights"),
    ]:
        with pytest.raises(ModelError, match=message):
            attach_proximal_(SGD(model.parameters(), lr=0.1), model, penalty)
    stale = SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(ModelError, match=r"does not hold tensor '0\.weight'"):
        attach_proximal_(stale, model, Penalty(1.0))
    with pytest.raises(ModelError, match=r"RMSprop .* is not known"):
        attach_proximal_(torch.optim.RMSprop(model.parameters()), model, Penalty(1.0))
    momentum = SGD(model.parameters(), lr=0.1, momentum=1.0)
    with pytest.raises(ModelError, match=r"momentum is 1\.0; use one below 1"):
        attach_proximal_(momentum, model, Penalty(1.0))
    assert soft_threshold is Penalty(1.0).operator


@pytest.mark.parametrize("kind", [SGD, torch.optim.Adam])
def test_interval_makes_one_step_as_large_as_all_of_them(kind):
    models, found = [network(), network()], []
    for model, interval in zip(models, (1, 3), strict=True):
        optimizer = kind(model.parameters(), lr=0.01)
        steps = attach_proximal_(optimizer, model, Penalty(0.1, interval=interval))
        name, weight = next((n, p) for n, p in model.named_parameters() if p.ndim > 1)
        with torch.no_grad():
            weight.fill_(1.0)
        for number in range(4):
            # Of a size that Adam divides by, and of a sign whose sum is zero over the interval.
            sign = (1.0, -0.5, -0.5, 0.0)[number] if kind is SGD else 1.0
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, sign)
            optimizer.step()
            if interval == 3 and number == 1:
                state = optimizer.state_dict()["proximal"]
                assert set(state) == {"number", "due"}
                optimizer.load_state_dict(optimizer.state_dict())
        steps.apply_()
        found.append(weight.detach().clone())
        steps.apply_()  # nothing is due any longer
        assert torch.equal(weight, found[-1])
        assert "due" not in optimizer.state_dict()["proximal"]
        assert name
    torch.testing.assert_close(*found)
    assert bool((found[0] < 1).all())


def test_penalty_refuses_an_interval_of_zero():
    with pytest.raises(RecipeError, match="interval of a penalty is 0 steps; give 1 or more"):
        Penalty(0.1, interval=0)


def test_penalty_override_finds_a_tied_weight_by_its_second_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps = attach_proximal_(optimizer, model, Penalty(1e-3, overrides={"1.*": 0.5}))
    assert steps.penalty.strength_at("0.weight", 0) == 0.5
