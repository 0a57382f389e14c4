"""The archiver beside a node: everything applied gets into the archive, and nothing that its disk does reaches the node."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest

from chaos.disk import Disk
from persistence.archive import Place, entries_after, runs
from persistence.files import join
from persistence.points import ranges, verify
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log
from raftkv.config import Settings
from raftkv.errors import RaftKVError
from raftkv.machine.batch import PLAIN, Group, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.replicator import OpenSnapshot
from raftkv.server import archiver as module
from raftkv.server.archiver import RETRY_S_MAX, Archiver, Options, make_archiver

OPTIONS = Options("/archive", file_bytes=2000, file_s=10.0, base_s=3600.0)


class Reports:
    def __init__(self):
        self.lines = []

    def _note(self, event, **fields):
        self.lines.append((event, fields))

    info = warning = error = _note

    def said(self, word):
        return [fields for event, fields in self.lines if word in event]


class Node:
    """A log on a disk of its own, of which all is applied, and snapshots of it."""

    def __init__(self):
        self.disk = Disk()
        self.log = Log.open("/log", files=self.disk)
        self.machine = StateMachine(digest_interval=0)
        self.snapshots = SnapshotStore("/snapshots", self.disk)
        self.applied = 0
        self.term = 1
        self.newest = None
        self.snapshot_error = None

    def write(self, count, size=20):
        for _ in range(count):
            index = self.log.last_index + 1 if self.log.last_index else self.applied + 1
            value = random.Random(index).randbytes(size)
            command = b"*3\r\n$3\r\nSET\r\n$%d\r\nk%d\r\n$%d\r\n%s\r\n" % (
                len(b"k%d" % index),
                index,
                len(value),
                value,
            )
            payload = header(1000 * index) + encode_group(Group(PLAIN, 0, 1, command))
            if index % 7 == 0:
                payload = b"\x01"
            else:
                self.machine.apply(index, payload)
            self.log.append(index, self.term, payload)
            self.applied = index

    def entries(self, low=1, high=10**9):
        return [(payload, index, term) for payload, index, term in self.log.entries(low, high) if index <= high]

    def take_snapshot(self, done):
        if self.snapshot_error is not None:
            done(0, self.snapshot_error)
            return
        writer = self.snapshots.begin(SnapshotMeta(self.applied, self.term, b"x"))
        for chunk in self.machine.dump():
            writer.write(chunk)
        self.newest = writer.commit()
        done(self.applied, None)

    def open_snapshot(self):
        if self.newest is None:
            return None
        return OpenSnapshot(
            self.newest.index, self.newest.term, self.newest.size_bytes, self.snapshots.open(self.newest)
        )


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now

    def wall_ms(self):
        return 1_700_000_000_000 + int(self.now * 1000)


class Bench:
    """An archiver whose loop is this thread: :meth:`settle` lets everything happen that is due."""

    def __init__(self, node=None, disk=None, options=OPTIONS):
        self.node = node or Node()
        self.disk = disk or Disk()
        self.clock = Clock()
        self.reports = Reports()
        self.calls = []
        self.came = threading.Condition()
        self.archiver = Archiver(
            self.node, options, cluster_id="c1", node_id="n1", clock=self.clock, report=self.reports,
            call_soon_threadsafe=self.soon, files=self.disk,
        )  # fmt: skip

    @property
    def state(self):
        return self.archiver.state

    def soon(self, call):
        with self.came:
            self.calls.append(call)
            self.came.notify()

    def settle(self, seconds=0.0):
        """Pass time, and step until nothing is under way and nothing is due."""
        self.clock.now += seconds
        while True:
            self.archiver.step()
            if not self.archiver._busy:
                return
            with self.came:
                assert self.came.wait_for(lambda: self.calls, 20), "the thread does not answer"
                calls, self.calls = self.calls, []
            for call in calls:
                call()

    def archived(self, start=None, number=-1):
        run = runs("/archive", self.disk)[number]
        place = start or Place(0, 0)
        return [(one.payload, one.index, one.term) for one in entries_after(self.disk, run, place, "c1")]

    def crash(self, seed=0):
        """The node dies; its archiver with it. Another one on the same disk, with the same log."""
        self.archiver._jobs.put(None)
        self.disk.power_cut(seed)
        return Bench(self.node, self.disk)


def test_everything_applied_is_archived_in_order():
    bench = Bench()
    bench.node.write(5)
    bench.settle()
    assert bench.archived() == [], "a file is closed when it is full, or old"
    assert bench.state.behind_since == 100.0
    bench.settle(10)
    assert bench.archived() == bench.node.entries()
    assert (bench.state.index, bench.state.run, bench.state.behind_since) == (5, 1, None)
    bench.node.write(300)
    bench.settle()
    assert bench.state.files > 1
    bench.settle(10)
    assert bench.archived() == bench.node.entries()
    assert list(verify("/archive", bench.disk)) == []
    (found,) = ranges("/archive", bench.disk)
    assert (found.first, found.last, found.first_stamp_ms, found.last_stamp_ms) == (1, 305, 1000, 305_000)


def test_nothing_that_is_not_applied_is_archived():
    bench = Bench()
    bench.node.write(10)
    bench.node.applied = 7
    bench.settle(0)
    bench.settle(10)
    assert bench.archived() == bench.node.entries(1, 7)


def test_large_entries_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(module, "SLICE_BYTES", 10_000)
    bench = Bench()
    bench.node.write(40, size=3000)
    bench.settle()
    bench.settle(10)
    assert bench.archived() == bench.node.entries()


def test_it_goes_on_after_a_restart_where_it_was():
    bench = Bench()
    bench.node.write(100)
    bench.settle()
    bench.node.write(10)
    bench.settle()
    assert bench.state.index == 100
    bench = bench.crash()
    bench.node.write(50)
    bench.settle()
    bench.settle(10)
    assert bench.archived() == bench.node.entries()
    assert len(runs("/archive", bench.disk)) == 1
    assert not bench.reports.said("GAP")


@pytest.mark.parametrize("seed", range(12))
def test_power_cuts_at_any_time_make_no_gap(seed):
    rng = random.Random(seed)
    bench = Bench()
    for turn in range(6):
        bench.node.write(rng.randrange(1, 60))
        bench.disk.arm(rng.randrange(1, 12), errno.EIO)
        bench.settle()
        bench.settle(10)
        bench.disk.disarm()
        bench = bench.crash(seed * 10 + turn)
        bench.disk.rng = rng
    bench.settle()
    bench.settle(10)
    assert bench.archived() == bench.node.entries()
    assert list(verify("/archive", bench.disk)) == []


def test_the_log_keeps_what_is_not_archived():
    bench = Bench()
    assert bench.archiver.first_needed() == 1, "not known yet"
    bench.node.write(100)
    bench.settle()
    bench.node.write(10)
    bench.settle()
    assert bench.archiver.first_needed() == 100
    bench.settle(10)
    assert bench.archiver.first_needed() == 110


def test_a_gap_is_told_and_a_new_run_begins_with_a_base_of_now():
    bench = Bench()
    bench.node.write(30)
    bench.settle()
    bench.settle(10)
    bench.node.write(30)
    bench.node.take_snapshot(lambda *_: None)
    bench.node.write(5)
    bench.node.log.compact_to(59)
    bench.settle()
    bench.settle(10)
    (gap,) = bench.reports.said("GAP")
    assert gap["reason"] == "entries 31 to 58 left the log before they were archived"
    assert bench.state.gaps == 1
    assert [(one.first, one.last) for one in ranges("/archive", bench.disk)] == [(1, 30), (60, 65)]
    assert bench.archived(Place(60, 1)) == bench.node.entries(61)
    assert list(verify("/archive", bench.disk)) == []
    assert bench.crash().state.gaps == 0


def test_another_history_begins_a_new_run():
    """With fsync=no a power cut may take what was applied and archived; the cluster goes on without it."""
    bench = Bench()
    bench.node.write(30)
    bench.settle()
    bench.settle(10)
    bench = bench.crash()
    node = Node()
    node.write(20)
    node.take_snapshot(lambda *_: None)
    bench.archiver._jobs.put(None)
    bench = Bench(node, bench.disk)
    bench.settle()
    assert not bench.reports.said("GAP"), "behind its own archive a node may just be catching up"
    node.term = 2
    node.write(15)
    bench.settle()
    bench.settle(10)
    assert bench.reports.said("GAP")[0]["reason"].startswith("entry 30 is of term 2 now, archived was one of term 1")
    assert bench.archived(Place(20, 1)) == node.entries(21)


@pytest.mark.parametrize("which", ["entries", "bases"])
def test_a_run_that_cannot_go_on_because_it_is_damaged_is_a_gap(which):
    node = Node()
    if which == "bases":
        node.write(50)
        node.log.compact_to(40)
    bench = Bench(node)
    node.write(30)
    bench.settle()
    bench.settle(10)
    last = node.applied
    damaged = getattr(runs("/archive", bench.disk)[-1], which)[-1].path
    bench.disk.flip(damaged, 30)
    bench = bench.crash()
    node.write(5)
    bench.settle()
    bench.settle(10)
    (gap,) = bench.reports.said("GAP")
    assert damaged in gap["reason"]
    assert (gap["archived"], bench.state.gaps) == (last, 1)
    assert len(runs("/archive", bench.disk)) == 2


def test_an_archive_that_is_empty_all_at_once_is_a_gap():
    """As when its file system is not mounted any more: the directory below it takes what comes."""
    bench = Bench()
    bench.node.write(30)
    bench.settle()
    bench.settle(10)
    for name in [name for name in bench.disk.names if name.startswith("/archive/0")]:
        bench.disk.unlink(name)
    bench.disk.dirs.discard("/archive/00000001")
    bench.disk.arm(1, errno.EIO)
    bench.node.write(10)
    bench.settle()
    bench.settle(10)
    bench.disk.disarm()
    for _ in range(3):
        bench.settle(20)
    (gap,) = bench.reports.said("GAP")
    assert "is its file system mounted?" in gap["reason"]
    assert (gap["archived"], bench.state.gaps) == (30, 1)
    assert bench.state.index == 40


def test_a_log_that_begins_late_begins_with_a_snapshot_of_now():
    node = Node()
    node.write(50)
    node.log.compact_to(40)
    bench = Bench(node)
    bench.settle()
    bench.settle(10)
    assert [(one.first, one.last) for one in ranges("/archive", bench.disk)] == [(50, 50)]
    node.write(3)
    bench.settle()
    bench.settle(10)
    assert bench.archived(Place(50, 1)) == node.entries(51)
    assert not bench.reports.said("GAP")


def test_bases_are_taken_every_so_often_and_only_when_something_changed():
    bench = Bench()
    bench.node.write(20)
    bench.settle()
    bench.settle(10)
    assert bench.state.base_index == 0, "it begins with entry 1: there is no hurry"
    bench.node.take_snapshot(lambda *_: None)
    bench.settle()
    assert bench.state.base_index == 20
    bench.settle(OPTIONS.base_s + 1)
    assert bench.state.base_index == 20
    bench.node.write(5)
    bench.settle()  # asks for a snapshot
    bench.settle()
    assert bench.state.base_index == 25
    bench.node.write(5)
    bench.settle()
    bench.settle(10)
    assert bench.state.base_index == 25
    bench = bench.crash()
    bench.settle(20)
    assert bench.state.base_index == 25
    assert list(verify("/archive", bench.disk)) == []
    assert [one.index for one in runs("/archive", bench.disk)[0].bases] == [20, 25]


@pytest.mark.parametrize("fault", ["full", "read_only"])
def test_a_broken_disk_is_told_once_and_tried_again_less_and_less_often(fault):
    bench = Bench()
    bench.node.write(5)
    bench.settle()
    setattr(bench.disk, fault, True)
    tries = []
    for _ in range(300):
        before = bench.state.failures
        bench.settle(1)
        if bench.state.failures > before:
            tries.append(bench.clock.now)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert 5 <= len(tries) <= 12
    assert max(pauses) <= RETRY_S_MAX + 1
    assert pauses == sorted(pauses)
    assert len(bench.reports.said("archive failed")) <= 6
    assert bench.state.error.startswith("cannot use archive /archive: the ")
    assert bench.state.behind_since is not None
    assert bench.archiver.first_needed() == 1
    setattr(bench.disk, fault, False)
    bench.settle(RETRY_S_MAX + 1)
    bench.settle(10)
    assert bench.archived() == bench.node.entries()
    assert bench.state.error == ""
    assert bench.reports.said("works again")


def test_an_archive_that_never_worked_lags_from_the_start():
    bench = Bench()
    bench.disk.read_only = True
    bench.node.write(5)
    bench.settle()
    bench.settle(30)
    assert bench.state.error.startswith("cannot use archive /archive: the file system is read-only")
    assert bench.state.lag_s(bench.clock.now) == 30


def test_another_clusters_archive_is_left_alone():
    bench = Bench()
    bench.node.write(5)
    bench.settle()
    bench.settle(10)
    bench.crash()
    names = {name: bytes(inode.content) for name, inode in bench.disk.names.items() if name != join("/archive", "lock")}
    other = Archiver(
        bench.node, OPTIONS, cluster_id="c2", node_id="n1", clock=bench.clock, report=bench.reports,
        call_soon_threadsafe=bench.soon, files=bench.disk,
    )  # fmt: skip
    bench.archiver = other
    bench.settle()
    assert "is of cluster 'c1', this is cluster 'c2'" in other.state.error
    after = {name: bytes(inode.content) for name, inode in bench.disk.names.items() if name != join("/archive", "lock")}
    assert after == names


def test_a_snapshot_that_cannot_be_taken_is_a_failure_like_others():
    node = Node()
    node.write(50)
    node.log.compact_to(40)
    node.snapshot_error = RaftKVError("no space for a snapshot")
    bench = Bench(node)
    bench.settle()
    bench.settle(0.5)
    assert bench.state.failures == 1
    assert "no space" in bench.state.error
    node.snapshot_error = None
    bench.settle(2)
    bench.settle(10)
    assert bench.state.error == ""
    assert bench.state.index == 50


def test_a_log_that_cannot_be_read_does_not_get_out():
    bench = Bench()
    bench.node.write(5)
    bench.settle()
    bench.node.log = SimpleNamespace(first_index=1)
    bench.settle(10)
    assert "AttributeError" in bench.state.error


def stop(bench):
    async def scene():
        loop = asyncio.get_running_loop()
        bench.archiver._call_soon = loop.call_soon_threadsafe
        await bench.archiver.stop()

    asyncio.run(scene())


def test_a_stop_writes_what_was_taken_in():
    bench = Bench()
    bench.node.write(5)
    bench.settle()
    stop(bench)
    assert bench.archived() == bench.node.entries()
    bench.archiver._thread.join(10)
    assert not bench.archiver._thread.is_alive()
    assert bench.disk.locks == {}


def test_a_disk_that_hangs_holds_up_neither_the_node_nor_its_end(monkeypatch):
    monkeypatch.setattr(module, "STOP_S", 0.05)
    bench = Bench()
    gate = threading.Event()
    bench.node.write(5)
    bench.settle()
    bench.disk.on_call = lambda _call: gate.wait(20)
    bench.clock.now += 10
    bench.archiver.step()
    bench.node.write(5)
    bench.archiver.step()
    assert bench.state.behind_since is not None
    stop(bench)
    assert bench.reports.said("does not answer")
    gate.set()


def test_the_nodes_log_keeps_what_the_archive_lacks(tmp_path):
    held = {}
    retention = SimpleNamespace(hold=lambda name, needed, limit: held.update({name: (needed, limit)}))
    node = Node()
    node.write(5)
    core = SimpleNamespace(log=node.log, applied=5)
    raft = SimpleNamespace(
        replica=SimpleNamespace(core=core, retention=retention),
        open_snapshot=node.open_snapshot,
        take_snapshot=node.take_snapshot,
    )
    wanted = Settings(archive_dir=tmp_path / "a", archive_retain_bytes=123_456, archive_file_s=7)
    assert make_archiver(Settings(), raft, Clock(), Reports(), lambda _: None) is None
    assert held == {}
    made = make_archiver(wanted, raft, Clock(), Reports(), lambda _: None)
    assert held["archive"] == (made.first_needed, 123_456)
    assert (made._source.applied, made._source.log) == (5, node.log)
    assert made._options == Options(str(tmp_path / "a"), wanted.archive_file_bytes, 7, wanted.archive_base_s)
    made._jobs.put(None)
