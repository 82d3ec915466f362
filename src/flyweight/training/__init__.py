"""Train any module on any loader with any loss; resume, distill, run on several devices."""

from flyweight._progress import Progress
from flyweight.training.checkpoints import read_checkpoint, write_checkpoint
from flyweight.training.config import TrainingConfig
from flyweight.training.loaders import optimizer_steps, seeded_batches
from flyweight.training.loop import TrainingResult, prefixed, train_
from flyweight.training.memory import keep_freed_memory
from flyweight.training.optimizers import OptimizerFactory
from flyweight.training.precision import (
    autocast,
    choose_device,
    compiled,
    describe_device,
    memory_format_for,
)
from flyweight.training.run import (
    check_training_folder,
    read_history,
    train,
    train_into_folder,
)
from flyweight.training.teacher_table import FixedViews, TeacherTable
from flyweight.training.trainer import Stage

__all__ = [
    "FixedViews",
    "OptimizerFactory",
    "Progress",
    "Stage",
    "TeacherTable",
    "TrainingConfig",
    "TrainingResult",
    "autocast",
    "check_training_folder",
    "choose_device",
    "compiled",
    "describe_device",
    "keep_freed_memory",
    "memory_format_for",
    "optimizer_steps",
    "prefixed",
    "read_checkpoint",
    "read_history",
    "seeded_batches",
    "train",
    "train_",
    "train_into_folder",
    "write_checkpoint",
]
