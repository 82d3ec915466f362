"""Adaptive binary context coder of quantized tensors: smallest output, slowest.

Theory: a value is cut into binary decisions (is it zero, its sign, its magnitude in an
Exp-Golomb tree), and each is coded at the cost of its estimated probability by a range coder.
The estimates are learned while coding, apart for each *context*: what the values coded before
make likely. Nothing about the distribution is stored, so even small tensors pay little.

A tensor of rank 3 or more whose last dimensions are a small kernel takes its contexts from the
value that left, upper and upper-left neighbors in the kernel predict. Any other takes them
from the mean magnitudes of the row (the index of dimension 0) and of the column so far.

Cost: one multiplication and two estimates a decision, one to seven decisions a value. Loops
compiled by Numba code 15 to 60 million values a second on one core, plain Python 200,000 to
600,000; both give the same bytes. Tensors above 2**22 elements are coded in chunks, on threads.

Example:

>>> payload = encode_context([[0, 0, 0, 1], [0, 0, -3, 0]])
>>> decode_context(payload, (2, 4)).tolist()
[[0, 0, 0, 1], [0, 0, -3, 0]]

Sources: Martin 1979 (range coding); Marpe, Schwarz & Wiegand 2003 (binarisation and
contexts); Wiedemann et al. 2020, "DeepCABAC" (its use for weights); Weinberger, Seroussi &
Sapiro 2000 (prediction from neighbors).
"""

from flyweight.coding.context.signed import signed_values, symbols_of
from flyweight.coding.context.stream import Engine, decode_context, encode_context

__all__ = ["Engine", "decode_context", "encode_context", "signed_values", "symbols_of"]
