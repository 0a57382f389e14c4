"""Disks that are slow and not broken: one of them costs its leader the office, all of them cost time and nothing else.

Failure classes: a leader that keeps its office and stops everybody, leadership that goes to and fro, an election that
no slow disk can win, an acknowledged write that goes with the leader.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.integration.conftest import wait_until
from tests.integration.disks import log_of
from tests.integration.failing_disk import FailingDisk
from tests.integration.judging import describe, judge


@pytest.fixture
def slowable(make_cluster, load_on, tmp_path):
    """``slowable(places)``: (cluster under load, what the disk does that these nodes have, the load)."""

    def make(places: int) -> tuple[Any, FailingDisk, Any]:
        cluster = make_cluster(start=False, election_timeout_ms=1500, heartbeat_ms=100)
        disk = FailingDisk(tmp_path / "orders")
        for place in range(3):
            if place < places:
                cluster.start_patched(place, disk.patch)
            else:
                cluster.start(place)
        cluster.wait_ready()
        return cluster, disk, load_on(cluster)

    return make


def who_leads(cluster: Any, place: int) -> tuple[str, str]:
    """(node, term) as this node knows it; waits until it knows."""

    def known() -> tuple[str, str] | None:
        status = cluster.status(place) or {}
        return (status["leader_id"], status["term"]) if status.get("leader_id") else None

    return wait_until(known, "a leader is known", 60.0)


def test_a_leader_whose_syncs_take_longer_than_the_bound_hands_over_once(slowable):
    """Each sync of one node takes 3 s, disk_stall_ms is 2000."""
    cluster, disk, load = slowable(1)
    node = cluster.members[0].node_id
    with cluster.connect(cluster.leader()) as client:
        assert client.call(b"RAFT.TRANSFER", node.encode()) == "OK"
    wait_until(lambda: cluster.leader() == 0, "the node leads")
    disk.does("slow-sync 3")
    began = time.monotonic()
    wait_until(lambda: who_leads(cluster, 1)[0] != node, "another leads", 60.0)
    load.wait_acknowledged(50, 60.0)
    print(f"\nothers acknowledge {time.monotonic() - began:.1f} s after the disk became slow")
    after = who_leads(cluster, 1)
    wait_until(
        lambda: log_of(cluster, 0).count("the disk answers again") >= 2,
        "it was stalled, and back, again and again",
        60.0,
    )
    load.wait_acknowledged(100, 60.0)
    assert who_leads(cluster, 1) == after, "it disturbs nobody"
    disk.works()
    print(describe(judge(cluster, load)))


def test_nobody_loses_office_because_all_disks_are_slow(slowable):
    """Each sync takes half a second."""
    cluster, disk, load = slowable(3)
    place = cluster.leader()
    before = who_leads(cluster, place)
    disk.does("slow-sync 0.5")
    began = time.monotonic()
    load.wait_acknowledged(100, 120.0)
    print(f"\n100 writes in {time.monotonic() - began:.1f} s", end="")
    assert who_leads(cluster, place) == before
    wait_until(lambda: "slow disk: syncs of the log took longer" in log_of(cluster, place), "it warns")

    cluster.kill(place)
    began = time.monotonic()
    load.wait_acknowledged(50, 120.0)
    print(f"; {time.monotonic() - began:.1f} s to the 50th write after the leader's death")
    disk.works()
    cluster.start_patched(place, disk.patch)
    print(describe(judge(cluster, load)))
