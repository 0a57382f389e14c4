"""One raftkv node and one Redis with the same data, for what a single node does with its disk."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar, Final

from benchmarks.systems import RedisAlone, System, kill_now, wait_until
from benchmarks.tools import BenchError
from raftkv.cli import probe
from raftkv.cli.connection import Connection
from raftkv.cli.topology import LOOPBACK, free_ports

RECOVERY_WITHIN_S: Final = 300.0
FILL_TIMEOUT_S: Final = 60.0
BATCH: Final = 1000
"""Commands in one pipeline of :func:`fill`."""
_OK: Final = b"+OK\r\n"
_RECOVERED: Final = re.compile(r" recovered .*keys=(\d+) log_s=([\d.]+) snapshot_s=([\d.]+) replay_s=([\d.]+)")
_REDIS_LOADED: Final = re.compile(r"DB loaded from [a-z ]+: ([\d.]+) seconds")


def batches(keys: int) -> Iterator[tuple[int, bytes]]:
    """(commands, their bytes): SET of each key once, 64 bytes each, half of them random, always the same."""
    rng = Random(1)  # noqa: S311 -- the same values for everybody
    for start in range(0, keys, BATCH):
        stop = min(keys, start + BATCH)
        noise = rng.randbytes(16 * (stop - start)).hex().encode()
        yield (
            stop - start,
            b"".join(
                b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$64\r\n%b%032d\r\n"
                % (key, noise[32 * place : 32 * place + 32], key)
                for place, key in enumerate(range(start, stop))
            ),
        )


def fill(port: int, keys: int) -> None:
    """Write each key once. Raises BenchError when one is refused."""
    with socket.create_connection((LOOPBACK, port), timeout=FILL_TIMEOUT_S) as connection:
        for commands, data in batches(keys):
            connection.sendall(data)
            missing = len(_OK) * commands
            while missing:
                reply = connection.recv(missing)
                if not reply or b"-" in reply:
                    raise BenchError(f"a write was refused: {reply[:200]!r}")
                missing -= len(reply)


class OneRaftKV(System):
    """A cluster of one node, fsync always, that takes snapshots only when it is asked to."""

    name = "raftkv-one"

    def start(self) -> None:
        self.port, self.peer_port, self.http_port = free_ports(3)
        self.launch_node()
        wait_until(lambda: probe.serves((LOOPBACK, self.port)), f"the node serves\n{self.log()}")

    def launch_node(self) -> None:
        """Start the process."""
        command = [
            sys.executable, "-m", "raftkv", "server", "--id", "n1", "--listen", f"{LOOPBACK}:{self.port}",
            "--peer-listen", f"{LOOPBACK}:{self.peer_port}", "--http-listen", f"{LOOPBACK}:{self.http_port}",
            "--peers", f"n1={LOOPBACK}:{self.peer_port}", "--data", str(self.directory / "data"),
            "--snapshot-entries", "100000000", "--snapshot-log-bytes", "64gb",
        ]  # fmt: skip
        os.environ.setdefault("PYTHONPATH", str(Path(__file__).parent.parent))
        self.launch(0, command)

    def recover(self) -> tuple[float, float, float]:
        """SIGKILL, start again: seconds of (log, snapshot, replay), as the node says."""
        kill_now(self.processes[0].pid)
        self.processes[0].wait()
        (self.directory / "log0").unlink()
        self.launch_node()
        found = wait_until(lambda: _RECOVERED.search(self.log()), "the node recovers", RECOVERY_WITHIN_S)
        return float(found[2]), float(found[3]), float(found[4])

    def call(self, *words: str) -> None:
        """A command that must succeed."""
        with Connection(LOOPBACK, self.port, timeout_s=RECOVERY_WITHIN_S) as connection:
            connection.ask(*words)

    @property
    def pid(self) -> int:
        return self.processes[0].pid


class OneRedis(RedisAlone):
    """Redis alone; what it keeps it keeps when it is told to."""

    name = "redis-one"

    def recover(self) -> float:
        """SIGKILL, start again: seconds that loading took, as Redis says."""
        kill_now(self.processes[0].pid)
        self.processes[0].wait()
        (self.directory / "log0").unlink()
        words = [str(word) for word in self.processes[0].args]  # type: ignore[union-attr]  # we gave a list
        self.launch(0, words)
        return float(wait_until(lambda: _REDIS_LOADED.search(self.log()), "redis loads", RECOVERY_WITHIN_S)[1])

    def call(self, *words: str) -> None:
        """A command that must succeed."""
        with Connection(LOOPBACK, self.port, timeout_s=RECOVERY_WITHIN_S) as connection:
            connection.ask(*words)


class OneRedisWithFile(OneRedis):
    """The same with an append-only file."""

    name = "redis-aof"
    options: ClassVar[tuple[str, ...]] = (
        "--appendonly",
        "yes",
        "--appendfsync",
        "no",
        "--auto-aof-rewrite-percentage",
        "0",
    )
