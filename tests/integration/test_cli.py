"""``raftkv cli`` and ``raftkv bench`` against a cluster, as processes."""

from __future__ import annotations

import json
import subprocess
import sys


def raftkv(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "raftkv", *words], input=stdin, capture_output=True, timeout=60, check=False
    )  # fmt: skip


def test_a_command_from_arguments_a_file_and_a_pipe(shared_cluster, tmp_path):
    port = str(shared_cluster.ports[shared_cluster.follower()])
    done = raftkv("cli", "-p", port, "set", "a key", "-5")
    assert (done.returncode, done.stdout) == (0, b"OK\n")
    done = raftkv("cli", "-p", port, "incr", "a key")
    assert (done.returncode, done.stdout) == (0, b"-4\n")
    done = raftkv("cli", "-p", port, "lpush", "a key", "x")
    assert done.returncode == 1
    assert done.stdout.startswith(b"WRONGTYPE ")

    commands = tmp_path / "commands"
    commands.write_text('# a comment\nhset h f "v w"\nhgetall h\n')
    done = raftkv("cli", "-p", port, "--format", "json", "--file", str(commands))
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [1, {"f": "v w"}]

    lines = b"".join(b"SET pipe:%d x\r\n" % number for number in range(2000)) + b"INCR h\r\n"
    done = raftkv("cli", "-p", port, "--pipe", stdin=lines)
    assert done.returncode == 1
    assert done.stdout == b"errors: 1, replies: 2001\n"
    assert b"WRONGTYPE" in done.stderr
    assert raftkv("cli", "-p", port, "dbsize").stdout == b"2002\n"


def test_the_status_is_a_map_in_every_format(shared_cluster):
    port = str(shared_cluster.ports[0])
    found = json.loads(raftkv("cli", "-p", port, "--format", "json", "raft.status").stdout)
    assert found["node"] == "n1"
    assert found["role"] in {"leader", "follower"}
    table = raftkv("cli", "-p", port, "--format", "table", "raft.status").stdout.decode()
    assert ["node", "n1"] in [line.split() for line in table.splitlines()]


def test_another_database_and_protocol_3(shared_cluster):
    port = str(shared_cluster.ports[0])
    assert raftkv("cli", "-p", port, "-n", "5", "set", "only", "here").returncode == 0
    assert raftkv("cli", "-p", port, "exists", "only").stdout == b"0\n"
    shown = raftkv("cli", "-3", "-n", "5", "-p", port, "--format", "pretty", "config", "get", "databases").stdout
    assert shown == b'1# "databases" => "16"\n'


def test_the_load_tool_loads(shared_cluster):
    port = str(shared_cluster.ports[shared_cluster.leader()])
    done = raftkv("bench", "-p", port, "-t", "set,get,incr,lpush,zadd", "-n", "500", "-c", "5", "-P", "4", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [(row["workload"], row["commands"], row["errors"]) for row in rows] == [
        (name, 500, {}) for name in ("set", "get", "incr", "lpush", "zadd")
    ]
