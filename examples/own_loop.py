"""Prune in a training loop of your own: prepare, train, finalize.

    python examples/own_loop.py

Ten epochs of two-class points on the plane; 90 % of the weights end as exact zeros.
"""

import torch
from torch import nn

import flyweight

generator = torch.Generator().manual_seed(0)
points = torch.randn(2000, 2, generator=generator)
labels = (points.norm(dim=1) > 1.2).long()

model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
recipe = flyweight.PruningConfig(sparsity=0.9, ramp=0.5, interval=5)
epochs, batch = 10, 50
prepared = flyweight.prepare(model, recipe, steps=epochs * len(points) // batch)
optimizer = torch.optim.AdamW(prepared.model.parameters(), 0.01, weight_decay=0.01)

for epoch in range(epochs):
    order = torch.randperm(len(points), generator=generator)
    for some in order.split(batch):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(prepared.model(points[some]), labels[some])
        loss.backward()
        optimizer.step()
        prepared.step()
    hits = (prepared.model(points).argmax(1) == labels).float().mean()
    print(f"epoch {epoch + 1}: sparsity {prepared.sparsity:.3f}, accuracy {hits:.3f}")

pruned = prepared.finalize()
print(flyweight.pruning.summarize_sparsity(pruned))
