"""Train, retrain, distil, resume and evaluate."""

from flyweight.training.batches import calibration_batches, normalize
from flyweight.training.config import PROGRESSIVE_SIZES, TrainingConfig
from flyweight.training.evaluation import accuracy, predict
from flyweight.training.fit import FitResult, Progress, fit_, prefixed
from flyweight.training.memory import keep_freed_memory
from flyweight.training.precision import choose_device, describe_device, memory_format_for
from flyweight.training.processes import is_main_process, of_first_process, wait_for_all
from flyweight.training.run import train

__all__ = [
    "PROGRESSIVE_SIZES",
    "FitResult",
    "Progress",
    "TrainingConfig",
    "accuracy",
    "calibration_batches",
    "choose_device",
    "describe_device",
    "fit_",
    "is_main_process",
    "keep_freed_memory",
    "memory_format_for",
    "normalize",
    "of_first_process",
    "predict",
    "prefixed",
    "train",
    "wait_for_all",
]
