"""Random commands, the same for raftkv's command functions and for redis-server: every reply must be the same.

On a difference the message names the seed; ``RAFTKV_DIFFERENTIAL_SEED=N`` runs that one alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from random import Random

import pytest

from raftkv.commands.registry import TABLE
from tests.differential.grammar import Group
from tests.differential.groups import GROUPS
from tests.differential.harness import compare, redis_server
from tests.differential.resp import Connection

SEEDS = range(12)
SOAK_SEEDS = range(1000, 1600)
COMMANDS = 400

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


def _run(group: Group, port: int, seeds: range, proto: int) -> None:
    chosen = os.environ.get("RAFTKV_DIFFERENTIAL_SEED")
    connection = Connection(port)
    try:
        for seed in [int(chosen)] if chosen else seeds:
            commands = group.generate(Random(f"{group.name}/{seed}"), COMMANDS)
            compare(connection, commands, proto=proto, label=f"{group.name}, RESP{proto}, seed {seed}")
    finally:
        connection.close()


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_replies_are_those_of_redis(group: Group, port: int, proto: int) -> None:
    _run(group, port, SEEDS, proto)


def _sized(prefix: bytes, count: int) -> list[bytes]:
    return [b"%s%d" % (prefix, number) for number in range(count)]


def test_encodings_change_where_redis_changes_them(port: int) -> None:
    commands = [[b"SET", b"k%d" % length, b"x" * length] for length in (0, 20, 44, 45)]
    commands += [
        [b"SET", b"n" + text, text] for text in (b"0", b"-1", b"9223372036854775807", b"9223372036854775808", b"01")
    ]
    commands += [[b"SADD", b"ints%d" % count, *_sized(b"", count)] for count in (1, 512, 513)]
    commands += [[b"SADD", b"words", b"1", b"x"]]
    for count in (1, 128, 129, 512, 513):
        pairs = [word for member in _sized(b"m", count) for word in (b"1", member)]
        commands += [[b"ZADD", b"z%d" % count, *pairs], [b"HSET", b"h%d" % count, *pairs[:-2], b"last", b"x"]]
    for length in (64, 65):
        commands += [[b"ZADD", b"zl%d" % length, b"1", b"x" * length], [b"HSET", b"hl%d" % length, b"f", b"x" * length]]
        commands += [[b"HSET", b"hf%d" % length, b"x" * length, b"v"]]
    for count in (1, 1000):
        commands += [[b"RPUSH", b"l%d" % count, *_sized(b"e", count)]]
    commands += [[b"OBJECT", b"ENCODING", argv[1]] for argv in commands]
    connection = Connection(port)
    compare(connection, commands, proto=2, label="encodings")
    connection.close()


@pytest.mark.soak
@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_replies_are_those_of_redis_for_minutes(group: Group, port: int, proto: int) -> None:
    _run(group, port, SOAK_SEEDS, proto)


def test_every_data_command_is_compared() -> None:
    """A command that no template names would be tested by nobody."""
    named = {template.split()[0] for group in GROUPS for template in group.templates}
    declared = {one.name for one in TABLE.values() if one.scope == "data" and not one.parent}
    not_in_redis, random = {"MDEL"}, {"RANDOMKEY"}
    assert declared - named == not_in_redis | random
