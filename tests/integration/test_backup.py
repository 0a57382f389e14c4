"""Backups of real clusters while they are written to, and new clusters made of them.

Every writer writes its keys in order, one after the other was acknowledged: the state after any entry holds of each
writer a prefix, with all that was acknowledged before that entry.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raftkv.cli.connection import ReplyError
from raftkv.cli.main import app
from raftkv.offline.points import Target, of_archive

WRITERS = 3


class Writers:
    """Threads that set ``w<i>:<n>`` to n for n = 1, 2, ... and count what was acknowledged."""

    def __init__(self, cluster: Any, place: int) -> None:
        self.acknowledged = [0] * WRITERS
        self._stopped = threading.Event()
        self._connections = [cluster.connect(place) for _ in range(WRITERS)]
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int) -> None:
        connection = self._connections[number]
        try:
            while not self._stopped.is_set():
                value = self.acknowledged[number] + 1
                if connection.ask("SET", f"w{number}:{value}", value) != "OK":
                    return
                self.acknowledged[number] = value
        except (OSError, ReplyError):
            return

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()


def run(*words: object, code: int = 0) -> Any:
    """``raftkv WORDS`` in this process."""
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def as_json(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "--json").stdout)
    return found


def asked(cluster: Any, place: int) -> list[object]:
    host, port = cluster.members[place].client
    return ["--host", host, "--port", port]


def assert_prefixes(cluster: Any, place: int, least: list[int], most: list[int]) -> None:
    """Of each writer all up to some number, which is between the two."""
    with cluster.connect(place) as connection:
        for number, (low, high) in enumerate(zip(least, most, strict=True)):
            names = [f"w{number}:{value}" for value in range(1, high + 2)]
            found = connection.ask("MGET", *names)
            there = [value for value in found if value is not None]
            assert [int(value) for value in there] == list(range(1, len(there) + 1)), "a hole, or a wrong value"
            assert found[: len(there)] == there, "not a prefix"
            assert low <= len(there) <= high + 1


def emptied(make_cluster: Any, nodes: int) -> Any:
    """Places for a cluster: nothing runs, nothing is stored."""
    cluster = make_cluster(nodes=nodes, wait=False)
    cluster.kill(*range(nodes))
    for member in cluster.members:
        shutil.rmtree(member.data, ignore_errors=True)
    return cluster


@pytest.fixture
def backed_up(shared_cluster: Any, tmp_path: Path) -> Any:
    """(cluster, file, what the backup says, acknowledged before, acknowledged after); taken from a follower under load."""
    cluster = shared_cluster
    writers = Writers(cluster, cluster.leader())
    cluster.wait_until(lambda: min(writers.acknowledged) > 50, "writes")
    before = list(writers.acknowledged)
    file = tmp_path / "b.backup"
    said = as_json("backup", *asked(cluster, cluster.follower()), "-o", file)
    after = list(writers.acknowledged)
    cluster.wait_until(lambda: min(writers.acknowledged) > max(after) + 20, "writes that go on")
    writers.stop()
    return cluster, file, said, before, after


def test_a_backup_of_a_follower_under_load_becomes_a_cluster(backed_up, make_cluster):
    cluster, file, said, before, after = backed_up
    assert as_json("backup", "verify", file)["index"] == said["index"]
    new = emptied(make_cluster, 1)
    made = as_json("restore", file, "--data", new.members[0].data, "--id", "n1")
    old_id = cluster.status(0)["cluster"]
    assert made["from_cluster"] == old_id != made["cluster_id"]
    assert (made["index"], made["keys"]) == (said["index"], said["keys"])
    assert "belongs to cluster" in run("server", "--id", "n1", "--data", new.members[0].data, code=2).stderr, (
        "its default id"
    )
    new.words[0] = ["--cluster-id", made["cluster_id"]]
    new.start_all()
    new.wait_ready()
    assert digest_of(new) == made["digest"]
    assert_prefixes(new, 0, before, after)
    with new.connect(0) as connection:
        assert connection.ask("INCR", "counter") == 1
    new.kill(0)
    new.start_all()
    new.wait_ready()
    assert_prefixes(new, 0, before, after)
    with new.connect(0) as connection:
        assert connection.ask("GET", "counter") == b"1"


def test_three_nodes_restored_alike_are_one_cluster(backed_up, make_cluster):
    _, file, said, before, after = backed_up
    new = emptied(make_cluster, 3)
    peers = ",".join(f"{one.node_id}=127.0.0.1:{one.peer_port}" for one in new.members)
    words = ["--peers", peers, "--cluster-id", "again"]
    made = [as_json("restore", file, "--data", one.data, "--id", one.node_id, *words) for one in new.members]
    assert len({one["digest"] for one in made}) == 1
    (cluster_id,) = {one["cluster_id"] for one in made}
    assert cluster_id.startswith("again.")
    names = [{path.name: path.read_bytes() for path in (one.data / "snapshots").iterdir()} for one in new.members]
    assert names[0] == names[1] == names[2], "the same snapshot, byte for byte"
    for place in range(3):
        new.words[place] = ["--cluster-id", cluster_id]
    new.start_all()
    new.wait_ready()
    assert_prefixes(new, new.follower(), before, after)
    with new.connect(new.follower()) as connection:
        assert connection.ask("SET", "after", "1") == "OK"
    new.wait_converged()
    assert int(new.status(0)["applied_index"]) > said["index"]


def digest_of(cluster: Any) -> str:
    with cluster.connect(0) as connection:
        found: str = dict(pairs(connection.ask("RAFT.STATUS", "digest")))["digest"]
    return found


# ------------------------------------------------------------------ archive and point in time
def archive_fields(cluster: Any) -> dict[str, str]:
    with cluster.connect(0) as connection:
        rows = connection.ask("INFO", "persistence").decode().splitlines()
    return dict(row.split(":", 1) for row in rows if row.startswith("archive_"))


def write(cluster: Any, low: int, high: int) -> None:
    """``n:<i>`` for each number, one entry each, acknowledged."""
    with cluster.connect(0) as connection:
        for number in range(low, high):
            assert connection.ask("SET", f"n:{number}", number) == "OK"


def restart_after_kill(cluster: Any) -> None:
    cluster.kill(0)
    cluster.start(0)
    cluster.wait_ready()


def test_an_archive_goes_back_to_any_index_and_time_over_kills(make_cluster, tmp_path):
    archive = tmp_path / "archive"
    cluster = make_cluster(
        nodes=1, archive_dir=archive, archive_file_s=1, archive_file_bytes="4kb", segment_bytes="1mb"
    )
    write(cluster, 0, 60)
    restart_after_kill(cluster)
    write(cluster, 60, 100)
    with cluster.connect(0) as connection:
        connection.ask("RAFT.SNAPSHOT")
        at = dict(pairs(connection.ask("RAFT.STATUS", "applied_index", "digest")))
        seconds, micros = map(int, connection.ask("TIME"))
    moment = seconds + micros / 1e6
    cluster.wait_until(lambda: time.time() > moment + 0.005, "a clock that has gone on")
    write(cluster, 100, 140)
    restart_after_kill(cluster)
    write(cluster, 140, 160)
    last = int(cluster.status(0)["applied_index"])
    cluster.wait_until(lambda: int(archive_fields(cluster)["archive_index"]) >= last, "an archive that is up to date")
    said = archive_fields(cluster)
    assert (said["archive_enabled"], said["archive_status"], said["archive_gaps"], said["archive_run"]) == (
        "1",
        "ok",
        "0",
        "1",
    )
    assert int(said["archive_base_index"]) > 0
    cluster.stop(0)

    assert as_json("archive", "verify", archive) == []
    (run_of_all,) = as_json("archive", "ls", archive)
    assert run_of_all["first"] == 1
    assert run_of_all["last"] >= last
    made = as_json("restore", archive, "--data", tmp_path / "by-index", "--to-index", at["applied_index"])
    assert made["digest"] == at["digest"]
    by_time = of_archive(str(archive), Target(stamp_ms=round(moment * 1000)))
    assert names_in(by_time) == set(range(100))
    assert names_in(of_archive(str(archive))) == set(range(160))
    assert "is not in" in run("restore", archive, "--data", tmp_path / "no", "--to-index", 10**6, code=2).stderr

    new = emptied(make_cluster, 1)
    shutil.copytree(tmp_path / "by-index", new.members[0].data)
    new.words[0] = ["--cluster-id", made["cluster_id"], "--archive-dir", str(archive)]
    new.start_all()
    new.wait_ready()
    assert digest_of(new) == at["digest"]
    said = new.wait_until(lambda: (one := archive_fields(new))["archive_error"] and one, "a refusal to mix archives")
    assert "give it an archive of its own" in said["archive_error"]
    with new.connect(0) as connection:
        assert connection.ask("SET", "goes", "on") == "OK"


def names_in(point: Any) -> set[int]:
    names = point.machine.keyspace[0].keys()
    return {int(name.removeprefix(b"n:")) for name in names if name.startswith(b"n:")}


def pairs(reply: Any) -> Any:
    texts = [one.decode() if isinstance(one, bytes) else one for one in reply]
    return zip(texts[::2], texts[1::2], strict=True)
