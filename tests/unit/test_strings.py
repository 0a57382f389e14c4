"""What a comparison with redis-server cannot show: limits that would take memory there, cost, exactness of LCS."""

from __future__ import annotations

import time
from collections import deque
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands import lcs
from raftkv.commands.args import STRING_BYTES_MAX
from raftkv.commands.registry import Context, lookup
from raftkv.errors import CommandError
from raftkv.store.digest import digest_of
from raftkv.store.keyspace import Keyspace

NOW_MS = 1_700_000_000_000


@pytest.fixture
def ctx() -> Context:
    keyspace = Keyspace()
    keyspace.now_ms = NOW_MS
    return Context(keyspace)


def run(ctx: Context, *words: bytes | str | int) -> Any:
    argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return lookup(argv).function(ctx, argv)


def test_relative_times_are_added_to_the_stamp_of_the_entry(ctx: Context) -> None:
    run(ctx, "SET", "a", "v", "EX", 10)
    run(ctx, "SET", "b", "v", "PX", 10)
    run(ctx, "SETEX", "c", 10, "v")
    run(ctx, "PSETEX", "d", 10, "v")
    run(ctx, "SET", "e", "v")
    run(ctx, "GETEX", "e", "EX", 10)
    deadlines = [run(ctx, "PEXPIRETIME", key) - NOW_MS for key in "abcde"]
    assert deadlines == [10_000, 10, 10_000, 10, 10_000]


def test_a_deadline_in_the_past_leaves_no_key(ctx: Context) -> None:
    assert run(ctx, "SET", "a", "v", "PXAT", NOW_MS) == "OK"
    assert run(ctx, "EXISTS", "a") == 0
    run(ctx, "SET", "b", "v")
    assert run(ctx, "GETEX", "b", "PXAT", 1) == b"v"
    assert run(ctx, "DBSIZE") == 0


def test_a_refused_set_changes_nothing(ctx: Context) -> None:
    run(ctx, "SET", "a", "old", "EX", 100)
    for words in (
        ("SET", "a", "new", "EX", "0"),
        ("SET", "a", "new", "FOO"),
        ("SET", "a", "new", "NX", "XX"),
        ("SETEX", "a", "-1", "new"),
    ):
        with pytest.raises(CommandError):
            run(ctx, *words)
    assert run(ctx, "GET", "a") == b"old"
    assert run(ctx, "TTL", "a") == 100


def test_no_string_grows_beyond_512_mib(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.commands.strings.STRING_BYTES_MAX", 10)
    run(ctx, "SET", "a", "12345678")
    assert run(ctx, "APPEND", "a", "9") == 9
    assert run(ctx, "SETRANGE", "a", 9, "0") == 10
    for words in (("APPEND", "a", "x"), ("SETRANGE", "a", 10, "x"), ("SETRANGE", "missing", 10, "x")):
        with pytest.raises(CommandError, match=r"string exceeds maximum allowed size \(proto-max-bulk-len\)"):
            run(ctx, *words)
    assert run(ctx, "GET", "a") == b"1234567890"
    assert run(ctx, "SETRANGE", "missing", 11, "") == 0
    assert STRING_BYTES_MAX == 512 * 1024 * 1024


def test_counters_keep_their_deadline(ctx: Context) -> None:
    run(ctx, "SET", "n", 1, "EX", 100)
    run(ctx, "INCR", "n")
    run(ctx, "INCRBYFLOAT", "n", "0.5")
    run(ctx, "APPEND", "n", "0")
    assert run(ctx, "GET", "n") == b"2.50"
    assert run(ctx, "TTL", "n") == 100


def test_an_expired_counter_starts_again(ctx: Context) -> None:
    run(ctx, "SET", "n", 41, "PX", 5)
    ctx.keyspace.now_ms += 5
    assert run(ctx, "INCR", "n") == 1
    assert run(ctx, "TTL", "n") == -1


# ------------------------------------------------------------------ LCS
def table_walk(a: bytes, b: bytes) -> list[tuple[int, int]]:
    """The textbook's matrix, and the way back that Redis takes."""
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            rows[i + 1][j + 1] = rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
    i, j, found = len(a), len(b), []
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            found.append((i, j))
        elif rows[i - 1][j] > rows[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


@settings(deadline=None)
@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
def test_the_bit_parallel_lcs_takes_the_path_of_the_matrix(a: str, b: str) -> None:
    first, second = a.encode(), b.encode()
    assert lcs._matches(first, second) == table_walk(first, second)


def test_lcs_of_ten_thousand_bytes_takes_no_minute(ctx: Context) -> None:
    a = bytes(ord("a") + (number * number) % 7 for number in range(10_000))
    run(ctx, "MSET", "a", a, "b", a[::-1])
    started = time.perf_counter()
    common = run(ctx, "LCS", "a", "b")
    assert len(common) == run(ctx, "LCS", "a", "b", "LEN")
    assert time.perf_counter() - started < 5


def test_lcs_is_bounded(ctx: Context) -> None:
    run(ctx, "MSET", "a", b"x" * 20_000, "b", b"x" * 20_000, "c", b"x" * (1 << 24), "d", "xy")
    with pytest.raises(CommandError, match="transient memory for LCS exceeds proto-max-bulk-len"):
        run(ctx, "LCS", "a", "b")
    with pytest.raises(CommandError, match="String too long for LCS"):
        run(ctx, "LCS", "c", "d")


@pytest.mark.parametrize("name", [b"SET", b"get"])
def test_a_run_of_one_command_answers_as_one_by_one(name):
    rng = Random(7)
    words = [b"k%d" % n for n in range(6)] + [b"{t}a", b"{t}b", b"list", b"gone", b"lasting"]
    commands = [[name, rng.choice(words), b"v%d" % n][: 3 if name == b"SET" else 2] for n in range(200)]

    def prepared():
        keyspace = Keyspace()
        keyspace.now_ms = 1_000
        database = keyspace[0]
        changed = []
        database.set(b"list", deque([b"a"]))
        database.set(b"{t}a", b"1")
        database.set(b"gone", b"1")
        database.set_expiry(b"gone", 1_500)
        database.set(b"lasting", b"1")
        database.set_expiry(b"lasting", 9_000)
        keyspace.now_ms = 2_000
        database.watched = changed.append
        return Context(keyspace), changed

    (together, changed_together), (single, changed_single) = prepared(), prepared()
    declared = lookup(commands[0])
    one_by_one = []
    for argv in commands:
        try:
            one_by_one.append(declared.function(single, argv))
        except CommandError as error:
            one_by_one.append(str(error))
    replies = [str(one) if isinstance(one, CommandError) else one for one in declared.run(together, commands)]
    assert replies == one_by_one
    assert changed_together == changed_single
    assert together.db.size == single.db.size
    assert together.db.expiries == single.db.expiries
    assert digest_of(together.keyspace) == digest_of(single.keyspace)


def test_a_run_with_other_forms_among_it_is_refused():
    keyspace = Keyspace()
    assert (
        lookup([b"SET", b"a", b"1"]).run(Context(keyspace), [[b"SET", b"a", b"1"], [b"SET", b"a", b"1", b"NX"]]) is None
    )
    assert lookup([b"GET", b"a"]).run(Context(keyspace), [[b"GET", b"a"], [b"GET"]]) is None
    assert keyspace[0].size == 0
