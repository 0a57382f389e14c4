"""An archive of committed entries, with bases (backups), that is pruned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from chaos.disk import Disk
from chaos.matrix.cells import Judgement, LostError
from chaos.matrix.faults import CellDisk
from persistence.archive import ArchiveWriter, Place, entries_after, runs
from persistence.backup import Origin
from persistence.entries import Archived
from persistence.errors import ArchiveError, CorruptionError, SnapshotError
from persistence.points import prune, verify
from persistence.snapshots import SnapshotMeta, SnapshotStore

PATH: Final = "data/archive"
NEW_PATH: Final = "data/new-archive"
CLUSTER: Final = "c1"
FIRST_BASE, SECOND_BASE, LAST = 3, 12, 30


def entry(index: int) -> Archived:
    """The only one of that index."""
    return Archived(index, 1, 1_000_000 + index, b"entry %d " % index * 20)


class _Facts:
    """What a backup asks of whoever knows its content."""

    def __init__(self, index: int) -> None:
        self._index = index

    def feed(self, piece: bytes) -> None:
        """The content means nothing here."""

    def finish(self) -> tuple[int, int]:
        return entry(self._index).stamp_ms, 1


def base(index: int) -> tuple[Origin, Callable[[int, int], bytes], _Facts]:
    """What is wanted for a base that covers the entries up to ``index``."""
    elsewhere = Disk()
    elsewhere.make_dir("leader")
    store = SnapshotStore("leader/snapshots", elsewhere)
    writer = store.begin(SnapshotMeta(index, 1))
    writer.write(b"state after %d" % index)
    info = writer.commit()
    raw = store.raw(info, 0, info.size_bytes)
    return (
        Origin(CLUSTER, "n1", index, 1, len(raw), 5, "matrix"),
        lambda at, length: raw[at : at + length],
        _Facts(index),
    )


class ArchiveLife:
    """A run with a base, files of entries, another base; stopped and opened again; pruned."""

    def __init__(self) -> None:
        self.last = 0
        """The newest entry that was made durable."""
        self.first = LAST
        """From here on every point was to be kept."""
        self.base = 0
        """The newest base that was made durable."""

    def prepare(self, disk: CellDisk) -> None:
        with ArchiveWriter.open(PATH, cluster_id=CLUSTER, files=disk) as writer:
            writer.begin_run(*base(FIRST_BASE))
        self.first = FIRST_BASE
        disk.open(f"{PATH}/00000001/left-over.part", create=True).append(b"x")
        disk.kill()

    def live(self, disk: CellDisk) -> None:
        with ArchiveWriter.open(NEW_PATH, cluster_id=CLUSTER, files=disk) as writer:
            origin, _, facts = base(FIRST_BASE)
            with suppress(SnapshotError):
                writer.begin_run(origin, lambda _at, _length: b"", facts)  # the node that gives it has gone
        self._archive(disk, 10)
        self._archive(disk, 20)
        self.first = SECOND_BASE
        prune(PATH, disk, from_index=SECOND_BASE)
        self._archive(disk, LAST)

    def _archive(self, disk: CellDisk, upper: int) -> None:
        """As a node does that was started: go on where the archive is."""
        with ArchiveWriter.open(PATH, cluster_id=CLUSTER, files=disk) as writer:
            if not writer.run or writer.unusable:
                self.first = SECOND_BASE
                writer.begin_run(*base(SECOND_BASE))
            writer.add([entry(index) for index in range(writer.archived.index + 1, upper + 1)])
            with suppress(ArchiveError):
                writer.flush()
            self.last = max(self.last, writer.archived.index)
            if writer.base_index < SECOND_BASE <= upper:
                writer.add_base(*base(SECOND_BASE))
            self.base = writer.base_index

    def open(self, disk: CellDisk) -> None:
        ArchiveWriter.open(PATH, cluster_id=CLUSTER, files=disk).close()

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        with ArchiveWriter.open(PATH, cluster_id=CLUSTER, files=disk) as writer:
            told = writer.archived.index  # the log may let go of what is archived
        problems = list(verify(PATH, disk))
        if damaged and problems:
            return "refused"
        if problems:
            raise LostError("; ".join(reason for _, reason in problems))
        self._check(disk, self.last)
        disk.power_cut(0, "nothing")
        self._check(disk, max(told, self.last))
        self._archive(disk, LAST + 5)
        disk.power_cut(0, "nothing")
        self._check(disk, LAST + 5)
        return "survived"

    def _check(self, disk: CellDisk, last: int) -> None:
        """Every point from the one on that was to be kept can be reached. Raises LostError."""
        run = runs(PATH, disk)[-1]
        start = run.bases[0].index if run.bases else 0
        if self.base and (not run.bases or run.bases[-1].index < self.base):
            raise LostError(f"the base at {self.base} is not there")
        if start > self.first:
            raise LostError(f"the archive begins at {start}, everything from {self.first} on was to be kept")
        try:
            found = list(entries_after(disk, run, Place(start, 1), CLUSTER))
        except (ArchiveError, CorruptionError) as error:
            raise LostError(str(error)) from error
        if [one.index for one in found] != list(range(start + 1, start + 1 + len(found))) or start + len(found) < last:
            raise LostError(f"entries up to {last} were archived, there are {len(found)} after {start}")
        if any(one != entry(one.index) for one in found):
            raise LostError("an entry has another content than was archived")
