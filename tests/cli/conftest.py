"""A folder with a network, its task, a checkpoint and a ``.fly`` file, and a runner of commands."""

import json
import sys
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import flyweight
from flyweight.cli import main

NETWORKS = """\
import sys

import torch
from torch import nn

calls = []


def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )


def batches(number, seed):
    draw = torch.Generator().manual_seed(seed)
    shape = (20, 3, 12, 12)
    return [(torch.randn(shape, generator=draw), torch.arange(20) % 10) for _ in range(number)]


def evaluate(model):
    calls.append("evaluate")
    pairs = batches(2, 1)
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).float().mean() for images, labels in pairs]
    return float(sum(right) / 2)


def task():
    return {"data": batches(3, 0), "evaluate": evaluate}


def seeded_task(seed, device):
    calls.append((seed, device))
    return task()


def unlabeled():
    return {"data": [images for images, _ in batches(3, 0)]}


def odd_task():
    return {"data": [], "metric": evaluate}


def list_task():
    return [1]


def leaving_task():
    sys.exit(0)


def failing_task():
    raise ValueError("no such luck")


def leaving():
    sys.exit(0)


def empty():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def failing():
    raise RuntimeError("no such luck")


def number():
    return 20
"""

RECIPE = """\
name = "tiny"
[pruning]
sparsity = 0.5
[retraining]
epochs = 0
[quantization]
bits = 3
[fine_tuning]
epochs = 0
"""


class Result(NamedTuple):
    """What one run of the command line gave."""

    code: object
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on stdout, which must be all that was printed there."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


def _names() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(NETWORKS, names)
    return names


def tiny_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network: nn.Module = _names()["tiny"]()
    return network.eval()


@pytest.fixture(scope="session")
def tiny_fly(tmp_path_factory) -> bytes:
    """The bytes of a small but whole ``.fly`` file."""
    path = tmp_path_factory.mktemp("fly") / "tiny.fly"
    recipe = flyweight.Recipe.from_toml(RECIPE)
    data = _names()["task"]()["data"]
    flyweight.save(flyweight.compress(tiny_network(), recipe, data=data, device="cpu"), path)
    return path.read_bytes()


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """An empty current folder, from which modules are imported anew."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != ""])
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("networks", None)


@pytest.fixture
def folder(empty_folder, tiny_fly):
    """The current folder of a test, with files for every command."""
    save_file(tiny_network().state_dict(), empty_folder / "tiny.safetensors")
    (empty_folder / "networks.py").write_text(NETWORKS)
    (empty_folder / "tiny.fly").write_bytes(tiny_fly)
    (empty_folder / "tiny.toml").write_text(RECIPE)
    return empty_folder


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run ``flyweight`` with arguments; an error that escapes would show as an exception."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["flyweight", *arguments])
        capsys.readouterr()
        code: object = 0
        stdout = sys.stdout
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            if sys.stdout is not stdout:
                sys.stdout.close()
            sys.stdout = stdout
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli):
    """Run a command that must be refused without a change of any file; return its sentence."""

    def run(*arguments: str) -> str:
        before = contents()
        result = cli(*arguments, "--quiet")
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("flyweight: ")
        assert result.err.index("\n") == len(result.err) - 1
        assert "Traceback" not in result.err
        assert contents() == before
        return result.err

    return run


def contents() -> dict[str, bytes]:
    """Every file below the current folder, and what is in it."""
    from pathlib import Path

    files = [
        path for path in Path().rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    return {str(path): path.read_bytes() for path in files}
