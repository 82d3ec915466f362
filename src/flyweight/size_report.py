"""Report where every byte of a ``.fly`` file goes, beside the order-0 entropy of its symbols.

The order-0 entropy is what a perfect code that treats each symbol by itself would take, its table
not counted. A coder that looks at neighbors can take less.

Example:

>>> import torch
>>> from flyweight.compressed import CompressedModel, CompressedTensor
>>> weight = CompressedTensor(torch.eye(8, dtype=torch.int32), torch.tensor([0.5]))
>>> report = inspect(CompressedModel({"weight": weight}).to_bytes())
>>> report
SizeReport(1 tensor, 64 elements, 52 bytes)
>>> report.rows[0].nonzeros
8
"""

from __future__ import annotations

import lzma
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight._tables import format_table
from flyweight.coding import (
    CodedTensor,
    PartKind,
    decode_dense,
    decode_shared,
    decode_tensor,
    entropy,
)
from flyweight.coding.forms import OWN_PARTS
from flyweight.coding.scalars import nonzero_count
from flyweight.compressed import give_shapes_, gradual_underflow
from flyweight.errors import ModelError
from flyweight.format import Reader
from flyweight.modules import Architecture

__all__ = ["SizeReport", "SizeRow", "inspect"]

_BLOCK = 1 << 20  # symbols counted at a time


@dataclass(frozen=True)
class SizeRow:
    """One tensor of a file.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
        dtype: of its values.
        encoding: "shared" for symbols and levels, "dense", "constant" or "alias".
        coder: of its symbols or dense values.
        parameters: number of elements (of buffers too: a file does not distinguish them); 0 for
            an alias, whose elements are counted where they are stored.
        nonzeros: how many of them are not zero.
        part_bytes: bytes of each part. Those of a group of tensors that are encoded as one are
            shared out in proportion to elements.
        entropy_bytes: order-0 entropy of the symbols, plus the bytes of codebook, scales, offsets
            and dense values.
        peer_bytes: bytes of the same values in other formats, see `inspect`.
        group: name of the first tensor of the group that it is encoded with; None without one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    coder: str
    parameters: int
    nonzeros: int
    part_bytes: Mapping[PartKind, int]
    entropy_bytes: float
    peer_bytes: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return sum(self.part_bytes.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits in the file for each element; 0 if there is none."""
        return 8 * self.total_bytes / self.parameters if self.parameters else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and totals as plain JSON types."""
        return asdict(self) | {
            "shape": list(self.shape),
            "total_bytes": self.total_bytes,
            "bits_per_weight": self.bits_per_weight,
        }


@dataclass(frozen=True, repr=False)
class SizeReport:
    """All tensors of a file, and what the file spends beside them; `str` gives a table.

    Attributes:
        rows: the tensors, in the order of the file.
        overhead: bytes of "header" (preamble included) and "checksums".
        peer_bytes: bytes of all tensors in other formats, see `inspect`.
    """

    rows: tuple[SizeRow, ...]
    overhead: Mapping[str, int]
    peer_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(row.total_bytes for row in self.rows)

    @property
    def overhead_bytes(self) -> int:
        """Bytes in no tensor."""
        return sum(self.overhead.values())

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return self.tensor_bytes + self.overhead_bytes

    @property
    def entropy_bytes(self) -> float:
        """Order-0 entropy of all tensors, plus the overhead."""
        return sum(row.entropy_bytes for row in self.rows) + self.overhead_bytes

    @property
    def part_bytes(self) -> dict[PartKind, int]:
        """Bytes of each part in all tensors."""
        totals: dict[PartKind, int] = {}
        for row in self.rows:
            for kind, size in row.part_bytes.items():
                totals[kind] = totals.get(kind, 0) + size
        return totals

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors; aliases add none."""
        return sum(row.parameters for row in self.rows)

    @property
    def nonzeros(self) -> int:
        """How many of them are not zero."""
        return sum(row.nonzeros for row in self.rows)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file for each element; 0 if there is none."""
        return 8 * self.total_bytes / self.parameters if self.parameters else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return rows and totals as plain JSON types."""
        return {
            "tensors": [row.to_dict() for row in self.rows],
            "overhead": dict(self.overhead),
            "part_bytes": self.part_bytes,
            "tensor_bytes": self.tensor_bytes,
            "overhead_bytes": self.overhead_bytes,
            "total_bytes": self.total_bytes,
            "entropy_bytes": self.entropy_bytes,
            "peer_bytes": dict(self.peer_bytes),
            "parameters": self.parameters,
            "nonzeros": self.nonzeros,
            "bits_per_weight": self.bits_per_weight,
        }

    def __repr__(self) -> str:
        tensors = f"{len(self.rows)} tensor{'' if len(self.rows) == 1 else 's'}"
        return f"SizeReport({tensors}, {self.parameters:,} elements, {self.total_bytes:,} bytes)"

    def __str__(self) -> str:
        columns = ("tensor", "shape", "zeros", "bytes", "bits/weight", "entropy")
        rows: list[tuple[str, ...]] = []
        for row in self.rows:
            zeros = _percent(row.parameters - row.nonzeros, row.parameters)
            shape = "x".join(map(str, row.shape)) or "scalar"
            if row.encoding == "alias":
                zeros, shape = "", "alias"
            rows.append((_ascii(row.name), shape, zeros, *_sizes(row)))
        for name, size in self.overhead.items():
            rows.append((name, "", "", f"{size:,}", "", f"{size:,}"))
        zeros = _percent(self.parameters - self.nonzeros, self.parameters)
        rows.append(("total", f"{self.parameters:,}", zeros, *_sizes(self)))
        table = format_table(columns, rows, text_columns=2)
        peers = (f"as {name}: {size:,} bytes" for name, size in self.peer_bytes.items())
        return "\n".join([table, *peers])


def _sizes(row: SizeRow | SizeReport) -> tuple[str, str, str]:
    bits = f"{row.bits_per_weight:.2f}" if row.parameters else ""
    return f"{row.total_bytes:,}", bits, f"{row.entropy_bytes:,.0f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else ""


def _ascii(name: str) -> str:
    """Escape control characters, which a terminal would obey, and what not every one shows."""
    return name.encode("unicode_escape").decode("ascii")


@gradual_underflow()
def inspect(
    source: str | os.PathLike[str] | bytes,
    *,
    architecture: Architecture | None = None,
    peers: bool = False,
) -> SizeReport:
    """Measure the size of every part of a ``.fly`` file. All tensors are decoded.

    Args:
        source: path of the file, or its bytes.
        architecture: a registered name, ``package.module:factory`` or a function; needed only
            where the file leaves names and shapes to an architecture that is not registered.
        peers: adds the bytes of the same values as "fp32" and "fp16"; and of symbols (in a byte
            or two each), codebooks, scales, offsets and dense values compressed by "xz -9e" and,
            where the package zstandard is installed, by "zstd -19".

    Returns:
        The report; ``print`` shows it as a table.

    Raises:
        FormatError: the file is damaged, or no ``.fly`` file.
        ModelError: the file leaves names and shapes to an architecture that is not known, or the
            source is no file.
        OSError: the file cannot be read.
    """
    if not isinstance(source, str | os.PathLike | bytes):
        raise ModelError(
            f"source is a {type(source).__name__}; save it first, and give the path of the file"
        )
    coders = _peer_coders() if peers else {}
    raw: list[bytes] = []
    with Reader(source) as reader:
        where = "the file" if isinstance(source, bytes) else os.fspath(source)
        give_shapes_(reader, architecture, where=where)
        reader.verify()
        firsts: dict[int, str] = {}
        shares: dict[int, list[dict[PartKind, int]]] = {}
        rows = []
        for tensor in reader.tensors():
            row = _row(tensor, coders, raw)
            if tensor.group is not None:
                key = id(tensor.group)
                if not tensor.member:  # ids are used again; the first comes first
                    firsts[key], shares[key] = tensor.name, _shares(tensor)
                own = {kind: len(tensor.parts.get(kind, b"")) for kind in OWN_PARTS}
                parts = {kind: size for kind, size in own.items() if size}
                parts |= shares[key][tensor.member]
                row = replace(row, part_bytes=parts, group=firsts[key])
                if tensor.encoding != "shared":
                    row = replace(row, entropy_bytes=float(row.total_bytes))
            rows.append(row)
        values = sum(row.parameters for row in rows)
        overhead = reader.overhead
    return SizeReport(tuple(rows), overhead, _peer_bytes(coders, values, b"".join(raw)))


def _shares(first: CodedTensor) -> list[dict[PartKind, int]]:
    """Share out the bytes of a group among its tensors, in proportion to their elements."""
    group = first.group
    assert group is not None
    ends = list(accumulate(group.rows, initial=0))
    return [
        {
            kind: len(part) * stop // ends[-1] - len(part) * start // ends[-1]
            for kind, part in group.parts.items()
        }
        for start, stop in pairwise(ends)
    ]


_PeerCoder = Callable[[bytes], bytes]


def _peer_coders() -> dict[str, _PeerCoder]:
    """Return general compressors of bytes, without the frame of a file around their output."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    coders: dict[str, _PeerCoder] = {
        "xz -9e": lambda raw: lzma.compress(raw, format=lzma.FORMAT_RAW, filters=filters)
    }
    try:
        import zstandard
    except ImportError:
        warnings.warn("zstd is left out: pip install zstandard to see it", stacklevel=4)
        return coders
    frame = zstandard.ZstdCompressor(level=19, write_checksum=False, write_content_size=False)
    return {"zstd -19": frame.compress} | coders


def _peer_bytes(coders: Mapping[str, _PeerCoder], values: int, raw: bytes) -> dict[str, int]:
    if not coders:
        return {}
    coded = {name: len(coder(raw)) if raw else 0 for name, coder in coders.items()}
    return {"fp32": 4 * values, "fp16": 2 * values} | coded


def _row(tensor: CodedTensor, coders: Mapping[str, _PeerCoder], raw: list[bytes]) -> SizeRow:
    """Return the row of a tensor; add its values, as the peers get them, to ``raw``."""
    parts = {kind: len(part) for kind, part in tensor.parts.items()}
    nonzeros, entropy_bytes, own = 0, float(tensor.stored_bytes), b""
    if tensor.encoding == "shared":
        symbols, levels = decode_shared(tensor)
        counts = _counts(symbols, tensor.levels + 1)
        tables = sum(parts.get(kind, 0) for kind in OWN_PARTS)
        entropy_bytes = tables + entropy(counts) / 8
        nonzeros = _nonzeros(tensor, counts, levels)
        if coders:
            narrow = symbols.astype("u1" if tensor.levels < 256 else "<u2")
            own = b"".join(tensor.parts.get(kind, b"") for kind in OWN_PARTS) + narrow.tobytes()
    elif tensor.encoding != "alias":
        values = decode_dense(tensor)
        nonzeros = nonzero_count(values, tensor.dtype)
        if coders and tensor.encoding == "dense":
            own = decode_dense(replace(tensor, dtype=tensor.storage)).tobytes()
        elif coders:
            own = tensor.parts.get("dense", b"")
    parameters = 0 if tensor.encoding == "alias" else prod(tensor.shape)
    if coders:
        raw.append(own)
    return SizeRow(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        encoding=tensor.encoding,
        coder=tensor.coder,
        parameters=parameters,
        nonzeros=nonzeros,
        part_bytes=parts,
        entropy_bytes=entropy_bytes,
        peer_bytes=_peer_bytes(coders, parameters, own),
    )


def _counts(symbols: NDArray[np.uint16], length: int) -> NDArray[np.int64]:
    """Count symbols block by block: `numpy.bincount` takes eight bytes a symbol."""
    flat = symbols.reshape(-1)
    counts = np.zeros(length, dtype=np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=length)
    return counts


def _nonzeros(tensor: CodedTensor, counts: NDArray[np.int64], levels: NDArray[Any]) -> int:
    if tensor.scaled:
        return nonzero_count(decode_tensor(tensor), tensor.dtype)
    zero = [not nonzero_count(levels[k : k + 1], tensor.dtype) for k in range(len(levels))]
    return int(counts[1:][~np.array(zero, dtype=bool)].sum())
