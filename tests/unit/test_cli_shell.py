"""The shell, the pipe and the load tool against a tiny RESP server in a thread."""

from __future__ import annotations

import io
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from raftkv.cli import bench, probe
from raftkv.cli.pipe import pump
from raftkv.cli.shell import Options, Shell, belongs_in_history, history_file
from raftkv.errors import ConfigError, RaftKVError


class Handler(socketserver.BaseRequestHandler):
    """Echoes arguments: ``ERR`` is an error, ``DROP`` closes, AUTH wants ``secret``, inline PING works."""

    def handle(self) -> None:
        buffer, reader, inline = b"", hiredis.Reader(), True
        while data := self.request.recv(65536):
            buffer += data
            while inline and buffer and (inline := buffer[:1] != b"*") and b"\n" in buffer:
                buffer = buffer.partition(b"\n")[2]
                self.request.sendall(b"+PONG\r\n")
            if inline:
                continue
            reader.feed(buffer)
            buffer = b""
            while (words := reader.gets()) is not False:
                reply = self.reply(words)
                if reply is None:
                    return
                self.request.sendall(reply)

    @staticmethod
    def reply(words: list[bytes]) -> bytes | None:
        match words[0].upper():
            case b"DROP":
                return None
            case b"ERR":
                return b"-ERR told so\r\n"
            case b"AUTH":
                return b"+OK\r\n" if words[-1] == b"secret" else b"-WRONGPASS no\r\n"
            case b"RAFT.STATUS":
                return b"*4\r\n$4\r\nrole\r\n$6\r\nleader\r\n$4\r\nterm\r\n:3\r\n"
            case b"ECHO":
                return b"$%d\r\n%b\r\n" % (len(words[1]), words[1])
        return b"+OK\r\n"


@pytest.fixture
def port() -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def shell_on(port: int, **options: object) -> tuple[Shell, io.BytesIO]:
    out = io.BytesIO()
    return Shell(Options("127.0.0.1", port, **options), out), out


def test_replies_are_shown_and_errors_counted(port: int, capsys: pytest.CaptureFixture[str]):
    shell, out = shell_on(port)
    shell.execute_lines(["echo one", "", "# a comment", "err", 'echo "unclosed', 'echo "t w o"'])
    shell.close()
    assert out.getvalue() == b"one\nERR told so\nt w o\n"
    assert shell.failures == 2
    assert 'line 5: a " is not closed' in capsys.readouterr().err


def test_a_lost_connection_is_said_and_the_next_command_connects_again(port: int, capsys: pytest.CaptureFixture[str]):
    shell, out = shell_on(port)
    assert not shell.execute([b"drop"])
    assert shell.execute([b"echo", b"again"])
    shell.close()
    assert out.getvalue() == b"again\n"
    assert "closed the connection" in capsys.readouterr().err


def test_the_database_and_a_transaction_are_followed(port: int):
    shell, _ = shell_on(port)
    shell.execute([b"select", b"3"])
    shell.execute([b"multi"])
    assert (shell.database, shell.in_transaction) == (3, True)
    shell.execute([b"exec"])
    assert not shell.in_transaction
    shell.execute([b"reset"])
    shell.close()
    assert shell.database == 0


def test_a_refused_password_is_an_error(port: int):
    shell, _ = shell_on(port, password="wrong")
    with pytest.raises(RaftKVError, match="WRONGPASS"):
        shell.execute([b"ping"])


def test_secrets_stay_out_of_the_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert not belongs_in_history("AUTH secret")
    assert not belongs_in_history("hello 3 auth default secret")
    assert not belongs_in_history("config set requirepass x")
    assert belongs_in_history("set auth x")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "raftkv" / "history"


def pump_bytes(port: int, data: bytes, tmp_path: Path):
    path = tmp_path / "input"
    path.write_bytes(data)
    shell, _ = shell_on(port)
    with path.open("rb") as source:
        try:
            return pump(shell.connect().fileno(), source.fileno(), timeout_s=5)
        finally:
            shell.close()


def test_a_pipe_counts_replies_and_errors(port: int, tmp_path: Path):
    one = b"*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n"
    outcome = pump_bytes(port, one * 5000 + b"*1\r\n$3\r\nERR\r\n" * 12, tmp_path)
    assert (outcome.replies, outcome.errors, outcome.problem) == (5012, 12, "")
    assert outcome.first_errors == ["ERR told so"] * 10


def test_a_pipe_takes_lines_also_without_a_last_line_end(port: int, tmp_path: Path):
    outcome = pump_bytes(port, b"PING\r\nPING\nPING", tmp_path)
    assert (outcome.replies, outcome.errors, outcome.problem) == (3, 0, "")


def test_a_pipe_that_is_cut_off_says_so(port: int, tmp_path: Path):
    outcome = pump_bytes(port, b"*1\r\n$4\r\nDROP\r\n", tmp_path)
    assert outcome.problem


def test_a_probe_tells_leader_and_silence(port: int):
    assert probe.status(("127.0.0.1", port)) == {"role": "leader", "term": "3"}
    assert probe.leader([("127.0.0.1", 1), ("127.0.0.1", port)]) == 1
    assert probe.leader([("127.0.0.1", 1)]) is None
    assert probe.serves(("127.0.0.1", port))
    assert not probe.serves(("127.0.0.1", 1))
    with pytest.raises(TimeoutError, match="no leader"):
        probe.wait_leader([("127.0.0.1", 1)], within_s=0.1)


def plan(port: int, **changes: object) -> bench.Plan:
    values = {
        "host": "127.0.0.1", "port": port, "workload": "set", "clients": 3, "pipeline": 4, "requests": 50, "seconds": 0.0,
        "value_bytes": 8, "keyspace": 10, "seed": 1,
    }  # fmt: skip
    return bench.Plan(**(values | changes))


def test_the_load_tool_sends_exactly_what_was_asked(port: int):
    result = bench.run_plan(plan(port, password="secret"))
    assert len(result.latencies_us) == 50
    assert not result.errors
    row = bench.summary("set", result, 1)
    assert row["commands"] == 50
    assert "none" in bench.report([row], as_json=False)


def test_the_load_tool_counts_errors_by_kind(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(bench.WORKLOADS, "err", lambda _key, _value: b"*1\r\n$3\r\nERR\r\n")
    assert bench.run_plan(plan(port, workload="err")).errors == {"ERR": 50}
    with pytest.raises(RaftKVError, match="WRONGPASS"):
        bench.run_plan(plan(port, password="wrong"))


def test_the_load_tool_tells_that_nobody_listens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "RECONNECTS_MAX", 2)
    monkeypatch.setattr(bench, "RECONNECT_DELAY_S", 0.001)
    result = bench.run_plan(plan(1, clients=2))
    assert result.errors == {"cannot connect": 4}
    assert not result.latencies_us


def test_work_is_split_without_a_rest():
    parts = bench.split(plan(1, clients=5, requests=11), 3)
    assert [part.clients for part in parts] == [2, 2, 1]
    assert [part.requests for part in parts] == [4, 4, 3]
    assert len({part.seed for part in parts}) == 3


def test_percentiles_are_by_nearest_rank():
    ordered = [1000 * number for number in range(1, 101)]
    assert bench.percentile_ms(ordered, 50) == 50
    assert bench.percentile_ms(ordered, 99) == 99
    assert bench.percentile_ms(ordered, 99.9) == 100
    assert bench.percentile_ms([7000], 1) == 7
    assert bench.percentile_ms([], 50) == 0


def test_nonsense_is_refused_before_any_load():
    for changes, names, processes in (({}, ["nope"], 1), ({"clients": 0}, ["set"], 1), ({}, [], 1), ({}, ["set"], 9)):
        with pytest.raises(ConfigError):
            bench.check(plan(1, **changes), names, processes)
