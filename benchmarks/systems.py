"""The systems under test: each starts its own processes on free loopback ports and ends them by pid."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from benchmarks.tools import BenchError
from raftkv.cli import probe
from raftkv.cli.connection import Connection
from raftkv.cli.resp import ErrorText
from raftkv.cli.topology import (
    LOOPBACK,
    fixed_layout,
    free_ports,
    ports_in_use,
)

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 20.0
POLL_S: Final = 0.02


def wait_until(condition: Callable[[], Any], what: str, within_s: float = READY_WITHIN_S) -> Any:
    """The first true value of ``condition``. Raises BenchError after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)
    return value


def resident_mib(pid: int) -> float:
    """Resident memory of a process (VmRSS of /proc/<pid>/status)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"process {pid} is gone")


def kill_now(pid: int) -> None:
    """SIGKILL, and wait until the process has ended: from then on it answers nothing."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
    finally:
        os.close(handle)


class Crew:
    """Threads that work until the context ends: whatever they run looks at ``stop`` again and again."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


class System:
    """Context manager: inside it the system runs and serves, afterwards its processes and files are gone."""

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self.directory = directory / self.name
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start all processes and wait until the system serves."""
        raise NotImplementedError

    def launch(self, place: int, command: list[str]) -> None:
        """Start process ``place``, its output in ``log<place>``, out of reach of the terminal's Ctrl-C."""
        with (self.directory / f"log{place}").open("ab") as log:
            self.processes[place] = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def stop_all(self) -> None:
        """SIGTERM to what was started, then SIGKILL to what is still there."""
        living = [one for one in self.processes.values() if one.poll() is None]
        for one in living:
            one.terminate()
        for one in living:
            try:
                one.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self.processes.clear()

    def log(self, place: int = 0) -> str:
        """The end of what process ``place`` printed."""
        path = self.directory / f"log{place}"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


class RedisAlone(System):
    """One Redis without persistence: replicates nothing, keeps nothing."""

    name = "redis"
    options: ClassVar[tuple[str, ...]] = ("--appendonly", "no")
    count: ClassVar[int] = 1

    def start(self) -> None:
        self.ports = free_ports(self.count)
        for place, port in enumerate(self.ports):
            (self.directory / f"data{place}").mkdir()
            follow = ["--replicaof", f"{LOOPBACK} {self.ports[0]}"] if place else []
            self.launch(
                place,
                [
                    "redis-server", "--port", str(port), "--bind", LOOPBACK, "--save", "",
                    "--dir", str(self.directory / f"data{place}"), *self.options, *follow,
                ],
            )  # fmt: skip
        for port in self.ports:
            wait_until(partial(probe.serves, (LOOPBACK, port)), f"redis at {port} serves")
        if self.count > 1:
            wait_until(self._replicated, "both replicas follow")

    def _replicated(self) -> bool:
        with Connection(LOOPBACK, self.port, timeout_s=1.0) as connection:
            info = connection.call("INFO", "replication")
        return isinstance(info, bytes) and info.count(b"state=online") == self.count - 1

    @property
    def port(self) -> int:
        """Of the primary."""
        return self.ports[0]


class RedisReplicated(RedisAlone):
    """A primary and two replicas, each with an append-only file that is synced at every write."""

    name = "redis-wait"
    options = ("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no",
               "--auto-aof-rewrite-percentage", "0", "--repl-diskless-sync-delay", "0")  # fmt: skip
    count = 3


class RaftKV(System):
    """Three nodes by ``raftkv dev``, fsync always."""

    name = "raftkv"

    def start(self) -> None:
        data = self.directory / "data"
        ports = (port for port in free_ports(200) if port < 20_000)
        self.members = next(
            layout for port in ports if not ports_in_use(layout := fixed_layout(3, port, data))
        )  # fmt: skip
        command = [
            sys.executable, "-m", "raftkv", "dev", "--nodes", "3", "--port", str(self.members[0].client_port),
            "--data", str(data), "--restart",
        ]  # fmt: skip
        self.processes[0] = process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
            env={**os.environ, "RAFTKV_FSYNC": "always"},
        )  # fmt: skip
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._said = b""
        wait_until(self._ready, "raftkv dev says ready")

    def _ready(self) -> bool:
        process = self.processes[0]
        self.drain()
        if process.poll() is not None:
            raise BenchError(
                f"raftkv dev ended with {process.returncode}:\n{self._said.decode(errors='replace')[-3000:]}"
            )
        return b"\nready" in self._said

    def drain(self) -> None:
        """Take what ``raftkv dev`` printed, so that its pipe never fills."""
        stdout = self.processes[0].stdout
        assert stdout is not None
        while select.select([stdout], [], [], 0)[0] and (data := stdout.read()):
            self._said += data

    def leader(self) -> int:
        """Place of the node that leads and serves."""
        return probe.wait_leader([member.client for member in self.members], within_s=READY_WITHIN_S)

    @property
    def port(self) -> int:
        """Of the leader, for its best figures."""
        return self.members[self.leader()].client_port

    def pid(self, place: int) -> int:
        """Of a node's process."""
        return int(self.members[place].pid_file.read_text())

    def kill(self, place: int) -> None:
        """SIGKILL to a node's process; ``raftkv dev --restart`` starts it again."""
        kill_now(self.pid(place))

    def heal(self) -> None:
        """Until every node serves and has applied everything."""

        def serving() -> bool:
            self.drain()
            return all(probe.serves(one.client) for one in self.members)

        wait_until(serving, "all nodes serve")
        self.settle()

    def settle(self) -> None:
        """Until every node has applied everything."""

        def same() -> bool:
            self.drain()
            found = [probe.status(member.client) for member in self.members]
            indexes = {one[name] for one in found if one for name in ("commit_index", "applied_index")}
            return all(found) and len(indexes) == 1

        wait_until(same, "all nodes applied the same entries")

    def write(self, place: int, timeout_s: float) -> Callable[[bytes], bool]:
        """A connection's SET: True when it was acknowledged. Raises OSError."""
        connection = Connection(*self.members[place].client, timeout_s=timeout_s)
        return lambda key: not isinstance(connection.call("SET", key, b"x" * 64), ErrorText)

    @property
    def nodes(self) -> int:
        return len(self.members)


class Etcd(System):
    """Three nodes, etcd's defaults (fsync of every batch; heartbeat 100 ms, election 1000 ms)."""

    name = "etcd"
    nodes = 3

    def start(self) -> None:
        ports = free_ports(2 * self.nodes)
        self.client_ports, self.peer_ports = ports[: self.nodes], ports[self.nodes :]
        self.start_nodes()

    def start_nodes(self) -> None:
        """Start every node that does not run, and wait for a leader."""
        for place in range(self.nodes):
            running = self.processes.get(place)
            if running is None or running.poll() is not None:
                self.launch(place, self._command(place))
        wait_until(
            lambda: None not in [self._status(place) for place in range(self.nodes)], f"etcd answers\n{self.log()}"
        )
        self.leader()

    def _command(self, place: int) -> list[str]:
        peers = [f"http://{LOOPBACK}:{port}" for port in self.peer_ports]
        client = f"http://{LOOPBACK}:{self.client_ports[place]}"
        return [
            "etcd", "--name", f"e{place}", "--data-dir", str(self.directory / f"data{place}"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peers[place], "--initial-advertise-peer-urls", peers[place],
            "--initial-cluster", ",".join(f"e{number}={url}" for number, url in enumerate(peers)),
            "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error",
        ]  # fmt: skip

    def _post(self, place: int, path: str, body: dict[str, str], timeout_s: float = 1.0) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection(LOOPBACK, self.client_ports[place], timeout=timeout_s)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            found: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return found if response.status == http.HTTPStatus.OK else None

    def _status(self, place: int) -> dict[str, Any] | None:
        return self._post(place, "/v3/maintenance/status", {})

    def leader(self) -> int:
        """Place of the node that leads."""

        def found() -> tuple[int] | None:
            for place in range(self.nodes):
                status = self._status(place) if self.processes[place].poll() is None else None
                if status and status.get("leader") == status["header"]["member_id"]:
                    return (place,)
            return None

        place: int = wait_until(found, "etcd has a leader")[0]
        return place

    @property
    def endpoint(self) -> str:
        """Of the leader, for its best figures."""
        return f"{LOOPBACK}:{self.client_ports[self.leader()]}"

    def restart(self) -> None:
        """Stop all nodes and start them on their data."""
        self.stop_all()
        self.start_nodes()

    def kill(self, place: int) -> None:
        """SIGKILL to a node."""
        kill_now(self.processes[place].pid)

    def write(self, place: int, timeout_s: float) -> Callable[[bytes], bool]:
        """A connection's put, through etcd's JSON gateway: True when it was acknowledged. Raises OSError."""
        connection = http.client.HTTPConnection(LOOPBACK, self.client_ports[place], timeout=timeout_s)
        connection.connect()

        def put(key: bytes) -> bool:
            body = {"key": b64encode(key).decode(), "value": b64encode(b"x" * 64).decode()}
            try:
                connection.request("POST", "/v3/kv/put", json.dumps(body))
                response = connection.getresponse()
                response.read()
            except http.client.HTTPException as error:
                raise ConnectionError(str(error)) from None
            return response.status == http.HTTPStatus.OK

        return put
