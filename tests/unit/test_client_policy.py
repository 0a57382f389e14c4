"""The client's decisions, with the test as clock and cluster."""

from __future__ import annotations

from random import Random

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.client.errors import ConnectionLostError, NoAnswerError, SessionExpiredError, WatchError
from raftkv.client.nodes import LEADER_CHECK_S
from raftkv.client.policy import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    OUTSTANDING_MAX,
    Exchange,
    Kind,
    Options,
    Outcome,
    Policy,
    Request,
    Wait,
)
from raftkv.errors import AuthError, BusyError, NodeStoppedError, NoLeaderError, UnknownOutcomeError
from raftkv.protocol.decoder import ResponseError

LOST = ConnectionLostError("gone")
SILENT = NoAnswerError("slow")
SESSION = b"0" * 31 + b"1"
DOWN = ResponseError("CLUSTERDOWN no leader")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Play:
    """Plays the other side of a policy: what is sent, and what comes back."""

    def __init__(self, *nodes, **options):
        self.clock = Clock()
        self.policy = Policy(Options(nodes or ("a:1", "b:2", "c:3"), **options), self.clock, Random(7))
        self.sent = []
        self.waits = []

    def run(self, requests, *outcomes, kind="run"):
        """Feed ``outcomes`` one an exchange (a list is replies, an error a loss); afterwards no more is expected."""
        flow = self.policy.run(requests)
        waiting = list(outcomes)
        effect = next(flow, None)
        while effect is not None:
            if isinstance(effect, Wait):
                self.waits.append(effect.seconds)
                self.clock.now += effect.seconds
                outcome = Outcome()
            else:
                self.sent.append((effect.address, commands_of(effect)))
                outcome = waiting.pop(0) if waiting else pytest.fail(f"unexpected {self.sent[-1]}")
                if isinstance(outcome, list):
                    outcome = Outcome(outcome)
                elif isinstance(outcome, Exception):
                    outcome = Outcome((), outcome)
            try:
                effect = flow.send(outcome)
            except StopIteration:
                effect = None
        assert not waiting
        return [request.reply for request in requests]


def commands_of(effect):
    reader = hiredis.Reader()
    reader.feed(effect.payload)
    commands = []
    while (one := reader.gets()) is not False:
        commands.append(b" ".join(one).decode())
    assert len(commands) == effect.replies
    return commands


def read(*words):
    return Request([[word.encode() for word in words or ("GET", "k")]], Kind.READ)


def write(*words):
    return Request([[word.encode() for word in words or ("INCR", "n")]], Kind.WRITE)


def other(*words):
    return Request([[word.encode() for word in words or ("CONFIG", "SET", "a", "1")]], Kind.OTHER)


def test_a_write_opens_a_session_and_numbers_itself():
    play = Play()
    assert play.run([write()], [SESSION], [1]) == [1]
    assert play.run([write()], [2]) == [2]
    assert [sent for _, sent in play.sent] == [
        ["RAFT.SESSION OPEN"],
        [f"RAFT.SESSION RUN {SESSION.decode()} 1 0 INCR n"],
        [f"RAFT.SESSION RUN {SESSION.decode()} 2 1 INCR n"],
    ]


def test_a_read_needs_no_session_and_is_repeated_on_another_node():
    play = Play()
    assert play.run([read()], SILENT, [b"v"]) == [b"v"]
    assert play.sent == [("a:1", ["GET k"]), ("b:2", ["GET k"])]


def test_a_lost_write_is_repeated_under_its_number():
    play = Play()
    assert play.run([write()], [SESSION], SILENT, SILENT, [1]) == [1]
    assert {sent[0] for _, sent in play.sent[1:]} == {f"RAFT.SESSION RUN {SESSION.decode()} 1 0 INCR n"}
    assert len({address for address, _ in play.sent[1:]}) == 3


def test_anything_else_that_is_lost_is_unknown_but_what_was_not_sent_is_repeated():
    play = Play()
    [reply] = play.run([other()], Outcome((), LOST, sent=False), Outcome((), BusyError("pool"), sent=False), LOST)
    assert isinstance(reply, UnknownOutcomeError)
    assert not reply.definite


def test_a_broken_connection_is_made_again_to_the_same_node_first():
    play = Play()
    play.policy.nodes.leader = "c:3"
    assert play.run([read()], LOST, [b"v"]) == [b"v"]
    assert [address for address, _ in play.sent] == ["c:3", "c:3"]


def test_a_redirect_is_followed_at_once():
    play = Play()
    assert play.run([read()], [ResponseError("MOVED 7 d:4")], [b"v"]) == [b"v"]
    assert play.sent[1][0] == "d:4"
    assert play.waits == []
    assert play.run([read()], [ResponseError("MOVED 7 :5")], [b"v"]) == [b"v"]
    assert play.sent[-1][0] == "d:5"


def test_the_successor_of_a_leader_that_stops_is_found_without_a_pause():
    play = Play()
    play.policy.nodes.leader = "a:1"
    refused = Outcome((), LOST, sent=False)

    def follower_knows(flow):
        """The greeting of b:2 says that c:3 leads."""
        play.policy.greeted("b:2", told("b:2", "c:3", leader="c:3"))
        return flow.send(Outcome((), NoLeaderError("b:2 does not lead"), sent=False))

    request = read()
    flow = play.policy.run([request])
    asked = [next(flow), flow.send(Outcome((), LOST)), flow.send(refused), follower_knows(flow)]
    assert [effect.address for effect in asked] == ["a:1", "a:1", "b:2", "c:3"]
    with pytest.raises(StopIteration):
        flow.send(Outcome([b"v"]))
    assert request.reply == b"v"


def test_when_no_node_is_there_pauses_begin_after_each_was_tried():
    play = Play()
    refused = Outcome((), LOST, sent=False)
    play.run([read()], *[refused] * 8, [b"v"])
    assert {address for address, _ in play.sent[:3]} == {"a:1", "b:2", "c:3"}
    assert len(play.waits) == 8 - len(play.policy.options.nodes) - 1
    assert play.waits[-1] > play.waits[0]


def test_redirects_in_a_circle_are_slowed_down_and_end_at_the_deadline():
    play = Play(deadline_s=1.0)
    circle = [[ResponseError(f"MOVED 7 {'ab'[i % 2]}:1")] for i in range(1, 100)]
    flow = play.policy.run([request := read()])
    effect = next(flow)
    exchanges = 0
    with pytest.raises(StopIteration):
        while True:
            if isinstance(effect, Exchange):
                exchanges += 1
                effect = flow.send(Outcome(circle.pop(0)))
            else:
                play.clock.now += effect.seconds
                effect = flow.send(Outcome())
    assert isinstance(request.reply, NoLeaderError)
    assert 3 < exchanges < 15


@pytest.mark.parametrize("code", ["CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY"])
def test_refusals_are_repeated_with_growing_pauses(code):
    play = Play(deadline_s=60)
    refusals = [[ResponseError(f"{code} x")]] * 9
    assert play.run([other()], *refusals, [b"OK"]) == [b"OK"]
    for i, wait in enumerate(play.waits):
        longest = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**i)
        assert longest / 2 <= wait <= longest


def test_at_the_deadline_a_write_in_doubt_is_unknown_and_any_other_is_not_done():
    play = Play(deadline_s=1.0)
    play.run([write()], [SESSION], [1])
    forever = [[DOWN]] * 100
    flow_of = {"doubt": [LOST, *forever], "refused": forever}
    for name, expected in [("doubt", UnknownOutcomeError), ("refused", NoLeaderError)]:
        request = write()
        flow = play.policy.run([request])
        effect, outcomes = next(flow), list(flow_of[name])
        with pytest.raises(StopIteration):
            while True:
                if isinstance(effect, Wait):
                    play.clock.now += effect.seconds
                    effect = flow.send(Outcome())
                else:
                    assert 0 < effect.wait_s <= 1.0
                    one = outcomes.pop(0)
                    effect = flow.send(Outcome(one) if isinstance(one, list) else Outcome((), one))
        assert type(request.reply) is expected
        assert request.reply.definite == (expected is NoLeaderError)
        assert "CLUSTERDOWN" in str(request.reply)


def test_the_servers_unknown_outcome_is_resolved_by_the_session():
    play = Play()
    assert play.run([write()], [SESSION], [ResponseError("UNKNOWN leadership lost")], [5]) == [5]
    [reply] = play.run([other()], [ResponseError("UNKNOWN leadership lost")])
    assert isinstance(reply, UnknownOutcomeError)


def test_that_a_repetition_finds_a_full_disk_says_nothing_of_the_attempt_before():
    full = ResponseError("NOSPACE the disk of n1 is full")
    aborted = ResponseError("EXECABORT Transaction discarded because of: NOSPACE the disk of n1 is full")
    play = Play(deadline_s=1.0)
    assert play.run([write()], [SESSION], LOST, [full], [aborted], [5]) == [5]
    [reply] = play.run([write()], LOST, *[[full]] * 8)
    assert isinstance(reply, UnknownOutcomeError)
    assert play.run([write()], [full]) == [full], "it was sent once, and refused"


NOT_LET_IN = [AuthError("no", code="WRONGPASS"), ResponseError("ERR max number of clients reached")]


@pytest.mark.parametrize("refused", [[ResponseError("NOPERM")], *(Outcome((), one, sent=False) for one in NOT_LET_IN)])
def test_that_a_repetition_is_not_let_in_says_nothing_of_the_attempt_before(refused):
    [reply] = Play().run([write()], [SESSION], LOST, refused)
    assert isinstance(reply, UnknownOutcomeError)


def test_an_expired_session_is_replaced_unless_a_write_is_in_doubt():
    play = Play()
    expired = ResponseError("SESSIONEXPIRED the session is unknown")
    play.run([write()], [SESSION], [1])
    assert play.run([write()], [expired], [b"f" * 32], [2]) == [2]
    assert play.sent[-1][1] == [f"RAFT.SESSION RUN {'f' * 32} 1 0 INCR n"]
    [reply] = play.run([write()], LOST, [expired])
    assert isinstance(reply, SessionExpiredError)
    assert not reply.definite


def test_of_a_broken_pipeline_only_the_unanswered_is_sent_again():
    play = Play()
    requests = [write("INCR", "a"), read("GET", "b"), write("INCR", "c"), other("CONFIG", "SET", "x", "1")]
    replies = play.run(requests, [SESSION], Outcome([1], LOST), [b"v", 3])
    assert replies[:3] == [1, b"v", 3]
    assert isinstance(replies[3], UnknownOutcomeError)
    assert play.sent[-1][1] == ["GET b", f"RAFT.SESSION RUN {SESSION.decode()} 2 1 INCR c"]


def test_an_error_reply_is_a_reply():
    play = Play()
    error = ResponseError("WRONGTYPE Operation against a key")
    assert play.run([read(), read()], [error, b"v"]) == [error, b"v"]


def test_a_transaction_is_one_request_of_the_session():
    play = Play()
    batch = Request([[b"SET", b"a", b"1"], [b"INCR", b"b"]], Kind.WRITE, atomic=True)
    refused = [b"OK", DOWN, b"QUEUED", ResponseError("EXECABORT because of previous errors")]
    assert play.run(
        [batch], [SESSION], Outcome([b"OK", b"QUEUED"], LOST), refused, [b"OK", b"QUEUED", b"QUEUED", [b"OK", 1]]
    ) == [[b"OK", 1]]
    assert {tuple(sent) for _, sent in play.sent[1:]} == {
        ("MULTI", "SET a 1", "INCR b", f"RAFT.SESSION RUN {SESSION.decode()} 1 0 EXEC")
    }
    wrong = ResponseError("ERR unknown command")
    batch = Request([[b"SETT"]], Kind.READ, atomic=True)
    assert play.run([batch], [b"OK", wrong, ResponseError("EXECABORT x")]) == [wrong]


def test_long_pipelines_go_in_parts():
    play = Play()
    replies = play.run([read() for _ in range(1200)], [b"1"] * 512, [b"2"] * 512, [b"3"] * 176)
    assert replies == [b"1"] * 512 + [b"2"] * 512 + [b"3"] * 176
    large = [read("ECHO", "x" * 3_000_000) for _ in range(2)]
    assert play.run(large, [b"a"], [b"b"]) == [b"a", b"b"]


def test_a_session_is_replaced_before_the_server_would_run_out_of_replies():
    play = Play()
    stuck = play.policy.run([write()])
    next(stuck)
    stuck.send(Outcome([SESSION]))
    numbers = set()
    for i in range(OUTSTANDING_MAX - 1):
        play.run([write()], [i])
        numbers.add(play.sent[-1][1][0])
    assert all(f" {SESSION.decode()} " in one and " 0 INCR" in one for one in numbers)
    play.run([write()], [b"f" * 32], [1])
    assert play.sent[-1][1] == [f"RAFT.SESSION RUN {'f' * 32} 1 0 INCR n"]


def test_one_operation_opens_the_session_and_the_others_wait_for_it():
    play = Play()
    first, second = play.policy.run([one := write()]), play.policy.run([two := write()])
    assert commands_of(next(first)) == ["RAFT.SESSION OPEN"]
    assert isinstance(next(second), Wait)
    assert isinstance(second.send(Outcome()), Wait)
    assert commands_of(first.send(Outcome([SESSION]))) == [f"RAFT.SESSION RUN {SESSION.decode()} 1 0 INCR n"]
    assert commands_of(second.send(Outcome())) == [f"RAFT.SESSION RUN {SESSION.decode()} 2 0 INCR n"]
    for flow, reply in [(second, 2), (first, 1)]:
        with pytest.raises(StopIteration):
            flow.send(Outcome([reply]))
    assert (one.reply, two.reply) == (1, 2)


def test_an_opening_that_is_given_up_leaves_the_way_free():
    play = Play()
    flow = play.policy.run([write()])
    next(flow)
    flow.close()
    assert play.run([write()], [SESSION], [1]) == [1]


def test_an_abandoned_write_holds_nothing_back():
    play = Play()
    flow = play.policy.run([write()])
    next(flow)
    flow.send(Outcome([SESSION]))
    flow.close()
    play.run([write()], [1])
    assert play.sent[-1][1] == [f"RAFT.SESSION RUN {SESSION.decode()} 2 1 INCR n"]


def test_greeting_finds_the_leader_and_refuses_to_go_on_without_access():
    play = Play(password="secret", client_name="me", db=3)
    payload, count = play.policy.hello()
    assert count == 3
    assert all(word in payload for word in (b"AUTH", b"secret", b"SETNAME"))
    ok = [{b"proto": 3}, b"OK"]
    assert not play.policy.greeted("a:1", [*ok, {b"role": b"follower", b"leader": b"b:2"}])
    assert play.policy.nodes.leader == "b:2"
    assert play.policy.greeted("b:2", [*ok, [b"role", b"leader", b"leader", b"b:2"]])
    assert play.policy.greeted("c:3", [*ok, {b"role": b"candidate", b"leader": b""}]) is False
    play.run([read()], Outcome((), LOST, sent=False), [b"v"])
    assert play.policy.nodes.leader is None
    assert play.policy.greeted("a:1", [*ok, {b"role": b"follower", b"leader": b"b:2"}]), "b:2 is down: let a:1 forward"
    with pytest.raises(AuthError, match="WRONGPASS"):
        play.policy.greeted("a:1", [ResponseError("WRONGPASS invalid"), b"OK", {}])
    with pytest.raises(NoLeaderError):
        play.policy.greeted("a:1", [ResponseError("LOADING"), b"OK", {}])
    with pytest.raises(ResponseError, match="DB index"):
        play.policy.greeted("a:1", [{}, ResponseError("ERR DB index is out of range"), {}])


def test_without_access_nothing_is_repeated():
    play = Play()
    replies = play.run([read(), other()], Outcome((), AuthError("no", code="WRONGPASS"), sent=False))
    assert [type(reply) for reply in replies] == [AuthError, AuthError]
    [reply] = play.run([read()], [ResponseError("NOPERM not you")])
    assert isinstance(reply, AuthError)
    assert reply.code == "NOPERM"


def test_who_leads_is_asked_anew_from_time_to_time():
    play = Play()
    play.policy.greeted("a:1", [{}, b"OK", {b"role": b"leader"}])
    play.run([read()], [b"v"])
    play.clock.now += LEADER_CHECK_S + 1
    play.run([read()], [b"v", {b"role": b"follower", b"leader": b"c:3"}])
    assert play.sent[-1] == ("a:1", ["GET k", "RAFT.STATUS role leader halted client_addresses"])
    play.run([read()], [b"v"])
    assert play.sent[-1] == ("c:3", ["GET k"])


def told(*members, leader):
    role = b"leader" if leader == members[0] else b"follower"
    return [
        {},
        b"OK",
        {b"role": role, b"leader": leader.encode(), b"client_addresses": [one.encode() for one in members]},
    ]


def test_new_members_are_learnt_and_removed_ones_forgotten():
    play = Play()
    play.policy.greeted("a:1", told("a:1", "d:4", "e:5", leader="a:1"))
    play.policy.greeted("a:1", told("a:1", "e:5", leader="a:1"))
    play.run([read()], SILENT, SILENT, SILENT, SILENT, [b"v"])
    assert {address for address, _ in play.sent} == {"a:1", "b:2", "c:3", "e:5"}, "those given at the start stay"


def test_the_members_of_one_that_knows_no_leader_are_not_believed():
    play = Play()
    play.policy.greeted("a:1", told("a:1", "d:4", leader="a:1"))
    play.policy.greeted("x:9", told("x:9", "y:9", leader=""))
    play.policy.nodes.leader = None
    play.run([read()], SILENT, SILENT, SILENT, SILENT, [b"v"])
    assert "d:4" in {address for address, _ in play.sent}
    assert "y:9" not in {address for address, _ in play.sent}


def test_removed_nodes_that_are_still_there_tell_of_those_that_came_later():
    play = Play()
    for gone, successor in (("a:1", "d:4"), ("b:2", "d:4"), ("c:3", "e:5")):
        with pytest.raises(NodeStoppedError):
            play.policy.greeted(gone, [{}, b"OK", {b"halted": b"removed", b"client_addresses": [successor.encode()]}])
    play.run([read()], SILENT, [b"v"])
    assert {address for address, _ in play.sent} == {"d:4", "e:5"}


def test_a_node_that_has_stopped_is_left():
    play = Play()
    stopped = [{}, b"OK", {b"role": b"follower", b"leader": b"", b"halted": b"it was removed"}]
    with pytest.raises(NodeStoppedError, match="a:1 has stopped: it was removed"):
        play.policy.greeted("a:1", stopped)
    play.run([read()], [b"v"])
    assert play.sent[-1][0] == "b:2"


def test_a_leader_that_stepped_down_is_not_followed():
    play = Play()
    play.policy.greeted("a:1", [{}, b"OK", {b"role": b"leader"}])
    play.clock.now += LEADER_CHECK_S + 1
    play.run([read()], [b"v", {b"role": b"follower", b"leader": b""}])
    assert play.policy.nodes.leader is None


@pytest.mark.parametrize("options", [{"deadline_s": 0}, {"max_connections": 0}, {"nodes": ()}, {"nodes": ("here",)}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Options(**{"nodes": ("a:1",), **options})


# -------------------------------------------------------------------- watched transactions
def conversation(play, request, outcome):
    flow = play.policy.converse(request, "a:1", object())
    effect = next(flow)
    assert effect.hold
    with pytest.raises(StopIteration) as stop:
        flow.send(outcome)
    return request.reply, stop.value.value


def test_watch_finds_a_node_that_takes_it():
    play = Play()
    flow = play.policy.watch(Request([[b"WATCH", b"k"]], Kind.READ))
    assert next(flow).hold
    assert isinstance(flow.send(Outcome([DOWN])), Wait)
    assert isinstance(flow.send(Outcome()), Exchange)
    connection = object()
    with pytest.raises(StopIteration) as stop:
        flow.send(Outcome([b"OK"], connection=connection))
    assert stop.value.value[1] is connection


def test_exec_says_what_happened():
    play = Play()

    def batch():
        return Request([[b"SET", b"k", b"1"]], Kind.WRITE, atomic=True)

    assert conversation(play, batch(), Outcome([b"OK", b"QUEUED", [b"OK"]])) == ([b"OK"], True)
    reply, clean = conversation(play, batch(), Outcome([b"OK", b"QUEUED", None]))
    assert isinstance(reply, WatchError)
    assert clean
    for outcome, kind in [
        (Outcome([b"OK"], LOST), UnknownOutcomeError),
        (Outcome([], LOST, sent=False), ConnectionLostError),
        (Outcome([b"OK", b"QUEUED", ResponseError("UNKNOWN")]), UnknownOutcomeError),
        (Outcome([b"OK", b"QUEUED", DOWN]), NoLeaderError),
    ]:
        reply, clean = conversation(play, batch(), outcome)
        assert type(reply) is kind
        assert not clean
    reply, clean = conversation(play, read(), Outcome([], LOST))
    assert isinstance(reply, ConnectionLostError)


# -------------------------------------------------------------------- exactly once, whatever happens on the way
class Counter:
    """A cluster with sessions: INCR only, faults as told."""

    def __init__(self):
        self.value = 0
        self.replies = {}
        self.opened = 0

    def answer(self, command):
        words = command.split()
        if words[0] == "RAFT.STATUS":
            return {b"role": b"leader"}
        if words[1] == "OPEN":
            self.opened += 1
            return b"%032x" % self.opened
        if words[1] == "RUN":
            session, sequence, acknowledged = words[2], int(words[3]), int(words[4])
            assert acknowledged < sequence
            kept = self.replies.setdefault(session, {})
            for old in [one for one in kept if one <= acknowledged]:
                del kept[old]
            if sequence not in kept:
                self.value += 1
                kept[sequence] = self.value
            assert len(kept) <= OUTSTANDING_MAX
            return kept[sequence]
        raise AssertionError(command)

    def exchange(self, effect, fault):
        commands = commands_of(effect)
        if fault == "refused":
            return Outcome([DOWN] * len(commands))
        if fault == "unreachable":
            return Outcome((), LOST, sent=False)
        if fault == "lost before":
            return Outcome((), LOST)
        if fault == "unknown after":
            return Outcome([self.answer(one) and ResponseError("UNKNOWN lost") for one in commands])
        replies = [self.answer(one) for one in commands]
        if isinstance(fault, int):
            return Outcome(replies[:fault], LOST) if fault < len(replies) else Outcome(replies)
        return Outcome((), LOST) if fault == "lost after" else Outcome(replies)


faults = st.sampled_from(["refused", "unreachable", "lost before", "lost after", "unknown after", None, 0, 1, 2, 3])


@settings(max_examples=200)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.lists(faults, max_size=30))
def test_every_write_happens_exactly_once(pipelines, schedule):
    play, counter = Play(deadline_s=1000), Counter()
    schedule = iter(schedule)
    expected = 0
    for size in pipelines:
        requests = [write() for _ in range(size)]
        flow = play.policy.run(requests)
        effect = next(flow)
        try:
            while True:
                if isinstance(effect, Wait):
                    play.clock.now += effect.seconds
                    effect = flow.send(Outcome())
                else:
                    effect = flow.send(counter.exchange(effect, next(schedule, None)))
        except StopIteration:
            pass
        assert sorted(request.reply for request in requests) == list(range(expected + 1, expected + size + 1))
        expected += size
    assert counter.value == expected


# ------------------------------------------------------------------ reads that need not be linearizable
def test_relaxed_reads_go_to_the_nodes_in_turn_and_writes_to_the_leader():
    play = Play(reads="local")
    play.policy.nodes.leader = "b:2"
    for _ in range(4):
        assert play.run([read()], [b"v"]) == [b"v"]
    assert [address for address, _ in play.sent] == ["a:1", "b:2", "c:3", "a:1"]
    assert play.run([write()], [SESSION], [1]) == [1]
    assert play.run([read(), write()], [b"v", 2]) == [b"v", 2]
    assert [address for address, _ in play.sent[5:]] == ["b:2", "b:2"]


@pytest.mark.parametrize(("reads", "said"), [("local", b"local"), ("bounded 500", b"bounded")])
def test_a_connection_is_told_the_mode_and_followers_are_used(reads, said):
    play = Play(reads=reads)
    payload, count = play.policy.hello()
    assert said in payload
    status = {b"role": b"follower", b"leader": b"c:3"}
    assert play.policy.greeted("a:1", [{}, "OK", "OK", status])
    assert count == 4
    assert not Play().policy.greeted("a:1", [{}, "OK", status])


def test_reads_say_the_newest_token_and_its_reply_is_nobodys():
    play = Play(reads="token")
    assert b"READ" not in play.policy.hello()[0]
    play.policy.read_after(7)
    play.policy.read_after(3)
    assert play.run([read(), read()], ["OK", b"v", b"w"]) == [b"v", b"w"]
    assert play.sent == [("a:1", ["READ AT LEAST 7", "GET k", "GET k"])]
    assert play.run([read()], ["OK", ResponseError("TRYAGAIN not applied")], ["OK", b"v"]) == [b"v"]
    assert [address for address, _ in play.sent[1:]] == ["b:2", "c:3"]


@pytest.mark.parametrize("reads", ["", "fresh", "bounded", "bounded x", "at least 3"])
def test_an_unknown_mode_is_refused(reads):
    with pytest.raises(ValueError, match="none of linearizable"):
        Play(reads=reads)
