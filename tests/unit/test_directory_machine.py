"""Log and snapshots of one directory under every fault, in any order; and the machine finds bugs that are planted."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from chaos.matrix.cells import LostError
from chaos.matrix.plants import PLANTS, left_out, planted
from persistence import recovery, writer
from persistence.directory import DataDirectory
from persistence.errors import CorruptSnapshotError, PersistenceError
from persistence.files import join
from persistence.incoming import IncomingSnapshot
from persistence.records import TRUNCATE, HardState
from persistence.snapshot_file import Reader, SnapshotInfo
from persistence.writer import LogWriter
from tests.unit.directory_machine import DirectoryMachine

COMMON = settings(
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
DirectoryMachine.TestCase.settings = settings(COMMON, max_examples=200, derandomize=True)
TestDirectory = DirectoryMachine.TestCase


@pytest.mark.soak
def test_many_more_lives():
    run_state_machine_as_test(DirectoryMachine, settings=settings(COMMON, max_examples=20_000, print_blob=True))


# ------------------------------------------------------------------ it can fail
def in_place_of(owner, attribute, new):
    """For a ``with``: the product has this bug."""
    return partial(mock.patch.object, owner, attribute, new)


write_records = LogWriter.write
snapshot = DirectoryMachine.snapshot
begin_segment = writer.begin_segment


def hold_truncations_back(self, items, *, sync):
    """A truncation is written with what follows it, and counts at once."""
    items = [*getattr(self, "held_back", []), *items]
    kept = len(items)
    while kept and getattr(items[kept - 1], "kind", 0) == TRUNCATE:
        kept -= 1
    self.written -= len(getattr(self, "held_back", []))
    self.held_back = items[kept:]
    write_records(self, items[:kept], sync=sync)
    self.written += len(self.held_back)


def compact_first(self, share):
    """The log goes up to a snapshot that is not there yet."""
    meta = self.next_snapshot(share)
    if meta is not None and meta.index - 1 > self.log.first_index > 0:
        self.cut_log(meta.index - 1)
    snapshot(self, share)


def begin_segment_without_state(store, previous, state):
    return begin_segment(store, previous, replace(state, hard_state=HardState()))


def move_before_saying_so(self, new_disk_id, _notes):
    """Log and snapshots go first, and the old identity is left with nothing for a moment."""
    old, target = self.identity, join(self.path, self._next_aside())
    self._files.make_dir(target)
    for path in (self.log_path, self.snapshot_path):
        if self._files.exists(path):
            self._files.rename(path, join(target, path.rpartition("/")[2]))
    self._files.fsync_dir(target)
    self._files.fsync_dir(self.path)
    self._identify(old._replace(disk_id=new_disk_id, repairs=(*old.repairs, old.disk_id)))
    return target


def believe_what_is_whole(self, sink, limit):
    """A part of the right length is the file."""
    if self.is_whole or self.offset < self.total_bytes:
        return False
    with contextlib.suppress(CorruptSnapshotError):
        reader = Reader(self._file)
        self._info = SnapshotInfo(self.name, reader.meta, self.total_bytes, 0, self._seal)
    return False


BUGS = {
    "the rename of a snapshot is not synced": partial(left_out, "publish: syncdir snapshots"),
    "the rename of a new segment is not synced": partial(left_out, "roll: syncdir log"),
    "a snapshot gets its name before it is synced": partial(left_out, "snapshot: sync part"),
    "a segment is left behind without a sync": partial(left_out, "roll: sync segment"),
    **{
        PLANTS[name].mistake: partial(planted, PLANTS[name])
        for name in ("acknowledge-first", "count-without-sync", "believe-the-cache", "prune-first", "identity-in-place")
    },
    "a truncation counts before it is written": in_place_of(LogWriter, "write", hold_truncations_back),
    "the log is compacted before its snapshot is there": in_place_of(DirectoryMachine, "snapshot", compact_first),
    "a new segment forgets the vote": in_place_of(writer, "begin_segment", begin_segment_without_state),
    "a received snapshot is believed without its seal": in_place_of(IncomingSnapshot, "advance", believe_what_is_whole),
    "the directory is emptied under its old disk id": in_place_of(DataDirectory, "set_aside", move_before_saying_so),
    "damage is cut like a torn tail": in_place_of(recovery, "find_proof_of_damage", lambda *_: None),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug):
    search = settings(COMMON, max_examples=1000, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
    with BUGS[bug](), pytest.raises((LostError, PersistenceError, AssertionError)) as found:
        run_state_machine_as_test(DirectoryMachine, settings=search)
    print(f"\n{bug}: {found.value}")
