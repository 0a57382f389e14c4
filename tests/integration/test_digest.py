"""A replica whose state has diverged finds it out by the audit in the log, and stops serving; the others go on.

The divergence is planted from outside: one node's process changes INCR's function before it starts, so that it counts
a marked key twice. The product has no hook for this.
"""

from __future__ import annotations

import pytest

from raftkv.cli.resp import ErrorText
from tests.integration.conftest import Cluster, wait_until

COUNTS_WRONG = """
from raftkv.commands import registry

command = registry.TABLE[b"INCR"]
right = command.function


def wrong(context, argv):
    reply = right(context, argv)
    return right(context, argv) if argv[1] == b"poisoned" else reply


object.__setattr__(command, "function", wrong)
"""
INTERVAL = 8
"""Entries between two audits. Each covers 64 of 16,384 slots, so 256 audits are one round through all of them."""
ENTRIES_MAX = 3 * 256 * INTERVAL


def halted(cluster: Cluster, place: int) -> str:
    return (cluster.status(place) or {}).get("halted", "")


def audit_everything(cluster: Cluster, writer: int, until: int | None) -> int:
    """Write entries, one each, until node ``until`` halts or every slot was audited; how many."""
    with cluster.connect(writer) as connection:
        for count in range(1, ENTRIES_MAX + 1):
            assert connection.call("SET", "filler", count) == "OK"
            if until is not None and count % 64 == 0 and halted(cluster, until):
                return count
    return ENTRIES_MAX


def poison(cluster: Cluster, place: int) -> None:
    """Restart ``place`` as a node that counts wrong, with all three in agreement so far."""
    with cluster.connect(cluster.leader()) as connection:
        for one in range(200):
            connection.ask("SET", f"key:{one}", one)
    cluster.kill(place)
    cluster.start_patched(place, COUNTS_WRONG)
    cluster.wait_ready()
    cluster.wait_converged()


def test_a_diverged_follower_quarantines_itself(make_cluster):
    cluster = make_cluster(digest_interval=INTERVAL)
    leader = cluster.leader()
    victim = cluster.follower()
    poison(cluster, victim)
    leader = cluster.leader()
    assert leader != victim
    with cluster.connect(leader) as connection:
        assert connection.ask("INCR", "poisoned") == 1
    count = audit_everything(cluster, leader, victim)
    wait_until(lambda: halted(cluster, victim), "the diverged node has noticed")
    assert "diverged" in halted(cluster, victim)
    print(f"\ndiverged follower found after {count} entries at an interval of {INTERVAL}: {halted(cluster, victim)}")
    with cluster.connect(victim) as connection:
        for words in (("GET", "poisoned"), ("SET", "key:1", "x")):
            reply = connection.call(*words)
            assert isinstance(reply, ErrorText), f"{words} -> {reply!r}"
        assert str(connection.call("GET", "poisoned")).startswith("MISCONF")
        assert connection.call("PING") == "PONG", "its operator can still ask it"
    assert cluster.processes[victim].poll() is None
    assert "diverged" in cluster.log(victim)
    healthy = [place for place in cluster.running if place != victim]
    for place in healthy:
        assert not halted(cluster, place)
        with cluster.connect(place) as connection:
            assert connection.ask("GET", "poisoned") == b"1"
            assert connection.ask("SET", f"after:{place}", "goes on") == "OK"


def test_a_diverged_leader_does_not_take_the_others_with_it_silently(make_cluster):
    """The audit compares with the leader: where that one is wrong, whoever differs stops, loudly, and nobody answers both.

    A majority that differs from its leader stops, and with it the cluster: safe, and for an operator to judge.
    """
    cluster = make_cluster(digest_interval=INTERVAL)
    victim = cluster.follower()
    poison(cluster, victim)
    with cluster.connect(cluster.leader()) as connection:
        assert connection.ask("RAFT.TRANSFER", f"n{victim + 1}") == "OK"
    wait_until(lambda: cluster.leader() == victim, "the poisoned node leads")
    with cluster.connect(victim) as connection:
        assert connection.ask("INCR", "poisoned") == 2
    others = [place for place in range(3) if place != victim]

    def noticed() -> bool:
        with cluster.connect(victim, timeout_s=15) as connection:
            for count in range(64):
                if isinstance(connection.call("SET", "filler", count), ErrorText):
                    break
        return all(halted(cluster, place) for place in others)

    wait_until(noticed, "the others have noticed", 60)
    for place in others:
        assert "diverged" in halted(cluster, place)
        with cluster.connect(place) as connection:
            assert isinstance(connection.call("GET", "poisoned"), ErrorText)
    with cluster.connect(victim, timeout_s=15) as connection:
        assert isinstance(connection.call("GET", "poisoned"), ErrorText), "alone, it must not serve"


def test_replicas_that_agree_are_left_alone(make_cluster):
    """The same entries with nothing planted: expiry, random draws and every type, audited through all slots."""
    cluster = make_cluster(digest_interval=INTERVAL)
    leader = cluster.leader()
    with cluster.connect(leader) as connection:
        for one in range(300):
            connection.ask("SET", f"short:{one}", one, "PX", 20 + one * 10)
            connection.ask("SADD", f"set:{one % 7}", *range(one, one + 9))
            connection.ask("ZADD", "zset", one / 3, f"m{one % 50}")
            connection.ask("HINCRBYFLOAT", "hash", f"f{one % 9}", "0.1")
            connection.ask("SPOP", f"set:{one % 7}", 2)
            connection.ask("RPUSH", "list", one)
    audit_everything(cluster, leader, None)
    for place in cluster.running:
        assert not halted(cluster, place)
    cluster.wait_converged()


@pytest.mark.soak
def test_a_diverged_follower_is_found_at_the_default_interval(make_cluster):
    cluster = make_cluster()
    victim = cluster.follower()
    poison(cluster, victim)
    with cluster.connect(cluster.leader()) as connection:
        connection.ask("INCR", "poisoned")

    def noticed() -> bool:
        with cluster.connect(cluster.leader()) as connection:
            for count in range(2000):
                connection.call("SET", "filler", count)
        return bool(halted(cluster, victim))

    wait_until(noticed, "the diverged node has noticed", 1800)
