"""Compress a small Hugging Face transformer whose batches are mappings with labels."""

import torch
from transformers import BertConfig, BertForSequenceClassification

import flyweight as fw

config = BertConfig(
    vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=24, num_labels=2,
)  # fmt: skip


def sequences(count, seed):
    """Random tokens, padded; the label says whether token 7 stands before token 8."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(9, 32, (count, 24), generator=generator)
    places = torch.rand(count, 16, generator=generator).argsort(1)[:, :2]
    ids.scatter_(1, places, torch.tensor([[7, 8]]).expand(count, 2))
    lengths = torch.randint(16, 25, (count, 1), generator=generator)
    mask = (torch.arange(24) < lengths).long()
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "labels": (places[:, 0] < places[:, 1]).long(),
    }


def batches_of(table, size):
    return [
        {name: column[start : start + size] for name, column in table.items()}
        for start in range(0, len(table["labels"]), size)
    ]


batches, test = batches_of(sequences(2048, seed=0), 64), sequences(512, seed=1)


def accuracy(model):
    return (model(**test).logits.argmax(-1) == test["labels"]).float().mean().item()


def adam(epochs, rate):
    return fw.TrainingConfig(
        epochs=epochs, optimizer="adamw", learning_rate=rate, gradient_clip=1.0
    )


torch.manual_seed(0)
model = fw.train(BertForSequenceClassification(config), batches, adam(8, 0.002))
recipe = fw.Recipe(
    name="transformer",
    pruning=fw.PruningConfig(sparsity=0.6),
    retraining=adam(2, 0.001),
    quantization=fw.QuantizationConfig(method="learned-step", bits=4),
    fine_tuning=adam(2, 0.0005),
)
compressed = fw.compress(model, recipe, data=batches, evaluate=accuracy)
fw.save(compressed, "transformer.fly")
print(compressed.report)

loaded = fw.load("transformer.fly", BertForSequenceClassification(config))
print("accuracy of the file:", accuracy(loaded))
