"""Batches of any data set, and what models give for them."""

from flyweight.batches.checks import (
    check_batch,
    check_batches,
)
from flyweight.batches.forms import (
    Batch,
    Batches,
    Loss,
    examples_in,
    inputs_of,
    run_model,
    slice_batch,
    split_batch,
    take_examples,
    targets_of,
    tensors_in,
    to_device,
)
from flyweight.batches.outputs import (
    default_loss,
    evaluating,
    logits_of,
    output_tensors,
    same_bits,
    same_outputs,
)

__all__ = [
    "Batch",
    "Batches",
    "Loss",
    "check_batch",
    "check_batches",
    "default_loss",
    "evaluating",
    "examples_in",
    "inputs_of",
    "logits_of",
    "output_tensors",
    "run_model",
    "same_bits",
    "same_outputs",
    "slice_batch",
    "split_batch",
    "take_examples",
    "targets_of",
    "tensors_in",
    "to_device",
]
