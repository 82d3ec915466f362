"""States of training on disk: written atomically, checksummed, read without running any code."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from flyweight._files import replacing
from flyweight.errors import CheckpointError

__all__ = ["read_checkpoint", "write_checkpoint"]

_MAGIC = b"flyweight training state 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values with a checksum, whole or not at all.

    Args:
        state: a dict, nested as liked.
        path: file to write or replace; its folder is created where necessary.

    Raises:
        OSError: it cannot be written; a file that was there before stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint({"epoch": 3}, Path(folder) / "state.pt")
        ...     [path.name for path in Path(folder).iterdir()]
        ['state.pt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()  # torch reports a full disk by RuntimeError, Python by OSError
    torch.save(state, content)
    payload = content.getbuffer()
    with replacing(path) as file:
        file.write(_MAGIC + hashlib.sha256(payload).digest())
        file.write(payload)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state that `write_checkpoint` wrote, onto the CPU.

    Raises:
        CheckpointError: there is no file, it is damaged, or it is something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint({"epoch": 3}, Path(folder) / "state.pt")
        ...     read_checkpoint(Path(folder) / "state.pt")
        {'epoch': 3}
    """
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; give the file of a training state") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); give the file of a training state"
        ) from error
    start = len(_MAGIC) + _DIGEST_SIZE
    if content[: len(_MAGIC)] != _MAGIC:
        raise CheckpointError(
            f"{path} is not a training state of this version; delete it and start again"
        )
    if hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        raise CheckpointError(
            f"{path} is damaged: its checksum is wrong; delete it and start again"
        )
    try:
        state = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except Exception as error:  # a forged pickle can raise anything
        raise CheckpointError(
            f"{path} is not a training state of plain tensors; delete it and start again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} and no training state, which is a dict; "
            "delete it and start again"
        )
    return state
