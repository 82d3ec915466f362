"""What the tests of several labs need: noise for data, and a folder for what they write."""

import pytest
import torch

from flyweight.cifar import Cifar10, Split
from labs import rows

HELD_OUT = 5000  # of the training images


@pytest.fixture
def noise():
    """Makes CIFAR-10 of noise, with so many images to train on beside those held out."""

    def make(training, tested=20):
        generator = torch.Generator().manual_seed(0)
        number = max(training, tested)
        images = torch.randint(256, (number, 3, 32, 32), generator=generator, dtype=torch.uint8)
        total = HELD_OUT + training
        again = torch.arange(total) % number
        train = Split(images[again], torch.arange(total) % 10)
        return Cifar10(train, Split(images[:tested], torch.arange(tested) % 10))

    return make


@pytest.fixture
def borrowed(tmp_path, monkeypatch):
    """Gives a lab some data, and results, document and states in ``tmp_path``."""

    def lend(lab, data):
        document = tmp_path / lab.DOCUMENT.name
        document.write_text(lab.DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(lab, "DOCUMENT", document)
        monkeypatch.setattr(lab, "load_cifar10", lambda path: data)
        for module in (lab, rows):
            monkeypatch.setattr(module, "RESULTS", tmp_path, raising=False)
        monkeypatch.setattr(rows, "STATES", tmp_path / "states")
        monkeypatch.setattr("labs.teacher.STATES", tmp_path / "states")
        return tmp_path

    return lend
