"""One process or several: who trains on what, and who writes.

``accelerate launch`` starts as many processes as there are devices, on one machine or several.
Each trains on its part of every batch, and gradients are averaged: all hold the same weights.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

__all__ = [
    "accelerator_for",
    "is_main_process",
    "launched_device",
    "of_first_process",
    "share_buffers_",
    "wait_for_all",
]


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this is the process that prints and writes: the only one, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def _state() -> PartialState:
    """What joins the processes. Without an accelerator it has to be told so, or it joins none."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def launched_device() -> torch.device | None:
    """The device of this process among several; None where it is the only one."""
    if not _launched():
        return None
    device: torch.device = _state().device
    return device


def accelerator_for(device: torch.device) -> Accelerator:
    """What joins this process to the others, if there are any, to train on ``device``."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    # A process alone may train on one device after another; what is kept of the first would stay.
    known = PartialState().device.type if PartialState._shared_state else device.type
    if known != device.type and not _launched():
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device.type == "cpu")


def wait_for_all() -> None:
    """Go on when every process has come this far."""
    if _launched():
        _state().wait_for_everyone()


def share_buffers_(model: nn.Module) -> None:
    """Give the statistics of batch normalisation, and masks, of the first process to the others."""
    for buffer in model.buffers():
        buffer.copy_(of_first_process(buffer))


def of_first_process(tensor: Tensor) -> Tensor:
    """The tensor as the first process has it; all have to call this, in the same order.

    Example:
        >>> of_first_process(torch.tensor([1.0]))  # there is only one
        tensor([1.])
    """
    if not _launched():
        return tensor
    from accelerate.utils import broadcast

    found: Tensor = broadcast(tensor.contiguous())  # in place, so nothing that is expanded
    return found
