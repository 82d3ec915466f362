"""Rounding of levels, scales and offsets to the type that a file stores."""

from __future__ import annotations

import dataclasses

import torch

from flyweight.compressed import CompressedTensor, rounded

__all__ = ["round_tables"]


def round_tables(tensor: CompressedTensor, dtype: torch.dtype) -> CompressedTensor:
    """Round the tables of a compressed tensor to ``dtype`` where that loses nothing essential.

    Tables are rounded by `flyweight.compressed.rounded`, which returns a table unchanged if a value
    would move by more than the precision of ``dtype``, relative to the largest magnitude. A table
    also keeps its values if rounding would make a level 0 or equal to another, move a scale by more
    than that precision, relative to itself, or shift an offset by more than half a step.
    Channels whose symbols are all 0 get a scale and an offset of 0, which every type holds.

    Example:
        >>> tensor = CompressedTensor(torch.tensor([1, 2]), torch.tensor([0.1, 1e-9]))
        >>> round_tables(tensor, torch.float16).levels.tolist() == tensor.levels.tolist()
        True
        >>> tensor = CompressedTensor(torch.tensor([1, 2]), torch.tensor([0.1, 0.5]))
        >>> round_tables(tensor, torch.float16).levels
        tensor([0.1000, 0.5000])
    """
    if tensor.scales is not None:
        used = (tensor.symbols > 0).flatten(1).any(1)
        tensor = dataclasses.replace(
            tensor,
            scales=tensor.scales * used,
            offsets=None if tensor.offsets is None else tensor.offsets * used,
        )
    levels = rounded(tensor.levels, dtype)
    fewer = torch.unique(levels).numel() < torch.unique(tensor.levels).numel()
    if fewer or bool(((levels == 0) & (tensor.levels != 0)).any()):
        levels = tensor.levels.clone()
    found = dataclasses.replace(tensor, levels=levels)
    if tensor.scales is None:
        return found
    scales = rounded(tensor.scales, dtype)
    far = (scales - tensor.scales).abs() > torch.finfo(dtype).eps * tensor.scales
    found = dataclasses.replace(found, scales=tensor.scales.clone() if bool(far.any()) else scales)
    if tensor.offsets is not None:
        offsets = rounded(tensor.offsets, dtype)
        far = (offsets - tensor.offsets).abs() > tensor.scales / 2
        moved = bool((far & (tensor.scales > 0)).any())
        found = dataclasses.replace(found, offsets=tensor.offsets.clone() if moved else offsets)
    return found
