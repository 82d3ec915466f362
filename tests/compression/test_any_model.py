"""Models of six kinds go through compress, save and load with identical outputs."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flyweight.batches import inputs_of, run_model, same_outputs
from flyweight.compressed import CompressedTensor
from flyweight.compression import compress
from flyweight.io import load, save
from flyweight.pruning import PruningConfig
from flyweight.quantization import QuantizationConfig
from flyweight.recipes import Recipe
from flyweight.training import TrainingConfig

_EPOCHS = TrainingConfig(epochs=2, learning_rate=0.01)
TRAINED = Recipe(
    name="trained",
    pruning=PruningConfig(sparsity=0.5, interval=1),
    retraining=_EPOCHS,
    quantization=QuantizationConfig(bits=3),
    fine_tuning=_EPOCHS,
)


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def pairs(inputs, targets, size=16):
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def mean_squared_error(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


@dataclasses.dataclass
class Reading:
    """What the LSTM gives: a dataclass."""

    logits: torch.Tensor
    last: torch.Tensor


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, sequence):
        states, _ = self.lstm(sequence)
        return Reading(self.head(states[:, -1]), states[:, -1])


class Segmentation(nn.Module):
    """Gives the mask and what it was made of: a tuple."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 3, 2, stride=2)

    def forward(self, images):
        features = self.down(images)
        return self.up(features), features


def mlp():
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    return model, pairs(randn(64, 8), torch.arange(64) % 3), None


def conv1d():
    model = nn.Sequential(
        nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    return model, pairs(randn(64, 2, 32), torch.arange(64) % 4), None


def lstm():
    return Reader(), pairs(randn(64, 7, 6), torch.arange(64) % 4), None


def transformer():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    ids = torch.arange(64 * 12).view(64, 12) % 40
    batches = [
        {
            "input_ids": ids[start : start + 16],
            "attention_mask": (torch.arange(12) < 9).long().expand(16, 12),
            "labels": torch.arange(16) % 3,
        }
        for start in range(0, 64, 16)
    ]
    return transformers.BertForSequenceClassification(config), batches, None


def segmentation():
    masks = torch.arange(32 * 64).view(32, 8, 8) % 3
    return Segmentation(), pairs(randn(32, 1, 8, 8), masks), None


def regression():
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
    return model, pairs(randn(64, 5), randn(64, 2)), mean_squared_error


KINDS = [mlp, conv1d, lstm, transformer, segmentation, regression]


@pytest.mark.parametrize("recipe", ["post-training", TRAINED], ids=["post-training", "trained"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_compress_save_and_load_give_identical_outputs(tmp_path, kind, recipe):
    torch.manual_seed(0)
    model, batches, loss = kind()
    data = batches
    if recipe == "post-training":  # calibration data needs no targets
        data = [inputs_of(batch) for batch in batches]
        for batch in data:
            if isinstance(batch, dict):
                batch.pop("labels")
    compressed = compress(model, recipe, data=data, loss=loss, device="cpu")
    assert compressed.report.outputs_identical
    assert compressed.report.file_bytes < compressed.report.dense_bytes
    quantized = {n: t for n, t in compressed.items() if isinstance(t, CompressedTensor)}
    if recipe is TRAINED:
        assert compressed.report.sparsity > 0.2
        assert all(tensor.levels.numel() <= 8 for tensor in quantized.values())
    assert len(quantized) >= 2

    save(compressed, tmp_path / "model.fly")
    evaluated, _, _ = kind()
    evaluated.load_state_dict(compressed.state_dict())
    loaded = load(tmp_path / "model.fly", kind()[0])
    for batch in batches:
        assert same_outputs(run_model(loaded, batch), run_model(evaluated.eval(), batch))
    for name, tensor in quantized.items():
        zeros = tensor.symbols == 0
        assert not loaded.state_dict()[name][zeros].any()
