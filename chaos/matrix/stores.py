"""Snapshots by themselves: written, received, published, pruned."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Final

from chaos.disk import Disk
from chaos.matrix.cells import Judgement, LostError
from chaos.matrix.faults import CellDisk
from persistence.errors import CorruptSnapshotError
from persistence.snapshot_file import CHUNK_BYTES, PART_PREFIX, PART_SUFFIX, SUFFIX, SnapshotInfo, SnapshotMeta
from persistence.snapshots import SnapshotStore

DIRECTORY: Final = "data/snapshots"
PIECE_BYTES: Final = 100_000
LEVEL: Final = 1


def content(index: int) -> bytes:
    """Of the snapshot at ``index``: several chunks that hardly compress."""
    return Random(index).randbytes(CHUNK_BYTES + 1000 * index)  # noqa: S311 -- seeded on purpose


def write(store: SnapshotStore, index: int) -> SnapshotInfo:
    """A snapshot of ``index`` by this node."""
    writer = store.begin(SnapshotMeta(index, 1, b"extra"), LEVEL)
    writer.write(content(index))
    return writer.commit()


def at_leader(index: int) -> tuple[SnapshotStore, SnapshotInfo]:
    """A snapshot of another node."""
    elsewhere = Disk()
    elsewhere.make_dir("leader")
    theirs = SnapshotStore("leader/snapshots", elsewhere)
    return theirs, write(theirs, index)


class StoreLife:
    """Writes three (the first is pruned), gives one up, and receives from another node."""

    def __init__(self) -> None:
        self.certain = 0
        """Index of the newest that was published."""

    def prepare(self, disk: CellDisk) -> None:
        _, info = at_leader(38)
        part = f"{PART_PREFIX}{info.name.removesuffix(SUFFIX)}-{info.size_bytes}-{info.seal.hex()}{PART_SUFFIX}"
        SnapshotStore(DIRECTORY, disk)
        disk.open(f"{DIRECTORY}/left-over.snap.part", create=True).append(b"x" * 1000)
        disk.open(f"{DIRECTORY}/{part}", create=True).append(bytes(info.size_bytes + 1))  # longer than it can be

    def live(self, disk: CellDisk) -> None:
        store = SnapshotStore(DIRECTORY, disk)
        for index in (10, 20, 30):
            write(store, index)
            self.certain = index
        given_up = store.begin(SnapshotMeta(35, 1), LEVEL)
        given_up.write(content(35))
        given_up.abort()
        store.begin(SnapshotMeta(36, 1), LEVEL).write(content(36))
        store.discard(SnapshotMeta(36, 1))  # its writer was a process that died
        self._receive(disk)

    def _receive(self, disk: CellDisk) -> None:
        """One that is given up, one that arrives damaged, one over a restart."""
        theirs, info = at_leader(38)
        store = SnapshotStore(DIRECTORY, disk)
        incoming = store.receive(info.name, info.size_bytes, info.seal)
        incoming.write(0, theirs.raw(info, 0, PIECE_BYTES))
        incoming.abort()
        theirs, info = at_leader(39)
        incoming = store.receive(info.name, info.size_bytes, info.seal)
        incoming.write(0, theirs.raw(info, 0, info.size_bytes - 1) + b"?")
        with suppress(CorruptSnapshotError):
            incoming.finish()
        incoming.close()
        theirs, info = at_leader(40)
        incoming = store.receive(info.name, info.size_bytes, info.seal)
        incoming.write(0, theirs.raw(info, 0, PIECE_BYTES))
        incoming.close()
        incoming = SnapshotStore(DIRECTORY, disk).receive(info.name, info.size_bytes, info.seal)
        for offset in range(incoming.offset, info.size_bytes, PIECE_BYTES):
            incoming.write(offset, theirs.raw(info, offset, PIECE_BYTES))
        incoming.finish()
        self.certain = 40

    def open(self, disk: CellDisk) -> None:
        SnapshotStore(DIRECTORY, disk).newest()

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        store = SnapshotStore(DIRECTORY, disk)
        index = self._newest(store)
        if index < self.certain and not (damaged and store.damaged):
            raise LostError(f"the snapshot at {self.certain} was published, the newest one is at {index}")
        disk.power_cut(0, "nothing")
        if self._newest(SnapshotStore(DIRECTORY, disk)) != index:
            raise LostError(f"the snapshot at {index} was shown, and was not on the disk")
        write(SnapshotStore(DIRECTORY, disk), 50)
        disk.power_cut(0, "scattered")
        again = SnapshotStore(DIRECTORY, disk)
        if self._newest(again) != 50:
            raise LostError("a snapshot that was published after the recovery is not there")
        left = [name for name in disk.listdir(DIRECTORY) if name.endswith(PART_SUFFIX)]
        if left:
            raise LostError(f"{', '.join(left)} is left behind")
        return "refused" if store.damaged else "survived"

    @staticmethod
    def _newest(store: SnapshotStore) -> int:
        info = store.newest()
        if info is None:
            return 0
        if b"".join(store.read(info)) != content(info.index):
            raise LostError(f"the snapshot at {info.index} has another content than was written")
        return info.index
