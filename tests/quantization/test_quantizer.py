"""Tests of quantization-aware training: levels, zeros and states, in any training loop."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import CheckpointError, ModelError, RecipeError
from flyweight.int8 import prepare_int8
from flyweight.modules import attach_
from flyweight.pruning import (
    MaskedWeight,
    Pruner,
    PruningConfig,
    fisher_information,
    percentile_mask,
)
from flyweight.quantization import (
    FixedPoint,
    QuantizationConfig,
    Quantizer,
    quantize_kmeans,
)

# Method, bits, and the largest number of levels other than zero.
METHODS = [
    ("kmeans", 2, 4),
    ("uniform", 2, 4),
    ("symmetric", 3, 6),
    ("symmetric-no-zero", 2, 4),
    ("learned-step", 2, 3),
    ("ternary", 4, 2),
    ("binary", 4, 2),
]
UNSCALED = ("kmeans", "ternary")


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


def zeros_of(model):
    return [(model[0].weight == 0).clone(), (model[4].weight == 0).clone()]


def step(quantizer, optimizer):
    torch.manual_seed(quantizer.number)
    inputs, targets = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(quantizer.model(inputs), targets).backward()
    optimizer.step()
    quantizer.step()


def trained(model, config, steps=8):
    """A quantizer after all of its steps, by SGD."""
    quantizer = Quantizer(model, config, steps=steps)
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        step(quantizer, optimizer)
        quantizer.check()
    return quantizer


def restored(compressed):
    """The state that a file of the compressed model holds."""
    return CompressedModel.from_bytes(compressed.to_bytes()).state_dict()


def untrained(quantizer, steps):
    """Make steps without an optimizer, of which the second one warns."""
    quantizer.step()
    with pytest.warns(UserWarning, match="no parameter of the prepared model changed"):
        quantizer.step()
    for _ in range(steps - 2):
        quantizer.step()


@pytest.mark.parametrize(("method", "bits", "levels"), METHODS)
def test_quantizer_trains_few_levels_and_keeps_zeros(method, bits, levels):
    model = network()
    zeros = zeros_of(model)
    before = copy.deepcopy(model.state_dict())
    quantizer = trained(model, QuantizationConfig(method=method, bits=bits, assignment_interval=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    compressed = quantizer.finalize(fold_batch_norm=False)
    assert not torch.equal(quantizer.model[1].weight, before["1.weight"])  # it did train
    stored = restored(compressed)
    for name, zero in zip(("0.weight", "4.weight"), zeros, strict=True):
        assert not stored[name][zero].any()
        assert torch.equal(stored[name], quantizer.model.get_parameter(name))
        assert 1 <= len(compressed[name].levels) <= levels
        if method in ("kmeans", "binary"):
            assert torch.equal(stored[name] == 0, zero)
    assert list(quantizer.model.state_dict()) == list(network().state_dict())


@pytest.mark.parametrize("level_dtype", ["float16", "float32"])
@pytest.mark.parametrize(("method", "bits"), [(m, b) for m, b, _ in METHODS if m not in UNSCALED])
def test_quantizer_stores_scales_of_channels(method, bits, level_dtype):
    model = network()
    zeros = zeros_of(model)
    config = QuantizationConfig(method=method, bits=bits, per_channel=True, level_dtype=level_dtype)
    quantizer = trained(model, config)
    compressed = quantizer.finalize()
    stored = restored(compressed)
    for name, zero in zip(("0.weight", "4.weight"), zeros, strict=True):
        tensor = compressed[name]
        assert tensor.scales.shape == tensor.shape[:1]
        assert (tensor.offsets is not None) == (method == "uniform")
        for table in (tensor.levels, tensor.scales, tensor.offsets):
            if table is not None:
                assert torch.equal(table, table.to(getattr(torch, level_dtype)).float())
        assert not stored[name][zero].any()
        assert torch.equal(stored[name], quantizer.model.get_parameter(name))
        assert len(tensor.levels) <= 2**bits


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", ["uniform", "symmetric", "symmetric-no-zero"])
def test_quantizer_trains_steps_that_are_powers_of_two(method, per_channel):
    config = QuantizationConfig(
        method=method,
        bits=4,
        start_bits=6,
        per_channel=per_channel,
        power_of_two=True,
        zero_level=method == "uniform",
        include=("4.*",),
    )
    quantizer = trained(network(), config)
    compressed = quantizer.finalize()
    stored = restored(compressed)["4.weight"]
    assert torch.equal(stored, quantizer.model[4].weight)
    tensor = compressed["4.weight"]
    assert tensor.offsets is None
    steps = tensor.scales if per_channel else tensor.levels.abs().unique().diff().min()[None]
    assert torch.equal(torch.frexp(steps).mantissa, torch.full_like(steps, 0.5))
    rows = stored / (steps[:, None] if per_channel else steps)
    shift = 0.5 if method == "symmetric-no-zero" else 0.0
    assert torch.equal((rows[rows != 0] - shift) % 1, torch.zeros(int((rows != 0).sum())))


def test_quantizer_layers_see_fixed_point():
    config = QuantizationConfig(method="uniform", bits=3, power_of_two=True, zero_level=True)
    quantizer = Quantizer(network(), config, steps=4)
    dense = quantizer.model[4].parametrizations.weight.original
    fixed_point = FixedPoint(3, power_of_two=True, zero_level=True)
    expected = fixed_point.quantize(dense, network()[4].weight != 0)
    assert torch.equal(quantizer.model[4].weight, expected)


@pytest.mark.parametrize(("method", "bits", "levels"), METHODS)
def test_step_lowers_bits(method, bits, levels):
    model = network()
    zeros = zeros_of(model)
    start = 6 if bits < 4 else 0
    config = QuantizationConfig(
        method=method, bits=bits, start_bits=start, assignment_until=0.8, assignment_interval=3
    )
    quantizer = Quantizer(model, config, steps=20)
    optimizer = torch.optim.AdamW(quantizer.model.parameters(), 0.003, weight_decay=0.5)
    found = []
    for _ in range(20):
        found.append(len(quantizer.model[4].weight.unique()) - 1)
        step(quantizer, optimizer)
        for layer, zero in zip((quantizer.model[0], quantizer.model[4]), zeros, strict=True):
            assert not layer.weight[zero].any()
    if start:
        assert found[-1] < found[0] <= 64
    seen = quantizer.model[4].weight.detach().clone()
    compressed = quantizer.finalize()
    assert max(found[16:]) <= levels
    assert isinstance(compressed["4.weight"], CompressedTensor)
    torch.testing.assert_close(quantizer.model[4].weight, seen, rtol=1e-3, atol=0)
    assert torch.equal(compressed["4.weight"].dequantize(), quantizer.model[4].weight)
    assert torch.equal(model[4].weight == 0, zeros[1])


def test_quantizer_is_closed_after_finalize():
    quantizer = Quantizer(nn.Linear(8, 4), steps=0)
    quantizer.finalize()
    for call in (
        quantizer.step,
        quantizer.check,
        quantizer.state_dict,
        quantizer.finalize,
        lambda: quantizer.load_state_dict({}),
    ):
        with pytest.raises(ModelError, match="this quantizer is finalized; make a new one"):
            call()


def test_report_after_finalize_is_that_of_the_compressed_model():
    quantizer = Quantizer(nn.Linear(8, 4), QuantizationConfig(bits=2), steps=0)
    before = quantizer.report()
    tensor = quantizer.finalize()["weight"]
    (row,) = quantizer.report().layers
    assert (row.name, row.weights, row.levels) == ("weight", 32, tensor.levels.numel())
    assert row.bits_per_weight == before.bits_per_weight
    assert row.error == pytest.approx(before.layers[0].error, rel=0.01)


@pytest.mark.parametrize("method", ["kmeans", "uniform", "learned-step", "ternary"])
def test_load_state_dict_continues_bit_for_bit(method):
    start = 0 if method == "ternary" else 4
    config = QuantizationConfig(method=method, bits=2, start_bits=start, assignment_interval=2)
    runs = []
    for stop in (20, 9):
        quantizer = Quantizer(network(), config, steps=20)
        optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.01, momentum=0.9)
        for _ in range(stop):
            step(quantizer, optimizer)
        if stop < 20:
            parts = (quantizer.model, quantizer, optimizer)
            states = [copy.deepcopy(part.state_dict()) for part in parts]
            quantizer = Quantizer(network(), config, steps=20)
            optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.01, momentum=0.9)
            parts = (quantizer.model, quantizer, optimizer)
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)
            for _ in range(stop, 20):
                step(quantizer, optimizer)
        quantizer.finalize()
        runs.append(quantizer.model.state_dict())
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name
    other = Quantizer(network(sparsity=30), config, steps=20)
    with pytest.raises(CheckpointError, match="with other zeros"):
        other.load_state_dict(states[1])


@pytest.mark.parametrize("method", ["kmeans", "uniform"])
def test_load_state_dict_refuses_other_zeros_after_the_model_was_loaded(method):
    config = QuantizationConfig(method=method, bits=2)
    other = Quantizer(network(sparsity=30), config, steps=5)
    quantizer = Quantizer(network(), config, steps=5)
    quantizer.model.load_state_dict(other.model.state_dict())
    with pytest.raises(CheckpointError, match="with other zeros; make the quantizer of that"):
        quantizer.load_state_dict(other.state_dict())


def test_load_state_dict_refuses_another_configuration():
    states = [
        Quantizer(network(), QuantizationConfig(bits=2), steps=5).state_dict(),
        Quantizer(network(), QuantizationConfig(method="binary"), steps=5).state_dict(),
    ]
    quantizer = Quantizer(network(), QuantizationConfig(bits=4), steps=5)
    for state in states:
        with pytest.raises(CheckpointError, match="of another configuration; make the quantizer"):
            quantizer.load_state_dict(state)


def test_load_state_dict_refuses_what_is_no_state():
    quantizer = Quantizer(network(), steps=5)
    state = quantizer.state_dict()
    for wrong in (
        {},
        [1],
        {"step": 1, "masks": [1]},
        {"step": 1, "masks": {}},
        state | {"masks": 1},
    ):
        with pytest.raises(CheckpointError, match=r"is not the state of a Quantizer.*state_dict"):
            quantizer.load_state_dict(wrong)
    for masks in ({}, dict.fromkeys(state["masks"], 1), dict.fromkeys(state["masks"], zeros_of)):
        with pytest.raises(CheckpointError, match="of another model"):
            quantizer.load_state_dict(state | {"masks": masks})
    assert quantizer.number == 0


@pytest.mark.parametrize("method", ["uniform", "learned-step", "ternary", "binary"])
def test_finalize_keeps_zeros_when_masks_in_the_model_are_lost(method):
    zeros = zeros_of(network())
    config = QuantizationConfig(method=method, bits=2, exclude=("0.*",))
    quantizer = Quantizer(network(), config, steps=1)
    for index in (0, 4):
        parametrization = quantizer.model[index].parametrizations.weight
        parametrization[0].mask.fill_(True)
        parametrization.original.data.add_(0.5)
    compressed = quantizer.finalize()
    assert not compressed["0.weight"][zeros[0]].any()
    assert not compressed["4.weight"].dequantize()[zeros[1]].any()
    assert not quantizer.model[4].weight[zeros[1]].any()


def test_check_and_finalize_refuse_lost_zeros():
    quantizer = Quantizer(network(), QuantizationConfig(bits=2), steps=1)
    good = copy.deepcopy(quantizer.model.state_dict())
    quantizer.model[4].parametrizations.weight[0].symbols.fill_(1)
    for call in (quantizer.check, quantizer.finalize):
        with pytest.raises(ModelError, match=r"'4\.weight' lost zeros .*; load the state that"):
            call()
    quantizer.model.load_state_dict(good)
    assert not quantizer.finalize()["4.weight"].symbols[network()[4].weight == 0].any()


def test_quantizer_trains_excluded_layers_and_keeps_their_zeros():
    model = network()
    zeros = zeros_of(model)
    before = model[0].weight.detach().clone()
    config = QuantizationConfig(method="uniform", bits=3, exclude=("0.*",))
    quantizer = trained(model, config)
    compressed = quantizer.finalize()
    found = quantizer.model[0].weight
    assert isinstance(compressed["0.weight"], torch.Tensor)
    assert isinstance(compressed["4.weight"], CompressedTensor)
    assert torch.equal(found == 0, zeros[0])
    assert len(found.unique()) > 50
    assert (found != before)[~zeros[0]].any()


def test_quantizer_selects_by_include():
    compressed = Quantizer(network(), QuantizationConfig(include=("4.*",)), steps=0).finalize()
    kinds = {name: isinstance(compressed[name], CompressedTensor) for name in compressed}
    assert [name for name, quantized in kinds.items() if quantized] == ["4.weight"]


@pytest.mark.parametrize(("method", "extra"), [("kmeans", 0), ("symmetric", -2)])
def test_quantizer_takes_bits_overrides(method, extra):
    config = QuantizationConfig(method=method, bits=4, bits_overrides={"*": 3, "0.*": 2})
    quantizer = Quantizer(network(0), config, steps=0)
    assert (quantizer.bits("0.weight"), quantizer.bits("4.weight")) == (2, 3)
    compressed = quantizer.finalize()
    sizes = {name: len(compressed[name].levels) for name in ("0.weight", "4.weight")}
    assert sizes == {"0.weight": 4 + extra, "4.weight": 8 + extra}
    with pytest.raises(ModelError, match="pattern '7' matches none of the selected weights"):
        Quantizer(network(), QuantizationConfig(bits_overrides={"7": 2}), steps=0)


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(6, 6)

    def forward(self, inputs):
        return self.head(self.decoder(self.encoder(inputs).relu()))


@pytest.mark.parametrize("glob", ["encoder.*", "decoder.*"])
def test_quantizer_excludes_a_shared_weight_by_any_name(glob):
    model = Tied()
    quantizer = Quantizer(model, QuantizationConfig(bits=1, exclude=(glob,)), steps=0)
    compressed = quantizer.finalize()
    assert torch.equal(compressed["encoder.weight"], model.encoder.weight)
    assert len(compressed["head.weight"].levels) == 2
    assert quantizer.model.decoder.weight is quantizer.model.encoder.weight


def test_quantizer_quantizes_a_shared_weight_once():
    quantizer = Quantizer(Tied(), QuantizationConfig(bits=2), steps=0)
    compressed = quantizer.finalize()
    assert compressed.aliases == {"decoder.weight": "encoder.weight"}
    assert quantizer.model.decoder.weight is quantizer.model.encoder.weight
    weight = quantizer.model.encoder.weight
    assert torch.equal(weight, compressed["encoder.weight"].dequantize())


def test_quantizer_without_steps_is_optimal_kmeans_with_the_final_bits():
    dense = network()[4].weight.detach().clone()
    config = QuantizationConfig(bits=3, start_bits=8)
    tensor = Quantizer(network(), config, steps=0).finalize()["4.weight"]
    best = quantize_kmeans(dense, bits=3, init="optimal")
    assert torch.equal(tensor.symbols, best.symbols)
    assert torch.equal(tensor.levels, best.levels.half().float())


def test_quantizer_refuses_patterns_that_match_nothing():
    with pytest.raises(ModelError, match=r"pattern 'stem\*' matches no parameter"):
        Quantizer(network(), QuantizationConfig(exclude=("0.*", "stem*")), steps=1)


def test_quantizer_refuses_what_it_cannot_quantize():
    model = network()
    attach_(model, {"0.weight": MaskedWeight(model[0].weight != 0)})
    with pytest.raises(ModelError, match=r"'0\.weight' has a MaskedWeight attached.*finalize"):
        Quantizer(model, steps=1)
    started = Quantizer(network(), QuantizationConfig(method="ternary"), steps=1)
    for call in (
        lambda: Pruner(started.model, PruningConfig(), steps=1),
        lambda: Quantizer(started.model, steps=1),
        lambda: prepare_int8(started.model, [torch.randn(2, 3, 32, 32)]),
    ):
        with pytest.raises(ModelError, match=r"'0\.weight' has a TernaryWeight attached"):
            call()
    with pytest.raises(ModelError, match="the number of steps is -1; give 0 or more"):
        Quantizer(network(), steps=-1)
    with pytest.raises(ModelError, match="the model has no weight of two or more dimensions"):
        Quantizer(nn.BatchNorm1d(4), steps=1)
    broken = network()
    broken[4].weight.data[0] = torch.nan
    with pytest.raises(ModelError, match=r"'4.weight' holds 1800 values that are NaN"):
        Quantizer(broken, steps=1)
    folded = network()
    fold_batch_norms_(folded)
    quantizer = Quantizer(folded, steps=2)
    quantizer.model[1].eval()
    quantizer.step()
    quantizer.model[1].train()
    with pytest.raises(ModelError, match=r"'1' is folded .*unfold_batch_norms_"):
        quantizer.step()


def test_quantizer_ignores_parametrizations_of_excluded_layers():
    model = network(sparsity=0)
    nn.utils.parametrizations.weight_norm(model[0])
    exclude = ("0.*",)
    compressed = Quantizer(model, QuantizationConfig(exclude=exclude), steps=1).finalize()
    assert isinstance(compressed["4.weight"], CompressedTensor)
    with pytest.raises(ModelError, match=r"'0\.weight' has a parametrization, _WeightNorm"):
        Quantizer(model, steps=1)


def test_quantizer_refuses_int8_layers():
    model = prepare_int8(network(), [torch.randn(2, 3, 32, 32)])
    with pytest.raises(ModelError, match="layer '0' computes in 8-bit integers"):
        Quantizer(model, steps=1)


def test_quantized_models_can_be_pruned():
    quantizer = Quantizer(network(0), QuantizationConfig(bits=3), steps=0)
    quantizer.finalize()
    config = PruningConfig(sparsity=0.5, schedule="one-shot")
    model = Pruner(quantizer.model, config, steps=0).finalize()
    assert len(model[4].weight.unique()) <= 2**3 + 1
    assert float((model[4].weight == 0).float().mean()) > 0.3


def test_finalize_keeps_levels_too_small_for_their_type():
    model = network(sparsity=0)
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    compressed = Quantizer(model, QuantizationConfig(bits=2), steps=0).finalize()
    assert bool((compressed["0.weight"].dequantize() != 0).all())


@pytest.mark.parametrize(
    ("method", "per_channel"), [("kmeans", False), ("uniform", False), ("uniform", True)]
)
def test_finalize_keeps_levels_too_close_for_their_type(method, per_channel):
    torch.manual_seed(0)
    model = nn.Linear(60, 40)
    with torch.no_grad():
        model.weight.uniform_(1, 1.001)
    config = QuantizationConfig(method=method, bits=8, per_channel=per_channel)
    quantizer = Quantizer(model, config, steps=0)
    found = quantizer.finalize()["weight"]
    assert len(found.levels.unique()) > 250
    assert torch.equal(found.dequantize(), quantizer.model.weight)
    assert float((quantizer.model.weight - model.weight).abs().max().detach()) < 1e-5


@pytest.mark.parametrize("method", ["uniform", "symmetric-no-zero"])
def test_quantizer_refuses_a_range_too_wide_before_training(method):
    model = network()
    with torch.no_grad():
        model[4].weight[0, :2] = torch.tensor([3e38, -3e38])
    with pytest.raises(ModelError, match=r"'4.weight': weights from -3e\+38 to 3e\+38 are too far"):
        Quantizer(model, QuantizationConfig(method=method), steps=5)
    half = nn.Linear(4, 2).half()
    half.weight.data[:] = torch.tensor([6e4, -6e4, 1, -1])
    config = QuantizationConfig(
        method=method, bits=1, start_bits=8, per_channel=True
    )  # 8 would fit
    with pytest.raises(ModelError, match="from -60000 to 60000 are too far apart for 1 bits"):
        Quantizer(half, config, steps=5)


def linear(method, **settings):
    config = QuantizationConfig(method=method, **{"bits": 4, **settings})
    return Quantizer(nn.Linear(8, 4), config, steps=5)


@pytest.mark.parametrize("method", [method for method, _, _ in METHODS])
def test_finalize_uses_a_state_that_was_assigned(method):
    torch.manual_seed(0)
    quantizer = linear(method)
    state = {k: v.clone() for k, v in quantizer.model.state_dict().items()}
    state["parametrizations.weight.original"] *= 5
    quantizer.model.load_state_dict(state, assign=True)
    seen = quantizer.model.weight.detach().clone()
    compressed = quantizer.finalize()
    torch.testing.assert_close(compressed["weight"].dequantize(), seen, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", [method for method, _, _ in METHODS])
def test_finalize_refuses_diverged_weights(method):
    torch.manual_seed(0)
    quantizer = linear(method)
    good = copy.deepcopy(quantizer.model.state_dict())
    quantizer.model.parametrizations.weight.original.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="'weight' holds NaN or infinity after training"):
        quantizer.finalize()
    quantizer.model.load_state_dict(good)
    assert bool(torch.isfinite(quantizer.finalize()["weight"].dequantize()).all())


@pytest.mark.parametrize("method", ["learned-step", "ternary"])
def test_finalize_refuses_diverged_scales(method):
    quantizer = linear(method)
    kind = quantizer.model.parametrizations.weight[0]
    (kind.step if method == "learned-step" else kind.positive).data.fill_(torch.nan)
    with pytest.raises(ModelError, match="'weight' holds NaN or infinity after training"):
        quantizer.finalize()


@pytest.mark.parametrize("method", ["kmeans", "uniform", "learned-step"])
def test_finalize_reaches_the_final_bits_after_too_few_steps(method):
    torch.manual_seed(0)
    config = QuantizationConfig(method=method, bits=2, start_bits=8)
    quantizer = Quantizer(nn.Linear(64, 64), config, steps=100)
    untrained(quantizer, 10)
    with pytest.warns(UserWarning, match=r"5 bits more than the final 2.*all 100 steps"):
        compressed = quantizer.finalize()
    assert compressed["weight"].levels.numel() <= 4


def test_extra_bits_are_zero_at_the_last_step():
    for until in (0.5, 1.0):
        config = QuantizationConfig(bits=2, start_bits=8, assignment_until=until)
        assert all(config.extra_bits(steps - 1, steps) == 0 for steps in (1, 2, 3, 10))


def test_step_assigns_clusters_again_at_intervals():
    torch.manual_seed(0)
    config = QuantizationConfig(bits=2, assignment_interval=2, assignment_until=0.5)
    quantizer = Quantizer(nn.Linear(16, 16), config, steps=10)
    assigned = []
    for _ in range(10):
        quantizer.weights["weight"].data.mul_(torch.rand(16, 16) + 0.5)
        symbols = quantizer.parametrizations["weight"].symbols.clone()
        quantizer.step()
        if not torch.equal(symbols, quantizer.parametrizations["weight"].symbols):
            assigned.append(quantizer.number)
    assert assigned == [2, 4]


def test_step_warns_of_an_optimizer_of_the_original_model():
    model = network(0)
    quantizer = Quantizer(model, steps=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step(quantizer, optimizer)
    with pytest.warns(UserWarning, match=r"give the optimizer quantizer\.model\.parameters\(\)"):
        step(quantizer, optimizer)
    step(quantizer, optimizer)  # warns once


def test_quantizer_warns_of_weights_that_are_all_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data.zero_()
    with pytest.warns(UserWarning, match=r"'1\.weight' holds nothing but zeros.*exclude it"):
        quantizer = Quantizer(model, steps=2)
    assert not quantizer.finalize()["1.weight"].dequantize().any()


def test_quantizer_trains_excluded_weights_that_are_all_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data.zero_()
    quantizer = Quantizer(model, QuantizationConfig(exclude=("1.*",)), steps=2)
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.1)
    for _ in range(2):
        quantizer.model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        quantizer.step()
    assert quantizer.finalize()["1.weight"].all()


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(6, 4, 3), nn.ConvTranspose1d(6, 4, 3)])
@pytest.mark.parametrize("method", ["symmetric", "uniform", "learned-step", "binary"])
def test_per_channel_is_per_tensor_for_transposed_convolutions(layer, method):
    model = nn.Sequential(layer, nn.Conv2d(4, 5, 3))
    config = QuantizationConfig(method=method, bits=4, per_channel=True)
    compressed = Quantizer(model, config, steps=0).finalize()
    assert compressed["0.weight"].scales is None  # its first axis is inputs
    assert compressed["1.weight"].scales.shape == (5,)


@pytest.mark.parametrize("method", ["symmetric", "learned-step", "uniform", "binary"])
def test_finalize_keeps_the_precision_of_small_scales(method):
    torch.manual_seed(0)
    model = nn.Linear(64, 16, bias=False)
    model.weight.data *= 1e-5
    bits = {"binary": 4}.get(method, 8)
    found = {
        level_dtype: Quantizer(
            model,
            QuantizationConfig(method=method, bits=bits, per_channel=True, level_dtype=level_dtype),
            steps=0,
        ).finalize()["weight"]
        for level_dtype in ("float16", "float32")
    }
    torch.testing.assert_close(
        found["float16"].dequantize(), found["float32"].dequantize(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("scale", [1e-12, 1e-30])
def test_learned_step_quantizes_tiny_weights(scale):
    torch.manual_seed(0)
    model = nn.Linear(64, 16, bias=False)
    before = Quantizer(model, QuantizationConfig(method="learned-step", bits=3), steps=0).finalize()
    model.weight.data *= scale
    after = Quantizer(
        model, QuantizationConfig(method="learned-step", bits=3, level_dtype="float32"), steps=0
    ).finalize()
    assert torch.equal(after["weight"].symbols, before["weight"].symbols)


METHODS_PER_CHANNEL = ["symmetric", "learned-step", "uniform", "symmetric-no-zero", "binary"]


@pytest.mark.parametrize("method", METHODS_PER_CHANNEL)
def test_finalize_stores_nothing_for_a_channel_of_zeros(method):
    sizes = []
    for dead in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(8, 512, bias=False)
        if dead:
            model.weight.data[3] = 0
        config = QuantizationConfig(method=method, bits=4, per_channel=True)
        compressed = Quantizer(model, config, steps=0).finalize()
        assert dead == (compressed["weight"].scales[3] == 0)
        sizes.append(len(compressed.to_bytes()))
    assert sizes[1] <= sizes[0] + 16  # its symbols, zeros, take less than a bit each


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantizer_trains_16_bit_weights_with_a_channel_of_zeros(per_channel):
    torch.manual_seed(0)
    model = nn.Linear(8, 4).half()
    model.weight.data[1] = 0
    config = QuantizationConfig(method="learned-step", bits=3, per_channel=per_channel)
    quantizer = Quantizer(model, config, steps=5)
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.1)
    quantizer.model(torch.randn(2, 8).half()).float().square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in quantizer.model.parameters())
    optimizer.step()
    quantizer.step()
    assert not quantizer.finalize()["weight"].dequantize()[1].any()


def test_load_state_dict_takes_more_levels_than_the_new_model_has():
    torch.manual_seed(0)
    first = Quantizer(nn.Linear(8, 4), QuantizationConfig(bits=2), steps=5)
    constant = nn.Linear(8, 4)
    nn.init.constant_(constant.weight, 0.5)
    second = Quantizer(constant, QuantizationConfig(bits=2), steps=5)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.model.weight, first.model.weight)
    assert torch.equal(second.finalize()["weight"].symbols, first.finalize()["weight"].symbols)


def calibration():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 3, 32, 32, generator=generator)
    return [(inputs[:8], torch.arange(8)), (inputs[8:], torch.arange(4))]


def test_quantizer_weighs_errors_by_fisher_information():
    model = network().eval()
    config = QuantizationConfig(
        bits=2, importance="fisher", level_dtype="float32", include=("4.*",)
    )
    weight = model[4].weight.detach().clone()
    fisher = fisher_information(model, {"4.weight": model[4].weight}, calibration())["4.weight"]
    expected = quantize_kmeans(weight, bits=2, init="optimal", weights=fisher)
    found = Quantizer(model, config, steps=0, data=calibration()).finalize()["4.weight"]
    kept = found.symbols > 0
    assert torch.equal(found.symbols, expected.symbols)
    for number, level in enumerate(found.levels, 1):
        own = found.symbols == number
        mean = float((weight[own].double() * fisher[own]).sum() / fisher[own].sum())
        assert float(level) == pytest.approx(mean, rel=1e-4)
    even = quantize_kmeans(weight, bits=2, init="optimal")

    def loss(tensor):
        return float((fisher * (tensor.dequantize() - weight) ** 2)[kept].sum())

    assert loss(found) < loss(even)


def test_quantizer_measures_fisher_information_on_calibration_examples():
    model = network().eval()
    few = dataclasses.replace(
        QuantizationConfig(bits=2, importance="fisher"), calibration_examples=8
    )
    expected = Quantizer(model, few, steps=0, data=calibration()[:1]).finalize()
    found = Quantizer(model, few, steps=0, data=calibration()).finalize()
    assert torch.equal(found["4.weight"].levels, expected["4.weight"].levels)


@pytest.mark.parametrize("assign", [False, True])
def test_importance_is_part_of_the_state(assign):
    config = QuantizationConfig(bits=2, start_bits=4, importance="fisher")
    others = [(4 * torch.rand(6, 3, 32, 32), torch.arange(6))]
    quantizers = [
        Quantizer(network().eval(), config, steps=10, data=data) for data in (calibration(), others)
    ]
    first, second = quantizers
    kinds = [one.model[4].parametrizations.weight[0] for one in quantizers]
    assert not torch.equal(kinds[0].importance, kinds[1].importance)

    def train(quantizer, steps):
        optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.05)
        for seed in steps:
            torch.manual_seed(seed)
            optimizer.zero_grad()
            quantizer.model(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()
            quantizer.step()

    train(first, range(2))
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()), assign=assign)
    second.load_state_dict(first.state_dict())
    for quantizer in quantizers:
        train(quantizer, range(2, 10))
    assert torch.equal(second.model[4].weight, first.model[4].weight)
    tensors = [quantizer.finalize()["4.weight"] for quantizer in quantizers]
    assert torch.equal(tensors[0].symbols, tensors[1].symbols)
    assert tensors[0].levels.numel() <= 4
    assert not tensors[0].symbols[network()[4].weight == 0].any()


def test_quantizer_weighs_all_errors_alike_without_fisher_information():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 10))
    model[3].weight.data.zero_()  # so nothing depends on the first layer
    first = model[1].weight.detach().clone()
    config = QuantizationConfig(bits=2, importance="fisher", calibration_examples=8)
    found = Quantizer(model, config, steps=0, data=calibration()).finalize()
    expected = quantize_kmeans(first, bits=2, init="optimal")
    assert torch.equal(found["1.weight"].symbols, expected.symbols)
    assert not found["3.weight"].symbols.any()


def test_fisher_importance_needs_data_and_kmeans():
    with pytest.raises(ModelError, match="'fisher' needs calibration data; give data="):
        Quantizer(network(), QuantizationConfig(importance="fisher"), steps=1)
    with pytest.raises(RecipeError, match="importance is for the method 'kmeans', not for 'symm"):
        QuantizationConfig(method="symmetric", importance="fisher")
    with pytest.raises(RecipeError, match=r"calibration_examples: .*>= 1.*; found 0"):
        QuantizationConfig(calibration_examples=0)


def test_report_gives_bits_levels_and_error():
    model = network()
    quantizer = Quantizer(model, QuantizationConfig(bits=2), steps=0)
    report = quantizer.report()
    assert [layer.name for layer in report.layers] == ["0.weight", "4.weight"]
    assert report.weights == model[0].weight.numel() + model[4].weight.numel()
    compressed = quantizer.finalize()
    layer = report.layers[1]
    tensor = compressed["4.weight"]
    assert layer.levels == 4
    assert layer.zeros == int((tensor.symbols == 0).sum())
    shares = torch.bincount(tensor.symbols.flatten()).double() / tensor.symbols.numel()
    assert layer.bits_per_weight == pytest.approx(float(-(shares * shares.log2()).sum()))
    weight = model[4].weight.detach()
    error = float((tensor.dequantize() - weight).norm() / weight.norm())
    assert layer.error == pytest.approx(error, rel=1e-2)
    assert "4.weight" in str(report)


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "bits", "levels"), METHODS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantizer_trains_on_a_gpu(method, bits, levels, per_channel):
    if per_channel and method in UNSCALED:
        pytest.skip("has no scales")
    model = network()
    zeros = zeros_of(model)
    config = QuantizationConfig(method=method, bits=bits, per_channel=per_channel)
    quantizer = Quantizer(model, config, steps=4)
    quantizer.model.cuda()
    optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.01)
    for _ in range(4):
        optimizer.zero_grad()
        quantizer.model(torch.randn(4, 3, 32, 32, device="cuda")).square().mean().backward()
        optimizer.step()
        quantizer.step()
    stored = restored(quantizer.finalize())
    for name, zero in zip(("0.weight", "4.weight"), zeros, strict=True):
        assert not stored[name][zero].any()
        seen = quantizer.model.get_parameter(name).detach().cpu()
        torch.testing.assert_close(stored[name], seen)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_quantizer_keeps_parameters_that_are_no_floats(dtype):
    model = nn.Sequential(nn.Linear(8, 8))
    table = torch.arange(-32, 32).view(8, 8).to(dtype)
    model.table = nn.Parameter(table.clone(), requires_grad=False)
    quantizer = Quantizer(model, QuantizationConfig(bits=2), steps=1)
    compressed = quantizer.finalize()
    assert torch.equal(compressed["table"], table)
    assert torch.equal(quantizer.model.table, table)
    assert isinstance(compressed["0.weight"], CompressedTensor)
