"""Where every byte of a ``.fly`` file went, beside the least that the entropy allows.

The bound of symbols and of positions is their order-0 entropy: what a perfect code that treats
symbols alone would spend, tables not counted; a coder that looks at neighbours can spend less.
The other parts are their own bound.

Example:

>>> import numpy as np
>>> from flyweight.coding import encode_shared
>>> from flyweight.format import Container
>>> tensor = encode_shared("w", np.eye(8, dtype=int), levels=np.float32([0.5]))
>>> account = inspect(Container(tensors=(tensor,)))
>>> account.rows[0].nonzeros, account.total_bytes == account.tensor_bytes + account.overhead_bytes
(8, True)
"""

from __future__ import annotations

import lzma
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from flyweight.format import (
    Container,
    dumps,
    loads,
    Skeleton,
    overhead,
)

from flyweight.errors import FormatError

__all__ = ["SizeReport", "Row", "inspect"]


@dataclass(frozen=True)
class Row:
    """One tensor of a file.

    Attributes:
        name, shape, dtype, encoding: as in `CodedTensor`.
        parameters: number of elements (of buffers too: a file does not tell them apart); 0 for
            an alias, whose elements are counted where they are stored.
        nonzeros: how many of them are not zero.
        part_bytes: bytes of each part.
        bound_bytes: entropy bound of each part, in bytes; a fraction is kept.
        peer_bytes: what others make of the same values, where that was asked for: see `ledger`.
        joined_to: name of the tensor with which it is coded as one and which holds the values of
            both, bytes and bounds; None if the tensor holds its own.
        joined: number of elements of such tensors that this one holds beside its own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    parameters: int
    nonzeros: int
    part_bytes: Mapping[PartKind, int]
    bound_bytes: Mapping[PartKind, float]
    peer_bytes: Mapping[str, int] = field(default_factory=dict)
    joined_to: str | None = None
    joined: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of the tensor in the file."""
        return sum(self.part_bytes.values())

    @property
    def total_bound_bytes(self) -> float:
        """Entropy bound of the tensor, in bytes."""
        return sum(self.bound_bytes.values())

    @property
    def over_bound_percent(self) -> float:
        """What is stored beyond the bound, in per cent of the bound; 0 if that is 0."""
        bound = self.total_bound_bytes
        return 100 * (self.total_bytes / bound - 1) if bound else 0.0

    @property
    def bits_per_weight(self) -> float:
        """Bits in the file for each element whose values are here; 0 if there is none."""
        held = 0 if self.joined_to is not None else self.parameters + self.joined
        return 8 * self.total_bytes / held if held else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and totals as plain JSON types."""
        return asdict(self) | {
            "shape": list(self.shape),
            "total_bytes": self.total_bytes,
            "total_bound_bytes": self.total_bound_bytes,
            "over_bound_percent": self.over_bound_percent,
            "bits_per_weight": self.bits_per_weight,
        }


@dataclass(frozen=True)
class SizeReport:
    """All tensors of a file, and what the file spends beside them.

    ``overhead`` maps "header" (preamble included) and "checksums" to bytes. ``peer_bytes`` is of
    all tensors in one piece, which is kinder to the others than the sum over the rows.
    """

    rows: tuple[Row, ...]
    overhead: Mapping[str, int]
    peer_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def tensor_bytes(self) -> int:
        """Bytes in the parts of all tensors."""
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
    def total_bound_bytes(self) -> float:
        """Entropy bound of all tensors, plus the overhead."""
        return sum(row.total_bound_bytes for row in self.rows) + self.overhead_bytes

    @property
    def over_bound_percent(self) -> float:
        """What the file has beyond the bound, in per cent of the bound; 0 if that is 0."""
        bound = self.total_bound_bytes
        return 100 * (self.total_bytes / bound - 1) if bound else 0.0

    @property
    def parameters(self) -> int:
        """Number of elements stored."""
        return sum(row.parameters for row in self.rows)

    @property
    def nonzeros(self) -> int:
        """Number of elements stored that are not zero."""
        return sum(row.nonzeros for row in self.rows)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file for each element; 0 if there is none."""
        return 8 * self.total_bytes / self.parameters if self.parameters else 0.0

    @property
    def part_bytes(self) -> dict[PartKind, int]:
        """Bytes of each kind of part over all tensors."""
        totals: dict[PartKind, int] = {}
        for row in self.rows:
            for kind, size in row.part_bytes.items():
                totals[kind] = totals.get(kind, 0) + size
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Return rows and totals as plain JSON types."""
        return {
            "tensors": [row.to_dict() for row in self.rows],
            "overhead": dict(self.overhead),
            "part_bytes": self.part_bytes,
            "tensor_bytes": self.tensor_bytes,
            "overhead_bytes": self.overhead_bytes,
            "total_bytes": self.total_bytes,
            "total_bound_bytes": self.total_bound_bytes,
            "over_bound_percent": self.over_bound_percent,
            "peer_bytes": dict(self.peer_bytes),
            "parameters": self.parameters,
            "nonzeros": self.nonzeros,
            "bits_per_weight": self.bits_per_weight,
        }


def inspect(
    source: Container | bytes | str | os.PathLike[str],
    *,
    skeleton: Skeleton | None = None,
    peers: bool = False,
) -> SizeReport:
    """Return the account of a container, of the bytes of a file, or of the file at a path.

    Every tensor is decoded. ``skeleton`` gives names and shapes where the file leaves them to
    its architecture. With ``peers`` the account also says what the same tensors take elsewhere:
    as "fp32" and "fp16" values, and their symbols (a byte each, or two), codebooks, scales,
    offsets and dense values as coded by "xz -9e" and, where the package zstandard is installed, by
    "zstd -19".

    Raises `FormatError` if the file is damaged.
    """
    if isinstance(source, Container):
        data = dumps(source)
    elif isinstance(source, bytes):
        data = source
    else:
        data = Path(source).read_bytes()
    coders = _peer_coders() if peers else {}
    raw: list[bytes] = []
    try:
        tensors = loads(data, skeleton=skeleton).tensors
        rows = _with_their_heads(tensors, [_row(tensor, coders, raw) for tensor in tensors])
        beside = overhead(data, skeleton=skeleton)
    except FormatError as error:
        if isinstance(source, (Container, bytes)):
            raise
        raise FormatError(f"{os.fspath(source)}: {error}") from error
    values = sum(row.parameters for row in rows)
    return SizeReport(rows, beside, _peer_bytes(coders, values, b"".join(raw)))


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
        warnings.warn("zstd is left out: pip install zstandard to see it", stacklevel=3)
        return coders
    frame = zstandard.ZstdCompressor(level=19, write_checksum=False, write_content_size=False)
    return {"zstd -19": frame.compress} | coders


def _peer_bytes(coders: Mapping[str, _PeerCoder], values: int, raw: bytes) -> dict[str, int]:
    if not coders:
        return {}
    coded = {name: len(coder(raw)) if raw else 0 for name, coder in coders.items()}
    return {"fp32": 4 * values, "fp16": 2 * values} | coded


def _row(tensor: CodedTensor, coders: Mapping[str, _PeerCoder], raw: list[bytes]) -> Row:
    """Return the row of a tensor; add its values, as the peers get them, to ``raw``."""
    bounds: dict[PartKind, float] = {kind: len(part) for kind, part in tensor.parts.items()}
    nonzeros, own = 0, b""
    if tensor.encoding == "shared":
        symbols, levels = decode_shared(tensor)
        counts = np.bincount(symbols.ravel(), minlength=tensor.levels + 1)
        if tensor.scaled:
            nonzeros = nonzero_count(decode_tensor(tensor), tensor.dtype)
        else:
            level_is_zero = [
                nonzero_count(levels[k : k + 1], tensor.dtype) == 0 for k in range(len(levels))
            ]
            nonzeros = int(counts[1:][~np.array(level_is_zero, dtype=bool)].sum())
        tables = (tensor.joint or tensor).parts["tables"]
        zeros_apart = tensor.coder == "plain" and tables[:1] != b"\0"
        bounds["symbols"] = entropy(counts[1:] if zeros_apart else counts) / 8
        if zeros_apart:
            bounds["positions"] = entropy([counts[0], tensor.size - counts[0]]) / 8
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
    parameters = 0 if tensor.encoding == "alias" else tensor.size
    if coders:
        raw.append(own)
    return Row(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        encoding=tensor.encoding,
        parameters=parameters,
        nonzeros=nonzeros,
        part_bytes={kind: len(part) for kind, part in tensor.parts.items()},
        bound_bytes=bounds,
        peer_bytes=_peer_bytes(coders, parameters, own),
    )


def _with_their_heads(tensors: Sequence[CodedTensor], rows: list[Row]) -> tuple[Row, ...]:
    """Move the bounds of joined tensors to the row that has their bytes."""
    heads: dict[int, int] = {}
    for place, (tensor, row) in enumerate(zip(tensors, rows, strict=True)):
        if tensor.joint is None:
            continue
        head = heads.setdefault(id(tensor.joint), place)
        if head == place:
            continue
        own = {kind: row.bound_bytes[kind] for kind in tensor.parts}
        bounds = dict(rows[head].bound_bytes)
        for kind in row.bound_bytes.keys() - own:
            bounds[kind] += row.bound_bytes[kind]
        joined = rows[head].joined + row.parameters
        rows[head] = replace(rows[head], bound_bytes=bounds, joined=joined)
        rows[place] = replace(row, bound_bytes=own, joined_to=rows[head].name)
    return tuple(rows)
