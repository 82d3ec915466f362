"""Compress a segmentation network with transposed convolutions; its loss is the caller's."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import flyweight as fw


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ReLU(),
        nn.ConvTranspose2d(32, 2, 2, stride=2),
    )  # fmt: skip


torch.manual_seed(0)
clean = torch.tensor(load_digits().images).float().unsqueeze(1) / 16
masks = (clean[:, 0] > 0.5).long()  # ink or paper, for each pixel
noisy = clean + 0.3 * torch.randn_like(clean)
batches = list(zip(noisy[:1440].split(32), masks[:1440].split(32), strict=True))


def loss(model, batch):
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets, weight=torch.tensor([1.0, 2.0]))


def intersection_over_union(model):
    found, ink = model(noisy[1440:]).argmax(1).bool(), masks[1440:].bool()
    return ((found & ink).sum() / (found | ink).sum()).item()


config = fw.TrainingConfig(epochs=10, learning_rate=0.05)
model = fw.train(make_model(), batches, config, loss=loss)
recipe = fw.Recipe(
    name="segmentation",
    pruning=fw.PruningConfig(sparsity=0.7),
    retraining=fw.TrainingConfig(epochs=2, learning_rate=0.02),
    quantization=fw.QuantizationConfig(bits=3, allocation="size"),
    fine_tuning=fw.TrainingConfig(epochs=2, learning_rate=0.005),
)
compressed = fw.compress(model, recipe, data=batches, loss=loss, evaluate=intersection_over_union)
fw.save(compressed, "segmentation.fly")
print(compressed.report)

loaded = fw.load("segmentation.fly", make_model())
print("intersection over union of the file:", intersection_over_union(loaded))
