"""Started twice by ``accelerate launch``: prune while training, and write what each process has."""

import sys
from pathlib import Path

import torch
from torch import nn

from flyweight.data import Split
from flyweight.recipes import PruningRecipe
from flyweight.stages import prune_
from flyweight.training import TrainingConfig
from flyweight.training.processes import is_main_process, launched_device


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1800, 10),
    )
    images = torch.randint(0, 256, (96, 3, 32, 32), dtype=torch.uint8)
    data = Split(images, torch.arange(96) % 10)
    training = TrainingConfig(epochs=2, batch_size=24, learning_rate=0.05, ema_decay=0.5)
    recipe = PruningRecipe(sparsity=0.7, interval=1, criterion="taylor", training=training)
    checkpoint = folder / "state.pt"
    prune_(model, recipe, data, seed=0, checkpoint=checkpoint)
    device = launched_device()
    rank = 0 if is_main_process() else 1
    assert device is not None
    torch.save(model.state_dict(), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
