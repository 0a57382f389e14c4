"""READ and RAFT.TOKEN on real processes: what each mode answers on a node that is alone, behind, or well."""

from __future__ import annotations

import time

import pytest

from tests.integration.conftest import Cluster
from tests.integration.wire import Wire, resp

TIMEOUT_MS = 700
OK = ("simple", "OK")


@pytest.fixture
def alone(make_cluster):
    """(cluster, connection to a follower that just read ``k`` = ``v`` linearizably, when it was answered), the others killed."""
    cluster = make_cluster(request_timeout_ms=TIMEOUT_MS)
    leader, follower = cluster.leader(), cluster.follower()
    with Wire(cluster.ports[leader]) as writer:
        assert writer.do("SET", "k", "v") == OK
    with Wire(cluster.ports[follower]) as wire:
        assert wire.do("GET", "k") == ("bulk", b"v")
        answered = time.monotonic()
        cluster.kill(*(place for place in range(3) if place != follower))
        yield cluster, wire, answered


def code(reply):
    assert reply[0] == "error", reply
    return str(reply[1]).split()[0].lstrip("-")


def test_a_node_that_is_alone_reads_locally_and_not_linearizably(alone):
    _, wire, _ = alone
    assert wire.do("READ", "LOCAL") == OK
    assert wire.do("GET", "k") == ("bulk", b"v")
    wire.send(resp("GET", "k") + resp("STRLEN", "k"))
    assert [wire.read(), wire.read()] == [("bulk", b"v"), ("integer", 1)]
    wire.send(resp("MULTI") + resp("GET", "k") + resp("EXEC"))
    assert [wire.read(), wire.read()] == [OK, ("simple", "QUEUED")]
    assert wire.read() == ("array", [("bulk", b"v")])
    assert code(wire.do("SET", "k", "w")) == "CLUSTERDOWN"
    assert wire.do("READ", "LINEARIZABLE") == OK
    assert code(wire.do("GET", "k")) == "CLUSTERDOWN"


def test_a_bounded_read_is_answered_until_the_bound_is_over(alone):
    _, wire, answered = alone
    bound_s = 2.0
    assert wire.do("READ", "BOUNDED", int(bound_s * 1000)) == OK
    sent = time.monotonic()
    count = 0
    while (reply := wire.do("GET", "k")) == ("bulk", b"v"):
        assert sent - answered <= bound_s
        count += 1
        sent = time.monotonic()
    assert count > 0
    assert code(reply) == "CLUSTERDOWN"


def test_a_token_is_read_where_it_was_not_written(make_cluster):
    cluster = make_cluster(request_timeout_ms=3000)
    leader, behind = cluster.leader(), cluster.follower()
    with Wire(cluster.ports[behind]) as reader, Wire(cluster.ports[leader]) as writer:
        for number in range(20):
            assert writer.do("SET", "k", number) == OK
            kind, token = writer.do("RAFT.TOKEN")
            assert kind == "integer"
            assert reader.do("READ", "AT", "LEAST", token) == OK
            cluster.pause(behind)
            assert writer.do("SET", "k", f"{number} and more") == OK
            token = writer.do("RAFT.TOKEN")[1]
            reader.send(resp("READ", "AT", "LEAST", token) + resp("GET", "k"))
            cluster.resume(behind)
            assert reader.read() == OK
            assert reader.read() == ("bulk", f"{number} and more".encode())


def test_a_write_through_a_follower_is_covered_by_its_token(shared_cluster: Cluster):
    cluster = shared_cluster
    with Wire(cluster.ports[cluster.follower()]) as follower, Wire(cluster.ports[cluster.leader()]) as leader:
        for number in range(50):
            assert follower.do("SET", "k", number) == OK
            token = follower.do("RAFT.TOKEN")[1]
            for wire in (follower, leader):
                wire.send(resp("READ", "AT", "LEAST", token) + resp("GET", "k"))
                assert [wire.read(), wire.read()] == [OK, ("bulk", b"%d" % number)]


def test_a_token_that_nobody_gave_is_waited_for_and_then_refused(make_cluster):
    cluster = make_cluster(request_timeout_ms=TIMEOUT_MS)
    with Wire(cluster.ports[0]) as wire:
        assert wire.do("READ", "AT", "LEAST", 1_000_000) == OK
        assert code(wire.do("GET", "k")) == "TRYAGAIN"
        assert wire.do("RESET") == ("simple", "RESET")
        assert wire.do("GET", "k") == ("null", None)


def test_reads_and_writes_of_one_pipeline_keep_their_order_in_every_mode(shared_cluster: Cluster):
    with Wire(shared_cluster.ports[shared_cluster.follower()]) as wire:
        modes = (("LOCAL",), ("BOUNDED", 60_000), ("AT", "LEAST", 1), ("LINEARIZABLE",))
        for number, mode in enumerate(modes * 5):
            wire.send(
                resp("READ", *mode) + resp("SET", "k", number) + resp("GET", "k") + resp("RAFT.TOKEN")
                + resp("READ") + resp("INCR", "k")
            )  # fmt: skip
            assert [wire.read(), wire.read()] == [OK, OK]
            found = wire.read()
            if mode == ("LINEARIZABLE",):
                assert found == ("bulk", b"%d" % number)
            else:  # an earlier state
                assert found == ("null", None) or int(found[1]) <= number
            assert wire.read()[0] == "integer"
            assert wire.read() == ("simple", " ".join(map(str, mode)).lower())
            assert wire.read() == ("integer", number + 1)


def test_a_follower_that_redirects_serves_those_who_want_to_read_there(make_cluster):
    cluster = make_cluster()
    with Wire(cluster.ports[cluster.follower()]) as wire:
        assert wire.do("CONFIG", "SET", "redirect", "moved") == OK
        assert code(wire.do("GET", "k")) == "MOVED"
        assert wire.do("READ", "LOCAL") == OK
        assert wire.do("GET", "k") == ("null", None)
        assert code(wire.do("SET", "k", "v")) == "MOVED"
        assert wire.do("READONLY") == OK
        assert wire.do("RESET") == ("simple", "RESET")
        assert code(wire.do("GET", "k")) == "MOVED"


def test_what_is_read_behind_watch_is_never_older_than_the_watch(shared_cluster: Cluster):
    """Or an optimistic transaction would commit what it computed from an old value."""
    cluster = shared_cluster
    with Wire(cluster.ports[cluster.follower()]) as wire, Wire(cluster.ports[cluster.leader()]) as other:
        assert wire.do("READ", "LOCAL") == OK
        for number in range(100):
            assert other.do("SET", "k", number) == OK
            assert wire.do("WATCH", "k") == OK
            assert wire.do("GET", "k") == ("bulk", b"%d" % number)
            assert wire.do("UNWATCH") == OK
        assert wire.do("READ") == ("simple", "local")


def test_a_leader_that_was_stopped_reads_nothing_old_under_its_lease(make_cluster):
    cluster = make_cluster(read_lease="yes")
    for number in range(3):
        leader = cluster.leader()
        with Wire(cluster.ports[leader]) as wire:
            assert wire.do("SET", "k", f"old {number}") == OK
            for _ in range(50):
                assert wire.do("GET", "k") == ("bulk", f"old {number}".encode())
            cluster.pause(leader)
            with Wire(cluster.ports[cluster.leader()]) as other:
                assert other.do("SET", "k", f"new {number}") == OK
            wire.send(resp("GET", "k"))
            cluster.resume(leader)
            assert wire.read() == ("bulk", f"new {number}".encode())
