"""Variable-length unsigned integers (LEB128), and a bounds-checked reader of bytes.

Seven bits a byte, lowest first; the high bit says that another byte follows. Only the
shortest form of a number is accepted, so equal contents are equal bytes.
"""

from __future__ import annotations

from flyweight.errors import FormatError

__all__ = ["ByteReader", "varint"]

LONGEST_VARINT = 9  # 63 bits: every number fits a signed 64-bit integer


def varint(number: int) -> bytes:
    """Return ``number`` (0 to 2**63 - 1) as a variable-length integer.

    >>> varint(300).hex()
    'ac02'
    """
    if not 0 <= number < 1 << (7 * LONGEST_VARINT):
        raise ValueError(f"a varint holds 0 to 2**63 - 1, not {number}")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class ByteReader:
    """Read bytes, varints and strings in order; anything missing is a `FormatError`."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.what = what
        self.position = 0

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        end = self.position + length
        if end > len(self.data):
            raise FormatError(
                f"{self.what} is cut short: {length} bytes are needed at offset "
                f"{self.position}, {len(self.data) - self.position} are left."
            )
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def varint(self) -> int:
        """Return the next variable-length integer."""
        if self.position < len(self.data) and self.data[self.position] < 0x80:  # most are short
            self.position += 1
            return self.data[self.position - 1]
        number = 0
        for index in range(LONGEST_VARINT):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index:
                    raise FormatError(f"{self.what} holds an integer that is padded with zeros.")
                return number
        raise FormatError(f"{self.what} holds an integer of more than 63 bits.")

    def string(self) -> str:
        """Return the next length-prefixed UTF-8 string."""
        return self.text(self.varint())

    def text(self, length: int) -> str:
        """Return the UTF-8 string in the next ``length`` bytes."""
        raw = self.take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.what} holds text that is not UTF-8.") from error

    def rest(self) -> bytes:
        """Return all bytes not yet read."""
        return self.take(len(self.data) - self.position)
