"""Training towards bytes that goes on from what was quantized without training."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import flyweight as fw
from flyweight.compressed import CompressedTensor
from flyweight.errors import DataError
from flyweight.quantization import (
    PostTrainingConfig,
    QuantizationConfig,
    Quantizer,
    quantize_post_training,
    start_on_grid_,
)
from flyweight.quantization.grid_start import grid_step_of
from flyweight.recipes import Recipe
from flyweight.training import TrainingConfig

TARGET = 1100


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def batches(number=12):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(number, 16, 3, 10, 10, generator=generator)
    labels = torch.randint(0, 5, (number, 16), generator=generator)
    return list(zip(images, labels, strict=True))


def recipe(**settings):
    return Recipe(
        post_training=PostTrainingConfig(),
        quantization=QuantizationConfig(method="rate", target_bytes=TARGET, target_ramp=0.1),
        fine_tuning=TrainingConfig(epochs=4, learning_rate=0.005, distillation=0.9, **settings),
    )


def test_a_quantizer_starts_with_the_codes_found_without_training():
    model = network()
    config = PostTrainingConfig(target_bytes=1300)
    _, tensors = quantize_post_training(model, batches(), config)
    moved = copy.deepcopy(model)
    steps = start_on_grid_(moved, tensors, dead_zone=0.2)
    assert steps.keys() == tensors.keys()
    rate = QuantizationConfig(method="rate", target_bytes=900, steps=steps, bits=2)
    quantizer = Quantizer(moved, rate, steps=10)
    for name, tensor in tensors.items():
        grid = quantizer.parametrizations[name]
        assert float(grid.step) == pytest.approx(steps[name])
        codes = grid.codes_of(quantizer.weights[name])
        assert torch.equal(codes, (tensor.dequantize() / steps[name]).round().to(torch.int16))
    before = model.state_dict()
    for name, weight in moved.state_dict().items():
        if name in steps:  # nothing moves farther than to the interval of its code
            code = (tensors[name].dequantize() / steps[name]).round()
            distance = (weight - before[name]).abs()
            assert float((distance - (before[name] - code * steps[name]).abs()).max()) < 1e-6
        else:
            assert torch.equal(weight, before[name])


def test_steps_that_would_take_too_many_codes_are_larger():
    rate = QuantizationConfig(method="rate", target_bytes=900, steps={"*": 1e-5})
    quantizer = Quantizer(network(), rate, steps=10)
    for name, weight in quantizer.weights.items():
        grid = quantizer.parametrizations[name]
        seen = grid.codes_of(weight) * grid.step
        assert float((seen - weight.detach()).abs().max()) <= 0.71 * float(grid.step)


@pytest.mark.parametrize(
    ("levels", "step"),
    [
        ([-0.75, 0.25, 0.5], 0.25),
        ([2.0, 5.0], 1.0),
        ([0.7], 0.7),
        ([1.0, 1.45, 1.9, 2.83], None),
        ([float("nan"), 1.0], None),
        ([], None),
    ],
)
def test_steps_are_found_from_levels(levels, step):
    found = grid_step_of(torch.tensor(levels))
    assert found == (None if step is None else pytest.approx(step, rel=1e-3))


def test_weights_with_other_levels_or_with_scales_stay_as_they_are():
    model = nn.Linear(4, 2)
    before = copy.deepcopy(model.state_dict())
    odd = CompressedTensor(
        torch.ones(2, 4, dtype=torch.int16), torch.tensor([1.0, 1.45, 1.9, 2.83])
    )
    scaled = CompressedTensor(
        torch.ones(2, 4, dtype=torch.int16), torch.tensor([1.0]), torch.tensor([1.0, 2.0])
    )
    for tensor in (odd, scaled):
        assert start_on_grid_(model, {"weight": tensor}, dead_zone=0.2) == {}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_recipe_with_both_ends_with_its_bytes_and_resumes_with_the_same(tmp_path):
    phases = []

    def stop(phase, done, total):
        phases.append(phase)
        if "epoch 3 of 4" in phase:
            raise KeyboardInterrupt

    whole = fw.compress(network(), recipe(), data=batches(), device="cpu")
    assert 0.99 * TARGET <= whole.report.file_bytes <= TARGET
    with pytest.raises(KeyboardInterrupt):
        fw.compress(
            network(), recipe(), data=batches(), device="cpu", resume=tmp_path, progress=stop
        )
    assert any("GPTQ" in phase for phase in phases)
    phases.clear()
    resumed = fw.compress(
        network(),
        recipe(),
        data=batches(),
        device="cpu",
        resume=tmp_path,
        progress=lambda phase, done, total: phases.append(phase),
    )
    assert not any("GPTQ" in phase for phase in phases)  # was kept
    assert resumed.to_bytes() == whole.to_bytes()
    fw.compression.remove_states(tmp_path, resumed.report.run)
    assert not Path(tmp_path).exists()


def test_a_size_that_takes_training_starts_from_the_model_as_given():
    model = network()
    with pytest.raises(fw.ModelError):
        quantize_post_training(model, batches(), PostTrainingConfig(target_bytes=400))
    small = Recipe(
        post_training=PostTrainingConfig(target_bytes=400),
        quantization=QuantizationConfig(method="rate", target_bytes=900),
        fine_tuning=TrainingConfig(epochs=3, learning_rate=0.005),
    )
    compressed = fw.compress(model, small, data=batches(), device="cpu")
    assert 880 <= compressed.report.file_bytes <= 900


def test_what_training_leaves_out_is_not_moved():
    left = dataclasses.replace(
        recipe(), quantization=dataclasses.replace(recipe().quantization, exclude=("8.weight",))
    )
    model = network()
    compressed = fw.compress(
        model,
        dataclasses.replace(left, fine_tuning=TrainingConfig(epochs=0), float_dtype="float32"),
        data=batches(),
        device="cpu",
    )
    assert torch.equal(compressed.state_dict()["8.weight"], model.state_dict()["8.weight"])


def test_bad_calibration_data_is_not_taken_for_such_a_size():
    bad = [(images * float("nan"), labels) for images, labels in batches()]
    with pytest.raises((DataError, fw.ModelError)):
        fw.compress(network(), recipe(), data=bad, device="cpu")
