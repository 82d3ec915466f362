"""Canonical, length-limited Huffman codes.

Theory: a Huffman code spends less than one bit a symbol above the order-0 entropy, and is the
best code that gives each symbol a whole number of bits. Its floor is one bit a symbol, so
sparse data needs its zeros coded apart (see `positions`). The code is *canonical*: codewords
follow from the lengths alone, and only the lengths are stored.

Cost: encoding is one vectorized pass per bit of the longest codeword. Decoding looks up every
bit offset at once and then follows the chain, one step a symbol.

Example:

>>> table, payload = encode_symbols([0, 0, 0, 1, 0, 2], 3)
>>> len(table), len(payload)
(1, 1)
>>> decode_symbols(table, payload, 6, 3).tolist()
[0, 0, 0, 1, 0, 2]

Sources: Schwartz & Kallick 1964 (canonical codes); van Leeuwen 1976 (linear-time
construction); Larmore & Hirschberg 1990 (package-merge); Han et al. 2016, section 4.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.errors import FormatError

__all__ = [
    "MAX_ALPHABET",
    "canonical_codewords",
    "code_lengths",
    "decode_symbols",
    "encode_symbols",
    "pack_lengths",
    "unpack_lengths",
]

MAX_ALPHABET = 1 << 16
_MAX_LENGTH = 15
_BITS_PER_SYMBOL = 73  # of a table at most: a run and a length, of the longest numbers
_LONGEST = 16  # needed when more than 2**15 symbols occur
_SYMBOLS_PER_PASS = 1 << 20
_BYTES_PER_PASS = 1 << 13


def code_lengths(counts: ArrayLike, max_length: int = _MAX_LENGTH) -> NDArray[np.uint8]:
    """Return the codeword lengths of an optimal code no longer than ``max_length`` bits.

    Args:
        counts: occurrences of each symbol, shape (alphabet,); zero for a symbol never used.
        max_length: longest codeword allowed; raised to the least that can distinguish the
            symbols that occur.

    Returns lengths, shape (alphabet,), 0 where the count is 0. A lone symbol has length 1.

    >>> code_lengths([5, 2, 1, 0]).tolist()
    [1, 2, 2, 0]

    Source: Larmore & Hirschberg 1990. In each of ``max_length`` rounds the cheapest items are
    paired into packages that compete with the leaves in the next round; a symbol's length is
    the number of rounds that use its leaf. Ties go to the leaf, then to the lower symbol.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 1 or counts.size > MAX_ALPHABET:
        raise ValueError(f"counts must be 1-D and at most {MAX_ALPHABET} long, not {counts.shape}")
    if counts.size and counts.min() < 0:
        raise ValueError("counts must not be negative")
    lengths = np.zeros(counts.size, dtype=np.uint8)
    used = np.flatnonzero(counts)
    number = used.size
    if number < 2:
        lengths[used] = 1
        return lengths
    rounds = max(max_length, (number - 1).bit_length())
    used = used[np.argsort(counts[used], kind="stable")]
    leaves = counts[used]
    items = leaves
    is_leaf = [np.ones(number, dtype=np.bool_)]
    for _ in range(rounds - 1):
        even = items.size & ~1
        merged = np.concatenate([leaves, items[0:even:2] + items[1:even:2]])
        order = np.argsort(merged, kind="stable")
        items = merged[order]
        is_leaf.append(order < number)
    sorted_lengths = np.zeros(number, dtype=np.uint8)
    chosen = 2 * number - 2
    for row in reversed(is_leaf):
        leaf_count = int(np.count_nonzero(row[:chosen]))
        sorted_lengths[:leaf_count] += 1
        chosen = 2 * (chosen - leaf_count)
    lengths[used] = sorted_lengths
    return lengths


def canonical_codewords(lengths: ArrayLike) -> NDArray[np.uint32]:
    """Return the canonical codeword of each symbol, right-aligned, shape (alphabet,).

    Codewords count upwards in order of (length, symbol); 0 for symbols of length 0.

    >>> canonical_codewords([1, 2, 2, 0]).tolist()
    [0, 2, 3, 0]

    Source: Schwartz & Kallick 1964.
    """
    lengths = np.asarray(lengths, dtype=np.uint8)
    codewords = np.zeros(lengths.size, dtype=np.uint32)
    order, ordered = _canonical_order(lengths)
    if order.size:
        shift = (int(ordered[-1]) - ordered).astype(np.uint32)
        share = np.left_shift(np.uint32(1), shift)
        codewords[order] = (np.cumsum(share, dtype=np.uint32) - share) >> shift
    return codewords


def _canonical_order(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    return order, lengths[order]


def pack_lengths(lengths: NDArray[np.uint8]) -> bytes:
    """Return the codeword lengths as a compact table.

    Each length is coded as its difference from the one before: ``0`` the same, ``100`` one
    more, ``101`` one less, ``111`` sign and magnitude, and ``110`` a run of unused symbols;
    numbers in Elias gamma code. The end needs no mark: the code is complete there. A lone
    symbol is given length 0, which completes the code at once.
    """
    alphabet = lengths.size
    used = np.flatnonzero(lengths)
    if alphabet == 1 or not used.size:
        return b""
    values = lengths[used].tolist() if used.size > 1 else [0]
    bits: list[str] = []
    previous = _first_guess(alphabet)
    expected = 0
    for symbol, length in zip(used.tolist(), values, strict=True):
        if symbol > expected:
            bits.append("110" + _gamma(symbol - expected))
        expected = symbol + 1
        step = length - previous
        previous = length
        if step == 0:
            bits.append("0")
        elif abs(step) == 1:
            bits.append("100" if step > 0 else "101")
        else:
            bits.append(("1110" if step > 0 else "1111") + _gamma(abs(step) - 1))
    text = "".join(bits)
    size = (len(text) + 7) // 8
    return int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def unpack_lengths(
    table: bytes, alphabet: int, kernels: ModuleType | None = None
) -> NDArray[np.uint8]:
    """Return the codeword lengths that `pack_lengths` stored, shape (alphabet,).

    ``kernels`` is `interleaved_kernels` where Numba has been started. Raises `FormatError` unless
    the table is whole and describes a complete prefix code.
    """
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise FormatError(f"a Huffman alphabet has 1 to {MAX_ALPHABET} symbols, not {alphabet}.")
    lengths = np.zeros(alphabet, dtype=np.uint8)
    if alphabet == 1:
        if table:
            raise FormatError("a Huffman table is given for an alphabet of one symbol.")
        lengths[0] = 1
        return lengths
    if 8 * len(table) > _BITS_PER_SYMBOL * alphabet + 7:
        raise FormatError(
            f"a Huffman table of {len(table)} bytes is too long for {alphabet} symbols."
        )
    if kernels is not None:
        raw = np.frombuffer(table + bytes(10), dtype=np.uint8)
        guess = _first_guess(alphabet)
        if kernels.read_lengths(np.unpackbits(raw), 8 * len(table), guess, _LONGEST, lengths):
            return lengths
        lengths[:] = 0  # and find out what is wrong
    bits = bin(int.from_bytes(b"\1" + table, "big"))[3:]  # without 0b and the 1
    symbols: list[int] = []
    values: list[int] = []
    room = 1 << _LONGEST  # Kraft: each codeword of length l takes 2**-l of the room
    at = 0
    symbol = 0
    previous = _first_guess(alphabet)
    while room:
        mark = bits[at : at + 3]
        if mark == "110":
            run, at = _read_gamma(bits, at + 3)
            symbol += run
            mark = bits[at : at + 3]
        if symbol >= alphabet:
            raise FormatError("a Huffman table leaves its code incomplete (Kraft sum below 1).")
        if mark[:1] == "0":
            at += 1
        elif mark in ("100", "101"):
            previous += 1 if mark == "100" else -1
            at += 3
        elif mark == "111":
            step, after = _read_gamma(bits, at + 4)
            previous += -(step + 1) if bits.startswith("1", at + 3) else step + 1
            at = after
        else:
            raise FormatError("a Huffman table is cut short or holds two runs in a row.")
        if not 0 <= previous <= _LONGEST or (previous == 0 and values):
            raise FormatError(f"a Huffman table gives symbol {symbol} a length of {previous}.")
        room -= 1 << (_LONGEST - previous)
        if room < 0:
            raise FormatError("a Huffman table holds too many codewords (Kraft sum above 1).")
        symbols.append(symbol)
        values.append(previous or 1)
        symbol += 1
    if at > len(bits) or (at + 7) // 8 != len(table) or "1" in bits[at:]:
        raise FormatError("a Huffman table does not end where its code is complete.")
    lengths[symbols] = values
    return lengths


def _first_guess(alphabet: int) -> int:
    return min(_MAX_LENGTH, (alphabet - 1).bit_length())


def _gamma(number: int) -> str:
    digits = f"{number:b}"
    return "0" * (len(digits) - 1) + digits


def _read_gamma(bits: str, at: int) -> tuple[int, int]:
    one = bits.find("1", at, at + 17)
    end = 2 * one - at + 1
    if one < 0 or end > len(bits):
        raise FormatError("a Huffman table is cut short inside a number.")
    return int(bits[one:end], 2), end


def encode_symbols(symbols: ArrayLike, alphabet: int) -> tuple[bytes, bytes]:
    """Return the symbols as a table of codeword lengths and a payload of codewords.

    Args:
        symbols: integers in 0..alphabet-1, any shape; read in C order.
        alphabet: number of different symbols there could be, at most 65,536.

    Returns (table, payload). Bits fill each byte from the highest; the last byte is padded
    with zeros. No symbols give (b"", b""); a lone distinct symbol needs no payload.
    """
    if not 0 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"an alphabet has at most {MAX_ALPHABET} symbols, not {alphabet}")
    flat = np.asarray(symbols).ravel()
    if not flat.size:
        return b"", b""
    if not np.issubdtype(flat.dtype, np.integer):
        raise ValueError(f"symbols must be integers, not {flat.dtype}")
    if int(flat.min()) < 0 or int(flat.max()) >= alphabet:
        raise ValueError(f"symbols must lie in 0..{alphabet - 1}, not {flat.min()}..{flat.max()}")
    flat = flat.astype(np.uint16)
    lengths = code_lengths(np.bincount(flat, minlength=alphabet))
    table = pack_lengths(lengths)
    if np.count_nonzero(lengths) == 1:
        return table, b""
    return table, _pack_codewords(flat, lengths)


def _pack_codewords(symbols: NDArray[np.uint16], lengths: NDArray[np.uint8]) -> bytes:
    codewords = canonical_codewords(lengths)
    total = int(np.bincount(symbols, minlength=lengths.size) @ lengths.astype(np.int64))
    bits = np.zeros(total, dtype=np.uint8)
    begin = 0
    for first in range(0, symbols.size, _SYMBOLS_PER_PASS):
        piece = symbols[first : first + _SYMBOLS_PER_PASS]
        length = lengths[piece].astype(np.int64)
        codeword = codewords[piece]
        end = begin + np.cumsum(length)
        for place in range(int(length.max())):  # place 0 is the last bit of each codeword
            has = length > place
            bits[end[has] - 1 - place] = (codeword[has] >> np.uint32(place)) & np.uint32(1)
        begin = int(end[-1])
    return np.packbits(bits).tobytes()


def decode_symbols(table: bytes, payload: bytes, count: int, alphabet: int) -> NDArray[np.uint16]:
    """Return the ``count`` symbols that `encode_symbols` stored, shape (count,).

    Raises `FormatError` if the table or the payload is not exactly what the encoder writes.
    Memory is at most two bytes a symbol plus a few megabytes; a count above eight symbols a
    payload byte is refused first, unless there is only one symbol to repeat.
    """
    if count == 0:
        if table or payload:
            raise FormatError("a Huffman stream of no symbols is not empty.")
        return np.zeros(0, dtype=np.uint16)
    lengths = unpack_lengths(table, alphabet)
    order, ordered = _canonical_order(lengths)
    if order.size == 1:
        if payload:
            raise FormatError("a Huffman stream of one repeated symbol has a payload.")
        return np.full(count, order[0], dtype=np.uint16)
    if count > 8 * len(payload):
        raise FormatError(f"{count} Huffman symbols cannot fit in {len(payload)} bytes.")
    width = int(ordered[-1])
    repeats = np.left_shift(1, (width - ordered).astype(np.int64))
    symbol_of = np.repeat(order.astype(np.uint16), repeats)
    length_of = np.repeat(ordered, repeats)
    raw = np.frombuffer(payload + b"\0\0", dtype=np.uint8)
    shifts = np.uint32(24 - width) - np.arange(8, dtype=np.uint32)
    out = np.empty(count, dtype=np.uint16)
    filled = 0
    at = 0  # bit offset of the next codeword, counted from the start of the pass
    used_bits = 0
    for first in range(0, len(payload), _BYTES_PER_PASS):
        block = raw[first : first + _BYTES_PER_PASS + 2].astype(np.uint32)
        words = block[:-2] << 16 | block[1:-1] << 8 | block[2:]
        windows = (words[:, None] >> shifts & np.uint32((1 << width) - 1)).ravel()
        steps = length_of[windows].tobytes()
        end = windows.size
        starts: list[int] = []
        while at < end:
            starts.append(at)
            at += steps[at]
        del starts[count - filled :]
        out[filled : filled + len(starts)] = symbol_of[windows[starts]]
        filled += len(starts)
        if filled == count:
            used_bits = 8 * first + starts[-1] + steps[starts[-1]]
            break
        at -= end
    if filled < count or (used_bits + 7) // 8 != len(payload):
        raise FormatError(f"{count} Huffman symbols do not end at {len(payload)} bytes.")
    if payload[-1] & ((1 << (-used_bits % 8)) - 1):
        raise FormatError("a Huffman stream is padded with bits that are not zero.")
    return out
