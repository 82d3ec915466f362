"""Reads a hostile file by every decoder that takes it, and finds fault.

A decoder may return a value or raise `FormatError` (`CheckpointError` for a checkpoint). Anything
else is a finding: another error, a warning, more than a second, too much memory, two readers or
two engines of a decoder that disagree.

Memory: what Python and NumPy hold at most while a tensor is decoded may be four times what its
file declares, and so at most four times what the limits in `docs/format.md` allow: the bytes of
the file, and for each element its bytes and, in a shared tensor, two for its symbol. To this
comes `SPARE` once, for look-up tables, whose size depends on nothing that a file says.
"""

from __future__ import annotations

import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from cases import Case
from corpus import checkpoint, coded_arrays, grouped, seeds
from sealing import sealed

from flyweight.checkpoints import open_checkpoint
from flyweight.coding import (
    DTYPES,
    CodedTensor,
    carrier,
    decode,
    decode_tensor,
)
from flyweight.coding.context.stream import decode_context
from flyweight.coding.interleaved import decode_interleaved
from flyweight.coding.planes import decode_planes
from flyweight.coding.positions import bounded_size
from flyweight.coding.rans.stream import decode_rans
from flyweight.coding.varint import ByteReader
from flyweight.errors import CheckpointError, FormatError, ModelError
from flyweight.format import Reader, loads
from flyweight.io import decompress, load_state_dict
from flyweight.size_report import inspect

__all__ = ["DECODERS", "MOST_SECONDS", "Judge", "Tally"]

DECODERS = (
    *(
        "file",
        "reader",
        "inspect",
        "load_state_dict",
        "decompress",
        "huffman",
        "positions",
        "interleaved",
        "rans",
    ),
    *("context of kernels", "context of energies", "planes", "dense", "constant", "grouped"),
    "scaled",
    *("array of planes", "array of interleaved", "array of rans", "array of context"),
    *("safetensors", "shards"),
)
MOST_SECONDS = 1.0
MOST_RATIO = 4
SPARE = 2 << 20
_PLAINLY = 5000  # elements: of more, loops in Python take too long
_PLAINLY_IN_CONTEXT = 700
_REFUSED = object()


@dataclass
class Tally:
    """What came of some cases."""

    cases: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, int]] = field(default_factory=dict)
    largest: dict[str, tuple[float, int]] = field(default_factory=dict)
    findings: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what came of other cases."""
        self.cases += other.cases
        self.kinds += other.kinds
        self.accepted += other.accepted
        self.refused += other.refused
        self.findings += other.findings
        for mine, theirs in ((self.slowest, other.slowest), (self.largest, other.largest)):
            for decoder, found in theirs.items():
                mine[decoder] = max(found, mine.get(decoder, found))


class Judge:
    """Gives cases to the decoders; ``folder`` is an empty one for files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tally = Tally()
        self.number = 0
        self.kind = ""
        self.refused = False

    def start(self) -> None:
        """Decode what is sound, so that no case pays for the start of a compiler."""
        (self.folder / "a.safetensors").write_bytes(checkpoint())
        for tensors in seeds().values():
            for tensor in tensors:
                self.judge(0, Case("sound", "file", sealed([tensor])))
        for tensors in grouped():
            self.judge(0, Case("sound", "file", sealed(tensors)))
        for data in coded_arrays():
            self.judge(0, Case("sound", "array", data))
        wrong = [what for _, what in self.tally.findings if " took " not in what]
        del self.tally.refused["decompress"]  # safetensors has no complex128
        if wrong or any(self.tally.refused.values()):
            raise AssertionError(f"sound files are not read: {wrong}, {self.tally.refused}")
        self.tally = Tally()

    def judge(self, number: int, case: Case) -> None:
        """Read a case and add what comes of it to the tally."""
        self.number, self.kind, self.refused = number, case.kind, False
        self.tally.cases += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            {
                "file": self._file,
                "array": self._array,
                "safetensors": self._checkpoint,
                "shards": self._checkpoint,
            }[case.reader](case)
        self.tally.kinds[case.kind, "refused" if self.refused else "accepted"] += 1

    def _find(self, what: str) -> None:
        self.tally.findings.append((self.number, f"{self.kind}: {what}"))

    def _attempt(self, decoder: str, declared: int, work: Callable[[], Any]) -> Any:
        """Return what ``work`` returns, or that it refused the bytes."""
        tracemalloc.start()
        seconds, result = _timed(work)
        ratio = tracemalloc.get_traced_memory()[1] / (declared + SPARE)
        tracemalloc.stop()
        if seconds > MOST_SECONDS:  # tracing takes time
            seconds, result = _timed(work)
        if seconds > MOST_SECONDS:
            self._find(f"{decoder}: took {seconds:.1f} s")
        if ratio > MOST_RATIO:
            self._find(f"{decoder}: took {ratio:.1f} times the {declared} bytes declared")
        if isinstance(result, Exception):
            self._find(f"{decoder}: {type(result).__name__}: {str(result)[:300]}")
        refused = result is _REFUSED or isinstance(result, Exception)
        (self.tally.refused if refused else self.tally.accepted)[decoder] += 1
        self.refused |= refused
        for record, value in ((self.tally.slowest, seconds), (self.tally.largest, ratio)):
            record[decoder] = max((value, self.number), record.get(decoder, (0.0, 0)))
        return result

    def _file(self, case: Case) -> None:
        data, size = case.data, len(case.data) + case.declared

        def parts() -> tuple[CodedTensor, ...]:
            with Reader(data, shapes=case.shapes) as reader:
                names = [outline.name for outline in reader.outlines]
                tensors = {name: reader.tensor(name) for name in reversed(names)}
                reader.verify()
                return tuple(tensors[name] for name in names)

        def whole() -> tuple[CodedTensor, ...]:
            return loads(data, shapes=case.shapes).tensors

        tensors = self._attempt("file", size, whole)
        if self.number % 4 == 0 and self._attempt("reader", size, parts) != tensors:
            self._find("the file read whole and tensor by tensor is not the same")
        if self.number % 8 == 0:
            self._public(data, size, tensors)
        if not isinstance(tensors, tuple):
            return
        for tensor in tensors:
            if tensor.encoding != "alias":
                self._tensor(tensor)

    def _public(self, data: bytes, size: int, tensors: Any) -> None:
        """Read a file by the functions that users call; bare ones lack their architecture."""
        for tensor in tensors if isinstance(tensors, tuple) else ():
            size += carrier(tensor.dtype).itemsize * tensor.size
            size += tensor.stored_bytes + 2 * tensor.size * (tensor.encoding == "shared")
        path, output = self.folder / "a.fly", self.folder / "out.safetensors"
        path.write_bytes(data)
        self._attempt("inspect", size, lambda: str(inspect(data)))
        self._attempt("load_state_dict", size, lambda: load_state_dict(path))
        self._attempt("decompress", size, lambda: decompress(path, output))

    def _tensor(self, tensor: CodedTensor) -> None:
        """Decode a tensor as it comes, and by both engines of its coder."""
        decoder = _decoder(tensor)
        self._attempt(decoder, _declared(tensor), lambda: decode_tensor(tensor))
        most = _PLAINLY_IN_CONTEXT if tensor.coder == "context" else _PLAINLY
        if tensor.coder == "plain" or tensor.group or tensor.size > most:
            return
        compiled, plain = (_outcome(lambda by=by: _by(tensor, by)) for by in (True, False))
        for engine, result in (("compiled", compiled), ("plain", plain)):
            if isinstance(result, Exception):
                self._find(f"{decoder}, {engine}: {type(result).__name__}: {str(result)[:300]}")
        if not _same(plain, compiled):
            self._find(f"{decoder}: the compiled and the plain decoder disagree")

    def _array(self, case: Case) -> None:
        coder = ("planes", "interleaved", "rans", "context")[case.data[0] % 4 if case.data else 0]
        declared = _declared_by_array(case.data)
        self._attempt(f"array of {coder}", declared, lambda: decode(case.data))

    def _checkpoint(self, case: Case) -> None:
        name = {"safetensors": "b.safetensors", "shards": "m.safetensors.index.json"}[case.reader]
        path = self.folder / name
        path.write_bytes(case.data)

        def work() -> list[Any]:
            return [entry.values() for entry in open_checkpoint(path).entries]

        self._attempt(case.reader, len(case.data), work)


def _outcome(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, that it refuses, or the error that it should not raise."""
    try:
        return work()
    except (FormatError, CheckpointError):
        return _REFUSED
    except ModelError as error:
        return _REFUSED if "leaves names and shapes" in str(error) else error
    except Exception as error:
        return error


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that ``work`` takes, and its outcome.

    They are those of the clock or, where something else has the processor, of the processor.
    """
    begin, begun = perf_counter(), process_time()
    result = _outcome(work)
    return min(perf_counter() - begin, process_time() - begun), result


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return one is other is _REFUSED


def _declared(tensor: CodedTensor) -> int:
    item = carrier(tensor.dtype).itemsize + 2 * (tensor.encoding == "shared")
    group = tensor.group
    if group is None:
        return tensor.stored_bytes + item * tensor.size
    return tensor.stored_bytes + sum(map(len, group.parts.values())) + item * group.size


def _declared_by_array(data: bytes) -> int:
    reader = ByteReader(data, "the array")
    try:
        item = carrier(DTYPES[reader.take(2)[1] % len(DTYPES)]).itemsize + 2
        count = prod([reader.varint() for _ in range(reader.varint())])
    except FormatError:
        return len(data)
    return len(data) + item * count * (count <= bounded_size(len(data)))


def _decoder(tensor: CodedTensor) -> str:
    if tensor.group:
        return "grouped"
    if tensor.scaled:
        return "scaled"
    if tensor.coder == "context":
        spatial = tensor.parts["symbols"][:1] in (b"\1", b"\3")
        return "context of kernels" if spatial else "context of energies"
    if tensor.encoding == "shared" and tensor.coder == "plain":
        return "huffman" if tensor.parts["tables"][:1] == b"\0" else "positions"
    return tensor.coder if tensor.coder != "plain" else tensor.encoding


def _by(tensor: CodedTensor, compiled: bool) -> Any:
    """What one engine of a coder decodes."""
    if tensor.coder == "planes":
        raw = tensor.parts["dense"]
        return decode_planes(raw, tensor.size, tensor.storage, compiled=compiled)
    table, payload = tensor.parts["tables"], tensor.parts["symbols"]
    if tensor.coder == "context":
        engine = "numba" if compiled else "python"
        return decode_context(payload, tensor.shape, engine=engine)
    alphabet = tensor.levels + 1
    if tensor.coder == "rans":
        engine = "numba" if compiled else "numpy"
        return decode_rans(table, payload, tensor.size, alphabet, engine=engine)
    return decode_interleaved(table, payload, tensor.size, alphabet, compiled=compiled)
