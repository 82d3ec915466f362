"""Pruner in a loop of one's own: schedule, exact zeros, states, warnings and refusals."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.errors import CheckpointError, DataError, ModelError, RecipeError
from flyweight.pruning import (
    MaskedWeight,
    Pruner,
    PruningConfig,
    percentile_mask,
    random_mask,
)
from flyweight.training import TrainingConfig, train_

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
}
AT_ONCE = PruningConfig(sparsity=0.5, schedule="one-shot")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 10)
    )


def batches():
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(8, 3, 8, 8, generator=generator),
            torch.randint(0, 10, (8,), generator=generator),
        )
        for _ in range(2)
    ]


def train(pruner, optimizer, steps):
    """Train a pruner of `network`; return its sparsity after each step."""
    sparsities = []
    for _ in range(steps):
        torch.manual_seed(pruner.number)
        images, labels = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(pruner.model(images), labels).backward()
        optimizer.step()
        pruner.step()
        weights = [pruner.model[0].weight, pruner.model[3].weight]
        zeros = sum(int((w == 0).sum()) for w in weights)
        sparsities.append(zeros / sum(w.numel() for w in weights))
        assert sparsities[-1] == pytest.approx(pruner.sparsity)
    return sparsities


def train_linear(pruner, optimizer, steps, inputs):
    """Train any model that takes vectors."""
    for _ in range(steps):
        optimizer.zero_grad()
        pruner.model(torch.randn(16, inputs)).square().mean().backward()
        optimizer.step()
        pruner.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("regrowth", [False, True])
def test_step_follows_the_schedule_and_zeros_survive(name, regrowth):
    config = PruningConfig(sparsity=0.8, ramp=0.5, interval=5, allow_regrowth=regrowth)
    pruner = Pruner(network(), config, steps=200)
    sparsities = train(pruner, OPTIMIZERS[name](pruner.model.parameters()), 200)
    assert sparsities == sorted(sparsities)
    assert 0.6 < sparsities[49] < 0.75
    assert sparsities[100:] == pytest.approx([0.8] * 100, abs=0.001)
    masks = pruner.masks
    model = pruner.finalize()
    assert [*model.state_dict()] == [*network().state_dict()]
    for weight, mask in zip((model[0].weight, model[3].weight), masks.values(), strict=True):
        assert torch.equal(weight != 0, mask)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "fisher", "random", torch.abs])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruner_reaches_the_sparsity_by_every_criterion(criterion, scope):
    config = PruningConfig(sparsity=0.6, criterion=criterion, scope=scope, schedule="one-shot")
    pruner = Pruner(network(), config, steps=3, data=batches())
    train(pruner, OPTIMIZERS["sgd"](pruner.model.parameters()), 3)
    model = pruner.finalize()
    found = [float((w == 0).float().mean()) for w in (model[0].weight, model[3].weight)]
    sizes = [model[0].weight.numel(), model[3].weight.numel()]
    total = sum(s * n for s, n in zip(found, sizes, strict=True)) / sum(sizes)
    assert total == pytest.approx(0.6, abs=0.002)
    if scope == "layer":
        assert found == pytest.approx([0.6, 0.6], abs=0.005)


def test_pruner_regrows_weights_only_where_allowed():
    regrown = {}
    for regrowth in (False, True):
        config = PruningConfig(sparsity=0.7, ramp=0.9, interval=1, allow_regrowth=regrowth)
        pruner = Pruner(network(), config, steps=60)
        optimizer = torch.optim.SGD(pruner.model.parameters(), 0.5)
        regrown[regrowth] = 0
        for _ in range(60):
            before = pruner.masks
            train(pruner, optimizer, 1)
            after = pruner.masks
            regrown[regrowth] += sum(int((after[n] & ~before[n]).sum()) for n in before)
    assert regrown[False] == 0
    assert regrown[True] > 10


@pytest.mark.parametrize(
    ("pattern", "sparsity", "other_dims"),
    [("filters", 0.5, (1, 2, 3)), ("channels", 1 / 3, (0, 2, 3))],
)
def test_pruner_prunes_whole_filters_and_channels(pattern, sparsity, other_dims):
    config = PruningConfig(
        sparsity=sparsity, pattern=pattern, include=("0.*",), schedule="linear", interval=1
    )
    pruner = Pruner(network(), config, steps=10)
    train(pruner, torch.optim.SGD(pruner.model.parameters(), 0.1), 0)
    optimizer = torch.optim.SGD(pruner.model.parameters(), 0.1)
    for _ in range(10):
        pruner.model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        pruner.step()
    weight = pruner.finalize()[0].weight
    empty = (weight == 0).all(other_dims[2]).all(other_dims[1]).all(other_dims[0])
    assert int(empty.sum()) == round(sparsity * empty.numel())
    assert int((weight == 0).sum()) == round(sparsity * weight.numel())


def test_pruner_prunes_two_of_four_except_excluded_layers():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    config = PruningConfig(sparsity=0.5, pattern="2:4", schedule="one-shot", exclude=("2.*",))
    pruned = Pruner(model, config, steps=0).finalize()
    for layer in (pruned[0], pruned[1]):
        assert ((layer.weight.reshape(-1, 4) != 0).sum(1) == 2).all()
    assert pruned[2].weight.all()


def test_pruner_takes_overrides():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    config = PruningConfig(sparsity=0.5, schedule="one-shot", overrides={"0.*": 0.25, "2.*": 0.0})
    pruned = Pruner(model, config, steps=0).finalize()
    assert [int((layer.weight == 0).sum()) for layer in pruned] == [16, 32, 0]


def test_pruner_finds_an_override_by_any_name_of_a_tied_weight():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    config = PruningConfig(sparsity=0.5, schedule="one-shot", overrides={"2.*": 0.25})
    pruned = Pruner(model, config, steps=0).finalize()
    assert int((pruned[0].weight == 0).sum()) == 9
    assert int((pruned[3].weight == 0).sum()) == 18


@pytest.mark.parametrize("schedule", ["cubic", "linear", "one-shot"])
def test_pruner_of_no_steps_prunes_at_once(schedule):
    pruner = Pruner(network(), PruningConfig(sparsity=0.5, schedule=schedule), steps=0)
    assert pruner.sparsity == 0.5
    model = pruner.finalize()
    assert sum(int((w == 0).sum()) for w in (model[0].weight, model[3].weight)) == 468


def test_linear_schedule_prunes_eight_per_cent_at_each_of_ten_epochs():
    config = PruningConfig(
        sparsity=0.8, schedule="linear", ramp=0.5, interval=1, unit="epochs", scope="layer"
    )
    pruner = Pruner(network(), config, steps=60, epochs=20)
    found = [pruner.sparsity]
    found += train(pruner, torch.optim.SGD(pruner.model.parameters(), 0.01), 60)
    expected = [min(0.8, 0.08 * (step // 3 + 1)) for step in range(61)]
    assert found == pytest.approx(expected, abs=0.005)


def test_random_criterion_draws_as_random_mask_does():
    model = nn.Sequential(nn.Linear(20, 10))
    config = PruningConfig(sparsity=0.3, criterion="random", schedule="one-shot")
    found = Pruner(model, config, steps=1, seed=5).finalize()[0].weight != 0
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(found, random_mask(model[0].weight, 0.3, generator=generator))


@pytest.mark.parametrize("sign", [1, -1])
def test_criterion_function_prunes_its_lowest_scores(sign):
    model = nn.Linear(4, 2)

    def lowest_first(weight):
        return sign * torch.arange(8.0).view(2, 4) - 3

    config = PruningConfig(sparsity=0.5, criterion=lowest_first, schedule="one-shot")
    found = Pruner(model, config, steps=0).finalize().weight != 0
    expected = torch.arange(8).view(2, 4) >= 4
    assert torch.equal(found, expected if sign > 0 else ~expected)


def test_criterion_function_cannot_change_the_weight():
    model = nn.Linear(4, 2)
    config = PruningConfig(sparsity=0.5, criterion=lambda w: w.abs_(), schedule="one-shot")
    pruned = Pruner(model, config, steps=0).finalize()
    assert torch.equal(pruned.weight[pruned.weight != 0], model.weight[pruned.weight != 0])


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (
            lambda w: w.abs().sum(1),
            r"Tensor of shape \(2,\) for tensor 'weight'; return .*\(2, 4\)",
        ),
        (lambda w: 1.0, "gives a float for tensor 'weight'"),
        (lambda w: w / 0, r"scores of the criterion of tensor 'weight' hold NaN or infinity, 8 of"),
        (lambda w: w + 1j, "complex scores for tensor 'weight'"),
    ],
)
def test_criterion_function_of_unusable_scores_is_refused(criterion, message):
    with pytest.raises(ModelError, match=message):
        Pruner(nn.Linear(4, 2), PruningConfig(criterion=criterion), steps=9)


def test_calibration_takes_the_configured_number_of_examples():
    counted = []

    def loss(model, batch):
        counted.append(len(batch))
        return model(batch).square().mean()

    config = PruningConfig(
        sparsity=0.5, criterion="fisher", schedule="one-shot", calibration_examples=5
    )
    Pruner(nn.Linear(4, 2), config, steps=0, data=[torch.randn(4, 4)] * 3, loss=loss)
    assert counted == [4, *[1] * 5]  # a check with the first batch, then example by example


def test_load_state_dict_continues_a_run_exactly():
    config = PruningConfig(sparsity=0.7, ramp=0.8, interval=3)
    whole = Pruner(network(), config, steps=30)
    train(whole, OPTIMIZERS["adamw"](whole.model.parameters()), 30)

    first = Pruner(network(), config, steps=30)
    optimizer = OPTIMIZERS["adamw"](first.model.parameters())
    train(first, optimizer, 14)
    states = [copy.deepcopy(s.state_dict()) for s in (first, first.model, optimizer)]
    second = Pruner(network(), config, steps=30)
    optimizer = OPTIMIZERS["adamw"](second.model.parameters())
    for part, state in zip((second, second.model, optimizer), states, strict=True):
        part.load_state_dict(state)
    assert second.number == 14
    train(second, optimizer, 16)
    for found, expected in zip(
        second.finalize().parameters(), whole.finalize().parameters(), strict=True
    ):
        assert torch.equal(found, expected)


def test_pruner_does_not_change_the_model_given():
    model = network()
    before = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, AT_ONCE, steps=5)
    train(pruner, OPTIMIZERS["sgd"](pruner.model.parameters()), 5)
    pruner.finalize()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("regrowth", [False, True])
@pytest.mark.parametrize("asked", [0.0, 0.5, 0.9])
def test_zeros_at_the_start_stay_and_count(asked, regrowth):
    model = network()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.mul_(percentile_mask(layer.weight, 70))
    zeros = [(layer.weight == 0) for layer in (model[0], model[3])]
    config = PruningConfig(sparsity=asked, interval=2, allow_regrowth=regrowth)
    pruner = Pruner(model, config, steps=20)
    train(pruner, OPTIMIZERS["adamw"](pruner.model.parameters()), 20)
    gap = pytest.warns(UserWarning, match="was reached") if asked == 0.5 else nullcontext()
    with gap:
        pruned = pruner.finalize()
    for layer, zero in zip((pruned[0], pruned[3]), zeros, strict=True):
        assert not layer.weight[zero].any()
    total = sum(int((layer.weight == 0).sum()) for layer in (pruned[0], pruned[3]))
    assert total / (216 + 720) == pytest.approx(max(asked, 0.7), abs=0.002)


def test_finalize_warns_of_a_sparsity_that_was_not_reached():
    pruner = Pruner(network(), PruningConfig(sparsity=0.8, interval=1), steps=100)
    train(pruner, OPTIMIZERS["sgd"](pruner.model.parameters()), 10)
    with pytest.warns(UserWarning, match=r"sparsity 0\.\d+ was reached where 0\.8000 was asked"):
        pruner.finalize()


def test_finalized_pruner_refuses_to_go_on():
    pruner = Pruner(network(), AT_ONCE, steps=0)
    pruner.finalize()
    for act in (pruner.step, pruner.finalize, lambda: pruner.load_state_dict({})):
        with pytest.raises(ModelError, match="was finalized; make a new one"):
            act()


def test_report_gives_asked_and_reached_and_a_row_per_layer():
    model = nn.Sequential(*(nn.Linear(1000, 1100, bias=False) for _ in range(2)))
    model = nn.ModuleDict({"a_rather_long_name_of_a_submodule_" * 3: model})
    pruner = Pruner(model, PruningConfig(sparsity=0.5, scope="layer"), steps=10)
    assert (pruner.report().asked, pruner.report().reached) == (0.5, 0)
    pruner = Pruner(model, PruningConfig(sparsity=0.5, scope="layer"), steps=0)
    report = pruner.report()
    assert (report.asked, report.reached, report.parameters) == (0.5, 0.5, 2_200_000)
    assert [(row.type, row.zeros, row.sparsity) for row in report.layers] == [
        ("Linear", 550_000, 0.5)
    ] * 2
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["layer", "type", "parameters", "zeros", "sparsity"]
    assert lines[1].split()[1:] == ["Linear", "1,100,000", "550,000", "0.5000"]
    assert lines[-2].split() == ["total", "2,200,000", "1,100,000", "0.5000"]
    assert lines[-1] == "sparsity asked for: 0.5000"
    pruner.finalize()
    assert pruner.report() == report


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda: Pruner(network(), steps=-1), ModelError, "number of steps is -1; give 0 or more"),
        (lambda: PruningConfig(sparsity=1.5), RecipeError, r"pruning\.sparsity: expected"),
        (lambda: PruningConfig(overrides={"a": 2}), RecipeError, r"pruning\.overrides: expected"),
        (lambda: PruningConfig(pattern="2:3:4"), RecipeError, "a pattern is"),
        (lambda: PruningConfig(pattern="2:4"), RecipeError, r"needs a sparsity of 0\.5"),
        (lambda: PruningConfig(criterion="size"), RecipeError, "one of magnitude, taylor"),
        (
            lambda: Pruner(network(), PruningConfig(include=("stem*",)), steps=1),
            ModelError,
            "matches no parameter",
        ),
        (
            lambda: Pruner(network(), PruningConfig(overrides={"stem*": 0.1}), steps=1),
            ModelError,
            "matches none of the selected weights",
        ),
        (
            lambda: Pruner(network(), PruningConfig(sparsity=0.5, pattern="2:4"), steps=1),
            ModelError,
            r"'0.weight': .*multiple of 4 weights along dimension 1",
        ),
        (
            lambda: Pruner(network(), PruningConfig(criterion="taylor"), steps=1),
            ModelError,
            "needs calibration data; give data=",
        ),
        (
            lambda: Pruner(network(), PruningConfig(unit="epochs"), steps=10),
            RecipeError,
            "length of an epoch is not known",
        ),
        (
            lambda: Pruner(network(), PruningConfig(sparsity=0, overrides={"*": 1.0}), steps=1),
            ModelError,
            "a sparsity of 1 leaves none of the 936 weights; ask for less",
        ),
        (
            lambda: Pruner(
                network().requires_grad_(False),
                PruningConfig(criterion="taylor"),
                steps=9,
                data=batches(),
            ),
            ModelError,
            r"'0.weight' is frozen and has no gradient; exclude it",
        ),
        (
            lambda: Pruner(network(), PruningConfig(criterion="fisher"), steps=9, data=[]),
            DataError,
            "data is empty",
        ),
        (
            lambda: Pruner(nn.Sequential(nn.LazyLinear(3)), PruningConfig(), steps=1),
            ModelError,
            "'0.weight' of a lazy layer has no shape yet; run the model",
        ),
        (
            lambda: Pruner(nn.Linear(3, 3), PruningConfig(criterion="taylor"), steps=9, data=[1]),
            DataError,
            "batches of type int",
        ),
    ],
)
def test_pruner_refuses_what_cannot_be_done(work, error, message):
    with pytest.raises(error, match=message):
        work()


def test_finalize_refuses_a_model_of_zeros_each_time():
    pruner = Pruner(network(), AT_ONCE, steps=1)
    with torch.no_grad():
        for parameter in pruner.model.parameters():
            parameter.zero_()
    for _ in range(2):
        with pytest.raises(ModelError, match="all 936 weights are zero"):
            pruner.finalize()


def test_sparsity_of_two_thirds_in_six_digits_leaves_one_of_three():
    config = PruningConfig(sparsity=0.666666, pattern="1:3", schedule="one-shot")
    weight = Pruner(nn.Linear(6, 4), config, steps=1).finalize().weight
    assert ((weight.reshape(-1, 3) != 0).sum(1) == 1).all()
    with pytest.raises(RecipeError, match="needs a sparsity of"):
        PruningConfig(sparsity=0.66666, pattern="1:3")


def test_load_state_dict_refuses_another_model():
    pruner = Pruner(network(), steps=5)
    other = Pruner(nn.Linear(3, 3), steps=5)
    with pytest.raises(CheckpointError, match="another model"):
        pruner.load_state_dict(other.state_dict())


def test_load_state_dict_refuses_another_configuration_and_changes_nothing():
    pruner = Pruner(network(), PruningConfig(sparsity=0.2, schedule="one-shot"), steps=5)
    other = Pruner(network(), PruningConfig(sparsity=0.8, schedule="one-shot"), steps=5)
    before = pruner.masks
    with pytest.raises(CheckpointError, match="with another configuration; make the pruner with"):
        pruner.load_state_dict(other.state_dict())
    assert all(torch.equal(mask, before[name]) for name, mask in pruner.masks.items())


def test_load_state_dict_knows_a_criterion_function_by_its_name():
    def small(weight):
        return weight.abs()

    def large(weight):
        return -weight.abs()

    def pruner_by(criterion):
        return Pruner(network(), PruningConfig(sparsity=0.5, criterion=criterion), steps=5)

    first = pruner_by(small)
    pruner_by(small).load_state_dict(first.state_dict())
    with pytest.raises(CheckpointError, match="another configuration"):
        pruner_by(large).load_state_dict(first.state_dict())


@pytest.mark.parametrize("lost", ["step", "masks", "config"])
def test_load_state_dict_refuses_what_is_no_state(lost):
    pruner = Pruner(network(), steps=5)
    state = {key: value for key, value in pruner.state_dict().items() if key != lost}
    for wrong in (state, {}, [1], {**pruner.state_dict(), "step": -1}):
        with pytest.raises(CheckpointError, match=r"state.*state_dict\(\)"):
            pruner.load_state_dict(wrong)


def test_load_state_dict_reads_no_calibration_data():
    class Counted(list):
        read = 0

        def __iter__(self):
            self.read += 1
            return super().__iter__()

    data = Counted(batches())
    config = PruningConfig(sparsity=0.5, criterion="taylor", schedule="one-shot")
    pruner = Pruner(network(), config, steps=3, data=data)
    state, before = pruner.state_dict(), data.read
    pruner.load_state_dict(state)
    assert before == data.read > 0


def test_finalize_prunes_although_the_masks_in_the_model_are_lost():
    pruner = Pruner(network(), PruningConfig(sparsity=0.8, schedule="one-shot"), steps=3)
    expected = pruner.masks
    for module in pruner.model.modules():
        if isinstance(module, MaskedWeight):
            module.mask.fill_(True)
    assert pruner.sparsity == 0
    with pytest.raises(ModelError, match=r"'0\.weight' has values where its mask says zero"):
        pruner.check()
    model = pruner.finalize()
    assert torch.equal(model[0].weight != 0, expected["0.weight"])
    assert torch.equal(model[3].weight != 0, expected["3.weight"])


@pytest.mark.gpu
@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "random", torch.abs])
@pytest.mark.parametrize("regrowth", [False, True])
def test_prepared_model_may_move_to_another_device(criterion, regrowth):
    config = PruningConfig(sparsity=0.6, criterion=criterion, allow_regrowth=regrowth, interval=1)
    pruner = Pruner(network(), config, steps=8, data=batches())
    pruner.model.cuda()
    optimizer = OPTIMIZERS["sgd"](pruner.model.parameters())
    for images, labels in batches() * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(pruner.model(images.cuda()), labels.cuda()).backward()
        optimizer.step()
        pruner.step()
    weights = [weight for weight in pruner.finalize().parameters() if weight.ndim > 1]
    assert weights[0].is_cuda
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == round(0.6 * sum(weight.numel() for weight in weights))


def test_pruner_fits_the_training_loop_and_its_moving_average(tmp_path):
    config = PruningConfig(sparsity=0.5, exclude=("3.*",), interval=1)
    training = TrainingConfig(epochs=2, learning_rate=0.1, ema_decay=0.9)
    states = []
    for stopped in (False, True):
        model = network()
        model[3].weight.data[:2] = 0
        pruner = Pruner(model, config, steps=4, epochs=2)

        def after_epoch(epoch, loss):
            raise KeyboardInterrupt

        def run(pruner=pruner, **settings):
            path = tmp_path / "state"
            return train_(
                pruner.model, batches(), training, stage=pruner, checkpoint=path, **settings
            )

        if stopped:
            (tmp_path / "state").unlink()
            with pytest.raises(KeyboardInterrupt):
                run(after_epoch=after_epoch)
            pruner = Pruner(model, config, steps=4, epochs=2)
            result = run(pruner)
        else:
            result = run()
        assert pruner.number == 4
        pruner.model.load_state_dict(result.averaged.state_dict())
        pruner.check()
        pruned = pruner.finalize().cpu()
        assert not pruned[3].weight[:2].any()
        assert pruned[3].weight[2:].all()
        assert int((pruned[0].weight == 0).sum()) == 108
        states.append(pruned.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# Order of parameters.


class Mixed(nn.Module):
    """Layers with a bias, layers with several weights, a tied one, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shift = nn.Parameter(torch.zeros(6))
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.attention = nn.MultiheadAttention(6, 2)
        self.recurrent = nn.LSTM(6, 6)

    def forward(self, inputs):
        hidden = self.norm(self.second(self.first(inputs + self.shift)))
        hidden, _ = self.attention(hidden, hidden, hidden)
        return self.recurrent(hidden)[0]


def test_finalize_restores_the_order_of_parameters_and_state():
    model = Mixed()
    pruned = Pruner(model, AT_ONCE, steps=0).finalize()
    assert [*pruned.state_dict()] == [*model.state_dict()]
    assert [n for n, _ in pruned.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert pruned.second.weight is pruned.first.weight
    for found, given in zip(pruned.modules(), model.modules(), strict=True):
        assert vars(found).keys() == vars(given).keys()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, 0.01),
    ],
)
def test_optimizer_state_from_before_fits_the_finalized_model(make):
    model = Mixed()
    before = make(model.parameters())
    model(torch.randn(4, 6)).square().mean().backward()
    before.step()
    pruned = Pruner(model, AT_ONCE, steps=0).finalize()
    after = make(pruned.parameters())
    after.load_state_dict(before.state_dict())
    for new, old in zip(pruned.parameters(), model.parameters(), strict=True):
        for key, value in before.state[old].items():
            assert torch.equal(after.state[new][key], value)
    pruned(torch.randn(4, 6)).square().mean().backward()
    after.step()


# Weights that are not pruned.


class Excluded(nn.Module):
    """Four layers, of which the first is pruned; two of the others share a weight with zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.pruned = nn.Linear(6, 6)
        self.sparse = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.dense = nn.Linear(6, 6)
        self.sparse.weight.data[:2] = 0
        self.tied.weight = self.sparse.weight

    def forward(self, inputs):
        return self.dense(self.tied(self.sparse(self.pruned(inputs).relu()).relu()))


ONE_LAYER = PruningConfig(sparsity=0.5, schedule="one-shot", include=("pruned.*",))


def test_zeros_of_excluded_layers_stay_and_are_not_counted():
    pruner = Pruner(Excluded(), ONE_LAYER, steps=5)
    masked = [name for name, m in pruner.model.named_modules() if isinstance(m, MaskedWeight)]
    assert masked == [f"{layer}.parametrizations.weight.0" for layer in ("pruned", "sparse")]
    before = pruner.model.sparse.weight.detach().clone()
    train_linear(pruner, OPTIMIZERS["adamw"](pruner.model.parameters()), 5, inputs=6)
    assert [*pruner.masks] == ["pruned.weight"]
    assert pruner.sparsity == 0.5
    model = pruner.finalize()
    assert [*model.state_dict()] == [*Excluded().state_dict()]
    assert model.tied.weight is model.sparse.weight
    assert torch.equal(model.sparse.weight != 0, before != 0)
    assert (model.sparse.weight != before)[2:].all()
    assert model.dense.weight.all()


def test_load_state_dict_compares_the_zeros_of_excluded_layers():
    first, second, other = (Pruner(Excluded(), ONE_LAYER, steps=5) for _ in range(3))
    train_linear(first, OPTIMIZERS["adamw"](first.model.parameters()), 3, inputs=6)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    train_linear(second, OPTIMIZERS["adamw"](second.model.parameters()), 2, inputs=6)
    assert not second.finalize().sparse.weight[:2].any()
    state = other.state_dict()
    state["masks"]["sparse.weight"][3] = False
    with pytest.raises(CheckpointError, match=r"other zeros in tensor 'sparse\.weight'"):
        first.load_state_dict(state)
    assert first.number == 3
    model = Excluded()
    model.sparse.weight.data.fill_(1)
    with pytest.raises(CheckpointError, match="another model or configuration"):
        Pruner(model, ONE_LAYER, steps=5).load_state_dict(first.state_dict())


def test_zeros_of_excluded_layers_survive_a_lost_mask():
    pruner = Pruner(Excluded(), ONE_LAYER, steps=5)
    dense = pruner.model.sparse.parametrizations.weight
    dense.original.data.fill_(1)
    dense[0].mask.fill_(True)
    with pytest.raises(ModelError, match=r"'sparse\.weight' has values where its mask says zero"):
        pruner.check()
    assert torch.equal(pruner.finalize().sparse.weight != 0, Excluded().sparse.weight != 0)


@pytest.mark.parametrize("exclude", [(), ("2.*",)])
def test_weight_of_zeros_at_the_start_trains_and_is_not_counted(exclude):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.zeros_(model[2].weight)
    config = PruningConfig(sparsity=0.5, schedule="one-shot", exclude=exclude, overrides={"*": 0.5})
    pruner = Pruner(model, config, steps=2)
    assert [row.name for row in pruner.report().layers] == ["0.weight"]
    assert [*pruner.masks] == ["0.weight"]
    assert pruner.sparsity == 0.5
    optimizer = torch.optim.SGD(pruner.model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        pruner.model(torch.randn(16, 8)).sum().backward()
        optimizer.step()
        pruner.step()
    pruned = pruner.finalize()
    assert bool(pruned[2].weight.any(1).all())
    assert int((pruned[0].weight == 0).sum()) == 32


def test_pruner_refuses_a_model_whose_weights_are_all_initial_zeros():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    with pytest.raises(ModelError, match="all 1 weights to prune are zero"):
        Pruner(layer, steps=1)


def test_pruner_warns_of_a_layer_that_it_empties_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)
    config = PruningConfig(sparsity=0.6, schedule="linear", ramp=0.5, interval=1)
    pruner = Pruner(model, config, steps=10)
    optimizer = torch.optim.SGD(pruner.model.parameters(), 1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_linear(pruner, optimizer, 10, inputs=4)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1
    assert "no weight of '1.weight', so the layer gives a constant" in messages[0]
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"no weight of '1\.weight'"):
        Pruner(model, PruningConfig(sparsity=0.6), steps=0)


# Embeddings.


class Language(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.tokens = nn.Embedding(9, 4, padding_idx=0)
        self.bag = nn.EmbeddingBag(5, 4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 9)
        if tied:
            self.head.weight = self.tokens.weight


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["inner.weight"]),
        ({"exclude": ("head.bias",)}, ["inner.weight"]),
        ({"layer_types": ("Linear",)}, ["inner.weight"]),
        ({"layer_types": ("Embedding", "Linear")}, ["tokens.weight", "inner.weight"]),
        ({"layer_types": ("EmbeddingBag",)}, ["bag.weight"]),
        ({"include": ("*", "tokens.*")}, ["tokens.weight", "inner.weight"]),
        ({"include": ("*", "head.*")}, ["tokens.weight", "inner.weight"]),
        ({"include": ("*.weight",)}, ["tokens.weight", "bag.weight", "inner.weight"]),
    ],
)
def test_pruner_leaves_embeddings_out_unless_named(choice, expected):
    config = PruningConfig(sparsity=0.5, schedule="one-shot", **choice)
    pruner = Pruner(Language(tied=True), config, steps=0)
    assert [*pruner.masks] == expected


def test_pruner_prunes_a_head_that_is_not_tied_to_an_embedding():
    pruner = Pruner(Language(tied=False), AT_ONCE, steps=0)
    assert [*pruner.masks] == ["inner.weight", "head.weight"]
    pruned = pruner.finalize()
    assert pruned.tokens.weight[1:].all()
    assert not pruned.tokens.weight[0].any()


def test_pruner_of_embeddings_alone_says_how_to_name_them():
    with pytest.raises(ModelError, match=r"'weight', which are pruned only if they are named"):
        Pruner(nn.Embedding(4, 4), steps=0)


# Transposed convolutions.


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("regrowth", [False, True])
def test_filters_of_a_transposed_convolution_are_its_outputs(groups, regrowth):
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(4, 8, 2, groups=groups, bias=False)
    config = PruningConfig(
        sparsity=0.5, pattern="filters", schedule="linear", interval=1, allow_regrowth=regrowth
    )
    pruner = Pruner(model, config, steps=6)
    optimizer = torch.optim.SGD(pruner.model.parameters(), 0.01)
    for _ in range(6):
        optimizer.zero_grad()
        pruner.model(torch.randn(2, 4, 3, 3)).square().mean().backward()
        optimizer.step()
        pruner.step()
    pruned = pruner.finalize()
    silent = (pruned(torch.randn(3, 4, 5, 5)) == 0).all(dim=(0, 2, 3))
    assert int(silent.sum()) == 4
    assert int((pruned.weight == 0).sum()) == pruned.weight.numel() // 2


def test_channels_of_a_transposed_convolution_are_its_inputs():
    model = nn.ConvTranspose2d(4, 8, 2, bias=False)
    config = PruningConfig(sparsity=0.5, pattern="channels", schedule="one-shot")
    weight = Pruner(model, config, steps=0).finalize().weight
    assert int((weight == 0).all(3).all(2).all(1).sum()) == 2


def test_two_of_four_of_a_transposed_convolution_is_along_its_inputs():
    model = nn.ConvTranspose2d(8, 6, 1, bias=False)
    config = PruningConfig(sparsity=0.5, pattern="2:4", schedule="one-shot")
    weight = Pruner(model, config, steps=0).finalize().weight
    assert ((weight.reshape(2, 4, 6) != 0).sum(1) == 2).all()


# Misuse.


def test_step_warns_of_an_optimizer_over_the_original_model():
    model = nn.Linear(4, 2)
    pruner = Pruner(model, AT_ONCE, steps=9)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step():
        pruner.model(torch.randn(2, 4)).square().mean().backward()
        optimizer.step()
        pruner.step()

    step()
    with pytest.warns(UserWarning, match=r"changed between two steps; .*pruner\.model") as caught:
        step()
    assert caught[0].filename == __file__
    step()


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_step_does_not_warn_of_a_warm_up_or_of_a_model_that_trains(rate):
    pruner = Pruner(nn.Linear(4, 2), AT_ONCE, steps=9)
    train_linear(pruner, torch.optim.SGD(pruner.model.parameters(), rate), 4, inputs=4)


def test_step_sees_changes_through_data():
    pruner = Pruner(nn.Linear(4, 2), AT_ONCE, steps=9)
    for _ in range(3):
        for parameter in pruner.model.parameters():
            parameter.data.mul_(1.1)
        pruner.step()


def test_second_pruner_on_a_prepared_model_is_refused():
    pruner = Pruner(network(), AT_ONCE, steps=5)
    with pytest.raises(ModelError, match=r"'0\.weight' has a MaskedWeight .*finalize\(\) first"):
        Pruner(pruner.model, AT_ONCE, steps=5)
    Pruner(pruner.finalize(), PruningConfig(sparsity=0.6), steps=5)


def test_step_refuses_to_train_folded_batch_normalization():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model(torch.randn(9, 4))
    fold_batch_norms_(model)
    frozen = Pruner(model.eval(), AT_ONCE, steps=5)
    train_linear(frozen, torch.optim.SGD(frozen.model.parameters(), 0.1), 2, inputs=4)
    pruner = Pruner(model.train(), AT_ONCE, steps=5)
    with pytest.raises(ModelError, match=r"'1' is folded .*unfold_batch_norms_"):
        pruner.step()


def test_infinite_gradient_leaves_pruned_weights_finite():
    pruner = Pruner(nn.Linear(4, 2), AT_ONCE, steps=5)
    optimizer = torch.optim.SGD(pruner.model.parameters(), 0.1)
    (pruner.model(torch.ones(1, 4)).sum() * torch.inf).backward()
    mask = pruner.masks["weight"]
    dense = pruner.model.parametrizations.weight.original
    assert dense.grad[mask].isinf().all()
    assert not dense.grad[~mask].any()
    optimizer.step()
    assert dense[~mask].isfinite().all()
    assert not pruner.model.weight[~mask].any()


class Routed(nn.Module):
    """Two experts, of which the sign of the first input chooses one for a whole batch."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, inputs):
        return self.experts[int(inputs[0, 0] > 0)](inputs)


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_pruner_scores_experts_that_the_first_batch_does_not_reach(criterion):
    torch.manual_seed(0)
    targets = torch.tensor([0, 1, 2, 0])
    inputs = torch.randn(4, 4).abs()
    config = PruningConfig(sparsity=0.5, criterion=criterion)
    model = Routed()
    pruner = Pruner(model, config, steps=0, data=[(-inputs, targets), (inputs, targets)])
    assert pruner.report().reached == 0.5
    with pytest.raises(ModelError, match=r"does not depend on 'experts\.1\.weight'; exclude it"):
        Pruner(model, config, steps=10, data=[(-inputs, targets)] * 2)
