"""Prune, then quantize, in a training loop of your own.

    python examples/own_loop.py

A small classifier learns whether a point lies within a circle. The result is ``circle.fly``: 90 %
of the weights are zero, the others are quantized to 4 bits.
"""

import torch
from torch import nn

import flyweight

EPOCHS, BATCH = 10, 50
points = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
labels = (points.norm(dim=1) > 1.2).long()


def accuracy(model):
    """Fraction of the points on the right side."""
    with torch.no_grad():
        return (model(points).argmax(1) == labels).float().mean().item()


def train(stage, epochs):
    """Train ``stage.model``; after each step of the optimizer, `step` follows the schedule."""
    optimizer = torch.optim.AdamW(stage.model.parameters(), 0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(points)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(stage.model(points[batch]), labels[batch]).backward()
            optimizer.step()
            stage.step()


def main(path="circle.fly"):
    """Prune and quantize; write the file and return the model read back from it."""
    torch.manual_seed(0)
    layers = nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    model = nn.Sequential(*layers)
    steps = EPOCHS * len(points) // BATCH

    pruner = flyweight.Pruner(model, flyweight.PruningConfig(sparsity=0.9), steps=steps)
    train(pruner, EPOCHS)
    pruned = pruner.finalize()  # plain weights with exact zeros

    quantizer = flyweight.Quantizer(pruned, flyweight.QuantizationConfig(bits=4), steps=steps // 5)
    train(quantizer, EPOCHS // 5)
    flyweight.save(quantizer.finalize(), path)
    return flyweight.load(path, model)


if __name__ == "__main__":
    loaded = main()
    print(flyweight.inspect("circle.fly"))
    print(f"accuracy of the model in the file: {accuracy(loaded):.3f}")
