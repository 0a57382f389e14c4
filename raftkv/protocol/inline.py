r"""Inline commands: a line of words, as typed into ``nc`` or telnet, with Redis' quoting rules.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/#inline-commands and the behaviour of
``sdssplitargs``. Words are separated by white space. In double quotes ``\n \r \t \b \a \\ \"`` and ``\xHH``
are escapes and any other escaped byte stands for itself; in single quotes only ``\'`` is an escape. A closing
quote must be followed by white space or the end of the line.
"""

from __future__ import annotations

from typing import Final

from raftkv.errors import ProtocolError

_SPACE: Final = b" \t\n\r\v\f"
"""What separates words (C's isspace)."""
_WORD_END: Final = b" \t\n\r"
"""What ends a word that is not quoted: Redis leaves out the vertical tab and the form feed."""
_ESCAPES: Final = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
_HEX: Final = b"0123456789abcdefABCDEF"
_DOUBLE: Final = ord('"')
_SINGLE: Final = ord("'")
_QUOTES: Final = b"\"'"
_BACKSLASH: Final = ord("\\")


def split_inline(line: bytes) -> list[bytes]:
    """The words of ``line`` (without its line end); empty for a blank line.

    Raises ProtocolError (``unbalanced quotes in request``).
    """
    if b'"' not in line and b"'" not in line and b"\v" not in line and b"\f" not in line:
        return line.split()
    words: list[bytes] = []
    pos, end = 0, len(line)
    while True:
        while pos < end and line[pos] in _SPACE:
            pos += 1
        if pos == end:
            return words
        word, pos = _word(line, pos)
        words.append(word)


def _word(line: bytes, pos: int) -> tuple[bytes, int]:
    """The word that starts at ``pos``, and where it ends. A quote may open in the middle of a word."""
    word = bytearray()
    end = len(line)
    while pos < end:
        byte = line[pos]
        if byte in _WORD_END:
            break
        if byte in _QUOTES:
            pos = _quoted(line, pos + 1, byte, word)
            break
        word.append(byte)
        pos += 1
    return bytes(word), pos


def _quoted(line: bytes, pos: int, quote: int, word: bytearray) -> int:
    """Append what stands up to the closing ``quote`` to ``word``; returns the position after it."""
    end = len(line)
    while pos < end:
        byte = line[pos]
        if byte == quote:
            if pos + 1 < end and line[pos + 1] not in _SPACE:
                break
            return pos + 1
        if byte == _BACKSLASH and pos + 1 < end:
            following = line[pos + 1]
            if quote == _DOUBLE:
                digits = line[pos + 2 : pos + 4]
                if following == ord("x") and len(digits) == 2 and all(digit in _HEX for digit in digits):
                    word.append(int(digits, 16))
                    pos += 4
                else:
                    word.append(_ESCAPES.get(following, following))
                    pos += 2
                continue
            if following == _SINGLE:
                word.append(_SINGLE)
                pos += 2
                continue
        word.append(byte)
        pos += 1
    raise ProtocolError("unbalanced quotes in request")
