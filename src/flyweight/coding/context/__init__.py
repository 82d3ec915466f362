import numpy as np
from math import prod
from flyweight.errors import FormatError
from flyweight.coding.context.signed import signed_values, symbols_of
from flyweight.coding.context.stream import decode_context as _d, encode_context as _e
def context_limit(n): return (1<<20)+512*n
def encode_context_values(v, *, threads=None): return _e(v, threads=threads)
def decode_context_values(p, shape, *, threads=None): return _d(p, shape, threads=threads)
def encode_context(symbols, negatives, *, threads=None):
    return _e(signed_values(symbols.astype(np.int64), negatives)) if symbols.size else b""
def decode_context(payload, shape, negatives, alphabet, *, threads=None):
    values = _d(payload, shape)
    if values.size and (int(values.min()) < -negatives or int(values.max()) >= alphabet - negatives):
        raise FormatError(f"a context-coded stream leaves its alphabet of {alphabet}.")
    return symbols_of(values, negatives).astype(np.uint8 if alphabet <= 256 else np.uint16)
