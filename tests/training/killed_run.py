"""Compress with states on disk: once without a stop, once killed in the middle of epochs."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flyweight.compression import compress
from flyweight.pruning import PruningConfig
from flyweight.quantization import QuantizationConfig
from flyweight.recipes import Recipe
from flyweight.training import TrainingConfig

TRAINING = TrainingConfig(epochs=3, learning_rate=0.05, ema_decay=0.9)
RECIPE = Recipe(
    pruning=PruningConfig(sparsity=0.7, interval=1),
    retraining=TRAINING,
    quantization=QuantizationConfig(bits=2, assignment_interval=2),
    fine_tuning=TRAINING,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1800, 10),
    )


def loader() -> DataLoader:
    """60 images of noise, shuffled."""
    images = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return DataLoader(TensorDataset(images, torch.arange(60) % 10), batch_size=20, shuffle=True)


def run(folder: Path, kill_at: str) -> None:
    def progress(text: str, done: int, total: int | None) -> None:
        if f"{text}, {done}" == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    made = compress(
        network(),
        RECIPE,
        data=loader(),
        device="cpu",
        resume=folder / "states",
        progress=progress,
    )
    (folder / "model.fly").write_bytes(made.to_bytes())


def in_a_child(folder: Path, kill_at: str) -> int:
    """The exit status of a run; it is forked, since imports take long."""
    child = os.fork()
    if not child:
        try:
            run(folder, kill_at)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folders: list[str], moments: list[str]) -> None:
    whole, broken = map(Path, folders)
    codes = [in_a_child(whole, "")]
    written = [(whole / "model.fly").exists()]
    for moment in (*moments, ""):
        codes.append(in_a_child(broken, moment))
        written.append((broken / "model.fly").exists())
    (broken / "outcome.json").write_text(json.dumps({"codes": codes, "written": written}))


if __name__ == "__main__":
    main(sys.argv[1:3], sys.argv[3:])
