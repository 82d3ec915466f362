"""Train any module on any loader with any loss; resume, distill, run on several devices."""

from flyweight.training.checkpoints import (
    read_checkpoint,
    write_checkpoint,
)
from flyweight.training.config import (
    TrainingConfig,
)
from flyweight.training.loop import (
    TrainingResult,
    Progress,
    train_,
    prefixed,
)
from flyweight.training.memory import (
    keep_freed_memory,
)
from flyweight.training.precision import (
    autocast,
    choose_device,
    compiled,
    describe_device,
    memory_format_for,
)

__all__ = [
    "TrainingResult",
    "Progress",
    "TrainingConfig",
    "autocast",
    "choose_device",
    "compiled",
    "describe_device",
    "train_",
    "keep_freed_memory",
    "memory_format_for",
    "prefixed",
    "read_checkpoint",
    "write_checkpoint",
]
