"""Tests of second-order rounding."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from flyweight import _native
from flyweight.errors import ModelError
from flyweight.quantization import code_bits, gptq, gptq_rounding, input_correlations, rdoq


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_gptq_changes_the_output_less_than_rounding():
    mixing = random(16, 16, seed=5)
    inputs = random(400, 16) @ mixing
    weight, step = random(8, 16, seed=6), 0.4
    correlation = (inputs.T @ inputs / 400).double()
    plain = rdoq(weight, step=step, loss_per_bit=0.0)
    nearest = torch.round(weight / step) * step
    second = gptq(weight, correlation, step=step).dequantize()
    errors = [float((inputs @ (w - weight).T).square().mean()) for w in (nearest, second)]
    assert errors[1] < 0.8 * errors[0]
    assert torch.allclose(second / step, torch.round(second / step), atol=1e-5)
    identity = torch.eye(16, dtype=torch.float64)
    alone = gptq(weight, identity, step=step)
    torch.testing.assert_close(alone.dequantize(), nearest)
    assert torch.equal(alone.symbols, plain.symbols)


def test_gptq_keeps_zeros_and_saves_bits():
    inputs = random(300, 18) @ random(18, 18, seed=7)
    weight = random(8, 2, 3, 3, seed=8)
    mask = random(8, 2, 3, 3, seed=9) > 0
    correlation = (inputs.T @ inputs / 300).double()
    free = gptq(weight, correlation, step=0.2, mask=mask)
    assert not free.dequantize()[~mask].any()
    assert free.dequantize()[mask].any()
    bits = code_bits(torch.round(free.dequantize() / 0.2), 20)
    at_cost = gptq(weight, correlation, step=0.2, mask=mask, bits=bits, loss_per_bit=2.0)
    assert not at_cost.dequantize()[~mask].any()

    def bits_of(tensor):
        return float(bits[(torch.round(tensor.dequantize() / 0.2) + 20).long()].sum())

    assert bits_of(at_cost) < 0.95 * bits_of(free)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": torch.ones(2)}, r"has two dimensions or more; found shape \(2,\)"),
        ({"correlation": torch.full((2, 2), math.nan)}, "correlation .* not positive definite"),
        ({"correlation": -torch.eye(2)}, "correlation .* not positive definite"),
        ({"correlation": torch.ones(2, 2), "damping": 0.0}, "not positive definite.*damping"),
        ({"damping": -0.1}, "damping are finite and 0 or more; found 0.0 and -0.1"),
        ({"loss_per_bit": math.nan}, "damping are finite and 0 or more; found nan and 0.01"),
        ({"bits": torch.ones(4)}, r"an odd number of them; found shape \(4,\)"),
        ({"bits": torch.ones(1, 3)}, r"an odd number of them; found shape \(1, 3\)"),
        ({"step": math.inf}, "a step is above 0 and finite; found inf"),
    ],
)
def test_gptq_refuses_impossible_arguments(settings, message):
    given = {"weight": torch.ones(2, 2), "correlation": torch.eye(2), "step": 1.0, **settings}
    with pytest.raises(ModelError, match=message):
        gptq(given.pop("weight"), given.pop("correlation"), **given)


def test_gptq_sweeps_lower_error_and_bits_together():
    weight, inputs = random(12, 20), random(400, 20, seed=1) @ random(20, 20, seed=2)
    correlation = (inputs.T @ inputs).double() / len(inputs)
    mask = random(12, 20, seed=3) > -1
    bits, loss_per_bit = code_bits(torch.round(weight / 0.5), 8), 0.3
    damped = correlation + 0.01 * correlation.diagonal().mean() * torch.eye(20)

    def cost(sweeps):
        tensor = gptq(
            weight,
            correlation,
            step=0.5,
            mask=mask,
            bits=bits,
            loss_per_bit=loss_per_bit,
            sweeps=sweeps,
        )
        found = tensor.dequantize()
        assert not found[~mask].any()
        error = (torch.where(mask, weight, 0.0) - found).double()
        codes = torch.round(found / 0.5).long() + 8
        return float(((error @ damped) * error).sum() + loss_per_bit * bits[codes][mask].sum())

    costs = [cost(sweeps) for sweeps in (0, 1, 2, 5)]
    assert costs[0] > costs[1] >= costs[2] >= costs[3]


@pytest.mark.parametrize("seed", range(6))
def test_gptq_sweeps_never_cost_more(seed):
    weight, inputs = random(10, 12, seed=seed), random(200, 12, seed=seed + 10)
    inputs = inputs @ random(12, 12, seed=seed + 20)
    correlation = (inputs.T @ inputs).double() / len(inputs)
    mask = random(10, 12, seed=seed + 30) > -1
    bits = 10 * random(17, seed=seed + 40).abs().double()
    damped = correlation + 0.01 * correlation.diagonal().mean() * torch.eye(12)

    def cost(sweeps, loss_per_bit):
        found = gptq(
            weight,
            correlation,
            step=0.3,
            mask=mask,
            bits=bits,
            loss_per_bit=loss_per_bit,
            sweeps=sweeps,
        ).dequantize()
        assert not found[~mask].any()
        error = (torch.where(mask, weight, 0.0) - found).double()
        codes = torch.round(found / 0.3).long() + 8
        return float(((error @ damped) * error).sum() + loss_per_bit * bits[codes][mask].sum())

    for loss_per_bit in (0.1, 0.5, 2.0):
        costs = [cost(sweeps, loss_per_bit) for sweeps in range(5)]
        assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(costs))


def test_gptq_tries_the_neighbors_of_zero():
    bits = torch.tensor([1.0, 10.0, 1.0])
    for sign in (1, -1):
        found = gptq(
            torch.tensor([[0.45 * sign]]), torch.eye(1), step=1.0, bits=bits, loss_per_bit=1.0
        )
        assert found.dequantize().item() == sign


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gptq_rounds_groups_as_each_alone(memory_format):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3).to(memory_format=memory_format)
    inputs = random(24, 6, 9, 9).cumsum(1)
    correlations = input_correlations(nn.Sequential(layer), ["0.weight"], inputs.split(8))
    found = correlations["0.weight"]
    assert found.shape == (3, 18, 18)
    step, bits = 0.05, code_bits(torch.round(layer.weight.detach() / 0.05), 8)
    settings = {"step": step, "bits": bits, "loss_per_bit": 1e-3, "damping": 0.0, "sweeps": 2}
    together = gptq(layer.weight, found, **settings).dequantize()
    for group in range(3):
        alone = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        weight = layer.weight[3 * group : 3 * group + 3]
        images = inputs[:, 2 * group : 2 * group + 2]
        expected = input_correlations(nn.Sequential(alone), ["0.weight"], [images])["0.weight"]
        torch.testing.assert_close(found[group], expected, rtol=1e-4, atol=1e-4)
        rounded = gptq(weight, found[group], **settings).dequantize()
        assert torch.equal(together[3 * group : 3 * group + 3], rounded)


@pytest.mark.parametrize("groups", [3, 6])
def test_gptq_changes_the_output_less_in_groups(groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 12, 3, padding=1, groups=groups, bias=False)
    inputs = nn.functional.avg_pool2d(random(32, 6, 11, 11), 3, 1)  # neighbors are alike
    correlation = input_correlations(nn.Sequential(layer), ["0.weight"], [inputs])["0.weight"]
    weight, step = layer.weight.detach().clone(), 0.1
    second = gptq(weight, correlation, step=step).dequantize()

    def error(other):
        with torch.no_grad():
            layer.weight.copy_(weight - other)
            return float(layer(inputs).square().mean())

    assert error(second) < 0.8 * error(torch.round(weight / step) * step)


@pytest.mark.parametrize("shape", [(3, 3), (3, 2, 2), (0, 2, 2), (1, 1, 2, 2), (2,)])
def test_gptq_refuses_a_correlation_of_another_shape(shape):
    with pytest.raises(ModelError, match=r"correlation has shape .* weight has 2 rows of 2 col"):
        gptq(torch.ones(2, 2), torch.ones(shape), step=1.0)


@pytest.mark.parametrize("sweeps", [0, 2])
def test_gptq_gives_the_same_in_blocks_of_columns(monkeypatch, sweeps):
    weight, inputs = random(6, 50, seed=1), random(200, 50, seed=2) @ random(50, 50, seed=3)
    correlation = (inputs.T @ inputs).double() / 200
    bits = code_bits(torch.round(weight / 0.3), 20)
    found = []
    for block in (1000, 7):
        monkeypatch.setattr(gptq_rounding, "_BLOCK", block)
        settings = {"step": 0.3, "bits": bits, "loss_per_bit": 0.1, "sweeps": sweeps}
        found.append(gptq(weight, correlation, **settings).dequantize())
    assert torch.equal(*found)


def reference_codes(weight, correlation, step, bits, loss_per_bit, damping, sweeps):
    """The algorithm of `gptq`, one column at a time, as codes."""
    rows, columns = weight.double(), weight.shape[1]
    hessian = correlation + damping * correlation.diagonal().mean() * torch.eye(columns).double()
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    largest, kept = len(bits) // 2, weight != 0

    def chosen(target, column, curvature, present):
        nearest = torch.round(target / step)
        codes = torch.stack([nearest, nearest - 1, nearest + 1, 0 * nearest, present])
        codes = codes.clamp(-largest, largest)
        cost = loss_per_bit / (curvature * step**2) * bits[(codes + largest).long()]
        best = ((target / step - codes) ** 2 + cost).argmin(0)
        return torch.where(kept[:, column], codes.gather(0, best[None])[0], 0.0)

    left, codes = rows.clone(), torch.zeros_like(rows)
    for column in range(columns):
        pivot, target = factor[column, column], left[:, column].clone()
        codes[:, column] = chosen(target, column, pivot**-2, torch.zeros_like(target))
        errors = (target - codes[:, column] * step) / pivot
        left -= errors[:, None] * factor[column]
    for _ in range(sweeps):
        for column in range(columns):
            curvature, present = hessian[column, column], codes[:, column].clone()
            pull = (rows - codes * step) @ hessian[:, column]
            target = present * step + pull / curvature
            codes[:, column] = chosen(target, column, curvature, present)
    return codes


@pytest.mark.parametrize("sweeps", [0, 1, 3])
@pytest.mark.parametrize("loss_per_bit", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (19, 150), (40, 300)])
def test_gptq_chooses_as_one_column_at_a_time(shape, loss_per_bit, sweeps):
    columns = shape[1]
    weight, inputs = random(*shape, seed=1), random(2 * columns + 9, columns, seed=2)
    weight[random(*shape, seed=4) > 1] = 0
    inputs = inputs @ random(columns, columns, seed=3)
    correlation = (inputs.T @ inputs).double() / len(inputs)
    step = 0.4
    bits = code_bits(torch.round(weight / step).clamp(-5, 5), 5)  # some weights are beyond
    expected = reference_codes(weight, correlation, step, bits, loss_per_bit, 0.01, sweeps)
    settings = {"step": step, "bits": bits, "loss_per_bit": loss_per_bit, "sweeps": sweeps}
    found = gptq(weight, correlation, **settings).dequantize()
    assert torch.equal(torch.round(found / step), expected.float())


def test_gptq_gives_the_same_in_pieces_of_rows(monkeypatch):
    weight, inputs = random(12, 2, 5, seed=1), random(200, 10, seed=2) @ random(10, 10, seed=3)
    correlation = (inputs.T @ inputs).double() / 200
    groups = torch.stack([correlation, 2 * correlation, correlation + 0.1])
    bits = code_bits(torch.round(weight / 0.3), 20)
    for given in (correlation, groups):
        found = []
        for piece in (1 << 22, 40):
            monkeypatch.setattr(gptq_rounding, "_PIECE", piece)
            settings = {"step": 0.3, "bits": bits, "loss_per_bit": 0.1, "sweeps": 1}
            found.append(gptq(weight, given, **settings).dequantize())
        assert torch.equal(*found)


def test_native_gptq_refuses_buffers_that_do_not_match():
    def run(**changed):
        given = {
            "matrix": np.eye(4),
            "kept": np.ones(12, np.uint8),
            "bits": np.zeros(5),
            "state": np.zeros((3, 4)),
            "codes": np.zeros((3, 4)),
            "changes": np.zeros((3, 2)),
            "rows": 3,
            "columns": 4,
            "start": 2,
            "worth": 0.0,
        }
        for loop in (_native.gptq_first, _native.gptq_sweep):
            loop(*(given | changed).values())

    run()
    run(bits=None)
    for changed in (
        {"matrix": np.eye(3)},
        {"kept": np.ones(11, np.uint8)},
        {"bits": np.zeros(4)},
        {"state": np.zeros((2, 4))},
        {"codes": np.zeros((3, 5))},
        {"changes": np.zeros((3, 3))},
        {"changes": np.zeros(7)},
        {"rows": 0},
        {"rows": 2},
        {"columns": 5},
        {"columns": -4},
        {"start": 3},
        {"start": -1},
    ):
        with pytest.raises(ValueError, match="buffers do not match"):
            run(**changed)
