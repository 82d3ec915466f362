"""Callbacks for pruning and quantization-aware training in a Hugging Face `Trainer`.

Needs transformers: ``pip install 'flyweight[transformers]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.integrations.prepared_model import (
    PreparedStage,
    add_penalty_,
    check_trains_prepared,
)
from flyweight.pruning import Pruner
from flyweight.quantization import Quantizer
from flyweight.training import read_checkpoint, write_checkpoint

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "flyweight.integrations.transformers_callback needs transformers; install it by "
        "pip install 'flyweight[transformers]'"
    ) from error

__all__ = ["PruningCallback", "QuantizationCallback"]


class _StageCallback(TrainerCallback):
    """Advance a stage after every optimizer step; save and restore it with the checkpoints."""

    def __init__(self, stage: PreparedStage, owner: str) -> None:
        self._stage = stage
        self._owner = owner

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the model; after a resume, restore the stage from the checkpoint."""
        check_trains_prepared(kwargs["model"], self._stage.model, self._owner)
        if state.global_step > 0:
            self._stage.load_state_dict(read_checkpoint(self._file(args, state.global_step)))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the penalty of the stage to the gradients, once they are clipped."""
        add_penalty_(self._stage)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance the stage after a step of the optimizer."""
        self._stage.step()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that no pruned weight was revived."""
        self._stage.check()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the state of the stage in the checkpoint folder."""
        if state.is_world_process_zero:
            write_checkpoint(self._stage.state_dict(), self._file(args, state.global_step))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the stage of the best checkpoint where the trainer restored that model."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            best = Path(state.best_model_checkpoint) / f"{self._owner}.pt"
            self._stage.load_state_dict(read_checkpoint(best))

    def _file(self, args: TrainingArguments, step: int) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{step}" / f"{self._owner}.pt"


class PruningCallback(_StageCallback):
    """Prune while a Hugging Face `Trainer` trains ``pruner.model``.

    The masks are saved in every checkpoint folder as ``pruner.pt``, and restored by
    ``trainer.train(resume_from_checkpoint=True)``.

    Args:
        pruner: its ``steps`` are the optimizer steps of the run. Call ``pruner.finalize()`` after
            ``trainer.train()``.

    Raises:
        ModelError: in ``trainer.train()``, if the trainer trains another model.
        CheckpointError: on a resume, if the checkpoint folder has no such state.

    Example:
        >>> from torch import nn
        >>> callback = PruningCallback(Pruner(nn.Linear(8, 2), steps=10))
    """

    def __init__(self, pruner: Pruner) -> None:
        super().__init__(pruner, "pruner")


class QuantizationCallback(_StageCallback):
    """Run quantization-aware training while a Hugging Face `Trainer` trains ``quantizer.model``.

    The state is saved in every checkpoint folder as ``quantizer.pt``, and restored by
    ``trainer.train(resume_from_checkpoint=True)``.

    Args:
        quantizer: its ``steps`` are the optimizer steps of the run. Call ``quantizer.finalize()``
            after ``trainer.train()``.

    Raises:
        ModelError: in ``trainer.train()``, if the trainer trains another model.
        CheckpointError: on a resume, if the checkpoint folder has no such state.

    Example:
        >>> from torch import nn
        >>> callback = QuantizationCallback(Quantizer(nn.Linear(8, 2), steps=10))
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__(quantizer, "quantizer")
