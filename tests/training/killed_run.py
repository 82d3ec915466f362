"""Compresses with states on disk, whole and killed in the middle of epochs."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

from flyweight.cifar import Cifar10, Split
from flyweight.io import save
from flyweight.compression import compress
from flyweight.recipes import PruningConfig, Recipe, QuantizationConfig
from flyweight.training import TrainingConfig

TRAINING = TrainingConfig(epochs=3, batch_size=20, learning_rate=0.05, ema_decay=0.9)
RECIPE = Recipe(
    pruning=PruningConfig(sparsity=0.7, interval=1, training=TRAINING),
    sharing=QuantizationConfig(bits=2, interval=2, training=TRAINING),
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


def images() -> Cifar10:
    """60 images of noise to train on, beside the 5,000 that are held out."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (60, 3, 32, 32), generator=generator, dtype=torch.uint8)
    train = Split(pixels.repeat(85, 1, 1, 1)[:5060], torch.arange(5060) % 10)
    return Cifar10(train, Split(pixels[:10], torch.arange(10)))


def run(folder: Path, kill_at: str) -> None:
    def progress(text: str, done: int, total: int | None) -> None:
        if f"{text}, {done}" == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    made = compress(
        network(),
        RECIPE,
        data=images(),
        device="cpu",
        resume_folder=folder / "states",
        progress=progress,
    )
    save(made, folder / "model.fly")


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
    (broken / "told.json").write_text(json.dumps({"codes": codes, "written": written}))


if __name__ == "__main__":
    main(sys.argv[1:3], sys.argv[3:])
