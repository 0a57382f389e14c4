"""A snapshot on its way from another node: kept over broken links and restarts, believed chunk by chunk.

It grows in ``incoming-INDEX-TERM-SIZE-SEAL.part``: the name says which file it is a part of. What an
earlier life of the process received is verified and decompressed like what has just arrived, and written
again; nothing counts for being there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Protocol

import zstandard
from crc32c import crc32c

from persistence.errors import CorruptSnapshotError, SnapshotError
from persistence.files import Buffer, File, Files, join
from persistence.reserve import Reserve
from persistence.snapshot_file import (
    CHUNK,
    CHUNK_BYTES,
    CHUNK_BYTES_MAX,
    EXTRA_BYTES_MAX,
    FOOTER,
    PART_PREFIX,
    PART_SUFFIX,
    PREFIX,
    SEAL_BYTES,
    SUFFIX,
    WINDOW_BYTES_MAX,
    Reader,
    SnapshotInfo,
)

INPUT_BYTES = 1024
"""What arrives is decompressed in pieces of so many bytes: none can become more than 32 MiB."""


class Directory(Protocol):
    """What it needs of :class:`persistence.snapshots.SnapshotStore`."""

    directory: str
    files: Files
    reserve: Reserve

    def parts(self) -> list[str]: ...
    def remove_part(self, name: str) -> None: ...
    def publish(self, path: str, info: SnapshotInfo) -> None: ...


class IncomingSnapshot:
    """One file of another node on its way in: written piece by piece, verified and decompressed as it arrives.

    ``offset`` is where the next piece begins. It may go back: what turns out to be damaged is cut off.
    """

    def __init__(self, store: Directory, name: str, total_bytes: int, seal: bytes) -> None:
        self.name = name
        self.total_bytes = total_bytes
        self._seal = seal
        self._content_bytes_max = int(FOOTER.unpack_from(seal, SEAL_BYTES - FOOTER.size)[0])
        self._store = store
        part = f"{PART_PREFIX}{name.removesuffix(SUFFIX)}-{total_bytes}-{seal.hex()}{PART_SUFFIX}"
        self._part = part
        self._path = join(store.directory, part)
        parts = store.parts()
        for other in parts:
            if other != part:
                store.remove_part(other)
        self._file: File | None = store.files.open(self._path, create=part not in parts)
        self.offset = self._file.size()
        if self.offset > total_bytes:
            self._file.truncate(0)
            self.offset = 0
        self._refuse_without_room()
        self.resumed_bytes = self.offset
        """So much of it an earlier life of this process had received. Nothing of it is believed before it verifies."""
        self._written_again = 0
        self._start_over()

    def _refuse_without_room(self) -> None:
        """Better than to fill the disk up with what cannot end. What a quota leaves is not seen here.

        Raises OSError (ENOSPC); a part that is here stays.
        """
        store, missing = self._store, self.total_bytes - self.offset
        reserve, space = store.reserve, store.files.space(store.directory)
        free = space.free + (reserve.size_bytes if reserve.held else 0)
        if free >= missing or not space.total:  # without a total the file system does not tell
            return
        if self.offset:
            self.close()
        else:
            self.abort()
        reason = f"{os.strerror(errno.ENOSPC)}: {missing} bytes are needed, {free} are left"
        raise OSError(errno.ENOSPC, reason, self._path)

    def _start_over(self) -> None:
        self._reader: Reader | None = None
        self._body = memoryview(b"")
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
        self._content_bytes = self._content_crc = 0
        self._info: SnapshotInfo | None = None

    @property
    def is_whole(self) -> bool:
        """Everything is here, and verified."""
        return self._info is not None

    def write(self, offset: int, data: Buffer) -> None:
        """Add the piece at ``offset``, which must be ``self.offset``: anything else is refused, and nothing changes.

        On a full disk it takes the store's reserve. Raises OSError.
        """
        if self._file is None or offset != self.offset or offset + len(data) > self.total_bytes:
            raise SnapshotError(
                f"a piece of {len(data)} bytes at {offset} does not fit snapshot {self.name}: "
                f"{self.offset} of {self.total_bytes} bytes are here"
            )
        written = False
        while not written:
            try:
                self._file.pwrite([data], offset)
                written = True
            except OSError as error:
                if not self._store.reserve.helps(error, "a snapshot from the leader"):
                    raise
        self.offset += len(data)

    def advance(self, sink: Callable[[bytes], object], limit: int) -> bool:
        """Verify what has arrived, and give its content to ``sink``: about ``limit`` bytes, or a chunk that has no
        content.

        False when all that can be done with what is here was done. Raises CorruptSnapshotError when it is damaged: it
        is cut off after the last chunk that verifies, and its content begins anew, for another sink.
        """
        file = self._opened()
        given = 0
        try:
            while given < limit:
                if not self._body:
                    end = 0 if self.is_whole else self._end_of_next(file)
                    if not end:
                        return False
                    self._write_again(file, end)
                    self._read_next(file)
                    continue
                piece = self._decompressor.decompress(self._body[:INPUT_BYTES])
                self._body = self._body[INPUT_BYTES:]
                self._content_bytes += len(piece)
                if self._content_bytes > self._content_bytes_max:
                    self._cut(0)
                    raise CorruptSnapshotError(
                        self._path, 0, "more comes out of it than the file that was announced has"
                    )
                self._content_crc = crc32c(piece, self._content_crc)
                given += len(piece)
                sink(piece)
        except zstandard.ZstdError as error:
            self._cut(0)
            raise CorruptSnapshotError(self._path, 0, f"it does not decompress: {error}") from error
        return True

    def _end_of_next(self, file: File) -> int:
        """Where the header, or the next chunk, or the footer ends, once it has arrived as a whole; until then 0."""
        at = 0 if self._reader is None else self._reader.offset
        if self._reader is None:
            head = file.pread(min(PREFIX.size, self.offset), 0)
            need = PREFIX.size
            if len(head) == need:
                need += min(PREFIX.unpack(head)[3], EXTRA_BYTES_MAX)
        else:
            head = file.pread(min(CHUNK.size, self.offset - at), at)
            need = CHUNK.size
            if len(head) == need:
                need += min(CHUNK.unpack(head)[0], CHUNK_BYTES_MAX) or FOOTER.size
        if self.offset - at >= need:
            return at + need
        return self.offset if self.offset == self.total_bytes else 0  # too short: for the reader to say

    def _read_next(self, file: File) -> None:
        reader = self._reader
        start = 0 if reader is None else reader.offset
        try:
            if reader is None:
                self._reader = reader = Reader(file)
                reader.refuse_other_name(self.name)
                return
            reader.size = self.offset
            self._body = memoryview(reader.read())
        except CorruptSnapshotError:
            self._cut(start)
            raise
        if not self._body:
            self._end(reader)

    def _write_again(self, file: File, end: int) -> None:
        """What an earlier life received, up to ``end``: after a sync that failed the page cache may show what the disk
        has not, and the next sync would leave it out.
        """
        end = min(end, self.resumed_bytes)
        while self._written_again < end:
            piece = file.pread(min(CHUNK_BYTES, end - self._written_again), self._written_again)
            file.pwrite([piece], self._written_again)
            self._written_again += len(piece)

    def _end(self, reader: Reader) -> None:
        announced = (self._seal, self.total_bytes)
        content = (self._content_bytes, self._content_crc)
        stream = self._decompressor
        if (reader.seal, reader.size) != announced or content != (reader.content_bytes, reader.content_crc):
            reason = "it is not the file that was announced"
        elif not stream.eof or stream.unused_data:
            reason = "the compressed stream does not end with the last chunk"
        else:
            self._info = SnapshotInfo(self.name, reader.meta, self.total_bytes, self._content_bytes, self._seal)
            return
        self._cut(0)
        raise CorruptSnapshotError(self._path, 0, reason)

    def _cut(self, offset: int) -> None:
        self._start_over()
        self.offset = min(offset, self.offset)
        self._opened().truncate(self.offset)

    def sync(self) -> None:
        """Make what was written durable. May run on another thread."""
        self._opened().fdatasync()

    def publish(self) -> SnapshotInfo:
        """Make it visible under its name; it must be whole and synced. Raises OSError."""
        info, file = self._info, self._opened()
        if info is None:
            raise SnapshotError(f"snapshot {self.name} is incomplete: {self.offset} of {self.total_bytes} bytes")
        self._store.publish(self._path, info)
        file.close()
        self._file = None
        return info

    def finish(self) -> SnapshotInfo:
        """Verify what is left to verify, then make it durable and visible.

        Raises SnapshotError when it is incomplete (it can be continued), CorruptSnapshotError when it does not
        verify (see :meth:`advance`). The snapshots that were there are untouched in both cases.
        """
        while self.advance(_nowhere, CHUNK_BYTES):
            pass
        self.sync()
        return self.publish()

    def close(self) -> None:
        """Keep the part for another time. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def abort(self) -> None:
        """Leave no trace. Idempotent; does nothing after publish()."""
        if self._file is not None:
            self.close()
            self._store.remove_part(self._part)

    def _opened(self) -> File:
        if self._file is None:
            raise SnapshotError(f"the transfer of snapshot {self.name} has ended")
        return self._file


def _nowhere(_piece: bytes) -> None:
    return None
