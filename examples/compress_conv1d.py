"""Compress a 1-D convolution network that classifies waveforms, without training or labels."""

import torch
from torch import nn

import flyweight as fw


def make_model():
    return nn.Sequential(
        nn.Conv1d(1, 16, 9, stride=2), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Conv1d(16, 32, 9, stride=2), nn.BatchNorm1d(32), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def waves(count, seed):
    """Sine, square, saw-tooth and triangle waves of random pitch and phase, with noise."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (count,), generator=generator)
    pitch = 2 + 6 * torch.rand(count, 1, generator=generator)
    phase = torch.rand(count, 1, generator=generator)
    turn = (torch.linspace(0, 1, 128) * pitch + phase) % 1
    sine = (2 * torch.pi * turn).sin()
    forms = torch.stack([sine, sine.sign(), 2 * turn - 1, 4 * (turn - 0.5).abs() - 1])
    signal = forms[kind, torch.arange(count)]
    return (signal + 0.2 * torch.randn(count, 128, generator=generator)).unsqueeze(1), kind


inputs, targets = waves(2048, seed=0)
test_inputs, test_targets = waves(1024, seed=1)
batches = list(zip(inputs.split(64), targets.split(64), strict=True))


def accuracy(model):
    return (model(test_inputs).argmax(1) == test_targets).float().mean().item()


torch.manual_seed(0)
model = fw.train(make_model(), batches, fw.TrainingConfig(epochs=5, learning_rate=0.05))
calibration = list(inputs.split(256))  # inputs alone, no labels
compressed = fw.compress(model, "post-training", data=calibration, evaluate=accuracy)
fw.save(compressed, "conv1d.fly")
print(compressed.report)

loaded = fw.load("conv1d.fly", make_model())
print("accuracy of the file:", accuracy(loaded))
