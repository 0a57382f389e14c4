"""Real nodes on disks that fail: what clients are told, how the process ends, and that nothing acknowledged is lost."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from raftkv.cli.resp import ErrorText
from raftkv.consensus.stall import REST_S
from raftkv.server.disk_failure import EXIT_DISK
from tests.integration.conftest import wait_until
from tests.integration.disks import delete_much, ended, fill_up, info, log_of, move_to
from tests.integration.failing_disk import FailingDisk
from tests.integration.judging import describe, judge

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    return FailingDisk(tmp_path / "orders")


def write(cluster: Any, place: int, count: int) -> int:
    """Set so many keys at one node; how many it acknowledged before the first error."""
    with cluster.connect(place) as client:
        for number in range(count):
            if client.call(b"SET", b"key:%d" % number, b"%d" % number) != "OK":
                return number
    return count


def test_a_node_whose_log_cannot_be_synced_ends_and_recovers(make_cluster, disk):
    cluster = make_cluster(nodes=1)
    cluster.kill(0)
    cluster.start_patched(0, disk.patch)
    cluster.wait_ready()
    assert write(cluster, 0, 100) == 100
    disk.does("EIO-sync")
    assert_ends(cluster, "[Errno 5] Input/output error")
    disk.works()
    cluster.start(0)
    assert_recovered(cluster)


def assert_ends(cluster: Any, reason: str) -> None:
    """The only node answers a write as in doubt, for this reason, and its process ends to be started again."""
    with cluster.connect(0) as client:
        answer = client.call(b"SET", b"late", b"1")
    assert isinstance(answer, ErrorText)
    assert answer.startswith("UNKNOWN this node stopped before the outcome was known: the log cannot be written:")
    assert answer.endswith(reason)
    assert ended(cluster, 0) == EXIT_DISK
    assert f"exit_code={EXIT_DISK}" in log_of(cluster, 0)


def assert_recovered(cluster: Any) -> None:
    """All that was acknowledged is there, and it goes on."""
    cluster.wait_ready()
    with cluster.connect(0) as client:
        assert [client.call(b"GET", b"key:%d" % number) for number in (0, 99)] == [b"0", b"99"]
        assert client.call(b"SET", b"late", b"2") == "OK"


@pytest.fixture
def ext4(mounts, tmp_path):
    """``ext4()`` mounts a file system of its own; ``ext4()`` again unmounts, checks and mounts it anew."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4 here")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)

    def mount() -> Path:
        place = tmp_path / "disk"
        if place.is_mount():
            subprocess.run(["umount", str(place)], check=True)
            subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True, check=False)
        return mounts("disk", "-o", "loop", str(image))

    return mount


def test_a_file_system_that_the_kernel_made_read_only(ext4, make_cluster):
    """For real: ext4 gives up, as after an error of its device, and is checked and mounted again."""
    disk = ext4()
    cluster = make_cluster(nodes=1, segment_bytes=MIB, disk_reserve_bytes=MIB, disk_low_bytes=0)
    cluster.kill(0)
    move_to(cluster, 0, disk)
    cluster.start(0)
    cluster.wait_ready()
    assert write(cluster, 0, 100) == 100
    subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
    assert_ends(cluster, "[Errno 30] Read-only file system")
    cluster.start(0)
    assert ended(cluster, 0) == EXIT_DISK
    assert "the file system is read-only; remount it writable" in log_of(cluster, 0)
    ext4()
    cluster.start(0)
    assert_recovered(cluster)


def test_a_leader_whose_file_system_becomes_read_only_is_replaced(ext4, make_cluster, load_on):
    disk = ext4()
    cluster = make_cluster(segment_bytes=MIB, disk_reserve_bytes=MIB, disk_low_bytes=0)
    place = cluster.follower()
    cluster.kill(place)
    move_to(cluster, place, disk)
    cluster.start(place)
    cluster.wait_ready()
    with cluster.connect(cluster.leader()) as client:
        assert client.call(b"RAFT.TRANSFER", cluster.members[place].node_id.encode()) == "OK"
    wait_until(lambda: cluster.leader() == place, "it leads")
    load = load_on(cluster)
    subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
    assert ended(cluster, place) == EXIT_DISK
    assert "[Errno 30] Read-only file system" in log_of(cluster, place)
    load.wait_acknowledged(50)
    ext4()
    cluster.start(place)
    print(f"\n{describe(judge(cluster, load))}")


# ---------------------------------------------------------------------- full
def test_a_full_member_makes_the_cluster_refuse_what_takes_space_and_nothing_else(small_disk, make_cluster):
    sizes = {"segment_bytes": MIB, "disk_reserve_bytes": 2 * MIB, "disk_low_bytes": MIB, "disk_high_bytes": 2 * MIB}
    cluster = make_cluster(**sizes, log_retain_bytes=0)
    place = cluster.follower()
    other = cluster.leader()
    cluster.kill(place)
    disk = small_disk(16 * MIB)
    move_to(cluster, place, disk)
    cluster.start(place)
    cluster.wait_ready()
    assert write(cluster, other, 100) == 100
    wait_until(lambda: info(cluster, place)["disk_reserve_bytes"] == str(2 * MIB), "the reserve is made")

    early = cluster.connect(other)
    session = [b"RAFT.SESSION", b"RUN", early.call(b"RAFT.SESSION", b"OPEN")]
    assert early.call(*session, b"1", b"0", b"INCR", b"counted") == 1
    assert [early.call(*words) for words in ([b"MULTI"], [b"SET", b"more", b"1"])] == ["OK", "QUEUED"]
    fill_up(disk, leave=MIB // 2)
    full = cluster.members[place].node_id
    wait_until(lambda: info(cluster, other)["disk_alarms"] == f"{full}:NOSPACE", "an alarm on the other node")
    ballast = fill_up(disk)
    with cluster.connect(other) as client:
        answer = client.call(b"SET", b"more", b"1")
        assert str(answer).startswith(f"NOSPACE the disk of {full} is full (")
        assert client.call(*session, b"1", b"0", b"INCR", b"counted") == 1, (
            "it was done, whatever a new one is answered"
        )
        assert str(client.call(*session, b"2", b"0", b"INCR", b"counted")).startswith("NOSPACE")
        assert client.call(b"GET", b"key:1") == b"1"
        assert [client.call(*words) for words in ([b"MULTI"], [b"DEL", b"key:2"], [b"EXEC"])] == ["OK", "QUEUED", [1]]
        assert client.call(b"MULTI") == "OK"
        assert str(client.call(b"SET", b"more", b"1")).startswith("NOSPACE")
        assert str(client.call(b"EXEC")).startswith("EXECABORT")
        assert str(early.call(b"EXEC")).startswith("EXECABORT Transaction discarded because of: NOSPACE")
        early.close()
    delete_much(cluster, other, 800)
    assert cluster.processes[place].poll() is None, log_of(cluster, place)
    # Looked at every second; more was written than the prepared segments hold.
    wait_until(lambda: info(cluster, place)["disk_reserve_bytes"] == "0", "the reserve is spent")
    print("\n".join(line for line in log_of(cluster, place).splitlines() if "snapshot" in line or "alarm" in line))

    ballast.unlink()
    wait_until(lambda: info(cluster, other)["disk_alarms"] == "", "the alarm is cleared")
    assert write(cluster, other, 100) == 100
    wait_until(lambda: info(cluster, place)["disk_reserve_bytes"] == str(2 * MIB), "the reserve is made again")
    cluster.wait_ready()
    cluster.wait_converged()


def test_a_node_without_any_space_ends_and_loses_nothing(small_disk, make_cluster):
    sizes = {"segment_bytes": MIB, "disk_reserve_bytes": 0, "disk_low_bytes": 0, "disk_high_bytes": 0}
    cluster = make_cluster(nodes=1, **sizes)
    cluster.kill(0)
    disk = small_disk(8 * MIB)
    move_to(cluster, 0, disk)
    cluster.start(0)
    cluster.wait_ready()
    assert write(cluster, 0, 100) == 100
    ballast = fill_up(disk)
    deleted = []
    with cluster.connect(0) as client, pytest.raises((AssertionError, OSError)):
        for number in range(20_000):
            assert client.call(b"DEL", b"%04000d" % number, b"key:%d" % number) == (number < 100)
            deleted.append(number)
    assert ended(cluster, 0) == EXIT_DISK
    assert len(deleted) > 100
    ballast.unlink()
    cluster.start(0)
    cluster.wait_ready()
    with cluster.connect(0) as client:
        assert [client.call(b"GET", b"key:%d" % number) for number in range(100)] == [None] * 100
        assert client.call(b"SET", b"more", b"1") == "OK"


# ---------------------------------------------------------------------- stalled
def test_a_leader_whose_disk_stalls_hands_over(make_cluster, disk):
    cluster = make_cluster()
    place = cluster.follower()
    cluster.kill(place)
    cluster.start_patched(place, disk.patch)
    cluster.wait_ready()
    node = cluster.members[place].node_id
    with cluster.connect(cluster.leader()) as client:
        assert client.call(b"RAFT.TRANSFER", node.encode()) == "OK"
    assert cluster.leader() == place
    time.sleep(REST_S)  # no condition to wait for: a new leader hands nothing over for so long
    other = cluster.follower()
    assert write(cluster, other, 10) == 10
    disk.does("stall-sync")
    with cluster.connect(other, timeout_s=30) as client, cluster.connect(place) as reader:
        began = time.monotonic()
        answers = [client.call(b"SET", b"key:%d" % number, b"new") for number in range(10)]
        print(f"\nwritten after {time.monotonic() - began:.1f} s: {answers[0]}")
        assert answers[1:] == ["OK"] * 9
        assert reader.call(b"READ", b"LOCAL") == "OK"
        assert reader.call(b"GET", b"key:1") in {b"1", b"new"}, "its event loop does not wait for the disk"
        wait_until(lambda: int(info(cluster, place)["disk_wait_ms"]) > 2000, "it says how long it waits")
    wait_until(lambda: (cluster.status(other) or {}).get("leader_id") not in {"", node, None}, "another one leads")
    disk.works()
    wait_until(lambda: (cluster.status(place) or {}).get("leader_id") not in {"", node, None}, "it follows again")
    cluster.wait_ready()
    cluster.wait_converged()
    wait_until(
        lambda: "the disk answers again" in log_of(cluster, place), "it says so, within a round of its housekeeping"
    )

    disk.does("stall-sync")
    with cluster.connect(other) as client:
        assert client.call(b"SET", b"key", b"newer") == "OK", "a follower's disk holds up nobody"
    wait_until(lambda: int(info(cluster, place)["disk_wait_ms"]) > 2000, "it stalls again")
    cluster.processes[place].terminate()
    assert ended(cluster, place) == EXIT_DISK, "it does not wait for the disk in order to end"
