"""A disk in memory below :class:`persistence.files.Files`, with everything that a disk may do.

A killed process loses nothing that it has written. A power cut loses what was not synced: in part, in any order, torn
at any byte; directory changes survive up to some point. Any mutating call may be the last one before the cut, find
the disk full, or fail for good.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from persistence.files import Buffer, LockHeldError

SECTOR_BYTES: Final = 512


class PowerCut(BaseException):
    """The power went in the middle of a call. No handler of the code under test may take it for a failure."""


@dataclass(eq=False, slots=True)
class Inode:
    """``content`` is what reads see, ``durable`` what a power cut leaves."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, data: bytes, offset: int) -> None:
        put(self.content, data, offset)
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.unsynced:
            put(self.durable, data, offset)
        self.unsynced.clear()
        del self.durable[len(self.content) :]

    def lose(self, rng: Random) -> None:
        """Keep some of the sectors that were not synced; tear some of those."""
        share = rng.choice((0.0, 0.0, 0.5, 0.9, 1.0))
        for offset, data in self.unsynced:
            for start in range(0, len(data), SECTOR_BYTES):
                piece = data[start : start + SECTOR_BYTES]
                if rng.random() < share:
                    kept = rng.randrange(len(piece) + 1) if rng.random() < 0.2 else len(piece)
                    put(self.durable, piece[:kept], offset + start)
        self.unsynced.clear()
        self.content = bytearray(self.durable)


def put(target: bytearray, data: bytes, offset: int) -> None:
    """Write ``data`` at ``offset``; a hole before it is zeros."""
    if data:
        if offset > len(target):
            target.extend(bytes(offset - len(target)))
        target[offset : offset + len(data)] = data


class SimFile:
    """One open file."""

    __slots__ = ("_disk", "_inode", "path")

    def __init__(self, disk: Disk, path: str, inode: Inode) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode

    def append(self, data: Buffer) -> None:
        self.pwrite([data], len(self._inode.content))

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:
        data = b"".join(buffers)
        inode = self._inode
        try:
            self._disk.operation("write")
        except BaseException:
            inode.write(data[: self._disk.torn(len(data))], offset)
            raise
        inode.write(data, offset)
        if sync:
            self._disk.operation("sync")
            inode.unsynced.pop()
            put(inode.durable, data, offset)

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self._inode.content[offset : offset + length])

    def size(self) -> int:
        return len(self._inode.content)

    def truncate(self, size: int) -> None:
        self._disk.operation("truncate")
        content = self._inode.content
        del content[size:]
        content.extend(bytes(size - len(content)))
        self._inode.unsynced = [(0, bytes(content))]

    def fdatasync(self) -> None:
        self._disk.operation("sync")
        self._inode.sync()

    def preallocate(self, size: int, _give_up: Callable[[], bool]) -> bool:
        self._disk.operation("preallocate")
        self._inode.write(bytes(size), 0)
        self._inode.sync()
        return True

    def close(self) -> None:
        """Nothing is bound to an open file here."""


class SimLock:
    """A lock on a file; gone with the process."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.pop(self._path, None)

    def forget(self) -> None:
        """A fork's copy: the parent keeps the lock."""


class Disk:
    """One node's file system. ``cut_in`` counts mutating calls down to a power cut; 0 is never."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.names: dict[str, Inode] = {}
        self.locks: dict[str, bytes] = {}
        self.operations: Counter[str] = Counter()
        self.cut_in = 0
        self.full = False
        self._durable_names: dict[str, Inode] = {}
        self._changes: list[tuple[str, str, str, Inode | None]] = []
        self._dirs: set[str] = set()

    def operation(self, kind: str) -> None:
        """Before every mutating call: it may fail, or be the last."""
        self.operations[kind] += 1
        if self.cut_in:
            self.cut_in -= 1
            if not self.cut_in:
                raise PowerCut
        if self.full and kind in ("write", "create", "preallocate"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def torn(self, length: int) -> int:
        """How much of a write that failed got through."""
        return self.rng.randrange(length + 1)

    def kill(self) -> None:
        """The process died: the operating system keeps what was written."""
        self.cut_in = 0
        self.locks.clear()

    def power_cut(self) -> None:
        """Only what was synced is certain to be there."""
        self.kill()
        rng = self.rng
        for kind, old, new, inode in self._changes[: rng.randrange(len(self._changes) + 1)]:
            if kind == "create" and inode is not None:
                self._durable_names[new] = inode
            elif kind == "rename" and old in self._durable_names:
                self._durable_names[new] = self._durable_names.pop(old)
            elif kind == "unlink" and rng.random() < 0.7:
                self._durable_names.pop(old, None)
        self._changes.clear()
        self.names = dict(self._durable_names)
        for inode in {id(inode): inode for inode in self.names.values()}.values():
            inode.lose(rng)

    def flip(self, path: str) -> None:
        """Damage one bit of a file, for good."""
        inode = self.names[path]
        offset = self.rng.randrange(len(inode.content))
        inode.content[offset] ^= 1 << self.rng.randrange(8)
        inode.durable[offset : offset + 1] = inode.content[offset : offset + 1]

    # -- the port
    def open(self, path: str, *, create: bool = False) -> SimFile:
        if create:
            self.operation("create")
            self.names[path] = Inode()
            self._changes.append(("create", "", path, self.names[path]))
        return SimFile(self, path, self._inode(path))

    def open_read(self, path: str) -> SimFile:
        return SimFile(self, path, self._inode(path))

    def _inode(self, path: str) -> Inode:
        inode = self.names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return inode

    def make_dir(self, path: str) -> None:
        self._dirs.add(path)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self._dirs

    def listdir(self, path: str) -> list[str]:
        prefix = f"{path}/"
        found = [name[len(prefix) :] for name in (*self.names, *sorted(self._dirs)) if name.startswith(prefix)]
        return sorted(name for name in found if "/" not in name)

    def rename(self, old: str, new: str) -> None:
        self.operation("rename")
        self.names[new] = self.names.pop(old)
        self._changes.append(("rename", old, new, None))

    def unlink(self, path: str) -> None:
        self.operation("unlink")
        del self.names[path]
        self._changes.append(("unlink", path, "", None))

    def fsync_dir(self, path: str) -> None:
        self.operation("syncdir")
        prefix = f"{path}/"
        kept = {name: inode for name, inode in self._durable_names.items() if not name.startswith(prefix)}
        self._durable_names = kept | {name: inode for name, inode in self.names.items() if name.startswith(prefix)}
        self._changes = [one for one in self._changes if not (one[1] or one[2]).startswith(prefix)]

    def lock(self, path: str, note: bytes) -> SimLock:
        if path in self.locks:
            raise LockHeldError(self.locks[path])
        self.locks[path] = note
        return SimLock(self, path)
