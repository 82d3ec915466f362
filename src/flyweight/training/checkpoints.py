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
    """Write tensors and plain values to ``path`` by way of a temporary file beside it.

    Raises OSError where it cannot be written; what was there before then stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint({"epoch": 3}, Path(folder) / "state.pt")
        ...     [path.name for path in Path(folder).iterdir()]
        ['state.pt']
    """
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
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises CheckpointError for anything else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint({"epoch": 3}, Path(folder) / "state.pt")
        ...     read_checkpoint(Path(folder) / "state.pt")
        {'epoch': 3}
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no training state at {path}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} is not a training state or is damaged; delete it and start again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} and is not a training state, which is a dict; "
            "delete it and start again"
        )
    return state
