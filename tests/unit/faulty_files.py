"""A disk in memory that does everything a disk is allowed to do: the other implementation of ``persistence.files``.

What was not synced may be lost at a power cut, in part and in any order; a write may be torn at any byte; a call may
fail; after a failed sync the page cache shows bytes that the disk never got. Directory changes survive in the
order in which they were made, up to some point (a journaling file system), except that a deletion may be undone.
"""

# ruff: noqa: PTH119, PTH120 -- paths are plain strings here, as in the port
from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from persistence.files import Buffer, LockHeldError

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """Not an Exception: no handler of the code under test may take it for a failure and go on."""


@dataclass(eq=False)
class Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, data: bytes, offset: int) -> None:
        _put(self.content, data, offset)

    def sync(self) -> None:
        for offset, data in self.unsynced:
            _put(self.durable, data, offset)
        self.unsynced.clear()
        del self.durable[len(self.content) :]

    def survive(self, rng: random.Random) -> None:
        """The power is back: some of what was not synced is there, some is not, some is torn."""
        pieces = [
            (start, data[start - offset : start - offset + SECTOR_BYTES])
            for offset, data in self.unsynced
            for start in range(offset, offset + len(data), SECTOR_BYTES)
        ]
        kept_share = rng.choice((0.0, 0.5, 0.9, 1.0))
        for start, piece in pieces:
            if rng.random() < kept_share:
                torn = rng.randrange(len(piece) + 1) if rng.random() < 0.2 else len(piece)
                _put(self.durable, piece[:torn], start)
        self.unsynced.clear()
        self.content = bytearray(self.durable)


def _put(target: bytearray, data: bytes, offset: int) -> None:
    if not data:
        return
    if offset > len(target):
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class FaultyFile:
    def __init__(self, disk: FaultyFiles, path: str, inode: Inode, *, writable: bool) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode
        self._writable = writable
        self._closed = False

    def append(self, data: Buffer) -> None:
        self.pwrite([data], len(self._inode.content))

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:
        assert self._writable
        assert not self._closed
        data = b"".join(buffers)
        try:
            self._disk.step("write", self.path)
        except OSError:
            self._write_torn(data, offset)
            raise
        except PowerCut:
            self._inode.write(data, offset)
            self._inode.unsynced.append((offset, data))
            raise
        self._inode.write(data, offset)
        self._inode.unsynced.append((offset, data))
        if sync:
            self._disk.step("sync", self.path)
            self._inode.unsynced.pop()
            _put(self._inode.durable, data, offset)

    def _write_torn(self, data: bytes, offset: int) -> None:
        torn = data[: len(data) // 2]
        self._inode.write(torn, offset)
        self._inode.unsynced.append((offset, torn))

    def pread(self, length: int, offset: int) -> bytes:
        assert not self._closed
        return bytes(self._inode.content[offset : offset + length])

    def size(self) -> int:
        return len(self._inode.content)

    def truncate(self, size: int) -> None:
        self._disk.step("truncate", self.path)
        del self._inode.content[size:]
        self._inode.content.extend(bytes(size - len(self._inode.content)))
        self._inode.unsynced = [(0, bytes(self._inode.content))]

    def fdatasync(self) -> None:
        assert not self._closed
        try:
            self._disk.step("sync", self.path)
        except OSError:
            self._inode.unsynced.clear()  # the kernel marks the pages clean: readable, and never written
            raise
        self._inode.sync()

    def preallocate(self, size: int, give_up: Callable[[], bool]) -> bool:
        self._disk.step("preallocate", self.path)
        _put(self._inode.content, bytes(size), 0)
        self._inode.unsynced.append((0, bytes(size)))
        self._inode.sync()
        return True

    def close(self) -> None:
        self._closed = True


class FaultyLock:
    def __init__(self, disk: FaultyFiles, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.pop(self._path, None)

    def forget(self) -> None:
        pass


class FaultyFiles:
    """``fail_at``: the number of the mutating call (from 1) that raises ``fault``: PowerCut or an errno."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.changes: list[tuple[str, str, str, Inode | None]] = []
        self.dirs: set[str] = set()
        self.locks: dict[str, bytes] = {}
        self.steps = 0
        self.journal: list[str] = []
        self.fail_at = 0
        self.fault: int | type[PowerCut] = PowerCut
        self.fault_kind = ""

    def step(self, kind: str, path: str) -> None:
        if self.fault_kind and kind != self.fault_kind:
            return
        self.steps += 1
        self.journal.append(f"{kind} {os.path.basename(path)}")
        if self.steps == self.fail_at:
            if isinstance(self.fault, int):
                raise OSError(self.fault, os.strerror(self.fault), path)
            raise self.fault

    def arm(self, fail_at: int, fault: int | type[PowerCut] = PowerCut, kind: str = "") -> None:
        self.steps = 0
        self.fail_at = fail_at
        self.fault = fault
        self.fault_kind = kind
        self.journal.clear()

    def power_cut(self, seed: int) -> None:
        """Lose what a power cut loses; the same ``seed`` loses the same."""
        rng = random.Random(seed)
        self.arm(0)
        self.locks.clear()
        kept = rng.randrange(len(self.changes) + 1)
        for kind, old, new, inode in self.changes[:kept]:
            if kind == "create" and inode is not None:
                self.durable_names[new] = inode
            elif kind == "rename" and old in self.durable_names:
                self.durable_names[new] = self.durable_names.pop(old)
            elif kind == "unlink" and rng.random() < 0.7:
                self.durable_names.pop(old, None)
        self.changes.clear()
        self.names = dict(self.durable_names)
        survivors = {id(inode): inode for inode in self.names.values()}
        for inode in survivors.values():
            inode.survive(rng)

    def flip(self, path: str, offset: int, bit: int) -> None:
        inode = self.names[path]
        inode.content[offset] ^= 1 << bit
        inode.durable[offset] = inode.content[offset]

    # -- the port -----------------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> FaultyFile:
        if create:
            self.step("create", path)
            self.names[path] = Inode()
            self.changes.append(("create", "", path, self.names[path]))
        return FaultyFile(self, path, self._inode(path), writable=True)

    def open_read(self, path: str) -> FaultyFile:
        return FaultyFile(self, path, self._inode(path), writable=False)

    def _inode(self, path: str) -> Inode:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.names[path]

    def make_dir(self, path: str) -> None:
        if path not in self.dirs:
            self.step("mkdir", path)
            self.dirs.add(path)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.dirs

    def listdir(self, path: str) -> list[str]:
        return sorted(os.path.basename(name) for name in [*self.names, *self.dirs] if os.path.dirname(name) == path)

    def rename(self, old: str, new: str) -> None:
        self.step("rename", old)
        self.names[new] = self.names.pop(old)
        self.changes.append(("rename", old, new, None))

    def unlink(self, path: str) -> None:
        self.step("unlink", path)
        del self.names[path]
        self.changes.append(("unlink", path, "", None))

    def fsync_dir(self, path: str) -> None:
        self.step("syncdir", path)
        self.durable_names = {**{n: i for n, i in self.durable_names.items() if os.path.dirname(n) != path}}
        self.durable_names |= {n: i for n, i in self.names.items() if os.path.dirname(n) == path}
        self.changes = [c for c in self.changes if os.path.dirname(c[1] or c[2]) != path]

    def lock(self, path: str, note: bytes) -> FaultyLock:
        if path in self.locks:
            raise LockHeldError(self.locks[path])
        self.step("lock", path)
        self.locks[path] = note
        if path not in self.names:
            self.names[path] = Inode()
            self.changes.append(("create", "", path, self.names[path]))
        return FaultyLock(self, path)
