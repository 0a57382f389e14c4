"""Every touch of the disk, as a port: :class:`Files` and :class:`File`, and the operating system's own.

What an implementation owes its caller: after :meth:`File.fdatasync` returns, every byte written before it and
the file's size survive a power cut; after :meth:`Files.fsync_dir` returns, so do the names created, renamed and
removed before it. Nothing else does, and what was not synced may survive in part and in any order.
Failures are ``OSError``.
"""

# ruff: noqa: PTH100, PTH102, PTH104, PTH108, PTH120, PTH208 -- the thin layer over the system calls; paths are strings
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

IOV_BUFFERS_MAX = 1024
"""Buffers in one pwritev; Linux refuses more (IOV_MAX)."""
ZERO_SLICE_BYTES = 1 << 20
"""Preallocation writes and syncs this much at a time, so that the log's own syncs wait for one slice at most."""
ZERO_REST_RATIO = 3
"""Between two slices it rests for so many times as long as one took: it is in no hurry, and the log's syncs are."""
ZERO_REST_S_MAX = 0.2
_ZEROS = bytes(ZERO_SLICE_BYTES)
_DSYNC: int = getattr(os, "RWF_DSYNC", 0)


def join(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``, for any :class:`Files`."""
    return f"{directory.rstrip('/')}/{name}"


class Readable(Protocol):
    """What a reader needs of a file."""

    @property
    def path(self) -> str: ...
    def pread(self, length: int, offset: int) -> bytes: ...
    def size(self) -> int: ...


class File(Protocol):
    """One open file."""

    @property
    def path(self) -> str: ...

    def append(self, data: Buffer) -> None:
        """Write all of ``data`` at the end."""
        ...

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:
        """Write all of ``buffers``, one after the other, from ``offset`` on.

        ``sync``: these bytes (not those of earlier calls) are durable when the call returns.
        """
        ...

    def pread(self, length: int, offset: int) -> bytes:
        """``length`` bytes from ``offset``; fewer only at the end of the file."""
        ...

    def size(self) -> int:
        """Bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to ``size`` bytes."""
        ...

    def fdatasync(self) -> None:
        """Make the content and the size durable."""
        ...

    def preallocate(self, size: int, give_up: Callable[[], bool]) -> bool:
        """Make the file ``size`` bytes of durable zeros, so that no later write below needs new blocks.

        Asks ``give_up`` between pieces; False when it stopped because of that.
        """
        ...

    def claim(self, size: int) -> None:
        """Give the file ``size`` bytes of blocks, whatever they hold.

        Raises OSError (ENOSPC) when there are not as many.
        """
        ...

    def close(self) -> None:
        """Idempotent; syncs nothing."""
        ...


class FileLock(Protocol):
    """A lock that this process holds until :meth:`release` or its end."""

    def release(self) -> None: ...

    def forget(self) -> None:
        """For a forked child: drop this copy of the lock; the parent keeps it."""
        ...


class LockHeldError(Exception):
    """Another process holds the lock; ``note`` is what it left in the lock file."""

    def __init__(self, note: bytes) -> None:
        self.note = note
        super().__init__("the lock is held by another process")


class Space(NamedTuple):
    """Bytes of a file system."""

    total: int
    free: int
    """For this process: without what is set aside for others."""


class Files(Protocol):
    """A file system. Paths are strings; a directory's parent must exist."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing; ``create`` makes it new and empty."""
        ...

    def open_read(self, path: str) -> File:
        """Open for reading only."""
        ...

    def make_dir(self, path: str) -> None:
        """Create the directory unless it is there; its name is durable on return."""
        ...

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names, sorted."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomically; ``new`` is replaced. Durable after :meth:`fsync_dir`."""
        ...

    def unlink(self, path: str) -> None: ...

    def fsync_dir(self, path: str) -> None: ...

    def space(self, path: str) -> Space:
        """Of the file system that holds ``path``."""
        ...

    def lock(self, path: str, note: bytes) -> FileLock:
        """Take the lock and leave ``note`` in its file, or raise :class:`LockHeldError` at once."""
        ...


class OsFile:
    """A file descriptor of the operating system."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd

    @property
    def path(self) -> str:
        return self._path

    def append(self, data: Buffer) -> None:
        self.pwrite([data], self.size())

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:
        # One system call for write and sync also gives the interpreter lock away once instead of twice.
        single_call = sync and _DSYNC != 0 and len(buffers) <= IOV_BUFFERS_MAX
        flags = _DSYNC if single_call else 0
        for start in range(0, len(buffers), IOV_BUFFERS_MAX):
            offset = self._pwritev(buffers[start : start + IOV_BUFFERS_MAX], offset, flags)
        if sync and not single_call:
            os.fdatasync(self._fd)

    def _pwritev(self, buffers: Sequence[Buffer], offset: int, flags: int) -> int:
        remaining = sum(map(len, buffers))
        while True:
            written = os.pwritev(self._fd, buffers, offset, flags)
            offset += written
            remaining -= written
            if not remaining:
                return offset
            buffers = _skip(buffers, written)

    def pread(self, length: int, offset: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (data := os.pread(self._fd, length - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def is_pipe(self) -> bool:
        return stat.S_ISFIFO(os.fstat(self._fd).st_mode)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def preallocate(self, size: int, give_up: Callable[[], bool]) -> bool:
        # fallocate claims the blocks (and finds a full disk) at once, but leaves them "unwritten": the first
        # sync of each would have to change metadata. Real zeros make later syncs pure data writes.
        os.posix_fallocate(self._fd, 0, size)
        for offset in range(0, size, ZERO_SLICE_BYTES):
            if give_up():
                return False
            started = time.monotonic()
            self._pwritev([_ZEROS[: size - offset]], offset, 0)
            os.fdatasync(self._fd)
            if offset + ZERO_SLICE_BYTES < size:
                time.sleep(min(ZERO_REST_S_MAX, ZERO_REST_RATIO * (time.monotonic() - started)))
        return True

    def claim(self, size: int) -> None:
        os.posix_fallocate(self._fd, 0, size)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _skip(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    """What is left of ``buffers`` after their first ``count`` bytes."""
    rest: list[Buffer] = []
    for buffer in buffers:
        if count >= len(buffer):
            count -= len(buffer)
        else:
            rest.append(memoryview(buffer)[count:] if count else buffer)
            count = 0
    return rest


class OsFileLock:
    """An flock on a file; the kernel drops it when the process ends, however it ends."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class OsFiles:
    """The operating system's file system."""

    __slots__ = ()

    def open(self, path: str, *, create: bool = False) -> OsFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        return OsFile(path, os.open(path, flags, 0o600))

    def open_read(self, path: str) -> OsFile:
        file = OsFile(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if file.is_pipe():  # its size is 0, and nobody shall take what comes out of it for a file that was cut short
            file.close()
            raise OSError(errno.ESPIPE, "it is a pipe, and has to be a file", path)
        return file

    def make_dir(self, path: str) -> None:
        parent = os.path.dirname(os.path.abspath(path))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            # Whoever made it may have been killed before its name was durable. We did not where we may not open its
            # parent.
            with contextlib.suppress(PermissionError):
                self.fsync_dir(parent)
        else:
            self.fsync_dir(parent)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def space(self, path: str) -> Space:
        found = os.statvfs(path)
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def lock(self, path: str, note: bytes) -> OsFileLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, note, 0)
        except BlockingIOError:
            held_by = os.pread(fd, 4096, 0)
            os.close(fd)
            raise LockHeldError(held_by) from None
        except BaseException:
            os.close(fd)
            raise
        return OsFileLock(fd)
