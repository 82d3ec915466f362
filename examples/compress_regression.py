"""Compress a regression network: progress of diabetes from ten measurements of 442 people."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn import functional as F

import flyweight as fw


def make_model():
    return nn.Sequential(
        nn.Linear(10, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 1)
    )


torch.manual_seed(0)
inputs, targets = (torch.tensor(part).float() for part in load_diabetes(return_X_y=True))
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
targets = ((targets - targets.mean()) / targets.std()).unsqueeze(1)
order = torch.randperm(len(inputs))
train, test = order[:352], order[352:]
batches = list(zip(inputs[train].split(32), targets[train].split(32), strict=True))


def loss(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def r_squared(model):
    error = F.mse_loss(model(inputs[test]), targets[test])
    return 1 - error.item() / targets[test].var(correction=0).item()


config = fw.TrainingConfig(epochs=20, learning_rate=0.01)
model = fw.train(make_model(), batches, config, loss=loss)
recipe = fw.Recipe(
    name="regression",
    pruning=fw.PruningConfig(sparsity=0.8),
    retraining=fw.TrainingConfig(epochs=2, learning_rate=0.005),
    quantization=fw.QuantizationConfig(method="learned-step", bits=4),
    fine_tuning=fw.TrainingConfig(epochs=2, learning_rate=0.002),
)
compressed = fw.compress(model, recipe, data=batches, loss=loss, evaluate=r_squared)
fw.save(compressed, "regression.fly")
print(compressed.report)

loaded = fw.load("regression.fly", make_model())
print("R² of the file:", r_squared(loaded))
