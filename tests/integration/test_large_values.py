"""Values of many megabytes: nobody loses its office over them, nobody waits for a slow follower, nothing grows without bound."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path

import pytest

from raftkv.cli.connection import ReplyError
from tests.integration.conftest import Cluster, wait_until

MIB = 1024 * 1024
PATIENT = {"election_timeout_ms": 2000, "heartbeat_ms": 100, "request_timeout_ms": 60_000}
"""A machine with two cores and three nodes on it, which copies and writes some hundred megabytes a second between them."""
SOCKET_S = 90.0
LINK_BYTES = 64 * MIB
"""Unsent bytes on one link (``BUFFER_BYTES_MAX``)."""


def blob(size: int) -> bytes:
    """Nothing that could be compressed."""
    return secrets.token_bytes(MIB) * (size // MIB)


def office(cluster: Cluster, place: int) -> tuple[str, str, str]:
    """(role, term, how often the leader changed)."""
    status = cluster.status(place) or {}
    return status["role"], status["term"], status["leader_changes"]


def resident_bytes(cluster: Cluster, place: int) -> int:
    text = Path(f"/proc/{cluster.pids[place]}/status").read_text(encoding="ascii")
    (line,) = [one for one in text.splitlines() if one.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


class SmallCommands(threading.Thread):
    """Writes a little, again and again, and notes how long each took."""

    def __init__(self, cluster: Cluster, place: int) -> None:
        super().__init__(name="small commands")
        self._connection = cluster.connect(place, timeout_s=SOCKET_S)
        self.seconds: list[float] = []
        self.failure: BaseException | None = None
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                begun = time.perf_counter()
                assert self._connection.ask("SET", "small", len(self.seconds)) == "OK"
                self.seconds.append(time.perf_counter() - begun)
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            self.failure = error
        finally:
            self._connection.close()

    def finish(self) -> list[float]:
        self.stopped.set()
        self.join()
        if self.failure is not None:
            raise self.failure
        return sorted(self.seconds)


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_values_of_64_mib_do_not_cost_the_leader_its_office(make_cluster, record_property, through):
    cluster = make_cluster(**PATIENT)
    leader = cluster.leader()
    place = leader if through == "leader" else cluster.follower()
    before = office(cluster, leader)
    small = SmallCommands(cluster, leader)
    small.start()
    value = blob(64 * MIB)
    with cluster.connect(place, timeout_s=SOCKET_S) as connection:
        for turn in range(4):
            assert connection.ask("SET", f"large{turn % 2}", value) == "OK"
        assert connection.ask("STRLEN", "large1") == len(value)
    seconds = small.finish()
    record_property("small_commands_ms", [round(seconds[int(len(seconds) * share)] * 1000) for share in (0.5, 0.99)])
    assert office(cluster, leader) == before
    cluster.wait_converged(60)


def test_a_follower_that_stands_still_holds_up_nobody_and_costs_the_leader_little(make_cluster, record_property):
    cluster = make_cluster(**PATIENT, log_retain_bytes=1024 * MIB)
    leader, stopped = cluster.leader(), cluster.follower()
    value = blob(8 * MIB)
    with cluster.connect(leader, timeout_s=SOCKET_S) as connection:
        for _ in range(4):
            connection.ask("SET", "warm", value)
        cluster.wait_converged(60)
        before, office_before = resident_bytes(cluster, leader), office(cluster, leader)
        cluster.pause(stopped)
        for turn in range(48):
            assert connection.ask("SET", f"key{turn % 2}", value) == "OK"
        assert connection.ask("SET", "key0", blob(64 * MIB)) == "OK"
        grown = resident_bytes(cluster, leader) - before
    record_property("leader_grew_mib", grown // MIB)
    state = 64 * MIB + 8 * MIB
    # What waits for the follower, the newest entries and what is being written; all of it sent would be 448 MiB.
    assert grown < state + LINK_BYTES + 64 * MIB + 64 * MIB, f"{grown / MIB:.0f} MiB"
    assert office(cluster, leader) == office_before
    cluster.resume(stopped)
    cluster.wait_converged(90)
    assert office(cluster, leader)[0] == "leader"


def test_writes_beyond_the_pending_limit_are_refused_and_were_not_done(make_cluster):
    cluster = make_cluster(
        election_timeout_ms=3000, heartbeat_ms=100, request_timeout_ms=60_000, max_batch_bytes="64kb", max_pending_bytes="1mb"
    )  # fmt: skip
    leader = cluster.leader()
    value, answers = blob(MIB)[: MIB // 2], {}

    def write(number: int) -> None:
        with cluster.connect(leader, timeout_s=SOCKET_S) as connection:
            try:
                answers[number] = connection.ask("SET", f"key{number}", value)
            except ReplyError as error:
                answers[number] = str(error)

    others = [place for place in range(3) if place != leader]
    for place in others:
        cluster.pause(place)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    wait_until(lambda: answers, "a refusal")
    for place in others:
        cluster.resume(place)
    for writer in writers:
        writer.join()
    refused = {number for number, answer in answers.items() if answer != "OK"}
    assert 1 <= len(refused) < len(writers)
    assert all(answers[number].startswith("TRYAGAIN ") and "max_pending_bytes" in answers[number] for number in refused)
    with cluster.connect(leader) as connection:
        assert {number for number in range(8) if not connection.ask("EXISTS", f"key{number}")} == refused
        assert connection.ask("SET", "later", "x") == "OK"
