"""Without training: bits against error, second-order rounding, statistics measured anew."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from flyweight import compress_post_training, decompress, save
from flyweight.batch_norm import batch_norm_drift, reestimate_batch_norms_
from flyweight.coding import code_shared
from flyweight.errors import DataError, ModelError
from flyweight.int8 import prepare_int8
from flyweight.pruning import MaskedWeight
from flyweight.modules import attach_
from flyweight.quantization import (
    code_bits,
    input_correlations,
    rdoq,
    gptq,
    quantize_kmeans,
    steps_at_loss_per_bit,
)
from flyweight.recipes import Recipe
from flyweight.quantization import correct_biases_, quantize_post_training_
from flyweight.compressed import finish


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coded_bytes(tensor):
    coded = code_shared("w", tensor.symbols.numpy(), levels=tensor.levels.numpy(), coder="rans")
    return len(coded.parts["symbols"])


def test_bits_are_those_of_the_entropy_and_of_the_real_coder():
    codes = torch.tensor([0, 0, 0, 0, 1, 1, -2, 2])
    bits = code_bits(codes, 2)
    assert float(bits[2]) == pytest.approx(1.0, abs=0.1)
    assert float(bits[3]) == pytest.approx(2.0, abs=0.1)
    assert float(bits[1]) > 5  # does not occur
    weight = random(30_000)
    tensor = rdoq(weight, step=0.3, price=0.0)
    codes = torch.round(weight / 0.3)
    told = float(code_bits(codes, 16)[(codes + 16).long()].sum()) / 8
    assert coded_bytes(tensor) == pytest.approx(told, rel=0.01)


def test_without_a_price_each_weight_takes_the_nearest_multiple_and_levels_are_means():
    weight = torch.tensor([0.0, 0.4, 0.6, 0.9, -1.2, -2.4])
    tensor = rdoq(weight, step=1.0, price=0.0)
    torch.testing.assert_close(
        tensor.dequantize(), torch.tensor([0.0, 0.0, 0.75, 0.75, -1.2, -2.4])
    )


def test_a_price_saves_real_bytes():
    weight = random(20_000)
    found = [rdoq(weight, step=0.5, price=price) for price in (0.0, 0.01, 0.03, 0.1)]
    sizes = [coded_bytes(tensor) for tensor in found]
    errors = [float((tensor.dequantize() - weight).square().mean()) for tensor in found]
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert sizes[3] < 0.95 * sizes[0]


def test_a_grid_takes_fewer_bytes_than_k_means_at_equal_error_once_coded():
    weight = random(20_000)
    shared = quantize_kmeans(weight, bits=4, init="optimal")
    error = float((shared.dequantize() - weight).square().mean())
    grid = rdoq(weight, step=math.sqrt(12 * error), price=0.1 * error)
    assert float((grid.dequantize() - weight).square().mean()) <= 1.02 * error
    assert coded_bytes(grid) < 0.97 * coded_bytes(shared)


def test_no_other_codes_cost_less_at_the_bits_they_have():
    weight = torch.tensor([0.3, 0.45, 0.52, 0.9, -0.6, 1.4, 0.0, 0.0])
    price, step = 0.05, 0.5
    tensor = rdoq(weight, step=step, price=price)
    codes = tensor.dequantize().sign() * (tensor.dequantize().abs() / step).round()
    bits = code_bits(codes, 4)

    def cost(some):
        return float(((weight - some * step) ** 2 + price * bits[(some + 4).long()]).sum())

    others = itertools.product(*[range(-3, 4) for _ in range(3)])
    for few in others:
        changed = codes.clone()
        changed[:3] = torch.tensor(few)
        near = (changed[:3].abs() <= torch.round(weight[:3] / step).abs()).all()
        if near and (changed[:3] * weight[:3] >= 0).all():
            assert cost(codes) <= cost(changed) + 1e-9


def test_zeros_stay_and_weights_that_matter_stay_near():
    weight = random(500)
    mask = random(500, seed=1) > 0
    tensor = rdoq(weight, step=0.2, price=0.05, mask=mask)
    assert not tensor.dequantize()[~mask].any()
    importance = torch.where(random(500, seed=2) > 0, 10.0, 0.1)
    found = rdoq(weight, step=0.2, price=0.05, weights=importance).dequantize()
    error = (found - weight).square()
    assert float(error[importance > 1].mean()) < 0.5 * float(error[importance < 1].mean())


def test_steps_at_one_price_cost_least():
    sensitivities, price = {"a": 2.0, "b": 0.1}, 1e-4
    steps = steps_at_loss_per_bit(sensitivities, price)
    for name, sensitivity in sensitivities.items():

        def cost(step, sensitivity=sensitivity):
            return sensitivity * step**2 / 12 - price * math.log2(step)

        assert cost(steps[name]) < min(cost(0.99 * steps[name]), cost(1.01 * steps[name]))
    with pytest.raises(ModelError, match="above 0"):
        steps_at_loss_per_bit({"a": 0.0}, 1.0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 5),
        nn.Conv2d(3, 5, 3, stride=2, padding=1),
        nn.Conv2d(3, 5, (4, 3), dilation=2, padding="same"),
        nn.Conv2d(3, 5, 3, padding="valid"),
        nn.Conv2d(3, 5, 3, padding=(1, 2), padding_mode="reflect"),
    ],
)
def test_correlations_are_of_what_the_weight_multiplies(layer):
    inputs = random(40, 12) if isinstance(layer, nn.Linear) else random(8, 3, 9, 9)
    model = nn.Sequential(layer, nn.BatchNorm1d(5) if inputs.ndim == 2 else nn.BatchNorm2d(5))
    before = model[1].running_mean.clone()
    found = input_correlations(model, ["0.weight"], inputs.split(4))["0.weight"]
    assert model.training
    assert torch.equal(model[1].running_mean, before)
    change = random(*layer.weight.shape, seed=3) * 0.1
    with torch.no_grad():
        plain = layer(inputs)
        layer.weight.add_(change)
        error = (layer(inputs) - plain).square()
    rows = error.sum() / (error.numel() / 5)
    delta = change.flatten(1).double()
    assert float((delta @ found @ delta.T).trace()) == pytest.approx(float(rows), rel=1e-3)


def test_second_order_rounding_changes_the_output_less_and_is_plain_without_correlation():
    mixing = random(16, 16, seed=5)
    inputs = random(400, 16) @ mixing
    weight, step = random(8, 16, seed=6), 0.4
    correlation = (inputs.T @ inputs / 400).double()
    plain = rdoq(weight, step=step, price=0.0)
    nearest = torch.round(weight / step) * step
    second = gptq(weight, correlation, step=step).dequantize()
    errors = [float((inputs @ (w - weight).T).square().mean()) for w in (nearest, second)]
    assert errors[1] < 0.8 * errors[0]
    assert torch.allclose(second / step, torch.round(second / step), atol=1e-5)
    identity = torch.eye(16, dtype=torch.float64)
    alone = gptq(weight, identity, step=step)
    torch.testing.assert_close(alone.dequantize(), nearest)
    assert torch.equal(alone.symbols, plain.symbols)


def test_second_order_rounding_keeps_zeros_and_saves_bits_at_a_price():
    inputs = random(300, 18) @ random(18, 18, seed=7)
    weight = random(8, 2, 3, 3, seed=8)
    mask = random(8, 2, 3, 3, seed=9) > 0
    correlation = (inputs.T @ inputs / 300).double()
    free = gptq(weight, correlation, step=0.2, mask=mask)
    assert not free.dequantize()[~mask].any()
    assert free.dequantize()[mask].any()
    bits = code_bits(torch.round(free.dequantize() / 0.2), 20)
    priced = gptq(weight, correlation, step=0.2, mask=mask, bits=bits, price=2.0)
    assert not priced.dequantize()[~mask].any()

    def told(tensor):
        return float(bits[(torch.round(tensor.dequantize() / 0.2) + 20).long()].sum())

    assert told(priced) < 0.95 * told(free)


def test_statistics_are_those_of_the_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    inputs = 2 + 3 * random(64, 3, 8, 8)
    reestimate_batch_norms_(model.eval(), inputs.split(16))
    seen = model[0](inputs).detach()
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, seen.var((0, 2, 3)), rtol=0.02, atol=0)
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1
    before = model[1].running_mean.clone()
    with pytest.raises(DataError, match="no calibration batches"):
        reestimate_batch_norms_(model, [])
    assert torch.equal(model[1].running_mean, before)


def test_statistics_come_back_where_a_batch_cannot_be_run():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model(2 + random(20, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="shapes"):
        reestimate_batch_norms_(model, [random(20, 3), random(20, 2)])

    def stopped():
        yield random(20, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reestimate_batch_norms_(model, stopped())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1
    assert model.training


@pytest.mark.parametrize("dense", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_folded_statistics_are_not_measured_anew(dense, eps):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=eps), nn.BatchNorm1d(4))
    for _ in range(5):
        model(2 + random(20, 3))
    compressed = finish(copy.deepcopy(model), {}, Recipe(dense=dense), metadata={})
    model.load_state_dict(compressed.state_dict())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"'1' was folded .* measure statistics before that"):
        reestimate_batch_norms_(model, [random(20, 3)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_new_network_has_statistics_to_measure():
    for norm in (nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, eps=1e-9)):
        model = nn.Sequential(nn.Linear(3, 4), norm)
        reestimate_batch_norms_(model, [2 + random(20, 3)])
        assert norm.running_mean.all()


def test_a_gamma_that_begins_at_zero_is_not_folded():
    norm = nn.BatchNorm1d(4)
    nn.init.zeros_(norm.weight)
    reestimate_batch_norms_(nn.Sequential(nn.Linear(3, 4), norm), [2 + random(20, 3)])
    assert norm.running_mean.all()
    with torch.no_grad():
        norm.reset_running_stats()
        norm.weight.uniform_(0.5, 1.5)  # as some networks begin
    reestimate_batch_norms_(norm, [2 + random(20, 4)])
    assert norm.running_mean.all()
    with torch.no_grad():
        norm.reset_running_stats()
        norm.bias.uniform_(0.5, 1.5)
    with pytest.raises(ModelError, match=r"or saw no batch yet, .* run a batch in training mode"):
        reestimate_batch_norms_(norm, [random(20, 4)])


class Auxiliary(nn.Module):
    """A second head that takes part in training only."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, inputs):
        found = self.norm(inputs)
        return found + self.other(inputs) if self.training else found


def test_statistics_of_layers_that_no_batch_reaches_stay():
    model = Auxiliary()
    for _ in range(20):
        model(3 + random(20, 4))
    before = copy.deepcopy(model.state_dict())
    batches = [1 + 2 * random(30, 4, seed=1)]
    drift = batch_norm_drift(model, batches)
    assert [*drift] == ["norm"]
    reestimate_batch_norms_(model, batches)
    torch.testing.assert_close(model.norm.running_mean, batches[0].mean(0))
    for name, value in model.other.state_dict().items():
        assert torch.equal(value, before[f"other.{name}"])
    model.load_state_dict(before)
    reestimate_batch_norms_(model, batches, drift=drift)
    torch.testing.assert_close(model.state_dict(), before)


def test_the_impossible_is_refused_in_words():
    with pytest.raises(ModelError, match="a step is above 0"):
        rdoq(torch.ones(2), step=0.0, price=0.0)
    with pytest.raises(ModelError, match="take a larger one"):
        rdoq(torch.ones(2), step=1e-6, price=0.0)
    with pytest.raises(
        ModelError, match=r"correlate in shape \(3, 3\), and the weight has 2 rows of 2"
    ):
        gptq(torch.ones(2, 2), torch.eye(3), step=1.0)
    with pytest.raises(ModelError, match="a step is above 0"):
        gptq(torch.ones(2, 3), torch.eye(3), step=-1.0)
    for step, price in ((math.inf, 0.0), (math.nan, 0.0), (1.0, math.nan), (1.0, math.inf)):
        with pytest.raises(ModelError, match=f"both finite; found {step} and {price}"):
            rdoq(torch.ones(2), step=step, price=price)
    for shape in ((3,), (2, 1), (1, 1)):
        with pytest.raises(ModelError, match="weights of the error have shape"):
            rdoq(torch.ones(2), step=1.0, price=0.1, weights=torch.ones(shape))
    for worth in (-1.0, math.nan, torch.tensor([1.0, -1.0])):
        with pytest.raises(ModelError, match="weights of the error are finite, 0 or more"):
            rdoq(torch.ones(2), step=1.0, price=0.1, weights=worth)
    for shape in ((3, 2, 2), (0, 2, 2), (1, 1, 2, 2), (2,)):
        with pytest.raises(ModelError, match=r"correlate in shape .* weight has 2 rows of 2 col"):
            gptq(torch.ones(2, 2), torch.ones(shape), step=1.0)
    layer = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"no tensor named '1\.weight'"):
        input_correlations(layer, ["1.weight"], [])
    with pytest.raises(ModelError, match=r"no tensor named '0\.wait'"):
        input_correlations(layer, ["0.wait"], [])
    with pytest.raises(DataError, match="no calibration batches to see the inputs of layers with"):
        input_correlations(layer, ["0.weight"], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": torch.ones(2)}, r"has two dimensions or more; found shape \(2,\)"),
        ({"correlation": torch.full((2, 2), math.nan)}, "correlation .* not positive definite"),
        ({"correlation": -torch.eye(2)}, "correlation .* not positive definite"),
        ({"correlation": torch.ones(2, 2), "damping": 0.0}, "not positive definite.*damping"),
        ({"damping": -0.1}, "damping are finite and 0 or more; found 0.0 and -0.1"),
        ({"price": math.nan}, "damping are finite and 0 or more; found nan and 0.01"),
        ({"bits": torch.ones(4)}, r"an odd number of them; found shape \(4,\)"),
        ({"bits": torch.ones(1, 3)}, r"an odd number of them; found shape \(1, 3\)"),
        ({"step": math.inf}, "a step is above 0 and finite; found inf"),
    ],
)
def test_what_second_order_rounding_cannot_do_is_refused_in_words(settings, message):
    given = {"weight": torch.ones(2, 2), "correlation": torch.eye(2), "step": 1.0, **settings}
    with pytest.raises(ModelError, match=message):
        gptq(given.pop("weight"), given.pop("correlation"), **given)


@pytest.mark.parametrize("second_order", [True, False])
def test_a_network_without_training_by_one_price(second_order):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10), nn.LogSoftmax(1)
    )
    model[3].weight.data[random(10, 288, seed=4) > 0] = 0
    zeros = model[3].weight.detach() == 0
    dense = copy.deepcopy(model.state_dict())
    inputs = random(96, 3, 8, 8, seed=1).split(32)
    plain = model(inputs[0]).detach()
    sizes, errors = [], []
    for price in (1e-8, 1e-4):
        model.load_state_dict(dense)
        found = quantize_post_training_(
            model, ["0.weight", "3.weight"], inputs, price=price, second_order=second_order
        )
        assert torch.equal(found["3.weight"].dequantize(), model[3].weight)
        assert not model[3].weight[zeros].any()
        sizes.append(sum(coded_bytes(tensor) for tensor in found.values()))
        errors.append(float((model(inputs[0]).detach() - plain).square().mean()))
    assert sizes[0] > sizes[1]
    assert errors[0] < errors[1]
    assert errors[0] < 0.05 * float(plain.var())


def test_answers_are_those_of_a_network_that_does_not_train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model(3 + random(64, 6))
    inputs = [3 + random(64, 6, seed=1)]
    twin = copy.deepcopy(model).eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    names = ["0.weight", "3.weight"]
    found = quantize_post_training_(model.train(), names, inputs, price=1e-3)
    wanted = quantize_post_training_(twin, names, inputs, price=1e-3)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
    for name in names:
        assert torch.equal(found[name].dequantize(), wanted[name].dequantize())


def test_a_tied_weight_may_be_named_twice():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    names = ["0.weight", "2.weight"]
    found = quantize_post_training_(model, names, [random(32, 4)], price=1e-3, second_order=False)
    assert [*found] == ["0.weight"]
    assert torch.equal(found["0.weight"].dequantize(), model[2].weight)


def test_what_cannot_be_quantised_without_training_is_refused_in_words():
    def run(model, names=("0.weight",), price=1e-3, inputs=None):
        batches = [random(8, 4)] if inputs is None else inputs
        quantize_post_training_(model, names, batches, price=price)

    def network():
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))

    with pytest.raises(ModelError, match=r"the model has no parameter named '1\.weight'"):
        run(network(), ["1.weight"])
    with pytest.raises(ModelError, match="no weights were named to quantise"):
        run(network(), [])
    masked = network()
    attach_(masked, {"0.weight": MaskedWeight(random(4, 4) > 0)})
    with pytest.raises(ModelError, match=r"'0\.weight' has a MaskedWeight of another stage on it"):
        run(masked)
    with pytest.raises(ModelError, match="'0' computes in 8 bits already"):
        run(prepare_int8(network(), [random(8, 4)]), ["0.layer.weight"])
    for price in (0.0, math.nan, math.inf):
        with pytest.raises(ModelError, match=f"the price of a bit is finite .* found {price}"):
            run(network(), price=price)
    with pytest.raises(DataError, match="calibration batch 0 holds NaN or infinity"):
        run(network(), inputs=[torch.full((8, 4), math.nan)])

    class Roots(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).sqrt()

    with pytest.raises(ModelError, match=r"sensitivity of '0\.weight' is nan"):
        run(nn.Sequential(Roots(4, 3)))
    with pytest.raises(DataError, match="no calibration batches"):
        run(network(), inputs=[])


class Residual(nn.Module):
    """Two convolutions beside a shortcut, then a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.last = nn.Linear(48, 4)

    def forward(self, inputs):
        return self.last((inputs + self.second(self.first(inputs).relu())).flatten(1))


@pytest.mark.parametrize("residual", [True, False])
def test_a_layer_whose_inputs_are_all_zero_is_quantised_with_the_others(residual):
    torch.manual_seed(0)
    if residual:
        model, dead = Residual(), "first.weight"
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 4))
        model[1].bias.data.zero_()
        dead = "1.weight"
    model.get_parameter(dead).data.zero_()
    names = [name for name, weight in model.named_parameters() if weight.ndim > 1]
    inputs = random(64, 3, 4, 4).split(32)
    before = model(inputs[0]).detach()
    found = quantize_post_training_(model, names, inputs, price=1e-7)
    assert not found[dead].dequantize().any()
    torch.testing.assert_close(model(inputs[0]).detach(), before, rtol=0, atol=0.1)


def test_answers_that_cannot_be_compared_are_refused():
    class Masked(nn.Linear):
        def forward(self, inputs):
            allowed = torch.tensor([0.0, 0.0, -math.inf])
            return super().forward(inputs) + allowed

    model = Masked(4, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"'weight' alone quantised .* nan .*; .* finite logits"):
        quantize_post_training_(model, ["weight"], [random(32, 4)], price=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    quantize_post_training_(model, ["weight"], [random(32, 4)], price=1e-5, measured=False)


def test_corrected_biases_give_each_layer_the_mean_it_had():
    torch.manual_seed(0)
    before = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    after = copy.deepcopy(before).train()
    for index in (0, 3):
        after[index].weight.data += 0.1 * random(*after[index].weight.shape, seed=index)
    weights = {name: p.clone() for name, p in after.named_parameters() if p.ndim > 1}
    inputs = random(48, 3, 8, 8, seed=1)

    def means(model):
        with torch.no_grad():
            return model[0](inputs).mean((0, 2, 3)), model(inputs).mean(0)

    (stem, last), (shifted_stem, shifted_last) = means(before), means(after)
    assert float((stem - shifted_stem).abs().min()) > 1e-4
    assert float((last - shifted_last).abs().min()) > 1e-4
    reference = copy.deepcopy(before.state_dict())
    correct_biases_(after, before, inputs.split([32, 16]))
    for wanted, found in zip(means(before), means(after), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert all(torch.equal(after.get_parameter(name), weights[name]) for name in weights)
    assert all(torch.equal(before.state_dict()[name], reference[name]) for name in reference)
    assert after.training
    assert not after[0]._forward_hooks
    with pytest.raises(DataError, match="no calibration batches to correct the biases"):
        correct_biases_(after, before, [])
    with pytest.raises(ModelError, match="lacks a layer"):
        correct_biases_(after, nn.Sequential(nn.Flatten()), [inputs])


def test_sweeps_lower_the_error_of_the_output_and_its_bits_together():
    weight, inputs = random(12, 20), random(400, 20, seed=1) @ random(20, 20, seed=2)
    correlation = (inputs.T @ inputs).double() / len(inputs)
    mask = random(12, 20, seed=3) > -1
    bits, price = code_bits(torch.round(weight / 0.5), 8), 0.3
    damped = correlation + 0.01 * correlation.diagonal().mean() * torch.eye(20)

    def cost(sweeps):
        tensor = gptq(
            weight, correlation, step=0.5, mask=mask, bits=bits, price=price, sweeps=sweeps
        )
        found = tensor.dequantize()
        assert not found[~mask].any()
        error = (torch.where(mask, weight, 0.0) - found).double()
        codes = torch.round(found / 0.5).long() + 8
        return float(((error @ damped) * error).sum() + price * bits[codes][mask].sum())

    costs = [cost(sweeps) for sweeps in (0, 1, 2, 5)]
    assert costs[0] > costs[1] >= costs[2] >= costs[3]


@pytest.mark.parametrize("seed", range(6))
def test_no_sweep_costs_more_whatever_the_bits_of_codes(seed):
    weight, inputs = random(10, 12, seed=seed), random(200, 12, seed=seed + 10)
    inputs = inputs @ random(12, 12, seed=seed + 20)
    correlation = (inputs.T @ inputs).double() / len(inputs)
    mask = random(10, 12, seed=seed + 30) > -1
    bits = 10 * random(17, seed=seed + 40).abs().double()
    damped = correlation + 0.01 * correlation.diagonal().mean() * torch.eye(12)

    def cost(sweeps, price):
        found = gptq(
            weight, correlation, step=0.3, mask=mask, bits=bits, price=price, sweeps=sweeps
        ).dequantize()
        assert not found[~mask].any()
        error = (torch.where(mask, weight, 0.0) - found).double()
        codes = torch.round(found / 0.3).long() + 8
        return float(((error @ damped) * error).sum() + price * bits[codes][mask].sum())

    for price in (0.1, 0.5, 2.0):
        costs = [cost(sweeps, price) for sweeps in range(5)]
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(costs))


def test_the_neighbours_of_zero_are_choices_too():
    bits = torch.tensor([1.0, 10.0, 1.0])
    for sign in (1, -1):
        found = gptq(
            torch.tensor([[0.45 * sign]]), torch.eye(1), step=1.0, bits=bits, price=1.0
        )
        assert found.dequantize().item() == sign


def test_statistics_by_drift_hold_what_the_weights_changed_and_not_the_choice_of_batches():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    reestimate_batch_norms_(dense.eval(), [3 + random(4000, 6)])
    few = [3 + 1.2 * random(64, 6, seed=1)]
    drift = batch_norm_drift(dense, few)
    before = copy.deepcopy(dense.state_dict())
    same = copy.deepcopy(dense)
    reestimate_batch_norms_(same, few, drift=drift)
    for name, value in same.state_dict().items():
        torch.testing.assert_close(value, before[name])
    changed = copy.deepcopy(dense)
    changed[0].weight.data.mul_(2)
    changed[0].bias.data.mul_(2)
    reestimate_batch_norms_(changed, few, drift=drift)
    torch.testing.assert_close(
        changed[1].running_mean, 2 * before["1.running_mean"], rtol=0.2, atol=0.5
    )
    torch.testing.assert_close(
        changed[1].running_var, 4 * before["1.running_var"], rtol=1e-3, atol=0
    )
    with pytest.raises(ModelError, match="the drift is of a network with other batch norm"):
        reestimate_batch_norms_(nn.Sequential(nn.BatchNorm1d(6)), few, drift=drift)
    constant = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2))
    constant[0].weight.data.zero_()
    drift = batch_norm_drift(constant, few)
    assert bool(torch.isfinite(drift["1"][1]).all())


def small_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )
    reestimate_batch_norms_(model, [random(64, 3, 8, 8)])
    return model.eval()


def test_layers_are_left_as_they_were_while_each_is_measured_alone():
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    inputs = random(96, 3, 8, 8, seed=1).split(32)
    names = ["0.weight", "4.weight"]
    found = quantize_post_training_(model, names, inputs, price=1e-5)
    plain = quantize_post_training_(small_network(), names, inputs, price=1e-5, measured=False)
    for name, value in model.state_dict().items():
        expected = found[name].dequantize() if name in found else before[name]
        assert torch.equal(value, expected)
    assert any(
        not torch.equal(found[name].dequantize(), plain[name].dequantize()) for name in names
    )


def test_a_file_is_made_without_training_by_one_call(tmp_path):
    model = small_network()
    model[4].weight.data[random(10, 288, seed=4) > 0] = 0
    before = copy.deepcopy(model.state_dict())
    inputs = random(128, 3, 8, 8, seed=1).split(64)
    sizes = []
    for price in (1e-6, 1e-3):
        compressed = compress_post_training(model, inputs, price=price, examples=96)
        sizes.append(save(compressed, tmp_path / "x.fly"))
        stored = decompress(tmp_path / "x.fly")
        assert not stored["4.weight"][before["4.weight"] == 0].any()
    assert sizes[0] > 1.5 * sizes[1]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    one = compress_post_training(model, inputs, price=1e-6, layers=["4.*"])
    assert isinstance(one.tensors["0.weight"], torch.Tensor)
    with pytest.raises(ModelError, match=r"pattern 'nothing\.\*' matches no parameter"):
        compress_post_training(model, inputs, price=1e-6, layers=["nothing.*"])


@pytest.mark.parametrize("norm", [True, False])
def test_a_file_without_training_takes_inputs_and_examples(norm):
    model = small_network() if norm else nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    for none, message in (
        ([], "no calibration batches to quantise with"),
        ([random(0, 3, 8, 8)], r"calibration batch 0 holds no example; found shape \(0, 3, 8, 8\)"),
    ):
        with pytest.raises(DataError, match=message):
            compress_post_training(model, none, price=1e-6)
    for examples in (0, -1):
        with pytest.raises(ModelError, match=f"by at least 1 example; found {examples}"):
            compress_post_training(model, [random(8, 3, 8, 8)], price=1e-6, examples=examples)
