"""Prune, then quantize, while a Hugging Face `Trainer` trains.

    pip install 'flyweight[transformers]'
    python examples/huggingface_trainer.py

A small BERT learns whether a token occurs in a sequence. The result is ``bert.fly``.
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import flyweight
from flyweight.integrations.transformers_callback import PruningCallback, QuantizationCallback


def bert():
    """A BERT classifier of one layer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 16}
    config = BertConfig(vocab_size=32, num_hidden_layers=1, num_attention_heads=2, **sizes)
    return BertForSequenceClassification(config)


def examples(count=1024):
    """Sequences of 12 tokens; the label is whether token 1 is among them."""
    tokens = torch.randint(1, 16, (count, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(12, dtype=torch.long)
    return [
        {"input_ids": row, "attention_mask": mask, "labels": (row == 1).any().long()}
        for row in tokens
    ]


def train(model, callback, steps):
    """Train a prepared model; the callback follows its schedule after each optimizer step."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=0.003,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=examples(), callbacks=[callback]).train()


def main(path="bert.fly"):
    """Prune and quantize; write the file and return the model read back from it."""
    config = flyweight.PruningConfig(sparsity=0.5)  # embeddings stay, unless they are named
    pruner = flyweight.Pruner(bert(), config, steps=150)
    train(pruner.model, PruningCallback(pruner), steps=150)
    pruned = pruner.finalize()  # plain weights with exact zeros

    config = flyweight.QuantizationConfig(bits=4)
    quantizer = flyweight.Quantizer(pruned, config, steps=50)
    train(quantizer.model, QuantizationCallback(quantizer), steps=50)
    flyweight.save(quantizer.finalize(), path)
    return flyweight.load(path, bert())


if __name__ == "__main__":
    main()
    print(flyweight.inspect("bert.fly"))
