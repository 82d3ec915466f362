"""The task of CIFAR-10, and imports that stay light."""

import json
import subprocess
import sys

import pytest
import torch

from flyweight import cifar
from flyweight.cifar import Cifar10, Split, accuracy, create_model


@pytest.fixture
def small(monkeypatch):
    """A data set of 5,060 training images, 60 of which are not held out, and 20 test images."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (60, 3, 32, 32), generator=generator, dtype=torch.uint8)
    train = Split(pixels.repeat(85, 1, 1, 1)[:5060], torch.arange(5060) % 10)
    data = Cifar10(train, Split(pixels[:20], torch.arange(20) % 10))
    monkeypatch.setattr("flyweight.cifar.classification.load_cifar10", lambda *_, **__: data)
    return data


def test_task_gives_training_batches_and_test_accuracy(small):
    found = cifar.task(device="cpu")
    assert {*found} == {"data", "evaluate"}
    assert found["data"].batch_size == 128
    assert len(found["data"].split) == 60
    model = create_model("resnet20")
    assert found["evaluate"](model) == accuracy(model, small.test)


def test_task_evaluates_on_validation_images_if_asked(small):
    class Zero(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return torch.zeros(len(x), 10)

    seen = []
    assert cifar.task(device="cpu", evaluate_on="validation")["evaluate"](Zero()) == 0.1
    assert sum(seen) == 5000


def test_task_takes_split_batch_size_and_seed(small):
    data = cifar.task(device="cpu", split="train50k", batch_size=100, seed=3)["data"]
    assert (len(data.split), data.batch_size, data.seed) == (5060, 100, 3)


def test_importing_cifar_is_light():
    program = "import flyweight.cifar, json, sys; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert not loaded & {"PIL", "accelerate", "matplotlib", "rich", "typer"}
