"""Quantization-aware training in a Lightning `Trainer`.

    pip install 'flyweight[lightning]'
    python examples/lightning_trainer.py

A small classifier learns the parity of four bits with weights of 3 bits. The result is
``parity.fly``.
"""

import pytorch_lightning as lightning
import torch
from torch import nn

import flyweight
from flyweight.integrations.lightning_callback import QuantizationCallback

EPOCHS = 10


class Parity(lightning.LightningModule):
    """Trains any network that maps four bits to two logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), 0.01)


def network():
    """A perceptron with one hidden layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))


def main(path="parity.fly"):
    """Train with quantized weights; write the file and return the model read back from it."""
    bits = torch.randint(0, 2, (1024, 4), generator=torch.Generator().manual_seed(0)).float()
    data = torch.utils.data.TensorDataset(bits, bits.sum(1).long() % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)

    config = flyweight.QuantizationConfig(method="learned-step", bits=3)
    quantizer = flyweight.Quantizer(network(), config, steps=EPOCHS * len(loader))
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[QuantizationCallback(quantizer)],
    )
    trainer.fit(Parity(quantizer.model), loader)
    flyweight.save(quantizer.finalize(), path)
    return flyweight.load(path, network())


if __name__ == "__main__":
    main()
    print(flyweight.inspect("parity.fly"))
