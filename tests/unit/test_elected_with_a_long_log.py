"""A leader elected with many entries of earlier terms commits them with its first own one, without reading each."""

from __future__ import annotations

import types
from random import Random

import pytest

from chaos.disk import Disk
from persistence.snapshots import SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.core import Timing
from raftkv.consensus.replica import Compaction, Replica

ENTRIES = 5000


class Counted(Log):
    reads = 0

    def entry(self, index):
        self.reads += 1
        return super().entry(index)

    def entries(self, low, count, bytes_max=1 << 60):
        found = super().entries(low, count, bytes_max)
        self.reads += len(found)
        return found

    def request_sync(self):
        self.sync()


class Machine:
    applied = 0

    def apply(self, _index, _entry):
        self.applied += 1

    dump = load = stage = adopt = None
    """Nobody takes a snapshot here."""


@pytest.fixture
def replica():
    disk = Disk(Random(1))
    disk.make_dir("data")
    log = Counted.open("data/log", LogOptions(segment_bytes=1 << 20, preallocate=False), disk)
    log.set_hard_state(1, None)
    for index in range(1, ENTRIES + 1):
        log.append(index, 1, b"\0entry")
    log.sync()
    now = [100.0]
    made = Replica(
        "n1", Configuration.of([Member("n1", "x:1")]), log=log, store=SnapshotStore("data/snapshots", disk),
        writer=types.SimpleNamespace(running=False, poll=lambda: None), machine=Machine(),
        wire=types.SimpleNamespace(send=lambda *_: False), monotonic=lambda: now[0], wall_ms=lambda: 1, rng=Random(1),
        timing=Timing(), compaction=Compaction(), snapshot_file=__file__,
    )  # fmt: skip
    log.reads = 0
    made.now = now
    return made


def test_each_entry_is_read_once_to_apply_it(replica):
    log, machine = replica.core.log, replica.machine
    most = 0
    for _ in range(1000):
        before = log.reads
        replica.now[0] += 0.01
        replica.tick()
        most = max(most, log.reads - before)
    assert (replica.core.applied, replica.core.halted) == (log.last_index, "")
    assert machine.applied == ENTRIES - 1  # the engine takes a log's first entry for its own no-op
    assert log.reads < ENTRIES * 1.2
    assert most < 200  # a tick is short, the one in which the leader is elected too
