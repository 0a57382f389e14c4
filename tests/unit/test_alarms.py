"""Alarms: the same on every replica, in snapshots, and against every command that may take space."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.commands.registry import TABLE
from raftkv.errors import CommandError, InvariantError
from raftkv.machine.alarms import ALARMS_MAX, NOSPACE, Alarm, Alarms, NoSpaceError, check, clearing, raising
from raftkv.machine.batch import ALARM, Group, Run
from raftkv.machine.image import HEADER_BYTES
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_commands
from raftkv.protocol.replies import OK
from tests.unit.test_machine import START_MS, Replica, open_session, plain, tick, txn

SET = (b"SET", b"key", b"value")


def alarm(words):
    return Group(ALARM, 0, 1, encode_commands([words])), [words]


def raised(node="n2", reason="5 bytes are free"):
    return alarm(raising(node, NOSPACE, reason))


def cleared(node="n2"):
    return alarm(clearing(node, NOSPACE))


def full(**options):
    """A replica that holds a key of each type, with an alarm standing."""
    replica = Replica(**options)
    replica.apply(
        plain(
            SET,
            (b"RPUSH", b"list", b"a", b"b"),
            (b"SADD", b"set", b"a"),
            (b"ZADD", b"zset", b"1", b"a"),
            (b"HSET", b"hash", b"f", b"v"),
        )
    )
    assert replica.apply(raised(), at=7) == 1
    return replica


# ------------------------------------------------------------ what is refused
def test_what_may_take_space_is_refused_and_the_rest_goes_on():
    replica = full()
    answers = replica.apply(
        plain(SET, (b"DEL", b"key"), (b"append", b"key", b"x"), (b"LPOP", b"list"), (b"ExPiRe", b"set", b"9"))
    )
    assert [type(one) for one in answers] == [NoSpaceError, int, NoSpaceError, bytes, int]
    assert str(answers[0]) == (
        "NOSPACE the disk of n2 is full (5 bytes are free): only commands that take no space are run until there is room; "
        "delete keys, make room on that disk, see RAFT.ALARM LIST"
    )
    assert answers[0].definite
    assert replica.ask(b"GET", b"key") is None
    assert replica.apply(cleared()) == 1
    assert replica.apply(plain(SET)) == [OK]


def test_every_command_of_the_table_is_refused_just_if_redis_denies_it_without_memory():
    replica = full()
    for name, command in TABLE.items():
        if command.scope != "data" or command.subcommands:
            continue
        for spelling in (name, name.swapcase(), name.title()):
            (answer,) = replica.apply(plain([spelling] + [b"1"] * (abs(command.arity) - 1)))
            assert isinstance(answer, NoSpaceError) is ("denyoom" in command.flags), spelling


def test_a_long_run_of_one_command_is_refused_too():
    answers = full().apply(plain(*[(b"SET", b"%d" % number, b"x") for number in range(50)]))
    assert {type(one) for one in answers} == {NoSpaceError}


def test_a_transaction_is_refused_as_a_whole():
    replica = full()
    answer = replica.apply(txn((b"DEL", b"key"), SET))
    assert isinstance(answer, CommandError)
    assert str(answer).startswith("EXECABORT Transaction discarded because of: NOSPACE the disk of n2")
    assert replica.ask(b"GET", b"key") == b"value", "nothing of it was done"
    assert replica.apply(txn((b"DEL", b"key"), (b"GET", b"key"))) == [1, None]


def test_a_session_s_refused_request_stays_refused():
    """It was answered as certainly not done: a copy of it that comes late must not be done after all."""
    replica = full()
    identity = bytes.fromhex(replica.apply(open_session(10_000)).decode())
    request = plain(SET, run=Run(identity, 1, 0))
    assert replica.apply(request)[0].startswith(b"-NOSPACE")
    replica.apply(cleared())
    assert replica.apply(request)[0].startswith(b"-NOSPACE")
    assert replica.apply(plain(SET, run=Run(identity, 2, 0)))[0] == b"+OK\r\n"


def test_expiry_goes_on():
    replica = Replica()
    replica.apply(plain((b"SET", b"key", b"x", b"PX", b"10")), raised())
    replica.apply(tick(), at=11)
    assert replica.machine.expired_keys == 1


# ------------------------------------------------------------ the alarms themselves
def test_raising_again_changes_the_reason_and_not_the_time():
    replica = full()
    assert replica.apply(raised(reason="none is free"), at=9) == 0
    assert replica.machine.alarms.standing == (Alarm("n2", NOSPACE, "none is free", START_MS + 7),)


def test_each_member_has_its_own():
    replica = full()
    assert replica.apply(raised("n3")) == 1
    assert "(and 1 more)" in str(replica.machine.refusal)
    assert replica.apply(cleared("n2")) == 1
    assert isinstance(replica.apply(plain(SET))[0], NoSpaceError)
    assert replica.apply(cleared("n2")) == 0
    assert replica.apply(cleared("n3")) == 1
    assert replica.machine.refusal is None


def test_they_are_bounded():
    alarms = Alarms()
    for number in range(ALARMS_MAX + 5):
        alarms.raise_(f"n{number}", NOSPACE, "x", 1)
    assert len(alarms.standing) == ALARMS_MAX
    alarms.raise_("n0", NOSPACE, "y", 2)
    assert alarms.of("n0").reason == "y"


def test_a_snapshot_carries_them():
    told = []
    other = full().moved()
    assert other.machine.alarms.of("n2").since_ms == START_MS + 7
    assert isinstance(other.apply(plain(SET))[0], NoSpaceError)
    other.machine.on_alarms = lambda: told.append(other.machine.refusal)
    other.machine.load(list(StateMachine().dump()))
    assert told == [None]
    assert other.machine.alarms.standing == ()


def test_a_state_of_before_there_were_alarms_is_read():
    replica = full()
    head, *rest = replica.machine.dump()
    fields = msgspec.msgpack.decode(head[HEADER_BYTES:])
    assert fields[0] == 2
    old = msgspec.msgpack.encode([1, *fields[1:6]])
    replica.machine.load([len(old).to_bytes(HEADER_BYTES, "big") + old, *rest])
    assert replica.machine.alarms.standing == ()
    assert replica.apply(plain(SET)) == [OK]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["n1", "n2", "n3"]), st.text(max_size=9)), max_size=12))
def test_the_same_entries_give_the_same_alarms(steps):
    one, model = Replica(), {}
    for at, (raises, node, reason) in enumerate(steps):
        one.apply(raised(node, reason) if raises else cleared(node), at=at)
        if raises:
            model[node] = reason.encode()[:200].decode("utf-8", "replace")
        else:
            model.pop(node, None)
        one = one.moved() if at % 3 == 2 else one
        assert {each.node: each.reason for each in one.machine.alarms.standing} == model
        assert (one.machine.refusal is not None) is bool(model)


@pytest.mark.parametrize("words", [
    [], [b"RAISE"], [b"RAISE", b"n1", b"NOSPACE"], [b"CLEAR", b"n1", b"NOSPACE", b"x"], [b"CLEAR", b"n1", b"CORRUPT"],
    [b"RAISE", b"n" * 33, b"NOSPACE", b"x"], [b"RAISE", b"n1", b"NOSPACE", b"x" * 201], [b"LIST", b"n1", b"NOSPACE"],
])  # fmt: skip
def test_what_is_no_alarm_gets_into_no_log(words):
    with pytest.raises(InvariantError, match="an alarm"):
        check(words)
    machine = StateMachine()
    if words:
        group, _ = alarm(words)
        with pytest.raises(InvariantError, match="an alarm"):
            machine.examine(group)
    with pytest.raises(InvariantError, match="an alarm of 2 commands"):
        machine.examine(Group(ALARM, 0, 2, encode_commands([clearing("n1", NOSPACE)] * 2)))


def test_a_long_reason_is_cut():
    check(raising("n1", NOSPACE, "ä" * 300))
