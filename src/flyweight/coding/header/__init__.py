"""What a file's tensors are, as few bytes: names, shapes, dtypes, encodings, lengths of parts.

Names are cut at their dots and front-coded: each says how many components it shares with the
name before, then the new ones. A component, a shape or a kind of tensor is written out where
it first occurs and is a small number after that, so a Huffman code over the bytes of the header
finds much to save. Where whoever reads knows the architecture, names and shapes can be left out:
a digest makes sure that it is the same.

Source: front coding as in Witten, Moffat & Bell 1999, section 4.1.
"""

from flyweight.coding.header.outline import (
    Outline,
    Shapes,
    Skeleton,
    outline_of,
)
from flyweight.coding.header.pack import pack_header
from flyweight.coding.header.unpack import unpack_header

__all__ = ["Outline", "Shapes", "Skeleton", "outline_of", "pack_header", "unpack_header"]
