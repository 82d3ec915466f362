"""The examples run and reach what they say."""

import copy
import runpy
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flyweight import PruningConfig, prepare, summarize_sparsity

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_loop(capsys):
    runpy.run_path(str(EXAMPLES / "own_loop.py"))
    lines = capsys.readouterr().out.splitlines()
    assert "sparsity 0.900" in lines[9]
    assert float(lines[9].rpartition(" ")[2]) > 0.97
    assert lines[-1].split()[0] == "total"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("package", "name"),
    [("transformers", "huggingface_trainer"), ("pytorch_lightning", "lightning_callback")],
)
def test_callbacks(package, name):
    pytest.importorskip(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
        pruned = example["main"]()
    assert summarize_sparsity(pruned).sparsity == pytest.approx(0.5, abs=0.002)


def interrupted_and_resumed(package, name, go_on):
    """Sparsity after each of 20 steps, of a run that goes on in fresh objects after the tenth."""
    pytest.importorskip(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = runpy.run_path(str(EXAMPLES / f"{name}.py"))["PruningCallback"]
    torch.manual_seed(0)
    network = nn.Linear(20, 20)
    found = []

    def start():
        return callback(prepare(network, PruningConfig(sparsity=0.8, interval=1), steps=20))

    now = start()
    for step in range(20):
        if step == 10:
            stopped, now = now, start()
            now.prepared.model.load_state_dict(copy.deepcopy(stopped.prepared.model.state_dict()))
            go_on(stopped, now)
        now.prepared.step()
        found.append(now.prepared.sparsity)
    assert int((now.prepared.finalize().weight == 0).sum()) == 320
    return found


@pytest.mark.filterwarnings("ignore")
def test_the_lightning_callback_goes_on_where_it_stopped():
    found = interrupted_and_resumed(
        "pytorch_lightning",
        "lightning_callback",
        lambda stopped, now: now.load_state_dict(stopped.state_dict()),
    )
    assert found == sorted(found)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_callback_goes_on_where_it_stopped(tmp_path):
    args, step = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=10)
    (tmp_path / "checkpoint-10").mkdir()

    def go_on(stopped, now):
        stopped.on_save(args, step, None)
        now.on_train_begin(args, SimpleNamespace(global_step=0), None)
        assert now.prepared.number == 0
        now.on_train_begin(args, step, None)

    found = interrupted_and_resumed("transformers", "huggingface_trainer", go_on)
    assert found == sorted(found)
