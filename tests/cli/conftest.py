"""What the tests of the command line share: a folder to work in, tiny data and a runner."""

import json
import sys
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flyweight.cli import main
from flyweight.cifar import Cifar10, Split, load_cifar10
from flyweight.io import save
from flyweight.compression import compress
from flyweight.recipes import Recipe

NETWORKS = """\
import torch
from torch import nn

def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )

def empty():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

def grey():
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))

def failing():
    raise RuntimeError("no such luck")

def number():
    return 20
"""


class Result(NamedTuple):
    """What one run of the command line gave."""

    code: object
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on stdout, which must be all that was printed."""
        assert (self.code, self.err) == (0, "")
        assert self.out.count("\n") == 1
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


def tiny_network() -> nn.Module:
    names: dict[str, Any] = {}
    exec(NETWORKS, names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network: nn.Module = names["tiny"]()
    return network


@pytest.fixture(scope="session")
def tiny_data() -> Cifar10:
    """Images of noise: 60 to train on beside the 5,000 held out, and 40 to test on."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (60, 3, 32, 32), generator=generator, dtype=torch.uint8)
    train = Split(images.repeat(85, 1, 1, 1)[:5060], torch.arange(5060) % 10)
    test = Split(images[:40].flip(3), torch.arange(40) % 10)
    return Cifar10(train, test)


@pytest.fixture(scope="session")
def tiny_fly(tiny_data, tmp_path_factory) -> bytes:
    """The bytes of a small but whole ``.fly`` file."""
    path = tmp_path_factory.mktemp("fly") / "tiny.fly"
    save(compress(tiny_network(), Recipe.from_toml(RECIPE), data=tiny_data), path)
    return path.read_bytes()


RECIPE = """\
name = "tiny"
[pruning]
sparsity = 0.5
[pruning.training]
epochs = 0
[sharing.training]
epochs = 0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_data, tiny_fly):
    """The current folder of a test, with a checkpoint, a ``.fly`` file, recipes and networks."""

    def load(path=None, *, progress=None):
        return tiny_data if path is None else load_cifar10(path, progress=progress)

    monkeypatch.setattr("flyweight.proof_old.load_cifar10", load)
    monkeypatch.setattr("flyweight.cifar.train.load_cifar10", load)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != ""])
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    monkeypatch.chdir(tmp_path)
    save_file(tiny_network().state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "networks.py").write_text(NETWORKS)
    (tmp_path / "tiny.fly").write_bytes(tiny_fly)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    yield tmp_path
    sys.modules.pop("networks", None)


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run ``flyweight`` with arguments; a mistake of ours would show as another exception."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["flyweight", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return Result(code, *capsys.readouterr())

    return run
