"""Training states on disk: written whole or not at all, and read without running any code."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from flyweight.errors import CheckpointError

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to ``path`` by way of a temporary file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # torch tells a full disk by RuntimeError, Python by OSError
    torch.save(state, buffer)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getbuffer())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote. Raises CheckpointError for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no training state at {path}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} is not a training state or is damaged; delete it and start again"
        ) from error
    return state
