"""How a file stores what is not quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.compressed import CompressedModel, CompressedTensor, compress_module, rounded
from flyweight.errors import ModelError

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

    def __post_init__(self) -> None:
        most = MANTISSA_BITS.get(self.float_dtype)
        if most is None:
            known = ", ".join(MANTISSA_BITS)
            raise ModelError(f"float_dtype is one of {known}; found {self.float_dtype!r}")
        bits: Any = self.float_mantissa_bits
        if not isinstance(bits, int) or not 0 <= bits <= most:
            raise ModelError(
                f"float_mantissa_bits is from 0 to {most} for {self.float_dtype}; found {bits!r}"
            )

    @staticmethod
    def from_arguments(arguments: Any) -> FileStorage:
        """Return what keyword arguments say. Raises ModelError where one is not known.

        Example:
            >>> FileStorage.from_arguments({"float_dtype": "float16"}).float_mantissa_bits
            0
        """
        known = [field.name for field in dataclasses.fields(FileStorage)]
        if not isinstance(arguments, Mapping | None) or {*(arguments or {})} - {*known}:
            raise ModelError(f"storage= takes {', '.join(known)}; found {arguments!r}")
        return FileStorage(**(arguments or {}))

    def rounded(self, value: Tensor) -> Tensor:
        """Return a tensor as the file stores it."""
        return rounded(value.detach(), self.dtype, mantissa_bits=self.float_mantissa_bits)

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
