"""Loops of interleaved Huffman streams compiled by Numba; imported on demand.

Nothing imports this module but `interleaved.kernels_for`, and only where the work is worth the
start of a compiler. Numba checks no bounds: each kernel says what its caller has to make sure
of, and reads and writes nothing outside it. Unaligned words are little-endian.

Source: Giesen 2018, "Reading bits in far too many ways" (refills); Collet, Huff0 (four streams).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types  # type: ignore[import-untyped, import-not-found, unused-ignore]
from numba.extending import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    intrinsic,
)
from numpy.typing import NDArray

from flyweight.coding.numba_compiler import kernel

__all__ = [
    "build_tables",
    "count_bytes",
    "count_symbols",
    "decode_alone",
    "decode_four",
    "encode_one",
    "encode_pairs",
    "fill_pairs",
    "read_lengths",
]

Word = np.uint64
_I = np.int64


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, kind: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    place = builder.gep(array.data, [arguments[1]])
    return builder.bitcast(place, context.get_value_type(kind).as_pointer())


def _load(typing: Any, data: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature, arguments, types.uint64)
        return builder.load(place, align=1)

    return types.uint64(data, at), generate


def _store(typing: Any, data: Any, at: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature, arguments, types.uint64)
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.none(data, at, types.uint64), generate


def _leading_zeros(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), generate


leading_zeros: Any = intrinsic(_leading_zeros)  # of a word that is not 0
load: Any = intrinsic(_load)  # load(bytes, index): the eight bytes from there
store: Any = intrinsic(_store)  # store(bytes, index, word)


@kernel
def count_bytes(data: NDArray[np.uint8], first: int, last: int, counts: NDArray[np.int64]) -> None:
    """Add to ``counts``, shape (256,), how often each byte occurs in data[first:last]."""
    parts = np.zeros((8, 256), dtype=np.uint32)  # apart, so that equal neighbors do not wait
    whole = first + (last - first) // 8 * 8
    for at in range(first, whole, 8):
        word = load(data, at)
        for part in range(8):
            parts[part, (word >> Word(8 * part)) & Word(255)] += np.uint32(1)
    for at in range(whole, last):
        parts[0, data[at]] += np.uint32(1)
    for part in range(8):
        for symbol in range(256):
            counts[symbol] += parts[part, symbol]


@kernel
def count_symbols(
    data: NDArray[np.uint16], first: int, last: int, counts: NDArray[np.int64]
) -> None:
    """Add to ``counts`` how often each symbol occurs in data[first:last]; all must lie in it."""
    for at in range(first, last):
        counts[data[at]] += 1


@kernel
def _finish(
    symbols: NDArray[Any],
    index: np.uint64,
    last: int,
    codes: NDArray[np.uint32],
    out: NDArray[np.uint8],
    at: np.uint64,
    bits: np.uint64,
    held: np.uint64,
) -> None:
    eight = Word(8)
    one = Word(1)
    while index < Word(last):
        code = Word(codes[symbols[index]])
        bits |= (code >> eight) << held
        held += code & Word(63)
        while held >= eight:
            out[at] = np.uint8(bits & Word(0xFF))
            at += one
            bits >>= eight
            held -= eight
        index += one
    if held > Word(0):
        out[at] = np.uint8(bits & Word(0xFF))


@kernel
def encode_one(
    symbols: NDArray[Any],
    first: int,
    last: int,
    codes: NDArray[np.uint32],
    out: NDArray[np.uint8],
    begin: int,
    end: int,
) -> None:
    """Write the codewords of symbols[first:last] to out[begin:end], exactly their bytes.

    ``codes`` holds codeword << 8 | length of each symbol, of at most 14 bits, the codeword's
    first bit lowest.
    """
    bits = Word(0)
    held = Word(0)
    low = Word(63)
    eight = Word(8)
    at = Word(begin)
    index = Word(first)
    while True:
        rounds = min((last - np.int64(index)) // 4, (end - np.int64(at) - 1) // 7)
        if rounds <= 0:
            break
        for _ in range(rounds):
            a = Word(codes[symbols[index]])
            b = Word(codes[symbols[index + Word(1)]])
            c = Word(codes[symbols[index + Word(2)]])
            d = Word(codes[symbols[index + Word(3)]])
            ab = (a >> eight) | ((b >> eight) << (a & low))
            cd = (c >> eight) | ((d >> eight) << (c & low))
            length = a + b
            bits |= (ab | (cd << (length & low))) << held
            held += (length + c + d) & low
            store(out, at, bits)
            at += held >> Word(3)
            bits >>= held & Word(56)
            held &= Word(7)
            index += Word(4)
    _finish(symbols, index, last, codes, out, at, bits, held)


@kernel
def fill_pairs(
    codes: NDArray[np.uint32], used: NDArray[np.int64], pairs: NDArray[np.uint32]
) -> None:
    """Fill ``pairs``, shape (65536,), at a | b << 8 with the codes of bytes a and b as one code.

    Other entries than of ``used`` bytes are left as they are. Codes are of at most 12 bits.
    """
    for low in used:
        for high in used:
            a = Word(codes[low])
            b = Word(codes[high])
            length = a & Word(63)
            word = (a >> Word(8)) | ((b >> Word(8)) << length)
            pairs[low | high << 8] = np.uint32(word << Word(8) | (length + (b & Word(63))))


@kernel
def encode_pairs(
    symbols: NDArray[np.uint8],
    first: int,
    last: int,
    codes: NDArray[np.uint32],
    pairs: NDArray[np.uint32],
    out: NDArray[np.uint8],
    begin: int,
    end: int,
) -> None:
    """Do what `encode_one` does, for bytes, with the table of `fill_pairs`."""
    bits = Word(0)
    held = Word(0)
    low = Word(63)
    pair = Word(0xFFFF)
    eight = Word(8)
    at = Word(begin)
    index = Word(first)
    while True:
        rounds = min((last - np.int64(index)) // 8, (end - np.int64(at) - 8) // 14)
        if rounds <= 0:
            break
        for _ in range(rounds):
            word = load(symbols, index)
            for half in range(2):
                a = Word(pairs[(word >> Word(32 * half)) & pair])
                b = Word(pairs[(word >> Word(32 * half + 16)) & pair])
                bits |= ((a >> eight) | ((b >> eight) << (a & low))) << held
                held += (a + b) & low
                store(out, at, bits)
                at += held >> Word(3)
                bits >>= held & Word(56)
                held &= Word(7)
            index += eight
    _finish(symbols, index, last, codes, out, at, bits, held)


@kernel
def _gamma(bits: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """Return the number from bit ``at`` on and where it ends; (0, at) if it is too long."""
    zeros = 0
    while zeros < 17 and not bits[at + zeros]:
        zeros += 1
    if zeros == 17:
        return 0, at
    number = 0
    for place in range(at + zeros, at + 2 * zeros + 1):
        number = number << 1 | bits[place]
    return number, at + 2 * zeros + 1


@kernel
def read_lengths(
    bits: NDArray[np.uint8], end: int, guess: int, longest: int, lengths: NDArray[np.uint8]
) -> bool:
    """Fill ``lengths`` as `huffman.unpack_lengths` does; False where that raises.

    Args:
        bits: of a table, one a byte, and after the first ``end`` of them 80 zeros.
        guess: the length before the first.
        longest: most bits of a codeword.
        lengths: zeros, one for each of two or more symbols.
    """
    room = 1 << longest
    at = symbol = 0
    first = True
    while room:
        if bits[at] and bits[at + 1] and not bits[at + 2]:
            run, at = _gamma(bits, at + 3)
            symbol += run
            if run == 0 or (bits[at] and bits[at + 1] and not bits[at + 2]):
                return False
        if symbol >= lengths.size:
            return False
        if not bits[at]:
            at += 1
        elif not bits[at + 1]:
            guess += -1 if bits[at + 2] else 1
            at += 3
        else:
            down = bits[at + 3]
            step, at = _gamma(bits, at + 4)
            if step == 0:
                return False
            guess += -(step + 1) if down else step + 1
        if at > end or guess < 0 or guess > longest or (guess == 0 and not first):
            return False
        room -= 1 << (longest - guess)
        if room < 0:
            return False
        lengths[symbol] = max(guess, 1)
        first = False
        symbol += 1
    return end - at < 8 and not bits[at:end].any()


@kernel
def build_tables(
    lengths: NDArray[np.uint8],
    width: int,
    item: int,
    single: NDArray[np.uint32],
    table: NDArray[np.uint64],
) -> int:
    """Fill the tables of `decode_four`, of 2**width entries, from the lengths of a whole code.

    Returns ``most``, the bytes of symbols in the fullest entry of ``table``.
    """
    used = 0
    codes = np.empty(lengths.size, dtype=np.int64)  # ascending: symbol << 32 | length << 16 | bits
    codeword = 0
    for length in range(1, width + 1):
        for symbol in range(lengths.size):
            if lengths[symbol] == length:
                window = 0
                for place in range(length):
                    window |= (codeword >> place & 1) << (length - 1 - place)
                codes[used] = symbol << 32 | length << 16 | window
                used += 1
                while window < single.size:
                    single[window] = np.uint32(symbol << 8 | length)
                    window += 1 << length
                codeword += 1
        codeword <<= 1

    # Each sequence of codewords before those that begin with it, which overwrite a part of it.
    fullest = depth = 0
    following = np.zeros(7, dtype=np.int64)  # at each depth: the next code to append,
    windows = np.zeros(7, dtype=np.int64)  # the bits before it, how many, and their symbols
    taken = np.zeros(7, dtype=np.int64)
    entries = np.zeros(7, dtype=np.uint64)
    while depth >= 0:
        code = codes[following[depth]] if following[depth] < used else _I(width + 1) << 16
        bits = taken[depth] + (code >> 16 & 0xFFFF)
        if bits > width:
            depth -= 1
            continue
        following[depth] += 1
        held = (depth + 1) * item
        window = windows[depth] | (code & 0xFFFF) << taken[depth]
        entry = entries[depth] | Word(code >> 32) << Word(8 + 8 * (held - item))
        full = entry | Word(bits) | Word(held) << Word(56)
        for place in range(window, table.size, 1 << bits):
            table[place] = full
        fullest = max(fullest, held)
        if held + item <= 6:
            depth += 1
            following[depth], windows[depth], taken[depth] = 0, window, bits
            entries[depth] = entry
    return fullest


@kernel
def decode_one(
    data: NDArray[np.uint8],
    place: np.int64,
    end: int,
    out: NDArray[np.uint8],
    first: np.int64,
    last: int,
    table: NDArray[Any],
    single: NDArray[np.uint32],
    most: int,
    item: int,
) -> int:
    """Decode one stream from bit ``place`` into out[first:last]; see `decode_four`.

    Returns 0 if the stream ends at byte ``end``, padded with zeros, else 1 or 2.
    """
    low = Word(63)
    sentinel = Word(1 << 63)
    mask = Word(table.size - 1)
    top = Word(56)
    p = Word(place)
    q = Word(first)
    while True:
        rounds = min(
            (data.size - 8 - np.int64(p >> Word(3))) // 7, (last - 8 - np.int64(q)) // (4 * most)
        )
        if rounds <= 0:
            break
        for _ in range(rounds):
            w = load(data, p >> Word(3)) >> (p & Word(7)) | sentinel
            for _ in range(4):
                e = Word(table[w & mask])
                store(out, q, e >> Word(8))
                w >>= e & low
                q += e >> top
            p += leading_zeros(w)
    at = np.int64(q)
    while at < last:
        byte = np.int64(p >> Word(3))
        if byte >= end:
            return 1
        w = Word(data[byte])
        if byte + 1 < end:
            w |= Word(data[byte + 1]) << Word(8)
        if byte + 2 < end:
            w |= Word(data[byte + 2]) << Word(16)
        e = Word(single[(w >> (p & Word(7))) & mask])
        p += e & low
        out[at] = np.uint8((e >> Word(8)) & Word(255))
        if item == 2:
            out[at + 1] = np.uint8((e >> Word(16)) & Word(255))
        at += item
    if np.int64((p + Word(7)) >> Word(3)) != end:
        return 1
    if p & Word(7) and data[end - 1] >> (p & Word(7)):
        return 2
    return 0


@kernel
def decode_four(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    out: NDArray[np.uint8],
    firsts: NDArray[np.int64],
    table: NDArray[Any],
    single: NDArray[np.uint32],
    most: int,
    item: int,
) -> int:
    """Decode four streams side by side; returns 0, 1 (wrong length) or 2 (wrong padding).

    Args:
        data: all bytes; stream k is data[begins[k]:begins[k + 1]], with begins within ``data``.
        begins: shape (5,), ascending.
        out: the symbols as bytes; stream k fills out[firsts[k]:firsts[k + 1]].
        firsts: shape (5,), ascending, within ``out``, multiples of ``item``.
        table: for each window of 2**width bits (a power of two, width at most 14): the bits
            taken (byte 0), symbols (``most`` bytes from byte 1), bytes of symbols (last byte).
        single: symbol << 8 | length of the first codeword of each window.
        most: bytes of symbols in the fullest entry of ``table``.
        item: bytes of a symbol, 1 or 2.
    """
    low = Word(63)
    sentinel = Word(1 << 63)
    mask = Word(table.size - 1)
    top = Word(56)
    three = Word(3)
    seven = Word(7)
    eight = Word(8)
    p0, p1 = Word(begins[0]) << three, Word(begins[1]) << three
    p2, p3 = Word(begins[2]) << three, Word(begins[3]) << three
    q0, q1, q2, q3 = Word(firsts[0]), Word(firsts[1]), Word(firsts[2]), Word(firsts[3])
    while True:
        # A round reads at most 7 bytes a stream, the streams lie in order: p3 is the last.
        furthest = max(max(p0, p1), max(p2, p3))
        rounds = (data.size - 8 - np.int64(furthest >> three)) // 7
        room = min(
            min(firsts[1] - np.int64(q0), firsts[2] - np.int64(q1)),
            min(firsts[3] - np.int64(q2), firsts[4] - np.int64(q3)),
        )
        rounds = min(rounds, (room - 8) // (4 * most))
        if rounds <= 0:
            break
        for _ in range(rounds):
            w0 = load(data, p0 >> three) >> (p0 & seven) | sentinel
            w1 = load(data, p1 >> three) >> (p1 & seven) | sentinel
            w2 = load(data, p2 >> three) >> (p2 & seven) | sentinel
            w3 = load(data, p3 >> three) >> (p3 & seven) | sentinel
            for _ in range(4):
                e = Word(table[w0 & mask])
                store(out, q0, e >> eight)
                w0 >>= e & low
                q0 += e >> top
                e = Word(table[w1 & mask])
                store(out, q1, e >> eight)
                w1 >>= e & low
                q1 += e >> top
                e = Word(table[w2 & mask])
                store(out, q2, e >> eight)
                w2 >>= e & low
                q2 += e >> top
                e = Word(table[w3 & mask])
                store(out, q3, e >> eight)
                w3 >>= e & low
                q3 += e >> top
            p0 += leading_zeros(w0)
            p1 += leading_zeros(w1)
            p2 += leading_zeros(w2)
            p3 += leading_zeros(w3)
    return max(
        decode_one(data, _I(p0), begins[1], out, _I(q0), firsts[1], table, single, most, item),
        decode_one(data, _I(p1), begins[2], out, _I(q1), firsts[2], table, single, most, item),
        decode_one(data, _I(p2), begins[3], out, _I(q2), firsts[3], table, single, most, item),
        decode_one(data, _I(p3), begins[4], out, _I(q3), firsts[4], table, single, most, item),
    )


@kernel
def decode_alone(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    out: NDArray[np.uint8],
    firsts: NDArray[np.int64],
    table: NDArray[Any],
    single: NDArray[np.uint32],
    most: int,
    item: int,
) -> int:
    """Decode a chunk of one stream, as `decode_four` one of four."""
    return decode_one(
        data, 8 * begins[0], begins[1], out, firsts[0], firsts[1], table, single, most, item
    )
