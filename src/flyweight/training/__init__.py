"""Train any module on any loader with any loss; resume, distill, run on several devices."""

from flyweight.training.checkpoints import (
    read_checkpoint,
    write_checkpoint,
)
from flyweight.training.config import (
    PROGRESSIVE_SIZES,
    TrainingConfig,
)
from flyweight.training.evaluation import (
    accuracy,
    predict,
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
from flyweight.training.processes import (
    accelerator_for,
    is_main_process,
    launched_device,
    of_first_process,
    share_buffers_,
    wait_for_all,
)

__all__ = [
    "TrainingResult",
    "PROGRESSIVE_SIZES",
    "Progress",
    "TrainingConfig",
    "accelerator_for",
    "accuracy",
    "autocast",
    "choose_device",
    "compiled",
    "describe_device",
    "train_",
    "is_main_process",
    "keep_freed_memory",
    "launched_device",
    "memory_format_for",
    "of_first_process",
    "predict",
    "prefixed",
    "read_checkpoint",
    "share_buffers_",
    "wait_for_all",
    "write_checkpoint",
]
