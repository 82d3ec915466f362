"""Prune while a Hugging Face `Trainer` trains.

    pip install transformers
    python examples/huggingface_trainer.py

Any model that the trainer takes will do; here a small one learns the parity of a sum.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import flyweight


class PruningCallback(TrainerCallback):
    """Tells what was prepared that the optimiser made a step, and goes on with it on a resume."""

    def __init__(self, prepared):
        self.prepared = prepared

    def on_step_end(self, args, state, control, **kwargs):
        """Called by the trainer after each step of the optimiser."""
        self.prepared.step()

    def on_save(self, args, state, control, **kwargs):
        """Called by the trainer after it wrote a checkpoint, beside which the masks are kept."""
        torch.save(self.prepared.state_dict(), self.file(args, state))

    def on_train_begin(self, args, state, control, **kwargs):
        """Called by the trainer once, on a resume with the number of steps that were made."""
        if state.global_step > 0:
            self.prepared.load_state_dict(torch.load(self.file(args, state)))

    def file(self, args, state):
        """Where the step and the masks are kept."""
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "pruning.pt"


class Parity(nn.Module):
    """Numbers in, the loss and the logits out, as the trainer wants them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, inputs, labels):
        """Loss and logits of a batch, N×8 numbers and N labels."""
        logits = self.layers(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(steps=200):
    """Train and prune; return the network with its zeros."""
    torch.manual_seed(0)
    bits = torch.randint(0, 2, (1024, 8)).float()
    rows = [{"inputs": row, "labels": int(row.sum()) % 2} for row in bits]
    recipe = flyweight.PruningConfig(sparsity=0.5, interval=5)
    prepared = flyweight.prepare(Parity(), recipe, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=0.01,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            prepared.model, arguments, train_dataset=rows, callbacks=[PruningCallback(prepared)]
        )
        trainer.train()
    return prepared.finalize()


if __name__ == "__main__":
    print(flyweight.pruning.summarize_sparsity(main()))
