"""Real clients read the replies: redis-py in both protocols, and redis-cli where it is installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from redis import Redis
from redis.sentinel import MasterNotFoundError, Sentinel


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request, port):
    with Redis(port=port, protocol=request.param) as made:
        yield made


class TestRedisPy:
    def test_introspection(self, client):
        assert client.ping() is True
        assert client.client_setname("me")
        assert client.client_getname() in {"me", b"me"}
        assert client.client_list()[-1]["name"] == "me"
        assert int(client.client_info()["id"]) == client.client_id()
        assert client.command_count() == len(client.command())
        assert client.command_getkeys("MSET", "a", "1", "b", "2") in ([b"a", b"b"], ["a", "b"])
        assert len(client.execute_command("COMMAND DOCS")) > 50

    def test_state(self, client):
        info = client.info()
        assert (info["role"], info["cluster_enabled"], info["raft_term"]) == ("master", 1, 7)
        assert info["slave0"]["port"] == 7380
        assert client.info("everything")["redis_version"] == "7.0.0"
        assert client.config_get("maxclients") == {"maxclients": "10000"}
        assert client.time() == (1_700_000_000, 123_000)
        assert client.slowlog_len() == 0
        assert client.memory_stats()["keys.count"] == 0
        assert client.acl_whoami() in {"default", b"default"}
        assert client.acl_getuser("default")["enabled"] is True
        assert client.module_list() == []
        assert client.lastsave().year > 2000

    def test_cluster_formats(self, client):
        assert client.execute_command("CLUSTER KEYSLOT", "a") == 15495
        nodes = client.execute_command("CLUSTER NODES")
        assert nodes["127.0.0.1:7380"]["slots"] == [["5461", "10921"]]
        assert client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_sentinel_finds_leader_and_replicas(self, server, port, protocol):
        sentinel = Sentinel([("127.0.0.1", port)], min_other_sentinels=2, protocol=protocol)
        assert sentinel.discover_master("raftkv") == ("127.0.0.1", 7379)
        assert sentinel.discover_slaves("mymaster") == [("127.0.0.1", 7380), ("127.0.0.1", 7381)]
        server.node.replicator.follow("n2")
        server.node.replicator.disconnect("n3")
        assert sentinel.discover_master("mymaster") == ("127.0.0.1", 7380)
        assert sentinel.discover_slaves("raftkv") == [("127.0.0.1", 7379)]
        server.node.replicator.follow("")
        with pytest.raises(MasterNotFoundError):
            sentinel.discover_master("raftkv")


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
class TestRedisCli:
    def ask(self, port, *words, stdin=None):
        done = subprocess.run(
            ["redis-cli", "-p", str(port), *words], input=stdin, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def test_info_and_help(self, port):
        assert "cluster_enabled:1" in self.ask(port, "INFO", "cluster")
        assert "    The number of this connection." in self.ask(port, "CLIENT", "HELP")

    def test_pipes_commands(self, port):
        assert self.ask(port, stdin="PING\nECHO x\nCLUSTER KEYSLOT a\n").split() == ["PONG", "x", "15495"]
