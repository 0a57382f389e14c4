"""``raftkv import`` into a real cluster: what a real Redis saved, from files and standard input, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import redis

from tests.differential.test_import import contents_of_redis, differences, fill, random_commands, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
NOW_MS = 1_900_000_000_000
WITHIN_S = 60


def run(cluster, *words: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "raftkv", "import", "--to", cluster.addresses[cluster.follower()]]
    return subprocess.run([*command, *map(str, words)], input=stdin, capture_output=True, timeout=WITHIN_S, check=False)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict]:
    """A folder with an RDB and append-only files of the same keys; and the keys."""
    with running(tmp_path, appendonly="yes") as client:
        fill(client, random_commands(Random(21), NOW_MS))
        client.incr("counter")
        client.pexpireat("counter", NOW_MS)
        client.save()
        return tmp_path, contents_of_redis(client)


def test_a_cluster_takes_what_redis_saved(shared_cluster, saved):
    folder, theirs = saved
    client = redis.Redis(port=shared_cluster.ports[0])
    done = run(shared_cluster, folder / "appendonlydir", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["commands"] == report["acknowledged"] > 100
    assert not differences(contents_of_redis(client), theirs)
    # The log of a node that runs is looked into.
    words = [sys.executable, "-m", "raftkv", "wal", "verify", shared_cluster.members[0].directory / "data", "--json"]
    looked = subprocess.run(words, capture_output=True, timeout=WITHIN_S, check=False)
    assert looked.returncode == 0, looked.stdout
    found = json.loads(looked.stdout)
    assert found["in_use_by"] in {shared_cluster.pids[0], None}  # None where the kernel does not tell of locks
    assert found["last_index"] >= report["acknowledged"] // 512
    # The keys again, over what is there: replaced, not doubled.
    for words, stdin in ([folder / "dump.rdb"], None), (["-"], (folder / "dump.rdb").read_bytes()):
        done = run(shared_cluster, *words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert f"imported {len(theirs):,} keys".encode() in done.stdout
        assert not differences(contents_of_redis(client), theirs)
    # Commands over what is there would give something else.
    for words, stdin in ([folder / "appendonlydir"], None), (["-"], b"*2\r\n$4\r\nINCR\r\n$7\r\ncounter\r\n"):
        done = run(shared_cluster, *words, stdin=stdin)
        assert done.returncode == 1
        assert b"empty it with FLUSHALL" in done.stderr
    assert not differences(contents_of_redis(client), theirs)
    client.close()


def test_of_a_damaged_file_nothing_is_sent(shared_cluster, saved):
    folder, _ = saved
    content = bytearray((folder / "dump.rdb").read_bytes())
    content[-3] ^= 1
    (folder / "dump.rdb").write_bytes(content)
    done = run(shared_cluster, folder / "dump.rdb")
    assert done.returncode == 1
    assert b"the checksum does not match" in done.stderr
    client = redis.Redis(port=shared_cluster.ports[0])
    assert client.execute_command("INFO", "keyspace") == {}
    # A stream cannot be read twice: it is said what is there, and what to do.
    done = run(shared_cluster, "-", stdin=bytes(content))
    assert done.returncode == 1
    assert b"run the same command again: keys are replaced, not doubled" in done.stderr
    client.close()


def test_a_command_that_fails_is_named(shared_cluster):
    words = b"*3\r\n$5\r\nRPUSH\r\n$1\r\nl\r\n$1\r\na\r\n", b"*2\r\n$4\r\nINCR\r\n$1\r\nl\r\n"
    done = run(shared_cluster, "-", stdin=b"".join(words))
    assert done.returncode == 1
    assert b"INCR l: WRONGTYPE" in done.stderr
    assert b"1 commands were acknowledged. Mend the cause, empty it (FLUSHALL)" in done.stderr
