"""Tests of post-training quantization to a size of the file."""

import pytest
import torch
from torch import nn

from flyweight import compress
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import ModelError
from flyweight.quantization import FileStorage, PostTrainingConfig, quantize_post_training
from flyweight.quantization.byte_search import ByteSearch, Trial


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )
    model(torch.randn(64, 3, 8, 8))
    return model.eval(), [torch.randn(64, 3, 8, 8) for _ in range(3)]


@pytest.mark.parametrize("settings", [{}, {"gptq": False}, {"measured": False}])
@pytest.mark.parametrize("target", [700, 3000])
def test_compress_post_training_gives_the_bytes_asked_for(settings, target):
    model, data = network()
    config = PostTrainingConfig(**settings)
    content = compress(model, config, data=data, target_bytes=target).to_bytes()
    assert target - max(30, 0.01 * target) <= len(content) <= target
    CompressedModel.from_bytes(content)


def test_compress_post_training_to_bytes_gives_the_same_file_again():
    model, data = network()
    contents = {
        compress(model, "post-training", data=data, target_bytes=1500).to_bytes() for _ in range(2)
    }
    assert len(contents) == 1


def test_compress_post_training_has_less_error_the_more_bytes():
    model, data = network()
    errors = []
    for target in (900, 2000, 4000):
        student, _ = quantize_post_training(model, data, PostTrainingConfig(target_bytes=target))
        errors.append((student(data[0]) - model(data[0])).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 4 * errors[2]


def test_quantize_post_training_counts_the_bytes_of_its_storage():
    model, data = network()
    for dtype in ("float32", "bfloat16"):
        storage = FileStorage(float_dtype=dtype, metadata={"note": 500 * dtype})
        config = PostTrainingConfig(target_bytes=6000)
        student, tensors = quantize_post_training(model, data, config, storage=storage)
        size = len(storage.compress(student, tensors).to_bytes())
        assert 5940 <= size <= 6000


@pytest.mark.parametrize("target", [10, 10**6])
def test_compress_post_training_refuses_bytes_that_cannot_be_had(target):
    model, data = network()
    with pytest.raises(ModelError, match=rf"file of {target:,} bytes cannot be .*from about .* to"):
        compress(model, "post-training", data=data, target_bytes=target)


def test_quantize_post_training_tells_the_progress_of_the_search():
    model, data = network()
    seen = []
    config = PostTrainingConfig(target_bytes=1200)
    quantize_post_training(model, data, config, progress=lambda *told: seen.append(told))
    trials = [told for told in seen if told[0] == "round weights (GPTQ) to 1,200 bytes"]
    assert [number for _, number, _ in trials] == list(range(1, len(trials) + 1))
    assert ("measure the sensitivity of layers", 2, 2) in seen


class Rounding:
    """Has bytes that fall with the loss per bit in jumps, and between these with the cost."""

    def __init__(self):
        self.trials = []

    def round(self, sensitivities, loss_per_bit, *, wider):
        self.trials.append((loss_per_bit, wider))
        size = 1000 if loss_per_bit < 1e-6 else 500
        return {
            "weight": CompressedTensor(torch.tensor([round(size / wider**0.5)]), torch.ones(1))
        }, {}


def test_byte_search_keeps_steps_where_bytes_jump():
    rounding = Rounding()
    search = ByteSearch(
        rounding, {"weight": torch.ones(1)}, lambda tensors: int(tensors["weight"].symbols)
    )
    found = search.within(800, {"weight": 1.0}, 1e-3)
    assert isinstance(found, Trial)
    assert 792 <= found.size <= 800
    assert found.loss_per_bit < 1e-6
    assert len(rounding.trials) < 50
