"""Predictions and accuracy of image classifiers."""

import pytest
import torch
from torch import nn

from flyweight.cifar import Split, accuracy, create_model, normalize, predict
from flyweight.errors import ModelError


def images(count):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 10)


def test_predict_gives_the_logits_of_batches_of_250():
    model, data = create_model("resnet20").eval(), images(260).images
    with torch.no_grad():
        expected = [
            model(normalize(part).contiguous(memory_format=torch.channels_last))
            for part in (data[:250], data[250:])
        ]
    assert torch.equal(predict(model, data), torch.cat(expected))


def test_accuracy_counts_hits_and_restores_modes():
    model, data = create_model("resnet20").train(), images(30)
    model.bn1.eval()
    labels = predict(model, data.images).argmax(1)
    labels[:6] = (labels[:6] + 1) % 10
    assert accuracy(model, Split(data.images, labels)) == pytest.approx(24 / 30)
    assert model.training
    assert not model.bn1.training


def test_accuracy_of_a_module_without_parameters():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(10)[[3]].expand(len(x), 10)

    assert accuracy(Constant(), images(20)) == 0.1


@pytest.mark.parametrize("model", [nn.Linear(7, 2), nn.Bilinear(1, 1, 1)])
def test_predict_refuses_models_of_other_inputs(model):
    with pytest.raises(ModelError, match=r"failed on images of shape \(3, 32, 32\)"):
        predict(model, images(2).images)
