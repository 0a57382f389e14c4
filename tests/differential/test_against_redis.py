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
