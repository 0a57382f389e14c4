"""What the slow log keeps, and what it must never keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.server.slowlog import ARGUMENT_BYTES_MAX, ARGUMENTS_MAX, SlowEntry, Slowlog, redacted, shortened


def noted(log: Slowlog, *micros: int) -> None:
    for value in micros:
        log.note([b"GET", b"k"], value, "127.0.0.1:5", "me", 1_700_000_000)


@pytest.mark.parametrize(("threshold_us", "kept"), [(10, [12, 10]), (0, [12, 9, 10]), (-1, [])])
def test_threshold(threshold_us: int, kept: list[int]) -> None:
    log = Slowlog(max_len=8, threshold_us=threshold_us)
    noted(log, 10, 9, 12)
    assert [entry.micros for entry in log.get()] == kept


def test_newest_first_and_bounded() -> None:
    log = Slowlog(max_len=3, threshold_us=0)
    noted(log, 1, 2, 3, 4)
    assert [(entry.id, entry.micros) for entry in log.get()] == [(3, 4), (2, 3), (1, 2)]
    assert [entry.id for entry in log.get(2)] == [3, 2]
    assert log.get(0) == []
    assert len(log) == 3


def test_an_entry_says_who_when_and_what() -> None:
    log = Slowlog(max_len=1, threshold_us=0)
    noted(log, 7)
    assert log.get() == [SlowEntry(0, 1_700_000_000, 7, (b"GET", b"k"), "127.0.0.1:5", "me")]


def test_ids_go_on_after_a_reset() -> None:
    log = Slowlog(max_len=3, threshold_us=0)
    noted(log, 1)
    log.reset()
    assert len(log) == 0
    noted(log, 2)
    assert [entry.id for entry in log.get()] == [1]


def test_max_len_changes_at_run_time() -> None:
    log = Slowlog(max_len=4, threshold_us=0)
    noted(log, 1, 2, 3, 4)
    log.max_len = 2
    assert [entry.micros for entry in log.get()] == [4, 3]
    log.max_len = 0
    noted(log, 5)
    assert log.get() == []


def test_shortens_as_redis_does() -> None:
    assert shortened([b"MSET", *[b"x"] * 39])[-2:] == (b"x", b"... (9 more arguments)")
    assert len(shortened([b"x"] * 32)) == 32
    assert shortened([b"SET", b"k", b"v" * 130])[2] == b"v" * 128 + b"... (2 more bytes)"


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=80))
def test_an_entry_is_bounded(argv: list[bytes]) -> None:
    kept = shortened(argv)
    assert len(kept) == min(len(argv), ARGUMENTS_MAX)
    assert all(len(word) <= ARGUMENT_BYTES_MAX + len(b"... (000 more bytes)") for word in kept)


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        ([b"AUTH", b"secret"], [b"AUTH", b"(redacted)"]),
        ([b"auth", b"user", b"secret"], [b"auth", b"(redacted)", b"(redacted)"]),
        (
            [b"HELLO", b"3", b"AUTH", b"u", b"secret", b"SETNAME", b"n"],
            [b"HELLO", b"3", b"AUTH", b"(redacted)", b"(redacted)", b"SETNAME", b"n"],
        ),
        (
            [b"CONFIG", b"SET", b"maxclients", b"5", b"RequirePass", b"secret"],
            [b"CONFIG", b"SET", b"maxclients", b"5", b"RequirePass", b"(redacted)"],
        ),
        ([b"GET", b"auth"], [b"GET", b"auth"]),
    ],
)
def test_secrets_are_redacted(argv: list[bytes], kept: list[bytes]) -> None:
    assert list(redacted(argv)) == kept
    log = Slowlog(max_len=1, threshold_us=0)
    log.note(argv, 1, "", "", 0)
    assert b"secret" not in log.get()[0].argv
