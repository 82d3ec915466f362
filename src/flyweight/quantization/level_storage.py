"""Rounding of levels, scales and offsets to the type that a file stores."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor, rounded

__all__ = ["round_tables"]


def round_tables(tensor: CompressedTensor, dtype: torch.dtype) -> CompressedTensor:
    """Round the tables of a compressed tensor to ``dtype`` where that loses nothing essential.

    A table keeps its values if rounding would make one of them 0, move one by more than the
    resolution of ``dtype``, make two levels equal, or shift an offset by more than half a step.
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
    largest = tensor.levels.abs().max() if tensor.levels.numel() else tensor.levels
    levels = _rounded_if_close(tensor.levels, largest, dtype)
    if torch.unique(levels).numel() < torch.unique(tensor.levels).numel():
        levels = tensor.levels.clone()
    found = dataclasses.replace(tensor, levels=levels)
    if tensor.scales is None:
        return found
    scales = _rounded_if_close(tensor.scales, tensor.scales, dtype)
    found = dataclasses.replace(found, scales=scales)
    if tensor.offsets is not None:
        offsets = rounded(tensor.offsets, dtype)
        far = (offsets - tensor.offsets).abs() > tensor.scales / 2
        moved = bool((far & (tensor.scales > 0)).any())
        found = dataclasses.replace(found, offsets=tensor.offsets.clone() if moved else offsets)
    return found


def _rounded_if_close(table: Tensor, magnitudes: Tensor, dtype: torch.dtype) -> Tensor:
    """The table rounded, unless an entry moves by more than the resolution at its magnitude."""
    found = rounded(table, dtype)
    tolerance = torch.finfo(dtype).eps * magnitudes
    lost = ((found == 0) & (table != 0)) | ((found - table).abs() > tolerance)
    return table.clone() if bool(lost.any()) else found
