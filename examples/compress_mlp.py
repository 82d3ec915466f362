"""Compress a multilayer perceptron on tabular data (569 tumors, 30 measurements each)."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import flyweight as fw


def make_model():
    return nn.Sequential(
        nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2)
    )


torch.manual_seed(0)
table = load_breast_cancer()
inputs = torch.tensor(table.data, dtype=torch.float32)
inputs = (inputs - inputs.mean(0)) / inputs.std(0)
targets = torch.tensor(table.target)
order = torch.randperm(len(inputs))
train, test = order[:449], order[449:]
batches = list(zip(inputs[train].split(32), targets[train].split(32), strict=True))


def accuracy(model):
    return (model(inputs[test]).argmax(1) == targets[test]).float().mean().item()


model = fw.train(make_model(), batches, fw.TrainingConfig(epochs=20, learning_rate=0.05))
recipe = fw.Recipe(
    name="mlp",
    pruning=fw.PruningConfig(sparsity=0.8),
    retraining=fw.TrainingConfig(epochs=2, learning_rate=0.02),
    quantization=fw.QuantizationConfig(bits=3),
    fine_tuning=fw.TrainingConfig(epochs=2, learning_rate=0.005),
)
compressed = fw.compress(model, recipe, data=batches, evaluate=accuracy)
fw.save(compressed, "mlp.fly")
print(compressed.report)

loaded = fw.load("mlp.fly", make_model())
print("accuracy of the file:", accuracy(loaded))
