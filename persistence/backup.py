"""A backup: one file that says what it is, with a snapshot in it, verified while it is written.

The layout, little-endian::

    header    "RAFTBKUP", u32 crc32c of what follows in the header, u32 format version, u32 bytes of the rest;
              the rest is JSON: the fields of Origin
    snapshot  byte for byte as persistence.snapshots wrote it, ``snapshot_bytes`` of them
    trailer   u32 bytes of JSON, u32 crc32c of it, the JSON: the fields of Facts; u32 crc32c of everything before it

What is known beforehand stands in the header, so that a backup can be written into a pipe; what only its
content tells stands in the trailer. The snapshot's own checksums cover the snapshot, the last one covers all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from struct import Struct
from typing import Any, Protocol, TypeVar

from crc32c import crc32c

from persistence.errors import CorruptBackupError, CorruptSnapshotError, SnapshotError
from persistence.files import Files, Readable
from persistence.snapshots import SnapshotContent, SnapshotMeta

MAGIC = b"RAFTBKUP"
FORMAT_VERSION = 1
SUFFIX = ".backup"
PART_SUFFIX = ".part"
JSON_BYTES_MAX = 64 << 10
"""Header and trailer declare less, or are damaged."""
PIECE_BYTES = 256 << 10
"""Asked of the source at a time."""

_PREFIX = Struct("<8sIII")
_TRAILER = Struct("<II")
_U32 = Struct("<I")

T = TypeVar("T", bound="Origin | Facts")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a backup comes from: the header."""

    cluster_id: str
    node_id: str
    index: int
    """Last log entry that it covers."""
    term: int
    """Of that entry."""
    snapshot_bytes: int
    taken_ms: int
    """When it was begun, ms since the Unix epoch, by the clock of whoever wrote it."""
    program: str
    """What wrote it, with its version."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the content says: the trailer."""

    stamp_ms: int
    """Time of the last entry that it covers, ms since the Unix epoch; 0 when no entry has told a time."""
    keys: int
    content_bytes: int
    """Before compression."""


class Observer(Protocol):
    """Told the content of the snapshot as it passes; knows what it means, which this package does not."""

    def feed(self, piece: bytes) -> None: ...
    def finish(self) -> tuple[int, int]:
        """(stamp_ms, keys). Raises what it likes when the content makes no sense to it."""
        ...


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """A complete backup."""

    origin: Origin
    facts: Facts
    size_bytes: int


def stream_backup(
    write: Callable[[bytes], None], origin: Origin, read: Callable[[int, int], bytes], observer: Observer
) -> BackupInfo:
    """Write a backup of the snapshot that ``read(offset, length)`` gives, each byte once and in order.

    Everything is verified, decompression included, as it passes. Raises CorruptSnapshotError when it does not verify or
    is another snapshot than ``origin`` says, SnapshotError when it ends early; what was written is no backup then.
    """
    passing = _Passing(f"the snapshot of entry {origin.index}", origin.snapshot_bytes, read, write)
    passing.put(_encode_header(origin))
    content = SnapshotContent(passing)
    _check_origin(passing.path, content.meta, origin)
    for piece in content:
        observer.feed(piece)
    stamp_ms, keys = observer.finish()
    facts = Facts(stamp_ms, keys, content.content_bytes)
    text = _encode_json(facts)
    passing.put(_TRAILER.pack(len(text), crc32c(text)) + text)
    passing.put(_U32.pack(passing.crc))
    return BackupInfo(origin, facts, passing.put_bytes)


def save_backup(
    files: Files, directory: str, path: str, origin: Origin, read: Callable[[int, int], bytes], observer: Observer
) -> BackupInfo:
    """:func:`stream_backup` into the file ``path`` in ``directory``: written beside, synced, renamed, all or nothing.

    Raises what that does, and OSError. A ``.part`` of a process that was killed may stay.
    """
    part = path + PART_SUFFIX
    file = files.open(part, create=True)
    try:
        info = stream_backup(file.append, origin, read, observer)
        if file.size() != info.size_bytes:
            raise SnapshotError(f"{part}: another process writes it, too; give each backup a name of its own")
        file.fdatasync()
        file.close()
        files.rename(part, path)
    except BaseException as error:
        file.close()
        if isinstance(error, Exception) and files.exists(part):
            files.unlink(part)
        raise
    files.fsync_dir(directory)
    return info


class Backup:
    """A backup in an open file. ``origin`` and ``facts`` at once; iterating gives the snapshot's content (once each).

    Making it verifies header and trailer by themselves; only a whole iteration verifies everything. Raises
    CorruptBackupError, CorruptSnapshotError.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.size_bytes = file.size()
        prefix = self._take(0, _PREFIX.size)
        magic, crc, version, length = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise self._damage(0, "it does not begin with a backup's header")
        if length > JSON_BYTES_MAX:
            raise self._damage(16, f"a header of {length} bytes is declared")
        rest = self._take(_PREFIX.size, length)
        if crc32c(rest, crc32c(prefix[12:])) != crc:
            raise self._damage(8, "the checksum of the header does not match")
        if version != FORMAT_VERSION:
            raise self._damage(12, f"format version {version} is unknown, this program reads {FORMAT_VERSION}")
        self.origin = self._decode(rest, Origin, _PREFIX.size)
        self._header = prefix + rest
        self._trailer, self.facts = self._read_trailer(len(self._header) + self.origin.snapshot_bytes)
        self.meta = SnapshotContent(self._snapshot(None)).meta
        _check_origin(file.path, self.meta, self.origin)

    @property
    def info(self) -> BackupInfo:
        return BackupInfo(self.origin, self.facts, self.size_bytes)

    def __iter__(self) -> Iterator[bytes]:
        crc = [crc32c(self._header)]

        def note(data: bytes) -> None:
            crc[0] = crc32c(data, crc[0])

        content = SnapshotContent(self._snapshot(note), bytes_max=self.facts.content_bytes)
        yield from content
        end = self.size_bytes - _U32.size
        if crc32c(self._trailer[:-4], crc[0]) != _U32.unpack(self._trailer[-4:])[0]:
            raise self._damage(end, "the checksum over the whole file does not match")
        if content.content_bytes != self.facts.content_bytes:
            raise self._damage(end, "the snapshot has another size than the trailer says")

    def _snapshot(self, note: Callable[[bytes], None] | None) -> _Passing:
        start, size = len(self._header), self.origin.snapshot_bytes
        return _Passing(self._file.path, size, lambda at, length: self._file.pread(length, start + at), note)

    def _read_trailer(self, at: int) -> tuple[bytes, Facts]:
        length, crc = _TRAILER.unpack(self._take(at, _TRAILER.size))
        if length > JSON_BYTES_MAX:
            raise self._damage(at, f"a trailer of {length} bytes is declared")
        trailer = self._take(at, _TRAILER.size + length + _U32.size)
        text = trailer[_TRAILER.size : -_U32.size]
        if crc32c(text) != crc:
            raise self._damage(at, "the checksum of the trailer does not match")
        if at + len(trailer) != self.size_bytes:
            raise self._damage(at + len(trailer), "there is more in the file than its header says")
        return trailer, self._decode(text, Facts, at + _TRAILER.size)

    def _take(self, at: int, length: int) -> bytes:
        data = self._file.pread(min(length, self.size_bytes - at), at) if at < self.size_bytes else b""
        if len(data) < length:
            raise self._damage(self.size_bytes, f"the file ends after {self.size_bytes} bytes")
        return data

    def _decode(self, text: bytes, kind: type[T], at: int) -> T:
        try:
            found = json.loads(text)
            made = kind(**{one.name: found[one.name] for one in fields(kind)})
            if any(type(getattr(made, one.name)).__name__ != one.type for one in fields(kind)):
                raise TypeError("a field has another type")
            if any(isinstance(value, int) and value < 0 for value in asdict(made).values()):
                raise ValueError("a number is negative")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damage(at, f"it does not say what a backup has to: {error!r}") from error
        return made

    def _damage(self, offset: int, reason: str) -> CorruptBackupError:
        return CorruptBackupError(self._file.path, offset, reason)


def show_time(stamp_ms: int) -> str:
    """``2026-11-21T14:03:07.250Z``; the number where no calendar has such a time."""
    if not stamp_ms:
        return "no time"
    try:
        found = datetime.fromtimestamp(stamp_ms // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{stamp_ms} ms"
    return found.strftime("%Y-%m-%dT%H:%M:%S") + f".{stamp_ms % 1000:03d}Z"


def is_backup(file: Readable) -> bool:
    """Whether it begins as a backup does."""
    return file.pread(len(MAGIC), 0) == MAGIC


class _Passing:
    """A snapshot that passes by, with the face of a file: read forward, noted and checksummed on the way."""

    def __init__(
        self, path: str, size: int, read: Callable[[int, int], bytes], note: Callable[[bytes], None] | None
    ) -> None:
        self.path = path
        self.crc = 0
        self.put_bytes = 0
        self._size = size
        self._read = read
        self._note = note
        self._buffer = bytearray()
        self._fetched = 0

    def put(self, data: bytes) -> None:
        """Note bytes that are ours, not the snapshot's."""
        self.crc = crc32c(data, self.crc)
        self.put_bytes += len(data)
        if self._note is not None:
            self._note(data)

    def size(self) -> int:
        return self._size

    def pread(self, length: int, offset: int) -> bytes:
        if offset != self._fetched - len(self._buffer):
            raise ValueError("a snapshot that passes by is read forward only")
        while len(self._buffer) < length and self._fetched < self._size:
            data = self._read(self._fetched, min(max(length, PIECE_BYTES), self._size - self._fetched))
            if not data:
                raise SnapshotError(f"{self.path} ended after {self._fetched} of {self._size} bytes")
            self._fetched += len(data)
            self.put(data)
            self._buffer += data
        found = bytes(self._buffer[:length])
        del self._buffer[:length]
        return found


def _check_origin(path: str, meta: SnapshotMeta, origin: Origin) -> None:
    if (meta.index, meta.term) != (origin.index, origin.term):
        raise CorruptSnapshotError(
            path,
            0,
            f"it is of entry {meta.index}, term {meta.term}, not {origin.index}, term {origin.term} as announced",
        )


def _encode_json(value: Origin | Facts) -> bytes:
    found: dict[str, Any] = asdict(value)
    return json.dumps(found, sort_keys=True).encode()


def _encode_header(origin: Origin) -> bytes:
    rest = _encode_json(origin)
    checked = Struct("<II").pack(FORMAT_VERSION, len(rest)) + rest
    return MAGIC + _U32.pack(crc32c(checked)) + checked
