"""WAITAOF, SYNC, COMPACT and Redis' words for snapshots on real nodes; and a Redis that takes a node for its master."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from raftkv.cli.probe import as_fields
from raftkv.cli.resp import ErrorText
from tests.integration.wire import OK, QUEUED, Wire
from tests.ports import free_ports

SMALL_SEGMENTS = {"segment_bytes": "1mb", "log_retain_bytes": "64mb"}


def info(cluster, place, section="persistence"):
    with cluster.connect(place) as node:
        lines = node.call("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def synced(cluster, place):
    return int(info(cluster, place)["log_synced_index"])


def committed(cluster, place):
    return int(cluster.status(place)["commit_index"])


def wire(cluster, place, proto=2):
    connection = Wire(cluster.ports[place])
    if proto == 3:
        connection.do("HELLO", 3)
    return connection


# ---------------------------------------------------------------- WAITAOF
def test_waitaof_syncs_what_the_setting_leaves_to_the_operating_system(make_cluster, wait_until):
    cluster = make_cluster(fsync="no")
    leader, follower = cluster.leader(), cluster.follower()
    third = next(place for place in range(3) if place not in {leader, follower})
    with wire(cluster, follower) as client, cluster.connect(leader) as other:
        assert client.do("SET", "a", 1) == OK
        index = committed(cluster, leader)
        assert min(synced(cluster, place) for place in range(3)) < index  # or the rest would prove nothing
        assert client.do("WAITAOF", 1, 0, 0) == ("array", [("integer", 1), ("integer", 0)])
        assert synced(cluster, follower) >= index
        assert client.do("WAITAOF", 0, 99, 0) == ("array", [("integer", 1), ("integer", 2)])
        assert all(synced(cluster, place) >= index for place in range(3))

        # in a transaction nobody waits, and what is not known is not claimed
        assert other.call("MULTI") == "OK"
        for words in (("SET", "a", 2), ("WAITAOF", 1, 1, 0), ("WAIT", 1, 0)):
            assert other.call(*words) == "QUEUED"
        assert other.call("EXEC") == ["OK", [0, 0], 1]

        # one of three answers nobody
        cluster.pause(third)
        other.call("SET", "a", 3)
        began = time.monotonic()
        assert other.call("WAITAOF", 1, 2, 2000) == [1, 1]
        assert time.monotonic() - began >= 2
        assert client.do("CONFIG", "SET", "timeout", 1) == OK
        sent = time.monotonic()
        client.send(b"WAITAOF 1 2 0\r\nGET a\r\n")
        wait_until(lambda: info(cluster, follower, "clients")["blocked_clients"] == "1", "a blocked client")
        with cluster.connect(follower) as meanwhile:
            assert meanwhile.call("GET", "a") == b"3"
        wait_until(lambda: time.monotonic() - sent > 1.5, "longer than an idle client may stay")
        cluster.resume(third)
        assert client.read() == ("array", [("integer", 1), ("integer", 2)])
        assert client.read() == ("bulk", b"3")
        assert client.do("CONFIG", "SET", "timeout", 0) == OK

        cluster.pause(third)
        client.send(b"SET a 4\r\nWAITAOF 1 2 0\r\n")
        assert client.read() == OK
        wait_until(lambda: info(cluster, follower, "clients")["blocked_clients"] == "1", "a blocked client")
    wait_until(
        lambda: info(cluster, follower, "clients")["blocked_clients"] == "0", "nobody waits for a client that left"
    )
    cluster.resume(third)


# ---------------------------------------------------------------- SYNC, COMPACT
def test_sync_and_compact_on_one_node_and_on_all(make_cluster):
    cluster = make_cluster(fsync="everysec", **SMALL_SEGMENTS)
    follower = cluster.follower()
    with cluster.connect(follower) as client, wire(cluster, cluster.leader(), proto=3) as leader:
        for number in range(60):
            client.call("SET", f"key{number}", os.urandom(32 * 1024))
        index = committed(cluster, cluster.leader())
        assert client.call("SYNC") >= 1
        everywhere = as_fields(client.call("SYNC", "ALL"))
        assert sorted(everywhere) == ["n1", "n2", "n3"]
        assert all(int(one) >= index for one in everywhere.values()), (everywhere, index)
        assert all(synced(cluster, place) >= index for place in range(3))

        kind, freed = leader.do("COMPACT", "ALL")
        assert kind == "map"
        for name, (_, pairs) in freed:
            found = {field: value for (_, field), (_, value) in pairs}
            assert found[b"index"] >= index, name
            assert found[b"first_index"] >= index - 10, name
            assert found[b"freed_bytes"] > 900_000, name
        for place in range(3):
            shown = info(cluster, place)
            assert int(shown["snapshot_index"]) >= index
            assert int(shown["aof_current_size"]) < 1_100_000
            assert int(shown["rdb_saves"]) == 1
        for words in (("SYNC", "NOW"), ("COMPACT", "ALL", "ALL")):
            assert client.call(*words) == "ERR syntax error"

        assert leader.do("MULTI") == OK
        assert leader.do("SYNC") == ("error", "ERR Command not allowed inside a transaction")
        assert leader.do("EXEC")[1].startswith("EXECABORT")
        assert leader.do("MULTI") == OK
        assert leader.do("BGSAVE") == QUEUED
        assert leader.do("EXEC") == ("array", [("simple", "Background saving started")])
    before = cluster.wait_converged()
    cluster.kill(follower)
    with cluster.connect(cluster.leader()) as client:
        answers = client.call("COMPACT", "ALL")
        named = dict(zip(answers[::2], answers[1::2], strict=True))
        assert named.pop(f"n{follower + 1}".encode()).endswith("cannot be reached")
        assert all(as_fields(one)["index"] for one in named.values())
    cluster.kill(*cluster.running)
    cluster.start_all()
    cluster.wait_ready()
    assert cluster.wait_converged() == before


def test_a_snapshot_that_was_removed_is_written_anew_before_the_log_is_cut(make_cluster, wait_until):
    cluster = make_cluster(nodes=1, segment_bytes="1mb", log_retain_bytes=0)
    values = [os.urandom(32 * 1024) for _ in range(60)]
    with cluster.connect(0) as client:
        for number, value in enumerate(values):
            client.call("SET", f"key{number}", value)
        snapshots = cluster.members[0].data / "snapshots"
        for words in (("SAVE",), ("COMPACT",), ("RAFT.BACKUP", "BEGIN")):
            client.call("SAVE")
            for file in snapshots.iterdir():
                file.unlink()
            assert not isinstance(client.call(*words), ErrorText)
            assert [file.suffix for file in snapshots.iterdir()] == [".snap"], words
        wait_until(
            lambda: int(info(cluster, 0)["aof_base_size"]) <= int(info(cluster, 0)["aof_current_size"]) < 1_100_000,
            "the size of the log that was cut",
        )
    cluster.kill(0)
    cluster.start(0)
    cluster.wait_ready()
    with cluster.connect(0) as client:
        assert [client.call("GET", f"key{number}") for number in range(60)] == values


# ---------------------------------------------------------------- a Redis replica
def test_what_a_redis_replica_sends_is_refused_by_name(shared_cluster):
    with wire(shared_cluster, 0) as replica:
        assert replica.do("PING") == ("simple", "PONG")
        for words in (
            ("REPLCONF", "listening-port", 1), ("REPLCONF", "capa", "eof", "capa", "psync2"), ("PSYNC", "?", -1), ("SYNC",),
        ):  # fmt: skip
            kind, text = replica.do(*words)
            assert kind == "error"
            assert text.startswith("ERR raftkv does not replicate to a Redis server"), words


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_redis_told_to_follow_a_node_says_why_it_cannot(shared_cluster, tmp_path, wait_until):
    [port] = free_ports(1)
    log = tmp_path / "redis.log"
    words = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path, "--logfile", log]
    words += ["--replicaof", "127.0.0.1", shared_cluster.ports[0]]
    process = subprocess.Popen(list(map(str, words)))
    try:
        wait_until(
            lambda: log.exists() and "raftkv does not replicate to a Redis server" in log.read_text(),
            "the refusal in its log",
        )
        assert "aborted replication with an error" in log.read_text()
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- CLIENT LIST
def test_client_list_knows_the_last_command_of_every_way(shared_cluster):
    with wire(shared_cluster, 0) as client, wire(shared_cluster, 0) as watcher:
        me = client.do("CLIENT", "ID")[1]
        for words, shown in (
            (("GET", "a"), "get"), (("SET", "a", 1), "set"), (("Type", "a"), "type"), (("OBJECT", "ENCODING", "a"), "object|encoding"),
            (("CONFIG", "GET", "maxclients"), "config|get"),
        ):  # fmt: skip
            assert client.do(*words)[0] != "error"
            assert f" cmd={shown} " in watcher.do("CLIENT", "LIST", "ID", me)[1].decode(), words
