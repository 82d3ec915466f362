"""Byte planes: lossless coding of dense values by grouping bytes of equal significance.

Theory: weights differ in every bit of their mantissa but share a few exponents. So the bytes of
a block of values are sorted into *planes*, first bytes with first bytes and so on, and a plane
that is skewed is Huffman-coded, while the others stay as they are. In a floating-point number
the sign stands above the exponent; rotating the bits left by one puts it below the mantissa,
and all eight bits of a float32's or bfloat16's exponent into one byte. An exponent of trained
weights takes about 2.7 bits of its 8: a sixth of a float32 and a third of a bfloat16 goes.

Cost: a plane that stays as it is costs a copy, any other what `huffman` says. Blocks are short,
as layers differ; chunks of sixteen blocks run on threads. Chunks are planned before they are
written, so nothing is held but the payload.

Example:

>>> import numpy as np
>>> values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
>>> payload = encode_planes(values, "float32")
>>> len(payload) < 0.86 * values.nbytes
True
>>> decode_planes(payload, 10_000, "float32").tobytes() == values.tobytes()
True

Source: Hershcovitch et al. 2024, "ZipNN: Lossless compression for AI models".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight.coding.huffman import shares
from flyweight.coding.positions import bounded_size
from flyweight.coding.scalars import DTYPES, carrier
from flyweight.coding.threads import in_threads
from flyweight.errors import FormatError, ModelError

__all__ = ["decode_planes", "encode_planes"]

_CHUNK = 1 << 20  # words, in which tables may be used again; part of the format
_BLOCK = 1 << 16  # words, a divisor of _CHUNK; part of the format


def _words(dtype: str, count: int) -> tuple[int, int]:
    """Return the bytes of a word of a dtype, and how many words ``count`` values have."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} cannot be stored; known are {', '.join(DTYPES)}.")
    number = 2 if dtype.startswith("complex") else 1
    return carrier(dtype).itemsize // number, count * number


def encode_planes(values: NDArray[Any], dtype: str, *, threads: int | None = None) -> bytes:
    """Return values as byte planes, each as it is or coded, whichever is shorter.

    Args:
        values: array of the carrier of ``dtype``, any shape; read in C order.
        dtype: one of `DTYPES`.
        threads: how many to run on, None for one a core. The bytes are the same.

    At most two bytes longer than the values for every 2**16 of them (four if complex).
    """
    flat = np.asarray(values).ravel()
    width, size = _words(dtype, flat.size)
    if flat.dtype.newbyteorder("=") != carrier(dtype).newbyteorder("="):
        raise ModelError(
            f"values of dtype {dtype} must come as {carrier(dtype)}, not {flat.dtype}."
        )
    data = np.ascontiguousarray(flat, dtype=carrier(dtype)).view(np.uint8)
    if dtype == "bool" and data.size and int(data.max()) > 1:
        raise ModelError("a value of dtype bool is neither 0 nor 1.")
    number = DTYPES.index(dtype)
    plans = np.empty(-(-size // _BLOCK) * width * _native.planes_plan_bytes(), dtype=np.uint8)
    sizes = np.zeros(-(-size // _CHUNK), dtype=np.uint64)
    parts = shares(sizes.size, threads)

    def plan(spare: bool) -> int:
        in_threads(
            lambda part: _native.planes_plan(data, number, spare, *part, plans, sizes),
            parts,
            threads,
        )
        return int(sizes.sum())

    length = plan(False)
    if flat.size > bounded_size(length):  # so short that a reader would refuse it
        length = plan(True)
    payload: bytes = _native.new_bytes(b"", length)
    in_threads(
        lambda part: _native.planes_encode(data, number, plans, sizes, *part, payload),
        parts,
        threads,
    )
    return payload


def decode_planes(
    payload: bytes, count: int, dtype: str, *, threads: int | None = None
) -> NDArray[Any]:
    """Return the ``count`` values that `encode_planes` stored, as an array of their carrier.

    Raises `FormatError` if the payload is not exactly what the encoder writes. A count above
    ``bounded_size(len(payload))`` is refused first.
    """
    _, size = _words(dtype, count)
    if not 0 <= count <= bounded_size(len(payload)):
        raise FormatError(f"{count} values are too many for {len(payload)} bytes.")
    values = np.empty(count, dtype=carrier(dtype))
    data = values.view(np.uint8)
    number = DTYPES.index(dtype)
    in_threads(
        lambda part: _native.planes_decode(payload, number, *part, data),
        shares(-(-size // _CHUNK), threads) or [(0, 0)],
        threads,
    )
    return values
