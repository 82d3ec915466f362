"""Code a whole network with NNCodec, as files, and decode them again.

    .venv-nncodec/bin/python benchmarks/nncodec_network_peer.py network.npz settings.json folder

Stands alone, as nncodec needs an older numpy than flyweight. The first file holds one float32 array
a tensor, the second a list of settings of `nncodec.nnc.compress`, each an object. For the i-th,
``i.nnc`` is written into the folder and ``i.npz`` with what that file was decoded to, in the order
of the tensors. Tensors are called 0, 1, 2 and so on in the file, as their real names would take
more bytes.

nncodec imports torch, torchvision and more where it is loaded, for what is not used here; where
these are missing, empty modules stand for them. Approximation, coder and file format are its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np

NOT_NEEDED = ("cv2", "h5py", "pandas", "ptflops", "sklearn", "torch", "torchmetrics")
NOT_NEEDED += ("torchvision", "tqdm")


class StandIns(MetaPathFinder, Loader):
    """Finds an empty module for each that nncodec imports without need; asked last."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Of one of them, or of a part of it."""
        known = name.partition(".")[0] in NOT_NEEDED
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Something that has every attribute."""
        module = MagicMock(name=spec.name)
        module.__path__ = []
        module.__spec__ = spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is to be run."""


def load_codec() -> Any:
    """`nncodec.nnc`, which is the standard's encoder and decoder."""
    if importlib.util.find_spec("nncodec") is None:
        raise SystemExit("nncodec is not installed in this environment")
    sys.meta_path.append(StandIns())
    return importlib.import_module("nncodec.nnc")


def code(codec: Any, tensors: Sequence[np.ndarray], settings: dict[str, Any], path: Path) -> None:
    """Write one file, read it back, and write what it holds beside it."""
    named = {str(place): tensor for place, tensor in enumerate(tensors)}
    codec.compress(named, bitstream_path=str(path), **settings)
    decoded = codec.decompress(bytearray(path.read_bytes()))
    np.savez(path.with_suffix(".npz"), *(decoded[name] for name in named))


def main() -> None:
    """Read the network, code it by each of the settings."""
    codec = load_codec()
    with np.load(sys.argv[1]) as file:
        tensors = [file[name] for name in file.files]
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()):
        for place, chosen in enumerate(settings):
            code(codec, tensors, chosen, Path(sys.argv[3]) / f"{place}.nnc")


if __name__ == "__main__":
    main()
