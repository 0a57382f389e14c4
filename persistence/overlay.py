"""A file system behind a layer that keeps every change to itself: what is below is only read.

For looking at a directory with the code that would otherwise repair it: recovery of a log cuts its
torn tail and opening a snapshot store deletes what was never finished. Here they do so in memory, for
whoever looks through this layer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from persistence.files import Buffer, File, FileLock, Files, Space


class _Content:
    """A file: what is below, if it was there before, and what was written over it, oldest first."""

    def __init__(self, below: File | None) -> None:
        self.below = below
        self.size = 0 if below is None else below.size()
        self._below_bytes = self.size
        self._written: list[tuple[int, bytes]] = []

    def write(self, data: bytes, offset: int) -> None:
        if data:
            self._written.append((offset, data))
            self.size = max(self.size, offset + len(data))

    def cut(self, size: int) -> None:
        self._below_bytes = min(self._below_bytes, size)
        self._written = [(offset, data[: size - offset]) for offset, data in self._written if offset < size]
        self.size = size

    def read(self, length: int, offset: int) -> bytes:
        end = min(offset + length, self.size)
        found = bytearray(max(0, end - offset))
        if self.below is not None and offset < self._below_bytes:
            data = self.below.pread(min(end, self._below_bytes) - offset, offset)
            found[: len(data)] = data
        for start, data in self._written:
            low, high = max(start, offset), min(start + len(data), end)
            if low < high:
                found[low - offset : high - offset] = data[low - start : high - start]
        return bytes(found)


class OverlayFile:
    """One open file of the layer. Syncs have nothing to do."""

    def __init__(self, path: str, content: _Content) -> None:
        self._path = path
        self._content = content

    @property
    def path(self) -> str:
        return self._path

    def append(self, data: Buffer) -> None:
        self.pwrite([data], self.size())

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:  # noqa: ARG002 -- the port's
        self._content.write(b"".join(buffers), offset)

    def pread(self, length: int, offset: int) -> bytes:
        return self._content.read(length, offset)

    def size(self) -> int:
        return self._content.size

    def truncate(self, size: int) -> None:
        self._content.cut(size)

    def fdatasync(self) -> None:
        pass

    def preallocate(self, size: int, give_up: Callable[[], bool]) -> bool:  # noqa: ARG002 -- the port's
        self._content.size = max(self._content.size, size)
        return True

    def claim(self, size: int) -> None:
        self._content.size = max(self._content.size, size)

    def close(self) -> None:
        """The content stays, for the next who opens the file."""


class OverlayFiles:
    """Implements :class:`persistence.files.Files` over another one, which is never changed."""

    def __init__(self, below: Files) -> None:
        self._below = below
        self._contents: dict[str, _Content] = {}
        self._gone: set[str] = set()
        """Names below that were removed or renamed here."""
        self._directories: set[str] = set()
        self._opened: list[File] = []

    def close(self) -> None:
        """Close what was opened below."""
        for file in self._opened:
            file.close()

    def open(self, path: str, *, create: bool = False) -> OverlayFile:
        if create:
            self._contents[path] = _Content(None)
        elif path not in self._contents:
            if path in self._gone:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._opened.append(self._below.open_read(path))
            self._contents[path] = _Content(self._opened[-1])
        return OverlayFile(path, self._contents[path])

    def open_read(self, path: str) -> OverlayFile:
        return self.open(path)

    def make_dir(self, path: str) -> None:
        self._directories.add(path)

    def exists(self, path: str) -> bool:
        if path in self._contents or path in self._directories:
            return True
        return path not in self._gone and self._below.exists(path)

    def listdir(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        made = [name for name in (*self._contents, *self._directories) if name.startswith(prefix)]
        names = {name.removeprefix(prefix) for name in made if "/" not in name.removeprefix(prefix)}
        if path not in self._directories or self._below.exists(path):
            names.update(name for name in self._below.listdir(path) if prefix + name not in self._gone)
        return sorted(names)

    def rename(self, old: str, new: str) -> None:
        self.open(old)
        self._contents[new] = self._contents.pop(old)
        self._gone.add(old)

    def unlink(self, path: str) -> None:
        self.open(path)
        del self._contents[path]
        self._gone.add(path)

    def fsync_dir(self, path: str) -> None:
        pass

    def space(self, path: str) -> Space:
        return self._below.space(path)

    def lock(self, path: str, note: bytes) -> FileLock:
        """The real one: who looks keeps others out."""
        return self._below.lock(path, note)
