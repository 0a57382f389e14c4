"""What was damaged goes aside, and never is there an empty log under the disk id that remembers more."""

from __future__ import annotations

import errno
import json

import pytest
from crc32c import crc32c

from chaos.disk import SURVIVALS, Disk, Killed, PowerCut
from persistence.directory import REPAIRS_MAX, DataDirectory, Identity
from persistence.errors import DirectoryError, IdentityError, UnknownVersionError
from persistence.segment import SegmentHeader, decode_segment_header, encode_segment_header
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.errors import RaftKVError
from raftkv.server.recover import StoppedNode

OPTIONS = LogOptions(segment_bytes=8192, preallocate=False, salt=1)
BEGUN_ANEW = Identity("n1", "c1", "d2", repairs=("d1",))


def open_it(disk, disk_id="d1"):
    return DataDirectory.open("data", node_id="n1", cluster_id="c1", new_disk_id=disk_id, files=disk)


def filled() -> Disk:
    """A node's directory with ten entries and a snapshot, all durable."""
    disk = Disk()
    with open_it(disk) as directory:
        log = Log.open(directory.log_path, OPTIONS, disk)
        directory.begin_log(1)
        for index in range(1, 11):
            log.append(index, 1, b"entry %d" % index)
            log.sync()
        log.close()
        file = SnapshotStore(directory.snapshot_path, disk).begin(SnapshotMeta(5, 1))
        file.write(b"state")
        file.commit()
    return disk


def held(disk, path):
    """Last entry of the log there, newest snapshot there; 0 where there is none."""
    newest = SnapshotStore(f"{path}/snapshots", disk).newest() if disk.exists(f"{path}/snapshots") else None
    with Log.open(f"{path}/log", OPTIONS, disk) as log:
        return log.last_index, newest.index if newest else 0


def test_the_old_content_is_kept_under_the_old_identity():
    disk = filled()
    with open_it(disk) as directory:
        path = directory.set_aside("d2", b"why")
        assert path == "data/damaged-1"
        assert directory.identity == BEGUN_ANEW
        assert directory.notes() == b"why"
        assert directory.asides() == [path]
    with DataDirectory.open_stopped(path, disk) as old:
        assert old.identity == Identity("n1", "c1", "d1", log_id=f"{1:016x}")
    assert held(disk, path) == (10, 5)
    with open_it(disk, "unused") as directory:
        assert directory.identity == BEGUN_ANEW
        assert held(disk, "data") == (0, 0)


def steps_of_set_aside() -> int:
    disk = filled()
    with open_it(disk) as directory:
        disk.arm(10_000)
        directory.set_aside("d2", b"why")
        return disk.steps


@pytest.mark.parametrize("survival", SURVIVALS)
def test_a_crash_at_any_operation_leaves_the_old_disk_whole_or_another_one(survival):
    steps = steps_of_set_aside()
    assert steps > 10
    outcomes = set()
    for step in range(1, steps + 1):
        for seed in range(4):
            disk = filled()
            directory = open_it(disk)
            disk.arm(step, PowerCut)
            with pytest.raises(PowerCut):
                directory.set_aside("d2", b"why")
            disk.power_cut(seed, survival)
            again = open_it(disk, "unused")
            if again.disk_id == "d1":
                assert not again.repairs
                assert held(disk, "data") == (10, 5)
            else:
                assert again.identity == BEGUN_ANEW
                assert held(disk, "data") == (0, 0)
                assert held(disk, again.asides()[-1]) == (10, 5)
                assert again.notes() == b"why"
            outcomes.add(again.disk_id)
            again.close()
            with open_it(disk) as later:  # whatever was left there is no obstacle for the next time
                name = later.set_aside("d3", b"again")
                assert later.disk_id == "d3"
                assert later.notes() == b"again"
                assert disk.exists(f"{name}/log")
    assert outcomes == {"d1", "d2"}


def test_a_crash_while_it_is_finished_is_finished_later():
    for step in range(1, 20):
        disk = filled()
        directory = open_it(disk)
        disk.arm(1, Killed, lambda call: call.operation == "rename" and call.path == "data/log")
        with pytest.raises(Killed):
            directory.set_aside("d2", b"why")
        disk.kill()
        disk.arm(step, PowerCut)
        try:
            open_it(disk, "unused").close()
        except PowerCut:
            disk.power_cut(step)
        disk.disarm()
        with open_it(disk, "unused") as again:
            assert again.identity == BEGUN_ANEW
            assert held(disk, "data") == (0, 0)
            assert held(disk, "data/damaged-1") == (10, 5)


@pytest.mark.parametrize("step", range(1, 24))
def test_a_disk_that_refuses_leaves_what_can_be_opened(step):
    disk = filled()
    with open_it(disk) as directory:
        disk.arm(step, errno.EIO)
        try:
            directory.set_aside("d2", b"why")
        except OSError:
            assert disk.steps == step
    disk.disarm()
    with open_it(disk, "unused") as again:
        assert held(disk, "data") == ((10, 5) if again.disk_id == "d1" else (0, 0))


def test_a_recovery_waits_until_it_is_finished():
    """The next start would move away what was recovered."""
    disk = filled()
    directory = open_it(disk)
    disk.arm(1, Killed, lambda call: call.operation == "rename" and call.path == "data/log")
    with pytest.raises(Killed):
        directory.set_aside("d2", b"why")
    disk.kill()
    with DataDirectory.open_stopped("data", disk) as stopped, pytest.raises(IdentityError, match="finish that first"):
        stopped.begin_move("c2", "d3")
    with pytest.raises(RaftKVError, match="run raftkv repair on it"):
        StoppedNode("data", 0.0, disk)
    open_it(disk).close()
    with StoppedNode("data/damaged-1", 0.0, disk) as survivor:
        assert survivor.report.last_index == 10


def test_former_disks_are_remembered_and_bounded():
    disk = filled()
    with open_it(disk) as directory:
        for number in range(2, 40):
            directory.set_aside(f"d{number}", b"")
        assert directory.repairs == tuple(f"d{number}" for number in range(39 - REPAIRS_MAX, 39))
        assert len(directory.asides()) == 2  # nothing was there to be moved since the first
    with open_it(disk) as directory:
        Log.open(directory.log_path, OPTIONS, disk).close()
        assert directory.set_aside("d40", b"") == "data/damaged-2"


def test_a_recovery_comes_first():
    disk = filled()
    with open_it(disk) as directory:
        directory.begin_move("c2", "d2")
        with pytest.raises(IdentityError, match="finish that recovery first"):
            directory.set_aside("d3", b"")
        directory.finish_move()
        directory.set_aside("d3", b"")
        directory.begin_move("c3", "d4")
        directory.finish_move()
        assert directory.identity == Identity("n1", "c3", "d4")  # a new cluster knows no former disk


def test_a_program_of_before_does_not_open_it():
    disk = filled()
    assert json.loads(bytes(disk.names["data/identity"].content))["format"] == 1
    with open_it(disk) as directory:
        directory.set_aside("d2", b"")
    assert json.loads(bytes(disk.names["data/identity"].content))["format"] == 2
    with open_it(disk) as directory, pytest.raises(DirectoryError, match="in use"):
        open_it(disk)
    assert directory.repairs == ("d1",)


def test_another_programs_format_is_no_damage():
    block = encode_segment_header(SegmentHeader(1, 1, 0, 0, 0, 0, Log.open("log", OPTIONS, Disk()).hard_state))
    with pytest.raises(UnknownVersionError, match="format version 77 is unknown"):
        decode_segment_header(of_version(block, 77), "file", 1)


def of_version(block: bytes, version: int) -> bytes:
    length = int.from_bytes(block[16:20], "little")
    changed = block[:12] + version.to_bytes(4, "little") + block[16:]
    return changed[:8] + crc32c(changed[12 : 20 + length]).to_bytes(4, "little") + changed[12:]
