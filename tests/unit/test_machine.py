"""The replicated state machine: the same entries, the same answers and the same state, on every replica."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.commands.registry import TABLE
from raftkv.errors import CommandError, InvariantError, RaftKVError
from raftkv.machine.batch import DIGEST, OPEN, PLAIN, TICK, TXN, WATCH, Group, Run, Watched, encode_group, header
from raftkv.machine.machine import EXPIRE_PER_ENTRY, LARGE_BYTES, RUN_MIN, StateMachine
from raftkv.protocol.encoder import encode, encode_commands
from raftkv.protocol.replies import NIL_ARRAY, OK
from raftkv.store.digest import digest_of

START_MS = 1_700_000_000_000


def plain(*commands, database=0, run=None):
    return Group(PLAIN, database, len(commands), encode_commands(commands), run=run), [list(one) for one in commands]


def txn(*commands, database=0, watches=(), run=None):
    group = Group(TXN, database, len(commands), encode_commands(commands), tuple(watches), run)
    return group, [list(one) for one in commands]


def watch(*keys, database=0):
    return Group(WATCH, database, 1, encode_commands([keys])), [list(keys)]


def tick():
    return Group(TICK, 0, 0, b""), []


def open_session(ttl_ms):
    return Group(OPEN, 0, 0, b"", numbers=(ttl_ms,)), []


def entry_of(stamp_ms, parts):
    return header(stamp_ms) + b"".join(encode_group(group) for group, _ in parts)


class Replica:
    """A machine with an index of its own; stamps are milliseconds after START_MS."""

    def __init__(self, **options):
        self.machine = StateMachine(**options)
        self.index = 0

    def apply(self, *parts, at=0, prepared=False):
        """Apply one entry of groups; their results, the only one unwrapped."""
        entry = entry_of(START_MS + at, parts)
        if prepared:
            self.machine.prepare(entry, [commands for _, commands in parts])
        self.index += 1
        results = self.machine.apply(self.index, entry)
        return results if len(parts) > 1 else results[0]

    def ask(self, *words, now=0, database=0):
        return self.machine.read(database, [list(words)], START_MS + now, Random(1))[0]

    def moved(self):
        """The same state in another process: through a snapshot."""
        other = Replica(digest_interval=self.machine.audit.interval)
        other.index = self.index
        other.machine.load(list(self.machine.dump()))
        return other

    def state(self):
        machine = self.machine
        watched = {
            place: (one.changed_index, one.registered_ms, one.expired) for place, one in machine.watches.by_key.items()
        }
        sessions = [
            (name, one.ttl_ms, one.used_ms, one.acknowledged, one.replies) for name, one in machine.sessions.by_id.items()
        ]  # fmt: skip
        return machine.digest(), machine.stamp_ms, sessions, watched, machine.audit.round


def shown(result):
    """Replies in a form that can be compared: an error is its text."""
    return [shown(one) for one in result] if isinstance(result, list) else encode(result, 3)


# ------------------------------------------------------------------ two replicas
KEYS = (b"a", b"b", b"{t}c", b"list", b"set", b"zset")
key = st.sampled_from(KEYS)
number = st.integers(-5, 300).map(lambda one: b"%d" % one)
commands = st.one_of(
    st.tuples(st.sampled_from([b"GET", b"INCR", b"DEL", b"PERSIST", b"SPOP", b"LPOP", b"get"]), key),
    st.tuples(st.sampled_from([b"SET", b"APPEND", b"PEXPIRE", b"LPUSH", b"SADD", b"incrby", b"GETSET"]), key, number),
    st.tuples(st.just(b"SET"), key, number, st.just(b"PX"), number),
    st.tuples(st.just(b"ZADD"), key, number, number),
    st.tuples(st.just(b"SADD"), key, number, number, number, number),
    st.tuples(st.just(b"SRANDMEMBER"), key, number),
    st.just((b"RANDOMKEY",)),
    st.tuples(st.just(b"PEXPIRETIME"), key),
    st.just((b"SWAPDB", b"0", b"1")),
    st.just((b"SELECT", b"1")),
    st.just((b"NO-SUCH", b"thing")),
    st.just((b"FLUSHDB",)),
)
batches = st.lists(commands, min_size=1, max_size=RUN_MIN + 2)
run_of_one = st.lists(st.tuples(st.just(b"SET"), key, number), min_size=RUN_MIN, max_size=RUN_MIN + 2)
session_runs = st.builds(Run, st.just((1).to_bytes(8, "big") + bytes(8)), st.integers(1, 6), st.integers(0, 3))
small_databases = st.integers(0, 1)
watched = st.lists(st.builds(Watched, small_databases, key, st.integers(0, 12)), max_size=2)
parts = st.one_of(
    st.builds(lambda them, where: plain(*them, database=where), batches | run_of_one, small_databases),
    st.builds(lambda them, where, seen: txn(*them, database=where, watches=seen), batches, small_databases, watched),
    st.builds(lambda one, run: plain(one, run=run), commands, session_runs),
    st.builds(lambda them, run, seen: txn(*them, run=run, watches=seen), batches, session_runs, watched),
    st.builds(lambda them, where: watch(*them, database=where), st.lists(key, min_size=1, max_size=3), small_databases),
    st.builds(open_session, st.integers(0, 400)),
    st.builds(tick),
)
logs = st.lists(st.tuples(st.integers(-50, 500), st.lists(parts, min_size=1, max_size=4)), max_size=12)


@settings(deadline=None)
@given(logs, st.integers(0, 12))
def test_replicas_agree_from_prepared_commands_from_bytes_and_across_a_snapshot(log, moved_at):
    leader, follower, late = Replica(digest_interval=3), Replica(digest_interval=3), Replica(digest_interval=3)
    for replica in (leader, follower, late):
        replica.apply(open_session(200))
    for turn, (at, groups) in enumerate(log):
        if turn == moved_at:
            late = late.moved()
        first = leader.apply(*groups, at=at, prepared=True)
        # Reads come between, on one replica only and with a clock ahead of the log's: they must leave no trace.
        follower.ask(b"GET", b"a", now=10_000)
        assert shown(follower.apply(*groups, at=at)) == shown(first)
        assert shown(late.apply(*groups, at=at)) == shown(first)
        assert leader.state() == follower.state() == late.state()
    assert leader.state()[0][0] == digest_of(follower.machine.keyspace)


@pytest.mark.parametrize("size", [LARGE_BYTES - 100, LARGE_BYTES + 100])
def test_large_commands_from_bytes_do_what_prepared_ones_do(size):
    value = Random(size).randbytes(size)
    parts = [plain([b"SET", b"k", value], [b"APPEND", b"k", b"x"]), txn([b"SET", b"t", value], [b"STRLEN", b"t"])]
    leader, follower = Replica(), Replica()
    assert leader.apply(*parts, prepared=True) == follower.apply(*parts) == [[OK, size + 1], [OK, size]]
    assert follower.ask(b"GET", b"t") == value
    assert leader.state() == follower.state()


def test_an_entry_in_the_place_of_a_prepared_one_is_parsed_itself():
    replica = Replica()
    kept = entry_of(START_MS, [plain([b"SET", b"k", b"mine"])])
    other = entry_of(START_MS, [plain([b"SET", b"k", b"theirs"])])
    replica.machine.prepare(kept, [[[b"SET", b"k", b"mine"]]])
    replica.machine.apply(1, other)
    assert replica.ask(b"GET", b"k") == b"theirs"


# ------------------------------------------------------------------ time
@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=1))
def test_time_never_goes_back_whatever_the_stamps(stamps):
    replica = Replica()
    seen = []
    for at in stamps:
        replies = replica.apply(plain([b"SET", b"k", b"v", b"PX", b"5000"], [b"PEXPIRETIME", b"k"]), at=at)
        seen.append(replies[1] - START_MS - 5000)
    assert seen == [max(stamps[: turn + 1]) for turn in range(len(stamps))]


def test_a_clock_that_goes_back_revives_no_key():
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"v", b"PX", b"100"]))
    replica.apply(tick(), at=100)
    assert replica.apply(plain([b"EXISTS", b"k"]), at=50) == [0]
    assert replica.ask(b"EXISTS", b"k", now=-1000) == 0


def test_a_read_sees_a_key_expire_before_any_entry_says_so_and_writes_do_not():
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"v", b"PX", b"100"]))
    assert replica.ask(b"GET", b"k", now=99) == b"v"
    assert replica.ask(b"GET", b"k", now=100) is None
    assert replica.apply(plain([b"GET", b"k"]), at=99) == [b"v"]


def test_keys_expire_at_the_same_entry_everywhere_a_bounded_number_each():
    first = Replica()
    count = EXPIRE_PER_ENTRY + 30
    first.apply(plain(*([b"SET", b"%04d" % one, b"v", b"PX", b"%d" % (1 + one % 7)] for one in range(count))))
    second = first.moved()
    sizes = []
    for replica in (first, second):
        assert replica.apply(plain([b"DBSIZE"], [b"EXISTS", b"0000", b"%04d" % (count - 1)]), at=7) == [30, 0]
        assert replica.apply(plain([b"DBSIZE"])) == [0]
        sizes.append(replica.machine.expired_keys)
    assert sizes == [count, count]
    assert first.state() == second.state()


def test_the_next_expiry_is_the_earliest_of_all_databases():
    replica = Replica()
    assert replica.machine.next_expiry_ms is None
    replica.apply(plain([b"SET", b"k", b"v", b"PX", b"500"], database=3), plain([b"SET", b"k", b"v", b"PX", b"300"]))
    assert replica.machine.next_expiry_ms == START_MS + 300


# ------------------------------------------------------------------ commands
def test_errors_in_a_batch_are_answers_and_the_rest_of_it_runs():
    replies = Replica().apply(
        plain(
            [b"SET", b"k", b"v"],
            [b"NO-SUCH"],
            [b"GET"],
            [b"LPUSH", b"k", b"x"],
            [b"CLIENT", b"ID"],
            [b"CONFIG", b"GET", b"*"],
            [b"PING"],
            [b"append", b"k", b"w"],
        )
    )
    assert replies[0] == OK
    assert replies[-1] == 2
    texts = [str(one) for one in replies[1:-1]]
    assert texts[0].startswith("ERR unknown command 'NO-SUCH'")
    assert texts[1] == "ERR wrong number of arguments for 'get' command"
    assert texts[2].startswith("WRONGTYPE ")
    assert all(isinstance(one, CommandError) and one.deterministic for one in replies[1:-1])


def test_server_commands_inside_a_batch_are_answers():
    import raftkv.server.commands  # noqa: F401 -- adds the server commands to the table

    replies = Replica().apply(plain([b"CLIENT", b"ID"], [b"ping"], [b"SET", b"k", b"v"]))
    assert [str(one) for one in replies[:2]] == [
        "ERR 'client id' cannot be part of a replicated batch",
        "ERR 'ping' cannot be part of a replicated batch",
    ]
    assert replies[2] == OK


@pytest.mark.parametrize("count", [1, RUN_MIN])
def test_anything_but_a_command_error_leaves_through_apply(monkeypatch, count):
    replica = Replica()
    command = TABLE[b"APPEND"]

    def broken(_context, _argv):
        raise ZeroDivisionError

    monkeypatch.setitem(replica.machine._direct, b"APPEND", (broken, command.arity))
    with pytest.raises(ZeroDivisionError):
        replica.apply(plain(*[[b"APPEND", b"k", b"v"]] * count))


@pytest.mark.parametrize("name", [b"SET", b"GET", b"INCR", b"set"])
@pytest.mark.parametrize("count", [RUN_MIN - 1, RUN_MIN, 3 * RUN_MIN])
def test_a_run_of_one_command_answers_as_each_alone(name, count):
    words = {b"SET": [b"v"], b"set": [b"w"]}.get(name, [])
    them = [[name, b"k%d" % (one % 5), *words] for one in range(count)]
    them[1] = [name]  # a wrong arity among them
    together, alone = Replica(), Replica()
    for one in (together, alone):
        one.apply(plain([b"SET", b"k1", b"5"], [b"LPUSH", b"k2", b"x"]))
    expected = [alone.apply(plain(one))[0] for one in them]
    assert shown(together.apply(plain(*them))) == shown(expected)
    assert together.machine.digest()[0] == alone.machine.digest()[0]
    assert together.machine.commands_applied == count + 2


# ------------------------------------------------------------------ transactions
def test_a_transaction_runs_when_what_it_watched_is_unchanged():
    replica = Replica()
    index = replica.apply(watch(b"k"))
    replica.apply(plain([b"SET", b"other", b"v"]), plain([b"SET", b"k", b"elsewhere"], database=1))
    assert replica.apply(txn([b"SET", b"k", b"1"], [b"INCR", b"k"], watches=[Watched(0, b"k", index)])) == [OK, 2]


CHANGES = {
    "written": [[b"SET", b"k", b"w"]],
    "written as it was": [[b"SET", b"k", b"v"]],
    "deleted": [[b"DEL", b"k"]],
    "flushed": [[b"FLUSHALL"]],
    "given an expiry": [[b"PEXPIRE", b"k", b"1000"]],
    "renamed": [[b"RENAME", b"k", b"l"]],
    "swapped away": [[b"SWAPDB", b"0", b"1"]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("moved", [False, True])
def test_a_transaction_fails_when_what_it_watched_was(change, moved):
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"v"]))
    index = replica.apply(watch(b"j", b"k"))
    replica = replica.moved() if moved else replica
    replica.apply(plain(*change))
    seen = [Watched(0, b"j", index), Watched(0, b"k", index)]
    assert replica.apply(txn([b"SET", b"done", b"1"], watches=seen)) is NIL_ARRAY
    assert replica.ask(b"EXISTS", b"done") == 0


def test_a_key_that_expires_while_it_is_watched_breaks_the_transaction():
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"v", b"PX", b"100"]))
    seen = [Watched(0, b"k", replica.apply(watch(b"k")))]
    assert replica.apply(txn([b"GET", b"k"], watches=seen), at=99) == [b"v"]
    assert replica.apply(txn([b"GET", b"k"], watches=seen), at=100) is NIL_ARRAY


def test_select_inside_a_transaction_lasts_until_its_end():
    replica = Replica()
    replies = replica.apply(
        txn(
            [b"SET", b"k", b"0"],
            [b"select", b"2"],
            [b"SET", b"k", b"2"],
            [b"SELECT", b"16"],
            [b"SELECT", b"x"],
            [b"GET", b"k"],
        )
    )
    assert replies[:3] == [OK, OK, OK]
    assert [str(one) for one in replies[3:5]] == [
        "ERR DB index is out of range",
        "ERR value is not an integer or out of range",
    ]
    assert replies[5] == b"2"
    assert replica.apply(plain([b"GET", b"k"])) == [b"0"]
    assert replica.ask(b"GET", b"k", database=2) == b"2"


def test_swapdb_inside_a_transaction_is_seen_by_what_follows():
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"zero"]), plain([b"SET", b"k", b"one"], database=1))
    replies = replica.apply(
        txn([b"GET", b"k"], [b"SWAPDB", b"0", b"1"], [b"GET", b"k"], [b"SELECT", b"1"], [b"GET", b"k"])
    )
    assert replies == [b"zero", OK, b"one", OK, b"zero"]


def test_an_error_inside_a_transaction_is_one_of_its_replies():
    replies = Replica().apply(txn([b"SET", b"k", b"v"], [b"INCR", b"k"], [b"GET", b"k"]))
    assert [replies[0], replies[2]] == [OK, b"v"]
    assert isinstance(replies[1], CommandError)


# ------------------------------------------------------------------ snapshots
def test_a_state_of_another_version_or_damaged_is_refused():
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"v"]))
    whole = b"".join(replica.machine.dump())
    size = 4 + int.from_bytes(whole[:4], "big")
    newer = bytearray(whole)
    newer[5] = 3
    with pytest.raises(InvariantError, match="version 3, this node reads 1 to 2: upgrade it"):
        StateMachine().load([bytes(newer)])
    for cut in range(size):
        with pytest.raises(InvariantError):
            StateMachine().load([whole[:cut]])
    with pytest.raises(InvariantError, match="header is damaged"):
        StateMachine().load([whole[:4] + b"\xc1" + whole[5:]])


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1))
def test_a_state_is_loaded_wherever_its_stream_is_cut(sizes):
    replica = Replica()
    replica.apply(plain([b"SET", b"k", b"v", b"PX", b"99"]), open_session(10), watch(b"k"), at=5)
    whole = b"".join(replica.machine.dump())
    chunks, at, turn = [], 0, 0
    while at < len(whole):
        chunks.append(whole[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(chunks[-1]), turn + 1
    other = Replica()
    other.machine.load(chunks)
    assert other.state() == replica.state()


# ------------------------------------------------------------------ the audit's place in the log
def test_a_digest_of_another_state_in_the_log_stops_the_replica():
    replica = Replica(digest_interval=2)
    taken = []
    replica.machine.audit.on_digest = lambda index, digest: taken.append((index, digest))
    replica.apply(plain([b"SET", b"k", b"v"]))
    replica.apply(tick())
    (index, digest) = taken[0]
    assert index == 2
    assert replica.apply((Group(DIGEST, 0, 0, b"", numbers=(index, digest)), [])) is None
    assert replica.machine.audit.compared == 1
    with pytest.raises(RaftKVError, match="state diverged"):
        replica.apply((Group(DIGEST, 0, 0, b"", numbers=(index, digest ^ 1)), []))


def test_no_entry_is_applied_twice():
    replica = Replica()
    replica.apply(plain([b"INCR", b"n"]))
    with pytest.raises(InvariantError, match="would be applied after entry"):
        replica.machine.apply(replica.index, entry_of(START_MS, [plain([b"INCR", b"n"])]))
