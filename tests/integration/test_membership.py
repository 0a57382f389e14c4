"""Members come, go, move and are replaced while twenty clients work.

Every change is made as an operator makes it, with ``raftkv cluster``. Failure classes (see chaos/): a write lost with a
member that left, two leaders over a change, a restart with the members of yesterday, a wiped disk that votes again.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.cluster

from chaos.workload import longest_gap_s
from raftkv.client import RaftKV
from tests.integration.judging import describe, judge
from tests.ports import free_ports

SMALL_LOG = {"snapshot_entries": 300, "log_retain_bytes": 0, "segment_bytes": "1mb"}
"""What a node that joins needs is not in the log any more soon: it gets a snapshot."""


# -------------------------------------------------------------------- the operator
def order(cluster: Any, *words: str, at: int | None = None) -> subprocess.CompletedProcess[str]:
    """``raftkv cluster ...`` at one node, the first that runs by default."""
    place = cluster.running[0] if at is None else at
    words = (*words, "-p", str(cluster.ports[place]), "--timeout", "20")
    return subprocess.run(
        [sys.executable, "-m", "raftkv", "cluster", *words], capture_output=True, text=True, timeout=90, check=False
    )


def succeed(cluster: Any, *words: str, at: int | None = None) -> str:
    done = order(cluster, *words, at=at)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def members(cluster: Any) -> dict[str, Any]:
    return json.loads(succeed(cluster, "status", "--json"))


def voters(cluster: Any) -> set[str]:
    return {one["node"] for one in members(cluster)["members"] if one["voter"]}


def name(cluster: Any, place: int) -> str:
    return cluster.members[place].node_id


def peers(cluster: Any, place: int) -> str:
    return f"127.0.0.1:{cluster.members[place].peer_port}"


def add(cluster: Any, place: int) -> None:
    """A node joins and becomes a voter by itself."""
    at = cluster.running[0]
    cluster.join(place)
    succeed(cluster, "add", name(cluster, place), peers(cluster, place), "--wait", at=at)


def remove(cluster: Any, place: int) -> None:
    succeed(cluster, "remove", name(cluster, place))
    cluster.absent.add(place)


def wait_halted(cluster: Any, place: int, reason: str) -> None:
    def halted() -> str:
        return (cluster.status(place) or {}).get("halted", "")

    assert reason in cluster.wait_until(halted, f"node {place} stops"), cluster.log(place)


def http(cluster: Any, place: int, path: str) -> tuple[int, str]:
    """(status, body) of one of the node's own pages; (0, "") while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.http_ports[place]}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def wait_settled(cluster: Any) -> None:
    """Until the leader knows the disk and the address of every member."""
    cluster.wait_until(lambda: all(one["disk"] for one in members(cluster)["members"]), "all disks are registered")


# ------------------------------------------------------------------------ joining
@pytest.mark.parametrize("settings", [{}, SMALL_LOG], ids=["by log", "by snapshot"])
def test_a_node_joins_and_votes(make_cluster, load_on, settings):
    cluster = make_cluster(3, 1, **settings)
    load = load_on(cluster)
    load.wait_acknowledged(1500)
    cluster.join(3)
    cluster.wait_until(lambda: "no member yet" in http(cluster, 3, "/ready")[1], "the new node says that it waits")
    with cluster.connect(3) as outsider:
        assert str(outsider.call("SET", "a", "b")).startswith("CLUSTERDOWN this node is no member")
    succeed(cluster, "add", "n4", peers(cluster, 3), "--wait")
    assert voters(cluster) == {"n1", "n2", "n3", "n4"}
    if settings:
        assert int(cluster.status(3)["snapshot_index"]) > 0, "it was to get a snapshot"
    load.wait_acknowledged(500)
    cluster.wait_until(lambda: http(cluster, 3, "/ready")[0] == 200, "the new node is ready")
    # Four voters: what is acknowledged now is on three of them, the new one among them or not.
    cluster.kill(cluster.follower())
    load.wait_acknowledged(200)
    print("\n" + describe(judge(cluster, load)))


def test_a_learner_stays_one_until_it_is_promoted(make_cluster, load_on):
    cluster = make_cluster(3, 1)
    load = load_on(cluster)
    cluster.join(3)
    succeed(cluster, "add", "n4", peers(cluster, 3), "--learner")
    cluster.wait_until(lambda: cluster.applied(3) >= cluster.applied(0) > 0, "the learner catches up")
    assert voters(cluster) == {"n1", "n2", "n3"}
    code, body = http(cluster, 3, "/ready")
    assert (code, "learner" in body) == (503, True)
    done = order(cluster, "transfer", "n4")
    assert (done.returncode, "'n4' is a learner, which cannot lead" in done.stderr) == (1, True)
    succeed(cluster, "promote", "n4")
    assert "n4" in voters(cluster)
    load.wait_acknowledged(100)
    judge(cluster, load)


# ------------------------------------------------------------------------ leaving
def test_a_follower_and_the_leader_are_removed(make_cluster, load_on):
    cluster = make_cluster(4, timeout=0)
    load = load_on(cluster)
    wait_settled(cluster)
    follower = cluster.follower()
    remove(cluster, follower)
    wait_halted(cluster, follower, "this node was removed from the cluster")
    leader = cluster.leader()
    with RaftKV([cluster.addresses[leader]]) as client:
        client.set("before", "1")
        remove(cluster, leader)
        wait_halted(cluster, leader, "this node was removed from the cluster")
        assert client.incr("before") == 2, "its own server is gone: the client has learnt of the others"
    assert voters(cluster) == {name(cluster, place) for place in cluster.running}
    load.wait_acknowledged(300)
    for place in (follower, leader):
        assert http(cluster, place, "/health")[0] == 503
        with cluster.connect(place) as connection:
            assert str(connection.call("SET", "late", "1")).startswith("CLUSTERDOWN this node was removed")
            assert str(connection.call("GET", "before")).startswith("CLUSTERDOWN this node was removed")
    metrics = http(cluster, cluster.leader(), "/metrics")[1]
    assert f'peer="{name(cluster, follower)}"' not in metrics
    assert "raftkv_raft_voters 2.0" in metrics
    print("\n" + describe(judge(cluster, load)))
    with cluster.connect(cluster.running[0]) as connection:
        assert connection.ask("EXISTS", "late") == 0


def test_a_dead_node_is_replaced(make_cluster, load_on):
    cluster = make_cluster(3, 1)
    load = load_on(cluster)
    wait_settled(cluster)
    dead = cluster.leader()
    cluster.kill(dead)
    load.wait_acknowledged(100)
    cluster.absent.add(dead)
    cluster.join(3)
    succeed(cluster, "replace", name(cluster, dead), "n4", peers(cluster, 3), "--wait")
    assert voters(cluster) == {name(cluster, place) for place in cluster.running}
    load.wait_acknowledged(200)
    cluster.start(dead)
    wait_halted(cluster, dead, "this node was removed from the cluster")
    print("\n" + describe(judge(cluster, load)))


# ----------------------------------------------------------------- all at one time
@pytest.mark.parametrize("settings", [{}, SMALL_LOG], ids=["from the log", "from the snapshot"])
def test_everything_changes_and_all_start_again_with_their_first_settings(make_cluster, load_on, settings):
    cluster = make_cluster(3, 2, **settings)
    load = load_on(cluster)
    add(cluster, 3)
    for _ in range(3):
        succeed(cluster, "transfer")
        load.wait_acknowledged(50)
    remove(cluster, cluster.follower())
    remove(cluster, cluster.leader())
    add(cluster, 4)
    dead = cluster.follower()
    cluster.kill(dead)
    spare = next(place for place in range(3) if place in cluster.absent)
    load.wait_acknowledged(100)
    if settings:
        cluster.wait_until(
            lambda: all(_is_in_snapshot(cluster, place) for place in cluster.running), "it is in snapshots"
        )
    before = voters(cluster)
    places = [place for place in range(5) if name(cluster, place) in before]
    cluster.kill(*cluster.running)
    for place in places:
        cluster.start(place)  # its --peers still are the three that the cluster began with
    cluster.wait_ready()
    assert voters(cluster) == before
    assert name(cluster, spare) not in before
    load.wait_acknowledged(300)
    print("\n" + describe(judge(cluster, load)))


def _is_in_snapshot(cluster: Any, place: int) -> bool:
    status = cluster.status(place) or {}
    return int(status.get("snapshot_index", 0)) > int(status.get("configuration_index", 0)) > 0


# ------------------------------------------------------------------ moved and wiped
def test_a_node_moves_to_another_port(make_cluster, load_on):
    cluster = make_cluster()
    load = load_on(cluster)
    wait_settled(cluster)
    place = cluster.follower()
    assert cluster.stop(place) == 0
    [port] = free_ports(1)
    cluster.members[place] = replace(
        cluster.members[place], peer_port=port
    )  # founders, and so --peers, have the old one
    cluster.words[place] = ["--peer-advertise", f"127.0.0.1:{port}"]
    cluster.start(place)
    cluster.wait_ready()

    def registered() -> bool:
        return any(one["peer_address"] == f"127.0.0.1:{port}" for one in members(cluster)["members"])

    cluster.wait_until(registered, "its new address is in the configuration")
    load.wait_acknowledged(100)
    others = [one for one in cluster.running if one != place]
    cluster.kill(*others)
    for one in others:
        cluster.start(one)  # they knew the old address only, but for their logs
    cluster.wait_ready()
    judge(cluster, load)


def test_a_wiped_node_is_kept_out_until_it_is_added_again(make_cluster, load_on):
    cluster = make_cluster()
    load = load_on(cluster)
    wait_settled(cluster)
    place = cluster.follower()
    node = name(cluster, place)
    cluster.kill(place)
    cluster.members[place].data.rename(cluster.members[place].directory / "lost")
    cluster.start(place)
    wait_halted(cluster, place, "another data directory")
    assert http(cluster, place, "/health")[0] == 503
    load.wait_acknowledged(200)
    cluster.kill(place)
    cluster.absent.add(place)
    succeed(cluster, "remove", node)
    (cluster.members[place].data).rename(cluster.members[place].directory / "halted")
    add(cluster, place)
    assert voters(cluster) == {"n1", "n2", "n3"}
    load.wait_acknowledged(200)
    print("\n" + describe(judge(cluster, load)))


# ------------------------------------------------------------------------ refusals
def test_a_change_that_leaves_no_quorum_is_refused(make_cluster, load_on):
    cluster = make_cluster()
    load = load_on(cluster)
    wait_settled(cluster)
    dead = cluster.follower()
    cluster.kill(dead)
    leader = cluster.leader()
    other = next(place for place in range(3) if place not in (dead, leader))
    cluster.wait_until(lambda: "no quorum" in order(cluster, "remove", name(cluster, other)).stderr, "it is refused")
    assert voters(cluster) == {"n1", "n2", "n3"}
    cluster.start(dead)
    cluster.wait_ready()
    cluster.kill(dead, other)

    def refused() -> bool:
        with cluster.connect(leader) as connection:
            return str(connection.call("RAFT.ADD", "n9", "127.0.0.1:1")).startswith("CLUSTERDOWN")

    cluster.wait_until(refused, "a leader without a majority steps down, and changes nothing")
    cluster.heal()
    assert voters(cluster) == {"n1", "n2", "n3"}
    judge(cluster, load)


def test_of_two_changes_at_once_one_is_refused(make_cluster):
    cluster = make_cluster()
    wait_settled(cluster)
    leader = cluster.leader()
    for place in cluster.running:
        if place != leader:
            cluster.pause(place)
    with cluster.connect(leader) as first, cluster.connect(leader) as second:
        first.send(b"RAFT.ADD n8 127.0.0.1:1\r\n")
        cluster.wait_until(lambda: second.ask("RAFT.STATUS", "changing")[-1] == 1, "the first is in the log")
        assert str(second.call("RAFT.ADD", "n9", "127.0.0.1:2")).startswith("TRYAGAIN another membership change")
        for place in sorted(cluster.paused):
            cluster.resume(place)
        first.read()  # done, or unknown when the others woke up too late
    cluster.wait_ready()
    assert "n9" not in {one["node"] for one in members(cluster)["members"]}


# ------------------------------------------------------------------------ handing over
def test_transfers_lose_no_request(make_cluster, load_on):
    cluster = make_cluster(election_timeout_ms=400, heartbeat_ms=50)
    load = load_on(cluster, pause_s=0.002)
    begin = load.now()
    for _ in range(10):
        with RaftKV(cluster.addresses) as client:
            client.transfer_leadership()
        load.wait_acknowledged(100)
    end = load.now()
    operations = judge(cluster, load)
    failed = [one for one in operations if one.outcome != "ok"]
    print(f"\n{describe(operations)}; longest gap between writes {longest_gap_s(operations, begin, end) * 1000:.0f} ms")
    assert not failed, failed[:5]


# --------------------------------------------------------------------------- clients
def test_clients_follow_the_members(make_cluster):
    """Ours, and redis-py's for clusters: in the end none of the nodes that they were given is left."""
    cluster = make_cluster(3, 3)
    first = redis.cluster.ClusterNode("127.0.0.1", cluster.ports[0])
    with (
        RaftKV(cluster.addresses[:1]) as own,
        contextlib.closing(redis.cluster.RedisCluster(startup_nodes=[first], socket_timeout=5)) as other,
    ):
        own.set("own", 0)
        assert _write_everywhere(other)
        for old, new in ((0, 3), (1, 4), (2, 5)):
            cluster.join(new)
            succeed(cluster, "replace", name(cluster, old), name(cluster, new), peers(cluster, new), "--wait")
            cluster.absent.add(old)
            wait_halted(cluster, old, "this node was removed from the cluster")
            assert own.incr("own") == new - 2
            cluster.wait_until(lambda: _write_everywhere(other), "the cluster client goes on")
        assert own.get("own") == b"3"
        assert {node.port for node in other.get_nodes()} <= {*cluster.ports[3:], cluster.ports[0]}
    with cluster.connect(3) as connection:
        shards = connection.ask("CLUSTER", "SLOTS")
    assert {shard[2][1] for shard in shards} == set(cluster.ports[3:])


def _write_everywhere(client: Any) -> bool:
    """Whether keys in slots of all nodes can be written."""
    try:
        return all(client.set(f"key:{number}", number) for number in range(60))
    except redis.exceptions.RedisError:
        return False
