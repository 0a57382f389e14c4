"""redis-cli as people and scripts use it, against a real cluster."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import termios
import time

import pytest

from tests.integration.wire import resp

pytestmark = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")

WITHIN_S = 60
QUIET_S = 0.3
"""A terminal that shows nothing new for so long has shown everything."""


@pytest.fixture
def port(shared_cluster):
    """Of a follower."""
    return shared_cluster.ports[shared_cluster.follower()]


def _cli(port: int, *words: str, stdin: bytes | None = None, code: int = 0) -> str:
    done = subprocess.run(
        ["redis-cli", "-p", str(port), *words], input=stdin, capture_output=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == code, (words, done.stdout, done.stderr)
    assert b"AUTH failed" not in done.stderr
    return done.stdout.decode("utf-8", "surrogateescape")


class TestOneCommand:
    def test_answers(self, port):
        assert _cli(port, "PING") == "PONG\n"
        assert _cli(port, "SET", "k", "v") == "OK\n"
        assert _cli(port, "GET", "k") == "v\n"
        assert _cli(port, "-3", "HSET", "h", "f", "1") == "1\n"
        assert _cli(port, "-3", "--json", "HGETALL", "h") == '{"f":"1"}\n'
        assert _cli(port, "--csv", "RPUSH", "l", "a", "b") == "2\n"
        assert _cli(port, "--csv", "LRANGE", "l", "0", "-1") == '"a","b"\n'
        assert _cli(port, "-n", "5", "DBSIZE") == "0\n"
        assert _cli(port, "-x", "SET", "stdin", stdin=b"\x00\xffbinary") == "OK\n"
        assert _cli(port, "STRLEN", "stdin") == "8\n"
        assert _cli(port, "-r", "3", "INCR", "n") == "1\n2\n3\n"
        assert "NOSUCH" in _cli(port, "NOSUCH", code=0)
        assert _cli(port, "-e", "NOSUCH", code=1) == ""
        assert "# Raft" in _cli(port, "INFO")
        assert "role" in _cli(port, "RAFT.STATUS")

    def test_a_transaction_from_a_script(self, port):
        script = b"MULTI\nSET k 1\nINCR k\nEXEC\nGET k\n"
        assert _cli(port, stdin=script).split() == ["OK", "QUEUED", "QUEUED", "OK", "2", "2"]

    def test_in_cluster_mode(self, shared_cluster):
        for number in range(12):
            at = shared_cluster.ports[number % 3]
            assert _cli(at, "-c", "SET", f"key:{number}", str(number)) == "OK\n"
        for number in range(12):
            at = shared_cluster.ports[(number + 1) % 3]
            assert _cli(at, "-c", "GET", f"key:{number}") == f"{number}\n"
        found = _cli(shared_cluster.ports[0], "--cluster", "call", f"127.0.0.1:{shared_cluster.ports[0]}", "PING")
        assert found.count("PONG") == 3


class TestMassInsertion:
    @pytest.mark.parametrize("size", [3, 3000])
    def test_pipe(self, port, size):
        count = 20_000 if size < 100 else 3000
        data = b"".join(resp("SET", f"key:{number}", f"{number}:".ljust(size, "x")) for number in range(count))
        output = _cli(port, "--pipe", stdin=data)
        assert f"errors: 0, replies: {count}" in output
        assert _cli(port, "DBSIZE") == f"{count}\n"
        assert _cli(port, "GET", f"key:{count - 1}").strip() == f"{count - 1}:".ljust(size, "x")

    def test_pipe_counts_errors(self, port):
        output = _cli(
            port, "--pipe", stdin=resp("SET", "k", "x") + resp("INCR", "k") + resp("NOSUCH") + resp("GET", "k"), code=1
        )
        assert "errors: 2, replies: 4" in output


class TestScans:
    def test_scan_and_big_keys(self, port):
        data = b"".join(resp("SET", f"key:{number}", "x" * (number % 10)) for number in range(500))
        data += (
            resp("RPUSH", "list", *range(50))
            + resp("HSET", "hash", "f", "v")
            + resp("ZADD", "zset", 1, "m")
            + resp("SADD", "set", "m")
        )
        assert "errors: 0" in _cli(port, "--pipe", stdin=data)
        assert len(set(_cli(port, "--scan").split())) == 504
        assert len(_cli(port, "--scan", "--pattern", "key:4?").split()) == 10
        output = _cli(port, "--bigkeys")
        assert "Sampled 504 keys in the keyspace" in output
        assert any("list found" in line and "has 50 items" in line for line in output.splitlines()), output
        output = _cli(port, "--memkeys")
        assert "Sampled 504 keys in the keyspace" in output


class TestInteractive:
    def test_prompt_with_hints_from_command_docs(self, port):
        """On a terminal redis-cli asks COMMAND DOCS, and shows the syntax of what is typed."""
        screen = _on_a_terminal(
            ["redis-cli", "-p", str(port)], [b"SET k ", b"v\r", b"help RAFT.TRANSFER\r", b"GET k\r", b"QUIT\r"]
        )
        assert "value" in screen, "the hint"
        assert "OK" in screen
        assert "RAFT.TRANSFER [member]" in screen, "only COMMAND DOCS can have told it"
        assert "Hand leadership to a voter" in screen
        assert '"v"' in screen


def _on_a_terminal(words: list[str], typed: list[bytes]) -> str:
    """What a program shows on a terminal while ``typed`` is entered, each piece when the screen is quiet."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        termios.tcsetwinsize(0, (24, 120))
        os.execvp(words[0], words)
    shown = b""
    deadline = time.monotonic() + WITHIN_S
    pending = list(typed)
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([terminal], [], [], QUIET_S)
            if ready:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:
                    break
            elif pending and b"> " in shown:
                os.write(terminal, pending.pop(0))
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode("utf-8", "replace"))
