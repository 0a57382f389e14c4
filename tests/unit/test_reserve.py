"""Space set aside: claimed for real, given to the log that meets a full disk, and made again."""

from __future__ import annotations

import errno
from random import Random

import pytest

from chaos.disk import Disk
from persistence.errors import LogFailedError
from persistence.files import OsFiles
from persistence.reserve import RESERVE, Reserve
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions

KIB = 1024
OPTIONS = LogOptions(segment_bytes=64 * KIB, cache_bytes=1 << 20, preallocate=False, compress_bytes_min=0)


def new_disk(capacity):
    disk = Disk(Random(1))
    disk.make_dir("data")
    disk.capacity_bytes = capacity
    return disk


def fill(log, count, size=KIB):
    """Append and sync entries one by one until the log fails; how many became durable."""
    for done in range(count):
        try:
            log.append(log.last_index + 1, 1, bytes([done % 251]) * size)
            log.sync()
        except LogFailedError:
            return done
    return count


def reopened(disk):
    """The log as a later process finds it, on a disk with room."""
    disk.kill()
    disk.capacity_bytes = None
    return Log.open("data/log", OPTIONS, disk)


# ------------------------------------------------------------ the file
def test_it_is_made_once_and_given_once():
    disk = new_disk(100 * KIB)
    reserve = Reserve("data", 40 * KIB, disk)
    assert (reserve.held, reserve.spent) == (False, False)
    assert reserve.make()
    assert disk.space("data").free == 60 * KIB
    assert reserve.helps(OSError(errno.ENOSPC, "x"), "a write")
    assert (reserve.held, reserve.spent, reserve.shortage) == (False, True, "a write: No space left on device")
    assert disk.space("data").free == 100 * KIB
    assert not reserve.helps(OSError(errno.ENOSPC, "x"), "a write"), "there is nothing to give any more"
    assert reserve.make()
    assert (reserve.held, reserve.spent, reserve.shortage) == (True, False, "")


def test_after_a_shortage_as_much_again_must_be_there():
    """The free space of a file system says nothing of what a quota leaves."""
    disk = new_disk(70 * KIB)
    reserve = Reserve("data", 40 * KIB, disk)
    assert reserve.make()
    reserve.note(OSError(errno.EDQUOT, "x"), "a spare")
    assert reserve.shortage == "a spare: Disk quota exceeded"
    assert not reserve.make()
    assert (reserve.held, reserve.spent, disk.used_bytes) == (True, False, 40 * KIB)
    disk.capacity_bytes = 80 * KIB
    assert reserve.make()
    assert (reserve.shortage, disk.used_bytes) == ("", 40 * KIB)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES])
def test_it_helps_with_nothing_but_a_full_disk(number):
    reserve = Reserve("data", 40 * KIB, new_disk(100 * KIB))
    reserve.make()
    assert not reserve.helps(OSError(number, "x"), "a write")
    assert reserve.held


def test_without_room_nothing_is_left_behind():
    disk = new_disk(30 * KIB)
    reserve = Reserve("data", 40 * KIB, disk)
    assert not reserve.make()
    assert disk.listdir("data") == []
    assert reserve.shortage == "the reserve file: No space left on device"


def test_another_life_finds_it_and_another_size_changes_it():
    disk = new_disk(100 * KIB)
    Reserve("data", 40 * KIB, disk).make()
    for size in (60 * KIB, 20 * KIB, 0):
        reserve = Reserve("data", size, disk)
        assert reserve.held
        assert reserve.make()
        assert disk.used_bytes == size
        assert disk.exists(f"data/{RESERVE}") is bool(size)


def test_the_blocks_are_there(tmp_path):
    reserve = Reserve(str(tmp_path), 256 * KIB, OsFiles())
    assert reserve.make()
    assert (tmp_path / RESERVE).stat().st_blocks * 512 >= 256 * KIB


# ------------------------------------------------------------ the log
def test_a_log_that_meets_a_full_disk_goes_on_in_the_reserve():
    disk = new_disk(60 * KIB)
    reserve = Reserve("data", 30 * KIB, disk)
    reserve.make()
    log = Log.open("data/log", OPTIONS, disk, reserve)
    done = fill(log, 100)
    without = fill(Log.open("data/log", OPTIONS, new_disk(30 * KIB)), 100)
    assert 20 < without < 30 < done < 60, "as much longer as the reserve is large"
    assert reserve.spent
    with reopened(disk) as found:
        assert found.last_index >= done
        assert [entry[0][0] for entry in found.entries(1, done)] == [number % 251 for number in range(done)]


def test_a_new_segment_takes_the_reserve():
    disk = new_disk(64 * KIB + 34 * KIB)
    reserve = Reserve("data", 30 * KIB, disk)
    reserve.make()
    log = Log.open("data/log", OPTIONS, disk, reserve)
    assert fill(log, 70) == 70
    assert reserve.shortage.startswith(("a new segment of the log", "a write to the log"))
    with reopened(disk) as found:
        assert found.last_index == 70


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_disk_that_fails_gets_no_second_chance(number):
    disk = new_disk(1 << 20)
    reserve = Reserve("data", 30 * KIB, disk)
    reserve.make()
    log = Log.open("data/log", OPTIONS, disk, reserve)
    disk.arm(1, number, "write")
    assert fill(log, 3) == 0
    assert reserve.held


def test_a_sync_that_found_no_space_covers_what_is_written_again():
    """What a failed sync covered is not on the disk, whatever a second sync says, unless it is written a second time."""
    disk = new_disk(1 << 20)
    reserve = Reserve("data", 30 * KIB, disk)
    reserve.make()
    log = Log.open("data/log", OPTIONS, disk, reserve)
    assert fill(log, 3) == 3
    disk.arm(1, errno.ENOSPC, "sync")
    assert fill(log, 3) == 3
    assert reserve.spent
    disk.power_cut(survival="nothing")
    with Log.open("data/log", OPTIONS, disk) as found:
        assert found.last_index == 6


def test_recovery_on_a_full_disk_takes_the_reserve():
    disk = new_disk(1 << 20)
    reserve = Reserve("data", 30 * KIB, disk)
    reserve.make()
    Log.open("data/log", OPTIONS, disk, reserve)
    disk.kill()
    disk.arm(1, errno.ENOSPC, "write")
    with Log.open("data/log", OPTIONS, disk, Reserve("data", 30 * KIB, disk)) as log:
        assert fill(log, 3) == 3


def test_while_the_reserve_is_spent_nothing_is_prepared_and_nothing_recycled():
    disk = new_disk(1 << 20)
    reserve = Reserve("data", 30 * KIB, disk)
    reserve.make()
    options = LogOptions(segment_bytes=16 * KIB, cache_bytes=1 << 20, preallocate=True, compress_bytes_min=0)
    with Log.open("data/log", options, disk, reserve) as log:
        assert log._spares.wanted
        reserve.helps(OSError(errno.ENOSPC, "x"), "a write")
        assert not log._spares.wanted
        fill(log, 60)
        log.compact_to(50)
        log.sync()
        assert not [name for name in disk.listdir("data/log") if not name.endswith(".wal")]
        reserve.make()
        assert log._spares.wanted


def test_a_spare_that_finds_no_room_leaves_nothing():
    disk = new_disk(40 * KIB)
    reserve = Reserve("data", 0, disk)
    log = Log.open("data/log", LogOptions(segment_bytes=64 * KIB), disk, reserve)
    with pytest.raises(OSError, match="No space"):
        log._spares.prepare()
    assert [name for name in disk.listdir("data/log") if not name.endswith(".wal")] == []


# ------------------------------------------------------------ snapshots
def test_what_a_killed_writer_left_is_deleted():
    disk = new_disk(1 << 20)
    store = SnapshotStore("data/snapshots", disk)
    meta = SnapshotMeta(7, 1)
    store.begin(meta).write(b"x" * 100)
    store.discard(meta)
    store.discard(meta)
    assert disk.listdir("data/snapshots") == []
