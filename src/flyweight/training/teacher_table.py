"""A table of a teacher's outputs, and data whose examples come again, so that it pays."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from flyweight.batches import logits_of, tensors_in
from flyweight.errors import CheckpointError, DataError, ModelError
from flyweight.modules import add_network_

__all__ = ["FixedViews", "TeacherTable"]

_DIGEST_SIZE = 16
_WAIT = 60.0  # seconds for another process that writes
_AT_A_TIME = 500  # keys of one query


class TeacherTable(nn.Module):
    """A teacher whose outputs are computed once for each example and looked up from then on.

    Examples are known by their bytes, so any loader serves whose examples come again: without
    augmentation, or with a number of views of each, as `FixedViews` has them. What comes back is
    what was computed first, rounded to float16. Each process of a run may use the same file, and
    so may later runs, also without the network. On a GPU, where computing is as fast, a network
    that is given computes.

    Args:
        path: the file, made where there is none; about 60 bytes an example and 2 a class.
        network: in evaluation mode, one or more tensors N×… in, logits N×K or N×…×K out, or an
            object that has them as ``logits``. None for a table that knows all examples.

    Raises:
        CheckpointError: the file is no such table or that of another network, or there is none and
            no network.
        ModelError: the network gives no logits, one for each example.
        DataError: an example is not in the table, and there is no network to ask.

    Example:
        >>> import tempfile
        >>> teacher, examples = nn.Linear(4, 2).eval(), torch.randn(3, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = TeacherTable(f"{folder}/teacher.sqlite", teacher)
        ...     first = table(examples)
        ...     again = TeacherTable(f"{folder}/teacher.sqlite")  # without the network
        ...     torch.equal(again(examples.flip(0)), first.flip(0))
        True

    Source: Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent"
    (both see the same view); Shen & Xing 2022, "A fast knowledge distillation framework" (stored
    soft targets).
    """

    identity: Tensor

    def __init__(self, path: str | Path, network: nn.Module | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.network = network
        digest = hashlib.sha256()
        if network is not None:
            add_network_(digest, network)
        elif not self.path.exists():
            raise CheckpointError(
                f"{path} does not exist; give the network whose outputs are to be kept there"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = self._begin(digest.digest())
        if network is not None and kept != digest.digest():
            raise CheckpointError(
                f"{path} has the outputs of another network; give another path, or delete it"
            )
        identity = torch.frombuffer(bytearray(kept), dtype=torch.uint8)
        # Of a network that is here, the state tells as much.
        self.register_buffer("identity", identity, persistent=network is None)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits of a batch, float32."""
        tensors = [*tensors_in(args), *tensors_in(kwargs)]
        if not tensors or not tensors[0].ndim:
            raise ModelError("a table of a teacher takes batches of tensors; this one has none")
        if self.network is not None and tensors[0].device.type != "cpu":
            return self._computed(len(tensors[0]), *args, **kwargs)
        keys = _keys(tensors)
        rows = self._read(keys)
        if None in rows:
            if self.network is None:
                raise DataError(
                    f"{self.path} has no outputs for {rows.count(None)} of {len(rows)} examples; "
                    "give the data that it was made with, or the network"
                )
            found = self._computed(len(keys), *args, **kwargs).cpu().numpy().astype(np.float16)
            self._write(keys, [row.tobytes() for row in found], found.shape[1:])
            rows = self._read(keys)  # another process may have been first
        return self._logits(rows).to(tensors[0].device)

    def _computed(self, number: int, *args: Any, **kwargs: Any) -> Tensor:
        assert self.network is not None
        logits = logits_of(self.network(*args, **kwargs))
        if logits is None or logits.ndim < 2 or len(logits) != number:
            raise ModelError(
                "the network of a table gives no logits with one row for each example; give a "
                "classifier"
            )
        return logits.detach().float()

    def _logits(self, rows: Sequence[bytes | None]) -> Tensor:
        shape = [int(extent) for extent in self._meta("shape").decode().split()]
        values = np.frombuffer(b"".join(row or b"" for row in rows), dtype=np.float16)
        return torch.from_numpy(values.astype(np.float32)).view(len(rows), *shape)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT)) as file, file:
                file.execute("PRAGMA synchronous = OFF")
                yield file
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                f"{self.path} is no table of a teacher, or cannot be written ({error}); give "
                "another path, or delete it"
            ) from error

    def _begin(self, identity: bytes) -> bytes:
        with self._open() as file:
            file.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB)")
            file.execute("CREATE TABLE IF NOT EXISTS logits (key BLOB PRIMARY KEY, value BLOB)")
            file.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?)", (identity,))
        return self._meta("identity")

    def _meta(self, name: str) -> bytes:
        with self._open() as file:
            row = file.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return b"" if row is None else bytes(row[0])

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes] = {}
        with self._open() as file:
            for start in range(0, len(keys), _AT_A_TIME):
                part = keys[start : start + _AT_A_TIME]
                marks = ", ".join("?" * len(part))
                query = f"SELECT key, value FROM logits WHERE key IN ({marks})"
                found.update(file.execute(query, part))
        return [found.get(key) for key in keys]

    def _write(self, keys: Sequence[bytes], rows: Sequence[bytes], shape: Sequence[int]) -> None:
        told = " ".join(map(str, shape)).encode()
        with self._open() as file:
            file.execute("INSERT OR IGNORE INTO meta VALUES ('shape', ?)", (told,))
            pairs = zip(keys, rows, strict=True)
            file.executemany("INSERT OR IGNORE INTO logits VALUES (?, ?)", pairs)
        if self._meta("shape") != told:
            raise ModelError(
                f"the network of a table gives outputs of the shape {told.decode()}, where the "
                f"first had {self._meta('shape').decode()}; pad inputs to one length"
            )


def _keys(tensors: Sequence[Tensor]) -> list[bytes]:
    """Digests of the examples, by the bytes of their part of each tensor, and its shape."""
    number = len(tensors[0])
    digests = [hashlib.blake2b(digest_size=_DIGEST_SIZE) for _ in range(number)]
    for tensor in tensors:
        if not tensor.ndim or len(tensor) != number:  # the same for all examples
            parts = [tensor.detach().cpu().contiguous().flatten()] * number
        else:
            parts = list(tensor.detach().cpu().contiguous())
        form = f"{tuple(tensor.shape[1:])} {tensor.dtype}".encode()
        for digest, part in zip(digests, parts, strict=True):
            digest.update(form)
            digest.update(part.contiguous().flatten().view(torch.uint8).numpy().data)
    return [digest.digest() for digest in digests]


class FixedViews(Dataset[Any]):
    """A data set of which each example has so many views, however it is augmented.

    In epoch e an example is what it is with the generators of torch, NumPy and Python seeded by
    ``seed``, its index, and e modulo ``views``. So its views come again, and a `TeacherTable` knows
    them. ``set_epoch`` is called by `flyweight.training.train_` and `flyweight.compress`.

    Args:
        dataset: with ``len(dataset)`` and ``dataset[index]``.
        views: of each example, 1 or more.
        seed: of all of them.

    Raises:
        DataError: the data set cannot be indexed, or there are no views.

    Example:
        >>> class Noisy:
        ...     def __len__(self):
        ...         return 3
        ...     def __getitem__(self, index):
        ...         return index + torch.rand(())
        >>> data = FixedViews(Noisy(), views=2)
        >>> seen = []
        >>> for epoch in range(4):
        ...     data.set_epoch(epoch)
        ...     seen.append(float(data[1]))
        >>> seen[:2] == seen[2:], seen[0] == seen[1]
        (True, False)
    """

    def __init__(self, dataset: Any, *, views: int, seed: int = 0) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"a {type(dataset).__name__} cannot be indexed; give a data set with a length and "
                "items"
            )
        if views < 1:
            raise DataError(f"views is {views}; give 1 or more")
        self.dataset, self.views, self.seed = dataset, views, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, that the next pass belongs to."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        view = self._epoch % self.views
        if index < 0:
            index += len(self)
        draw = random.Random(f"view {self.seed} {index} {view}").getrandbits(32)
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 -- what data sets use
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(draw)
                np.random.seed(draw)  # noqa: NPY002
                random.seed(draw)
                return self.dataset[index]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
