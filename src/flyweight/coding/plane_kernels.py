"""Loops of byte planes compiled by Numba; imported on demand.

They are imported only where `interleaved.kernels_for` says that this pays. Numba checks no
bounds: words and planes have to be of equal size. The loops begin at 0, so that no index can be
negative, and shift by constants: both are needed for vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.numba_compiler import kernel

__all__ = ["join_eight", "join_four", "join_two", "split_eight", "split_four", "split_two"]

Word = np.uint64
_BLOCK = 4096  # words that stay in the nearest cache while their planes are passed over


@kernel
def _take(words: NDArray[Any], place: int, row: NDArray[np.uint8]) -> None:
    for at in range(row.size):
        row[at] = np.uint8((words[at] >> Word(place)) & Word(0xFF))


@kernel
def split_two(words: NDArray[np.uint16], rotation: int, planes: NDArray[np.uint8]) -> None:
    """Write byte k of each word, rotated left by 0 or 1 bits, to planes[k]."""
    block = np.empty(_BLOCK, dtype=np.uint16)
    for first in range(0, words.size, _BLOCK):
        part = words[first : first + _BLOCK]
        last = first + part.size
        if rotation == 1:
            for at in range(part.size):
                block[at] = part[at] << Word(1) | part[at] >> Word(15)
        else:
            for at in range(part.size):
                block[at] = part[at]
        _take(block, 0, planes[0, first:last])
        _take(block, 8, planes[1, first:last])


@kernel
def split_four(words: NDArray[np.uint32], rotation: int, planes: NDArray[np.uint8]) -> None:
    """Write byte k of each word, rotated left by 0 or 1 bits, to planes[k]."""
    block = np.empty(_BLOCK, dtype=np.uint32)
    for first in range(0, words.size, _BLOCK):
        part = words[first : first + _BLOCK]
        last = first + part.size
        if rotation == 1:
            for at in range(part.size):
                block[at] = part[at] << Word(1) | part[at] >> Word(31)
        else:
            for at in range(part.size):
                block[at] = part[at]
        _take(block, 0, planes[0, first:last])
        _take(block, 8, planes[1, first:last])
        _take(block, 16, planes[2, first:last])
        _take(block, 24, planes[3, first:last])


@kernel
def split_eight(words: NDArray[np.uint64], rotation: int, planes: NDArray[np.uint8]) -> None:
    """Write byte k of each word, rotated left by 0 or 1 bits, to planes[k]."""
    block = np.empty(_BLOCK, dtype=np.uint64)
    for first in range(0, words.size, _BLOCK):
        part = words[first : first + _BLOCK]
        last = first + part.size
        if rotation == 1:
            for at in range(part.size):
                block[at] = part[at] << Word(1) | part[at] >> Word(63)
        else:
            for at in range(part.size):
                block[at] = part[at]
        _take(block, 0, planes[0, first:last])
        _take(block, 8, planes[1, first:last])
        _take(block, 16, planes[2, first:last])
        _take(block, 24, planes[3, first:last])
        _take(block, 32, planes[4, first:last])
        _take(block, 40, planes[5, first:last])
        _take(block, 48, planes[6, first:last])
        _take(block, 56, planes[7, first:last])


@kernel
def join_two(
    words: NDArray[np.uint16], rotation: int, a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> None:
    """Fill ``words`` from their byte planes, of equal size, and rotate them back."""
    if rotation == 1:
        for at in range(words.size):
            word = Word(a[at]) | Word(b[at]) << Word(8)
            words[at] = word >> Word(1) | word << Word(15)
    else:
        for at in range(words.size):
            words[at] = Word(a[at]) | Word(b[at]) << Word(8)


@kernel
def join_four(
    words: NDArray[np.uint32],
    rotation: int,
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    c: NDArray[np.uint8],
    d: NDArray[np.uint8],
) -> None:
    """Do what `join_two` does, with four planes."""
    if rotation == 1:
        for at in range(words.size):
            word = Word(a[at]) | Word(b[at]) << Word(8)
            word |= Word(c[at]) << Word(16) | Word(d[at]) << Word(24)
            words[at] = word >> Word(1) | word << Word(31)
    else:
        for at in range(words.size):
            word = Word(a[at]) | Word(b[at]) << Word(8)
            words[at] = word | Word(c[at]) << Word(16) | Word(d[at]) << Word(24)


@kernel
def _add(plane: NDArray[np.uint8], place: int, words: NDArray[np.uint64]) -> None:
    for at in range(words.size):
        words[at] |= Word(plane[at]) << Word(place)


@kernel
def join_eight(
    words: NDArray[np.uint64],
    rotation: int,
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    c: NDArray[np.uint8],
    d: NDArray[np.uint8],
    e: NDArray[np.uint8],
    f: NDArray[np.uint8],
    g: NDArray[np.uint8],
    h: NDArray[np.uint8],
) -> None:
    """Do what `join_two` does, with eight planes, which the compiler wants one by one."""
    for first in range(0, words.size, _BLOCK):
        part = words[first : first + _BLOCK]
        last = first + part.size
        low = a[first:last]
        for at in range(part.size):
            part[at] = low[at]
        _add(b[first:last], 8, part)
        _add(c[first:last], 16, part)
        _add(d[first:last], 24, part)
        _add(e[first:last], 32, part)
        _add(f[first:last], 40, part)
        _add(g[first:last], 48, part)
        _add(h[first:last], 56, part)
        if rotation == 1:
            for at in range(part.size):
                part[at] = part[at] >> Word(1) | part[at] << Word(63)
