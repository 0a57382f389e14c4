"""What a comparison with redis-server cannot show: limits that would take memory there, cost, exactness of LCS."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands import lcs
from raftkv.commands.args import STRING_BYTES_MAX
from raftkv.commands.registry import Context, lookup
from raftkv.errors import CommandError
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
