"""Compress an LSTM that reads handwritten digits (8×8 pixels) row by row."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import flyweight as fw


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, rows):
        states, _ = self.lstm(rows)
        return self.head(states[:, -1])


torch.manual_seed(0)
digits = load_digits()
inputs, targets = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
order = torch.randperm(len(inputs))
train, test = order[:1440], order[1440:]
batches = list(zip(inputs[train].split(32), targets[train].split(32), strict=True))


def accuracy(model):
    return (model(inputs[test]).argmax(1) == targets[test]).float().mean().item()


adam = fw.TrainingConfig(epochs=15, optimizer="adamw", learning_rate=0.01)
model = fw.train(Reader(), batches, adam)
recipe = fw.Recipe(
    name="lstm",
    pruning=fw.PruningConfig(sparsity=0.7),
    retraining=fw.TrainingConfig(epochs=2, optimizer="adamw", learning_rate=0.003),
    quantization=fw.QuantizationConfig(bits=4),
    fine_tuning=fw.TrainingConfig(epochs=2, optimizer="adamw", learning_rate=0.001),
)
compressed = fw.compress(model, recipe, data=batches, evaluate=accuracy)
fw.save(compressed, "lstm.fly")
print(compressed.report)

loaded = fw.load("lstm.fly", Reader())
print("accuracy of the file:", accuracy(loaded))
