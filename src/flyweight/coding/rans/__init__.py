"""Static range asymmetric numeral systems (rANS).

Theory: rANS codes a symbol of frequency f out of M = 2**bits at log2(M / f) bits, fractions
included, so it comes within thousandths of a bit of the order-0 entropy, below one bit a
symbol too. The whole past is one integer, the state; what overflows it leaves as 16-bit words.
Several states (*lanes*) take turns with the symbols and share one stream of words, which lets
a processor, or NumPy, work on many at once. A long stream is cut into chunks that share one
table, for threads.

The table keeps the frequencies as rounded weights (a short stream does not repay exact ones)
and follows from integers alone: the same symbols give the same bytes on every machine, for any
number of threads, with Numba or without.

Cost: with Numba some 1 ns a symbol and core to decode and 2 to encode, after half a second of
start-up or more; NumPy needs no start-up and is ten to fifty times slower.

Example:

>>> table, payload = encode_rans([0] * 90 + [1, 2] * 5, 3)
>>> len(table), len(payload)
(3, 8)
>>> decode_rans(table, payload, 100, 3)[-4:].tolist()
[1, 2, 1, 2]

Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders".
"""

from flyweight.coding.rans.frequencies import frequencies
from flyweight.coding.rans.stream import MAX_ALPHABET, decode_rans, encode_rans

__all__ = ["MAX_ALPHABET", "decode_rans", "encode_rans", "frequencies"]
