"""Code an array with every coder of an installed wheel; run by cibuildwheel."""

from __future__ import annotations

import numpy as np

from flyweight.coding import decode, encode

symbols = np.random.default_rng(0).integers(-3, 4, (300, 70)).astype(np.int8)
for coder in ("huffman", "rans", "context", "planes"):
    assert np.array_equal(decode(encode(symbols, coder)), symbols), coder
