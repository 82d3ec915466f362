"""Tensors before entropy coding: checked integers, and the tables that are stored as they are.

`groups` decides on these which small tensors to encode together, so that nothing is encoded, or
decoded again, to be grouped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.channels import SCALED_DTYPES, all_finite
from flyweight.coding.forms import MAX_LEVELS, OWN_PARTS, CodedTensor, TensorFields
from flyweight.coding.lossless import ExactLevels, dense_forms, exact_levels
from flyweight.coding.scalars import all_equal, carrier, negative_count, pack_scalars
from flyweight.coding.symbols import (
    SYMBOL_CODERS,
    Coder,
    Effort,
    PartKind,
    SymbolCoder,
    pack_symbols,
)
from flyweight.errors import ModelError

__all__ = [
    "UncodedTensor",
    "prepare_dense",
    "prepare_lossless",
    "prepare_shared",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class UncodedTensor(TensorFields):
    """A tensor of which only the symbols or dense values are still to be encoded.

    Its coder is not chosen yet.

    Attributes:
        symbols: of a shared tensor, in its shape; empty for the others.
        negatives: how many levels are below zero.
        own: codebook, scales and offsets as stored.
        raw: dense values as stored, one value of a constant, none of a constant of zero bits.
    """

    symbols: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    negatives: int = 0
    own: Mapping[PartKind, bytes] = field(default_factory=dict)
    raw: bytes = b""

    def coded(self, parts: Mapping[PartKind, bytes], coder: Coder) -> CodedTensor:
        """Return the coded tensor of these parts, its own tables added."""
        return CodedTensor(**self.common() | {"coder": coder}, parts={**parts, **self.own})

    def encode(
        self, *, effort: Effort = "smallest", coder: Coder | None = None, exact: bool = True
    ) -> CodedTensor:
        """Encode the tensor by itself.

        Args:
            effort: of the search for the smallest coding.
            coder: regardless of its bytes; None takes what gives fewest. A dense tensor may be
                encoded as symbols and levels by a coder of these.
            exact: False encodes a dense tensor as such if ``coder`` is None.
        """
        if self.encoding == "shared":
            only = None if coder is None else _symbol_coder(self.name, coder)
            used, parts = self._symbols(effort, only)
            return self.coded(parts, used)
        if self.encoding == "constant":
            return self.coded({"dense": self.raw}, "raw")
        if coder in SYMBOL_CODERS:
            only = _symbol_coder(self.name, coder)
            symbols = self._exact(effort, only, 1 << 62)
            if symbols is None:
                raise ModelError(f"tensor {self.name!r} has too many values for {coder!r}.")
            return symbols
        best: CodedTensor | None = None
        for form, parts in dense_forms(self.raw, self.storage, effort, coder):
            if best is None or sum(map(len, parts.values())) < best.stored_bytes:
                best = self.coded(parts, form)
        assert best is not None
        if exact and coder is None:
            symbols = self._exact(effort, None, best.stored_bytes)
            if symbols is not None and symbols.stored_bytes < best.stored_bytes:
                return symbols
        return best

    def _symbols(
        self, effort: Effort, only: SymbolCoder | None
    ) -> tuple[SymbolCoder, dict[PartKind, bytes]]:
        return pack_symbols(
            self.symbols, self.levels, negatives=self.negatives, effort=effort, only=only
        )

    def _exact(self, effort: Effort, only: SymbolCoder | None, at_most: int) -> CodedTensor | None:
        """Encode dense values as symbols and levels, unless these take ``at_most`` bytes."""
        found = exact_levels(self.stored(), self.storage, at_most)
        if found is None:
            return None
        return self.as_symbols(found.symbols, found).encode(effort=effort, coder=only)

    def as_symbols(self, symbols: NDArray[Any], found: ExactLevels) -> UncodedTensor:
        """Return a dense tensor as these symbols of the levels that were found."""
        return replace(
            self,
            encoding="shared",
            symbols=symbols.reshape(self.shape),
            levels=found.levels.size,
            negatives=found.negatives,
            own={"codebook": found.levels.tobytes()},
            raw=b"",
        )

    def stored(self) -> NDArray[Any]:
        """Return dense values, 1-D, as the carrier of their storage dtype."""
        return np.frombuffer(self.raw, dtype=carrier(self.storage))


def _symbol_coder(name: str, coder: Coder) -> SymbolCoder:
    if coder not in SYMBOL_CODERS:
        raise ModelError(f"tensor {name!r}: symbols take {', '.join(SYMBOL_CODERS)}, not {coder}.")
    return coder


def prepare_shared(
    name: str,
    symbols: ArrayLike,
    *,
    levels: ArrayLike,
    scales: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    dtype: str = "float32",
    storage: str | None = None,
) -> UncodedTensor:
    """Check the symbols and tables of a quantized tensor; see `tensors.encode_shared`.

    Raises:
        ModelError: a file cannot hold them.
    """
    symbols = np.asarray(symbols)
    values = np.asarray(levels)
    if values.ndim != 1 or values.size > MAX_LEVELS:
        raise ModelError(f"tensor {name!r}: levels must be 1-D and at most {MAX_LEVELS} long.")
    if symbols.size and not np.issubdtype(symbols.dtype, np.integer):
        raise ModelError(f"tensor {name!r}: symbols must be integers, not {symbols.dtype}.")
    if symbols.size and not (symbols.min() >= 0 and symbols.max() <= values.size):
        raise ModelError(f"tensor {name!r}: symbols must lie in 0..{values.size}.")
    symbols = symbols.astype(np.uint8 if values.size < 256 else np.uint16, order="C", copy=False)
    own, storage = _pack_own(name, symbols, (values, scales, offsets), dtype, storage)
    return UncodedTensor(
        name=name,
        shape=symbols.shape,
        dtype=dtype,
        encoding="shared",
        storage=storage,
        symbols=symbols,
        levels=values.size,
        negatives=negative_count(values, dtype),
        own=own,
    )


def _pack_own(
    name: str,
    symbols: NDArray[Any],
    tables: tuple[ArrayLike | None, ...],
    dtype: str,
    storage: str | None,
) -> tuple[dict[PartKind, bytes], str]:
    """Return codebook, scales and offsets, as far as there are, in one storage dtype for all."""
    arrays = [np.asarray(table) for table in tables if table is not None]
    if len(arrays) > 1:
        if tables[1] is None:
            raise ModelError(f"tensor {name!r}: offsets need scales.")
        if not symbols.ndim or any(array.shape != symbols.shape[:1] for array in arrays[1:]):
            raise ModelError(
                f"tensor {name!r} has {symbols.shape[:1]} channels, and scales or offsets of "
                f"shapes {[array.shape for array in arrays[1:]]}."
            )
        if dtype not in SCALED_DTYPES:
            raise ModelError(f"tensor {name!r} of dtype {dtype} cannot have scales.")
        if not all(all_finite(array, dtype) for array in arrays):
            raise ModelError(f"tensor {name!r} has levels, scales or offsets that are not finite.")
    raw, storage = pack_scalars(np.concatenate(arrays), dtype, storage)
    own: dict[PartKind, bytes] = {}
    for kind, array in zip(OWN_PARTS, arrays, strict=False):
        length = array.size * carrier(storage).itemsize
        own[kind], raw = raw[:length], raw[length:]
    return own, storage


def prepare_dense(
    name: str, values: ArrayLike, *, dtype: str, storage: str | None = None
) -> UncodedTensor:
    """Pack the values of a tensor, of the carrier of ``dtype``.

    ``storage`` is the dtype of the stored bytes; None takes the narrowest that is exact.
    """
    values = np.asarray(values)
    raw, storage = pack_scalars(values, dtype, storage)
    return UncodedTensor(
        name=name, shape=values.shape, dtype=dtype, encoding="dense", storage=storage, raw=raw
    )


def prepare_lossless(
    name: str, values: ArrayLike, *, dtype: str, storage: str | None = None
) -> UncodedTensor:
    """Pack the values of a tensor as a constant if they all have the same bits, else as dense."""
    dense = prepare_dense(name, values, dtype=dtype, storage=storage)
    item = carrier(dense.storage).itemsize
    if not dense.raw or not all_equal(dense.stored()):
        return dense
    first = dense.raw[:item]
    return UncodedTensor(
        name=name,
        shape=dense.shape,
        dtype=dtype,
        encoding="constant",
        storage=dense.storage,
        raw=first if any(first) else b"",
    )
