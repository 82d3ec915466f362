"""Tests of the correlation of the inputs of layers."""

import pytest
import torch
from torch import nn

from flyweight.errors import DataError, ModelError
from flyweight.quantization import input_correlations, input_statistics


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
def test_input_correlations_give_the_error_of_the_output(layer):
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


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, stride=2, padding=1),
        nn.Conv1d(4, 6, 4, dilation=2, padding="same", groups=2),
        nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(4, 6, (4, 3), dilation=2, padding="same", groups=2),
        nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect", groups=4),
    ],
)
def test_input_correlations_give_the_error_of_the_output_in_groups_and_one_dimension(layer):
    spatial = len(layer.kernel_size)
    inputs = random(8, 4, *[9] * spatial)
    found = input_correlations(nn.Sequential(layer), ["0.weight"], inputs.split(4))["0.weight"]
    change = random(*layer.weight.shape, seed=3) * 0.1
    with torch.no_grad():
        plain = layer(inputs)
        layer.weight.add_(change)
        error = (layer(inputs) - plain).square()
    expected = float(error.sum() / (error.numel() / layer.out_channels))
    delta = change.flatten(1).double().view(*found.shape[:-2], -1, found.shape[-1])
    assert float(((delta @ found) * delta).sum()) == pytest.approx(expected, rel=1e-3)


def test_input_correlations_leave_out_unknown_and_shared_layers():
    class Turned(nn.Linear):
        def forward(self, inputs):
            return inputs @ self.weight

    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.low = nn.Parameter(torch.ones(4, 4))

    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Turned(4, 4), Adapted())
    tied[1].weight = tied[0].weight
    names = ["0.weight", "2.weight", "3.weight", "3.low"]
    assert input_correlations(tied, names, [random(8, 4)]).keys() == {"3.weight"}
    twice = nn.Sequential(layer := nn.Linear(4, 4), layer)
    assert input_correlations(twice, ["0.weight"], [random(8, 4)]).keys() == {"0.weight"}


def test_input_correlations_refuse_unknown_names_and_no_batches():
    model = nn.Sequential(nn.Linear(2, 2))
    for name in ("1.weight", "0.wait"):
        with pytest.raises(ModelError, match=f"no tensor named '{name}'"):
            input_correlations(model, [name], [])
    with pytest.raises(DataError, match="no calibration batches to run the model on"):
        input_correlations(model, ["0.weight"], [])


def test_input_correlations_unfold_few_examples_at_a_time(monkeypatch):
    model, inputs = nn.Sequential(nn.Conv2d(3, 4, 3)), random(10, 3, 8, 8)
    whole = input_correlations(model, ["0.weight"], [inputs])["0.weight"]
    monkeypatch.setattr(input_statistics, "_UNFOLDED_BYTES", 2 * 3 * 64 * 9 * 4)
    parts = input_correlations(model, ["0.weight"], [inputs])["0.weight"]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_input_correlations_take_mappings():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, values, scale):
            return self.layer(values * scale)

    values, scale = random(8, 3), random(8, 1, seed=1)
    found = input_correlations(Named(), ["layer.weight"], [{"values": values, "scale": scale}])
    inputs = (values * scale).double()
    torch.testing.assert_close(found["layer.weight"], inputs.T @ inputs / 8, rtol=1e-5, atol=1e-6)
