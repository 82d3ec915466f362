"""Loops of rANS in vector code, eight lanes at once.

Numba does not find these steps itself: which words a lane takes depends on the lanes before it.
Here the lanes that take one make up a byte, a table gives for each such byte the order into
which to put the next eight words, and one instruction (of every x86-64 processor since 2011)
puts them so. The look-ups are eight plain loads: gathers are slower on many processors.

Example:

>>> _orders_of_taken().reshape(256, 16)[0b101].tolist()[:8]  # lane 0 and 2 take words 0 and 1
[0, 1, 128, 128, 2, 3, 128, 128]

Source: Giesen 2015, "rANS with static probability distributions" (SIMD decoding); Bonfield,
htscodecs (the same, 32 lanes); Robison 2005, "N-bit unsigned division via n-bit multiply-add".
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
from llvmlite import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    binding,
    ir,
)
from numba import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    config,
    types,
)
from numba.extending import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    intrinsic,
)
from numpy.typing import NDArray

from flyweight.coding.numba_compiler import compiled
from flyweight.coding.rans.frequencies import floor_log2

__all__ = ["LANES", "decode_steps", "encode_steps", "whole_steps"]

_BITS = 12  # of probability, in these steps
LANES = 8
_NOTHING = 0x80

_U = np.uint64
_I = np.int64

_DECODE = "int64(uint16[::1], uint32[::1], uint8[::1], uint32[::1], uint16[::1])"
_ENCODE = "int64(uint16[::1], uint64[::1], uint8[::1], uint32[::1], uint16[::1])"


@cache
def _usable() -> bool:
    """Return whether the processor that Numba compiles for has the instruction."""
    settings: Any = config
    if sys.byteorder != "little" or settings.CPU_NAME or settings.CPU_FEATURES:
        return False
    return bool(binding.get_host_cpu_features().get("ssse3", False))


@cache
def _orders_of_taken() -> NDArray[np.uint8]:
    """Return which bytes of eight words each lane takes, for each set of lanes that take one.

    Shape (4096,): 16 bytes for each of the 256 sets.
    """
    orders = np.full((256, LANES, 2), _NOTHING, dtype=np.uint8)
    for lanes in range(256):
        chosen = [lane for lane in range(LANES) if lanes >> lane & 1]
        for place, lane in enumerate(chosen):
            orders[lanes, lane] = 2 * place, 2 * place + 1
    return orders.ravel()


@cache
def _orders_of_given() -> NDArray[np.uint8]:
    """Return the bytes of those lanes that give a word, at the end of eight words; as above."""
    orders = np.full((256, LANES, 2), _NOTHING, dtype=np.uint8)
    for lanes in range(256):
        chosen = [lane for lane in range(LANES) if lanes >> lane & 1]
        for place, lane in enumerate(chosen, LANES - len(chosen)):
            orders[lanes, place] = 2 * lane, 2 * lane + 1
    return orders.ravel()


def _decoder_entries(slots: NDArray[np.uint64]) -> NDArray[np.uint32] | None:
    """Return `plain.decoder_slots` as 12 bits of frequency, 12 of place, 8 of symbol.

    None if they are not of 12 probability bits, or a symbol is above 255.
    """
    symbol = slots >> np.uint64(16) & np.uint64(0xFFFF)
    if slots.size != 1 << _BITS or int(symbol.max()) > 255:
        return None
    place = slots >> np.uint64(32)
    entries = slots & np.uint64(0xFFFF) | place << np.uint64(_BITS) | symbol << np.uint64(2 * _BITS)
    narrow: NDArray[np.uint32] = entries.astype(np.uint32)
    return narrow


def _encoder_entries(packed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return what `_encode_eight` looks up for cumulative frequency | (4096 - frequency) << 32.

    That is a reciprocal of 32 bits, 12 bits of cumulative frequency, 12 of 4096 - frequency, 4
    of shift, and one: with x below frequency << 20, floor(x / frequency) is
    ``(x + one) * reciprocal >> 32 + shift``, exactly. The reciprocal is rounded up, or down
    (and one is 1) where that would be too much. Symbols of no frequency have no entry.
    """
    cumulative = (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    rest = (packed >> np.uint64(32)).astype(np.int64)
    frequency = (1 << _BITS) - rest
    share = np.maximum(frequency, 2)
    shift = floor_log2(share - 1)
    power = np.left_shift(1, 32 + shift)
    above = -power % share
    one = (above * share << 20) >= power
    reciprocal = (power - power % share) // share + (~one & (above > 0))
    alone = frequency == 1
    reciprocal[alone] = 0xFFFFFFFF
    shift[alone] = 0
    one[alone] = True
    high = cumulative | rest << _BITS | shift << 24 | one.astype(np.int64) << 28
    both: NDArray[np.uint64] = high.astype(np.uint64) << np.uint64(32)
    both |= reciprocal.astype(np.uint64)
    return both


_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES = ir.VectorType(_I8, 2 * LANES)
_WORDS = ir.VectorType(_I16, LANES)
_STATES = ir.VectorType(_I32, LANES)
_WIDE = ir.VectorType(_I64, LANES)


def _all(value: int, kind: Any = _STATES) -> Any:
    return ir.Constant(kind, [value] * LANES)


class _Step:
    """Builder of the code of one step; arrays are named by their place among the arguments."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.build = builder
        self._arguments = arguments
        self._arrays = {
            place: context.make_array(kind)(context, builder, arguments[place]).data
            for place, kind in enumerate(signature.args)
            if isinstance(kind, types.Array)
        }

    def pointer(self, array: int, at: Any, kind: Any) -> Any:
        """Return where element ``at`` of an array is, as the place of a ``kind``."""
        place = self.build.gep(self._arrays[array], [at])
        return self.build.bitcast(place, kind.as_pointer())

    def looked_up(self, array: int, kind: Any, at: Any) -> Any:
        """Return the element of an array for each of eight places, as a vector."""
        found = ir.Constant(kind, ir.Undefined)
        for lane in range(LANES):
            place = self.build.zext(self.build.extract_element(at, _I32(lane)), _I64)
            element = self.build.load(self.build.gep(self._arrays[array], [place]))
            found = self.build.insert_element(found, element, _I32(lane))
        return found

    def ordered(self, words: Any, orders: int, lanes: Any) -> Any:
        """Return eight words in the order that the table gives for a set of lanes."""
        at = self.build.shl(lanes, _I64(4))
        order = self.build.load(self.pointer(orders, at, _BYTES), align=1)
        shuffle = self.build.module.declare_intrinsic(
            "llvm.x86.ssse3.pshuf.b.128", (), ir.FunctionType(_BYTES, [_BYTES, _BYTES])
        )
        words = self.build.bitcast(words, _BYTES)
        return self.build.bitcast(self.build.call(shuffle, [words, order]), _WORDS)

    def field(self, entries: Any, low: int, bits: int) -> Any:
        """Return a bit field of each entry."""
        return self.build.and_(self.build.lshr(entries, _all(low)), _all((1 << bits) - 1))


def _decode_eight_(
    typing: Any,
    words: Any,
    at: Any,
    entries: Any,
    orders: Any,
    states: Any,
    lane: Any,
    out: Any,
    index: Any,
) -> Any:
    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        step = _Step(context, build, signature, arguments)
        place = step.pointer(4, arguments[5], _STATES)
        state = build.load(place, align=4)
        entry = step.looked_up(2, _STATES, step.field(state, 0, _BITS))
        state = build.mul(step.field(entry, 0, _BITS), build.lshr(state, _all(_BITS)))
        state = build.add(state, step.field(entry, _BITS, _BITS))
        low = build.icmp_unsigned("<", state, _all(1 << 16))
        lanes = build.zext(build.bitcast(low, _I8), _I64)
        ahead = build.load(step.pointer(0, arguments[1], _WORDS), align=2)
        taken = build.zext(step.ordered(ahead, 3, lanes), _STATES)
        grown = build.or_(build.shl(state, _all(16)), taken)
        build.store(build.select(low, grown, state), place, align=4)
        symbols = build.trunc(build.lshr(entry, _all(2 * _BITS)), _WORDS)
        build.store(symbols, step.pointer(6, arguments[7], _WORDS), align=2)
        return build.ctpop(lanes)

    return types.uint64(words, at, entries, orders, states, lane, out, index), generate


def _encode_eight_(
    typing: Any,
    symbols: Any,
    index: Any,
    entries: Any,
    orders: Any,
    states: Any,
    lane: Any,
    words: Any,
    at: Any,
) -> Any:
    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        step = _Step(context, build, signature, arguments)
        place = step.pointer(4, arguments[5], _STATES)
        state = build.load(place, align=4)
        symbol = build.load(step.pointer(0, arguments[1], _WORDS), align=2)
        entry = step.looked_up(2, _WIDE, build.zext(symbol, _STATES))
        packed = build.trunc(build.lshr(entry, _all(32, _WIDE)), _STATES)
        rest = step.field(packed, _BITS, _BITS)
        share = build.sub(_all(1 << _BITS), rest)
        full = build.icmp_unsigned(">=", build.lshr(state, _all(32 - _BITS)), share)
        lanes = build.zext(build.bitcast(full, _I8), _I64)
        given = step.ordered(build.trunc(state, _WORDS), 3, lanes)
        build.store(given, step.pointer(6, build.sub(arguments[7], _I64(LANES)), _WORDS), align=2)
        state = build.select(full, build.lshr(state, _all(16)), state)
        above = build.zext(build.add(state, step.field(packed, 28, 1)), _WIDE)
        above = build.mul(above, build.and_(entry, _all(0xFFFFFFFF, _WIDE)))
        quotient = build.trunc(build.lshr(above, _all(32, _WIDE)), _STATES)
        quotient = build.lshr(quotient, step.field(packed, 24, 4))
        state = build.add(state, step.field(packed, 0, _BITS))
        build.store(build.add(state, build.mul(quotient, rest)), place, align=4)
        return build.ctpop(lanes)

    return types.uint64(symbols, index, entries, orders, states, lane, words, at), generate


_decode_eight: Any = intrinsic(_decode_eight_)
"""Decode a symbol of each of states[lane:lane + 8] into out[index:]; return the words taken.

Called as (words, at, `_decoder_entries`, `_orders_of_taken`, states, lane, out, index); reads
words[at:at + 8]."""

_encode_eight: Any = intrinsic(_encode_eight_)
"""Encode symbols[index:index + 8] with states[lane:lane + 8]; return how many words they give.

Called as (symbols, index, `_encoder_entries`, `_orders_of_given`, states, lane, words, at); the
words end before words[at], and words[at - 8:at] are written."""


def _decode_loop(words: Any, entries: Any, orders: Any, states: Any, out: Any) -> Any:
    """Decode while a step of all lanes is whole and words are there for it.

    Returns symbols << 32 | words taken.
    """
    lanes = _U(states.size)
    last_word = _I(words.size) - _I(states.size)  # a step reads ahead by no more than it may take
    last_symbol = _I(out.size) - _I(states.size)
    at = _U(0)
    first = _U(0)
    while _I(first) <= last_symbol and _I(at) <= last_word:
        for group in range(states.size >> 3):
            lane = _U(group << 3)
            at += _decode_eight(words, at, entries, orders, states, lane, out, first + lane)
        first += lanes
    return _I(first << _U(32) | at)


def _encode_loop(symbols: Any, entries: Any, orders: Any, states: Any, words: Any) -> Any:
    """Encode a multiple of the lanes into the end of ``words``; return where they begin."""
    at = _U(words.size)
    first = _U(symbols.size)
    lanes = states.size
    while first > _U(0):
        first -= _U(lanes)
        for group in range(lanes >> 3):
            lane = _U(lanes - 8 - (group << 3))
            at -= _encode_eight(symbols, first + lane, entries, orders, states, lane, words, at)
    return _I(at)


def decode_steps(
    words: NDArray[np.uint16],
    slots: NDArray[np.uint64],
    states: NDArray[np.uint32],
    out: NDArray[np.uint16],
) -> tuple[int, int]:
    """Decode what can be decoded in whole steps; return how many symbols and words that was.

    Takes what `kernels.decode_lanes` takes.
    """
    entries = _decoder_entries(slots) if states.size >= LANES and _usable() else None
    if entries is None:
        return 0, 0
    loop = compiled(_decode_loop, _DECODE)
    first, at = divmod(loop(words, entries, _orders_of_taken(), states, out), 1 << 32)
    return first, at


def whole_steps(count: int, bits: int, lanes: int) -> int:
    """Return how many of the symbols `encode_steps` can encode: the first ones, or none."""
    suits = bits == _BITS and lanes >= LANES and _usable()
    return count // lanes * lanes if suits else 0


def encode_steps(
    symbols: NDArray[np.uint16],
    entries: NDArray[np.uint64],
    states: NDArray[np.uint32],
    words: NDArray[np.uint16],
) -> int:
    """Encode `whole_steps` of symbols into the end of ``words``; return where they begin.

    Takes what `kernels.encode_lanes` takes; there is room for eight words more than symbols.
    """
    narrow = _encoder_entries(entries[1::2])
    loop = compiled(_encode_loop, _ENCODE)
    return int(loop(symbols, narrow, _orders_of_given(), states, words))
