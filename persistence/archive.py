"""An archive: the committed entries of a log, copied out into files that are complete or not there at all.

::

    DIR/lock                             flock'ed by the process that writes
    DIR/<run>/<index>-<term>.backup      a base: the state after that entry (persistence.backup)
    DIR/<run>/<first>-<last>.entries     entries (persistence.entries)
    DIR/<run>/*.part                     being written; deleted when the archive is opened for writing again

A **run** is a row of entries without a gap, with the bases that lie in it; 8 digits, from 00000001. It begins with a
base, or with entry 1. A new run begins whenever the row cannot go on: entries were compacted away before they were
archived, or the log has become another one. What can be restored is any point of a run from its first base on (a run
that begins with entry 1: from that entry on), never one between two runs.

Theory: within one cluster (index, term) of an entry names all entries up to it (Raft's log matching), so files fit
together when the term before a file's first entry is that of the entry before; the chain of digests shows besides
that no file was exchanged. Another cluster's files have another cluster id.

Every file is written beside, synced and renamed: a crash loses at most what was not closed yet, and the owner's log
still has that. After any failure the writer must be opened again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from persistence.backup import PART_SUFFIX, Backup, BackupInfo, Observer, Origin, save_backup
from persistence.backup import SUFFIX as BASE_SUFFIX
from persistence.directory import explain
from persistence.entries import NO_CHAIN, Archived, EntriesHeader, EntriesWriter, read_entries, read_header
from persistence.entries import SUFFIX as ENTRIES_SUFFIX
from persistence.errors import ArchiveError, CorruptionError, DirectoryLockedError
from persistence.files import FileLock, Files, LockHeldError, OsFiles, join

LOCK: Final = "lock"
_RUN = re.compile(r"\d{8}", re.ASCII)
_BASE = re.compile(r"(\d{20})-(\d{20})" + re.escape(BASE_SUFFIX), re.ASCII)
_ENTRIES = re.compile(r"(\d{20})-(\d{20})" + re.escape(ENTRIES_SUFFIX), re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """An entry, and with it all before it, as (index, term); (0, 0) is before the first."""

    index: int
    term: int


# ------------------------------------------------------------------ looking
@dataclass(frozen=True, slots=True)
class BaseFile:
    """A base by its name."""

    path: str
    index: int
    term: int


class EntriesFile(NamedTuple):
    """A file of entries by its name."""

    path: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Run:
    """A run by the names of its files, each kind in order."""

    number: int
    path: str
    bases: tuple[BaseFile, ...]
    entries: tuple[EntriesFile, ...]

    @property
    def first(self) -> int:
        """The earliest index that can be restored; 0 when there is none."""
        if self.entries and self.entries[0].first == 1:
            return 1
        return self.bases[0].index if self.bases else 0

    @property
    def last(self) -> int:
        """The latest; what follows a gap between files does not count as missing here."""
        return max([one.last for one in self.entries[-1:]] + [one.index for one in self.bases[-1:]], default=0)


def runs(path: str, files: Files) -> list[Run]:
    """All runs of an archive, oldest first. Raises ArchiveError when there is no such directory."""
    if not files.exists(path):
        raise ArchiveError(f"there is no archive {path}")
    return [_run(path, name, files) for name in files.listdir(path) if _RUN.fullmatch(name)]


def _run(path: str, name: str, files: Files) -> Run:
    directory = join(path, name)
    bases, entries = [], []
    for file in files.listdir(directory):
        if match := _BASE.fullmatch(file):
            bases.append(BaseFile(join(directory, file), int(match[1]), int(match[2])))
        elif match := _ENTRIES.fullmatch(file):
            entries.append(EntriesFile(join(directory, file), int(match[1]), int(match[2])))
    return Run(int(name), directory, tuple(bases), tuple(entries))


def header_of(files: Files, path: str) -> EntriesHeader:
    """The header of a file of entries. Raises CorruptArchiveError, OSError."""
    file = files.open_read(path)
    try:
        return read_header(file)
    finally:
        file.close()


def base_info(files: Files, path: str) -> BackupInfo:
    """What a base says of itself. Raises CorruptBackupError, CorruptSnapshotError, OSError."""
    file = files.open_read(path)
    try:
        return Backup(file).info
    finally:
        file.close()


def entries_after(files: Files, run: Run, start: Place, cluster_id: str) -> Iterator[Archived]:
    """The entries of ``run`` after ``start``, verified to follow it and each other.

    Raises ArchiveError for a gap, another cluster's or another history's files, CorruptArchiveError for damage.
    """
    at, before = start, None
    for one in run.entries:
        if one.last <= start.index:
            continue
        header = header_of(files, one.path)
        if header.cluster_id != cluster_id:
            raise ArchiveError(f"{one.path} is of cluster {header.cluster_id!r}, not of {cluster_id!r}")
        if header.first > at.index + 1:
            raise ArchiveError(f"entries {at.index + 1} to {header.first - 1} are missing: {one.path} comes next")
        if header.first == at.index + 1 and header.previous_term != at.term:
            raise ArchiveError(
                f"{one.path} follows an entry {at.index} of term {header.previous_term}, this one is of term {at.term}: "
                "another history"
            )
        if before is not None and header.chain != before.digest:
            raise ArchiveError(
                f"{one.path} was not written after {before.first} to {before.last}: a file was exchanged"
            )
        before = header
        file = files.open_read(one.path)
        try:
            for entry in read_entries(file):
                if entry.index > at.index:
                    at = Place(entry.index, entry.term)
                    yield entry
                elif entry.index == start.index and entry.term != start.term:
                    raise ArchiveError(
                        f"entry {entry.index} in {one.path} is of term {entry.term}, it should be {start.term}: another history"
                    )
        finally:
            file.close()


# ------------------------------------------------------------------ writing
class ArchiveWriter:
    """An archive that is open for writing; for one thread. A failure leaves it useless: open it again."""

    def __init__(self, path: str, cluster_id: str, files: Files, lock: FileLock) -> None:
        """Use :meth:`open`."""
        self.path = path
        self.cluster_id = cluster_id
        self.run = 0
        """Number of the run that goes on; 0: none does."""
        self.archived = Place(0, 0)
        """The last entry in a closed file of the run, or its base when there is none."""
        self.added = Place(0, 0)
        """The last entry taken in, closed or not."""
        self.stamp_ms = 0
        """Time of ``added``."""
        self.base_index = 0
        """Entry of the newest base; 0 when there is none."""
        self.base_taken_ms = 0
        """When that was begun."""
        self.unusable = ""
        """Why the newest run cannot go on; a new one has to be begun."""
        self._chain = NO_CHAIN
        self._files = files
        self._lock = lock
        self._writer: EntriesWriter | None = None

    @classmethod
    def open(cls, path: str, *, cluster_id: str, files: Files | None = None) -> ArchiveWriter:
        """Create or open the archive, and lock it. Where its newest run can go on is in ``archived``.

        Raises ArchiveError for another cluster's, DirectoryLockedError, or DirectoryError for what the system refuses.
        """
        files = files or OsFiles()
        try:
            files.make_dir(path)
            lock = files.lock(join(path, LOCK), str(os.getpid()).encode())
        except LockHeldError as held:
            holder = int(held.note) if held.note.isdigit() else None
            raise DirectoryLockedError(path, holder, "archive") from None
        except OSError as error:
            raise explain(error, path, "archive") from error
        writer = cls(path, cluster_id, files, lock)
        try:
            writer._resume()
        except OSError as error:
            writer.close()
            raise explain(error, path, "archive") from error
        except BaseException:
            writer.close()
            raise
        return writer

    def _resume(self) -> None:
        found = runs(self.path, self._files)
        for run in found:
            for name in self._files.listdir(run.path):
                if name.endswith(PART_SUFFIX):
                    self._files.unlink(join(run.path, name))
        if not found:
            return
        newest = found[-1]
        self._files.fsync_dir(newest.path)  # a rename may have been seen before it was durable
        self.run = newest.number
        try:
            self._resume_bases(newest)
            self._resume_entries(newest)
        except CorruptionError as error:
            self.unusable = str(error)
            self._stand_at(Place(newest.last, 0), 0)  # by their names: so far it was archived, and cannot go on
        if not newest.bases and not newest.entries:
            self.unusable = f"run {newest.number} has no file"

    def _resume_bases(self, run: Run) -> None:
        if not run.bases:
            return
        base = base_info(self._files, run.bases[-1].path)
        self._check_cluster(base.origin.cluster_id, run.bases[-1].path)
        self.base_index, self.base_taken_ms = base.origin.index, base.origin.taken_ms
        first = base if len(run.bases) == 1 else base_info(self._files, run.bases[0].path)
        self._stand_at(Place(first.origin.index, first.origin.term), first.facts.stamp_ms)

    def _resume_entries(self, run: Run) -> None:
        if not run.entries:
            return
        header = header_of(self._files, run.entries[-1].path)
        self._check_cluster(header.cluster_id, run.entries[-1].path)
        self._chain = header.digest
        self._stand_at(Place(header.last, header.last_term), header.last_stamp_ms)

    def _check_cluster(self, cluster_id: str, path: str) -> None:
        if cluster_id != self.cluster_id:
            raise ArchiveError(
                f"{path} is of cluster {cluster_id!r}, this is cluster {self.cluster_id!r}; give it an archive of its own"
            )

    def _stand_at(self, place: Place, stamp_ms: int) -> None:
        self.archived = self.added = place
        self.stamp_ms = stamp_ms

    def begin_run(self, origin: Origin | None, read: Callable[[int, int], bytes], observer: Observer) -> None:
        """Begin a new run at the snapshot of ``origin``, given as to :func:`stream_backup`; None: at entry 1."""
        self._check_empty()
        empty = self.run and self._is_empty(self.run)
        self.run += 0 if empty else 1
        self._files.make_dir(self._directory)
        self.unusable, self._chain = "", NO_CHAIN
        self.base_index = self.base_taken_ms = 0
        self._stand_at(Place(0, 0), 0)
        if origin is not None:
            base = self.add_base(origin, read, observer)
            self._stand_at(Place(origin.index, origin.term), base.facts.stamp_ms)

    def add_base(self, origin: Origin, read: Callable[[int, int], bytes], observer: Observer) -> BackupInfo:
        """One more base within the run. Raises what :func:`save_backup` does."""
        name = f"{origin.index:020d}-{origin.term:020d}{BASE_SUFFIX}"
        info = save_backup(self._files, self._directory, join(self._directory, name), origin, read, observer)
        self.base_index, self.base_taken_ms = origin.index, origin.taken_ms
        return info

    def add(self, entries: Iterable[Archived]) -> None:
        """Take in what follows ``added``.

        Nothing is written. Raises ArchiveError, changing nothing, when it does not follow.
        """
        if not self.run or self.unusable:
            raise ArchiveError("a run has to be begun first")
        for entry in entries:
            at = self.added
            if entry.index != at.index + 1 or entry.term < at.term or entry.stamp_ms < self.stamp_ms:
                raise ArchiveError(f"entry {entry.index} of term {entry.term} does not follow {at.index} of {at.term}")
            if self._writer is None:
                self._writer = EntriesWriter(self.cluster_id, at.term, self._chain)
            self._writer.add(entry)
            self.added, self.stamp_ms = Place(entry.index, entry.term), entry.stamp_ms

    @property
    def open_bytes(self) -> int:
        """Taken in and not written, before compression."""
        return self._writer.raw_bytes if self._writer else 0

    def flush(self) -> int:
        """Make a durable file of what was taken in; its bytes. Raises OSError."""
        if self._writer is None:
            return 0
        header, content = self._writer.finish()
        path = join(self._directory, f"{header.first:020d}-{header.last:020d}{ENTRIES_SUFFIX}")
        part = path + PART_SUFFIX
        file = self._files.open(part, create=True)
        try:
            file.pwrite([content], 0)
            file.fdatasync()
        finally:
            file.close()
        self._files.rename(part, path)
        self._files.fsync_dir(self._directory)
        self._writer = None
        self._chain = header.digest
        self.archived = self.added
        return len(content)

    def close(self) -> None:
        """Give up what was not written, and the lock. Idempotent."""
        self._writer = None
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _directory(self) -> str:
        return join(self.path, f"{self.run:08d}")

    def _is_empty(self, number: int) -> bool:
        found = _run(self.path, f"{number:08d}", self._files)
        return not found.bases and not found.entries

    def _check_empty(self) -> None:
        if self._writer is not None:
            raise ArchiveError("entries were taken in that are not written yet")
