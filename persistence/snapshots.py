"""The snapshots of a directory: one compressed, checksummed file each, complete or not there at all.

A file is written beside (``.part``), synced, renamed and the directory synced, so a name that ends in ``.snap`` is
always a complete file; what the disk does to it later is found by its checksums (:mod:`persistence.snapshot_file`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import zstandard
from crc32c import crc32c

from persistence.errors import CorruptSnapshotError, SnapshotError, UnknownVersionError
from persistence.files import Buffer, File, Files, OsFiles, join
from persistence.incoming import IncomingSnapshot
from persistence.progress import Progress, untold
from persistence.reserve import Reserve
from persistence.snapshot_file import (
    CHUNK,
    CHUNK_BYTES,
    EXTRA_BYTES_MAX,
    FOOTER,
    NAME,
    PART_NAME,
    PART_SUFFIX,
    SEAL_BYTES,
    SnapshotContent,
    SnapshotInfo,
    SnapshotMeta,
    declared_bytes,
    encode_header,
    inspect,
    order,
    read_content,
    snapshot_name,
)

__all__ = [
    "CHUNK_BYTES",
    "EXTRA_BYTES_MAX",
    "SnapshotContent",
    "SnapshotInfo",
    "SnapshotMeta",
    "SnapshotStore",
    "SnapshotWriter",
    "snapshot_name",
]

INPUT_SLICE_BYTES = 1 << 20
"""Content is compressed in pieces of this size, which bounds the memory of one chunk."""


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
        header = encode_header(meta)
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
        footer = FOOTER.pack(self._content_bytes, self._content_crc, self._chunks)
        end = CHUNK.pack(0, crc32c(footer, self._running)) + footer
        self._put(end)
        file = self._opened()
        file.fdatasync()
        file.close()
        self._file = None
        info = SnapshotInfo(self._name, self._meta, self._size, self._content_bytes, end[-SEAL_BYTES:])
        self._store.publish(self._path, info)
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
            self._put(CHUNK.pack(len(body), self._running) + body)
        del self._buffer[:start]

    def _put(self, data: bytes) -> None:
        self._opened().pwrite([data], self._size)
        self._size += len(data)

    def _opened(self) -> File:
        if self._file is None:
            raise SnapshotError(f"the writer of snapshot {self._name} was committed or aborted")
        return self._file


class SnapshotStore:
    """The snapshots in one directory, of which the newest ``keep`` are kept."""

    def __init__(
        self, directory: str, files: Files | None = None, keep: int = 2, reserve: Reserve | None = None
    ) -> None:
        """``reserve`` is given for a snapshot of another node that does not fit otherwise."""
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.directory = directory
        self.files: Files = files or OsFiles()
        self.reserve = reserve or Reserve(directory, 0, self.files)
        self.damaged: dict[str, str] = {}
        """Snapshots that newest() had to skip: file name and reason."""
        self.unknown: UnknownVersionError | None = None
        """Why it skipped one that is not damaged, but of a format version that this program does not read."""
        self._keep = keep
        self._verified: dict[str, SnapshotInfo] = {}
        self.files.make_dir(directory)
        parts, names = self.parts(), self._names()
        useful = parts[-1:] if not names or (parts and order(parts[-1]) > order(names[0])) else []
        for name in self.files.listdir(directory):
            if name.endswith(PART_SUFFIX) and name not in useful:
                self.files.unlink(join(directory, name))
        # A process that was killed right after a rename left a snapshot that is seen, and not yet durable under its
        # name.
        self.files.fsync_dir(directory)

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
                info = inspect(self.files, join(self.directory, name), name)
            except CorruptSnapshotError as error:
                self._skip(name, error)
                continue
            self.damaged.pop(name, None)
            self._verified[name] = info
            return info
        return None

    def load_newest(self, load: Callable[[Iterable[bytes]], None], progress: Progress = untold) -> SnapshotInfo | None:
        """Give ``load`` the content of the newest snapshot, and say which one it was: :meth:`newest` and :meth:`read`
        in one, so that a large file is read once. What that snapshot makes useless is deleted: a process that ended
        right after :meth:`publish` had renamed its file left one more than ``keep``.

        ``load`` is called again with an older one when its argument raises CorruptSnapshotError, so it must change
        nothing before that has ended. What else it raises leaves here.
        """
        for name in self._names():
            file = self.files.open_read(join(self.directory, name))
            try:
                content = SnapshotContent(file, progress, declared_bytes(file))
                content.refuse_other_name(name)
                pieces = iter(content)
                load(pieces)
                for _ in pieces:  # whatever load() left unread has to verify, too
                    pass
                info = SnapshotInfo(name, content.meta, file.size(), content.content_bytes, content.seal)
            except CorruptSnapshotError as error:
                self._skip(name, error)
                continue
            finally:
                file.close()
            self.damaged.pop(name, None)
            self._verified[name] = info
            self._prune()
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
            size = file.size()
            seal = file.pread(SEAL_BYTES, size - SEAL_BYTES)
            info = SnapshotInfo(name, meta, size, FOOTER.unpack_from(seal, 4)[0], seal)
        finally:
            file.close()
        self._verified = {one: known for one, known in self._verified.items() if one in self._names()}
        self._verified[name] = info
        return info

    def discard(self, meta: SnapshotMeta) -> None:
        """Delete what a process that failed or was killed left of the snapshot of ``meta``."""
        part = join(self.directory, snapshot_name(meta.index, meta.term) + PART_SUFFIX)
        if self.files.exists(part):
            self.files.unlink(part)

    def read(self, info: SnapshotInfo) -> Iterator[bytes]:
        """The content, in pieces, verified as it goes. Raises CorruptSnapshotError, at the latest after the last
        piece: nothing that was read may be used before the iterator has ended.
        """
        return read_content(self.files, join(self.directory, info.name))

    def raw(self, info: SnapshotInfo, offset: int, length: int) -> bytes:
        """Bytes of the file itself, for sending to a follower. Raises SnapshotError when it was deleted meanwhile."""
        file = self.open(info)
        try:
            return file.pread(max(0, min(length, info.size_bytes - offset)), offset)
        finally:
            file.close()

    def open(self, info: SnapshotInfo) -> File:
        """The file itself, which stays whole for as long as it is open, whatever is deleted meanwhile.

        Raises SnapshotError when it was deleted already.
        """
        try:
            return self.files.open_read(join(self.directory, info.name))
        except FileNotFoundError:
            raise SnapshotError(f"snapshot {info.name} was replaced by a newer one") from None

    def receive(self, name: str, total_bytes: int, seal: bytes) -> IncomingSnapshot:
        """Take the file of ``total_bytes`` and ``seal`` from another node, or go on with the part of it that is here.

        A part of any other file is deleted. The arguments come from the network and are checked. Raises OSError, and
        SnapshotError for what no snapshot can be.
        """
        if NAME.fullmatch(name) is None or len(seal) != SEAL_BYTES:
            raise SnapshotError(f"{name!r} with a seal of {len(seal)} bytes is no name of a snapshot")
        return IncomingSnapshot(self, name, total_bytes, seal)

    def parts(self) -> list[str]:
        """Parts of files from other nodes, the newest last."""
        return sorted(name for name in self.files.listdir(self.directory) if PART_NAME.fullmatch(name))

    def remove_part(self, name: str) -> None:
        """Delete a file of :meth:`parts`, if it is there."""
        with suppress(FileNotFoundError):  # a forked child deletes what its snapshot makes useless, too
            self.files.unlink(join(self.directory, name))

    def _skip(self, name: str, error: CorruptSnapshotError) -> None:
        self.damaged[name] = str(error)
        if isinstance(error, UnknownVersionError):
            self.unknown = error

    def publish(self, path: str, info: SnapshotInfo) -> None:
        """Give the complete and synced file at ``path`` its name, and delete what it makes useless."""
        self.files.rename(path, join(self.directory, info.name))
        self.files.fsync_dir(self.directory)
        self._verified[info.name] = info
        self.damaged.pop(info.name, None)
        self._prune()
        for part in self.parts():
            if order(part) <= order(info.name):
                self.remove_part(part)

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
        return sorted((name for name in self.files.listdir(self.directory) if NAME.fullmatch(name)), reverse=True)
