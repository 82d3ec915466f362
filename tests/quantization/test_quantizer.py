"""Every scheme on top of a mask: few values, zeros that stay, states that come back."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import flyweight
from flyweight.compressed import CompressedTensor
from flyweight.cifar import Split
from flyweight.errors import CheckpointError, ModelError, RecipeError
from flyweight.int8 import prepare_int8
from flyweight.own_loop_old import prepare, prepare_quantizer_old
from flyweight.pruning import MaskedWeight
from flyweight.modules import attach_
from flyweight.pruning import fisher_information, percentile_mask
from flyweight.quantization import FixedPoint, quantize_kmeans
from flyweight.recipes import PruningConfig, Recipe, QuantizationConfig
from flyweight.pruning import Pruning
from flyweight.quantization import Quantization, quantize_
from flyweight.training import TrainingConfig

# Scheme, bits, and how many values other than zero there are at most.
SCHEMES = [
    ("shared", 2, 4),
    ("uniform", 2, 4),
    ("symmetric", 3, 6),
    ("symmetric-no-zero", 2, 4),
    ("learned-step", 2, 3),
    ("ternary", 4, 2),
    ("binary", 4, 2),
]
UNSCALED = ("shared", "ternary")
TRAINING = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.05, ema_decay=0.0)


def network(sparsity=60):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )
    model(torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        for layer in (model[0], model[4]):
            layer.weight.mul_(percentile_mask(layer.weight, sparsity))
    return model


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(32) % 10)


def zeros_of(model):
    return [(model[0].weight == 0).clone(), (model[4].weight == 0).clone()]


@pytest.mark.parametrize(("scheme", "bits", "values"), SCHEMES)
def test_prune_train_quantise_train_and_a_file_with_the_zeros(
    tmp_path, images, scheme, bits, values
):
    model = network()
    zeros = zeros_of(model)
    before = copy.deepcopy(model.state_dict())
    recipe = QuantizationConfig(scheme=scheme, bits=bits, interval=2, training=TRAINING)
    compressed = quantize_(model, ("0.weight", "4.weight"), recipe, images, seed=0)
    assert not torch.equal(model[1].weight, before["1.weight"])  # it did train
    flyweight.save(flyweight.CompressedModel(dict(compressed)), tmp_path / "a.fly")
    loaded = flyweight.decompress(tmp_path / "a.fly")
    for name, zero in zip(("0.weight", "4.weight"), zeros, strict=True):
        assert not loaded[name][zero].any()
        assert torch.equal(loaded[name], model.get_parameter(name))
        assert 1 <= len(compressed[name].levels) <= values
        if scheme in ("shared", "binary"):
            assert torch.equal(loaded[name] == 0, zero)
    assert set(model.state_dict()) == set(network().state_dict())


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize(("scheme", "bits"), [(s, b) for s, b, _ in SCHEMES if s not in UNSCALED])
def test_channels_have_scales_in_the_file_that_are_those_the_network_was_left_with(
    tmp_path, images, scheme, bits, storage
):
    model = network()
    zeros = zeros_of(model)
    recipe = QuantizationConfig(
        scheme=scheme, bits=bits, per_channel=True, storage=storage, training=TRAINING
    )
    compressed = quantize_(model, ("0.weight", "4.weight"), recipe, images, seed=0)
    size = flyweight.save(flyweight.CompressedModel(dict(compressed)), tmp_path / "a.fly")
    loaded = flyweight.decompress(tmp_path / "a.fly")
    for name, zero in zip(("0.weight", "4.weight"), zeros, strict=True):
        tensor = compressed[name]
        assert tensor.scales.shape == tensor.shape[:1]
        assert (tensor.offsets is not None) == (scheme == "uniform")
        for table in (tensor.levels, tensor.scales, tensor.offsets):
            if table is not None:
                assert torch.equal(table, table.to(getattr(torch, storage)).float())
        assert not loaded[name][zero].any()
        assert torch.equal(loaded[name], model.get_parameter(name))
        assert len(tensor.levels) <= 2**bits
    account = flyweight.inspect(tmp_path / "a.fly")
    assert account.total_bytes == size
    assert account.part_bytes["scales"] == 18 * (2 if storage == "float16" else 4)


def step(prepared, optimizer):
    torch.manual_seed(prepared.number)
    inputs, targets = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(prepared.model(inputs), targets).backward()
    optimizer.step()
    prepared.step()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("scheme", ["uniform", "symmetric", "symmetric-no-zero"])
def test_steps_that_are_powers_of_two_in_training_and_in_the_file(
    tmp_path, images, scheme, per_channel
):
    recipe = QuantizationConfig(
        scheme=scheme,
        bits=4,
        first_bits=6,
        per_channel=per_channel,
        power_of_two=True,
        zero_level=scheme == "uniform",
        training=TRAINING,
    )
    model = network()
    compressed = quantize_(model, ("4.weight",), recipe, images, seed=0)
    flyweight.save(flyweight.CompressedModel(dict(compressed)), tmp_path / "a.fly")
    loaded = flyweight.decompress(tmp_path / "a.fly")["4.weight"]
    assert torch.equal(loaded, model[4].weight)
    tensor = compressed["4.weight"]
    assert tensor.offsets is None
    steps = tensor.scales if per_channel else tensor.levels.abs().unique().diff().min()[None]
    assert torch.equal(torch.frexp(steps).mantissa, torch.full_like(steps, 0.5))
    rows = loaded / (steps[:, None] if per_channel else steps)
    shift = 0.5 if scheme == "symmetric-no-zero" else 0.0
    assert torch.equal((rows[rows != 0] - shift) % 1, torch.zeros(int((rows != 0).sum())))


def test_the_layers_see_powers_of_two_while_they_train():
    recipe = QuantizationConfig(scheme="uniform", bits=3, power_of_two=True, zero_level=True)
    prepared = prepare_quantizer_old(network(), recipe, steps=4)
    wanted = FixedPoint(3, power_of_two=True, zero_level=True)
    dense = prepared.model[4].parametrizations.weight.original
    expected = wanted.quantize(dense, network()[4].weight != 0)
    assert torch.equal(prepared.model[4].weight, expected)


@pytest.mark.parametrize(("scheme", "bits", "values"), SCHEMES)
def test_your_own_loop_with_bits_that_fall(scheme, bits, values):
    model = network()
    zeros = zeros_of(model)
    first = 6 if bits < 4 else 0
    recipe = QuantizationConfig(scheme=scheme, bits=bits, first_bits=first, settle=0.8, interval=3)
    prepared = prepare_quantizer_old(model, recipe, steps=20)
    optimizer = torch.optim.AdamW(prepared.model.parameters(), 0.003, weight_decay=0.5)
    found = []
    for _ in range(20):
        found.append(len(prepared.model[4].weight.unique()) - 1)
        step(prepared, optimizer)
        for layer, zero in zip((prepared.model[0], prepared.model[4]), zeros, strict=True):
            assert not layer.weight[zero].any()
    if first:
        assert found[-1] < found[0] <= 64
    seen = prepared.model[4].weight.detach().clone()
    compressed = prepared.finalize()
    assert max(found[16:]) <= values
    assert isinstance(compressed["4.weight"], CompressedTensor)
    torch.testing.assert_close(prepared.model[4].weight, seen, rtol=1e-3, atol=0)
    assert torch.equal(compressed["4.weight"].dequantize(), prepared.model[4].weight)
    assert torch.equal(model[4].weight == 0, zeros[1])
    with pytest.raises(ModelError, match="was finalized"):
        prepared.step()


@pytest.mark.parametrize("scheme", ["shared", "uniform", "learned-step", "ternary"])
def test_a_state_comes_back(scheme):
    first = 0 if scheme == "ternary" else 4
    recipe = QuantizationConfig(scheme=scheme, bits=2, first_bits=first, interval=2)
    runs = []
    for stop in (20, 9):
        prepared = prepare_quantizer_old(network(), recipe, steps=20)
        optimizer = torch.optim.SGD(prepared.model.parameters(), 0.01, momentum=0.9)
        for _ in range(stop):
            step(prepared, optimizer)
        if stop < 20:
            states = [copy.deepcopy(p.state_dict()) for p in (prepared.model, prepared, optimizer)]
            prepared = prepare_quantizer_old(network(), recipe, steps=20)
            optimizer = torch.optim.SGD(prepared.model.parameters(), 0.01, momentum=0.9)
            for part, state in zip((prepared.model, prepared, optimizer), states, strict=True):
                part.load_state_dict(state)
            for _ in range(stop, 20):
                step(prepared, optimizer)
        prepared.finalize()
        runs.append(prepared.model.state_dict())
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name
    other = prepare_quantizer_old(network(sparsity=30), recipe, steps=20)
    with pytest.raises(CheckpointError, match="with other zeros"):
        other.load_state_dict(states[1])


@pytest.mark.parametrize("scheme", ["shared", "uniform"])
def test_a_state_of_other_zeros_is_refused_after_that_of_the_model(scheme):
    recipe = QuantizationConfig(scheme=scheme, bits=2)
    other = prepare_quantizer_old(network(sparsity=30), recipe, steps=5)
    prepared = prepare_quantizer_old(network(), recipe, steps=5)
    prepared.model.load_state_dict(other.model.state_dict())
    with pytest.raises(CheckpointError, match="with other zeros; prepare the one that it belongs"):
        prepared.load_state_dict(other.state_dict())


def test_a_state_of_another_recipe_is_refused():
    states = [
        prepare_quantizer_old(network(), QuantizationConfig(bits=2), steps=5).state_dict(),
        prepare_quantizer_old(network(), QuantizationConfig(scheme="binary"), steps=5).state_dict(),
        prepare(network(), PruningConfig(sparsity=0.6), steps=5).state_dict(),
    ]
    recipe = QuantizationConfig(bits=4)
    prepared = prepare_quantizer_old(network(), recipe, steps=5)
    for state in states:
        with pytest.raises(CheckpointError, match="of a run with another recipe; prepare"):
            prepared.load_state_dict(state)
    trained = dataclasses.replace(recipe, training=TRAINING)  # trains in a loop of one's own
    prepared.load_state_dict(prepare_quantizer_old(network(), trained, steps=5).state_dict())


def test_what_is_no_state_is_refused():
    prepared = prepare_quantizer_old(network(), QuantizationConfig(), steps=5)
    state = prepared.state_dict()
    for wrong in ({}, [1], {"step": 1, "masks": [1]}, {"step": 1, "masks": {}}):
        with pytest.raises(CheckpointError, match=r"is not the state of a .*state_dict"):
            prepared.load_state_dict(wrong)
    with pytest.raises(CheckpointError, match="is not the state of a quantisation, which has"):
        prepared.load_state_dict(state | {"masks": [1]})
    for masks in ({}, dict.fromkeys(state["masks"], 1), dict.fromkeys(state["masks"], zeros_of)):
        with pytest.raises(CheckpointError, match="of another model"):
            prepared.load_state_dict(state | {"masks": masks})
    assert prepared.number == 0


@pytest.mark.parametrize("scheme", ["uniform", "learned-step", "ternary", "binary"])
def test_zeros_stay_where_the_masks_in_the_model_are_lost(scheme):
    zeros = zeros_of(network())
    recipe = QuantizationConfig(scheme=scheme, bits=2, keep=("0.*",))
    prepared = prepare_quantizer_old(network(), recipe, steps=1)
    for index in (0, 4):
        parametrization = prepared.model[index].parametrizations.weight
        parametrization[0].mask.fill_(True)
        parametrization.original.data.add_(0.5)
    compressed = prepared.finalize()
    assert not compressed["0.weight"][zeros[0]].any()
    assert not compressed["4.weight"].dequantize()[zeros[1]].any()
    assert not prepared.model[4].weight[zeros[1]].any()


def test_shared_values_in_the_place_of_zeros_are_refused():
    prepared = prepare_quantizer_old(network(), QuantizationConfig(bits=2), steps=1)
    prepared.model[4].parametrizations.weight[0].symbols.fill_(1)
    with pytest.raises(ModelError, match=r"'4\.weight' lost zeros .*; load the state that belongs"):
        prepared.finalize()


def test_a_lost_zero_ends_training_after_its_epoch(images, monkeypatch):
    genuine, steps = Quantization.at, []

    def at(self, step):
        genuine(self, step)
        steps.append(step)
        self.quantized["4.weight"].symbols.fill_(1)

    monkeypatch.setattr(Quantization, "at", at)
    recipe = QuantizationConfig(bits=2, training=TRAINING)
    with pytest.raises(ModelError, match=r"'4\.weight' lost zeros"):
        quantize_(network(), ("0.weight", "4.weight"), recipe, images, seed=0)
    assert steps == [0, 1, 2, 3]  # of two epochs


def test_layers_that_are_kept_stay_floats_and_keep_their_zeros(images):
    model = network()
    zeros = zeros_of(model)
    recipe = QuantizationConfig(scheme="uniform", bits=3, keep=("0.*",), training=TRAINING)
    before = model[0].weight.detach().clone()
    compressed = quantize_(model, ("0.weight", "4.weight"), recipe, images, seed=0)
    assert [*compressed] == ["4.weight"]
    assert torch.equal(model[0].weight == 0, zeros[0])
    assert len(model[0].weight.unique()) > 50
    assert (model[0].weight != before)[~zeros[0]].any()


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight

    def forward(self, inputs):
        return self.decoder(self.encoder(inputs).relu())


@pytest.mark.parametrize("glob", ["encoder.*", "decoder.*"])
def test_a_weight_of_several_layers_is_kept_by_any_of_its_names(glob):
    model = Tied()
    before = model.encoder.weight.detach().clone()
    quantization = Quantization(
        model, ["encoder.weight"], QuantizationConfig(bits=1, keep=(glob,)), steps=0
    )
    assert quantization.finish_() == {}
    assert torch.equal(model.decoder.weight, before)
    assert model.decoder.weight is model.encoder.weight


def test_unless_told_otherwise_the_values_have_the_least_error():
    dense = network()[4].weight.detach().clone()
    quantization = Quantization(network(), ["4.weight"], QuantizationConfig(bits=4), steps=0)
    found = quantization.finish_()["4.weight"]
    assert torch.equal(
        found.symbols, flyweight.quantization.share(dense, bits=4, init="optimal").symbols
    )


def test_what_is_to_be_kept_and_is_not_there_is_refused():
    with pytest.raises(ModelError, match=r"pattern 'stem\*' matches no parameter"):
        prepare_quantizer_old(network(), QuantizationConfig(keep=("0.*", "stem*")), steps=1)


def test_nothing_trains_without_epochs_and_the_bits_are_those_of_the_end(images):
    none = dataclasses.replace(TRAINING, epochs=0)
    model = network()
    dense = model[4].weight.detach().clone()
    recipe = QuantizationConfig(bits=3, first_bits=8, init="optimal", training=none)
    tensor = quantize_(model, ("4.weight",), recipe, images, seed=0)["4.weight"]
    best = flyweight.quantization.share(dense, bits=3, init="optimal")
    assert torch.equal(tensor.symbols, best.symbols)
    assert torch.equal(tensor.levels, best.levels.half().float())


def test_stages_in_a_nonsense_order_are_refused(images):
    model = network()
    attach_(model, {"0.weight": MaskedWeight(model[0].weight != 0)})
    message = "'0.weight' has a MaskedWeight of another stage on it; finalize that stage first"
    with pytest.raises(ModelError, match=message):
        prepare_quantizer_old(model, QuantizationConfig(), steps=1)
    begun = prepare_quantizer_old(network(), QuantizationConfig(scheme="ternary"), steps=1)
    with pytest.raises(ModelError, match="TernaryWeight of another stage"):
        prepare(begun.model, PruningConfig(), steps=1)
    with pytest.raises(ModelError, match="TernaryWeight of another stage"):
        flyweight.compress(begun.model, Recipe())
    for entry in (
        lambda: quantize_(begun.model, ("0.weight",), QuantizationConfig(), images, seed=0),
        lambda: Quantization(begun.model, ["0.weight"], QuantizationConfig(), steps=1),
        lambda: Pruning(begun.model, PruningConfig(), steps=1),
        lambda: prepare_int8(begun.model, [torch.randn(2, 3, 32, 32)]),
    ):
        with pytest.raises(ModelError, match=r"'0\.weight' has a TernaryWeight of another stage"):
            entry()
    with pytest.raises(ModelError, match="at least one step"):
        prepare_quantizer_old(network(), QuantizationConfig(), steps=0)
    with pytest.raises(ModelError, match="the model has no weight of two or more dimensions"):
        prepare_quantizer_old(nn.BatchNorm1d(4), QuantizationConfig(), steps=1)
    with pytest.raises(ModelError, match=r"no parameter named '5\.weight'"):
        Quantization(network(), ["5.weight"], QuantizationConfig(), steps=1)
    broken = network()
    broken[4].weight.data[0] = torch.nan
    with pytest.raises(ModelError, match=r"'4.weight': weights hold NaN .* be quantised"):
        Quantization(broken, ["4.weight"], QuantizationConfig(), steps=1)


def test_layers_of_eight_bits_are_the_end():
    inputs = torch.randn(2, 3, 32, 32)
    model = prepare_int8(network(), [inputs])
    for entry in (
        lambda: prepare_int8(model, [inputs]),
        lambda: prepare(model, PruningConfig(), steps=1),
        lambda: prepare_quantizer_old(model, QuantizationConfig(), steps=1),
        lambda: flyweight.compress(model, Recipe()),
        lambda: Pruning(model, PruningConfig(), steps=1),
        lambda: Quantization(model, ["0.layer.weight"], QuantizationConfig(), steps=1),
    ):
        with pytest.raises(ModelError, match="layer '0' computes in 8 bits already; take the"):
            entry()


def test_a_quantised_network_can_still_be_pruned():
    done = prepare_quantizer_old(network(0), QuantizationConfig(bits=3), steps=1)
    done.finalize()
    pruned = prepare(done.model, PruningConfig(sparsity=0.5, schedule="one-shot"), steps=1)
    model = pruned.finalize()
    assert len(model[4].weight.unique()) <= 2**3 + 1
    assert float((model[4].weight == 0).float().mean()) > 0.3


def test_levels_too_small_for_their_storage_stay_and_make_no_zeros(images):
    model = network(sparsity=0)
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    untrained = TrainingConfig(epochs=0, ema_decay=0.0)
    found = quantize_(
        model,
        ("0.weight",),
        QuantizationConfig(bits=2, storage="float16", training=untrained),
        images,
        seed=0,
    )
    assert bool((found["0.weight"].dequantize() != 0).all())
    assert bool((model[0].weight != 0).all())


@pytest.mark.parametrize(
    ("scheme", "per_channel"), [("shared", False), ("uniform", False), ("uniform", True)]
)
def test_levels_too_close_for_their_storage_stay_apart(scheme, per_channel):
    torch.manual_seed(0)
    model = nn.Linear(60, 40)
    with torch.no_grad():
        model.weight.uniform_(1, 1.001)
    recipe = QuantizationConfig(scheme=scheme, bits=8, per_channel=per_channel, storage="float16")
    before = model.weight.detach().clone()
    found = Quantization(model, ["weight"], recipe, steps=0).finish_()["weight"]
    assert len(found.levels.unique()) > 250
    assert torch.equal(found.dequantize(), model.weight)
    assert float((model.weight - before).abs().max().detach()) < 1e-5


@pytest.mark.parametrize("scheme", ["uniform", "symmetric-no-zero"])
def test_a_range_too_wide_is_refused_before_training(scheme):
    model = network()
    with torch.no_grad():
        model[4].weight[0, :2] = torch.tensor([3e38, -3e38])
    with pytest.raises(ModelError, match=r"'4.weight': weights from -3e\+38 to 3e\+38 are too far"):
        prepare_quantizer_old(model, QuantizationConfig(scheme=scheme), steps=5)
    half = nn.Linear(4, 2).half()
    half.weight.data[:] = torch.tensor([6e4, -6e4, 1, -1])
    recipe = QuantizationConfig(scheme=scheme, bits=1, first_bits=8, per_channel=True)  # 8 would fit
    with pytest.raises(ModelError, match="from -60000 to 60000 are too far apart for 1 bits"):
        Quantization(half, ["weight"], recipe, steps=5)


def trained(scheme, **settings):
    recipe = QuantizationConfig(scheme=scheme, **{"bits": 4, **settings})
    return prepare_quantizer_old(nn.Linear(8, 4), recipe, steps=5)


@pytest.mark.parametrize("scheme", [scheme for scheme, _, _ in SCHEMES])
def test_a_state_that_takes_the_place_of_the_weights_is_what_is_kept(scheme):
    torch.manual_seed(0)
    prepared = trained(scheme)
    state = {k: v.clone() for k, v in prepared.model.state_dict().items()}
    state["parametrizations.weight.original"] *= 5
    prepared.model.load_state_dict(state, assign=True)
    seen = prepared.model.weight.detach().clone()
    compressed = prepared.finalize()
    torch.testing.assert_close(compressed["weight"].dequantize(), seen, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", [scheme for scheme, _, _ in SCHEMES])
def test_a_run_that_diverged_is_refused_and_can_go_back(scheme):
    torch.manual_seed(0)
    prepared = trained(scheme)
    good = copy.deepcopy(prepared.model.state_dict())
    prepared.model.parametrizations.weight.original.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="'weight' holds NaN or infinity after"):
        prepared.finalize()
    prepared.model.load_state_dict(good)
    assert bool(torch.isfinite(prepared.finalize()["weight"].dequantize()).all())


def test_a_zero_that_was_lost_leaves_the_model_as_it_is():
    model = nn.Linear(8, 4)
    model.weight.data[0] = 0
    prepared = prepare_quantizer_old(model, QuantizationConfig(), steps=5)
    good = copy.deepcopy(prepared.model.state_dict())
    prepared.model.parametrizations.weight[0].symbols.fill_(1)
    with pytest.raises(ModelError, match="lost zeros"):
        prepared.finalize()
    prepared.model.load_state_dict(good)
    assert not prepared.finalize()["weight"].symbols[0].any()


@pytest.mark.parametrize("scheme", ["shared", "uniform", "learned-step"])
def test_a_run_that_ends_too_early_has_the_bits_it_was_asked_for(scheme):
    torch.manual_seed(0)
    recipe = QuantizationConfig(scheme=scheme, bits=2, first_bits=8)
    prepared = prepare_quantizer_old(nn.Linear(64, 64), recipe, steps=100)
    for _ in range(10):
        prepared.step()
    with pytest.warns(UserWarning, match=r"5 bits above the 2 .* all of its 100 steps"):
        compressed = prepared.finalize()
    assert compressed["weight"].levels.numel() <= 4


def test_the_last_step_has_the_bits_of_the_end():
    for settle in (0.5, 1.0):
        recipe = QuantizationConfig(bits=2, first_bits=8, settle=settle)
        assert all(recipe.extra_bits(steps - 1, steps) == 0 for steps in (1, 2, 3, 10))


def test_values_settle_after_weights_joined_them_anew():
    torch.manual_seed(0)
    recipe = QuantizationConfig(bits=2, interval=2, settle=0.5)
    quantization = Quantization(nn.Linear(16, 16), ["weight"], recipe, steps=10)
    joined = []
    for step in range(10):
        symbols = quantization.quantized["weight"].symbols.clone()
        quantization.at(step)
        joined.append(not torch.equal(symbols, quantization.quantized["weight"].symbols))
        quantization.weights["weight"].data.mul_(torch.rand(16, 16) + 0.5)
    assert joined == [step in (2, 4) for step in range(10)]


@pytest.mark.parametrize("scheme", ["symmetric", "learned-step", "uniform", "binary"])
def test_scales_far_below_one_keep_their_digits(scheme):
    torch.manual_seed(0)
    model = nn.Linear(64, 16, bias=False)
    model.weight.data *= 1e-5
    bits = {"binary": 4}.get(scheme, 8)
    found = {
        storage: Quantization(
            copy.deepcopy(model),
            ["weight"],
            QuantizationConfig(scheme=scheme, bits=bits, per_channel=True, storage=storage),
            steps=0,
        ).finish_()["weight"]
        for storage in ("float16", "float32")
    }
    torch.testing.assert_close(
        found["float16"].dequantize(), found["float32"].dequantize(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("scheme", ["symmetric", "learned-step", "uniform", "symmetric-no-zero", "binary"])
def test_a_dead_channel_costs_nothing(tmp_path, scheme):
    sizes = []
    for dead in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(8, 512, bias=False)
        if dead:
            model.weight.data[3] = 0
        recipe = QuantizationConfig(scheme=scheme, bits=4, per_channel=True)
        compressed = prepare_quantizer_old(model, recipe, steps=1).finalize()
        assert dead == (compressed["weight"].scales[3] == 0)
        sizes.append(flyweight.save(compressed, tmp_path / "a.fly"))
    assert sizes[1] <= sizes[0] + 8


def test_a_channel_of_zeros_in_sixteen_bits_trains():
    torch.manual_seed(0)
    model = nn.Linear(8, 4).half()
    model.weight.data[1] = 0
    for per_channel in (True, False):
        if not per_channel:
            model.weight.data.zero_()
        recipe = QuantizationConfig(scheme="learned-step", bits=3, per_channel=per_channel)
        prepared = prepare_quantizer_old(model, recipe, steps=5)
        optimizer = torch.optim.SGD(prepared.model.parameters(), 0.1)
        prepared.model(torch.randn(2, 8).half()).float().square().sum().backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in prepared.model.parameters())
        optimizer.step()
        prepared.step()
        assert not prepared.finalize()["weight"].dequantize()[1].any()


def test_a_state_of_more_values_than_the_new_model_begins_with_comes_back():
    torch.manual_seed(0)
    first = prepare_quantizer_old(nn.Linear(8, 4), QuantizationConfig(bits=2), steps=5)
    constant = nn.Linear(8, 4)
    nn.init.constant_(constant.weight, 0.5)
    second = prepare_quantizer_old(constant, QuantizationConfig(bits=2), steps=5)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.model.weight, first.model.weight)
    assert torch.equal(second.finalize()["weight"].symbols, first.finalize()["weight"].symbols)


def calibration():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 3, 32, 32, generator=generator)
    return [(inputs[:8], torch.arange(8)), (inputs[8:], torch.arange(4))]


def test_values_weighed_by_fisher_information():
    model = network().eval()
    recipe = QuantizationConfig(bits=2, importance="fisher", storage="float32")
    weights = {"4.weight": model[4].weight}
    bends = fisher_information(model, weights, calibration())["4.weight"]
    wanted = quantize_kmeans(model[4].weight, bits=2, init="optimal", weights=bends)
    stage = Quantization(model, ["4.weight"], recipe, steps=0, batches=calibration)
    found = stage.finish_()["4.weight"]
    kept = found.symbols > 0
    assert torch.equal(found.symbols, wanted.symbols)
    for number, level in enumerate(found.levels, 1):
        those = found.symbols == number
        dense = network()[4].weight.detach()[those].double()
        mean = float((dense * bends[those]).sum() / bends[those].sum())
        assert float(level) == pytest.approx(mean, rel=1e-4)
    even = quantize_kmeans(network()[4].weight, bits=2, init="optimal")

    def loss(tensor):
        error = tensor.dequantize() - network()[4].weight
        return float((bends * error**2)[kept].sum().detach())

    assert loss(found) < loss(even)


@pytest.mark.parametrize("assign", [False, True])
def test_importance_is_a_part_of_the_state_and_stays_while_values_train(assign):
    recipe = QuantizationConfig(bits=2, first_bits=4, importance="fisher")
    others = [(4 * torch.rand(6, 3, 32, 32), torch.arange(6))]
    prepared = [
        prepare_quantizer_old(network().eval(), recipe, steps=10, batches=batches)
        for batches in (calibration, lambda: others)
    ]
    first, second = prepared
    kinds = [some.model[4].parametrizations.weight[0] for some in prepared]
    assert not torch.equal(kinds[0].importance, kinds[1].importance)

    def go_on(some, steps):
        optimizer = torch.optim.SGD(some.model.parameters(), 0.05)
        for seed in steps:
            torch.manual_seed(seed)
            optimizer.zero_grad()
            some.model(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()
            some.step()

    go_on(first, range(2))
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()), assign=assign)
    second.load_state_dict(first.state_dict())
    for some in prepared:
        go_on(some, range(2, 10))
    assert torch.equal(second.model[4].weight, first.model[4].weight)
    tensors = [some.finalize()["4.weight"] for some in prepared]
    assert torch.equal(tensors[0].symbols, tensors[1].symbols)
    assert tensors[0].levels.numel() <= 4
    assert not tensors[0].symbols[network()[4].weight == 0].any()


@pytest.mark.parametrize("scheme", ["shared", "symmetric", "learned-step"])
def test_a_run_that_is_over_gives_the_same_again(images, tmp_path, scheme):
    recipe = QuantizationConfig(scheme=scheme, bits=2, first_bits=4, training=TRAINING)
    found = [
        quantize_(network(), ("4.weight",), recipe, images, seed=0, checkpoint=tmp_path / "a.pt")
        for _ in range(2)
    ]
    first, second = (tensors["4.weight"] for tensors in found)
    assert torch.equal(first.symbols, second.symbols)
    assert torch.equal(first.levels, second.levels)


@pytest.mark.parametrize("scheme", ["learned-step", "ternary"])
def test_a_scale_that_diverged_is_refused_by_name(scheme):
    prepared = trained(scheme)
    kind = prepared.model.parametrizations.weight[0]
    (kind.step if scheme == "learned-step" else kind.positive).data.fill_(torch.nan)
    with pytest.raises(ModelError, match="'weight' holds NaN or infinity after"):
        prepared.finalize()


def test_a_layer_that_counts_nothing_has_values_of_least_error(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 10))
    model[3].weight.data.zero_()  # so nothing depends on the first layer
    first = model[1].weight.detach().clone()
    untrained = TrainingConfig(epochs=0, ema_decay=0.0)
    recipe = QuantizationConfig(bits=2, importance="fisher", calibration=8, training=untrained)
    found = quantize_(model, ("1.weight", "3.weight"), recipe, images, seed=0)
    assert torch.equal(found["1.weight"].symbols, quantize_kmeans(first, bits=2, init="optimal").symbols)
    assert not found["3.weight"].symbols.any()


def test_fisher_information_without_batches_or_for_other_schemes_is_refused():
    with pytest.raises(ModelError, match="'fisher' information need calibration batches"):
        prepare_quantizer_old(network(), QuantizationConfig(importance="fisher"), steps=1)
    with pytest.raises(
        RecipeError, match="importance is for the scheme 'shared', not for 'narrow'"
    ):
        QuantizationConfig(scheme="symmetric", importance="fisher")
    with pytest.raises(RecipeError, match="calibration is at least 1 image; found 0"):
        QuantizationConfig(calibration=0)


def test_soft_labels_have_a_part_in_training_few_values(images):
    config = dataclasses.replace(TRAINING, distillation=0.9)
    recipe = QuantizationConfig(bits=2, training=config)
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
        student = network()
        quantize_(student, ("0.weight",), recipe, images, seed=0, teacher=teacher)
        found.append(student[0].weight)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    with pytest.raises(ModelError, match=r"distillation of 0\.9 needs a teacher"):
        quantize_(network(), ("0.weight",), recipe, images, seed=0)


@pytest.mark.gpu
@pytest.mark.parametrize(("scheme", "bits", "values"), SCHEMES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_few_values_on_a_gpu(tmp_path, scheme, bits, values, per_channel):
    if per_channel and scheme in UNSCALED:
        pytest.skip("has no scales")
    model = network()
    zeros = zeros_of(model)
    recipe = QuantizationConfig(scheme=scheme, bits=bits, per_channel=per_channel)
    prepared = prepare_quantizer_old(model, recipe, steps=4)
    prepared.model.cuda()
    optimizer = torch.optim.SGD(prepared.model.parameters(), 0.01)
    for _ in range(4):
        optimizer.zero_grad()
        prepared.model(torch.randn(4, 3, 32, 32, device="cuda")).square().mean().backward()
        optimizer.step()
        prepared.step()
    flyweight.save(prepared.finalize(), tmp_path / "a.fly")
    back = flyweight.decompress(tmp_path / "a.fly")
    for name, zero in zip(("0.weight", "4.weight"), zeros, strict=True):
        assert not back[name][zero].any()
        seen = prepared.model.get_parameter(name).detach().cpu()
        torch.testing.assert_close(back[name], seen)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_what_is_no_float_stays_beside_quantised_weights(dtype):
    model = nn.Sequential(nn.Linear(8, 8))
    table = torch.arange(-32, 32).view(8, 8).to(dtype)
    model.table = nn.Parameter(table.clone(), requires_grad=False)
    prepared = prepare_quantizer_old(model, QuantizationConfig(bits=2), steps=1)
    compressed = prepared.finalize()
    assert torch.equal(compressed["table"], table)
    assert torch.equal(prepared.model.table, table)
    assert isinstance(compressed["0.weight"], CompressedTensor)


def test_a_tied_weight_may_be_named_twice():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    names = ["0.weight", "1.weight"]
    quantization = Quantization(model, names, QuantizationConfig(bits=2), steps=2)
    for step in range(2):
        quantization.at(step)
    found = quantization.finish_()
    assert [*found] == ["0.weight"]
    assert model[1].weight is model[0].weight
    assert torch.equal(model[0].weight, found["0.weight"].dequantize())
