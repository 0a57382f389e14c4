"""Passwords, limits and garbage at the client port: every client gets its error, the node lives and stays small."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from raftkv.cli import probe
from raftkv.cli.topology import server_command
from tests.integration.conftest import Cluster, wait_until
from tests.integration.wire import OK, PONG, Wire, resp
from tests.ports import free_layout

PASSWORD = "correct horse"
NOAUTH = ("error", "NOAUTH Authentication required.")
MIB = 1 << 20


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Three nodes with a password and small limits, for all tests of this file."""
    cluster = Cluster(
        tmp_path_factory.mktemp("guarded"), requirepass=PASSWORD, client_query_buffer_limit=4 * MIB,
        client_output_buffer_limit=4 * MIB, proto_max_bulk_len=3 * MIB, maxclients=40, timeout=0,
    )  # fmt: skip
    try:
        cluster.start_all()
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def port(guarded):
    """Of a follower: its own limits, and everything forwarded."""
    guarded.heal()
    return guarded.ports[guarded.follower()]


def _login(port: int) -> Wire:
    wire = Wire(port)
    assert wire.do("AUTH", PASSWORD) == OK
    return wire


def _rss_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("VmRSS"))


def _assert_healthy(cluster: Cluster) -> None:
    cluster.assert_alive()
    for number, port in enumerate(cluster.ports):
        with _login(port) as wire:
            assert wire.do("SET", "healthy", number) == OK
            assert wire.do("GET", "healthy") == ("bulk", b"%d" % number)
    for place in range(len(cluster.members)):
        text = cluster.log(place, lines=2000)
        assert "Traceback" not in text, text
        assert PASSWORD not in text, "a secret in the log"


class TestPassword:
    def test_nothing_but_auth_works_without_it(self, guarded, port):
        with Wire(port) as wire:
            for words in (
                ("GET", "k"), ("SET", "k", 1), ("PING",), ("MULTI",), ("EXEC",), ("INFO",), ("CLIENT", "ID"), ("SELECT", 0),
                ("CONFIG", "GET", "requirepass"), ("RAFT.STATUS",), ("RAFT.TRANSFER",), ("CLUSTER", "SLOTS"), ("COMMAND",),
                ("SENTINEL", "masters"), ("WATCH", "k"), ("RAFT.SESSION", "OPEN"), ("EVALSHA", "x", 0),
            ):  # fmt: skip
                assert wire.do(*words) == NOAUTH, words
            assert wire.do("NOSUCH")[1].startswith("ERR unknown command")
            assert wire.do("HELLO", 3) == (
                "error",
                (
                    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> "
                    "AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol "
                    "version at the same time"
                ),
            )
            wrong = ("error", "WRONGPASS invalid username-password pair or user is disabled.")
            assert wire.do("AUTH", "wrong") == wrong
            assert wire.do("AUTH", "default", "wrong") == wrong
            assert wire.do("AUTH", "nobody", PASSWORD) == wrong
            assert wire.do("HELLO", 3, "AUTH", "default", "wrong") == wrong
            assert wire.do("GET", "k") == NOAUTH
            assert wire.do("HELLO", 3, "AUTH", "default", PASSWORD)[0] == "map"
            assert wire.do("GET", "no-such-key") == ("null", None)
            assert wire.do("RESET") == ("simple", "RESET")
            assert wire.do("GET", "k") == NOAUTH
            assert wire.do("QUIT") == OK
            assert wire.is_closed()

    def test_a_pipeline_behind_auth_is_not_held_to_the_limits_before_it(self, guarded, port):
        large = b"x" * 200_000
        with Wire(port) as wire:
            wire.send(resp("AUTH", PASSWORD) + resp("SET", "large", large) + resp("STRLEN", "large") + resp("PING"))
            assert [wire.read() for _ in range(4)] == [OK, OK, ("integer", len(large)), PONG]

    def test_limits_before_auth_are_small(self, guarded, port):
        for sent, error in (
            (b"*11\r\n", "ERR Protocol error: unauthenticated multibulk length"),
            (b"*2\r\n$4\r\nECHO\r\n$16385\r\n", "ERR Protocol error: unauthenticated bulk length"),
            (resp("GET", "k") + b"*1000000\r\n", "NOAUTH Authentication required."),
        ):
            with Wire(port) as wire:
                wire.send(sent)
                assert wire.read() == ("error", error)
                wire.rest()

    def test_limits_before_auth_hold_again_after_reset(self, guarded, port):
        with _login(port) as wire:
            assert wire.do("SET", "large", b"x" * 20_000) == OK
            assert wire.do("RESET") == ("simple", "RESET")
            wire.send(b"*2\r\n$4\r\nECHO\r\n$16385\r\n")
            assert wire.read() == ("error", "ERR Protocol error: unauthenticated bulk length")
            wire.rest()
        with _login(port) as wire:
            assert wire.do("RESET") == ("simple", "RESET")
            assert wire.do("AUTH", PASSWORD) == OK
            assert wire.do("STRLEN", "large") == ("integer", 20_000)
            assert wire.do("ECHO", b"x" * 20_000) == ("bulk", b"x" * 20_000)

    def test_the_password_is_nowhere_to_be_read(self, guarded, port):
        with _login(port) as wire:
            assert wire.do("CONFIG", "GET", "requirepass")[1][1][1] != PASSWORD.encode()
            for words in (
                ("INFO", "everything"),
                ("CONFIG", "GET", "*"),
                ("SLOWLOG", "GET"),
                ("CLIENT", "LIST"),
                ("ACL", "LIST"),
            ):
                assert PASSWORD.encode() not in repr(wire.do(*words)).encode(), words


class TestLimits:
    def test_one_client_too_many_is_told(self, guarded, port):
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(Wire(port)) for _ in range(38)]
            assert wires[0].do("AUTH", PASSWORD) == OK
            extra = [stack.enter_context(Wire(port)) for _ in range(8)]
            answers = []
            for wire in extra:
                with contextlib.suppress(OSError, AssertionError):
                    wire.send(resp("AUTH", PASSWORD))
                    answers.append(wire.read())
            assert ("error", "ERR max number of clients reached") in answers
            assert wires[0].do("GET", "no-such-key") == ("null", None)
            for wire in (*wires[1:], *extra):
                wire.close()
            wait_until(lambda: b"connected_clients:1\r" in wires[0].do("INFO", "clients")[1], "they are gone")
        _assert_healthy(guarded)

    @pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit (util-linux) is not installed")
    def test_clients_do_not_take_the_files_that_the_log_needs(self, tmp_path):
        """With a limit of open files far below maxclients, the log still gets its next segments."""
        cluster = Cluster(tmp_path, 1)
        member = cluster.members[0]
        member.directory.mkdir()
        files = 450
        with member.log.open("wb") as log:
            cluster.processes[0] = subprocess.Popen(
                ["prlimit", f"--nofile={files}:{files}", *server_command(member, cluster.members, ["--segment-bytes", "1mib"])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            cluster.wait_ready()
            assert "raise the limit of open files" in cluster.log(0)
            with contextlib.ExitStack() as stack:
                first = stack.enter_context(Wire(member.client_port))
                refused = 0
                for _ in range(400):
                    wire = stack.enter_context(Wire(member.client_port))
                    with contextlib.suppress(OSError, AssertionError):
                        wire.send(resp("PING"))
                        refused += wire.read() == ("error", "ERR max number of clients reached")
                assert refused > 300
                value = Random(7).randbytes(1 << 16)
                for number in range(80):
                    assert first.do("SET", f"k{number}", value) == OK
            assert cluster.status(0)["halted"] == ""
        finally:
            cluster.close()

    def test_declarations_above_a_limit_close_the_connection(self, guarded, port):
        for sent, error in (
            (b"*1048577\r\n", "ERR Protocol error: invalid multibulk length"),
            (b"*99999999999999999999\r\n", "ERR Protocol error: invalid multibulk length"),
            (b"*1\r\n$3145729\r\n", "ERR Protocol error: invalid bulk length"),
            (b"*1\r\n$-5\r\n", "ERR Protocol error: invalid bulk length"),
            (b"*1\r\n+PING\r\n", "ERR Protocol error: expected '$', got '+'"),
            (b"x" * 70_000, "ERR Protocol error: too big inline request"),
            (b"*" + b"1" * 70_000, "ERR Protocol error: too big mbulk count string"),
            (b'SET "unbalanced\r\n', "ERR Protocol error: unbalanced quotes in request"),
        ):
            with _login(port) as wire:
                wire.send(resp("SET", "before", "garbage") + sent)
                assert wire.read() == OK, sent[:40]
                assert wire.read() == ("error", error), sent[:40]
                assert wire.is_closed()
        _assert_healthy(guarded)

    def test_an_unfinished_command_is_bounded(self, guarded, port):
        value = b"x" * (2 * MIB)
        with _login(port) as wire:
            with contextlib.suppress(OSError):
                wire.send(b"*10\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for _ in range(4)))
                wire.half_close()
            rest = wire.rest()
            assert rest in {b"", b"-ERR Protocol error: query buffer limit exceeded\r\n"}
        _assert_healthy(guarded)

    def test_a_value_above_the_output_limit_closes_its_reader_and_says_why(self, guarded, port):
        place = guarded.ports.index(port)
        with _login(port) as wire:
            assert wire.do("SET", "huge", b"x" * (2 * MIB)) == OK
            assert wire.do("APPEND", "huge", b"x" * (2 * MIB + 1)) == ("integer", 4 * MIB + 1)
            assert wire.do("GETRANGE", "huge", 0, MIB - 1) == ("bulk", b"x" * MIB)
            wire.send(resp("MGET", "huge"))
            assert wire.is_closed()
        with _login(port) as wire:
            wire.send(resp("MULTI") + resp("GET", "huge") + resp("EXEC"))
            assert wire.rest().count(b"x") == 0
        shown = f"bytes={4 * MIB + 1} limit={4 * MIB}"
        wait_until(lambda: guarded.log(place).count(shown) == 2, f"{shown} in the log, twice")
        with _login(port) as wire:
            assert wire.do("CONFIG", "SET", "client_output_buffer_limit", "2mb") == OK
            wait_until(lambda: "can be written, and GET of it closes the client" in guarded.log(place), "a warning")
            assert wire.do("CONFIG", "SET", "client_output_buffer_limit", "4mb") == OK
            assert wire.do("DEL", "huge") == ("integer", 1)

    def test_a_slow_reader_is_disconnected_and_costs_little(self, guarded, port):
        place = guarded.ports.index(port)
        value = b"x" * MIB
        with _login(port) as wire:
            assert wire.do("SET", "large", value) == OK
        before = _rss_bytes(guarded.pids[place])
        for request in (
            resp("GET", "large") * 2000,
            resp("MGET", *["large"] * 2000),
            resp("PING") + resp("GET", "large") * 2000,
        ):
            with _login(port) as wire:
                wire.socket.settimeout(20)
                with contextlib.suppress(ConnectionError):
                    wire.send(request)
                wait_until(lambda: b"connected_clients:1\r" in _clients(port), "the slow reader is gone")
                assert len(wire.rest()) < 64 * MIB
        peak = _rss_bytes(guarded.pids[place])
        assert peak - before < 192 * MIB, f"{(peak - before) / MIB:.0f} MiB more"
        assert _peak_bytes(guarded.pids[place]) - before < 384 * MIB
        _assert_healthy(guarded)

    def test_a_mixed_pipeline_with_huge_replies_does_not_harm_the_cluster(self, guarded, port):
        """A write among the reads sends all of them to the leader: their replies must not flood the link."""
        with _login(port) as wire:
            assert wire.do("SET", "large", b"x" * MIB) == OK
        term = guarded.status(guarded.leader())["term"]
        with _login(port) as wire:
            with contextlib.suppress(ConnectionError):
                wire.send(resp("SET", "other", 1) + resp("GET", "large") * 1500)
                wire.half_close()
            rest = wire.rest()
            assert len(rest) < 64 * MIB
            assert b"-UNKNOWN the commands were applied" in rest
        assert guarded.status(guarded.leader())["term"] == term, "the leader changed"
        for pid in guarded.pids:
            assert _peak_bytes(pid) < 1024 * MIB
        _assert_healthy(guarded)

    def test_an_idle_client_is_closed(self, guarded, port):
        with _login(port) as admin, _login(port) as idle, _login(port) as busy:
            assert admin.do("CONFIG", "SET", "timeout", 1) == OK
            try:
                started = time.monotonic()
                idle.socket.settimeout(0.2)
                while time.monotonic() - started < 10:
                    assert busy.do("PING") == PONG
                    assert admin.do("PING") == PONG
                    try:
                        if idle.socket.recv(1) == b"":
                            break
                    except TimeoutError:
                        continue
                assert 0.9 < time.monotonic() - started < 10
                assert busy.do("PING") == PONG
            finally:
                assert admin.do("CONFIG", "SET", "timeout", 0) == OK


def _clients(port: int) -> bytes:
    with _login(port) as wire:
        return wire.do("INFO", "clients")[1]


def _peak_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("VmHWM"))


class TestGarbage:
    COUNT = 400

    def test_random_bytes_do_no_harm(self, guarded):
        rng = Random(20)
        for number in range(self.COUNT):
            self._throw(guarded.ports[number % 3], rng)
        _assert_healthy(guarded)
        guarded.wait_converged()

    def test_random_bytes_at_the_peers_and_http_ports_do_no_harm(self, guarded):
        rng = Random(21)
        for number in range(60):
            member = guarded.members[number % 3]
            data = rng.choice((b"", b"RAFTKV1\n", b"GET / HTTP/1.1\r\n", b"RAFTKV1\n\x00\x00\x01\x00")) + rng.randbytes(
                rng.randrange(2000)
            )
            for port in (member.peer_port, member.http_port):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                    raw.sendall(data)
                    raw.shutdown(socket.SHUT_WR)
                    raw.recv(65536)
        _assert_healthy(guarded)

    def _throw(self, port: int, rng: Random) -> None:
        data = b"".join(self._piece(rng) for _ in range(rng.randrange(1, 12)))
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
        with contextlib.suppress(OSError), Wire(port) as wire:
            if rng.random() < 0.7:
                wire.do("AUTH", PASSWORD)
            for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                wire.send(data[start:end])
            wire.half_close()
            wire.rest()

    def _piece(self, rng: Random) -> bytes:
        kind = rng.randrange(8)
        if kind == 0:
            return rng.randbytes(rng.randrange(200))
        if kind == 1:
            return rng.choice(
                (b"*", b"$", b"*-1\r\n", b"*0\r\n", b"$-1\r\n", b"%3\r\n", b"~2\r\n", b"\r\n", b"*3\r\n$3\r\nSET\r\n")
            )
        if kind == 2:
            return b"*%d\r\n$%d\r\n" % (
                rng.randrange(-3, 10 ** rng.randrange(1, 20)),
                rng.randrange(-3, 10 ** rng.randrange(1, 20)),
            )
        words = [
            rng.choice(WORDS) if rng.random() < 0.8 else rng.randbytes(rng.randrange(20))
            for _ in range(rng.randrange(1, 6))
        ]
        command = resp(*words)
        if kind == 3:
            return command[: rng.randrange(len(command))]
        if kind == 4:
            at = rng.randrange(len(command))
            return command[:at] + rng.randbytes(1) + command[at + 1 :]
        return command


WORDS = [
    b"GET", b"SET", b"k", b"1", b"MULTI", b"EXEC", b"DISCARD", b"WATCH", b"MGET", b"DEL", b"INCR", b"LPUSH", b"RPOP", b"HSET",
    b"ZADD", b"SUBSTR", b"EX", b"PX", b"-1", b"0", b"nan", b"inf", b"9223372036854775807", b"99999999999999999999", b"",
    b"CLIENT", b"REPLY", b"OFF", b"SKIP", b"ON", b"HELLO", b"3", b"2", b"AUTH", b"SELECT", b"SCAN", b"COMMAND", b"DOCS", b"INFO",
    b"OBJECT", b"ENCODING", b"CONFIG", b"CLUSTER", b"SLOTS", b"SENTINEL", b"RAFT.STATUS", b"RAFT.SESSION", b"RUN", b"OPEN",
    b"EVALSHA", b"PING", b"ECHO", b"RESET", b"LCS", b"SORT", b"KEYS", b"*", b"LRANGE", b"GETRANGE", b"SETRANGE", b"COPY", b"RENAME",
    b"ZADD", b"ZRANGE", b"BYSCORE", b"LIMIT", b"WITHSCORES", b"SINTERCARD", b"NUMKEYS", b"SPOP", b"SRANDMEMBER", b"HRANDFIELD",
]  # fmt: skip


def test_a_full_pipe_for_the_log_stops_nobody(tmp_path):
    """Standard error is a pipe that is full before the node starts, and that nobody reads until it has served."""
    member = free_layout(1, tmp_path)[0]
    member.directory.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 512)
    os.set_blocking(writing, True)
    words = [*server_command(member, [member]), "--loglevel", "debug"]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writing, process_group=0
    )
    os.close(writing)
    try:
        wait_until(lambda: probe.serves(member.client), "it serves", 60)
        with Wire(member.client_port) as wire:
            assert wire.do("SET", "a", 1) == OK
            assert wire.do("CONFIG", "SET", "loglevel", "info") == OK
            assert wire.do("GET", "a") == ("bulk", b"1")
        with open(reading, "rb", closefd=False) as log:
            text = b""
            while b"node started" not in text:
                text += log.read1(1 << 16)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(reading)
