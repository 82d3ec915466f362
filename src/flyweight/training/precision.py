"""Devices, their precision, and compilation of models."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Literal, TypeAlias, cast

import torch
from torch import nn

from flyweight.errors import RecipeError
from flyweight.processes import launched_device

__all__ = [
    "autocast",
    "choose_device",
    "compiled",
    "describe_device",
    "memory_format_for",
    "precision_for",
]

Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


def choose_device(name: str = "auto") -> torch.device:
    """Resolve the name of a device.

    Args:
        name: "auto" is CUDA where available, else the CPU, and under ``accelerate launch`` the
            device of this process; any other name as torch knows it.

    Raises:
        RecipeError: torch does not know the device, or it is not available or lacks float64.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        if (launched := launched_device()) is not None:
            return _with_float64(launched)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old names that it then refuses
            device = _with_float64(torch.device(name))
            torch.empty(1, device=device).cpu()  # "meta" has no values to give
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise RecipeError(f"device {name!r} cannot be used here ({reason}); try 'cpu'") from error
    return device


def _with_float64(device: torch.device) -> torch.device:
    if device.type == "mps":
        raise RecipeError(
            f"device {str(device)!r} lacks float64, which compression computes with; use 'cpu'"
        )
    return device


def memory_format_for(model: nn.Module) -> torch.memory_format:
    """Choose channels last, the fastest order for images; torch has it for 4 dimensions only.

    Example:
        >>> memory_format_for(nn.Conv2d(1, 1, 3)), memory_format_for(nn.Conv3d(1, 1, 3))
        (torch.channels_last, torch.preserve_format)
    """
    dimensions = {tensor.ndim for tensor in (*model.parameters(), *model.buffers())}
    return torch.preserve_format if 5 in dimensions else torch.channels_last


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Compile the forward pass of a model, once for each shape of input.

    Raises:
        RecipeError: there is no C++ compiler, which the CPU needs for it.
    """
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise RecipeError("training.compile needs a C++ compiler; install g++, or set it to false")
    return cast(nn.Module, torch.compile(model, dynamic=False))


def _cpu_fact(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return ""


def describe_device(device: torch.device) -> str:
    """Describe a device in words, for cards and tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        model = _cpu_fact("model name") or "CPU"
        threads = torch.get_num_threads()
        return f"{model}, {threads} thread{'s' if threads > 1 else ''}"
    return str(device)


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        flags = _cpu_fact("flags").split()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


def precision_for(model: nn.Module, precision: Precision) -> Precision:
    """Choose "fp32", no autocast, for "auto" and a model without float32 parameters.

    A model in bfloat16, float16 or float64 trains in its own type.

    Example:
        >>> precision_for(nn.Linear(1, 1), "auto"), precision_for(nn.Linear(1, 1).half(), "auto")
        ('auto', 'fp32')
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return "fp32" if precision == "auto" and torch.float32 not in types else precision


def autocast(
    device: torch.device, precision: Precision
) -> contextlib.AbstractContextManager[object]:
    """Return a context of bf16 autocast: for "bf16", and "auto" where the hardware has bf16.

    Example:
        >>> with autocast(torch.device("cpu"), "bf16"):
        ...     nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype
        torch.bfloat16
    """
    if precision == "bf16" or (precision == "auto" and _fast_bfloat16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
