"""A node that was away while the log was compacted catches up from a snapshot, whole or not at all.

Failure classes: snapshot/log gap, panic on restart, a snapshot that loses what is not in the keyspace.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from typing import Any

import pytest

from raftkv.cli.connection import as_fields
from raftkv.cli.resp import ErrorText
from tests.integration.conftest import Cluster, wait_until
from tests.integration.disks import info

SEGMENT_BYTES = 1024 * 1024
TINY = {"segment_bytes": SEGMENT_BYTES, "snapshot_log_bytes": "1mb", "log_retain_bytes": 0}
"""Everything is soon only in snapshots."""
VALUE_BYTES = 16 * 1024
BATCH = 32


def number(cluster: Cluster, place: int, name: str) -> int:
    return int((cluster.status(place) or {}).get(name, "-1"))


def write(cluster: Cluster, place: int, prefix: str, count: int, size: int = VALUE_BYTES) -> dict[bytes, bytes]:
    """``count`` keys with values that do not compress, BATCH at a time; what was written."""
    written = {f"{prefix}:{one}".encode(): secrets.token_bytes(size) for one in range(count)}
    items = list(written.items())
    with cluster.connect(place) as connection:
        for at in range(0, count, BATCH):
            words = [word for item in items[at : at + BATCH] for word in item]
            assert connection.ask("MSET", *words) == "OK"
    return written


def compact(cluster: Cluster, beyond: int) -> None:
    """Until no running node has the entries up to ``beyond`` in its log any more: whole segments are given up."""

    def gone() -> bool:
        if all(number(cluster, place, "first_index") > beyond for place in cluster.running):
            return True
        with cluster.connect(cluster.running[0]) as connection:
            for _ in range(3):
                connection.ask("SET", "compact", secrets.token_bytes(SEGMENT_BYTES // 2))
        return False

    wait_until(gone, f"entries up to {beyond} are compacted away")


def read_local(cluster: Cluster, place: int, written: dict[bytes, bytes]) -> None:
    with cluster.connect(place) as connection:
        for key, value in written.items():
            assert connection.ask("GET", key) == value, key


def test_a_node_that_was_away_catches_up_from_a_snapshot(make_cluster):
    cluster = make_cluster(**TINY)
    leader = cluster.leader()
    away = cluster.follower()
    before = write(cluster, leader, "before", 8)
    cluster.wait_converged()
    known = cluster.applied(away)
    cluster.kill(away)
    during = write(cluster, leader, "during", 256)
    compact(cluster, known)
    cluster.start(away)
    cluster.wait_ready()
    cluster.wait_converged()
    assert number(cluster, away, "snapshot_index") > known, "it was served from the log, not from a snapshot"
    assert int(info(cluster, away)["snapshot_age_seconds"]) >= 0, "its newest snapshot is not from before its start"
    read_local(cluster, away, before | during)
    # What came by a snapshot must also survive the next start, and be enough to lead with.
    cluster.kill(0, 1, 2)
    cluster.start_all()
    cluster.wait_ready()
    cluster.wait_converged()
    read_local(cluster, away, before | during)


def incoming(cluster: Cluster, place: int) -> bool:
    return any(cluster.members[place].directory.rglob("incoming-*"))


def has_snapshot_beyond(cluster: Cluster, place: int, index: int) -> bool:
    """Looks at its files: to ask a node that is starting takes longer than it takes to receive."""
    return any(int(path.name.split("-")[0]) > index for path in cluster.members[place].directory.rglob("*.snap"))


def part_bytes(cluster: Cluster, place: int) -> int:
    """Of a snapshot on its way in; 0 without one."""
    total = 0
    for path in cluster.members[place].directory.rglob("incoming-*"):
        with contextlib.suppress(FileNotFoundError):  # it was installed in this moment
            total += path.stat().st_size
    return total


def test_killed_in_the_middle_of_receiving(make_cluster):
    cluster = make_cluster(**TINY)
    leader = cluster.leader()
    away = cluster.follower()
    cluster.wait_converged()
    known = cluster.applied(away)
    cluster.kill(away)
    written = write(cluster, leader, "big", 1536, 32 * 1024)
    compact(cluster, known)
    kept = [0]
    for _ in range(3):
        cluster.start(away)
        deadline = time.monotonic() + 30
        while part_bytes(cluster, away) <= kept[-1] and not has_snapshot_beyond(cluster, away, known):
            assert time.monotonic() < deadline, "no snapshot arrived"
        cluster.kill(away)
        kept.append(part_bytes(cluster, away))
        # The snapshot that is being sent is replaced twice over: the leader goes on with the file it began with.
        for turn in range(3):
            with cluster.connect(leader) as connection:
                connection.ask("SET", f"turn{turn}", secrets.token_hex(8))
                wait_until(lambda: not isinstance(connection.call("RAFT.SNAPSHOT"), ErrorText), "a snapshot is written")
        assert number(cluster, leader, "applied_index") > 0
        assert not (cluster.status(leader) or {}).get("halted"), cluster.status(leader)
        if not kept[-1]:
            break  # it was installed before it was killed
    print(f"\nbytes of the part after each kill: {kept[1:]}")
    assert kept[1], "the node was never killed while it received"
    assert kept[:-1] == sorted(kept[:-1]), "what one life received, the next goes on with"
    cluster.start(away)
    cluster.wait_ready()
    cluster.wait_converged()
    read_local(cluster, away, dict(list(written.items())[::50]))
    assert not incoming(cluster, away)


def fill_all_types(connection: Any) -> None:
    """Every type, in several databases, small and large, with and without a time to live."""
    ask = connection.ask
    ask("SET", "string", b"\x00\xff\r\n binary")
    ask("SET", "counter", 41)
    ask("SET", "expires", "late", "PXAT", 4_000_000_000_000)
    ask("SET", "gone", "soon", "PX", 1)
    ask("RPUSH", "list", *range(500))
    ask("SADD", "set", *range(300), "word")
    ask("HSET", "hash", *[f"field{one}" for one in range(400)])
    ask(
        "ZADD",
        "zset",
        *[word for one in range(300) for word in (one / 7, f"member{one}")],
        "-inf",
        "low",
        "+inf",
        "high",
    )
    ask("PEXPIREAT", "zset", 4_000_000_000_001)
    ask("SELECT", 7)
    ask("SET", "elsewhere", "7")
    ask("SELECT", 0)


def look_at_all_types(connection: Any) -> list[Any]:
    ask = connection.ask
    questions = [
        ("GET", "string"), ("GET", "counter"), ("PEXPIRETIME", "expires"), ("EXISTS", "gone"), ("LRANGE", "list", 0, -1),
        ("SMISMEMBER", "set", 0, 299, "word", "no"), ("SCARD", "set"), ("HGETALL", "hash"),
        ("ZRANGE", "zset", 0, -1, "WITHSCORES"), ("PEXPIRETIME", "zset"), ("TYPE", "zset"), ("DBSIZE",),
    ]  # fmt: skip
    replies = [ask(*words) for words in questions]
    ask("SELECT", 7)
    replies.append(ask("GET", "elsewhere"))
    ask("SELECT", 0)
    return replies


def test_everything_survives_a_snapshot(make_cluster):
    """Types, expiry, sessions and watches; read on a node whose only source was the leader's snapshot."""
    cluster = make_cluster(**TINY)
    away = cluster.follower()
    leader = cluster.leader()
    watcher_at = next(place for place in cluster.running if place not in {away, leader})
    cluster.wait_converged()
    known = cluster.applied(away)
    cluster.kill(away)
    with cluster.connect(leader) as connection, cluster.connect(watcher_at) as watcher, cluster.connect(leader) as free:
        fill_all_types(connection)
        session = connection.ask("RAFT.SESSION", "OPEN")
        assert connection.ask("RAFT.SESSION", "RUN", session, 1, 0, "INCR", "counter") == 42
        watcher.ask("WATCH", "counter")
        free.ask("WATCH", "list")
        compact(cluster, known)
        cluster.start(away)
        cluster.wait_ready()
        cluster.wait_converged()
        assert number(cluster, away, "snapshot_index") > known
        expected = look_at_all_types(connection)
        with cluster.connect(away) as reborn:
            assert look_at_all_types(reborn) == expected
            assert reborn.ask("GET", "gone") is None
        # Only the reborn node and one that never saw the session's first answer before a snapshot are left to vote.
        with cluster.connect(cluster.leader()) as current:
            assert current.ask("RAFT.TRANSFER", f"n{away + 1}") == "OK"
        wait_until(lambda: cluster.leader() == away, "the reborn node leads")
        with cluster.connect(away) as reborn:
            again = reborn.ask("RAFT.SESSION", "RUN", session, 1, 0, "INCR", "counter")
            assert again == 42, "a retried request of a session must get its first answer"
            assert reborn.ask("GET", "counter") == b"42"
            assert reborn.ask("SET", "counter", 100) == "OK"
        watcher.ask("MULTI")
        watcher.ask("SET", "watched", "must not be")
        assert watcher.call("EXEC") is None, "the watched key changed"
        free.ask("MULTI")
        free.ask("SET", "unwatched", "must be")
        assert free.call("EXEC") == ["OK"], "the watch of an unchanged key must survive the snapshot"


def test_sessions_survive_when_every_node_restarts_from_its_snapshot(make_cluster):
    cluster = make_cluster(**TINY)
    with cluster.connect(cluster.leader()) as connection:
        session = connection.ask("RAFT.SESSION", "OPEN")
        assert connection.ask("RAFT.SESSION", "RUN", session, 1, 0, "RPUSH", "list", "once") == 1
    last = max(cluster.applied(place) for place in cluster.running)
    compact(cluster, last)
    cluster.kill(0, 1, 2)
    cluster.start_all()
    cluster.wait_ready()
    with cluster.connect(cluster.follower()) as connection:
        assert connection.ask("RAFT.SESSION", "RUN", session, 1, 0, "RPUSH", "list", "once") == 1
        assert connection.ask("LRANGE", "list", 0, -1) == [b"once"]
        assert connection.ask("RAFT.SESSION", "RUN", session, 2, 1, "RPUSH", "list", "twice") == 2
    cluster.wait_converged()


def test_a_wiped_node_loses_nothing_silently(make_cluster):
    """Rejoining with an empty disk under the same id is not supported. What must hold: nothing acknowledged is lost.

    One wiped follower of three: the other two hold everything, and the cluster goes on with all of it. The wiped node
    either has everything again, or does not answer reads; it never answers from nothing.
    """
    cluster = make_cluster(**TINY)
    leader = cluster.leader()
    written = write(cluster, leader, "kept", 96)
    cluster.wait_converged()
    wiped = cluster.follower()
    cluster.kill(wiped)
    shutil.rmtree(cluster.members[wiped].directory)
    cluster.start(wiped)
    wait_until(lambda: cluster.status(wiped) is not None or cluster.processes[wiped].poll() is not None, "it is there")
    with cluster.connect(cluster.leader()) as connection:
        assert connection.ask("DBSIZE") == len(written)
        assert connection.ask("SET", "after", "wiped") == "OK"
    read_local(cluster, cluster.leader(), dict(list(written.items())[::10]))
    state = cluster.status(wiped)
    if state is None:
        assert cluster.processes[wiped].returncode
        return
    with cluster.connect(wiped) as connection:
        reply = connection.call("GET", "kept:0")
        print(f"\nwiped follower: GET answers {str(reply)[:60]!r}; {state}")
        assert isinstance(reply, ErrorText) or reply == written[b"kept:0"], "it must not answer from nothing"


@pytest.mark.soak
def test_away_again_and_again_under_load(make_cluster):
    cluster = make_cluster(**TINY)
    for turn in range(20):
        leader = cluster.leader()
        away = cluster.follower()
        known = cluster.applied(away)
        cluster.kill(away)
        written = write(cluster, leader, f"turn{turn}", 512)
        compact(cluster, known)
        cluster.start(away)
        cluster.wait_ready()
        cluster.wait_converged()
        read_local(cluster, away, dict(list(written.items())[::20]))
        with cluster.connect(leader) as connection:
            fields = as_fields(connection.call("RAFT.STATUS"))
        assert fields["halted"] == ""
