"""Your own loop: masks follow the schedule, zeros survive, states come back."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import flyweight
from flyweight.cifar import Split
from flyweight.errors import (
    CheckpointError,
    DataError,
    ModelError,
    RecipeError,
)
from flyweight.own_loop_old import prepare, prepare_quantizer_old
from flyweight.pruning import MaskedWeight
from flyweight.pruning import percentile_mask
from flyweight.recipes import PruningConfig, QuantizationConfig
from flyweight.pruning import Pruning, prune_
from flyweight.training import TrainingConfig

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 10)
    )


def batches():
    generator = torch.Generator().manual_seed(5)
    for _ in range(2):
        images = torch.randn(8, 3, 8, 8, generator=generator)
        yield images, torch.randint(0, 10, (8,), generator=generator)


def train(prepared, optimizer, steps):
    sparsities = []
    for _ in range(steps):
        torch.manual_seed(prepared.number)
        images, labels = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepared.model(images), labels).backward()
        optimizer.step()
        prepared.step()
        weights = [prepared.model[0].weight, prepared.model[3].weight]
        zeros = sum(int((w == 0).sum()) for w in weights)
        sparsities.append(zeros / sum(w.numel() for w in weights))
        assert sparsities[-1] == pytest.approx(prepared.sparsity)
    return sparsities


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("recovery", [False, True])
def test_sparsity_follows_the_schedule_and_zeros_survive(name, recovery):
    recipe = PruningConfig(sparsity=0.8, ramp=0.5, interval=5, recovery=recovery)
    prepared = prepare(network(), recipe, steps=200)
    sparsities = train(prepared, OPTIMIZERS[name](prepared.model.parameters()), 200)
    assert sparsities == sorted(sparsities)
    assert 0.6 < sparsities[49] < 0.75
    assert sparsities[100:] == pytest.approx([0.8] * 100, abs=0.001)
    masks = prepared.masks
    model = prepared.finalize()
    assert set(model.state_dict()) == set(network().state_dict())
    for weight, mask in zip((model[0].weight, model[3].weight), masks.values(), strict=True):
        assert torch.equal(weight != 0, mask)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "fisher", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_criterion_reaches_what_was_asked_for(criterion, scope):
    recipe = PruningConfig(sparsity=0.6, criterion=criterion, scope=scope, schedule="one-shot")
    prepared = prepare(network(), recipe, steps=3, batches=batches)
    train(prepared, OPTIMIZERS["sgd"](prepared.model.parameters()), 3)
    model = prepared.finalize()
    shares = [float((w == 0).float().mean()) for w in (model[0].weight, model[3].weight)]
    sizes = [model[0].weight.numel(), model[3].weight.numel()]
    total = sum(s * n for s, n in zip(shares, sizes, strict=True)) / sum(sizes)
    assert total == pytest.approx(0.6, abs=0.002)
    if scope == "layer":
        assert shares == pytest.approx([0.6, 0.6], abs=0.005)


def test_what_returns_under_recovery_stays_away_without():
    kept = {}
    for recovery in (False, True):
        recipe = PruningConfig(sparsity=0.7, ramp=0.9, interval=1, recovery=recovery)
        prepared = prepare(network(), recipe, steps=60)
        optimizer = torch.optim.SGD(prepared.model.parameters(), 0.5)
        returned = 0
        for _ in range(60):
            before = prepared.masks
            train(prepared, optimizer, 1)
            after = prepared.masks
            returned += sum(int((after[name] & ~before[name]).sum()) for name in before)
        kept[recovery] = returned
    assert kept[False] == 0
    assert kept[True] > 10


@pytest.mark.parametrize(
    ("pattern", "sparsity", "whole"),
    [("filters", 0.5, (1, 2, 3)), ("channels", 1 / 3, (0, 2, 3))],
)
def test_filters_and_channels_go_whole(pattern, sparsity, whole):
    recipe = PruningConfig(
        sparsity=sparsity, pattern=pattern, layers=("0.*",), schedule="linear", interval=1
    )
    prepared = prepare(network(), recipe, steps=10)
    train_one = torch.optim.SGD(prepared.model.parameters(), 0.1)
    for _ in range(10):
        prepared.model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        train_one.step()
        prepared.step()
    weight = prepared.finalize()[0].weight
    empty = (weight == 0).all(whole[2]).all(whole[1]).all(whole[0])
    assert int(empty.sum()) == round(sparsity * empty.numel())
    assert int((weight == 0).sum()) == round(sparsity * weight.numel())


def test_two_of_four_and_layers_that_differ():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    recipe = PruningConfig(sparsity=0.5, pattern="2:4", schedule="one-shot", keep=("2.*",))
    done = prepare(model, recipe, steps=1).finalize()
    for layer in (done[0], done[1]):
        assert ((layer.weight.reshape(-1, 4) != 0).sum(1) == 2).all()
    assert done[2].weight.all()
    recipe = PruningConfig(sparsity=0.5, schedule="one-shot", overrides={"0.*": 0.25, "2.*": 0.0})
    done = prepare(model, recipe, steps=1).finalize()
    assert [int((layer.weight == 0).sum()) for layer in done] == [16, 32, 0]


def test_eight_per_cent_at_the_start_of_each_of_ten_epochs():
    recipe = PruningConfig(
        sparsity=0.8, schedule="linear", ramp=0.5, interval=1, unit="epochs", scope="layer"
    )
    prepared = prepare(network(), recipe, steps=60, epochs=20)
    seen = [prepared.sparsity]
    optimizer = torch.optim.SGD(prepared.model.parameters(), 0.01)
    seen += train(prepared, optimizer, 60)
    wanted = [min(0.8, 0.08 * (step // 3 + 1)) for step in range(61)]
    assert seen == pytest.approx(wanted, abs=0.005)


def test_a_state_comes_back():
    recipe = PruningConfig(sparsity=0.7, ramp=0.8, interval=3)
    whole = prepare(network(), recipe, steps=30)
    train(whole, OPTIMIZERS["adamw"](whole.model.parameters()), 30)

    first = prepare(network(), recipe, steps=30)
    optimizer = OPTIMIZERS["adamw"](first.model.parameters())
    train(first, optimizer, 14)
    states = [copy.deepcopy(s.state_dict()) for s in (first, first.model, optimizer)]
    second = prepare(network(), recipe, steps=30)
    optimizer = OPTIMIZERS["adamw"](second.model.parameters())
    for part, state in zip((second, second.model, optimizer), states, strict=True):
        part.load_state_dict(state)
    train(second, optimizer, 16)
    for ours, wanted in zip(
        second.finalize().parameters(), whole.finalize().parameters(), strict=True
    ):
        assert torch.equal(ours, wanted)


def test_what_is_given_stays_and_what_is_left_feeds_into_a_file(tmp_path):
    model = network()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model, PruningConfig(sparsity=0.5, schedule="one-shot"), steps=5)
    train(prepared, OPTIMIZERS["sgd"](prepared.model.parameters()), 5)
    done = prepared.finalize()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    flyweight.save(flyweight.CompressedModel(done.state_dict()), tmp_path / "a.fly")
    loaded = flyweight.load(tmp_path / "a.fly", architecture=network)
    assert torch.equal(loaded[3].weight, done[3].weight)
    assert int((loaded[3].weight == 0).sum()) == int((done[3].weight == 0).sum()) > 0


@pytest.mark.parametrize("recovery", [False, True])
@pytest.mark.parametrize("asked", [0.0, 0.5, 0.9])
def test_zeros_of_an_earlier_stage_stay_and_count(asked, recovery):
    model = network()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.mul_(percentile_mask(layer.weight, 70))
    zeros = [(layer.weight == 0) for layer in (model[0], model[3])]
    recipe = PruningConfig(sparsity=asked, interval=2, recovery=recovery)
    prepared = prepare(model, recipe, steps=20)
    train(prepared, OPTIMIZERS["adamw"](prepared.model.parameters()), 20)
    gap = pytest.warns(UserWarning, match="was reached") if asked == 0.5 else nullcontext()
    with gap:
        done = prepared.finalize()
    for layer, zero in zip((done[0], done[3]), zeros, strict=True):
        assert not layer.weight[zero].any()
    total = sum(int((layer.weight == 0).sum()) for layer in (done[0], done[3]))
    assert total / (216 + 720) == pytest.approx(max(asked, 0.7), abs=0.002)


def test_too_few_steps_are_a_warning():
    prepared = prepare(network(), PruningConfig(sparsity=0.8, interval=1), steps=100)
    train(prepared, OPTIMIZERS["sgd"](prepared.model.parameters()), 10)
    with pytest.warns(UserWarning, match=r"sparsity 0\.\d+ was reached where 0\.8000 was asked"):
        prepared.finalize()
    with pytest.raises(ModelError, match="was finalized"):
        prepared.step()


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda: prepare(network(), PruningConfig(), steps=0), ModelError, "at least one step"),
        (lambda: PruningConfig(sparsity=1.5), RecipeError, "fraction from 0 up to"),
        (lambda: PruningConfig(overrides={"a": 2}), RecipeError, "fraction from 0 to 1"),
        (lambda: PruningConfig(pattern="2:3:4"), RecipeError, "a pattern is"),
        (lambda: PruningConfig(pattern="2:4"), RecipeError, r"goes with a sparsity of 0\.5"),
        (lambda: PruningConfig(criterion="size"), RecipeError, "one of magnitude, taylor"),
        (
            lambda: prepare(network(), PruningConfig(layers=("stem*",)), steps=1),
            ModelError,
            "matches no parameter",
        ),
        (
            lambda: prepare(network(), PruningConfig(overrides={"stem*": 0.1}), steps=1),
            ModelError,
            "matches none of the weights",
        ),
        (
            lambda: prepare(network(), PruningConfig(sparsity=0.5, pattern="2:4"), steps=1),
            ModelError,
            r"'0.weight': .*multiple of 4 weights along dimension 1",
        ),
        (
            lambda: prepare(network(), PruningConfig(criterion="taylor"), steps=1),
            ModelError,
            "needs calibration batches",
        ),
        (
            lambda: prepare(network(), PruningConfig(unit="epochs"), steps=10),
            RecipeError,
            "length of an epoch is not known",
        ),
    ],
)
def test_the_impossible_is_refused_in_words(work, error, message):
    with pytest.raises(error, match=message):
        work()


def frozen():
    model = network()
    model[3].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (
            lambda: prepare(network(), PruningConfig(sparsity=0, overrides={"*": 1.0}), steps=1),
            ModelError,
            "a sparsity of 1 leaves none of the 936 weights; ask for less",
        ),
        (
            lambda: prepare(
                frozen(), PruningConfig(criterion="taylor"), steps=9, batches=lambda: [*batches()]
            ),
            ModelError,
            r"'3.weight' is frozen and has no gradient; leave it out",
        ),
        (
            lambda: prepare(network(), PruningConfig(criterion="fisher"), steps=9, batches=list),
            DataError,
            "no calibration batches",
        ),
        (
            lambda: prepare(nn.Sequential(nn.LazyLinear(3)), PruningConfig(), steps=1),
            ModelError,
            "'0.weight' has no shape before its lazy layer met a batch; run the model",
        ),
    ],
)
def test_what_could_not_end_well_does_not_begin(work, error, message):
    with pytest.raises(error, match=message):
        work()


def test_a_pruning_ends_once():
    pruning = Pruning(network(), PruningConfig(sparsity=0.5, schedule="one-shot"), steps=1)
    pruning.at(0)
    pruning.finish_()
    with pytest.raises(ModelError, match=r"'0.weight' is a plain weight already; it was finalized"):
        pruning.finish_()


def test_a_run_that_lost_all_its_weights_says_so_again():
    prepared = prepare(network(), PruningConfig(sparsity=0.5, schedule="one-shot"), steps=1)
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            parameter.zero_()
    for _ in range(2):
        with pytest.raises(ModelError, match="none of the 936 weights is other than zero"):
            prepared.finalize()


def test_a_third_with_six_digits_keeps_one_of_three():
    recipe = PruningConfig(sparsity=0.666666, pattern="1:3", schedule="one-shot")
    weight = prepare(nn.Linear(6, 4), recipe, steps=1).finalize().weight
    assert ((weight.reshape(-1, 3) != 0).sum(1) == 1).all()
    with pytest.raises(RecipeError, match="goes with a sparsity"):
        PruningConfig(sparsity=0.66666, pattern="1:3")


def test_a_state_of_another_model_is_refused():
    prepared = prepare(network(), PruningConfig(), steps=5)
    other = prepare(nn.Linear(3, 3), PruningConfig(), steps=5)
    with pytest.raises(CheckpointError, match="another model"):
        prepared.load_state_dict(other.state_dict())


def test_a_state_of_another_recipe_is_refused_and_changes_nothing():
    prepared = prepare(network(), PruningConfig(sparsity=0.2, schedule="one-shot"), steps=5)
    other = prepare(network(), PruningConfig(sparsity=0.8, schedule="one-shot"), steps=5)
    before = prepared.masks
    with pytest.raises(CheckpointError, match="with another recipe; prepare the model with that"):
        prepared.load_state_dict(other.state_dict())
    assert all(torch.equal(mask, before[name]) for name, mask in prepared.masks.items())
    trained = PruningConfig(sparsity=0.8, schedule="one-shot", training=TrainingConfig(epochs=1))
    prepare(network(), trained, steps=5).load_state_dict(other.state_dict())


@pytest.mark.parametrize("lost", ["step", "masks", "recipe"])
def test_what_is_no_state_is_refused(lost):
    prepared = prepare(network(), PruningConfig(), steps=5)
    state = {key: value for key, value in prepared.state_dict().items() if key != lost}
    for wrong in (state, {}, [1]):
        with pytest.raises(CheckpointError, match=r"is not the state of a p.*state_dict"):
            prepared.load_state_dict(wrong)
    quantized = prepare_quantizer_old(network(), QuantizationConfig(), steps=5)
    with pytest.raises(CheckpointError, match="is not the state of a preparation"):
        quantized.load_state_dict({"masks": {}})


def test_loading_a_state_draws_no_calibration_batches():
    drawn = []

    def counted():
        drawn.append(1)
        return batches()

    recipe = PruningConfig(sparsity=0.5, criterion="taylor", schedule="one-shot")
    prepared = prepare(network(), recipe, steps=3, batches=counted)
    state, before = prepared.state_dict(), len(drawn)
    prepared.load_state_dict(state)
    assert before == len(drawn) > 0


def test_a_mask_that_was_lost_prunes_all_the_same():
    prepared = prepare(network(), PruningConfig(sparsity=0.8, schedule="one-shot"), steps=3)
    wanted = prepared.masks
    for module in prepared.model.modules():
        if isinstance(module, MaskedWeight):
            module.mask.fill_(True)
    assert prepared.sparsity == 0
    model = prepared.finalize()
    assert torch.equal(model[0].weight != 0, wanted["0.weight"])
    assert torch.equal(model[3].weight != 0, wanted["3.weight"])


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("recovery", [False, True])
def test_what_decides_about_zeros_follows_the_weights_to_their_device(criterion, recovery):
    recipe = PruningConfig(criterion=criterion, recovery=recovery)
    pruning = Pruning(network(), recipe, steps=10)
    pruning.model.to("meta")  # the one other device that every machine has; it holds no values
    for name, weight in pruning.weights.items():
        assert weight.is_meta
        assert pruning._gone(name).is_meta
        assert pruning._scores()[name].is_meta


@pytest.mark.gpu
@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "random"])
@pytest.mark.parametrize("recovery", [False, True])
def test_a_prepared_model_may_move_to_another_device(criterion, recovery):
    def on_gpu():
        for images, labels in batches():
            yield images.cuda(), labels.cuda()

    recipe = PruningConfig(sparsity=0.6, criterion=criterion, recovery=recovery, interval=1)
    prepared = prepare(network(), recipe, steps=8, batches=on_gpu)
    prepared.model.cuda()
    optimizer = OPTIMIZERS["sgd"](prepared.model.parameters())
    for images, labels in [*on_gpu()] * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepared.model(images), labels).backward()
        optimizer.step()
        prepared.step()
    weights = [weight for weight in prepared.finalize().parameters() if weight.ndim > 1]
    assert weights[0].is_cuda
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == round(0.6 * sum(weight.numel() for weight in weights))


def test_an_override_may_call_a_tied_weight_by_any_of_its_names():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    recipe = PruningConfig(sparsity=0.5, schedule="one-shot", overrides={"2.*": 0.25})
    pruned = prepare(model, recipe, steps=1).finalize()
    assert int((pruned[0].weight == 0).sum()) == 9
    assert int((pruned[3].weight == 0).sum()) == 18


class Kept(nn.Module):
    """Three layers, of which the recipe chooses the first; the others share a weight with zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.chosen = nn.Linear(6, 6)
        self.kept = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.dense = nn.Linear(6, 6)
        self.kept.weight.data[:2] = 0
        self.tied.weight = self.kept.weight

    def forward(self, inputs):
        return self.dense(self.tied(self.kept(self.chosen(inputs).relu()).relu()))


ONE_CHOSEN = PruningConfig(sparsity=0.5, schedule="one-shot", layers=("chosen.*",), recovery=True)


def train_kept(prepared, steps):
    optimizer = OPTIMIZERS["adamw"](prepared.model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        prepared.model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
        prepared.step()
        assert not prepared.model.kept.weight[:2].any()
        assert not prepared.model.tied.weight[:2].any()


def test_zeros_of_layers_that_the_recipe_leaves_stay_and_count_nowhere():
    prepared = prepare(Kept(), ONE_CHOSEN, steps=5)
    masked = [name for name, m in prepared.model.named_modules() if isinstance(m, MaskedWeight)]
    assert masked == [f"{layer}.parametrizations.weight.0" for layer in ("chosen", "kept")]
    before = prepared.model.kept.weight.detach().clone()
    train_kept(prepared, 5)
    assert [*prepared.masks] == ["chosen.weight"]
    assert prepared.sparsity == 0.5
    done = prepared.finalize()
    assert set(done.state_dict()) == set(Kept().state_dict())
    assert done.tied.weight is done.kept.weight
    assert torch.equal(done.kept.weight != 0, before != 0)
    assert (done.kept.weight != before)[2:].all()
    assert done.dense.weight.all()


def test_a_state_has_the_zeros_of_layers_that_the_recipe_leaves():
    first, second, other = (prepare(Kept(), ONE_CHOSEN, steps=5) for _ in range(3))
    train_kept(first, 3)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    train_kept(second, 2)
    assert not second.finalize().kept.weight[:2].any()
    state = other.state_dict()
    state["masks"]["kept.weight"][3] = False
    with pytest.raises(CheckpointError, match=r"other zeros in tensor 'kept\.weight'"):
        first.load_state_dict(state)
    assert first.number == 3
    model = Kept()
    model.kept.weight.data.fill_(1)
    with pytest.raises(CheckpointError, match="another model or recipe"):
        prepare(model, ONE_CHOSEN, steps=5).load_state_dict(first.state_dict())


def test_zeros_of_layers_that_the_recipe_leaves_outlive_a_lost_mask():
    pruning = Pruning(Kept(), ONE_CHOSEN, steps=5)
    pruning.at(0)
    dense = pruning.model.kept.parametrizations.weight
    dense.original.data.fill_(1)
    dense[0].mask.fill_(True)
    with pytest.raises(ModelError, match=r"'kept\.weight' has values where its mask says zero"):
        pruning.check()
    pruning.finish_()
    assert torch.equal(pruning.model.kept.weight != 0, Kept().kept.weight != 0)


def test_our_loop_with_its_moving_average_keeps_zeros_that_the_recipe_leaves():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 10))
    model[3].weight.data[:2] = 0
    data = Split(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8), torch.arange(16) % 10)
    training = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.1, ema_decay=0.9)
    recipe = PruningConfig(sparsity=0.5, keep=("3.*",), interval=1, training=training)
    assert prune_(model, recipe, data, seed=0) == ("1.weight",)
    assert not model[3].weight[:2].any()
    assert model[3].weight[2:].all()
    assert int((model[1].weight == 0).sum()) == 6144


def test_a_layer_that_is_not_pruned_and_begins_with_zeros_trains():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.zeros_(model[2].weight)
    recipe = PruningConfig(sparsity=0.5, schedule="one-shot", keep=("2.*",))
    prepared = prepare(model, recipe, steps=2)
    optimizer = torch.optim.SGD(prepared.model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        prepared.model(torch.randn(16, 8)).sum().backward()
        optimizer.step()
        prepared.step()
    assert bool(prepared.finalize()[2].weight.any(1).all())
