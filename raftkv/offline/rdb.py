"""Redis' RDB files, versions 1 to 11 (Redis up to 7.2), read as a stream: large values come in pieces.

Written after rdb.h, rdb.c and t_stream.c of Redis. We looked for a reader to use instead: the one that is maintained
(rdb-py 0.4) leaves out streams without a word, gives the checksum without comparing it, and reads only whole files by
name, not what stands before an append-only file.

What raftkv has no type for (streams, modules, functions) is an error, or is told and passed over (:class:`Skipped`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anycrc

from raftkv.errors import RaftKVError
from raftkv.offline.packed import PackedError, Unpack, intset, listpack, lzf, ziplist, zipmap
from raftkv.offline.rebuild import PIECE_BYTES_MAX, PIECE_ELEMENTS_MAX, Piece, element_bytes
from raftkv.store.keyspace import DATABASES

MAGIC: Final = b"REDIS"
VERSION_MAX: Final = 11
READ_BYTES: Final = 256 * 1024
STRING_BYTES_MAX: Final = 512 << 20
"""Redis' own limit (proto-max-bulk-len); a longer declaration is damage."""

_SLOT_INFO, _FUNCTION2, _FUNCTION, _MODULE_AUX, _IDLE, _FREQ, _AUX, _RESIZE, _EXPIRE_MS, _EXPIRE_S, _SELECT, _EOF = (
    range(0xF4, 0x100)
)
_STRING, _LIST, _SET, _ZSET, _HASH, _ZSET2, _MODULE1, _MODULE2 = range(8)
_ZIPMAP, _LIST_ZIPLIST, _SET_INTSET, _ZSET_ZIPLIST, _HASH_ZIPLIST, _QUICKLIST = range(9, 15)
_STREAM1, _HASH_LISTPACK, _ZSET_LISTPACK, _QUICKLIST2, _STREAM2, _SET_LISTPACK, _STREAM3 = range(15, 22)
_PACKED: Final[dict[int, tuple[str, Unpack]]] = {
    _ZIPMAP: ("hash", zipmap),
    _LIST_ZIPLIST: ("list", ziplist),
    _SET_INTSET: ("set", intset),
    _ZSET_ZIPLIST: ("zset", ziplist),
    _HASH_ZIPLIST: ("hash", ziplist),
    _HASH_LISTPACK: ("hash", listpack),
    _ZSET_LISTPACK: ("zset", listpack),
    _SET_LISTPACK: ("set", listpack),
}
_STREAMS: Final = (_STREAM1, _STREAM2, _STREAM3)
_PLAIN_NODE: Final = 1
_CRC64: Final = anycrc.Model("CRC64-REDIS")


class ImportedFileError(RaftKVError):
    """A file that cannot be imported; names it, and the offset of what is wrong."""


class UnsupportedError(ImportedFileError):
    """It holds what raftkv has no type for."""


class Readable(Protocol):
    """An open binary file, or a pipe."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was passed over."""

    kind: str
    """stream, module, module data, function, a command's name, empty list ..."""
    name: str


class Source:
    """Bytes of a file, counted, and summed up as they are taken (CRC-64 of Redis)."""

    def __init__(self, stream: Readable, name: str) -> None:
        self.name = name
        self.at = 0
        """Offset of the next byte."""
        self._stream = stream
        self._buffer = b""
        self._start = 0
        self._summed = 0
        self._crc = 0

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer only at the end; they are not taken."""
        while len(self._buffer) - self._start < size and self._fill():
            pass
        return self._buffer[self._start : self._start + size]

    def take(self, size: int) -> bytes:
        """Raises ImportedFileError when the file ends before."""
        end = self._start + size
        if end <= len(self._buffer):
            data = self._buffer[self._start : end]
            self._start = end
            self.at += size
            return data
        return self._take_long(size)

    def _take_long(self, size: int) -> bytes:
        """Piece by piece: a declared length takes no memory before the bytes are there."""
        parts: list[bytes] = []
        left = size
        while left:
            if self._start == len(self._buffer) and not self._fill():
                raise self.wrong(f"the file ends here, {left} bytes before it should")
            part = self._buffer[self._start : self._start + left]
            self._start += len(part)
            self.at += len(part)
            left -= len(part)
            parts.append(part)
        return b"".join(parts)

    def take_if(self, size: int) -> bytes | None:
        """As :meth:`take`; None when the file ends before."""
        try:
            return self.take(size)
        except ImportedFileError:
            return None

    def line(self, limit: int) -> bytes | None:
        """The next line without its end; None when the file ends before. Raises ImportedFileError over ``limit``."""
        found = self.peek(limit).find(b"\n")
        if found < 0:
            if len(self.peek(limit)) < limit:
                return None
            raise self.wrong(f"no line of at most {limit} bytes")
        return self.take(found + 1)[:-1].removesuffix(b"\r")

    def _fill(self) -> bool:
        self._sum()
        data = self._stream.read(READ_BYTES)
        self._buffer = self._buffer[self._start :] + data
        self._start = self._summed = 0
        return bool(data)

    def _sum(self) -> None:
        if self._start > self._summed:
            self._crc = int(_CRC64.calc(self._buffer[self._summed : self._start], self._crc))
            self._summed = self._start

    def checksum(self) -> int:
        """Of all that was taken."""
        self._sum()
        return self._crc

    def wrong(self, reason: str) -> ImportedFileError:
        """What is not right at this offset."""
        return ImportedFileError(f"{self.name} at offset {self.at}: {reason}")


@dataclass(slots=True)
class RdbReader:
    """Iterate for the keys, in the order of the file.

    Raises ImportedFileError; nothing of the rest is to be believed then.
    """

    source: Source
    skip_unsupported: bool = False
    version: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    """What the writer said of itself: redis-ver, ctime, used-mem ..."""
    _database: int = 0
    _expire_at_ms: int | None = None

    def __iter__(self) -> Iterator[Piece | Skipped]:
        source = self.source
        self._begin()
        while True:
            at = source.at
            code = source.take(1)[0]
            if code == _EOF:
                break
            try:
                yield from self._opcode(code) if code >= _SLOT_INFO else self._key(code)
            except PackedError as error:
                raise ImportedFileError(f"{source.name} at offset {at}: {error.message}") from error
        self._end()

    def _begin(self) -> None:
        source = self.source
        head = source.take(9)
        if head[:5] != MAGIC or not head[5:].isdigit():
            raise ImportedFileError(
                f"{source.name} is no RDB file: it does not begin with {MAGIC.decode()} and a version"
            )
        self.version = int(head[5:])
        if not 1 <= self.version <= VERSION_MAX:
            raise ImportedFileError(
                f"{source.name} is an RDB file of version {self.version}; versions 1 to {VERSION_MAX} are known (Redis up to 7.2). "
                "Export it from its server as commands instead, or write it with an older Redis"
            )

    def _end(self) -> None:
        if self.version < 5:
            return
        computed = self.source.checksum()
        stored = int.from_bytes(self.source.take(8), "little")
        if stored not in (0, computed):  # 0: rdbchecksum no
            raise self.source.wrong(
                f"the checksum does not match ({computed:016x}, not {stored:016x}): the file is damaged"
            )

    # ------------------------------------------------------------ numbers and strings
    def _length(self) -> int:
        length, special = self._length_or_form()
        if special:
            raise self.source.wrong("an encoded string where a length has to be")
        return length

    def _length_or_form(self) -> tuple[int, bool]:
        take = self.source.take
        first = take(1)[0]
        form = first >> 6
        if form == 0:
            return first, False
        if form == 1:
            return (first & 0x3F) << 8 | take(1)[0], False
        if form == 3:
            return first & 0x3F, True
        if first == 0x80:
            return int.from_bytes(take(4), "big"), False
        if first == 0x81:
            return int.from_bytes(take(8), "big"), False
        raise self.source.wrong(f"a length of unknown form {first:#x}")

    def _string(self) -> bytes:
        length, special = self._length_or_form()
        take = self.source.take
        if not special:
            return take(self._checked(length))
        if length < 3:
            return b"%d" % int.from_bytes(take(1 << length), "little", signed=True)
        if length > 3:
            raise self.source.wrong(f"a string of unknown form {length}")
        packed, size = self._checked(self._length()), self._checked(self._length())
        return lzf(take(packed), size)

    def _checked(self, length: int) -> int:
        if length > STRING_BYTES_MAX:
            raise self.source.wrong(f"a string of {length} bytes is declared, {STRING_BYTES_MAX} are the most")
        return length

    def _old_double(self) -> float:
        size = self.source.take(1)[0]
        if size >= 253:
            return self._as_score({253: b"nan", 254: b"inf", 255: b"-inf"}[size])
        return self._as_score(self.source.take(size))

    def _double(self) -> float:
        score = float(struct.unpack("<d", self.source.take(8))[0])
        return self._as_score(b"nan") if math.isnan(score) else score

    def _as_score(self, text: bytes) -> float:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            raise self.source.wrong(f"{text[:40]!r} is no score")
        return score

    # ------------------------------------------------------------ between the keys
    def _opcode(self, code: int) -> Iterator[Skipped]:
        take = self.source.take
        if code == _SELECT:
            self._database = self._length()
            if self._database >= DATABASES:
                raise self.source.wrong(f"database {self._database}; raftkv has {DATABASES} (0 to {DATABASES - 1})")
        elif code == _EXPIRE_MS:
            self._expire_at_ms = int.from_bytes(take(8), "little", signed=True)
        elif code == _EXPIRE_S:
            self._expire_at_ms = 1000 * int.from_bytes(take(4), "little", signed=True)
        elif code == _AUX:
            name, value = self._string(), self._string()
            self.facts[name.decode(errors="replace")] = value.decode(errors="replace")
        elif code == _RESIZE:
            self._length()
            self._length()
        elif code == _FREQ:
            take(1)
        elif code == _IDLE:
            self._length()
        elif code == _MODULE_AUX:
            yield self._unsupported("module data", _module_name(self._length()))
            self._module_fields()
        elif code == _FUNCTION2:
            yield self._unsupported("function", self._string()[:60].decode(errors="replace").partition("\n")[0])
        else:
            raise self.source.wrong(f"an unknown mark {code:#x}, where a key has to begin")

    def _unsupported(self, kind: str, name: str) -> Skipped:
        if not self.skip_unsupported:
            raise UnsupportedError(
                f"{self.source.name} at offset {self.source.at} holds a {kind} ({name}), which raftkv has not; "
                "--skip-unsupported leaves such things out, and names them"
            )
        return Skipped(kind, name)

    # ------------------------------------------------------------ keys
    def _key(self, code: int) -> Iterator[Piece | Skipped]:
        key = self._string()
        expire_at_ms, self._expire_at_ms = self._expire_at_ms, None
        name = key.decode(errors="backslashreplace")
        if code in _STREAMS:
            yield self._unsupported("stream", name)
            self._skip_stream(code)
        elif code == _MODULE2:
            yield self._unsupported("module", f"{name}, of {_module_name(self._length())}")
            self._module_fields()
        elif code == _STRING:
            yield Piece(self._database, key, "string", [self._string()], expire_at_ms)
        elif code in _PACKED or code in _ELEMENTS:
            kind, elements = self._container(code)
            yield from self._in_pieces(Piece(self._database, key, kind, [], expire_at_ms), elements)
        else:
            raise self.source.wrong(f"key {name} is of unknown type {code}")

    def _in_pieces(self, whole: Piece, elements: Iterator[Any]) -> Iterator[Piece | Skipped]:
        """One ahead, so that the last piece can say that it is."""
        held: list[Any] = []
        size, first = 0, True
        for element in elements:
            if len(held) >= PIECE_ELEMENTS_MAX or size >= PIECE_BYTES_MAX:
                yield whole._replace(elements=held, first=first, last=False)
                held, size, first = [], 0, False
            held.append(element)
            size += element_bytes(element)
        if held:
            yield whole._replace(elements=held, first=first)
        else:  # Redis passes over them, too: an old fault of it wrote such
            yield Skipped(f"empty {whole.kind}", whole.key.decode(errors="backslashreplace"))

    def _container(self, code: int) -> tuple[str, Iterator[Any]]:
        if code in _ELEMENTS:
            kind, elements = _ELEMENTS[code]
            return kind, elements(self)
        kind, unpack = _PACKED[code]
        found = unpack(self._string())
        if kind in {"list", "set"}:
            return kind, iter(found)
        if len(found) % 2:
            raise self.source.wrong(f"a {kind} of {len(found)} words, which are no pairs")
        pairs = zip(found[::2], found[1::2], strict=True)
        if kind == "hash":
            return kind, pairs
        return kind, ((member, self._as_score(score)) for member, score in pairs)

    def _strings(self) -> Iterator[bytes]:
        for _ in range(self._length()):
            yield self._string()

    def _hash(self) -> Iterator[tuple[bytes, bytes]]:
        for _ in range(self._length()):
            yield self._string(), self._string()

    def _zset_old(self) -> Iterator[tuple[bytes, float]]:
        for _ in range(self._length()):
            yield self._string(), self._old_double()

    def _zset(self) -> Iterator[tuple[bytes, float]]:
        for _ in range(self._length()):
            yield self._string(), self._double()

    def _quicklist(self) -> Iterator[bytes]:
        for _ in range(self._length()):
            yield from ziplist(self._string())

    def _quicklist2(self) -> Iterator[bytes]:
        for _ in range(self._length()):
            form = self._length()
            if form not in {1, 2}:
                raise self.source.wrong(f"a node of a list of unknown form {form}")
            node = self._string()
            yield from [node] if form == _PLAIN_NODE else listpack(node)

    # ------------------------------------------------------------ what is passed over
    def _skip_stream(self, code: int) -> None:
        for _ in range(self._length()):
            self._string()
            self._string()
        self._lengths(3 if code == _STREAM1 else 8)  # length and last id; since 7.0 also first and deleted ids, a count
        for _ in range(self._length()):
            self._string()
            self._lengths(2 if code == _STREAM1 else 3)
            for _ in range(self._length()):
                self.source.take(16 + 8)
                self._length()
            for _ in range(self._length()):
                self._string()
                self.source.take(16 if code == _STREAM3 else 8)
                for _ in range(self._length()):
                    self.source.take(16)

    def _lengths(self, count: int) -> None:
        for _ in range(count):
            self._length()

    def _module_fields(self) -> None:
        while (form := self._length()) != 0:
            if form in {1, 2}:
                self._length()
            elif form in {3, 4}:
                self.source.take(4 if form == 3 else 8)
            elif form == 5:
                self._string()
            else:
                raise self.source.wrong(f"a field of a module of unknown form {form}")


_ELEMENTS: Final[dict[int, tuple[str, Callable[[RdbReader], Iterator[Any]]]]] = {
    _LIST: ("list", RdbReader._strings),
    _SET: ("set", RdbReader._strings),
    _ZSET: ("zset", RdbReader._zset_old),
    _HASH: ("hash", RdbReader._hash),
    _ZSET2: ("zset", RdbReader._zset),
    _QUICKLIST: ("list", RdbReader._quicklist),
    _QUICKLIST2: ("list", RdbReader._quicklist2),
}

_MODULE_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _module_name(number: int) -> str:
    """A module's nine letters, of six bits each above ten bits of version."""
    return "".join(_MODULE_LETTERS[number >> shift & 63] for shift in range(58, 9, -6))
