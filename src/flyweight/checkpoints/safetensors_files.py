"""Read and write ``.safetensors`` one tensor at a time, so that memory holds one at a time.

The library of that name maps or loads files whole and writes them from memory; its format is
eight bytes for the length of a JSON header, the header, and the raw tensors. Numbers are as
`flyweight.coding.carrier` has them: bfloat16 comes as uint16, the float8 types as uint8.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from flyweight.coding import carrier
from flyweight.coding.forms import MAX_ELEMENTS, MAX_RANK
from flyweight.errors import CheckpointError

__all__ = ["Checkpoint", "SafetensorsWriter", "TensorEntry", "open_checkpoint", "read_values"]

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
_LONGEST_HEADER = 100_000_000  # bytes, as in the library
_INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: ``offset`` and ``length`` in bytes of the file at ``path``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    length: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint in order, and what it says about itself."""

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.length for entry in self.entries)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """What a ``.safetensors`` file holds, or the shards that an index file or a folder names.

    Reads the headers alone. Raises CheckpointError where a file is damaged, a shard is missing, or
    a folder holds no checkpoint or several.
    """
    path = Path(path)
    if path.is_dir():
        path = _within(path)
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if path.name.endswith(_INDEX) or path.suffix == ".json":
        return _open_shards(path)
    return _open_file(path)


def _within(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{_INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        what = "no" if not found else f"{len(found)}"
        raise CheckpointError(f"{folder} holds {what} safetensors checkpoints; name one file")
    return found[0]


def _open_shards(index: Path) -> Checkpoint:
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
        places = dict(document["weight_map"])
        stated = document.get("metadata") or {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors shards") from error
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    for shard in sorted(set(map(str, places.values()))):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names the shard {shard!r}, which is in another folder")
        if not os.path.isfile(index.parent / shard):  # noqa: PTH113 - takes names of any length
            raise CheckpointError(f"{index} names the shard {shard!r}, which is missing")
        part = _open_file(index.parent / shard)
        metadata |= part.metadata
        entries |= {entry.name: entry for entry in part.entries if places.get(entry.name) == shard}
    for name in places:
        if name not in entries:
            raise CheckpointError(f"{index} names the tensor {name!r}, which its shard lacks")
    if isinstance(stated, dict):
        metadata |= {str(key): str(value) for key, value in stated.items() if key != "total_size"}
    return Checkpoint(tuple(entries[name] for name in places), metadata)


def _open_file(path: Path) -> Checkpoint:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("it is too short for its header")
            header = json.loads(file.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        return _entries(header, path, 8 + length, size)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a .safetensors file, or is damaged ({error})"
        ) from error


def _entries(header: dict[str, Any], path: Path, start: int, size: int) -> Checkpoint:
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not text")
    entries = []
    for name, told in header.items():
        try:
            dtype, shape, (begin, end) = told["dtype"], tuple(told["shape"]), told["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"tensor {name!r} is not described") from None
        numbers = (*shape, begin, end)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"tensor {name!r} has a shape or a place that is no whole number")
        if not isinstance(dtype, str) or dtype not in _NAMES:
            raise ValueError(f"tensor {name!r} has the unknown dtype {dtype!r}")
        if len(shape) > MAX_RANK or max(shape, default=0) > MAX_ELEMENTS:  # too slow to multiply
            raise ValueError(f"tensor {name!r} has too many dimensions, or too large ones")
        if prod(max(extent, 1) for extent in shape) > MAX_ELEMENTS:
            raise ValueError(f"tensor {name!r} has a shape of more than 2**40 elements")
        if end - begin != prod(shape) * carrier(_NAMES[dtype]).itemsize or start + end > size:
            raise ValueError(f"tensor {name!r} does not lie within the file")
        entry = TensorEntry(name, _NAMES[dtype], shape, path, start + begin, end - begin)
        entries.append(entry)
    end = start
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.length)):
        if entry.offset != end:
            raise ValueError(f"tensor {entry.name!r} overlaps another or leaves a gap")
        end += entry.length
    if end != size:
        raise ValueError("bytes follow the last tensor")
    return Checkpoint(tuple(entries), metadata)


def read_values(entry: TensorEntry) -> NDArray[Any]:
    """The values of a tensor, as an array of the carrier of its dtype.

    Raises CheckpointError where the file has become shorter.
    """
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        values = np.fromfile(file, dtype=carrier(entry.dtype), count=entry.size)
    if values.size != entry.size:
        raise CheckpointError(f"{entry.path} was cut short while it was read")
    return values.reshape(entry.shape)


class SafetensorsWriter:
    """Write tensors in an order that is known beforehand, holding none.

    ``outlines`` gives name, dtype and shape of each. Raises CheckpointError for a dtype that the
    format lacks.
    """

    def __init__(
        self,
        file: BinaryIO,
        outlines: Iterable[tuple[str, str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._file = file
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._expected: list[tuple[str, int]] = []
        end = 0
        for name, dtype, shape in outlines:
            if dtype not in _DTYPES:
                raise CheckpointError(f"tensor {name!r}: safetensors has no dtype {dtype}")
            length = prod(shape) * carrier(dtype).itemsize
            places = [end, end + length]
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": places}
            self._expected.append((name, length))
            end += length
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        self._written = 0

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Write the next tensor."""
        expected, length = self._expected[self._written]
        if (name, values.nbytes) != (expected, length):
            raise ValueError(f"{name!r} of {values.nbytes} bytes comes where {expected!r} should")
        self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        self._written += 1
