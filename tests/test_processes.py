"""Processes: environment of a launcher, and process groups of torch.distributed."""

import json
import subprocess
import sys

import pytest
import torch

from flyweight.errors import FlyweightError
from flyweight.processes import is_main_process, launched_device, of_first_process

# Two processes without Accelerate, each with its own calibration data.
PROGRAM = """
import json, sys
import torch
from torch import nn
from flyweight.processes import is_main_process, of_first_process, share_buffers_, wait_for_all
from flyweight.pruning import Pruner, PruningConfig

rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2
)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
torch.manual_seed(rank)
data = [(torch.randn(8, 12), torch.randint(0, 4, (8,)))]
found = {"main": is_main_process()}
for criterion in ("taylor", "fisher", lambda weight: torch.rand(weight.shape)):
    config = PruningConfig(sparsity=0.5, criterion=criterion, schedule="one-shot")
    masks = Pruner(model, config, steps=0, data=data).masks
    key = criterion if isinstance(criterion, str) else "function"
    found[key] = [mask.int().flatten().tolist() for mask in masks.values()]
norm = nn.BatchNorm1d(3)
norm.running_mean.fill_(rank + 1)
share_buffers_(norm)
found["mean"] = norm.running_mean.tolist()
found["strided"] = of_first_process((torch.arange(4).view(2, 2) + rank).T).tolist()
wait_for_all()
print(json.dumps(found))
torch.distributed.destroy_process_group()
"""


def test_masks_are_those_of_the_first_process_in_any_process_group(tmp_path):
    store = str(tmp_path / "store")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), store],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    first, second = (json.loads(out) for out, _ in outputs)
    assert (first.pop("main"), second.pop("main")) == (True, False)
    assert first == second
    assert first["mean"] == [1, 1, 1]
    assert first["strided"] == [[0, 2], [1, 3]]
    for criterion in ("taylor", "fisher", "function"):
        zeros = sum(mask.count(0) for mask in first[criterion])
        assert zeros == 80


def test_of_first_process_returns_the_tensor_of_a_single_process():
    tensor = torch.ones(2)
    assert of_first_process(tensor) is tensor
    assert launched_device() is None


@pytest.mark.parametrize(
    ("rank", "expected"), [(None, True), ("", True), ("0", True), ("3", False)]
)
def test_is_main_process_reads_the_rank(monkeypatch, rank, expected):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_main_process() is expected


@pytest.mark.parametrize(
    ("variable", "call"), [("RANK", is_main_process), ("WORLD_SIZE", launched_device)]
)
def test_malformed_environment_is_refused_in_one_sentence(monkeypatch, variable, call):
    monkeypatch.setenv(variable, "x")
    with pytest.raises(FlyweightError, match=f"variable {variable} is 'x', not a number; unset it"):
        call()
