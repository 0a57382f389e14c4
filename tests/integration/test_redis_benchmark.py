"""redis-benchmark, unchanged: every test of it, pipelined and in cluster mode, without one error reply."""

from __future__ import annotations

import csv
import shutil
import subprocess

import pytest

from tests.integration.wire import Wire

pytestmark = pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")

TESTS = (
    "ping_inline", "ping_mbulk", "set", "get", "incr", "lpush", "rpush", "lpop", "rpop", "sadd", "hset", "spop", "zadd", "zpopmin",
    "lrange_100", "lrange_300", "lrange_500", "lrange_600", "mset",
)  # fmt: skip
REPORTED = 20
"""LPUSH is run once more, to have a list for LRANGE."""
WITHIN_S = 120


def _benchmark(port: int, *words: str) -> list[dict[str, str]]:
    """The rows of its table."""
    done = subprocess.run(
        ["redis-benchmark", "-p", str(port), "--csv", *words],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "error" not in (done.stdout + done.stderr).lower(), (done.stdout, done.stderr)
    assert "WARN" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return list(csv.DictReader(lines[next(number for number, line in enumerate(lines) if line.startswith('"test"')) :]))


def _errors(cluster) -> int:
    total = 0
    for port in cluster.ports:
        with Wire(port) as wire:
            text = wire.do("INFO", "stats")[1].decode()
        total += next(
            int(line.partition(":")[2]) for line in text.splitlines() if line.startswith("total_error_replies:")
        )
    return total


class TestEverything:
    @pytest.mark.parametrize("pipeline", [1, 16])
    def test_through_a_follower(self, shared_cluster, pipeline):
        before = _errors(shared_cluster)
        port = shared_cluster.ports[shared_cluster.follower()]
        rows = _benchmark(port, "-n", "1500", "-c", "20", "-r", "1000", "-P", str(pipeline), "-t", ",".join(TESTS))
        assert len(rows) == REPORTED, [row["test"] for row in rows]
        assert all(float(row["rps"]) > 0 for row in rows)
        assert _errors(shared_cluster) == before
        shared_cluster.wait_converged()

    def test_plain_counts_what_it_did(self, shared_cluster):
        port = shared_cluster.ports[shared_cluster.leader()]
        before = _errors(shared_cluster)
        assert len(_benchmark(port, "-n", "2000", "-c", "50", "INCR", "counted")) == 1
        with Wire(port) as wire:
            kind, value = wire.do("GET", "counted")
        assert kind == "bulk"
        assert int(value) >= 2000
        assert _errors(shared_cluster) == before

    def test_in_cluster_mode(self, shared_cluster):
        before = _errors(shared_cluster)
        rows = _benchmark(
            shared_cluster.ports[0],
            "--cluster",
            "-n",
            "3000",
            "-c",
            "30",
            "-r",
            "1000",
            "-P",
            "4",
            "-t",
            "set,get,incr,lpush,mset",
        )
        assert [row["test"].split()[0] for row in rows][:4] == ["SET", "GET", "INCR", "LPUSH"]
        assert _errors(shared_cluster) == before

    def test_threads_and_large_values(self, shared_cluster):
        before = _errors(shared_cluster)
        port = shared_cluster.ports[shared_cluster.follower()]
        rows = _benchmark(port, "--threads", "2", "-d", "65536", "-n", "300", "-c", "10", "-t", "set,get")
        assert len(rows) == 2
        assert _errors(shared_cluster) == before
