"""Hash the state of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["add_network_"]


def add_network_(digest: _Hash, network: nn.Module) -> None:
    """Update a `hashlib` digest with the names and bytes of all tensors in a network's state.

    What `torch.nn.Module.get_extra_state` returns is left out where it is no tensor, since other
    objects have no bytes that are the same in every process.

    Example:
        >>> import hashlib
        >>> digest = hashlib.sha256()
        >>> add_network_(digest, nn.ReLU())  # has no state
        >>> digest.digest() == hashlib.sha256().digest()
        True
    """
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            data = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(name.encode())
            digest.update(data.numpy().data)
