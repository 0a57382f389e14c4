"""``raftkv dev`` and the fixed interface that scripts rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftkv.cli.connection import Connection
from raftkv.cli.topology import Member, fixed_layout, log_tail
from tests.ports import free_fixed_layout

Start = Callable[..., "Dev"]


class Dev:
    """A running ``raftkv dev``; what it prints is collected by a thread."""

    def __init__(self, wait_until: Callable[..., object], data: Path, port: int, *words: str) -> None:
        self.members: list[Member] = fixed_layout(3, port, data)
        self._wait_until = wait_until
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raftkv", "dev", "--port", str(port), "--data", str(data), *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, *parts: str) -> bool:
        return any(all(part in line for part in parts) for line in list(self.lines))

    def wait_said(self, *parts: str) -> None:
        self._wait_until(lambda: self.said(*parts), f"{parts} is printed")

    def wait_ready(self) -> None:
        def ready_or_ended() -> bool:
            return self.process.poll() is not None or any(line.startswith("ready") for line in list(self.lines))

        try:
            self._wait_until(ready_or_ended, "ready", within_s=60)
            assert self.process.poll() is None, "it ended"
        except AssertionError as error:
            logs = [log_tail(member, lines=40) for member in self.members]
            raise AssertionError("\n".join([str(error), *self.lines, *logs])) from None

    def pids(self) -> list[int]:
        return [int(member.pid_file.read_text()) for member in self.members]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join()
        return code


@pytest.fixture
def start(tmp_path: Path, wait_until: Callable[..., object]) -> Iterator[Start]:
    made: list[Dev] = []
    port = free_fixed_layout(3, tmp_path)

    def starts(*words: str, ready: bool = True) -> Dev:
        dev = Dev(wait_until, tmp_path, port, *words)
        made.append(dev)
        if ready:
            dev.wait_ready()
        return dev

    try:
        yield starts
    finally:
        for dev in made:
            if dev.process.poll() is None:
                dev.stop(signal.SIGTERM)


def call(member: Member, *words: str) -> object:
    with Connection(*member.client, timeout_s=10) as connection:
        return connection.ask(*words)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_ready_means_that_every_address_serves_and_a_second_run_finds_the_data(start: Start):
    dev = start()
    first, second, third = dev.members
    assert call(first, "SET", "greeting", "hello") == "OK"
    assert call(second, "GET", "greeting") == b"hello"
    assert call(third, "GET", "greeting") == b"hello"
    for member in dev.members:
        assert dev.said(member.node_id, *(f"127.0.0.1:{port}" for port in member.ports))
    pids = dev.pids()
    assert len(set(pids)) == 3
    assert dev.stop() == 0
    assert all(map(gone, pids))
    assert not any(member.pid_file.exists() for member in dev.members)
    assert dev.said("all stopped")

    again = start()
    assert call(again.members[2], "GET", "greeting") == b"hello"
    assert again.stop(signal.SIGTERM) == 0


def test_a_second_cluster_on_the_same_ports_is_refused(start: Start):
    dev = start()
    second = start(ready=False)
    assert second.process.wait(30) == 2
    assert second.said("in use", str(dev.members[0].client_port))
    assert second.said("which still runs", str(dev.pids()[0]))
    assert call(dev.members[0], "PING") == "PONG"


def test_a_killed_node_is_reported_and_the_others_go_on(start: Start):
    dev = start()
    pid = dev.pids()[1]
    os.kill(pid, signal.SIGKILL)
    dev.wait_said("n2", str(pid), "killed by SIGKILL")
    assert dev.said("node started", "id=n2")  # the end of its log
    assert dev.stop() == 0


def test_restart_brings_a_killed_node_back(start: Start, wait_until: Callable[..., object]):
    dev = start("--restart")
    assert call(dev.members[0], "SET", "kept", "1") == "OK"
    before = dev.pids()[2]
    os.kill(before, signal.SIGKILL)
    dev.wait_said("n3 started again")
    assert dev.pids()[2] != before

    def serves() -> bool:
        try:
            return call(dev.members[2], "GET", "kept") == b"1"
        except Exception:  # noqa: BLE001 -- whatever it is, the deadline decides
            return False

    wait_until(serves, "the restarted node serves")
    assert dev.stop() == 0


def test_nodes_that_cannot_start_are_reported_with_their_words(start: Start):
    dev = start()
    assert dev.stop() == 0
    first, second, _ = dev.members
    first.data.rename(first.directory / "aside")
    second.data.rename(first.data)  # another node's data
    failed = start(ready=False)
    assert failed.process.wait(30) == 1
    assert failed.said("n1", "ended: exit code 2")
    assert failed.said("n1 could not start")
