"""What cluster and Sentinel clients are told: by a leader, by a follower, with a member away, without a leader."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftkv.errors import CommandError
from raftkv.protocol.replies import NIL_ARRAY
from raftkv.server.commands.topology import cluster_name, members
from raftkv.store.slots import SLOTS, key_slot

N1, N2, N3 = (hashlib.sha1(name).hexdigest() for name in (b"n1", b"n2", b"n3"))


def entry(port: int, name: str) -> list:
    return [b"127.0.0.1", port, name.encode(), {}]


def lines(reply) -> list[str]:
    return reply.text.decode().splitlines()


class TestForward:
    def test_every_member_owns_a_range(self, server):
        assert server.line("CLUSTER SLOTS") == [
            [0, 5460, entry(7379, N1)],
            [5461, 10921, entry(7380, N2)],
            [10922, 16383, entry(7381, N3)],
        ]
        assert not server.client.redirect

    def test_followers_tell_the_same(self, server):
        before = server.line("CLUSTER SLOTS")
        server.node.replicator.follow("n2")
        assert server.line("CLUSTER SLOTS") == before
        server.node.replicator.follow("")
        assert server.line("CLUSTER SLOTS") == before

    def test_a_member_that_is_away_owns_nothing(self, server):
        server.node.replicator.disconnect("n2")
        assert [row[:2] for row in server.line("CLUSTER SLOTS")] == [[0, 8191], [8192, 16383]]
        assert lines(server.line("CLUSTER NODES"))[1].endswith("master,fail? - 0 1699999999623 7 disconnected")

    def test_a_member_without_a_known_address_owns_nothing(self, server):
        del server.node.addresses["n3"]
        assert [row[2][1] for row in server.line("CLUSTER SLOTS")] == [7379, 7380]

    def test_nodes(self, server):
        assert lines(server.line("CLUSTER NODES")) == [
            f"{N1} 127.0.0.1:7379@17379 myself,master - 0 0 7 connected 0-5460",
            f"{N2} 127.0.0.1:7380@17380 master - 0 1699999999623 7 connected 5461-10921",
            f"{N3} 127.0.0.1:7381@17381 master - 0 1699999999623 7 connected 10922-16383",
        ]

    def test_shards(self, server):
        shards = server.line("CLUSTER SHARDS")
        assert [shard[b"slots"] for shard in shards] == [[0, 5460], [5461, 10921], [10922, 16383]]
        assert shards[1][b"nodes"] == [
            {
                b"id": N2.encode(), b"port": 7380, b"ip": b"127.0.0.1", b"endpoint": b"127.0.0.1", b"role": b"master",
                b"replication-offset": 100, b"health": b"online",
            }
        ]  # fmt: skip

    def test_masters_have_no_replicas(self, server):
        assert server.line(f"CLUSTER REPLICAS {N2}") == []


class TestMoved:
    @pytest.fixture(autouse=True)
    def _moved(self, server):
        server.set(redirect="moved")

    @pytest.mark.parametrize("question", ["SLOTS", "NODES", "SHARDS"])
    def test_whoever_asks_for_the_map_is_redirected(self, server, question):
        server.line(f"CLUSTER {question}")
        assert server.client.redirect

    def test_the_leader_owns_every_slot(self, server):
        assert server.line("CLUSTER SLOTS") == [[0, 16383, entry(7379, N1), entry(7380, N2), entry(7381, N3)]]
        server.node.replicator.follow("n3")
        assert server.line("CLUSTER SLOTS") == [[0, 16383, entry(7381, N3), entry(7379, N1), entry(7380, N2)]]

    def test_nodes(self, server):
        server.node.replicator.follow("n2")
        shown = lines(server.line("CLUSTER NODES"))
        assert shown[0] == f"{N1} 127.0.0.1:7379@17379 myself,slave {N2} 0 0 7 connected"
        assert shown[1].endswith("master - 0 1699999999623 7 connected 0-16383")

    def test_shards(self, server):
        (shard,) = server.line("CLUSTER SHARDS")
        assert shard[b"slots"] == [0, 16383]
        assert [(node[b"id"], node[b"role"]) for node in shard[b"nodes"]] == [
            (N1.encode(), b"master"), (N2.encode(), b"replica"), (N3.encode(), b"replica"),
        ]  # fmt: skip

    def test_replicas(self, server):
        found = server.line(f"CLUSTER REPLICAS {N1}")
        assert [line.split(b" ")[0] for line in found] == [N2.encode(), N3.encode()]
        with pytest.raises(CommandError, match="The specified node is not a master"):
            server.line(f"CLUSTER SLAVES {N2}")

    def test_without_a_leader_nobody_owns_anything(self, server):
        server.node.replicator.follow("")
        assert server.line("CLUSTER SLOTS") == []
        assert server.line("CLUSTER SHARDS") == []
        assert all(" - 0 " in line for line in lines(server.line("CLUSTER NODES")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example sets all that it reads
@given(away=st.sets(st.sampled_from(["n2", "n3"])), leader=st.sampled_from(["n1", "n2", "n3", ""]), moved=st.booleans())
def test_ranges_never_overlap_and_cover_everything_while_there_is_an_owner(server, away, leader, moved):
    server.set(redirect="moved" if moved else "forward")
    replicator = server.node.replicator
    role = {"n1": "leader", "": "candidate"}.get(leader, "follower")
    peers = {node_id: replace(peer, connected=node_id not in away) for node_id, peer in replicator.state.peers.items()}
    replicator.change(role=role, leader_id=leader, peers=peers)
    found = members(server.node)
    covered = [slot for member in found for slot in member.slots]
    has_owner = not moved or (leader and leader not in away)
    assert covered == (list(range(SLOTS)) if has_owner else [])
    assert all(not member.slots for member in found if member.node_id in away)


def test_info(server):
    fields = dict(line.split(":") for line in lines(server.line("CLUSTER INFO")))
    assert fields == {
        "cluster_state": "ok", "cluster_slots_assigned": "16384", "cluster_slots_ok": "16384", "cluster_slots_pfail": "0",
        "cluster_slots_fail": "0", "cluster_known_nodes": "3", "cluster_size": "3", "cluster_current_epoch": "7",
        "cluster_my_epoch": "7",
    }  # fmt: skip
    server.node.replicator.follow("")
    assert lines(server.line("CLUSTER INFO"))[0] == "cluster_state:fail"


def test_names_are_stable(server):
    assert server.line("CLUSTER MYID") == N1.encode() == cluster_name("n1").encode()


def test_keys_and_slots(server):
    database = server.node.machine.keyspace.databases[0]
    for key in (b"{a}1", b"{a}2", b"b"):
        database.set(key, b"x")
    slot = key_slot(b"a")
    assert server.line("CLUSTER KEYSLOT {a}1") == slot == 15495
    assert server.line(f"CLUSTER COUNTKEYSINSLOT {slot}") == 2
    assert server.line(f"CLUSTER GETKEYSINSLOT {slot} 10") == [b"{a}1", b"{a}2"]
    assert server.line(f"CLUSTER GETKEYSINSLOT {slot} 1") == [b"{a}1"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("CLUSTER COUNTKEYSINSLOT 16384", "ERR Invalid slot"),
        ("CLUSTER COUNTKEYSINSLOT x", "ERR value is not an integer or out of range"),
        ("CLUSTER GETKEYSINSLOT 1 -1", "ERR Invalid slot or number of keys"),
        ("CLUSTER GETKEYSINSLOT 99999 1", "ERR Invalid slot or number of keys"),
        ("CLUSTER KEYSLOT", "ERR wrong number of arguments for 'cluster|keyslot' command"),
        ("CLUSTER REPLICAS x", "ERR Unknown node x"),
        ("CLUSTER MEET a 1", "ERR unknown subcommand 'MEET'. Try CLUSTER HELP."),
        ("SENTINEL MASTER x", "ERR No such master with that name"),
        ("SENTINEL SENTINELS x", "ERR No such master with that name"),
        ("SENTINEL CKQUORUM x", "ERR No such master with that name"),
    ],
)
def test_errors_are_those_of_redis(server, line, error):
    with pytest.raises(CommandError) as raised:
        server.line(line)
    assert str(raised.value) == error


def test_state_of_the_connection(server):
    assert [server.line(line) for line in ("READONLY", "ASKING")] == ["OK", "OK"]
    assert (server.client.readonly, server.client.asking) == (True, True)
    server.line("READWRITE")
    assert not server.client.readonly


class TestSentinel:
    @pytest.mark.parametrize("name", ["raftkv", "mymaster"])
    def test_address_of_the_leader(self, server, name):
        assert server.line(f"SENTINEL get-master-addr-by-name {name}") == [b"127.0.0.1", b"7379"]
        server.node.replicator.follow("n3")
        assert server.line(f"SENTINEL GET-MASTER-ADDR-BY-NAME {name}") == [b"127.0.0.1", b"7381"]

    def test_no_address_for_another_name_or_without_a_leader(self, server):
        assert server.line("SENTINEL GET-MASTER-ADDR-BY-NAME other") is NIL_ARRAY
        server.node.replicator.follow("")
        assert server.line("SENTINEL GET-MASTER-ADDR-BY-NAME raftkv") is NIL_ARRAY

    def test_masters(self, server):
        found = server.line("SENTINEL MASTERS")
        assert [state[b"name"] for state in found] == [b"raftkv", b"mymaster"]
        state = found[0]
        assert all(isinstance(value, bytes) for value in state.values())
        assert (state[b"ip"], state[b"port"], state[b"flags"]) == (b"127.0.0.1", b"7379", b"master")
        assert (state[b"num-other-sentinels"], state[b"num-slaves"], state[b"quorum"]) == (b"2", b"2", b"2")
        assert server.line("SENTINEL MASTER mymaster") == found[1]

    def test_an_unknown_leader_is_down(self, server):
        server.node.replicator.follow("")
        assert server.line("SENTINEL MASTER raftkv")[b"flags"] == b"s_down,o_down,master"

    def test_a_leader_that_cannot_be_reached_is_down(self, server):
        server.node.replicator.follow("n2")
        server.node.replicator.disconnect("n2")
        assert server.line("SENTINEL MASTER raftkv")[b"flags"] == b"s_down,master,disconnected"

    def test_replicas_are_the_others(self, server):
        found = server.line("SENTINEL REPLICAS raftkv")
        assert [(state[b"name"], state[b"flags"]) for state in found] == [
            (b"127.0.0.1:7380", b"slave"), (b"127.0.0.1:7381", b"slave"),
        ]  # fmt: skip
        server.node.replicator.follow("n2")
        server.node.replicator.disconnect("n3")
        found = server.line("SENTINEL SLAVES mymaster")
        assert [(state[b"name"], state[b"flags"]) for state in found] == [
            (b"127.0.0.1:7379", b"slave"), (b"127.0.0.1:7381", b"s_down,slave,disconnected"),
        ]  # fmt: skip

    def test_sentinels_are_the_other_members(self, server):
        assert [state[b"port"] for state in server.line("SENTINEL SENTINELS raftkv")] == [b"7380", b"7381"]
        assert server.line("SENTINEL MYID") == N1.encode()

    def test_quorum(self, server):
        assert server.line("SENTINEL CKQUORUM raftkv").startswith("OK 3 usable Sentinels.")
        server.node.replicator.disconnect("n2")
        assert server.line("SENTINEL CKQUORUM raftkv").startswith("OK 2 usable Sentinels.")
        server.node.replicator.disconnect("n3")
        with pytest.raises(CommandError, match="NOQUORUM 1 usable Sentinels"):
            server.line("SENTINEL CKQUORUM raftkv")
