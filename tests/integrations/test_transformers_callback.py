"""Pruning and quantization callbacks in a real Hugging Face `Trainer`."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from flyweight.errors import CheckpointError, ModelError
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import QuantizationConfig, Quantizer

transformers = pytest.importorskip("transformers")
from flyweight.integrations.transformers_callback import (  # noqa: E402
    PruningCallback,
    QuantizationCallback,
)

STEPS = 12
PRUNING = PruningConfig(sparsity=0.7, interval=2, exclude=("*embeddings*",))
QUANTIZATION = QuantizationConfig(method="learned-step", bits=3, exclude=("*embeddings*",))


def bert() -> nn.Module:
    """A BERT classifier of 10,000 parameters."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=2,
    )
    return transformers.BertForSequenceClassification(config)


def examples() -> list[dict[str, torch.Tensor]]:
    """Sequences of 8 tokens with masks; the label is whether token 1 occurs."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 16, (64, 8), generator=generator)
    return [
        {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "labels": (row == 1).any().long(),
        }
        for row in tokens
    ]


def trainer(model, folder, callback, **settings):
    arguments = transformers.TrainingArguments(
        str(folder),
        **{
            "max_steps": STEPS,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.01,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
        }
        | settings,
    )
    rows = examples()
    return transformers.Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback]
    )


def zeros_of(model) -> dict[str, torch.Tensor]:
    return {name: weight == 0 for name, weight in model.named_parameters() if weight.ndim > 1}


def test_pruning_callback_prunes_to_asked_sparsity(tmp_path):
    pruner = Pruner(bert(), PRUNING, steps=STEPS)
    trainer(pruner.model, tmp_path, PruningCallback(pruner)).train()
    assert pruner.number == STEPS
    zeros = zeros_of(pruner.finalize())
    pruned = [zero for name, zero in zeros.items() if "embeddings" not in name]
    total = sum(zero.numel() for zero in pruned)
    assert sum(int(zero.sum()) for zero in pruned) == round(0.7 * total)


def test_pruning_callback_advances_once_per_accumulated_step(tmp_path):
    pruner = Pruner(bert(), PRUNING, steps=STEPS)
    run = trainer(pruner.model, tmp_path, PruningCallback(pruner), gradient_accumulation_steps=2)
    run.train()
    assert pruner.number == STEPS


def test_pruning_callback_resumes_to_same_weights(tmp_path):
    whole = Pruner(bert(), PRUNING, steps=STEPS)
    saving = {"save_strategy": "steps", "save_steps": 6}
    trainer(whole.model, tmp_path, PruningCallback(whole), **saving).train()
    assert (tmp_path / "checkpoint-6" / "pruner.pt").is_file()

    resumed = Pruner(bert(), PRUNING, steps=STEPS)
    trainer(resumed.model, tmp_path, PruningCallback(resumed), **saving).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-6")
    )
    assert resumed.number == STEPS
    expected = whole.finalize().state_dict()
    for name, value in resumed.finalize().state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_pruning_callback_refuses_checkpoint_without_masks(tmp_path):
    pruner = Pruner(bert(), PRUNING, steps=STEPS)
    saving = {"save_strategy": "steps", "save_steps": 6}
    trainer(pruner.model, tmp_path, PruningCallback(pruner), **saving).train()
    (tmp_path / "checkpoint-6" / "pruner.pt").unlink()
    resumed = Pruner(bert(), PRUNING, steps=STEPS)
    run = trainer(resumed.model, tmp_path, PruningCallback(resumed), **saving)
    with pytest.raises(CheckpointError, match=r"checkpoint-6.pruner\.pt"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_pruning_callback_restores_masks_of_best_checkpoint(tmp_path):
    pruner = Pruner(bert(), PruningConfig(sparsity=0.7, schedule="one-shot"), steps=STEPS)
    run = trainer(
        pruner.model,
        tmp_path,
        PruningCallback(pruner),
        save_strategy="steps",
        save_steps=4,
        eval_strategy="steps",
        eval_steps=4,
        load_best_model_at_end=True,
        greater_is_better=True,  # of the loss, so that the first checkpoint is the best one
        metric_for_best_model="loss",
    )
    run.train()
    assert pruner.number == int(run.state.best_model_checkpoint.rpartition("-")[2])
    pruner.check()


def test_pruning_callback_refuses_another_model(tmp_path):
    model = bert()
    pruner = Pruner(model, PRUNING, steps=STEPS)
    with pytest.raises(ModelError, match=r"another model than pruner\.model; pass pruner\.model"):
        trainer(model, tmp_path, PruningCallback(pruner)).train()


def test_quantization_callback_quantizes(tmp_path):
    quantizer = Quantizer(bert(), QUANTIZATION, steps=STEPS)
    trainer(quantizer.model, tmp_path, QuantizationCallback(quantizer)).train()
    assert quantizer.number == STEPS
    state = quantizer.finalize().state_dict()
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert 2 <= state[name].unique().numel() <= 2**3


def test_import_without_transformers_names_the_extra():
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "import flyweight.integrations\n"
        "try:\n    import flyweight.integrations.transformers_callback\n"
        "except ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (
        "flyweight.integrations.transformers_callback needs transformers; install it by "
        "pip install 'flyweight[transformers]'\n"
    )


def test_quantization_callback_adds_the_bits_to_the_loss(tmp_path):
    sizes = []
    for loss_per_bit in (1e-9, 1e-2):
        config = QuantizationConfig(
            method="rate", loss_per_bit=loss_per_bit, exclude=("*embeddings*",)
        )
        quantizer = Quantizer(bert(), config, steps=STEPS)
        callback = QuantizationCallback(quantizer)
        trainer(
            quantizer.model, tmp_path, callback, optim="sgd", gradient_accumulation_steps=2
        ).train()
        sizes.append(len(quantizer.finalize().to_bytes()))
    assert sizes[1] < 0.9 * sizes[0]
