"""The points of an archive that can be restored: which there are, and from which base each is reached.

Also whether all of an archive verifies, and which of its files are not needed any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from persistence.archive import BaseFile, Place, Run, base_info, entries_after, header_of, runs
from persistence.backup import Backup, BackupInfo, show_time
from persistence.errors import (
    ArchiveError,
    CorruptArchiveError,
    CorruptBackupError,
    CorruptionError,
    CorruptSnapshotError,
)
from persistence.files import Files

DAMAGED_BASE = "move it out of the archive, and the base before it, or entry 1, takes its place if there is one"
"""What to do about one."""


@dataclass(frozen=True, slots=True)
class Range:
    """From where to where a run can be restored. Stamps are ms since the Unix epoch."""

    run: Run
    cluster_id: str
    first: int
    first_stamp_ms: int
    last: int
    last_stamp_ms: int

    def __str__(self) -> str:
        return (
            f"entries {self.first} to {self.last} ({show_time(self.first_stamp_ms)} to {show_time(self.last_stamp_ms)})"
        )


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to a point: load ``base`` (None: begin with nothing), then apply the entries of ``run`` after it."""

    run: Run
    cluster_id: str
    base: BaseFile | None


def ranges(path: str, files: Files) -> list[Range]:
    """One for each run that has a point, oldest first. Raises ArchiveError, CorruptionError, OSError."""
    return [found for run in runs(path, files) if (found := _range(run, files)) is not None]


def _range(run: Run, files: Files) -> Range | None:
    if not run.first:
        return None
    bases = [_info(files, one.path) for one in (run.bases[0], run.bases[-1])] if run.bases else []
    headers = [header_of(files, one.path) for one in (run.entries[0], run.entries[-1])] if run.entries else []
    ends = [(one.origin.index, one.facts.stamp_ms) for one in bases] + [
        (one.last, one.last_stamp_ms) for one in headers
    ]
    begin = (1, headers[0].first_stamp_ms) if headers and run.first == 1 else (run.first, bases[0].facts.stamp_ms)
    cluster_id = headers[0].cluster_id if headers else bases[0].origin.cluster_id
    last, last_stamp_ms = max(ends)
    return Range(run, cluster_id, *begin, last, last_stamp_ms)


def _info(files: Files, path: str) -> BackupInfo:
    try:
        return base_info(files, path)
    except (CorruptBackupError, CorruptSnapshotError) as error:
        raise CorruptBackupError(error.path, error.offset, f"{error.reason}; {DAMAGED_BASE}") from error


def route(path: str, files: Files, *, to_index: int | None = None, to_ms: int | None = None) -> Route:
    """To entry ``to_index``, to the last entry stamped at or before ``to_ms``, or to the newest point there is.

    Where two runs have the point the newer one counts: its entries are those that the cluster went on with.
    Raises ArchiveError that says what the archive has when it has not that.
    """
    found = ranges(path, files)
    if not found:
        raise ArchiveError(f"{path} holds no point to go back to: neither a base nor entry 1")
    _refuse_two_clusters(path, found)
    if to_index is None and to_ms is None:
        _refuse_lost_run(path, found, runs(path, files)[-1])
    for one in reversed(found):
        at_index = to_index is None or one.first <= to_index <= one.last
        at_time = to_ms is None or one.first_stamp_ms <= to_ms <= one.last_stamp_ms
        if at_index and at_time:
            return Route(one.run, one.cluster_id, _base(one.run, files, to_index, to_ms))
    wanted = f"entry {to_index}" if to_index is not None else show_time(to_ms or 0)
    raise ArchiveError(f"{wanted} is not in {path}, which holds {'; '.join(map(str, found))}")


def _refuse_two_clusters(path: str, found: list[Range]) -> None:
    for one in found:
        if one.cluster_id != found[0].cluster_id:
            raise ArchiveError(
                f"{path} holds two archives: run {found[0].run.number} is of cluster {found[0].cluster_id!r}, run {one.run.number} "
                f"of {one.cluster_id!r}: keep them apart"
            )


def _refuse_lost_run(path: str, found: list[Range], newest: Run) -> None:
    """Its entries are newer than any point there is: nobody may take that for the newest there was."""
    if newest.number > found[-1].run.number and newest.entries:
        raise ArchiveError(
            f"run {newest.number} of {path} has entries {newest.entries[0].first} to {newest.last} and no base to begin with: say "
            f"which point is wanted. It holds {'; '.join(map(str, found))}"
        )


def _base(run: Run, files: Files, to_index: int | None, to_ms: int | None) -> BaseFile | None:
    """The newest that is not after the point."""
    for one in reversed(run.bases):
        if to_index is not None and one.index > to_index:
            continue
        if to_ms is not None and _info(files, one.path).facts.stamp_ms > to_ms:
            continue
        return one
    return None


def verify(path: str, files: Files) -> Iterator[tuple[str, str]]:
    """Read everything: (path, what is wrong) for each thing that is; nothing when the archive can be relied on."""
    cluster_id = ""
    for run in runs(path, files):
        start = Place(0, 0)
        for base in run.bases:
            try:
                found = _verify_base(base, files)
            except (CorruptionError, OSError) as error:
                yield base.path, str(error)
            else:
                cluster_id = cluster_id or found
                if found != cluster_id:
                    yield base.path, f"it is of cluster {found!r}, not of {cluster_id!r}"
        if run.bases and not (run.entries and run.entries[0].first == 1):
            start = Place(run.bases[0].index, run.bases[0].term)
        if run.entries:
            cluster_id = cluster_id or _cluster_of(run, files)
            yield from _verify_entries(run, start, cluster_id, files)


def _cluster_of(run: Run, files: Files) -> str:
    """By the first file of entries; empty when that is damaged."""
    try:
        return header_of(files, run.entries[0].path).cluster_id
    except (CorruptionError, OSError):
        return ""


def _verify_base(base: BaseFile, files: Files) -> str:
    file = files.open_read(base.path)
    try:
        backup = Backup(file)
        for _ in backup:
            pass
    finally:
        file.close()
    if (backup.origin.index, backup.origin.term) != (base.index, base.term):
        raise CorruptArchiveError(base.path, 0, f"it holds the state after entry {backup.origin.index}")
    return backup.origin.cluster_id


def _verify_entries(run: Run, start: Place, cluster_id: str, files: Files) -> Iterator[tuple[str, str]]:
    try:
        terms = {base.index: base.term for base in run.bases}
        for entry in entries_after(files, run, start, cluster_id):
            if terms.get(entry.index, entry.term) != entry.term:
                yield run.path, f"the base of entry {entry.index} is of another history than the entries"
    except (ArchiveError, CorruptionError, OSError) as error:
        yield run.path, str(error)


def prune(path: str, files: Files, *, from_index: int | None = None, from_ms: int | None = None) -> list[str]:
    """Delete what no point at or after ``from_index``, or stamped ``from_ms`` or later, needs.

    Deletes oldest first, so that a crash leaves an archive that begins later. Returns the paths; the newest base,
    and what follows it, always stays. Raises CorruptionError when the base that everything would rest on does not
    verify: then nothing is deleted.
    """
    found = ranges(path, files)
    _refuse_two_clusters(path, found)
    needed = [one for one in found if one.last >= (from_index or 0) and one.last_stamp_ms >= (from_ms or 0)]
    needed = needed or found[-1:]
    if not needed:
        return []
    oldest = needed[0].run
    base = _base(oldest, files, from_index, from_ms)
    if base is not None:
        _verify_base(base, files)
    gone: list[str] = []
    for run in runs(path, files):
        if run.number < oldest.number:
            gone += [*(one.path for one in run.bases), *(one.path for one in run.entries)]
        elif run.number == oldest.number and base is not None:
            gone += [one.path for one in run.bases if one.index < base.index]
            gone += [one.path for one in run.entries if one.last <= base.index]
    for one in gone:
        files.unlink(one)
        files.fsync_dir(one.rpartition("/")[0])  # one by one: whatever a power cut leaves is a row without a gap
    return gone
