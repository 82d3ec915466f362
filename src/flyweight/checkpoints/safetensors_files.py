"""Read and write ``.safetensors`` files one tensor at a time.

The library checks a header, `json` reads the places of the tensors from it, and values are read
when they are asked for; the library itself writes only what is in memory as a whole. A file is
eight bytes for the length of the header, the header in JSON, and the raw tensors.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from flyweight.checkpoints.file_kinds import escaped
from flyweight.checkpoints.tensor_entries import (
    BITS_PREFIX,
    Checkpoint,
    TensorEntry,
    bits_entry,
    bytes_of_file,
)
from flyweight.coding import carrier
from flyweight.errors import CheckpointError

__all__ = ["SafetensorsWriter", "open_safetensors"]

_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}
_DTYPES = {dtype: name for name, dtype in _NAMES.items()}
_PREFIX = 8  # bytes of the length of the header
_ALIGNED = 8  # the header is padded to a multiple of it


def open_safetensors(path: Path) -> Checkpoint:
    """Read the header of a ``.safetensors`` file.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(path, "np") as checked:
            metadata = checked.metadata() or {}
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_PREFIX), "little")
            header = json.loads(file.read(length))
    except SafetensorError as error:
        raise CheckpointError(_defect(path, str(error))) from error
    header.pop("__metadata__", None)
    entries = []
    for name, described in header.items():
        kind, shape = described["dtype"], tuple(described["shape"])
        start, stop = described["data_offsets"]
        read_bytes = bytes_of_file(path, _PREFIX + length + start)
        if kind in _NAMES:
            entry = TensorEntry(name, _NAMES[kind], shape, stop - start, read_bytes)
        else:
            entry = bits_entry(name, kind, shape, stop - start, read_bytes)
        entries.append(entry)
    return Checkpoint(tuple(entries), metadata, (path,))


def _defect(path: Path, error: str) -> str:
    if "unknown variant" in error:
        _, _, rest = error.partition("unknown variant ")
        kind = escaped(rest.partition(",")[0])
        return (
            f"{escaped(path)} holds the data type {kind}, which the installed safetensors library "
            "does not know; upgrade it"
        )
    return (
        f"{escaped(path)} is not a .safetensors file, or is damaged ({escaped(error)}); "
        "copy or download it again"
    )


class SafetensorsWriter:
    """Write a ``.safetensors`` file tensor by tensor, in any order, holding none.

    Tensors of wider types come first in the file, so that all are aligned.

    Args:
        file: empty, and written from any place.
        outlines: name, dtype and shape of each tensor.
        metadata: strings for the header. Entries of `bits_metadata` are not written: they give
            tensors kept as bits their types again.

    Raises:
        CheckpointError: the format lacks a dtype.

    Example:
        >>> import io
        >>> from safetensors.numpy import load
        >>> file = io.BytesIO()
        >>> SafetensorsWriter(file, [("b", "float32", (2,))]).add("b", np.float32([1, 2]))
        >>> load(file.getvalue())
        {'b': array([1., 2.], dtype=float32)}
    """

    def __init__(
        self,
        file: BinaryIO,
        outlines: Iterable[tuple[str, str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._file = file
        metadata = dict(metadata or {})
        bit_types = {
            key.removeprefix(BITS_PREFIX): metadata.pop(key)
            for key in list(metadata)
            if key.startswith(BITS_PREFIX)
        }
        tensors = list(outlines)
        for name, dtype, _ in tensors:
            if dtype not in _DTYPES:
                raise CheckpointError(
                    f"tensor {name!r} is of {dtype}, which a .safetensors file cannot hold; "
                    "load the file with flyweight.load_state_dict instead"
                )
        header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        self._places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, dtype, shape in sorted(
            tensors, key=lambda outline: -carrier(outline[1]).itemsize
        ):
            length = prod(shape) * carrier(dtype).itemsize
            kind, extents = _DTYPES[dtype], list(shape)
            if name in bit_types:
                kind, *words = bit_types[name].split(" ")
                extents = [int(word) for word in words]
            places = [end, end + length]
            header[name] = {"dtype": kind, "shape": extents, "data_offsets": places}
            self._places[name] = (end, length)
            end += length
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % _ALIGNED)
        file.write(len(text).to_bytes(_PREFIX, "little") + text)
        self._start = _PREFIX + len(text)

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Write the values of a tensor, an array of the carrier of its dtype."""
        place, length = self._places.pop(name)
        if values.nbytes != length:
            raise ValueError(f"tensor {name!r} has {values.nbytes} bytes instead of {length}")
        if length:
            self._file.seek(self._start + place)
            self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
