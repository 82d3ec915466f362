"""Weights from other people's files into a module, checked before anything is changed."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flyweight.errors import CheckpointError


__all__ = ["read_state_dict", "write_state_dict"]

def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` file or a torch checkpoint of plain tensors.

    A checkpoint that holds its tensors under ``state_dict`` or ``model`` is understood. Nothing
    in the file is executed. Raises CheckpointError for anything else.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
    if not path.exists():
        raise CheckpointError(
            f"there is no file {path}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a .safetensors file, or is damaged ({error})"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} is not a state dict of plain tensors, or is damaged; "
            "save `model.state_dict()`, since flyweight runs no code that a file asks for"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds no tensors by name; save `model.state_dict()`")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {name!r}, which is not a tensor; save `model.state_dict()`"
            )
    return dict(state)


def write_state_dict(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name as ``.safetensors``, whole or not at all.

    Tied tensors are written once for each name. Raises OSError where the disk is full.
    """
    path = Path(path)
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.tmp")
    try:
        save_file(separate, temporary)
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(None, f"cannot be written ({error})", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


