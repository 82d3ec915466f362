"""Several processes: their devices, and values that all of them share.

``accelerate launch`` and ``torchrun`` start as many processes as there are devices, on one machine
or several. Each trains on its part of every batch, and gradients are averaged: all hold the same
weights. A process group that the user's own program has initialized counts as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from flyweight.errors import FlyweightError

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


def _number_in(variable: str, default: int) -> int:
    """Return the number in an environment variable that a launcher sets."""
    text = os.environ.get(variable, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise FlyweightError(
            f"the environment variable {variable} is {text!r}, not a number; unset it, or start "
            "the processes with accelerate launch"
        ) from None


def _has_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _launched() -> bool:
    """Tell whether this is one of several processes."""
    if _has_group():
        return distributed.get_world_size() > 1
    return _number_in("WORLD_SIZE", 1) > 1


def is_main_process() -> bool:
    """Tell whether this is the process that prints and writes: the only one, or the first.

    Raises:
        FlyweightError: the environment variable ``RANK`` is not a number.

    Example:
        >>> is_main_process()
        True
    """
    return (distributed.get_rank() if _has_group() else _number_in("RANK", 0)) == 0


def _state() -> PartialState:
    """Return the state that joins the processes, on CPUs where there is no accelerator."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def launched_device() -> torch.device | None:
    """Return the device of this process among several; None if it is the only one."""
    if not _launched():
        return None
    device: torch.device = _state().device
    return device


def accelerator_for(device: torch.device) -> Accelerator:
    """Return an `accelerate.Accelerator` that joins this process to the others on ``device``."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    # A single process may train on one device after another; Accelerate would stay on the first.
    known = PartialState().device.type if PartialState._shared_state else device.type
    if known != device.type and not _launched():
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device.type == "cpu")


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    if _has_group():
        distributed.barrier()
    elif _launched():
        _state().wait_for_everyone()


def share_buffers_(model: nn.Module) -> None:
    """Copy the buffers of the first process, such as batch statistics and masks, to the others."""
    for buffer in model.buffers():
        buffer.copy_(of_first_process(buffer))


def of_first_process(tensor: Tensor) -> Tensor:
    """Broadcast a tensor of the first process; every process calls this, in the same order.

    Works in any process group of `torch.distributed`. Without one, and where a launcher has
    started several processes, Accelerate initializes it.

    Args:
        tensor: of the same shape and type in each process.

    Returns:
        The tensor of the first process, on the device of ``tensor``.

    Example:
        >>> of_first_process(torch.tensor([1.0]))  # the only process
        tensor([1.])
    """
    if not _launched():
        return tensor
    if not _has_group():
        _state()  # initializes the group
    found = tensor.detach().clone(memory_format=torch.contiguous_format)
    if found.device.type == "cpu" and _only_nccl():
        found = found.to(torch.accelerator.current_accelerator())
    distributed.broadcast(found, src=0)
    return found.to(tensor.device)


def _only_nccl() -> bool:
    """Tell whether the process group has no backend for tensors on the CPU."""
    backends = str(distributed.get_backend_config()).lower()
    return "nccl" in backends and "gloo" not in backends
