"""Write the files of ``tests/hostile/files``: ``python tests/hostile/make_files.py``.

Each is an attack that a reader did not withstand once. Make them again only with a new format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from sealing import outlines, sealed

from flyweight.coding import (
    CodedTensor,
    encode_alias,
    encode_constant,
    encode_shared,
    encode_tensors,
    prepare_shared,
)
from flyweight.format import Container, dumps
from flyweight.format.layout import crc, pack_head

FOLDER = Path(__file__).parent / "files"


def aliases() -> bytes:
    """A thousand names for one tensor of 4 MiB, which `decompress` would write one by one."""
    one = encode_constant("t", (1 << 20,), value=np.float32(1), dtype="float32")
    return sealed([one, *(encode_alias(f"a{number}", one, target=0) for number in range(1000))])


def interleaved_groups() -> bytes:
    """17 groups whose members take turns; a reader that keeps one group decodes each 64 times."""
    groups = []
    for group in range(17):
        shape = (1, 16_000 + group)
        symbols = np.ones(shape, np.uint8)
        symbols[0, 0] = 0
        tensors = [
            prepare_shared(f"{group}.{member}", symbols, levels=np.uint8([7]), dtype="uint8")
            for member in range(64)
        ]
        groups.append(encode_tensors(tensors, coder="rans"))
    return dumps(Container(tuple(tensor for turn in zip(*groups, strict=True) for tensor in turn)))


def shared(shape: tuple[int, ...], coder: str) -> CodedTensor:
    symbols = np.zeros(shape, np.uint8)
    symbols[(-1,) * len(shape)] = 1
    return encode_shared("t", symbols, levels=np.uint8([1]), dtype="uint8", coder=coder)


def zeros(names: Iterable[str], metadata: Mapping[str, str] | None = None) -> bytes:
    """A file of scalars whose bits are all zero, its header coded; no writer writes so many."""
    tensors = [encode_constant(name, (), value=np.uint8(0), dtype="uint8") for name in names]
    head = pack_head(outlines(tensors), metadata or {}, [])
    return head + crc(head)


MAKERS = {
    # more than so short a file may have
    "many_tensors": lambda: zeros(f"{n // 100}.{n % 100}" for n in range(5000)),
    "many_strings": lambda: zeros((), {str(number): "" for number in range(5000)}),
    "long_names": lambda: zeros(f"{'n' * 1000}.{number}" for number in range(200)),
    "aliases": aliases,
    "interleaved_groups": interleaved_groups,
    # as many symbols as so few bytes may stand for, or nearly
    "context_zeros": lambda: sealed([shared((1 << 20,), "context")]),
    "rans_interleaved": lambda: sealed([shared((20_000_000,), "rans")]),
    "escape_sequences": lambda: sealed(
        [encode_constant("\x1b[2J\x1b]0;a\x07\nb\u202e", (), value=np.uint8(0), dtype="uint8")]
    ),
    "scalar_context": lambda: sealed([shared((), "context")]),
}

if __name__ == "__main__":
    for name, make in MAKERS.items():
        (FOLDER / f"{name}.fly").write_bytes(make())
