"""Snapshots: one compressed, checksummed file each, complete or not there at all.

The file is written beside (``.part``), synced, renamed and the directory synced, so a name that ends in ``.snap`` is
always a complete file; what the disk does to it later is found by its checksums. The layout, little-endian::

    header  "RAFTSNAP", u32 crc32c of what follows, u32 format version, u32 bytes of the rest;
            u64 index, u64 term, extra
    chunk   u32 stored bytes (never 0), u32 running checksum; that many bytes of one zstd stream
    footer  u32 0, u32 running checksum; u64 content bytes, u32 crc32c of the content, u32 chunks

The running checksum is the CRC32C of the header's checksum, of the chunk bodies so far and (in the footer)
of the footer's last 16 bytes: each chunk is checked as it is read, and the last value covers everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import zstandard
from crc32c import crc32c

from persistence.errors import CorruptSnapshotError, SnapshotError
from persistence.files import Buffer, File, Files, OsFiles, join

MAGIC = b"RAFTSNAP"
FORMAT_VERSION = 1
SUFFIX = ".snap"
PART_SUFFIX = ".part"
CHUNK_BYTES = 256 << 10
"""Compressed bytes in a chunk, except the last."""
CHUNK_BYTES_MAX = 4 << 20
"""A declared chunk above it is damage, and is never allocated."""
EXTRA_BYTES_MAX = 1 << 30
INPUT_SLICE_BYTES = 1 << 20
"""Content is compressed in pieces of this size, which bounds the memory of one chunk."""
WINDOW_BYTES_MAX = 128 << 20
"""Memory that decompression may use; more than any compression level here asks for."""

_PREFIX = Struct("<8sIII")
_META = Struct("<QQ")
_CHUNK = Struct("<II")
_FOOTER = Struct("<QII")
_NAME = re.compile(r"(\d{20})-(\d{20})\.snap", re.ASCII)


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: the state after entry ``index`` of ``term``; ``extra`` is the owner's."""

    index: int
    term: int
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A complete snapshot in the store."""

    name: str
    """File name, which is also its name on the way to a follower."""
    meta: SnapshotMeta
    size_bytes: int
    """Size of the file."""
    content_bytes: int
    """Size of what was written into it, before compression."""

    @property
    def index(self) -> int:
        return self.meta.index

    @property
    def term(self) -> int:
        return self.meta.term


def snapshot_name(index: int, term: int) -> str:
    """File names sort as (index, term) do."""
    return f"{index:020d}-{term:020d}{SUFFIX}"


class SnapshotWriter:
    """Writes one snapshot. No threads and no locks: it may be used from a forked child."""

    def __init__(self, store: SnapshotStore, meta: SnapshotMeta, level: int) -> None:
        self._store = store
        self._meta = meta
        self._name = snapshot_name(meta.index, meta.term)
        self._path = join(store.directory, self._name + PART_SUFFIX)
        self._compressor = zstandard.ZstdCompressor(level=level).compressobj()
        self._buffer = bytearray()
        self._chunks = 0
        self._content_bytes = 0
        self._content_crc = 0
        header = _encode_header(meta)
        self._running = crc32c(header[8:12])
        self._file: File | None = store.files.open(self._path, create=True)
        self._size = 0
        self._put(header)

    def write(self, chunk: Buffer) -> None:
        """Add content; any size, any number of times. Raises OSError, after which only abort() is of use."""
        view = memoryview(chunk)
        for start in range(0, len(view), INPUT_SLICE_BYTES):
            piece = view[start : start + INPUT_SLICE_BYTES]
            self._content_crc = crc32c(piece, self._content_crc)
            self._buffer += self._compressor.compress(piece)
            if len(self._buffer) >= CHUNK_BYTES:
                self._put_chunks()
        self._content_bytes += len(view)

    def commit(self) -> SnapshotInfo:
        """Make it durable and visible; snapshots beyond the store's ``keep`` are deleted."""
        self._buffer += self._compressor.flush()
        self._put_chunks(everything=True)
        footer = _FOOTER.pack(self._content_bytes, self._content_crc, self._chunks)
        self._put(_CHUNK.pack(0, crc32c(footer, self._running)) + footer)
        file = self._opened()
        file.fdatasync()
        file.close()
        self._file = None
        info = SnapshotInfo(self._name, self._meta, self._size, self._content_bytes)
        self._store._publish(self._path, info)
        return info

    def abort(self) -> None:
        """Leave no trace. Idempotent; does nothing after commit()."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._store.files.unlink(self._path)

    def _put_chunks(self, *, everything: bool = False) -> None:
        start = 0
        while len(self._buffer) - start >= CHUNK_BYTES or (everything and start < len(self._buffer)):
            body = bytes(self._buffer[start : start + CHUNK_BYTES])
            start += len(body)
            self._running = crc32c(body, self._running)
            self._chunks += 1
            self._put(_CHUNK.pack(len(body), self._running) + body)
        del self._buffer[:start]

    def _put(self, data: bytes) -> None:
        self._opened().pwrite([data], self._size)
        self._size += len(data)

    def _opened(self) -> File:
        if self._file is None:
            raise SnapshotError(f"the writer of snapshot {self._name} was committed or aborted")
        return self._file


class IncomingSnapshot:
    """A snapshot on its way from another node, byte for byte. ``offset`` is where the next piece begins."""

    def __init__(self, store: SnapshotStore, name: str, total_bytes: int) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self.offset = 0
        self._store = store
        self._path = join(store.directory, f"incoming-{name}{PART_SUFFIX}")
        self._file: File | None = store.files.open(self._path, create=True)

    def write(self, offset: int, data: Buffer) -> None:
        """Add the piece at ``offset``, which must be ``self.offset``: anything else is refused, and nothing changes."""
        if self._file is None or offset != self.offset or offset + len(data) > self.total_bytes:
            raise SnapshotError(
                f"a piece of {len(data)} bytes at {offset} does not fit snapshot {self.name}: "
                f"{self.offset} of {self.total_bytes} bytes are here"
            )
        self._file.pwrite([data], offset)
        self.offset += len(data)

    def finish(self) -> SnapshotInfo:
        """Verify everything, decompression included, then make it durable and visible.

        Raises SnapshotError when it is incomplete (it can be continued), CorruptSnapshotError when it does not
        verify (it is gone then). The snapshots that were there are untouched in both cases.
        """
        if self._file is None or self.offset != self.total_bytes:
            raise SnapshotError(f"snapshot {self.name} is incomplete: {self.offset} of {self.total_bytes} bytes")
        self._file.fdatasync()
        try:
            info = _inspect(self._store.files, self._path, self.name)
            for _ in _read_content(self._store.files, self._path):
                pass
        except CorruptSnapshotError:
            self.abort()
            raise
        self._file.close()
        self._file = None
        self._store._publish(self._path, info)
        return info

    def abort(self) -> None:
        """Leave no trace. Idempotent; does nothing after finish()."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._store.files.unlink(self._path)


class SnapshotStore:
    """The snapshots in one directory, of which the newest ``keep`` are kept."""

    def __init__(self, directory: str, files: Files | None = None, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.directory = directory
        self.files: Files = files or OsFiles()
        self.damaged: dict[str, str] = {}
        """Snapshots that newest() had to skip: file name and reason."""
        self._keep = keep
        self._verified: dict[str, SnapshotInfo] = {}
        self.files.make_dir(directory)
        for name in self.files.listdir(directory):
            if name.endswith(PART_SUFFIX):
                self.files.unlink(join(directory, name))

    def begin(self, meta: SnapshotMeta, level: int = 3) -> SnapshotWriter:
        """Start a snapshot; ``level`` is zstd's (1 fast .. 19 small)."""
        if len(meta.extra) > EXTRA_BYTES_MAX:
            raise SnapshotError(f"{len(meta.extra)} bytes of extra are more than {EXTRA_BYTES_MAX}")
        return SnapshotWriter(self, meta, level)

    def newest(self) -> SnapshotInfo | None:
        """The newest snapshot whose checksums match, None when there is none; the rest goes to ``damaged``.

        Reads a file once, and remembers the verdict.
        """
        for name in self._names():
            info = self._verified.get(name)
            if info is not None and info.size_bytes == self._size_of(name):  # a child may have written it anew
                return info
            try:
                info = _inspect(self.files, join(self.directory, name), name)
            except CorruptSnapshotError as error:
                self.damaged[name] = str(error)
                continue
            self.damaged.pop(name, None)
            self._verified[name] = info
            return info
        return None

    def adopt(self, meta: SnapshotMeta) -> SnapshotInfo | None:
        """The snapshot of ``meta`` that another process (a forked child) has just written and synced here.

        Trusted as if this process had written it: it is not read again. None when there is no such file.
        """
        name = snapshot_name(meta.index, meta.term)
        try:
            file = self.files.open_read(join(self.directory, name))
        except FileNotFoundError:
            return None
        try:
            info = SnapshotInfo(name, meta, file.size(), 0)
        finally:
            file.close()
        self._verified = {one: known for one, known in self._verified.items() if one in self._names()}
        self._verified[name] = info
        return info

    def read(self, info: SnapshotInfo) -> Iterator[bytes]:
        """The content, in pieces, verified as it goes. Raises CorruptSnapshotError, at the latest after the last
        piece: nothing that was read may be used before the iterator has ended.
        """
        return _read_content(self.files, join(self.directory, info.name))

    def raw(self, info: SnapshotInfo, offset: int, length: int) -> bytes:
        """Bytes of the file itself, for sending to a follower. Raises SnapshotError when it was deleted meanwhile."""
        try:
            file = self.files.open_read(join(self.directory, info.name))
        except FileNotFoundError:
            raise SnapshotError(f"snapshot {info.name} was replaced by a newer one") from None
        try:
            return file.pread(max(0, min(length, info.size_bytes - offset)), offset)
        finally:
            file.close()

    def receive(self, name: str, total_bytes: int) -> IncomingSnapshot:
        """Begin to take a snapshot from another node. ``name`` comes from the network and is checked."""
        if _NAME.fullmatch(name) is None:
            raise SnapshotError(f"{name!r} is no name of a snapshot")
        return IncomingSnapshot(self, name, total_bytes)

    def _publish(self, path: str, info: SnapshotInfo) -> None:
        self.files.rename(path, join(self.directory, info.name))
        self.files.fsync_dir(self.directory)
        self._verified[info.name] = info
        self.damaged.pop(info.name, None)
        self._prune()

    def _prune(self) -> None:
        """Delete what is older than the newest ``keep`` that are not known to be damaged."""
        kept = 0
        for name in self._names():
            if kept >= self._keep:
                self.files.unlink(join(self.directory, name))
                self._verified.pop(name, None)
                self.damaged.pop(name, None)
            elif name not in self.damaged:
                kept += 1

    def _size_of(self, name: str) -> int:
        file = self.files.open_read(join(self.directory, name))
        try:
            return file.size()
        finally:
            file.close()

    def _names(self) -> list[str]:
        """Newest first."""
        return sorted((name for name in self.files.listdir(self.directory) if _NAME.fullmatch(name)), reverse=True)


def _encode_header(meta: SnapshotMeta) -> bytes:
    rest = _META.pack(meta.index, meta.term) + meta.extra
    checked = Struct("<II").pack(FORMAT_VERSION, len(rest)) + rest
    return MAGIC + crc32c(checked).to_bytes(4, "little") + checked


class _Reader:
    """Walks a snapshot file: header, chunk bodies, footer; each verified before it is handed on."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._size = file.size()
        self._offset = 0
        self._running = 0
        self.meta = self._read_header()
        self.content_bytes = -1
        """Known once the footer was read."""
        self.content_crc = 0
        self._chunks = 0
        self._at_end = False

    def read(self, _size: int = -1) -> bytes:
        """The next chunk's body, b"" after the last: the file-like face that the decompressor reads from."""
        if self._at_end:
            return b""
        stored, expected = _CHUNK.unpack(self._take(_CHUNK.size))
        if not stored:
            self._read_footer(expected)
            return b""
        if stored > CHUNK_BYTES_MAX:
            raise self.damage(f"a chunk of {stored} bytes is declared")
        body = self._take(stored)
        self._running = crc32c(body, self._running)
        if self._running != expected:
            raise self.damage("the checksum of a chunk does not match")
        self._chunks += 1
        return body

    def damage(self, reason: str) -> CorruptSnapshotError:
        return CorruptSnapshotError(self._file.path, self._offset, reason)

    def _take(self, length: int) -> bytes:
        data = self._file.pread(min(length, max(0, self._size - self._offset)), self._offset)
        if len(data) < length:
            raise self.damage(f"the file ends after {self._size} bytes")
        self._offset += length
        return data

    def _read_header(self) -> SnapshotMeta:
        prefix = self._take(_PREFIX.size)
        magic, crc, version, length = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise self.damage("it does not begin with a snapshot header")
        if not _META.size <= length <= _META.size + EXTRA_BYTES_MAX:
            raise self.damage(f"a header of {length} bytes is declared")
        rest = self._take(length)
        if crc32c(rest, crc32c(prefix[12:])) != crc:
            raise self.damage("the checksum of the header does not match")
        if version != FORMAT_VERSION:
            raise self.damage(f"format version {version} is unknown, this program reads {FORMAT_VERSION}")
        self._running = crc32c(prefix[8:12])
        index, term = _META.unpack_from(rest)
        return SnapshotMeta(index, term, rest[_META.size :])

    def _read_footer(self, expected: int) -> None:
        footer = self._take(_FOOTER.size)
        if crc32c(footer, self._running) != expected:
            raise self.damage("the checksum over the whole file does not match")
        self.content_bytes, self.content_crc, chunks = _FOOTER.unpack(footer)
        if chunks != self._chunks or self._offset != self._size:
            raise self.damage("there is more, or less, in the file than its footer says")
        self._at_end = True


def _inspect(files: Files, path: str, name: str) -> SnapshotInfo:
    """Verify all stored bytes without decompressing them. Raises CorruptSnapshotError."""
    file = files.open_read(path)
    try:
        reader = _Reader(file)
        while reader.read():
            pass
        meta = reader.meta
        if snapshot_name(meta.index, meta.term) != name:
            raise reader.damage(f"it holds the snapshot of index {meta.index}, term {meta.term}")
        return SnapshotInfo(name, meta, file.size(), reader.content_bytes)
    finally:
        file.close()


def _read_content(files: Files, path: str) -> Iterator[bytes]:
    file = files.open_read(path)
    try:
        reader = _Reader(file)
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        size = crc = 0
        with decompressor.stream_reader(reader, read_size=CHUNK_BYTES_MAX) as stream:  # type: ignore[arg-type]  # read() is all it calls
            try:
                while piece := stream.read(CHUNK_BYTES):
                    size += len(piece)
                    crc = crc32c(piece, crc)
                    yield piece
            except zstandard.ZstdError as error:
                raise reader.damage(f"it does not decompress: {error}") from error
        while reader.read():
            raise reader.damage("chunks follow the end of the compressed stream")
        if (size, crc) != (reader.content_bytes, reader.content_crc):
            raise reader.damage("the checksum of the content does not match")
    finally:
        file.close()
