"""Prune while Lightning trains.

pip install pytorch-lightning
python examples/lightning_callback.py
"""

import pytorch_lightning as lightning
import torch
from torch import nn

import flyweight


class PruningCallback(lightning.Callback):
    """Tells what was prepared that the optimiser made a step, and goes on with it on a resume."""

    def __init__(self, prepared):
        self.prepared = prepared

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        """Called by Lightning after each batch, of which several may make a step."""
        if trainer.global_step > self.prepared.number:
            self.prepared.step()

    def state_dict(self):
        """What Lightning puts into its checkpoints: the step and the masks."""
        return self.prepared.state_dict()

    def load_state_dict(self, state):
        """Called by Lightning when it goes on from a checkpoint."""
        self.prepared.load_state_dict(state)


class Parity(lightning.LightningModule):
    """The parity of eight bits, by whatever network is given."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, index):
        """Loss of a batch."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        """The optimiser of all parameters."""
        return torch.optim.AdamW(self.parameters(), 0.01)


def main(epochs=10):
    """Train and prune; return the network with its zeros."""
    torch.manual_seed(0)
    bits = torch.randint(0, 2, (1024, 8)).float()
    data = torch.utils.data.TensorDataset(bits, bits.sum(1).long() % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    recipe = flyweight.PruningConfig(sparsity=0.5, interval=5)
    prepared = flyweight.prepare(network, recipe, steps=epochs * len(loader))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PruningCallback(prepared)],
    )
    trainer.fit(Parity(prepared.model), loader)
    return prepared.finalize()


if __name__ == "__main__":
    print(flyweight.pruning.summarize_sparsity(main()))
