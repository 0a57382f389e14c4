"""RAFT.MEMBERS and its changes, and what a node tells of learners, of its removal, and before it was added."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.errors import BusyError, CommandError, NodeStoppedError, NoLeaderError, RaftKVError
from raftkv.replicator import Add, PeerStatus, Promote, Remove
from raftkv.server.commands.replication import followers_holding

LEARNER = PeerStatus(
    node_id="n4", peer_address="127.0.0.1:17382", client_address="127.0.0.1:7382", http_address="", connected=True,
    match_index=80, last_contact_s=0.25, voter=False, disk="d4", promote=True, replaces="n2",
)  # fmt: skip


@pytest.fixture
def with_learner(server):
    """n4 is a learner that takes the place of n2."""
    replicator = server.node.replicator
    replicator.change(peers={**replicator.state.peers, "n4": LEARNER}, configuration_index=42, changing=True)
    return server


@pytest.fixture
def removed(server):
    """This node was removed, and knows it."""
    server.node.replicator.follow("")
    server.node.replicator.change(voter=False, is_member=False, halted="this node was removed", leader_id="")
    return server


class TestMembers:
    def test_on_the_leader(self, with_learner):
        found = with_learner.line("RAFT.MEMBERS")
        members = found.pop(b"members")
        assert found == {
            b"cluster": b"c1", b"leader_id": b"n1", b"term": 7, b"configuration_index": 42, b"changing": 1,
        }  # fmt: skip
        assert [(one[b"node"], one[b"role"], one[b"voter"], one[b"lag"]) for one in members] == [
            (b"n1", b"leader", 1, 0), (b"n2", b"follower", 1, 1), (b"n3", b"follower", 1, 11), (b"n4", b"learner", 0, 21),
        ]  # fmt: skip
        assert members[3] == {
            b"node": b"n4", b"role": b"learner", b"voter": 0, b"peer_address": b"127.0.0.1:17382",
            b"client_address": b"127.0.0.1:7382", b"connected": 1, b"match_index": 80, b"lag": 21,
            b"last_contact_ms": 250, b"disk": b"d4", b"promote": 1, b"replaces": b"n2",
        }  # fmt: skip

    def test_a_follower_does_not_know_how_far_the_others_are(self, with_learner):
        with_learner.node.replicator.follow("n3")
        members = with_learner.line("RAFT.MEMBERS")[b"members"]
        assert [(one[b"role"], one[b"lag"]) for one in members] == [
            (b"follower", -1), (b"follower", -1), (b"leader", -1), (b"learner", -1),
        ]  # fmt: skip

    def test_nodes_tells_who_votes(self, with_learner):
        found = with_learner.line("RAFT.NODES")
        assert [(one[b"role"], one[b"voter"]) for one in found] == [
            (b"leader", 1), (b"follower", 1), (b"follower", 1), (b"learner", 0),
        ]  # fmt: skip

    def test_nodes(self, server):
        server.node.replicator.disconnect("n3")
        found = server.line("RAFT.NODES")
        assert [(one[b"node"], one[b"role"], one[b"connected"], one[b"match_index"]) for one in found] == [
            (b"n1", b"leader", 1, 100), (b"n2", b"follower", 1, 100), (b"n3", b"follower", 0, 90),
        ]  # fmt: skip
        assert found[1][b"client_address"] == b"127.0.0.1:7380"
        assert found[1][b"http_address"] == b"127.0.0.1:8380"
        assert (found[0][b"self"], found[1][b"last_contact_ms"]) == (1, 500)


class TestChanges:
    @pytest.mark.parametrize(
        ("line", "change"),
        [
            ("RAFT.ADD n4 db4:17379", Add("n4", "db4:17379")),
            ("RAFT.ADD n4 [::1]:17379 learner", Add("n4", "[::1]:17379", promote=False)),
            ("RAFT.ADD n4 db4:17379 REPLACES n2", Add("n4", "db4:17379", replaces="n2")),
            ("RAFT.REMOVE n2", Remove("n2")),
            ("RAFT.PROMOTE n4", Promote("n4")),
        ],
    )
    def test_are_ordered_by_the_leader(self, server, line, change):
        assert server.line(line) == "OK"
        assert server.node.replicator.changes == [change]

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("RAFT.ADD N4 db4:17379", "'N4' is not a node id"),
            ("RAFT.ADD n4 db4", "'db4' is not host:port"),
            ("RAFT.ADD n4 0.0.0.0:17379", "nobody can connect to 0.0.0.0:17379"),
            ("RAFT.ADD n4 db4:17379 REPLACES", "syntax error"),
            ("RAFT.ADD n4 db4:17379 VOTER", "syntax error"),
            ("RAFT.ADD n4 db4:17379 LEARNER REPLACES n2", "do not go together"),
            ("RAFT.TRANSFER n9", "No member with the id 'n9'; the members are: n1, n2, n3"),
        ],
    )
    def test_what_makes_no_sense_is_refused_before_anything_is_ordered(self, server, line, told):
        with pytest.raises(CommandError, match=told):
            server.line(line)
        assert not server.node.replicator.changes

    @pytest.mark.parametrize("line", ["RAFT.ADD n4 db4:1", "RAFT.REMOVE n2", "RAFT.PROMOTE n3", "RAFT.TRANSFER n2"])
    def test_a_follower_names_the_leader(self, server, line):
        server.node.replicator.follow("n2")
        with pytest.raises(
            NoLeaderError, match=r"n1 does not lead; the leader is n2, for clients at 127\.0\.0\.1:7380"
        ):
            server.line(line)
        server.node.replicator.follow("")
        with pytest.raises(NoLeaderError, match="knows nobody who does"):
            server.line(line)

    def test_a_removed_node_says_that_it_was(self, removed):
        with pytest.raises(NodeStoppedError, match="this node was removed"):
            removed.line("RAFT.REMOVE n2")

    def test_a_refusal_of_the_core_is_passed_on(self, server):
        server.node.replicator.change_error = BusyError("another membership change is not committed yet; one at a time")
        with pytest.raises(BusyError, match="TRYAGAIN another membership change"):
            server.line("RAFT.REMOVE n2")

    def test_transfer(self, server):
        assert [server.line("RAFT.TRANSFER"), server.line("RAFT.TRANSFER n2")] == ["OK", "OK"]
        assert server.node.replicator.transfers == [None, "n2"]
        server.node.replicator.transfer_error = RaftKVError("n2 did not take over in time")
        with pytest.raises(RaftKVError, match="n2 did not take over"):
            server.line("RAFT.TRANSFER n2")


class TestLearners:
    @pytest.mark.parametrize("redirect", ["forward", "moved"])
    def test_own_no_slots_and_answer_for_none(self, with_learner, redirect):
        with_learner.set(redirect=redirect)
        ports = {node[1] for shard in with_learner.line("CLUSTER SLOTS") for node in shard[2:]}
        assert ports == {7379, 7380, 7381}

    def test_are_replicas_that_never_fail_over(self, with_learner):
        with_learner.node.addresses["n4"] = "127.0.0.1:7382"
        [line] = [one for one in with_learner.line("CLUSTER NODES").text.decode().splitlines() if ":7382@" in one]
        assert line.split()[2] == "slave,nofailover"
        shards = with_learner.line("CLUSTER SHARDS")
        health = {node[b"port"]: node[b"health"] for shard in shards for node in shard[b"nodes"]}
        assert health == {7379: b"online", 7380: b"online", 7381: b"online", 7382: b"loading"}

    def test_are_no_sentinels_and_do_not_count_for_their_quorum(self, with_learner):
        replicator = with_learner.node.replicator
        replicator.change(peers={**replicator.state.peers, "n5": replace(LEARNER, node_id="n5")})
        assert len(with_learner.line("SENTINEL SENTINELS raftkv")) == 2
        assert len(with_learner.line("SENTINEL REPLICAS raftkv")) == 2
        state = with_learner.line("SENTINEL MASTER raftkv")
        assert (state[b"num-other-sentinels"], state[b"num-slaves"], state[b"quorum"]) == (b"2", b"2", b"2")
        replicator.disconnect("n2")
        replicator.disconnect("n3")
        with pytest.raises(CommandError, match="NOQUORUM 1 usable"):
            with_learner.line("SENTINEL CKQUORUM raftkv")

    def test_hold_nothing_for_wait(self, with_learner):
        replicator = with_learner.node.replicator
        peers = {
            name: replace(one, match_index=100 if name == "n4" else 0) for name, one in replicator.state.peers.items()
        }
        replicator.change(peers=peers)
        assert followers_holding(replicator.state, 100) == 1, "what is committed is on a majority of three voters"
        replicator.change(peers={name: replace(one, match_index=100) for name, one in peers.items()})
        assert with_learner.line("WAIT 9 0") == 2, "it does not wait for the learner"

    def test_that_just_became_voters_say_nothing_of_what_was_committed_before(self, with_learner):
        """Three voters became four: an entry of before is on two of them, until the change is committed."""
        replicator = with_learner.node.replicator
        peers = {name: replace(one, voter=True, match_index=0) for name, one in replicator.state.peers.items()}
        replicator.change(peers=peers, changing=True)
        assert followers_holding(replicator.state, 100) == 1
        replicator.change(changing=False)
        assert followers_holding(replicator.state, 100) == 2

    def test_are_counted(self, with_learner):
        fields = b"members voters learners voter configuration_index changing"
        status = with_learner.line(f"RAFT.STATUS {fields.decode()}")
        assert [status[name] for name in fields.split()] == [4, 3, 1, 1, 42, 1]
        shown = dict(line.split(":", 1) for line in with_learner.line("INFO raft").text.decode().splitlines()[1:])
        names = ("raft_members", "raft_voters", "raft_learners", "raft_configuration_index", "raft_changing")
        assert [shown[name] for name in names] == ["4", "3", "1", "42", "1"]


class TestNoMember:
    def test_a_removed_node_sends_clients_to_the_others(self, removed):
        ports = {node[1] for shard in removed.line("CLUSTER SLOTS") for node in shard[2:]}
        assert ports == {7380, 7381}
        [own] = [one for one in removed.line("CLUSTER NODES").text.decode().splitlines() if "myself" in one]
        assert own.split()[2] == "myself,slave,nofailover,fail"
        assert removed.line("RAFT.STATUS members voters learners") == {b"members": 2, b"voters": 2, b"learners": 0}

    def test_one_that_waits_to_be_added_knows_nobody(self, server):
        server.node.replicator.change(role="follower", leader_id="", voter=False, is_member=False, peers={})
        assert server.line("CLUSTER SLOTS") == []
        assert server.line("RAFT.STATUS members voter") == {b"members": 0, b"voter": 0}
        [own] = server.line("RAFT.MEMBERS")[b"members"]
        assert (own[b"node"], own[b"role"]) == (b"n1", b"none")
        with pytest.raises(NoLeaderError, match="n1 is no member of the cluster yet; ask one that is"):
            server.line("RAFT.ADD n4 db4:1")
        assert server.line("SENTINEL GET-MASTER-ADDR-BY-NAME raftkv") is not None
