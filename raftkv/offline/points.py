"""A point in a cluster's history as a state in memory: out of a backup, an archive, a snapshot or a stopped node.

Entries go through the same :meth:`StateMachine.apply` as on every replica, so what comes out is what the replicas had.
Not compared on the way are the leader's digests (:mod:`raftkv.machine.audit`): with which interval they were
taken is a setting of that cluster. The keys of the whole state must fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

from persistence.archive import BaseFile, Place, Run, entries_after, header_of, runs
from persistence.backup import Backup, is_backup, show_time
from persistence.directory import IDENTITY, DataDirectory
from persistence.entries import Archived
from persistence.files import Files, OsFiles, join
from persistence.overlay import OverlayFiles
from persistence.points import DAMAGED_BASE, Range, ranges, route
from persistence.snapshots import SnapshotStore
from persistence.wal import Log
from raftkv.consensus.engine import REGULAR
from raftkv.consensus.survivor import examine
from raftkv.errors import InvariantError, RaftKVError
from raftkv.machine.batch import stamp_of
from raftkv.machine.machine import StateMachine
from raftkv.offline.backup import told
from raftkv.offline.state import load_snapshot

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS_DIGITS_MAX = 12
INDEX_DIGITS_MAX = 20
"""As in the names of files: an index has 64 bits."""
READ_ENTRIES = 256
"""Read from a log at a time."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which point is wanted; neither: the newest there is."""

    index: int | None = None
    stamp_ms: int | None = None
    """The last entry stamped at or before it."""

    def __post_init__(self) -> None:
        if self.index is not None and self.stamp_ms is not None:
            raise RaftKVError("an index and a time were given; give one of them")

    def __str__(self) -> str:
        if self.index is not None:
            return f"entry {self.index}"
        return "the newest point" if self.stamp_ms is None else show_time(self.stamp_ms)

    def includes(self, entry: Archived) -> bool:
        """Whether ``entry`` belongs to what is wanted."""
        if self.index is not None:
            return entry.index <= self.index
        return self.stamp_ms is None or entry.stamp_ms <= self.stamp_ms


NEWEST = Target()


@dataclass(slots=True)
class Point:
    """The state after entry ``index``."""

    source: str
    cluster_id: str
    """Empty when the source does not say (a bare snapshot file)."""
    index: int
    term: int
    machine: StateMachine
    note: str = ""
    """What whoever uses it should know."""


def parse_time(text: str) -> int:
    """Milliseconds since the Unix epoch of ``2026-11-21T14:03:07.25Z`` (any offset) or of seconds since the epoch.

    What is less than one counts for nothing: an entry stamped later is after that time. Raises RaftKVError, also for a
    time without an offset: whose noon it is must not be guessed.
    """
    whole, _, fraction = text.partition(".")
    if whole.isdecimal() and len(whole) <= SECONDS_DIGITS_MAX and (not fraction or fraction.isdecimal()):
        return int(whole) * 1000 + int(fraction[:3].ljust(3, "0"))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RaftKVError(f"{text!r} is no time; write 2026-11-21T14:03:07Z, or seconds since the epoch") from None
    if found.tzinfo is None:
        raise RaftKVError(
            f"{text!r} does not say of which zone; write {found.isoformat()}Z for UTC, or an offset such as +01:00"
        )
    return (found - EPOCH) // timedelta(milliseconds=1)


def parse_index(text: str) -> int | None:
    """The index that ``text`` is; None when it is something else. Raises RaftKVError for one that no log gets to."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > INDEX_DIGITS_MAX:
        raise RaftKVError(f"an index of {len(text)} digits: there is no such entry")
    return int(text)


def parse_point(text: str) -> tuple[str, Target]:
    """(path, point) of ``PATH``, ``PATH@index`` or ``PATH@time``; digits alone are an index. Raises RaftKVError."""
    path, at, point = text.rpartition("@")
    if not at:
        return text, NEWEST
    index = parse_index(point)
    if index is not None:
        return path, Target(index=index)
    return path, Target(stamp_ms=parse_time(point))


def load_point(text: str, files: Files | None = None) -> Point:
    """A backup, a snapshot file, the data directory of a stopped node, or an archive with or without ``@point``.

    Raises RaftKVError that says why there is no such state.
    """
    files = files or OsFiles()
    path, target = (text, NEWEST) if files.exists(text) else parse_point(text)
    with told(path):
        if files.exists(join(path, IDENTITY)):
            return _without_target(_of_node(path, files), target)
        if not _is_file(files, path):
            return of_archive(path, target, files)
        file = files.open_read(path)
        try:
            if is_backup(file):
                return _without_target(_of_backup(Backup(file), path), target)
        finally:
            file.close()
        loaded = load_snapshot(path, files)
        found = Point(path, "", loaded.meta.index, loaded.meta.term, loaded.machine)
        return _without_target(found, target)


def _is_file(files: Files, path: str) -> bool:
    try:
        files.listdir(path)
    except NotADirectoryError:
        return True
    return False


def _without_target(found: Point, target: Target) -> Point:
    if target != NEWEST:
        raise RaftKVError(f"{found.source} is one point; only an archive can be asked for {target}")
    return found


# ------------------------------------------------------------------ backups and archives
def of_backup(path: str, files: Files | None = None) -> Point:
    """The state in a backup. Raises RaftKVError."""
    files = files or OsFiles()
    with told(path):
        file = files.open_read(path)
        try:
            return _of_backup(Backup(file), path)
        finally:
            file.close()


def _of_backup(backup: Backup, path: str) -> Point:
    machine = StateMachine(digest_interval=0)
    try:
        machine.load(backup)
    except InvariantError as error:
        raise RaftKVError(f"{path}: {error.message}") from error
    origin = backup.origin
    return Point(path, origin.cluster_id, origin.index, origin.term, machine)


def of_archive(path: str, target: Target = NEWEST, files: Files | None = None) -> Point:
    """The state at a point of an archive, from its newest base before it on. Raises RaftKVError."""
    files = files or OsFiles()
    with told(path):
        way = route(path, files, to_index=target.index, to_ms=target.stamp_ms)
        start = _start(way.base, way.cluster_id, path, files)
        return _go_on(start, path, way.run, target, files)


def _start(base: BaseFile | None, cluster_id: str, path: str, files: Files) -> Point:
    if base is None:
        return Point(path, cluster_id, 0, 0, StateMachine(digest_interval=0))
    try:
        found = of_backup(base.path, files)
    except RaftKVError as error:
        raise RaftKVError(f"{error.message}; {DAMAGED_BASE}") from error
    if found.cluster_id != cluster_id:
        raise RaftKVError(f"{base.path} is of cluster {found.cluster_id!r}, the entries beside it of {cluster_id!r}")
    return found


def of_backup_and_archive(backup: str, archive: str, target: Target = NEWEST, files: Files | None = None) -> Point:
    """The state of a backup, and the entries of an archive after it. Raises RaftKVError."""
    files = files or OsFiles()
    with told(archive):
        found = ranges(archive, files)
    start = of_backup(backup, files)
    for one in found:
        if one.cluster_id != start.cluster_id:
            raise RaftKVError(
                f"{backup} is of cluster {start.cluster_id!r}, {archive} of {one.cluster_id!r}: they do not go together"
            )
    early = target.index is not None and target.index < start.index
    early = early or (target.stamp_ms is not None and target.stamp_ms < start.machine.stamp_ms)
    if early:
        raise RaftKVError(
            f"{target} is before {backup}, which is of entry {start.index} ({show_time(start.machine.stamp_ms)}); take an older "
            "backup, or the archive alone"
        )
    if target.index == start.index:
        return start
    return _go_on(start, archive, _run_after(start, archive, found, target, files), target, files)


def _run_after(start: Point, archive: str, found: list[Range], target: Target, files: Files) -> Run:
    """The newest run that goes on from ``start`` and has the target.

    Raises RaftKVError when there is a gap before it.
    """
    known = {one.run.number: one for one in found}
    held = "; ".join(map(str, found)) or "nothing"
    everything = runs(archive, files)
    for run in reversed(everything):
        if not run.entries or not run.entries[0].first <= start.index + 1 <= run.last:
            continue
        if target.index is not None and target.index > run.last:
            continue
        if target.stamp_ms is not None:
            one = known.get(run.number) or header_of(files, run.entries[-1].path)  # no point of its own without a base
            if target.stamp_ms > one.last_stamp_ms:
                continue
        if target == NEWEST and any(later.last > run.last for later in everything if later.number > run.number):
            raise RaftKVError(
                f"{archive} has a gap after entry {run.last}, which {start.source} does not lead over; it holds {held}. "
                f"--to-index {run.last} stops before the gap; {archive} without {start.source} gets to the newest point"
            )
        return run
    newer = f"; {start.source} is as new as all of it: restore it without --archive"
    hint = newer if all(run.last <= start.index for run in everything) else ""
    raise RaftKVError(f"{archive} does not lead from entry {start.index} to {target}; it holds {held}{hint}")


def _go_on(start: Point, path: str, run: Run, target: Target, files: Files) -> Point:
    with told(path):
        entries = entries_after(files, run, Place(start.index, start.term), start.cluster_id)
        return _apply(start, path, entries, target)


def _apply(start: Point, source: str, entries: Iterator[Archived], target: Target) -> Point:
    machine, index, term = start.machine, start.index, start.term
    for entry in entries:
        if not target.includes(entry):
            if not machine.stamp_ms and target.stamp_ms is not None:
                raise RaftKVError(
                    f"{target} is before {source}, whose first entry with a time is of {show_time(entry.stamp_ms)}"
                )
            break
        index, term = entry.index, entry.term
        if entry.payload[:1] == bytes([REGULAR]):
            try:
                machine.apply(index, entry.payload)
            except InvariantError as error:
                raise RaftKVError(f"{source}, entry {index}: {error.message}") from error
    if not index or (target.index is not None and index != target.index):
        raise RaftKVError(f"{source} ends with entry {index}, {target} was asked for")
    return Point(source, start.cluster_id, index, term, machine, start.note)


# ------------------------------------------------------------------ a stopped node
def _of_node(path: str, files: Files) -> Point:
    with DataDirectory.open_stopped(path, files) as directory:
        if lost := directory.lost_log:
            raise RaftKVError(
                f"{directory.log_path}: {lost}; what is left is the snapshots in {directory.snapshot_path}, each a point by itself"
            )
        layer = OverlayFiles(files)
        try:
            newest = (store := SnapshotStore(directory.snapshot_path, layer)).newest()
            with Log.open(directory.log_path, files=layer) as log:
                holding = examine(log, newest.meta if newest else None)
                machine = StateMachine(digest_interval=0)
                start = Point(path, directory.identity.cluster_id, 0, 0, machine)
                if newest is not None:
                    machine.load(store.read(newest))
                    start.index, start.term = newest.index, newest.term
                if holding.last_index > start.index:
                    start.note = (
                        f"entries {start.index + 1} to {holding.last_index} of {path} are taken as they stand in its log: the "
                        "last ones may never have been committed"
                    )
                    return _apply(start, path, _of_log(log, start.index + 1), NEWEST)
                if not start.index:
                    raise RaftKVError(f"{path} holds no entry and no snapshot")
                return start
        finally:
            layer.close()


def _of_log(log: Log, first: int) -> Iterator[Archived]:
    slices = (log.entries(low, READ_ENTRIES) for low in range(first, log.last_index + 1, READ_ENTRIES))
    for payload, index, term in chain.from_iterable(slices):
        yield Archived(index, term, stamp_of(payload) if payload[:1] == bytes([REGULAR]) else 0, payload)
