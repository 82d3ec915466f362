"""Callbacks for pruning and quantization-aware training in a Lightning `Trainer`.

Needs Lightning, as ``pytorch_lightning`` or ``lightning``: ``pip install 'flyweight[lightning]'``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flyweight.integrations.prepared_model import (
    PreparedStage,
    add_penalty_,
    check_trains_prepared,
)
from flyweight.pruning import Pruner
from flyweight.quantization import Quantizer

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    for _name in ("pytorch_lightning", "lightning.pytorch"):
        try:
            Callback = importlib.import_module(_name).Callback
            break
        except ImportError:
            continue
    else:
        raise ImportError(
            "flyweight.integrations.lightning_callback needs Lightning; install it by "
            "pip install 'flyweight[lightning]'"
        )

__all__ = ["PruningCallback", "QuantizationCallback"]


class _StageCallback(Callback):
    """Advance a stage after every optimizer step; save and restore it with the checkpoints."""

    def __init__(self, stage: PreparedStage, owner: str) -> None:
        self._stage = stage
        self._owner = owner
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the model."""
        check_trains_prepared(pl_module, self._stage.model, self._owner)
        self._steps = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Add the penalty of the stage to the gradients, before Lightning clips them."""
        add_penalty_(self._stage)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the stage if the optimizer made a step after this batch."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self._stage.step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that no pruned weight was revived."""
        self._stage.check()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stage for a Lightning checkpoint."""
        return self._stage.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the stage from a Lightning checkpoint."""
        self._stage.load_state_dict(state_dict)


class PruningCallback(_StageCallback):
    """Prune while Lightning trains a module that contains ``pruner.model``.

    The masks are part of Lightning's checkpoints; ``trainer.fit(..., ckpt_path=...)`` resumes.

    Args:
        pruner: its ``steps`` are the optimizer steps of the run. Call ``pruner.finalize()`` after
            ``trainer.fit()``.

    Raises:
        ModelError: in ``trainer.fit()``, if the module does not contain ``pruner.model``.

    Example:
        >>> from torch import nn
        >>> callback = PruningCallback(Pruner(nn.Linear(8, 2), steps=10))
    """

    def __init__(self, pruner: Pruner) -> None:
        super().__init__(pruner, "pruner")


class QuantizationCallback(_StageCallback):
    """Run quantization-aware training while Lightning trains ``quantizer.model``.

    The state is part of Lightning's checkpoints; ``trainer.fit(..., ckpt_path=...)`` resumes.

    Args:
        quantizer: its ``steps`` are the optimizer steps of the run. Call ``quantizer.finalize()``
            after ``trainer.fit()``.

    Raises:
        ModelError: in ``trainer.fit()``, if the module does not contain ``quantizer.model``.

    Example:
        >>> from torch import nn
        >>> callback = QuantizationCallback(Quantizer(nn.Linear(8, 2), steps=10))
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__(quantizer, "quantizer")
