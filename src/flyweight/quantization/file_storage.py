"""How a file stores what is not quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.compressed import CompressedModel, CompressedTensor, compress_module

__all__ = ["MANTISSA_BITS", "FileStorage", "FloatDtype"]

FloatDtype = Literal["bfloat16", "float16", "float32"]
#: Bits of the mantissa, without the implied first 1.
MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 23}


@dataclasses.dataclass(frozen=True)
class FileStorage:
    """How a file stores what is not quantized; see `flyweight.Quantizer.finalize`."""

    fold_batch_norm: bool = True
    float_dtype: FloatDtype = "float32"
    float_mantissa_bits: int = 0
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The type of floats."""
        found: torch.dtype = getattr(torch, self.float_dtype)
        return found

    def compress(
        self, model: nn.Module, quantized: Mapping[str, CompressedTensor]
    ) -> CompressedModel:
        """Return the compressed model of a module with plain weights, which is changed.

        Example:
            >>> FileStorage(float_dtype="float16").compress(nn.Linear(1, 1), {})["bias"].shape
            torch.Size([1])
        """
        if self.fold_batch_norm:
            fold_batch_norms_(model)
        return compress_module(
            model,
            quantized,
            float_dtype=self.float_dtype,
            float_mantissa_bits=self.float_mantissa_bits,
            metadata=self.metadata,
        )
