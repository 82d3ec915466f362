"""Started twice, as by ``accelerate launch``: prune and share while training."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from flyweight.cifar import Split
from flyweight.own_loop_old import prepare
from flyweight.recipes import PruningConfig, QuantizationConfig
from flyweight.pruning import prune_
from flyweight.quantization import quantize_
from flyweight.training import TrainingConfig, choose_device, is_main_process

STEPS = 6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1800, 10),
    )


def our_loop(
    checkpoint: Path, device: torch.device, pattern: str = "weights"
) -> dict[str, torch.Tensor]:
    model = network()
    images = torch.randint(0, 256, (96, 3, 32, 32), dtype=torch.uint8)
    data = Split(images, torch.arange(96) % 10).to(device)
    training = TrainingConfig(epochs=2, batch_size=24, learning_rate=0.05, ema_decay=0.5)
    recipe = PruningConfig(
        sparsity=0.7, interval=1, criterion="taylor", pattern=pattern, training=training
    )
    names = prune_(model, recipe, data, seed=0, checkpoint=checkpoint)
    quantize_(model, names, QuantizationConfig(bits=2, interval=1, training=training), data, seed=1)
    return model.state_dict()


def loop_of_your_own(accelerator: Accelerator) -> list[dict[str, torch.Tensor]]:
    """Masks and dense weights after each step; every process has images of its own."""
    recipe = PruningConfig(sparsity=0.7, ramp=0.8, interval=1)
    prepared = prepare(network(), recipe, steps=STEPS)
    optimizer = torch.optim.AdamW(prepared.model.parameters(), 0.01)
    joined, optimizer = accelerator.prepare(prepared.model, optimizer)
    seen = []
    for step in range(STEPS):
        torch.manual_seed(2 * step + accelerator.process_index)
        loss = F.cross_entropy(joined(torch.randn(8, 3, 32, 32)), torch.randint(0, 10, (8,)))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        prepared.step()
        parameters = {name: p.detach().clone() for name, p in prepared.model.named_parameters()}
        masks = {f"mask of {name}": mask for name, mask in prepared.masks.items()}
        seen.append({**parameters, **masks, "loss": loss.detach()})
    return seen


def main(folder: Path) -> None:
    device = choose_device("auto")  # the first that asks who is there
    accelerator = Accelerator()
    outcome = {
        "processes": accelerator.num_processes,
        "our loop": our_loop(folder / "state.pt", device),
        "filters": our_loop(folder / "filters.pt", device, "filters"),
        "a loop of your own": loop_of_your_own(accelerator),
    }
    torch.save(outcome, folder / f"{0 if is_main_process() else 1}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
