"""A follower whose disk, or quota, has no room for the snapshot that it needs: it says so, keeps what it had, and takes it later.

Failure classes: a snapshot sent again and again without end, an alarm that comes and goes, a state or a log that the
transfer spoilt, a node that ends because of a file that can wait.
"""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from tests.integration.conftest import wait_until
from tests.integration.disks import delete_much, fill_up, info, log_of, move_to
from tests.integration.failing_disk import FailingDisk, bytes_below
from tests.integration.judging import describe, judge

MIB = 1 << 20
SIZES = {
    "segment_bytes": MIB, "snapshot_log_bytes": MIB, "log_retain_bytes": 0, "disk_reserve_bytes": MIB,
    "disk_low_bytes": MIB // 4, "disk_high_bytes": MIB // 2,
}  # fmt: skip
SNAPSHOT_BYTES = 8 * MIB
"""At least: random bytes, which do not compress."""
ROOM_BYTES = 3 * MIB
"""Its log's next segment fits; the snapshot does not, with the reserve and what a short log may free either."""

REFUSED = "the leader's snapshot cannot be taken, and will be tried again"


@pytest.fixture
def behind(make_cluster, load_on):
    """``behind()``: (cluster under load, its load, a follower that is down and needs a snapshot)."""

    def make() -> tuple[Any, Any, int]:
        cluster = make_cluster(**SIZES)
        load = load_on(cluster)
        place = cluster.follower()
        with cluster.connect(cluster.leader()) as client:
            for number in range(SNAPSHOT_BYTES // MIB):
                assert client.call(b"SET", b"big:%d" % number, secrets.token_bytes(MIB)) == "OK"
            assert client.call(b"SET", b"key", b"old") == "OK"
        wait_until(lambda: read_local(cluster, place) == b"old", "the follower has it")
        tidy(cluster, place)
        known = cluster.applied(place)
        cluster.kill(place)
        with cluster.connect(cluster.leader()) as client:
            assert client.call(b"SET", b"key", b"new") == "OK"

            def compacted() -> bool:
                client.call(b"SET", b"pad", secrets.token_bytes(MIB // 2))
                return all(first_index(cluster, one) > known for one in cluster.running)

            wait_until(compacted, "the log does not hold what the follower lacks")
        return cluster, load, place

    return make


def tidy(cluster: Any, place: int) -> None:
    """Until the node has nothing that its next start would write, or delete, and so make room."""
    data = cluster.members[place].data

    def is_tidy() -> bool:
        with cluster.connect(place) as client:
            client.call(b"COMPACT")
        return bytes_below(data / "log") <= 3 * MIB and not list(data.glob("snapshots/*.part"))

    wait_until(is_tidy, "a short log and a new snapshot", 60.0)


def read_local(cluster: Any, place: int) -> Any:
    with cluster.connect(place) as client:
        assert client.call(b"READ", b"LOCAL") == "OK"
        return client.call(b"GET", b"key")


def first_index(cluster: Any, place: int) -> int:
    return int((cluster.status(place) or {}).get("first_index", "-1"))


def alarms(cluster: Any, place: int) -> list[list[bytes]]:
    with cluster.connect(place) as client:
        return client.call(b"RAFT.ALARM", b"LIST")


def wait_alarmed(cluster: Any, place: int) -> str:
    """Until the others know that this follower is full; what they say of it."""
    leader, node = cluster.leader(), cluster.members[place].node_id
    wait_until(lambda: info(cluster, leader)["disk_alarms"] == f"{node}:NOSPACE", "the alarm of the follower")
    return str(alarms(cluster, leader))


def assert_only_growth_is_refused(cluster: Any, place: int) -> None:
    """The follower answers from what it has; the others read and delete."""
    assert read_local(cluster, place) == b"old"
    assert cluster.processes[place].poll() is None, log_of(cluster, place)
    with cluster.connect(cluster.leader()) as client:
        answer = client.call(b"SET", b"more", b"1")
        assert str(answer).startswith(f"NOSPACE the disk of {cluster.members[place].node_id} is full ("), answer
        assert client.call(b"STRLEN", b"big:0") == MIB
        assert client.call(b"DEL", b"pad") in {0, 1}


def parts(cluster: Any, place: int) -> list[str]:
    return [path.name for path in cluster.members[place].data.glob("snapshots/incoming-*")]


def assert_taken(cluster: Any, load: Any, place: int) -> None:
    """The follower gets it, the alarm goes, and nothing that was acknowledged is lost."""
    leader = cluster.leader()
    taken = "the leader's snapshot was taken"
    wait_until(lambda: taken in log_of(cluster, place).rpartition(REFUSED)[2], "the snapshot is taken", 60.0)
    wait_until(lambda: info(cluster, leader)["disk_alarms"] == "", "the alarm is cleared", 60.0)
    load.wait_acknowledged(50)
    cluster.wait_ready()
    with cluster.connect(place) as client:
        assert client.call(b"GET", b"key") == b"new"
    said = log_of(cluster, leader).count("alarm raised"), log_of(cluster, leader).count("alarm cleared")
    print(
        "\n" + "\n".join(line for line in log_of(cluster, place).splitlines() if "snapshot" in line or "alarm" in line)
    )
    print(f"{describe(judge(cluster, load))}; the leader said (raised, cleared): {said}")
    assert said == (1, 1), "the alarm comes once, and goes once"


def test_a_full_disk_at_a_follower_that_needs_a_snapshot(small_disk, behind):
    cluster, load, place = behind()
    disk = small_disk(64 * MIB)
    move_to(cluster, place, disk)
    ballast = fill_up(disk, leave=ROOM_BYTES)
    cluster.start(place)
    said = wait_alarmed(cluster, place)
    assert "from the leader: No space left on device: " in said
    assert said.count("bytes are needed") == 1
    wait_until(lambda: REFUSED in log_of(cluster, place), "it says why")
    assert_only_growth_is_refused(cluster, place)
    assert parts(cluster, place) == [], "what has no room is not begun"
    ballast.unlink()
    assert_taken(cluster, load, place)


def test_a_quota_that_ends_in_the_middle_of_a_snapshot(behind, tmp_path):
    """The free space of the file system says nothing of it; and the log is as short of space as the snapshot."""
    cluster, load, place = behind()
    data = cluster.members[place].data
    disk = FailingDisk(tmp_path / "orders", data)
    disk.does(f"quota-space {bytes_below(data) + ROOM_BYTES}")
    cluster.start_patched(place, disk.patch)
    assert "Disk quota exceeded" in wait_alarmed(cluster, place)
    log = wait_until(lambda: REFUSED in log_of(cluster, place) and log_of(cluster, place), "it says why")
    assert 'reason="Disk quota exceeded"' in log
    assert_only_growth_is_refused(cluster, place)
    delete_much(cluster, cluster.leader(), 50)
    wait_until(lambda: parts(cluster, place) == [], "the part is deleted")
    disk.works()
    assert_taken(cluster, load, place)
