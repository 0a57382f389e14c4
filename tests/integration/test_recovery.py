"""A node that takes its time to recover: it answers, says how far it is, can be stopped, and hands over who waited."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request

import pytest

from tests.integration.conftest import wait_until

HELD = """
import time
from pathlib import Path
from raftkv.machine.machine import StateMachine
from raftkv.server.progress import Progress

moved = Progress.at
gate = Path({gate!r})


def slowly(self, done, total):  # stands for a large snapshot: it goes on when the file is there
    moved(self, done, total)
    while self.picture().phase == "snapshot" and done and not gate.exists():
        time.sleep(0.01)
        moved(self, done, total)


Progress.at = slowly
"""


def _http(port: int, path: str) -> tuple[int, dict] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return None


@pytest.fixture
def held(make_cluster, tmp_path):
    """A node with a snapshot and a log behind it that stays in the middle of its recovery until the gate opens."""
    cluster = make_cluster(nodes=1)
    with cluster.connect(0) as client:
        for number in range(100):
            client.ask("SET", f"key{number}", "x" * 1000)
        client.ask("SAVE")
        client.ask("SET", "last", "in the log only")
    cluster.kill(0)
    gate = tmp_path / "gate"
    cluster.start_patched(0, HELD.format(gate=os.fspath(gate)))
    wait_until(lambda: _is_loading(cluster.http_ports[0]), "the load")
    return cluster, gate


def _is_loading(port: int) -> bool:
    answer = _http(port, "/ready")
    recovery = answer[1].get("recovery", {}) if answer else {}
    return recovery.get("phase") == "snapshot" and recovery["done"] > 0


def test_it_answers_while_it_recovers_and_then_serves_those_who_waited(held):
    cluster, gate = held
    status, body = _http(cluster.http_ports[0], "/ready")
    assert (status, body["recovery"]["phase"]) == (503, "snapshot")
    assert body["recovery"]["done"] <= body["recovery"]["total"]
    assert _http(cluster.http_ports[0], "/health")[1]["status"] == "starting"
    with cluster.connect(0) as client:
        answer = str(client.call("GET", "key1"))
        assert answer.startswith("LOADING raftkv is loading its data from disk (snapshot: "), answer
        gate.touch()
        cluster.wait_ready()
        assert client.ask("GET", "key99") == b"x" * 1000  # the same connection
        assert client.ask("GET", "last") == b"in the log only"
    status, body = _http(cluster.http_ports[0], "/ready")
    assert (status, "recovery" in body) == (200, False)
    assert '"recovered"' in cluster.log(0) or " recovered " in cluster.log(0)


def test_it_can_be_told_to_stop_meanwhile(held):
    cluster, _ = held
    process = cluster.processes[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    cluster.start(0)
    cluster.wait_ready()
    with cluster.connect(0) as client:
        assert client.ask("GET", "last") == b"in the log only"
