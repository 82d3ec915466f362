"""Headers of files: names, shapes, dtypes, encodings and lengths of parts in few bytes.

Names are split at their dots and front-coded: each states how many components it shares with the
name before, then the new ones. A component, a shape or a kind of tensor is spelled out where it
first occurs and is a small number after that, so that a Huffman code over the bytes of the header
saves much. Names and shapes can be left to an architecture that the reader knows: a digest makes
sure that it is the same one.

Source: front coding as in Witten, Moffat & Bell 1999, section 4.1.
"""

from flyweight.coding.header.outline import Outline, Shapes, outline_of
from flyweight.coding.header.pack import pack_header
from flyweight.coding.header.unpack import OpenHeader, open_header

__all__ = ["OpenHeader", "Outline", "Shapes", "open_header", "outline_of", "pack_header"]
