"""Training of a CIFAR-10 network into a folder."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from flyweight.cifar import ALTERNATING, NATIVE_SIZES, STANDARD, Cifar10, Split, train_resnet
from flyweight.errors import CheckpointError, RecipeError

TINY = dataclasses.replace(STANDARD, epochs=2)


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 10)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(Cifar10, "split", lambda self, which: images(32))
    data = Cifar10(images(1), images(1))
    monkeypatch.setattr("flyweight.cifar.train.load_cifar10", lambda *_, **__: data)


def train(folder, **settings):
    settings = {"config": TINY, "batch_size": 16, "device": "cpu", **settings}
    return train_resnet("resnet20", folder, **settings)


def test_train_resnet_writes_weights_card_and_history(tmp_path):
    folder = tmp_path / "run"
    card = train(folder, seed=2)
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "card.json", "history.jsonl"}
    assert json.loads((folder / "card.json").read_text())["architecture"] == "resnet20"
    assert card["parameters"] == 269_722
    assert (card["seed"], card["epochs"], card["split"]) == (2, 2, "train45k")
    assert card["image_sizes"] == ((32, 1.0),)
    assert 0 <= card["test_accuracy"] <= 1
    assert 0 <= card["validation_accuracy"] <= 1
    with pytest.raises(CheckpointError, match="finished run"):
        train(folder)


def test_train_resnet_on_all_images_writes_the_average(tmp_path):
    card = train(tmp_path, split="train50k")
    assert card["weights"] == "moving average"
    assert card["validation_accuracy"] is None


def test_train_resnet_uses_native_sizes_for_alternating_augmentation(tmp_path):
    card = train(tmp_path, augmentation="alternating")
    assert card["image_sizes"] == NATIVE_SIZES
    assert card["augmentation"] == "alternating"
    assert (ALTERNATING.epochs, ALTERNATING.learning_rate, ALTERNATING.warmup) == (150, 0.1, 0.05)


def test_train_resnet_resumes_to_the_same_weights(tmp_path):
    def stop(text, done, total):
        if text.startswith("epoch 2"):
            raise KeyboardInterrupt

    settings = {"augmentation": "alternating"}
    train(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "part", progress=stop, **settings)
    train(tmp_path / "part", resume=True, **settings)
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def test_train_resnet_refuses_a_run_without_epochs(tmp_path):
    with pytest.raises(RecipeError, match=r"training\.epochs is 0"):
        train(tmp_path, config=dataclasses.replace(TINY, epochs=0))
