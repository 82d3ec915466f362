"""Prune and quantize while training; started twice, as by ``accelerate launch``."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from flyweight.processes import is_main_process
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import QuantizationConfig, Quantizer
from flyweight.training import TrainingConfig, choose_device, train_

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


def library_loop(
    checkpoint: Path, device: torch.device, pattern: str = "weights"
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(4, 24, 3, 32, 32, generator=generator)
    data = [(batch, torch.arange(24) % 10) for batch in images]
    training = TrainingConfig(epochs=2, learning_rate=0.02, ema_decay=0.5)
    config = PruningConfig(sparsity=0.7, interval=1, criterion="taylor", pattern=pattern)
    pruner = Pruner(network(), config, steps=8, data=data)
    result = train_(
        pruner.model, data, training, stage=pruner, device=device, checkpoint=checkpoint
    )
    pruner.model.load_state_dict(result.averaged.state_dict())
    config = QuantizationConfig(bits=2, assignment_interval=1)
    quantizer = Quantizer(pruner.finalize(), config, steps=8, seed=1)
    result = train_(quantizer.model, data, training, stage=quantizer, device=device, seed=1)
    quantizer.model.load_state_dict(result.averaged.state_dict())
    return quantizer.finalize(fold_batch_norm=False).state_dict()


def own_loop(accelerator: Accelerator) -> list[dict[str, torch.Tensor]]:
    """Masks and dense weights after each step; every process has images of its own."""
    config = PruningConfig(sparsity=0.7, ramp=0.8, interval=1)
    pruner = Pruner(network(), config, steps=STEPS)
    optimizer = torch.optim.AdamW(pruner.model.parameters(), 0.01)
    joined, optimizer = accelerator.prepare(pruner.model, optimizer)
    seen = []
    for step in range(STEPS):
        torch.manual_seed(2 * step + accelerator.process_index)
        loss = F.cross_entropy(joined(torch.randn(8, 3, 32, 32)), torch.randint(0, 10, (8,)))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
        parameters = {name: p.detach().clone() for name, p in pruner.model.named_parameters()}
        masks = {f"mask of {name}": mask for name, mask in pruner.masks.items()}
        seen.append({**parameters, **masks, "loss": loss.detach()})
    return seen


def parts(device: torch.device, process: int) -> list[list[float]]:
    """The examples that this process trains on, of a list and of a distributed sampler."""
    data = torch.utils.data.TensorDataset(torch.arange(8.0)[:, None], torch.zeros(8).long())
    sampler = torch.utils.data.DistributedSampler(data, 2, process, shuffle=False)
    found = []
    for loader in (
        torch.utils.data.DataLoader(data, batch_size=4),
        torch.utils.data.DataLoader(data, batch_size=2, sampler=sampler),
    ):
        seen: list[float] = []

        def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            seen.extend(batch[0].flatten().tolist())  # noqa: B023
            return model(batch[0]).mean()

        train_(nn.Linear(1, 1), loader, TrainingConfig(epochs=1), loss=loss, device=device)
        found.append(seen)
    return found


def main(folder: Path) -> None:
    device = choose_device("auto")  # the first that joins the processes
    accelerator = Accelerator()
    outcome = {
        "processes": accelerator.num_processes,
        "library loop": library_loop(folder / "state.pt", device),
        "filters": library_loop(folder / "filters.pt", device, "filters"),
        "own loop": own_loop(accelerator),
        "parts": parts(device, accelerator.process_index),
    }
    torch.save(outcome, folder / f"{0 if is_main_process() else 1}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
