"""A crash at every call to the disk while a backup is written: a file under its name is whole, or is not there."""

from __future__ import annotations

import errno
import random

import pytest

from chaos.disk import SURVIVALS, Disk, Killed, PowerCut, ProcessEnd
from persistence.backup import Backup, Origin, save_backup
from persistence.snapshots import SnapshotMeta, SnapshotStore

CONTENT = random.Random(3).randbytes(500_000)
PATH = "/backups/b.backup"


class Facts:
    def feed(self, piece):
        pass

    def finish(self):
        return 5, 6


@pytest.fixture(scope="module")
def raw():
    disk = Disk()
    disk.make_dir("/s")
    store = SnapshotStore("/s/snapshots", disk)
    writer = store.begin(SnapshotMeta(9, 4))
    writer.write(CONTENT)
    return store.raw(info := writer.commit(), 0, info.size_bytes)


def fresh():
    disk = Disk(random.Random(1))
    disk.make_dir("/backups")
    return disk


def save(disk, raw):
    origin = Origin("c1", "n2", 9, 4, len(raw), 0, "test 1")
    save_backup(disk, "/backups", PATH, origin, lambda at, length: raw[at : at + length], Facts())


def calls(raw):
    disk = fresh()
    disk.arm(0)
    save(disk, raw)
    return disk.steps


def whole_or_absent(disk):
    """Whether it is there; then it has to be whole."""
    if not disk.exists(PATH):
        return False
    assert b"".join(Backup(disk.open_read(PATH))) == CONTENT
    return True


@pytest.mark.parametrize("end", [Killed, *SURVIVALS], ids=str)
def test_a_crash_at_every_call(raw, end):
    total = calls(raw)
    for at in range(1, total + 1):
        disk = fresh()
        disk.arm(at, Killed if end is Killed else PowerCut)
        with pytest.raises(ProcessEnd):
            save(disk, raw)
        if end is Killed:
            disk.kill()
        else:
            disk.power_cut(at, end)
        whole_or_absent(disk)
        if not disk.exists(PATH):
            save(disk, raw)
            assert whole_or_absent(disk)
    disk = fresh()
    save(disk, raw)
    disk.power_cut(0, "nothing")
    assert whole_or_absent(disk), "what was reported as written is durable"


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_failure_at_every_call_leaves_nothing_that_looks_whole(raw, fault):
    for at in range(1, calls(raw) + 1):
        disk = fresh()
        disk.arm(at, fault)
        with pytest.raises(OSError, match=r"."):
            save(disk, raw)
        disk.disarm()
        if not whole_or_absent(disk):
            assert disk.listdir("/backups") == [], "room is made again"
