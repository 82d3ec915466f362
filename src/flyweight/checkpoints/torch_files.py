"""Read state dicts that ``torch.save`` wrote, without running code that they name."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flyweight.checkpoints.file_kinds import escaped
from flyweight.checkpoints.tensor_entries import Checkpoint, entry_of_tensor
from flyweight.errors import CheckpointError

__all__ = ["open_torch"]

# Where training programs put the state dict of the model, the first choice first.
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "module")
_DEPTH = 4  # of such nesting
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def open_torch(path: Path) -> Checkpoint:
    """Read a state dict of plain tensors, which may be nested in a training checkpoint.

    Values of the zip form are mapped from the file, not read into memory.

    Raises:
        CheckpointError: the file holds something else, asks for code to be run, or is damaged.
    """
    state = _load(path)
    for _ in range(_DEPTH):
        if not isinstance(state, Mapping) or all(isinstance(v, Tensor) for v in state.values()):
            break
        nested = [key for key in _NESTED if isinstance(state.get(key), Mapping)]
        if not nested:
            break
        state = state[nested[0]]
    where = escaped(path)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{where} holds no tensors by name; save `model.state_dict()`")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{where} holds {name!r}, which is not a tensor; save `model.state_dict()`"
            )
    try:
        entries = tuple(entry_of_tensor(name, value) for name, value in state.items())
    except CheckpointError as error:
        raise CheckpointError(f"{where} cannot be used: {error}") from error
    return Checkpoint(entries, {}, (path,))


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        named = _GLOBAL.search(str(error))
        found = f" (it names the code {named[1]})" if named else ""
        raise CheckpointError(
            f"{escaped(path)} is not a state dict of plain tensors{found}, or is damaged; "
            "save `model.state_dict()`, since flyweight runs no code that a file asks for"
        ) from error
