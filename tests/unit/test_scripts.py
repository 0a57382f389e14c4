from __future__ import annotations

from hashlib import sha1
from typing import Any

import pytest
from redis.lock import Lock

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands.registry import TABLE, Context, lookup
from raftkv.errors import CommandError, WrongTypeError
from raftkv.store.keyspace import Keyspace

RELEASE = "c3f8721cbb97f72bc19e972846bd7aaf91901658"
EXTEND = "a4e8783852e6b949f9ef3a97212805108459a890"
REACQUIRE = "1cac51482acf5858da00f6d685d68f886cd6b6b2"
TEXTS = {RELEASE: Lock.LUA_RELEASE_SCRIPT, EXTEND: Lock.LUA_EXTEND_SCRIPT, REACQUIRE: Lock.LUA_REACQUIRE_SCRIPT}


@pytest.fixture
def ctx() -> Context:
    keyspace = Keyspace()
    keyspace.now_ms = 1_000_000
    context = Context(keyspace)
    run(context, "SET", "lock", "token", "PX", 10_000)
    return context


def run(ctx: Context, *words: str | int) -> Any:
    argv = [str(word).encode() for word in words]
    return lookup(argv).function(ctx, argv)


def test_the_installed_client_has_the_scripts_that_are_built_in(ctx: Context) -> None:
    for digest, text in TEXTS.items():
        assert sha1(text.encode()).hexdigest() == digest
        assert run(ctx, "SCRIPT", "LOAD", text) == digest.encode()
    assert run(ctx, "SCRIPT", "EXISTS", *TEXTS, RELEASE.upper(), "0" * 40) == [1, 1, 1, 1, 0]


def test_release_deletes_only_for_the_owner(ctx: Context) -> None:
    assert run(ctx, "EVALSHA", RELEASE, 1, "lock", "stranger") == 0
    assert run(ctx, "EVALSHA", RELEASE, 1, "lock", "token") == 1
    assert run(ctx, "EXISTS", "lock") == 0
    assert run(ctx, "EVALSHA", RELEASE, 1, "lock", "token") == 0


def test_extend_adds_or_replaces(ctx: Context) -> None:
    assert run(ctx, "EVALSHA", EXTEND, 1, "lock", "stranger", 5_000, 0) == 0
    assert run(ctx, "EVALSHA", EXTEND, 1, "lock", "token", 5_000, 0) == 1
    assert run(ctx, "PTTL", "lock") == 15_000
    assert run(ctx, "EVALSHA", EXTEND, 1, "lock", "token", 3_000, 1) == 1
    assert run(ctx, "PTTL", "lock") == 3_000


def test_a_lock_without_deadline_is_not_extended(ctx: Context) -> None:
    run(ctx, "PERSIST", "lock")
    assert run(ctx, "EVALSHA", EXTEND, 1, "lock", "token", 5_000, 0) == 0
    assert run(ctx, "TTL", "lock") == -1


def test_reacquire_sets_the_deadline_anew(ctx: Context) -> None:
    assert run(ctx, "EVALSHA", REACQUIRE, 1, "lock", "stranger", 60_000) == 0
    assert run(ctx, "EVALSHA", REACQUIRE.upper(), 1, "lock", "token", 60_000) == 1
    assert run(ctx, "PTTL", "lock") == 60_000


def test_an_expired_lock_belongs_to_nobody(ctx: Context) -> None:
    ctx.keyspace.now_ms += 10_000
    assert run(ctx, "EVALSHA", RELEASE, 1, "lock", "token") == 0
    assert run(ctx, "EVALSHA", REACQUIRE, 1, "lock", "token", 60_000) == 0


def test_an_unknown_script_makes_the_client_load_its_text_which_is_refused(ctx: Context) -> None:
    for digest in ("0" * 40, "short"):
        with pytest.raises(CommandError) as caught:
            run(ctx, "EVALSHA", digest, 0)
        assert str(caught.value) == "NOSCRIPT No matching script. Please use EVAL."
    with pytest.raises(CommandError, match="scripting is not supported yet"):
        run(ctx, "SCRIPT", "LOAD", "return 1")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((RELEASE, "x", "lock"), "value is not an integer or out of range"),
        ((RELEASE, "-1", "lock"), "Number of keys can't be negative"),
        ((RELEASE, "3", "lock", "token"), "Number of keys can't be greater than number of args"),
        ((RELEASE, "0"), "needs a key and 1 argument"),
        ((EXTEND, "1", "lock", "token", "5"), "needs a key and 3 argument"),
        ((REACQUIRE, "1", "lock", "token", "soon"), "value is not an integer or out of range"),
        ((REACQUIRE, "1", "lock", "token", str(2**63 - 1)), "invalid expire time in 'pexpire' command"),
    ],
)
def test_wrong_arguments_change_nothing(ctx: Context, words: tuple[str, ...], text: str) -> None:
    with pytest.raises(CommandError, match=text):
        run(ctx, "EVALSHA", *words)
    assert run(ctx, "PTTL", "lock") == 10_000


def test_a_lock_key_of_another_type_is_refused(ctx: Context) -> None:
    run(ctx, "DEL", "lock")
    run(ctx, "SADD", "lock", "token")
    with pytest.raises(WrongTypeError):
        run(ctx, "EVALSHA", RELEASE, 1, "lock", "token")


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ((RELEASE, "1", "a", "t"), [b"a"]), ((RELEASE, "2", "a", "b"), [b"a", b"b"]), ((RELEASE, "0"), []),
        ((RELEASE, "x", "a"), []), ((RELEASE, "5", "a"), []), ((RELEASE, "-1", "a"), []),
    ],
)  # fmt: skip
def test_keys_stand_where_their_number_says(words: tuple[str, ...], keys: list[bytes]) -> None:
    argv = [b"EVALSHA", *[word.encode() for word in words]]
    assert TABLE[b"EVALSHA"].keys_of(argv) == keys
