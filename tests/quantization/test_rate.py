"""Rate-aware training: codes with costs, a controller of bytes, and what is kept at the end."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import flyweight as fw
from flyweight.coding.context import encode_context_values
from flyweight.errors import CheckpointError, ModelError, RecipeError
from flyweight.modules import attached
from flyweight.quantization import QuantizationConfig, Quantizer, RateWeight
from flyweight.quantization.rate_control import RateControl, grid_steps
from flyweight.recipes import Recipe
from flyweight.training import TrainingConfig

STORAGE = {"float_dtype": "float16", "float_mantissa_bits": 3}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def batches(number=20):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(number, 16, 3, 10, 10, generator=generator)
    labels = torch.randint(0, 5, (number, 16), generator=generator)
    return list(zip(images, labels, strict=True))


def config(target=800, **settings):
    return QuantizationConfig(method="rate", target_bytes=target, allocation="size", **settings)


def trained(quantizer, optimizer, data, steps, each=lambda: None):
    quantizer.model.train()
    for images, labels in (data[step % len(data)] for step in steps):
        loss = F.cross_entropy(quantizer.model(images), labels)
        penalty = quantizer.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
        quantizer.step()
        each()


def test_codes_are_rounded_with_a_dead_zone_and_end_at_the_largest():
    weight = torch.tensor([-9.0, -1.69, -0.71, -0.69, 0.0, 0.69, 0.71, 1.71, 2.5])
    layer = RateWeight(weight, weight != 9, step=1.0, largest=3, dead_zone=0.2)
    assert layer.codes_of(weight).tolist() == [-3, -1, -1, 0, 0, 0, 1, 2, 2]
    assert layer(weight).tolist() == [-3.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0]


def test_zeros_get_their_gradient_and_return_but_masked_ones_do_not():
    weight = torch.tensor([0.1, 0.0, 5.0, 1.0], requires_grad=True)
    layer = RateWeight(weight.detach(), weight.detach() != 0, step=1.0, largest=3)
    layer(weight).sum().backward()
    assert weight.grad.tolist() == [1.0, 0.0, 1.0, 1.0]  # zeroed; masked; beyond the grid; kept
    weight.grad = None
    layer(weight).sum().neg().backward()
    assert weight.grad.tolist() == [-1.0, 0.0, 0.0, -1.0]  # not further beyond it


def test_rate_is_the_bits_of_the_coder_and_pulls_towards_cheaper_codes():
    torch.manual_seed(0)
    weight = (torch.randn(40, 50) * (torch.rand(40, 50) < 0.2)).requires_grad_()
    mask = torch.ones_like(weight, dtype=torch.bool)
    layer = RateWeight(weight.detach(), mask, step=1.0, largest=7)
    layer.update_costs_(weight.detach())
    codes = layer.codes_of(weight.detach())
    on_grid = codes.float().requires_grad_()
    coded = 8 * len(encode_context_values(codes.int().numpy()))
    assert math.isclose(float(layer.rate(on_grid).detach()), coded, rel_tol=0.1)
    layer.rate(weight).backward()
    assert bool((weight.grad * weight >= 0).all())
    dear = (weight.detach().abs() > 0.1) & (weight.detach().abs() < 0.9)
    assert float((weight.grad[dear] != 0).float().mean()) > 0.95


def test_kept_codes_stay_and_their_levels_train():
    weight = torch.tensor([-2.0, 0.1, 1.0, 1.2])
    layer = RateWeight(weight, torch.ones(4, dtype=torch.bool), step=1.0, largest=3)
    layer.update_costs_(weight)
    layer.freeze_(layer.codes_of(weight))
    assert layer.rate(weight) == 0
    moved = torch.full((4,), 3.0, requires_grad=True)
    layer(moved).sum().backward()
    assert moved.grad is None
    assert torch.allclose(layer.levels.grad, torch.tensor([0, 1, 0, 0, 2 / math.sqrt(2), 0, 0.0]))
    again = RateWeight(weight, torch.ones(4, dtype=torch.bool), step=5.0, largest=3)
    again.load_state_dict(layer.state_dict())
    assert again(moved).tolist() == [-2.0, 0.0, 1.0, 1.0]


def test_steps_are_multiples_of_what_is_not_zero():
    weights = {"a": torch.tensor([2.0, 0.0, -2.0]), "b": torch.zeros(2)}
    masks = {name: weight != 0 for name, weight in weights.items()}
    assert grid_steps(weights, masks, {"a": 0.5, "b": 1.0}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("target", [450, 800, 1500])
def test_a_run_ends_with_the_bytes_asked_for(target):
    quantizer = Quantizer(network(), config(target), steps=200, storage=STORAGE)
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.05, momentum=0.9)
    zeros = []

    def look():
        if quantizer.penalty() is None:  # codes are kept
            zeros.append({n: quantizer.model.get_submodule(n).weight == 0 for n in ("0", "3", "8")})
            quantizer.check()

    trained(quantizer, optimizer, batches(), range(200), look)
    compressed = quantizer.finalize()
    # Levels and biases train on after the codes are chosen, and some bytes of them come or go;
    # where they are too many at the end, a few codes more become zeros.
    assert 0.99 * target - 30 <= len(compressed.to_bytes()) <= target
    assert 20 <= len(zeros) <= 40
    final = {n: compressed[f"{n}.weight"].symbols == 0 for n in ("0", "3", "8")}
    for seen in zeros:
        assert not any(bool((seen[n] & ~final[n]).any()) for n in seen)


@pytest.mark.parametrize("target", [20, 100_000])
def test_a_target_that_cannot_be_had_is_refused_before_training(target):
    with pytest.raises(ModelError, match=r"cannot be had .* choose a target between"):
        Quantizer(network(), config(target), steps=100)


def test_a_ratio_is_reached_as_nearly_as_the_model_allows():
    dense = 4 * sum(parameter.numel() for parameter in network().parameters())
    for ratio, least, most in ((20, 0.97 * dense / 20, dense / 20), (10_000, 300, 400)):
        settings = QuantizationConfig(method="rate", target_ratio=ratio)
        file = Quantizer(network(), settings, steps=0, storage=STORAGE).finalize().to_bytes()
        assert least <= len(file) <= most


def test_without_training_codes_are_chosen_for_the_target():
    compressed = Quantizer(network(), config(900), steps=0, storage=STORAGE).finalize()
    assert 0.98 * 900 <= len(compressed.to_bytes()) <= 900


def test_a_loss_per_bit_stays_what_it_is_and_more_of_it_gives_fewer_bytes():
    sizes = []
    for loss_per_bit in (1e-7, 3e-5):
        settings = QuantizationConfig(method="rate", loss_per_bit=loss_per_bit)
        quantizer = Quantizer(network(), settings, steps=60, storage=STORAGE)
        optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.05, momentum=0.9)
        trained(quantizer, optimizer, batches(), range(60))
        assert quantizer.state_dict()["rate"]["loss_per_bit"] == loss_per_bit
        sizes.append(len(quantizer.finalize().to_bytes()))
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize("stop", [30, 88, 97])  # before codes are kept, before and after folding
def test_a_run_that_stopped_ends_with_the_same_bytes(stop):
    def begin():
        quantizer = Quantizer(network().eval(), config(), steps=100, storage=STORAGE)
        return quantizer, torch.optim.SGD(quantizer.model.parameters(), 0.05, momentum=0.9)

    quantizer, optimizer = begin()
    trained(quantizer, optimizer, batches(), range(stop))
    parts = (quantizer.model, optimizer, quantizer)
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    trained(quantizer, optimizer, batches(), range(stop, 100))
    again, other = begin()
    for part, state in zip((again.model, other, again), states, strict=True):
        part.load_state_dict(state)
    trained(again, other, batches(), range(stop, 100))
    assert again.finalize().to_bytes() == quantizer.finalize().to_bytes()


def test_finalizing_before_the_codes_are_kept_warns():
    quantizer = Quantizer(network(), config(900), steps=100, storage=STORAGE)
    with pytest.warns(UserWarning, match="training ended before the codes were kept, at 85 of 100"):
        compressed = quantizer.finalize()
    assert len(compressed.to_bytes()) <= 900


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, inputs):
        return self.head(self.lstm(inputs)[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(60, 16), nn.Linear(16, 60, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        return self.head(self.tokens(ids).mean(1))


@pytest.mark.parametrize(
    ("make", "inputs", "target"),
    [
        (Recurrent, torch.randn(20, 16, 4, 8, generator=torch.Generator().manual_seed(0)), 1500),
        (Tied, torch.randint(60, (20, 16, 6), generator=torch.Generator().manual_seed(0)), 500),
    ],
)
def test_recurrent_and_tied_weights_reach_their_bytes(make, inputs, target):
    torch.manual_seed(0)
    quantizer = Quantizer(make(), config(target), steps=60, storage=STORAGE)
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.05, momentum=0.9)
    data = [(one, torch.arange(16) % 5) for one in inputs]
    trained(quantizer, optimizer, data, range(60))
    assert abs(len(quantizer.finalize().to_bytes()) - target) <= 0.01 * target + 30


@pytest.mark.filterwarnings("ignore:no parameter of the prepared model changed")
def test_weights_far_beyond_the_grid_still_give_the_bytes_asked_for():
    torch.manual_seed(0)
    settings = QuantizationConfig(method="rate", target_bytes=700)
    quantizer = Quantizer(nn.Linear(32, 64), settings, steps=100)
    with torch.no_grad():
        next(iter(quantizer.weights.values())).mul_(30)
    assert float(quantizer.penalty().detach()) > 0
    for _ in range(100):
        quantizer.step()
    assert len(quantizer.finalize().to_bytes()) <= 700


def test_bytes_are_counted_with_levels_as_the_file_has_them():
    quantizer = Quantizer(network(), config(2000), steps=0)
    assert 0.97 * 2000 <= len(quantizer.finalize().to_bytes()) <= 2000


def test_a_channel_of_zeros_gets_no_large_scale():
    model = network()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0, 1.0
    quantizer = Quantizer(model, config(), steps=60, storage=STORAGE)
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.02, momentum=0.9)
    trained(quantizer, optimizer, batches(), range(60))
    compressed = quantizer.finalize()
    assert float(compressed["1.weight"].abs().max()) < 50


@pytest.mark.parametrize(
    "storage",
    [
        {"nope": 1},
        {"float_dtype": "int8"},
        {"float_mantissa_bits": 99},
        "quick",
        {"float_dtype": None},
    ],
)
def test_storage_is_checked_before_training(storage):
    with pytest.raises(ModelError, match=r"storage= takes|float_dtype is|float_mantissa_bits is"):
        Quantizer(network(), config(), steps=10, storage=storage)


def test_damaged_states_are_refused():
    quantizer = Quantizer(network(), config(), steps=100)
    state = quantizer.state_dict()
    for rate in (
        None,
        {},
        {**state["rate"], "phase": 7},
        {**state["rate"], "estimated": ["9"]},
        {**state["rate"], "loss_per_bit": -1.0},
    ):
        with pytest.raises(CheckpointError, match="not the state of a Quantizer"):
            quantizer.load_state_dict({**state, "rate": rate})
    with pytest.raises(CheckpointError, match="load the state of the model first"):
        quantizer.load_state_dict({**state, "rate": {**state["rate"], "phase": 2}})


def test_statistics_are_held_once_folded_and_nothing_is_left_in_the_model():
    quantizer = Quantizer(network(), config(), steps=60, storage=STORAGE)
    norm = quantizer.model[1]
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.05)
    trained(quantizer, optimizer, batches(), range(52))
    assert norm.momentum is None  # an average over all batches since the codes are kept
    trained(quantizer, optimizer, batches(), range(52, 60))
    assert norm.momentum == 0.1
    quantizer.model.train()
    quantizer.model(batches()[0][0])
    assert bool((norm.running_mean == 0).all())
    expected = quantizer.model.eval()(batches()[1][0])
    compressed = quantizer.finalize()
    assert not attached(quantizer.model)
    assert not norm._forward_pre_hooks
    loaded = network()
    loaded.load_state_dict(compressed.state_dict())
    assert torch.allclose(loaded.eval()(batches()[1][0]), expected, atol=1e-3)


def test_compress_gives_the_bytes_and_goes_on_where_it_was_stopped(tmp_path):
    recipe = Recipe(
        quantization=config(900),
        fine_tuning=TrainingConfig(epochs=5, learning_rate=0.05, distillation=0.5),
        float_mantissa_bits=3,
    )
    whole = fw.compress(network(), recipe, data=batches(), device="cpu")
    assert whole.report.outputs_identical
    assert abs(whole.report.file_bytes - 900) <= 9

    def interrupt(text, done, total):
        if "epoch 4" in text and done == 70:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fw.compress(
            network(), recipe, data=batches(), device="cpu", resume=folder, progress=interrupt
        )
    resumed = fw.compress(network(), recipe, data=batches(), device="cpu", resume=folder)
    assert resumed.to_bytes() == whole.to_bytes()


def test_the_goal_falls_to_the_target():
    control = RateControl(config(1000), 100, {}, lambda tensors: 0, target=1000, start=9000)
    goals = [control.goal(step) for step in range(100)]
    assert goals[0] == 9000
    assert goals == sorted(goals, reverse=True)
    assert all(math.isclose(goal, 1000) for goal in goals[70:])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rate"},
        {"method": "kmeans", "target_bytes": 1000},
        {"method": "learned-step", "loss_per_bit": 1e-7},
        {"method": "rate", "target_bytes": 1000, "bits": 1},
        {"method": "rate", "target_bytes": 1000, "start_bits": 6},
        {"method": "rate", "target_bytes": 1000, "per_channel": True},
        {"method": "rate", "target_bytes": 1000, "dead_zone": 0.6},
        {"method": "rate", "loss_per_bit": math.inf},
    ],
)
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(RecipeError, match=r"quantization\."):
        QuantizationConfig(**settings)
