"""Bugs, one at a time, that the matrix must find: it must be able to fail.

Most are made by leaving out one sync: for each failpoint that is one, the disk does nothing there
(:func:`left_out`). That no cell is lost then would mean that the sync is of no use, or that the matrix is blind;
those of which the first is true are in :data:`OF_NO_USE_ALONE`, with the reason. The others, in :data:`PLANTS`,
are mistakes of order and of trust, as people make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from chaos.disk import Call
from chaos.matrix.faults import CellDisk
from chaos.matrix.sites import called_from, name_of
from persistence import directory
from persistence.directory import DataDirectory
from persistence.files import join
from persistence.recovery import Tail
from persistence.segment import Segment
from persistence.snapshots import SnapshotStore
from persistence.wal import Log
from persistence.writer import LogWriter

OF_NO_USE_ALONE: Final = {
    "close: sync segment": "the mark of a clean stop only tells damage in the last round from a torn write",
    "set aside: syncdir damaged-1": "what is set aside is kept to be looked at; the node gets everything from the others",
    "open stopped directory: syncdir n1": "whoever changes a stopped node's directory writes its identity anew, and syncs",
}
"""Failpoint: why nothing is lost without this sync."""


@dataclass(frozen=True, slots=True)
class Plant:
    """The mistake, the scenario in which it is found, and what is in the place of what."""

    mistake: str
    scenario: str
    owner: Any
    attribute: str
    replacement: Callable[..., Any]


@contextmanager
def left_out(name: str) -> Iterator[None]:
    """Inside, the syncs at the failpoint of this name do nothing."""

    def lies(call: Call) -> bool:
        return name_of(called_from(), call) == name

    with mock.patch.object(CellDisk, "is_lying", lambda _self, call: lies(call)):
        yield


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """Inside, the product has this bug."""
    with mock.patch.object(plant.owner, plant.attribute, plant.replacement):
        yield


# -- the log
_write_and_sync = Log._write_and_sync


def _acknowledge_first(self: Any, items: list[Any]) -> None:
    self._writer.written += len(items)
    self._durable = (self._writer.written, self.last_index)
    self._writer.written -= len(items)
    _write_and_sync(self, items)


def _count_without_sync(self: Any) -> None:
    self._unsynced = False
    self._round_start = self._offset
    self.must_sync = False


def _believe_the_cache(self: Tail, segment: Segment) -> int:
    return self.cut_bytes(segment.end)


def _retire_unsynced(self: Any) -> None:
    while len(self.segments) > 1 and self.segments[0].number < self.state.first_segment:
        self._spares.retire(self.segments.pop(0).file)
    self._deletable = False


def _write_and_retire(self: Any, items: Any, *, sync: bool) -> None:
    _write(self, items, sync=False)
    _retire_unsynced(self)
    if sync:
        self.sync()


_write = LogWriter.write


# -- snapshots
_publish = SnapshotStore.publish


def _prune_first(self: Any, path: str, info: Any) -> None:
    for name in self._names():
        self.files.unlink(join(self.directory, name))
    _publish(self, path, info)


# -- the directory
def _write_in_place(path: str, identity: Any, files: Any) -> None:
    file = files.open(join(path, directory.IDENTITY), create=True)
    file.pwrite([directory._encode_identity(identity)], 0)
    file.fdatasync()
    file.close()
    files.fsync_dir(path)


def _move_in_memory(self: Any, cluster_id: str, disk_id: str) -> None:
    self.identity = self.identity._replace(disk_id=disk_id, next_cluster_id=cluster_id)


_set_aside = DataDirectory.set_aside


def _set_aside_and_keep_the_mark(self: Any, new_disk_id: str, notes: bytes) -> str:
    path = _set_aside(self, new_disk_id, notes)
    self._identify(self.identity._replace(log_id="77"))
    return path


PLANTS: Final = {
    "acknowledge-first": Plant(
        "entries count as durable before they are written", "log", Log, "_write_and_sync", _acknowledge_first
    ),
    "count-without-sync": Plant(
        "a round of group commit counts without its sync", "log", LogWriter, "sync", _count_without_sync
    ),
    "believe-the-cache": Plant(
        "after a failed sync the tail is believed as the cache shows it",
        "log",
        Tail,
        "settle",
        _believe_the_cache,
    ),
    "retire-unsynced": Plant(
        "segments are given up before it is durable that nobody needs them",
        "log",
        LogWriter,
        "write",
        _write_and_retire,
    ),
    "prune-first": Plant(
        "older snapshots are deleted before the new one is there", "snapshots", SnapshotStore, "publish", _prune_first
    ),
    "identity-in-place": Plant(
        "the identity is written over itself", "directory", directory, "_write_identity", _write_in_place
    ),
    "mark-outlives-log": Plant(
        "a log is set aside, and the identity says that there is one",
        "set aside",
        DataDirectory,
        "set_aside",
        _set_aside_and_keep_the_mark,
    ),
    "move-in-memory": Plant(
        "the log is changed before the directory says that it is on its way to another cluster",
        "move",
        DataDirectory,
        "begin_move",
        _move_in_memory,
    ),
}
