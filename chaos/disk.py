"""A disk in memory below :class:`persistence.files.Files`, with everything that a disk may do.

A killed process loses nothing that it has written. A power cut loses what was not synced: in part, in any order, torn
at any byte (:data:`Survival` says which part). Directory changes survive in the order in which they were made, up to
some point (a journaling file system), except that a deletion may be undone; ``scattered`` does not even promise the
order. Any mutating call may be the last one, find the disk full or read-only, or fail for good. After a failed sync
reads show bytes that the disk does not have, and a further sync succeeds without writing them: so does Linux (Rebello
et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).

To test with it: give it to whatever takes ``files=``, :meth:`Disk.arm` a fault, run until it strikes, let
:meth:`Disk.power_cut` or :meth:`Disk.kill` end the life, and open the same directories again.
"""

# ruff: noqa: PTH119, PTH120 -- paths are plain strings here, as in the port
from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal, NamedTuple

from persistence.files import Buffer, LockHeldError, Space

SECTOR_BYTES: Final = 512
"""A disk writes this much whole, or not at all; most disks. Some pieces are torn within, as if it did not."""
JOURNAL_CALLS: Final = 10_000
"""As many of the newest calls are remembered."""

Operation = Literal[
    "create", "write", "sync", "truncate", "preallocate", "rename", "unlink", "syncdir", "mkdir", "lock"
]

Survival = Literal["random", "nothing", "all", "names", "torn", "scattered"]
"""What a power cut leaves of all that was not synced: ``random`` some directory changes up to some point, some sectors
of some writes; ``nothing``; ``all``; ``names`` all directory changes and no content; ``torn`` no directory change, and
content up to some byte of some write; ``scattered`` any directory changes, and any sectors.
"""
SURVIVALS: Final[tuple[Survival, ...]] = ("random", "nothing", "all", "names", "torn", "scattered")


class ProcessEnd(BaseException):
    """The process ends in the middle of a call. No handler of the code under test may take it for a failure."""


class PowerCut(ProcessEnd):
    """The power went: :meth:`Disk.power_cut` comes next."""


class Killed(ProcessEnd):
    """SIGKILL: :meth:`Disk.kill` comes next, which loses nothing."""


class Call(NamedTuple):
    """One mutating call. ``target`` is the new name of a rename; a write is of ``length`` bytes at ``offset``."""

    operation: Operation
    path: str
    target: str = ""
    offset: int = 0
    length: int = 0

    def __str__(self) -> str:
        names = map(os.path.basename, (self.path, self.target))
        return " ".join([self.operation, *filter(None, names)])


class Change(NamedTuple):
    """A change of a directory that is not durable yet. ``inode`` is None for a directory."""

    kind: Literal["create", "rename", "unlink"]
    old: str
    new: str
    inode: Inode | None


@dataclass(eq=False, slots=True)
class Inode:
    """``content`` is what reads see, ``durable`` what a power cut leaves whatever happens to ``unsynced``."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)
    """(offset, bytes), oldest first."""

    def write(self, data: bytes, offset: int) -> None:
        put(self.content, data, offset)
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.unsynced:
            put(self.durable, data, offset)
        self.unsynced.clear()
        del self.durable[len(self.content) :]

    def sync_newest(self) -> None:
        """The newest write alone; what an older one had put in its place and is not durable yet never will be."""
        offset, data = self.unsynced.pop()
        put(self.durable, data, offset)
        for number, (start, old) in enumerate(self.unsynced):
            low, high = max(start, offset), min(start + len(old), offset + len(data))
            if low < high:
                new = old[: low - start] + data[low - offset : high - offset] + old[high - start :]
                self.unsynced[number] = (start, new)

    def fail_to_sync(self, rng: Random, newest: int) -> None:
        """Of the ``newest`` writes some may have reached the disk; the kernel shows the rest, and will not write it."""
        share = rng.choice((0.0, 0.0, 0.5))
        kept = len(self.unsynced) - newest
        for offset, data in self.unsynced[kept:]:
            if rng.random() < share:
                put(self.durable, data, offset)
        del self.unsynced[kept:]

    def lose(self, rng: Random, share: float) -> None:
        """Keep that share of the sectors that were not synced; tear some of those."""
        for offset, data in self.unsynced:
            for start in range(0, len(data), SECTOR_BYTES):
                piece = data[start : start + SECTOR_BYTES]
                if rng.random() < share:
                    kept = rng.randrange(len(piece) + 1) if rng.random() < 0.2 else len(piece)
                    put(self.durable, piece[:kept], offset + start)
        self._settle()

    def tear(self, rng: Random) -> None:
        """Keep the writes up to some byte of some of them."""
        left = rng.randrange(sum(len(data) for _, data in self.unsynced) + 1)
        for offset, data in self.unsynced:
            put(self.durable, data[:left], offset)
            left -= min(left, len(data))
        self._settle()

    def keep(self) -> None:
        """The power went, and all that was written had reached the disk by itself."""
        self.sync()
        self._settle()

    def _settle(self) -> None:
        self.unsynced.clear()
        self.content = bytearray(self.durable)


def put(target: bytearray, data: bytes, offset: int) -> None:
    """Write ``data`` at ``offset``; a hole before it is zeros."""
    if data:
        if offset > len(target):
            target.extend(bytes(offset - len(target)))
        target[offset : offset + len(data)] = data


class Lost(NamedTuple):
    """A directory that :meth:`Disk.lose` took away; ``files`` by path."""

    path: str
    files: dict[str, Inode]


class DiskFile:
    """One open file."""

    __slots__ = ("_closed", "_disk", "_inode", "_writable", "path")

    def __init__(self, disk: Disk, path: str, inode: Inode, *, writable: bool) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode
        self._writable = writable
        self._closed = False

    def append(self, data: Buffer) -> None:
        self.pwrite([data], len(self._inode.content))

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:
        self._check(writes=True)
        data = b"".join(buffers)
        disk, inode = self._disk, self._inode
        try:
            disk.call(Call("write", self.path, "", offset, len(data)), grows=offset + len(data) - len(inode.content))
        except BaseException:
            inode.write(data[: disk.rng.randrange(len(data) + 1)], offset)
            raise
        inode.write(data, offset)
        if sync and self._syncs(newest=1):
            inode.sync_newest()

    def _syncs(self, newest: int) -> bool:
        """Whether the ``newest`` writes are to become durable now."""
        call = Call("sync", self.path)
        try:
            self._disk.call(call)
        except OSError:
            self._inode.fail_to_sync(self._disk.rng, newest)
            raise
        return not self._disk.is_lying(call)

    def pread(self, length: int, offset: int) -> bytes:
        self._check()
        if self.path in self._disk.unreadable:
            raise os_error(errno.EIO, self.path)
        return bytes(self._inode.content[offset : offset + length])

    def size(self) -> int:
        return len(self._inode.content)

    def truncate(self, size: int) -> None:
        self._check(writes=True)
        content = self._inode.content
        self._disk.call(Call("truncate", self.path), grows=size - len(content))
        del content[size:]
        content.extend(bytes(size - len(content)))
        self._inode.unsynced = [(0, bytes(content))]

    def fdatasync(self) -> None:
        self._check()
        if self._syncs(newest=len(self._inode.unsynced)):
            self._inode.sync()

    def preallocate(self, size: int, give_up: Callable[[], bool]) -> bool:
        self._check(writes=True)
        self._disk.call(Call("preallocate", self.path), grows=size - len(self._inode.content))
        if give_up():
            return False
        self._inode.write(bytes(size), 0)
        self._inode.sync()
        return True

    def claim(self, size: int) -> None:
        self._check(writes=True)
        grows = size - len(self._inode.content)
        self._disk.call(Call("preallocate", self.path), grows=grows)
        if grows > 0:
            self._inode.write(bytes(grows), size - grows)

    def close(self) -> None:
        self._closed = True

    def _check(self, *, writes: bool = False) -> None:
        if self._closed or (writes and not self._writable):
            raise AssertionError(f"{self.path} is {'closed' if self._closed else 'open for reading only'}")


class DiskLock:
    """A lock on a file; gone with the process."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.pop(self._path, None)

    def forget(self) -> None:
        """A fork's copy: the parent keeps the lock."""


def os_error(number: int, path: str) -> OSError:
    """What the operating system raises."""
    return OSError(number, os.strerror(number), path)


class Disk:
    """One machine's file system. The same ``rng`` and the same calls give the same losses."""

    def __init__(self, rng: Random | None = None) -> None:
        self.rng = rng or Random(0)  # noqa: S311 -- seeded on purpose
        self.names: dict[str, Inode] = {}
        """Files, by path, as a running process sees them."""
        self.dirs: set[str] = set()
        self.locks: dict[str, bytes] = {}
        self.operations: Counter[str] = Counter()
        self.journal: list[Call] = []
        self.steps = 0
        """Mutating calls since :meth:`arm` that it could have struck."""
        self.full = False
        """Whatever takes space finds none."""
        self.read_only = False
        """Remounted: nothing can be changed any more."""
        self.capacity_bytes: int | None = None
        """Files cannot hold more than this together; deleting makes room again. None: no limit."""
        self.unreadable: set[str] = set()
        """Paths that cannot be read."""
        self.lies: Callable[[Call], bool] | None = None
        """Of which syncs it says that they are done, and does nothing: a cache without a
        battery, or a sync left out."""
        self.on_call: Callable[[Call], None] | None = None
        """Called before each mutating call, also before one that is to fail; what it raises, the call raises."""
        self._durable_names: dict[str, Inode] = {}
        self._durable_dirs: set[str] = set()
        self._changes: list[Change] = []
        self.arm(0)

    # -- faults
    def arm(
        self,
        at: int,
        fault: int | type[ProcessEnd] = PowerCut,
        where: str | Callable[[Call], bool] = "",
        *,
        lasting: bool = False,
    ) -> None:
        """Let the ``at``-th mutating call from now on (0: none) raise ``fault``: an end of the process, or an errno.

        ``where`` (an operation, or a predicate) says which calls count. A ``lasting`` fault strikes all that follow,
        too.
        """
        self.steps = 0
        self.journal.clear()
        self._at, self._fault, self._where, self._lasting = at, fault, where, lasting

    def disarm(self) -> None:
        """No fault is to come."""
        self._at = 0

    @property
    def armed(self) -> bool:
        """A fault is still to come."""
        return self.steps < self._at

    def call(self, call: Call, *, grows: int = 0) -> None:
        """Before every mutating call: it may fail, or be the last. ``grows`` is how many bytes it adds to a file."""
        self.operations[call.operation] += 1
        self.journal.append(call)
        if len(self.journal) > JOURNAL_CALLS:
            del self.journal[: JOURNAL_CALLS // 2]
        if self.on_call is not None:
            self.on_call(call)
        if self._counts(call):
            self.steps += 1
            if self._at and (self.steps == self._at or (self._lasting and self.steps > self._at)):
                if isinstance(self._fault, int):
                    raise os_error(self._fault, call.path)
                raise self._fault
        if self.read_only:
            raise os_error(errno.EROFS, call.path)
        if self._lacks_space(call, grows):
            raise os_error(errno.ENOSPC, call.path)

    def _counts(self, call: Call) -> bool:
        where = self._where
        return where(call) if callable(where) else where in ("", call.operation)

    def _lacks_space(self, call: Call, grows: int) -> bool:
        if self.full and call.operation in ("write", "create", "preallocate"):
            return True
        return grows > 0 and self.capacity_bytes is not None and self.used_bytes + grows > self.capacity_bytes

    def is_lying(self, call: Call) -> bool:
        """Whether this sync is only said to be done."""
        return self.lies is not None and self.lies(call)

    @property
    def used_bytes(self) -> int:
        """What the files take."""
        return sum(len(inode.content) for inode in self.names.values())

    def flip(self, path: str, offset: int | None = None, bit: int | None = None) -> None:
        """Damage one bit of a file, for good; any bit of any byte unless it is said which."""
        inode = self.names[path]
        offset = self.rng.randrange(len(inode.content)) if offset is None else offset
        mask = 1 << (self.rng.randrange(8) if bit is None else bit)
        inode.content[offset] ^= mask
        if offset < len(inode.durable):
            inode.durable[offset] ^= mask
        for number, (start, data) in enumerate(inode.unsynced):  # the cache holds no other copy
            if start <= offset < start + len(data):
                at = offset - start
                inode.unsynced[number] = (start, data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])

    def lose(self, path: str) -> Lost:
        """A directory and all that is below it are gone, for good: somebody removed it, or its file system."""

        def is_gone(name: str) -> bool:
            return name == path or name.startswith(f"{path}/")

        lost = Lost(path, {name: one for name, one in self._durable_names.items() if is_gone(name)})
        self._changes = [one for one in self._changes if not is_gone(one.old) and not is_gone(one.new)]
        for names in (self.names, self._durable_names):
            for name in [one for one in names if is_gone(one)]:
                del names[name]
        for dirs in (self.dirs, self._durable_dirs):
            dirs -= {one for one in dirs if is_gone(one)}
        return lost

    def put_back(self, lost: Lost) -> None:
        """What was durable of a directory when it was lost is there again, in the place of what is there now."""
        self.lose(lost.path)
        for names in (self.names, self._durable_names):
            names.update(lost.files)
        for dirs in (self.dirs, self._durable_dirs):
            dirs.add(lost.path)

    # -- ends of lives
    def kill(self) -> None:
        """The process died: the operating system keeps what was written."""
        self.disarm()
        self.locks.clear()

    def power_cut(self, seed: int | None = None, survival: Survival = "random") -> None:
        """Only what was synced is certain to be there. With a ``seed`` the same is lost whatever happened before."""
        self.kill()
        rng = self.rng if seed is None else Random(seed)  # noqa: S311 -- seeded on purpose
        for change in self._surviving(rng, survival):
            if change.kind != "unlink" or survival not in ("random", "scattered") or rng.random() < 0.7:
                self._make_durable(change)
        self._changes.clear()
        self.names = dict(self._durable_names)
        self.dirs = set(self._durable_dirs)
        for inode in {id(inode): inode for inode in self.names.values()}.values():
            self._lose(inode, rng, survival)

    def _surviving(self, rng: Random, survival: Survival) -> list[Change]:
        if survival == "random":
            return self._changes[: rng.randrange(len(self._changes) + 1)]
        if survival == "scattered":
            return [one for one in self._changes if rng.random() < 0.5]
        return self._changes if survival in ("all", "names") else []

    @staticmethod
    def _lose(inode: Inode, rng: Random, survival: Survival) -> None:
        if survival == "random":
            inode.lose(rng, rng.choice((0.0, 0.0, 0.5, 0.9, 1.0)))
        elif survival == "scattered":
            inode.lose(rng, 0.5)
        elif survival == "torn":
            inode.tear(rng)
        elif survival == "all":
            inode.keep()
        else:
            inode.lose(rng, 0.0)

    def _make_durable(self, change: Change) -> None:
        kind, old, new, inode = change
        durable = self._durable_names
        if kind == "create" and inode is not None:
            durable[new] = inode
        elif kind == "unlink":
            durable.pop(old, None)
        elif inode is None:
            self._durable_names = _moved(durable, old, new)
            self._durable_dirs = {_moved_path(path, old, new) for path in self._durable_dirs}
        else:
            if durable.get(old) is inode:
                del durable[old]
            durable[new] = inode

    # -- the port
    def open(self, path: str, *, create: bool = False) -> DiskFile:
        if create:
            self.call(Call("create", path))
            self._check_parent(path)
            self.names[path] = Inode()
            self._changes.append(Change("create", "", path, self.names[path]))
        return DiskFile(self, path, self._inode(path), writable=True)

    def open_read(self, path: str) -> DiskFile:
        return DiskFile(self, path, self._inode(path), writable=False)

    def _inode(self, path: str) -> Inode:
        inode = self.names.get(path)
        if inode is None:
            raise os_error(errno.ENOENT, path)
        return inode

    def _check_parent(self, path: str) -> None:
        parent = os.path.dirname(path)
        if parent not in ("", "/") and parent not in self.dirs:
            raise os_error(errno.ENOENT, parent)

    def make_dir(self, path: str) -> None:
        if path not in self.dirs:
            self.call(Call("mkdir", path))
            self._check_parent(path)
            self.dirs.add(path)
            self._durable_dirs.add(path)

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.dirs

    def listdir(self, path: str) -> list[str]:
        if path not in self.dirs:
            raise os_error(errno.ENOENT, path)
        return sorted(os.path.basename(name) for name in (*self.names, *self.dirs) if os.path.dirname(name) == path)

    def rename(self, old: str, new: str) -> None:
        self.call(Call("rename", old, new))
        self._check_parent(new)
        if old in self.dirs:
            if self.exists(new):
                raise os_error(errno.ENOTEMPTY, new)
            self.names = _moved(self.names, old, new)
            self.dirs = {_moved_path(path, old, new) for path in self.dirs}
            self._changes.append(Change("rename", old, new, None))
            return
        inode = self._inode(old)
        del self.names[old]
        self.names[new] = inode
        self._changes.append(Change("rename", old, new, inode))

    def unlink(self, path: str) -> None:
        self.call(Call("unlink", path))
        inode = self._inode(path)
        del self.names[path]
        self._changes.append(Change("unlink", path, "", inode))

    def fsync_dir(self, path: str) -> None:
        call = Call("syncdir", path)
        self.call(call)
        if self.is_lying(call):
            return
        pending = []
        for change in self._changes:
            parents = {os.path.dirname(name) for name in (change.old, change.new) if name}
            if path not in parents:
                pending.append(change)
            elif len(parents) > 1 or change.inode is None:  # one transaction for both sides, or for all that is below
                self._make_durable(change)
        self._changes = pending
        kept = {name: inode for name, inode in self._durable_names.items() if os.path.dirname(name) != path}
        self._durable_names = kept | {name: one for name, one in self.names.items() if os.path.dirname(name) == path}

    def space(self, path: str) -> Space:  # noqa: ARG002 -- the port's: there is one file system
        """Without a capacity, a terabyte."""
        total = 1 << 40 if self.capacity_bytes is None else self.capacity_bytes
        return Space(total, 0 if self.full else max(0, total - self.used_bytes))

    def lock(self, path: str, note: bytes) -> DiskLock:
        if path in self.locks:
            raise LockHeldError(self.locks[path])
        self.call(Call("lock", path))
        self._check_parent(path)
        self.locks[path] = note
        if path not in self.names:
            self.names[path] = Inode()
            self._changes.append(Change("create", "", path, self.names[path]))
        return DiskLock(self, path)


def _moved(names: dict[str, Inode], old: str, new: str) -> dict[str, Inode]:
    return {_moved_path(path, old, new): inode for path, inode in names.items()}


def _moved_path(path: str, old: str, new: str) -> str:
    """``path`` after the directory ``old`` became ``new``."""
    return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path
