"""Under a load that never ends the log stays small, memory too, and nobody waits for a snapshot being written."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Cluster

MIB = 1024 * 1024
SMALL = {"segment_bytes": MIB, "snapshot_log_bytes": 4 * MIB, "log_retain_bytes": 2 * MIB}
LOG_BYTES_MAX = 16 * MIB
"""Segments until the snapshot (4 MiB), written while it is made (it takes a moment), retained (2 MiB), in use and spare."""
KEYS = 4000
VALUE_BYTES = 1024


class Writer(threading.Thread):
    """Overwrites the same keys again and again, a pipeline at a time."""

    def __init__(self, cluster: Cluster, place: int, pipeline: int = 20) -> None:
        super().__init__(name="writer")
        self._connection = cluster.connect(place, timeout_s=30)
        self._pipeline = pipeline
        self._values = [secrets.token_bytes(VALUE_BYTES) for _ in range(5 * pipeline)]  # no two alike in an entry
        self.bytes = 0
        self.failure: BaseException | None = None
        self.stopped = threading.Event()

    def run(self) -> None:
        keys, values = itertools.cycle(range(KEYS)), itertools.cycle(self._values)
        try:
            while not self.stopped.is_set():
                request = b"".join(
                    b"*3\r\n$3\r\nSET\r\n$8\r\nkey:%04d\r\n$%d\r\n%s\r\n" % (next(keys), VALUE_BYTES, next(values))
                    for _ in range(self._pipeline)
                )
                self._connection.send(request)
                for _ in range(self._pipeline):
                    assert self._connection.read() == "OK"
                self.bytes += self._pipeline * VALUE_BYTES
        except BaseException as error:  # noqa: BLE001 -- reported by finish()
            self.failure = error

    def finish(self) -> None:
        self.stopped.set()
        self.join(30)
        self._connection.close()
        if self.failure is not None:
            raise self.failure


class Pulse(threading.Thread):
    """One small write after the other: how long each took, and when."""

    def __init__(self, cluster: Cluster, place: int, pause_s: float = 0.002) -> None:
        super().__init__(name="pulse")
        self._connection = cluster.connect(place, timeout_s=30)
        self._pause_s = pause_s
        self.took: list[tuple[float, float]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(self._pause_s):
            began = time.monotonic()
            assert self._connection.call("INCR", "pulse") == len(self.took) + 1
            self.took.append((began, time.monotonic() - began))

    def finish(self) -> list[tuple[float, float]]:
        self.stopped.set()
        self.join(30)
        self._connection.close()
        return self.took


def log_bytes(cluster: Cluster, place: int) -> int:
    """Bytes of the log's files on disk, spares included."""
    total = 0
    for path in (cluster.members[place].directory / "data" / "log").iterdir():
        with contextlib.suppress(FileNotFoundError):  # given up in this moment
            total += path.stat().st_size
    return total


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1024


def snapshot_index(cluster: Cluster, place: int) -> int:
    return int((cluster.status(place) or {}).get("snapshot_index", "0"))


def run_until(cluster: Cluster, writer: Writer, written: int, samples: list[tuple[int, int]]) -> None:
    """Until ``writer`` has written so many bytes; samples (largest log, largest memory) of the nodes meanwhile."""
    while writer.bytes < written:
        assert writer.is_alive(), writer.failure
        logs = max(log_bytes(cluster, place) for place in cluster.running)
        memory = max(resident_bytes(pid) for pid in cluster.pids if pid)
        samples.append((logs, memory))
        time.sleep(0.1)  # a sample interval, nothing waits for it


def keep_writing(cluster: Cluster, total: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Write ``total`` bytes; the samples, and each node's snapshots' last indexes at the end."""
    writer = Writer(cluster, cluster.leader())
    writer.start()
    samples: list[tuple[int, int]] = []
    try:
        run_until(cluster, writer, total, samples)
    finally:
        writer.finish()
    cluster.wait_converged()
    return samples, [snapshot_index(cluster, place) for place in cluster.running]


def check_bounds(samples: list[tuple[int, int]], total: int) -> None:
    half = len(samples) // 2
    logs = max(log for log, _ in samples)
    early = max(memory for _, memory in samples[: half + 1])
    late = max(memory for _, memory in samples[half:])
    print(
        f"\n{total / MIB:.0f} MiB written: log at most {logs / MIB:.1f} MiB a node, memory at most {early / MIB:.0f} MiB "
        f"in the first half, {late / MIB:.0f} MiB in the second"
    )
    assert 0 < logs < LOG_BYTES_MAX
    assert late < early + 32 * MIB, "memory grows although the data does not"


def test_log_and_memory_stay_bounded(make_cluster):
    cluster = make_cluster(**SMALL)
    total = 64 * MIB
    samples, snapshots = keep_writing(cluster, total)
    check_bounds(samples, total)
    assert all(snapshots), "every node takes snapshots of its own"
    # What is left must be enough to start from.
    cluster.kill(0, 1, 2)
    cluster.start_all()
    cluster.wait_ready()
    cluster.wait_converged()
    with cluster.connect(cluster.leader()) as connection:
        assert connection.ask("DBSIZE") == KEYS


def test_no_client_waits_for_a_snapshot(make_cluster):
    """Snapshots of some 60 MiB, one after the other on the leader; small writes go on beside them."""
    cluster = make_cluster()
    leader = cluster.leader()
    with cluster.connect(leader, timeout_s=60) as connection:
        for part in range(60):
            words = [word for one in range(256) for word in (f"fill:{part}:{one}", secrets.token_bytes(4096))]
            assert connection.ask("MSET", *words) == "OK"
        cluster.wait_converged()
        pulse = Pulse(cluster, leader)
        pulse.start()
        spans = []
        for _ in range(5):
            began = time.monotonic()
            assert connection.ask("RAFT.SNAPSHOT") > 0
            spans.append((began, time.monotonic()))
        took = pulse.finish()
    during = sorted(length for began, length in took if any(first <= began <= last for first, last in spans))
    written = [last - first for first, last in spans]
    print(
        f"\n5 snapshots, {min(written):.2f} to {max(written):.2f} s each: {len(during)} writes meanwhile, median "
        f"{during[len(during) // 2] * 1000:.1f} ms, p99 {during[int(len(during) * 0.99)] * 1000:.1f} ms, longest "
        f"{during[-1] * 1000:.0f} ms"
    )
    assert len(during) > 100
    assert during[-1] < 0.75, "the goal is 250 ms; more than this is a stop, not a slow machine"
    assert during[int(len(during) * 0.99)] < 0.25


@pytest.mark.soak
def test_log_and_memory_stay_bounded_for_long(make_cluster):
    cluster = make_cluster(**SMALL)
    total = 4096 * MIB
    samples, _ = keep_writing(cluster, total)
    check_bounds(samples, total)
