"""Every example, run as its text says, against a real cluster; twice, because what it leaves must not disturb it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {
    "session_store.py": [
        r"ada logs in: .*'user': 'ada', 'theme': 'dark'",
        r"a forged token: +None",
        r"ada logs out: +True, and then None",
        r"grace keeps clicking for 2\.5 s: \{'user': 'grace'\}",
        r"grace is away for 2\.5 s: +None",
    ],
    "rate_limiter.py": [
        r"0\.4 s  allowed",
        r"0\.5 s  REFUSED",
        r"9\.0 s  REFUSED",
        r"12\.5 s  allowed  \(rate with it 4\.75\)",
        r"14\.5 s  REFUSED",
    ],
    "leaderboard.py": [
        r"The best five of 20",
        r"1\. player09  334",
        r"14\. player07  276",
        r"player07 wins 334 more and is now number 1",
        r"Points in all games: 5572",
    ],
    "cache_decorator.py": [
        r"first call: 144, slowly",
        r"second call: 144, from the cache",
        r"8 threads at once: \{169\}, computed 1 time",
        r"computed again, 2 times in all",
    ],
    "task_queue.py": [
        r"sleepy takes resize:1 and falls silent",
        r"gives back resize:1",
        r"busy finishes resize:4: True",
        r"sleepy wakes up and finishes resize:1: False",
        r"results: resize:1 by busy, resize:2 by busy, resize:3 by busy, resize:4 by busy",
    ],
    "distributed_lock.py": [
        r"Anna gets the lock, token \d+; Ben gets None",
        r"token higher, and writes",
        r"accepted\s+The document holds: Anna's stale work",
        r"refused, her token is too old\s+The document holds: Ben's work",
        r"Anna releases: False, Ben releases: True",
    ],
}


def test_every_example_is_tested():
    assert sorted(EXPECTED) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name, shared_cluster):
    command = [sys.executable, str(ROOT / "examples" / name), "--nodes", ",".join(shared_cluster.addresses)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        at = 0
        for pattern in EXPECTED[name]:
            found = re.compile(pattern).search(done.stdout, at)
            assert found, f"{pattern!r} in\n{done.stdout}"
            at = found.end()
