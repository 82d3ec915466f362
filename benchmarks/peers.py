"""The coders of others behind one contract; those that are not installed are left out."""

from __future__ import annotations

import ctypes
import json
import lzma
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.codecs import Codec, Timing
from benchmarks.weights import Layer

NNCODEC_PYTHON = Path(os.environ.get("NNCODEC_PYTHON", ".venv-nncodec/bin/python"))
# What `keep_freed_memory` does in this process.
KEEPS_MEMORY = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647:glibc.malloc.top_pad=268435456"
)
NO_NNCODEC = (
    f"nncodec is left out: {NNCODEC_PYTHON} is not there or failed. `make .venv-nncodec` makes it "
    "where there are a C++ compiler and a Python that numpy 1.26 runs on."
)

HTSCODECS = "libhtscodecs.so.2"
NO_HTSCODECS = "htscodecs is left out: apt install libhtscodecs-dev"

Compressor = tuple[str, Callable[[bytes], Any], Callable[[bytes], Any]]
"""Name, compress, decompress. It gets a bytearray of its own, which it may overwrite."""


def general_compressors() -> list[Compressor]:
    """Those that know nothing of what the bytes mean."""
    found: list[Compressor] = [("xz -6", partial(lzma.compress, preset=6), lzma.decompress)]
    with suppress(ImportError):
        import zstandard

        for level in (1, 19):
            compress = zstandard.ZstdCompressor(level=level).compress
            found.append((f"zstd -{level}", compress, zstandard.ZstdDecompressor().decompress))
    with suppress(ImportError):
        import brotli

        for level in (5, 11):
            compress = partial(brotli.compress, quality=level)
            found.append((f"brotli -{level}", compress, brotli.decompress))
    return found


def zipnn_compressors(dtype: str) -> list[Compressor]:
    """ZipNN for floats of a dtype, on one thread; "float8_e4m3fn" for bytes of any kind."""
    with suppress(ImportError):
        from zipnn import ZipNN

        codec = ZipNN(method="huffman", input_format="byte", bytearray_dtype=dtype, threads=1)
        return [("zipnn", codec.compress, codec.decompress)]
    return []


def _openzl_compressors() -> list[Compressor]:
    with suppress(ImportError):
        import openzl.ext as openzl

        def compress(graph: Any, data: bytes) -> bytes:
            compressor = openzl.Compressor()
            compressor.select_starting_graph(graph()(compressor))
            context = openzl.CCtx()
            context.ref_compressor(compressor)
            context.set_parameter(openzl.CParam.FormatVersion, openzl.MAX_FORMAT_VERSION)
            values = np.frombuffer(data, dtype=np.uint8)
            coded: bytes = context.compress([openzl.Input(openzl.Type.Serial, values)])
            return coded

        def expand(data: bytes) -> Any:
            return openzl.DCtx().decompress(data)[0].content.as_nparray()

        return [
            ("openzl FSE", partial(compress, openzl.graphs.Fse), expand),
            ("openzl Huffman", partial(compress, openzl.graphs.Huffman), expand),
        ]
    return []


def symbol_codecs() -> list[Codec]:
    """All peers for the layers of a set; the compressors get these in one piece."""
    compressors = [
        *general_compressors(),
        *zipnn_compressors("float8_e4m3fn"),
        *_openzl_compressors(),
    ]
    codecs = [*htscodecs(), *(_of_layers(*compressor) for compressor in compressors)]
    with suppress(ImportError):
        import constriction

        codecs.append(_constriction(constriction.stream))
    return codecs


def _of_layers(
    name: str, compress: Callable[[bytes], Any], expand: Callable[[bytes], Any]
) -> Codec:
    def decode(blobs: list[bytes], layers: Sequence[Layer]) -> list[NDArray[np.uint8]]:
        symbols = np.frombuffer(expand(blobs[0]), dtype=np.uint8)
        return np.split(symbols, np.cumsum([layer.symbols.size for layer in layers])[:-1])

    return Codec(
        name,
        lambda raw: [compress(raw)],
        decode,
        lambda layers: bytearray().join(layer.symbols for layer in layers),
    )


def htscodecs() -> list[Codec]:
    """The rANS of CRAM 3.1, order 0, 32 lanes, with AVX2, layer by layer."""
    try:
        library = ctypes.CDLL(HTSCODECS)
    except OSError:
        print(NO_HTSCODECS, flush=True)
        return []
    library.rans_compress_bound_4x16.restype = ctypes.c_uint
    both = library.rans_compress_to_4x16, library.rans_uncompress_to_4x16
    for function in both:
        function.restype = ctypes.c_void_p
    library.rans_set_cpu(2 | 2 << 8)  # AVX2, to encode and to decode
    compress, expand = both

    def run(function: Any, data: Any, size: int, *order: int) -> NDArray[np.uint8]:
        source = np.frombuffer(data, dtype=np.uint8)
        target, length = np.empty(size, dtype=np.uint8), ctypes.c_uint(size)
        addresses = [ctypes.c_void_p(array.ctypes.data) for array in (source, target)]
        done = function(addresses[0], source.size, addresses[1], ctypes.byref(length), *order)
        if not done:
            raise RuntimeError("htscodecs failed")
        return target[: length.value]

    def encode(layers: Sequence[Layer]) -> list[bytes]:
        bounds = [library.rans_compress_bound_4x16(layer.symbols.size, 4) for layer in layers]
        return [
            run(compress, layer.symbols.ravel(), bound, 4).tobytes()  # 4: 32 lanes, order 0
            for layer, bound in zip(layers, bounds, strict=True)
        ]

    def decode(blobs: list[bytes], layers: Sequence[Layer]) -> list[NDArray[np.uint8]]:
        return [
            run(expand, blob, layer.symbols.size) for blob, layer in zip(blobs, layers, strict=True)
        ]

    return [Codec("htscodecs rANS 32x16, AVX2", encode, decode)]


def _constriction(stream: Any) -> Codec:
    def model(layer: Layer) -> Any:
        size = max(2, layer.alphabet)  # it refuses an alphabet of one symbol
        counts = np.bincount(layer.symbols.ravel(), minlength=size) + 1e-9
        return stream.model.Categorical((counts / counts.sum()).astype("f4"), perfect=False)

    def encode(layers: Sequence[Layer]) -> list[bytes]:
        blobs = []
        for layer in layers:
            coder = stream.stack.AnsCoder()
            coder.encode_reverse(layer.symbols.ravel().astype(np.int32), model(layer))
            blobs.append(coder.get_compressed().tobytes())
        return blobs

    def decode(blobs: list[bytes], layers: Sequence[Layer]) -> list[NDArray[np.uint8]]:
        return [
            stream.stack.AnsCoder(np.frombuffer(blob, dtype=np.uint32))
            .decode(model(layer), layer.symbols.size)
            .astype(np.uint8)
            for blob, layer in zip(blobs, layers, strict=True)
        ]

    return Codec("constriction ANS (model not counted)", encode, decode)


def nncodec_timings(layers: Sequence[Layer], repeats: int) -> dict[str, Timing]:
    """NNCodec's DeepCABAC, in the environment of its own; empty where that is not there."""
    script = Path(__file__).with_name("nncodec_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.npz"
        np.savez(path, *(layer.values.astype(np.int32) for layer in layers))
        try:
            done = subprocess.run(
                [str(NNCODEC_PYTHON), str(script), str(path), str(repeats)],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "GLIBC_TUNABLES": KEEPS_MEMORY},
            )
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{NO_NNCODEC}\n{getattr(error, 'stderr', '')}", flush=True)
            return {}
    return {name: Timing(**told) for name, told in json.loads(done.stdout).items()}


def nncodec_files(
    tensors: Sequence[NDArray[np.float32]], settings: Sequence[dict[str, Any]], folder: Path
) -> list[tuple[Path, list[NDArray[np.float32]]]]:
    """A network as NNCodec's file by each of the settings, and what that file holds.

    The files are written into ``folder``. Empty where nncodec is not there.
    """
    script = Path(__file__).with_name("nncodec_network_peer.py")
    np.savez(folder / "network.npz", *tensors)
    (folder / "settings.json").write_text(json.dumps(list(settings)), encoding="utf-8")
    names = ("network.npz", "settings.json", "")
    command = [str(NNCODEC_PYTHON), str(script), *(str(folder / name) for name in names)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{NO_NNCODEC}\n{getattr(error, 'stderr', '')}", flush=True)
        return []
    found = []
    for place in range(len(settings)):
        with np.load(folder / f"{place}.npz") as file:
            found.append((folder / f"{place}.nnc", [file[name] for name in file.files]))
    return found
