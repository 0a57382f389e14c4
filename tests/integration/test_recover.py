"""Loss of quorum, with real processes: two of three nodes and their data are gone under load, and the third goes on.

Every writer writes its keys in order, so what a survivor holds of each writer is a prefix: all that was acknowledged if
it led, and at least what it had applied before if it followed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from raftkv.cli.connection import ReplyError, as_fields
from raftkv.cli.topology import spawn

ROOT = Path(__file__).resolve().parents[2]
WRITERS = 4
NEW = "c-after-the-fire"


class Writers:
    """Threads that write ``w<i>:<n>`` = n for n = 1, 2, ... and count what was acknowledged."""

    def __init__(self, cluster: Any, place: int) -> None:
        self.acknowledged = [0] * WRITERS
        self._connections = [cluster.connect(place) for _ in range(WRITERS)]
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int) -> None:
        connection = self._connections[number]
        try:
            while (
                connection.ask("SET", f"w{number}:{self.acknowledged[number] + 1}", self.acknowledged[number] + 1)
                == "OK"
            ):
                self.acknowledged[number] += 1
        except (OSError, ReplyError):
            return

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()


def recover(cluster: Any, place: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raftkv", "recover", "--data", str(cluster.members[place].data), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def start_as(cluster: Any, place: int, *words: str, peers: bool = True) -> None:
    """Start a node with further words: what an operator adds to the command that he had."""
    member = cluster.members[place]
    if peers:
        cluster.processes[place] = spawn(member, cluster.members, words, cluster.env)
    else:
        cluster.processes[place] = spawn(member, [member], words, cluster.env)


def prefix_of(connection: Any, number: int) -> int:
    """How many keys of a writer are there; none may be missing in between."""
    there = 0
    while (value := connection.ask("GET", f"w{number}:{there + 1}")) is not None:
        assert int(value) == there + 1
        there += 1
    later = [connection.ask("EXISTS", f"w{number}:{there + further}") for further in range(2, 60)]
    assert not any(later)
    return there


def lose_the_others(cluster: Any, survivor: int, wait_until: Any) -> tuple[Writers, list[int], str]:
    """Load, then the end of all but one: (writers, acknowledged and everywhere before the end, a session)."""
    with cluster.connect(survivor) as connection:
        session = connection.ask("RAFT.SESSION", "OPEN")
        assert connection.ask("RAFT.SESSION", "RUN", session, 1, 0, "INCR", "visits") == 1
    writers = Writers(cluster, survivor)
    wait_until(lambda: min(writers.acknowledged) > 50, "the writers have written")
    safe = list(writers.acknowledged)
    committed = int(cluster.status(cluster.leader())["commit_index"])
    wait_until(lambda: int(cluster.status(survivor)["durable_index"]) >= committed, "the survivor's disk has it too")
    others = [place for place in range(3) if place != survivor]
    cluster.kill(*others)
    cluster.kill(survivor)  # its clients would wait for the quorum
    writers.join()
    return writers, safe, session


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_survivor_goes_on_with_all_it_has(cluster, wait_until, role):
    survivor = cluster.leader() if role == "leader" else cluster.follower()
    me = cluster.members[survivor].node_id
    others = [place for place in range(3) if place != survivor]
    writers, safe, session = lose_the_others(cluster, survivor, wait_until)
    old_data = cluster.members[others[0]].directory / "kept"
    shutil.move(cluster.members[others[0]].data, old_data)
    shutil.rmtree(cluster.members[others[1]].data)

    found = json.loads(recover(cluster, survivor, "--json").stdout)
    old_id = found["cluster_id"]
    assert found["node_id"] == me
    assert sorted(one["node_id"] for one in found["members"]) == ["n1", "n2", "n3"]
    done = recover(cluster, survivor, "--force-new-cluster", "--cluster-id", NEW, "--yes-i-accept-data-loss")
    assert done.returncode == 0, done.stderr
    for place in others:
        assert f"{cluster.members[place].node_id} at 127.0.0.1:{cluster.members[place].peer_port}" in done.stdout

    cluster.start(survivor)  # with the settings that it had
    assert cluster.processes[survivor].wait(20) == 2
    assert f"cluster_id = {NEW}" in cluster.log(survivor)
    start_as(cluster, survivor, "--cluster-id", NEW)
    cluster.wait_ready()
    held_then = assert_all_is_there(cluster, survivor, role, writers, safe, session)

    old_members_stay_outside(cluster, survivor, others[0], old_data, old_id, wait_until)
    grow(cluster, survivor, others, wait_until)
    assert cluster.wait_converged()
    cluster.kill(survivor)
    with cluster.connect(cluster.leader()) as connection:
        assert [prefix_of(connection, number) for number in range(WRITERS)] == held_then
        assert connection.ask("RAFT.SESSION", "RUN", session, 3, 2, "INCR", "visits") == 3


def assert_all_is_there(
    cluster: Any, survivor: int, role: str, writers: Writers, safe: list[int], session: str
) -> list[int]:
    with cluster.connect(survivor) as connection:
        held_then = [prefix_of(connection, number) for number in range(WRITERS)]
        for number, there in enumerate(held_then):
            assert there >= (writers.acknowledged[number] if role == "leader" else safe[number])
            assert there <= writers.acknowledged[number] + 1
        assert connection.ask("RAFT.SESSION", "RUN", session, 1, 0, "INCR", "visits") == 1
        assert connection.ask("RAFT.SESSION", "RUN", session, 2, 0, "INCR", "visits") == 2
        assert connection.ask("SET", "after", "the fire") == "OK"
        assert connection.ask("GET", "after") == b"the fire"
        status = cluster.status(survivor)
        assert (status["role"], status["cluster"]) == ("leader", NEW)
    return held_then


def old_members_stay_outside(
    cluster: Any, survivor: int, place: int, old_data: Path, old_id: str, wait_until: Any
) -> None:
    """Neither with the old settings nor with the new id does an old directory get in."""
    member, new_node = cluster.members[place], cluster.members[survivor].node_id
    shutil.copytree(old_data, member.data)
    start_as(cluster, place)
    reason = f"cluster id '{old_id}', but node '{new_node}' belongs to '{NEW}'"
    wait_until(lambda: reason in cluster.log(place) and reason in cluster.log(survivor), "both say why")
    assert cluster.status(place)["role"] != "leader"
    cluster.kill(place)
    start_as(cluster, place, "--cluster-id", NEW)
    assert cluster.processes[place].wait(20) == 2
    assert f"belongs to cluster '{old_id}'" in cluster.log(place)
    shutil.rmtree(member.data)


def grow(cluster: Any, survivor: int, places: list[int], wait_until: Any) -> None:
    """Add fresh nodes under the ids of those that were lost, and wait until they vote."""
    for place in places:
        member = cluster.members[place]
        start_as(cluster, place, "--join", "--cluster-id", NEW, peers=False)
        with cluster.connect(survivor) as connection:
            assert connection.ask("RAFT.ADD", member.node_id, f"127.0.0.1:{member.peer_port}") == "OK"
        wait_until(lambda place=place: votes(cluster, place), f"{member.node_id} votes")
    cluster.wait_ready()


def votes(cluster: Any, place: int) -> bool:
    """Whether the node says itself that it is a voter."""
    try:
        with cluster.connect(place) as connection:
            nodes = connection.ask("RAFT.NODES")
    except (OSError, ReplyError):  # not there yet, or LOADING
        return False
    return any(one["self"] == one["voter"] == "1" for one in map(as_fields, nodes))
