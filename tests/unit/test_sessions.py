"""Client sessions: a request runs once, its answer is given as often as it is asked for, and memory has an end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import CommandError
from raftkv.machine import sessions as sessions_module
from raftkv.machine.batch import OPEN, PLAIN, TICK, TXN, WATCH, Group, Run, Watched, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.machine.sessions import COLLECT_PER_ENTRY, REPLIES_MAX, SESSION_ID_BYTES, SessionError, Sessions
from raftkv.protocol.encoder import encode, encode_commands

TTL_MS = 1000


class Node:
    """A machine with one open session."""

    def __init__(self):
        self.machine = StateMachine()
        self.index = 0
        self.session = bytes.fromhex(self.open().decode())

    def apply(self, group, at=0):
        self.index += 1
        return self.machine.apply(self.index, header(at) + encode_group(group))[0]

    def open(self, at=0, ttl_ms=TTL_MS):
        return self.apply(Group(OPEN, 0, 0, b"", numbers=(ttl_ms,)), at)

    def run(self, sequence, *words, acknowledged=0, at=0, session=b""):
        run = Run(session or self.session, sequence, acknowledged)
        return self.apply(Group(PLAIN, 0, 1, encode_commands([words]), run=run), at)

    def transaction(self, sequence, *commands, watches=()):
        run = Run(self.session, sequence, 0)
        return self.apply(Group(TXN, 0, len(commands), encode_commands(commands), watches, run))

    def moved(self):
        other = Node()
        other.index, other.session = self.index, self.session
        other.machine.load(list(self.machine.dump()))
        return other


@pytest.mark.parametrize("moved", [False, True])
def test_a_repeated_request_gets_its_first_reply_in_both_protocols(moved):
    node = Node()
    node.run(1, b"HSET", b"h", b"f", b"v")
    first = node.run(2, b"HGETALL", b"h")
    assert first == (b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n", b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n")
    node = node.moved() if moved else node
    node.run(3, b"HSET", b"h", b"f", b"later")
    assert node.run(2, b"HGETALL", b"h") == first
    assert node.run(1, b"HSET", b"h", b"f", b"v") == (b":1\r\n", b":1\r\n")
    assert node.run(4, b"HGET", b"h", b"f")[0] == b"$5\r\nlater\r\n"


def test_a_repeated_request_does_not_run_again():
    node = Node()
    assert [node.run(1, b"INCR", b"n")[0] for _ in range(3)] == [b":1\r\n"] * 3
    assert node.run(2, b"INCR", b"n")[0] == b":2\r\n"


def test_an_error_is_a_reply_like_any_other():
    node = Node()
    node.run(1, b"SET", b"k", b"v")
    first = node.run(2, b"INCR", b"k")
    assert first[0].startswith(b"-ERR value is not an integer")
    node.run(3, b"SET", b"k", b"1")
    assert node.run(2, b"INCR", b"k") == first


def test_a_transaction_runs_once_and_a_broken_one_stays_broken():
    node = Node()
    commands = [[b"INCR", b"n"], [b"INCR", b"n"]]
    assert [node.transaction(1, *commands)[0] for _ in range(2)] == [b"*2\r\n:1\r\n:2\r\n"] * 2
    index = node.apply(Group(WATCH, 0, 1, encode_commands([[b"n"]])))
    node.run(2, b"INCR", b"n")
    broken = node.transaction(3, *commands, watches=(Watched(0, b"n", index),))
    assert broken == (b"*-1\r\n", b"_\r\n")
    assert node.transaction(3, *commands) == broken
    assert node.run(4, b"GET", b"n")[0] == b"$1\r\n3\r\n"


def test_what_was_acknowledged_is_forgotten_and_cannot_run_again():
    node = Node()
    for sequence in (1, 2, 3):
        node.run(sequence, b"INCR", b"n")
    assert node.run(4, b"INCR", b"n", acknowledged=2)[0] == b":4\r\n"
    assert sorted(node.machine.sessions.by_id[node.session].replies) == [3, 4]
    refused = node.run(2, b"INCR", b"n")
    assert isinstance(refused, SessionError)
    assert encode(refused, 2) == b"-SESSIONEXPIRED request 2 was acknowledged before; its reply is forgotten\r\n"
    assert node.run(3, b"INCR", b"n")[0] == b":3\r\n"
    assert node.run(5, b"GET", b"n")[0] == b"$1\r\n4\r\n"


def test_an_old_acknowledgement_does_not_take_a_newer_one_back():
    node = Node()
    node.run(1, b"INCR", b"n")
    node.run(5, b"INCR", b"n", acknowledged=4)
    node.run(6, b"INCR", b"n", acknowledged=0)
    assert isinstance(node.run(3, b"INCR", b"n"), SessionError)


def test_too_many_replies_that_nobody_acknowledged_are_refused_until_some_are():
    node = Node()
    for sequence in range(1, REPLIES_MAX + 1):
        node.run(sequence, b"INCR", b"n")
    refused = node.run(REPLIES_MAX + 1, b"INCR", b"n")
    assert isinstance(refused, CommandError)
    assert (
        refused.message
        == f"{REPLIES_MAX} replies of this session are not acknowledged; raise the acknowledged sequence"
    )
    assert node.run(1, b"INCR", b"n")[0] == b":1\r\n"
    assert node.run(REPLIES_MAX + 1, b"INCR", b"n", acknowledged=1)[0] == b":%d\r\n" % (REPLIES_MAX + 1)


def test_a_session_nobody_opened_runs_nothing():
    node = Node()
    refused = node.run(1, b"SET", b"k", b"v", session=b"x" * SESSION_ID_BYTES)
    assert isinstance(refused, SessionError)
    assert refused.deterministic
    assert node.run(1, b"EXISTS", b"k")[0] == b":0\r\n"


def test_a_session_expires_by_the_stamps_and_each_use_renews_it():
    node = Node()
    assert node.run(1, b"INCR", b"n", at=TTL_MS - 1)[0] == b":1\r\n"
    assert node.run(2, b"INCR", b"n", at=2 * TTL_MS - 2)[0] == b":2\r\n"
    assert isinstance(node.run(3, b"INCR", b"n", at=3 * TTL_MS - 2), SessionError)
    assert isinstance(node.run(3, b"INCR", b"n", at=0), SessionError)


def test_a_session_behind_one_that_lives_longer_expires_all_the_same():
    node = Node()
    node.open(ttl_ms=10 * TTL_MS)
    short = bytes.fromhex(node.open(ttl_ms=5).decode())
    assert isinstance(node.run(1, b"INCR", b"n", session=short, at=5), SessionError)
    assert short not in node.machine.sessions.by_id


def test_expired_sessions_are_removed_a_bounded_number_each_entry():
    node = Node()
    for _ in range(2 * COLLECT_PER_ENTRY):
        node.open()
    counts = []
    for _ in range(3):
        node.apply(Group(TICK, 0, 0, b""), at=TTL_MS)
        counts.append(len(node.machine.sessions.by_id))
    assert counts == [COLLECT_PER_ENTRY + 1, 1, 0]


def test_one_session_too_many_pushes_out_the_one_unused_for_longest(monkeypatch):
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 3)
    node = Node()
    names = [node.session, *(bytes.fromhex(node.open().decode()) for _ in range(2))]
    node.run(1, b"INCR", b"n")  # the first is used again, so the second is the oldest
    node.open()
    assert len(node.machine.sessions.by_id) == 3
    assert [name in node.machine.sessions.by_id for name in names] == [True, False, True]
    assert node.run(1, b"INCR", b"n")[0] == b":1\r\n"


def test_ids_are_places_in_the_log_and_never_the_same():
    sessions = Sessions()
    names = [sessions.open(index, ordinal, TTL_MS, 0) for index in (1, 256, 2**40) for ordinal in (0, 1, 256)]
    assert len(set(names)) == len(names)
    assert all(len(bytes.fromhex(name.decode())) == SESSION_ID_BYTES for name in names)


def test_a_place_that_is_taken_a_second_time_after_a_loss_of_quorum_is_another_session():
    lost, kept = (Sessions().open(7, 0, TTL_MS, now_ms) for now_ms in (1_700_000_000_000, 1_700_000_060_000))
    assert lost != kept


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=40))
def test_whatever_is_repeated_and_acknowledged_a_request_has_one_effect_and_one_answer(asked):
    node = Node()
    answers: dict[int, object] = {}
    for sequence, acknowledged in asked:
        result = node.run(sequence, b"INCR", b"n", acknowledged=min(acknowledged, sequence - 1))
        if isinstance(result, SessionError):
            continue
        assert answers.setdefault(sequence, result) == result
    assert len(set(answers.values())) == len(answers)
    assert node.machine.keyspace[0].get(b"n") == (b"%d" % len(answers) if answers else None)


def test_a_reply_too_large_to_be_kept_is_an_error_that_says_that_it_was_applied(monkeypatch):
    monkeypatch.setattr("raftkv.machine.machine.SESSION_REPLY_BYTES_MAX", 1000)
    client = Node()
    client.run(1, b"SET", b"k", b"x" * 600)
    assert client.run(2, b"MGET", b"k") == (b"*1\r\n$600\r\n" + b"x" * 600 + b"\r\n",) * 2
    refused = client.run(3, b"MGET", b"k", b"k")
    assert refused[0].startswith(b"-ERR the command was applied, but a session does not keep replies above 1000 bytes")
    assert client.run(3, b"MGET", b"k", b"k") == refused
