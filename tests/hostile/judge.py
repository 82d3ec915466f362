"""Give hostile bytes to the functions that users call, and find fault.

A reader may return a value or raise `FormatError`; `ModelError` and `CheckpointError` where it says
so. Anything else is a finding: another error, a warning, too much memory, two readers that
disagree. Memory: what Python and NumPy hold at most may be four times what the file declares (its
own bytes, those of its tensors, and two for each symbol of a quantized one) and `SPARE`, for tables
whose size no file determines.
"""

from __future__ import annotations

import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

from cases import Case
from corpus import checkpoint, coded_arrays, grouped, seeds
from sealing import sealed
from torch import nn

from flyweight.checkpoints import open_checkpoint
from flyweight.coding import DTYPES, carrier, decode, decode_tensor
from flyweight.coding.positions import bounded_size
from flyweight.coding.varint import ByteReader
from flyweight.errors import CheckpointError, FlyweightError, FormatError, ModelError
from flyweight.format import Reader
from flyweight.io import decompress, load, load_state_dict
from flyweight.size_report import inspect

__all__ = ["SPARE", "Judge", "Tally", "declared_bytes"]

SPARE = 2 << 20
_MOST_RATIO = 4
MEASURED = 32  # of so many cases one, which goes through all readers
_REFUSED = object()


@dataclass
class Tally:
    """What came of some cases; ``slowest`` in milliseconds and ``largest`` with their numbers."""

    cases: int = 0
    outcomes: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)
    largest: tuple[float, int] = (0.0, 0)
    findings: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what came of other cases."""
        self.cases += other.cases
        self.outcomes += other.outcomes
        self.findings += other.findings
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)


def declared_bytes(source: bytes | Path, shapes: Any = None) -> int:
    """Bytes of a file, its tensors and symbols; those of the file alone where it is refused."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        with Reader(source, shapes=shapes) as reader:
            for one in reader.outlines:
                size += one.size * (carrier(one.dtype).itemsize + 2 * (one.encoding == "shared"))
            return size
    except FlyweightError:
        return size


class Judge:
    """Gives cases to the readers; ``folder`` is an empty one for files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tally = Tally()
        self.number = 0
        self.kind = ""
        self.measured = False
        (folder / "a.safetensors").write_bytes(checkpoint())

    def start(self) -> None:
        """Read what is sound."""
        for place, tensor in enumerate(one for tensors in seeds().values() for one in tensors):
            self.judge(int(place % 8 > 0), "sound", Case("file", sealed([tensor])))
        for tensors in grouped():
            self.judge(1, "sound", Case("file", sealed(tensors)))
        for data in coded_arrays():
            self.judge(1, "sound", Case("array", data))
        if self.tally.findings or self.tally.outcomes["sound", "", False]:
            raise AssertionError(f"sound files are not read: {self.tally}")
        self.tally = Tally()

    def judge(self, number: int, kind: str, case: Case) -> None:
        """Read a case and add what comes of it to the tally."""
        self.number, self.kind = number, kind
        self.measured = number % MEASURED == 0 or kind in ("vast", "long")
        self.tally.cases += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = {"file": self._file, "array": self._array}.get(case.reader, self._checkpoint)
            accepted = read(case) is not _REFUSED
        self.tally.outcomes[kind, case.coder, accepted] += 1

    def _find(self, what: str) -> None:
        self.tally.findings.append((self.number, f"{self.kind}: {what}"))

    def _attempt(
        self,
        reader: str,
        declared: Callable[[], int],
        work: Callable[[], Any],
        *allowed: type[Exception],
    ) -> Any:
        """Return what ``work`` returns, or that it refused the bytes; measure it if chosen."""
        measured = self.measured
        if measured:
            tracemalloc.start()
        start = perf_counter()
        try:
            result = work()
        except (FormatError, *allowed):
            result = _REFUSED
        except Exception as error:
            result = _REFUSED
            self._find(f"{reader}: {type(error).__name__}: {str(error)[:300]}")
        self.tally.slowest = max(self.tally.slowest, (1e3 * (perf_counter() - start), self.number))
        if measured:
            ratio = tracemalloc.get_traced_memory()[1] / (declared() + SPARE)
            tracemalloc.stop()
            self.tally.largest = max(self.tally.largest, (ratio, self.number))
            if ratio > _MOST_RATIO:
                self._find(f"{reader}: took {ratio:.1f} times the {declared()} bytes declared")
        return result

    def _file(self, case: Case) -> Any:
        def declared() -> int:
            return declared_bytes(case.data, case.shapes) + case.declared

        def bare() -> None:
            with Reader(case.data, shapes=case.shapes) as reader:
                for tensor in reader.tensors():
                    if tensor.encoding != "alias":
                        decode_tensor(tensor)
                reader.verify()

        if case.shapes is not None:
            return self._attempt("reader", declared, bare)
        path, output = self.folder / "a.fly", self.folder / "out.safetensors"
        path.write_bytes(case.data)
        found = self._attempt(
            "load_state_dict", declared, lambda: load_state_dict(path), ModelError
        )
        if self.measured:
            model, wrong = nn.Linear(2, 2), (ModelError, CheckpointError)
            self._attempt("inspect", declared, lambda: str(inspect(path)), ModelError)
            self._attempt("load", declared, lambda: load(path, model, strict=False), *wrong)
            written = self._attempt(
                "decompress", declared, lambda: decompress(path, output), *wrong
            )
            if found is _REFUSED and written is not _REFUSED:
                self._find("decompress writes what load_state_dict refuses")
        return found

    def _array(self, case: Case) -> Any:
        def declared() -> int:
            reader = ByteReader(case.data, "the array")
            try:
                item = carrier(DTYPES[reader.take(2)[1] % len(DTYPES)]).itemsize
                count = prod([reader.varint() for _ in range(reader.varint())])
            except FormatError:
                return len(case.data)
            return len(case.data) + item * count * (count <= bounded_size(len(case.data)))

        return self._attempt("decode", declared, lambda: decode(case.data))

    def _checkpoint(self, case: Case) -> Any:
        name = {"safetensors": "b.safetensors", "shards": "m.safetensors.index.json"}[case.reader]
        path = self.folder / name
        path.write_bytes(case.data)

        def work() -> list[Any]:
            return [entry.values() for entry in open_checkpoint(path).entries]

        return self._attempt(case.reader, lambda: len(case.data), work, CheckpointError)
