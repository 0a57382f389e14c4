"""MULTI, EXEC, WATCH, and the commands that change what a connection is: the same conversation with redis-server."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.differential.harness import redis_server
from tests.integration.conftest import wait_until
from tests.integration.wire import OK, PONG, QUEUED, Wire, resp

CONVERSATIONS = {
    "empty": "MULTI/EXEC",
    "values and errors": "MULTI/SET k 1/INCR k/LPUSH k x/GET k/EXEC/GET k",
    "nested": "MULTI/MULTI/SET k 1/EXEC/GET k",
    "exec without multi": "EXEC/PING",
    "discard without multi": "DISCARD/PING",
    "discard": "SET k 1/MULTI/SET k 2/DISCARD/GET k/EXEC",
    "unknown command aborts": "MULTI/NOSUCH/SET k 1/EXEC/GET k",
    "wrong arity aborts": "MULTI/GET/SET k 1/EXEC/GET k",
    "abort is over after exec": "MULTI/NOSUCH/EXEC/MULTI/SET k 1/EXEC",
    "abort is over after discard": "MULTI/NOSUCH/DISCARD/MULTI/SET k 1/EXEC",
    "watch inside": "MULTI/WATCH k/SET k 1/EXEC/GET k",
    "watch without keys": "WATCH/MULTI/EXEC",
    "unwatch inside": "WATCH k/MULTI/UNWATCH/EXEC/GET k",
    "watched and untouched": "SET k 1/WATCH k other/MULTI/GET k/EXEC",
    "watched and changed by itself": "WATCH k/SET k 1/MULTI/GET k/EXEC/GET k",
    "watched and changed to the same": "SET k 1/WATCH k/SET k 1/MULTI/GET k/EXEC",
    "watched and deleted": "SET k 1/WATCH k/DEL k/MULTI/GET k/EXEC",
    "missing and deleted": "WATCH k/DEL k/MULTI/PING/EXEC",
    "unwatched": "WATCH k/SET k 1/UNWATCH/MULTI/GET k/EXEC",
    "discard unwatches": "WATCH k/SET k 1/MULTI/DISCARD/MULTI/GET k/EXEC",
    "exec unwatches": "WATCH k/SET k 1/MULTI/EXEC/MULTI/GET k/EXEC",
    "flush touches": "SET k 1/WATCH k/FLUSHALL/MULTI/PING/EXEC",
    "flush of nothing": "WATCH k/FLUSHALL/MULTI/PING/EXEC",
    "expired before": "SET k 1 PX 1/PAUSE/WATCH k/MULTI/GET k/EXEC",
    "expired after": "SET k 1 PX 300/WATCH k/PAUSE/MULTI/GET k/EXEC/GET k",
    "expired after, written by nobody": "SET k 1 PX 300/WATCH k/PAUSE/MULTI/PING/EXEC",
    "expiry set in the past": "SET k 1/WATCH k/PEXPIREAT k 1/MULTI/GET k/EXEC",
    "persist touches": "SET k 1 EX 100/WATCH k/PERSIST k/MULTI/PING/EXEC",
    "other database": "WATCH k/SELECT 1/SET k 1/SELECT 0/MULTI/PING/EXEC/SELECT 1/DEL k",
    "watched in another database": "SELECT 1/WATCH k/SELECT 0/SET k 1/MULTI/PING/EXEC",
    "changed after swapdb": "WATCH k/SWAPDB 0 1/SET k 1/MULTI/PING/EXEC/SWAPDB 0 1",
    "changed under the other number after swapdb": "WATCH k/SWAPDB 0 1/SELECT 1/SET k 1/MULTI/PING/EXEC/SWAPDB 0 1",
    "swapdb touches": "SET k 1/WATCH k/SWAPDB 0 1/MULTI/PING/EXEC/SWAPDB 0 1",
    "select inside": "MULTI/SELECT 3/SET k here/SELECT 0/GET k/EXEC/SELECT 3/GET k/DEL k/SELECT 0",
    "select stays": "MULTI/SELECT 3/SET k here/EXEC/GET k/DEL k/SELECT 0/GET k",
    "select of nothing inside": "MULTI/SELECT 99/SELECT abc/SET k 1/EXEC/GET k",
    "connection inside": "MULTI/PING/ECHO x/PING y/CLIENT SETNAME me/CLIENT GETNAME/SET k 1/EXEC/CLIENT GETNAME",
    "hello inside": "MULTI/CLIENT GETNAME/HELLO 9/EXEC",
    "container without subcommand": "MULTI/CLIENT/EXEC",
    "unknown subcommand": "CLIENT NOSUCH/MULTI/CLIENT NOSUCH/EXEC",
    "reset inside": "MULTI/SET k 1/RESET/EXEC/GET k",
    "reset": "SELECT 5/CLIENT SETNAME me/WATCH k/RESET/CLIENT GETNAME/SET k 1/GET k/DEL k",
    "quit inside": "MULTI/SET k 1/QUIT",
    "quit with words": "PING/QUIT now",
    "hello": "HELLO 9/HELLO x/HELLO 2 SETNAME/HELLO 2 AUTH default/HELLO 3 AUTH other x/CLIENT GETNAME",
    "auth without password": "AUTH x/AUTH default x/AUTH other x/PING",
    "select": "SELECT 15/SELECT 16/SELECT -1/SELECT x/SELECT 0",
    "reply off": "CLIENT REPLY OFF/SET k 1/GET k/CLIENT REPLY SKIP/CLIENT REPLY ON/GET k",
    "reply skip": "CLIENT REPLY SKIP/SET k 1/GET k/CLIENT REPLY SKIP/CLIENT REPLY SKIP/GET k/GET k",
    "reply skip of an error": "CLIENT REPLY SKIP/NOSUCH/PING",
    "reply off in a transaction": "CLIENT REPLY OFF/MULTI/SET k 7/EXEC/CLIENT REPLY ON/GET k",
    "reply off, then exec": "MULTI/SET k 8/EXEC/CLIENT REPLY SKIP/MULTI/SET k 9/EXEC/GET k",
    "reply wrong": "CLIENT REPLY MAYBE/PING",
    "kill nobody": "CLIENT KILL 1.2.3.4:5/CLIENT KILL ID 999999/CLIENT KILL ID x/CLIENT KILL FOO bar/CLIENT KILL",
    "kill oneself": "SET k 1/CLIENT KILL ID {id} SKIPME no/GET k",
    "pause wrong": "CLIENT PAUSE x/CLIENT PAUSE -1/CLIENT PAUSE 1 SOME/CLIENT UNPAUSE",
    "setname": "CLIENT SETNAME x/CLIENT GETNAME/CLIENT SETNAME/PING",
    "long queue": "MULTI/" + "RPUSH k x/LLEN k/" * 300 + "EXEC",
}


def _converse(port: int, script: str) -> list[object]:
    """Every reply, then whether the server closed. What stands between two PAUSEs is one packet."""
    with Wire(port) as wire:
        wire.do("FLUSHALL")
        if "{id}" in script:
            script = script.replace("{id}", str(wire.do("CLIENT", "ID")[1]))
        packets = script.split("/PAUSE/")
        for number, packet in enumerate(packets):
            if number:
                time.sleep(0.35)  # let a key expire: that is what is tested
            wire.send(b"".join(resp(*line.split(" ")) for line in packet.split("/")))
        wire.half_close()
        return _replies(wire)


def _replies(wire: Wire) -> list[object]:
    found: list[object] = []
    while True:
        try:
            if not wire._file.peek(1):
                return found
        except ConnectionResetError:
            return found
        found.append(wire.read())


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


class TestAsRedis:
    def test_every_conversation_goes_as_with_redis(self, shared_cluster, redis_port):
        leader, follower = shared_cluster.leader(), shared_cluster.follower()
        different = []
        for title, script in CONVERSATIONS.items():
            expected = _converse(redis_port, script)
            for who, place in (("leader", leader), ("follower", follower)):
                found = _converse(shared_cluster.ports[place], script)
                if found != expected:
                    different.append(f"{title}, {who}:\n  redis {expected}\n  found {found}")
        assert not different, "\n".join(different)


class TestWatch:
    def test_of_many_increments_by_check_and_set_none_is_lost(self, shared_cluster):
        """Optimistic locking through all nodes at once: each success counts exactly once."""
        tries = 25
        wires = [Wire(port) for port in shared_cluster.ports]
        wires[0].do("SET", "counter", 0)
        done = 0
        for _ in range(tries):
            for wire in wires:
                wire.send(resp("WATCH", "counter") + resp("GET", "counter"))
            seen = [(wire.read(), wire.read()) for wire in wires]
            for wire, (_, value) in zip(wires, seen, strict=True):
                wire.send(resp("MULTI") + resp("SET", "counter", int(value[1]) + 1) + resp("EXEC"))
            results = [[wire.read() for _ in range(3)][-1] for wire in wires]
            winners = [one for one in results if one == ("array", [OK])]
            assert len(winners) == 1, results
            assert results.count(("nil-array", None)) == len(wires) - 1, results
            done += 1
        assert wires[1].do("GET", "counter") == ("bulk", b"%d" % done)
        for wire in wires:
            wire.close()

    def test_a_watch_lives_through_a_change_of_leader(self, shared_cluster):
        leader = shared_cluster.leader()
        follower = shared_cluster.follower()
        with Wire(shared_cluster.ports[follower]) as wire, Wire(shared_cluster.ports[follower]) as other:
            assert wire.do("WATCH", "kept") == OK
            assert other.do("WATCH", "changed") == OK
            with Wire(shared_cluster.ports[leader]) as admin:
                assert admin.do("RAFT.TRANSFER") == OK
                wait_until(lambda: shared_cluster.leader() != leader, "another leader")
                assert admin.do("SET", "changed", 1) == OK
            for one, expected in ((wire, ("array", [OK])), (other, ("nil-array", None))):
                one.send(resp("MULTI") + resp("SET", "mark", 1) + resp("EXEC"))
                assert [one.read() for _ in range(3)] == [OK, QUEUED, expected]


class TestConnectionState:
    def test_hello_switches_in_the_middle_of_a_pipeline(self, shared_cluster):
        for port in shared_cluster.ports:
            with Wire(port) as wire:
                hgetall = resp("HGETALL", "h")
                wire.send(
                    resp("HSET", "h", "f", "v") + hgetall + resp("HELLO", 3, "SETNAME", "me") + hgetall
                    + resp("SET", "s", 1) + resp("GET", "missing") + resp("HELLO", 2) + hgetall + resp("GET", "missing")
                )  # fmt: skip
                assert wire.read()[0] == "integer"
                assert wire.read() == ("array", [("bulk", b"f"), ("bulk", b"v")])
                kind, fields = wire.read()
                assert kind == "map"
                assert (("bulk", b"proto"), ("integer", 3)) in list(fields)
                assert wire.read()[0] == "map"
                assert [wire.read(), wire.read()] == [OK, ("null", None)]
                assert wire.read()[0] == "array"
                assert wire.read() == ("array", [("bulk", b"f"), ("bulk", b"v")])
                assert wire.read() == ("null", None)

    def test_what_was_sent_before_the_end_is_answered(self, shared_cluster):
        for port in shared_cluster.ports:
            for sent, expected in (
                (b"PING\r\n", b"+PONG\r\n"),
                (b"PING\n", b"+PONG\r\n"),
                (b"SET a 1\r\nGET a\r\nPING\r\nINCR a\r\nGET a\r\n", b"+OK\r\n$1\r\n1\r\n+PONG\r\n:2\r\n$1\r\n2\r\n"),
                (b"SET a 1\r\nMULTI\r\nINCR a\r\nEXEC\r\nGET a", b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n"),
                (b"SET a 1\r\nQUIT\r\nSET a 2\r\n", b"+OK\r\n+OK\r\n"),
                (b"SET a 1\r\n*1\r\n+garbage\r\nSET a 2\r\n", b"+OK\r\n-ERR Protocol error: expected '$', got '+'\r\n"),
                (b"", b""),
            ):
                with Wire(port) as wire:
                    wire.send(sent)
                    wire.half_close()
                    assert wire.rest() == expected, sent

    def test_a_killed_client_is_gone(self, shared_cluster):
        with Wire(shared_cluster.ports[0]) as wire, Wire(shared_cluster.ports[0]) as victim:
            number = victim.do("CLIENT", "ID")[1]
            assert wire.do("CLIENT", "KILL", "ID", number) == ("integer", 1)
            assert victim.is_closed()
            wait_until(lambda: wire.do("CLIENT", "LIST", "ID", number) == ("bulk", b""), "the list forgets it")
            assert wire.do("PING") == PONG


class TestPause:
    def test_writes_wait_and_reads_go_on(self, shared_cluster):
        port = shared_cluster.ports[shared_cluster.follower()]
        with Wire(port) as admin, Wire(port) as writer, Wire(port) as reader, Wire(port) as mixed:
            assert admin.do("SET", "k", "before") == OK
            assert admin.do("CLIENT", "PAUSE", 60_000, "WRITE") == OK
            try:
                writer.send(resp("SET", "k", "after"))
                mixed.send(resp("GET", "k") + resp("APPEND", "k", "!") + resp("GET", "k") + resp("PING"))
                assert mixed.read() == ("bulk", b"before")
                assert reader.do("GET", "k") == ("bulk", b"before")
                assert reader.do("PING") == PONG
                reader.send(resp("MULTI") + resp("STRLEN", "k") + resp("EXEC") + resp("PING"))
                assert [reader.read(), reader.read()] == [OK, QUEUED]
            finally:
                assert admin.do("CLIENT", "UNPAUSE") == OK
            assert writer.read() == OK
            assert mixed.read()[0] == "integer"
            assert mixed.read()[1] in {b"before!", b"after!", b"after"}
            assert mixed.read() == PONG
            assert reader.read()[0] == "array"
            assert reader.read() == PONG

    def test_all_wait_until_time_is_up(self, shared_cluster):
        with Wire(shared_cluster.ports[0]) as admin, Wire(shared_cluster.ports[0]) as wire:
            started = time.monotonic()
            assert admin.do("CLIENT", "PAUSE", 300) == OK
            wire.send(resp("PING") + resp("GET", "k") + resp("SET", "k", 1) + resp("PING"))
            assert [wire.read() for _ in range(4)] == [PONG, ("null", None), OK, PONG]
            assert time.monotonic() - started >= 0.3
