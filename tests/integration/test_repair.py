"""Damaged logs, with real processes: a member that has lost a part of what it held is taken back, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from shutil import rmtree
from typing import Any

from persistence.records import Record
from persistence.segment import DATA_START, SegmentHeader, decode_segment_header, segment_number, walk
from persistence.wal import Log, LogOptions
from tests.integration.judging import judge

ROOT = Path(__file__).resolve().parents[2]
BITS = 3
"""Bytes at the end of a record."""


def header_of(path: Path) -> SegmentHeader:
    return decode_segment_header(path.read_bytes()[:DATA_START], str(path), segment_number(path.name) or 0)


def damage_log(cluster: Any, place: int, share: float = 0.5) -> tuple[Path, int]:
    """Turn some bits of a node's log, ``share`` of what a later round or segment vouches for; the file, and where the record begins."""
    found: list[tuple[Path, Record]] = []
    for path in sorted(cluster.members[place].data.glob("log/*.wal")):  # a first one may be short: see Writer.write
        records = list(walk(memoryview(path.read_bytes()), header_of(path).marker))
        found += [(path, record) for record in records if record.stored_bytes > BITS]
    path, last = found[-1]
    vouched_for = [one for one in found if one[0] != path or one[1].offset < last.round_start]
    path, record = vouched_for[int(share * len(vouched_for))]
    with path.open("r+b") as file:
        file.seek(record.end - BITS)
        bits = file.read(BITS)
        file.seek(record.end - BITS)
        file.write(bytes(one ^ 0x55 for one in bits))
    return path, record.offset


def write_in_rounds(cluster: Any, count: int) -> None:
    """``count`` writes, each of which every node has applied before the next: a late follower does not get two in one round."""
    with cluster.connect(cluster.leader()) as connection:
        for number in range(count):
            connection.ask("SET", f"k{number}", number)
            cluster.wait_converged()


def is_voter_again(cluster: Any, place: int) -> bool:
    status = cluster.status(place)
    return status is not None and status["voter"] == "1" and not status["repairing"]


def why_not_ready(cluster: Any, place: int) -> str:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{cluster.http_ports[place]}/ready", timeout=5).close()
    except urllib.error.HTTPError as error:
        return str(json.load(error).get("reason", ""))
    except OSError:
        return ""
    return "ready"


def repair(cluster: Any, place: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raftkv", "repair", str(cluster.members[place].data), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def disk_of(member: Any) -> str:
    return str(json.loads((member.data / "identity").read_text())["disk_id"])


def test_a_damaged_member_is_taken_back_by_itself(cluster, load_on, wait_until):
    load = load_on(cluster)
    victim = cluster.leader()
    member = cluster.members[victim]
    before = disk_of(member)
    cluster.kill(victim)
    path, offset = damage_log(cluster, victim)
    load.wait_acknowledged(100)
    cluster.start(victim)
    wait_until(lambda: is_voter_again(cluster, victim), "it votes again")
    load.wait_acknowledged(100)
    judge(cluster, load)
    after = disk_of(member)
    assert after != before
    aside = member.data / "damaged-1"
    report = json.loads((aside / "report.json").read_text())
    assert (report["damage"][0]["file"], report["damage"][0]["offset"]) == (str(path), offset)
    assert sorted(report["addresses"]) == sorted({"n1", "n2", "n3"} - {member.node_id})
    assert json.loads((aside / "identity").read_text())["disk_id"] == before
    assert (aside / "log" / path.name).exists()
    assert "former_disk" in cluster.log(victim, 200)
    its_former_disk_stays_outside(cluster, victim, aside, wait_until)


def its_former_disk_stays_outside(cluster: Any, victim: int, aside: Path, wait_until: Any) -> None:
    """What was set aside is put back, with an empty log for the damaged one: the worst that an operator could do.

    Without any log, it is one more disk whose place is another's.
    """
    cluster.kill(victim)
    data = cluster.members[victim].data
    data.rename(data.with_name("good"))
    (data.with_name("good") / aside.name).rename(data)
    rmtree(data / "log")
    cluster.start(victim)
    wait_until(lambda: cluster.log(victim, 50).count("foreign disk") > 1, "the others refuse it")
    assert not is_voter_again(cluster, victim)
    cluster.kill(victim)
    identity = (data / "damaged-1" / "identity").read_text()
    (data / "identity").write_text(identity)
    rmtree(data / "log")
    Log.open(str(data / "log"), LogOptions(salt=int(json.loads(identity)["log_id"], 16))).close()
    cluster.start(victim)
    wait_until(lambda: "was removed from the cluster" in (cluster.status(victim) or {}).get("halted", ""), "it halts")


def test_a_member_without_its_log_is_taken_back_by_itself_and_so_it_is_with_one_of_before(cluster, load_on, wait_until):
    """The file systems of log and snapshots are not mounted, and then they are: it must not pass for the voter it was."""
    load = load_on(cluster)
    load.wait_acknowledged(100)
    victim = cluster.follower()
    member = cluster.members[victim]
    before = disk_of(member)
    cluster.kill(victim)
    elsewhere = member.data.with_name("elsewhere")
    elsewhere.mkdir()
    for name in ("log", "snapshots"):
        (member.data / name).rename(elsewhere / name)
    cluster.start(victim)
    wait_until(lambda: is_voter_again(cluster, victim), "it votes again")
    second = disk_of(member)
    assert "this node has had a log, and there is none" in cluster.log(victim, 200)
    load.wait_acknowledged(100)
    cluster.kill(victim)
    for name in ("log", "snapshots"):
        rmtree(member.data / name, ignore_errors=True)
        (elsewhere / name).rename(member.data / name)
    cluster.start(victim)
    wait_until(lambda: is_voter_again(cluster, victim), "it votes once more")
    assert len({before, second, disk_of(member)}) == 3
    assert "this is not the log of this disk" in cluster.log(victim, 200)
    load.wait_acknowledged(100)
    judge(cluster, load)


def test_a_node_that_repairs_nothing_by_itself_says_what_to_do(make_cluster, load_on, wait_until):
    cluster = make_cluster(repair="manual")
    load = load_on(cluster)
    victim = cluster.follower()
    assert "in use by process" in repair(cluster, victim, "--yes").stderr
    cluster.kill(victim)
    refused = repair(cluster, victim, "--yes")
    assert (refused.returncode, "nothing that" in refused.stderr) == (2, True)
    path, offset = damage_log(cluster, victim)
    cluster.start(victim)
    process = cluster.processes[victim]
    assert process.wait(20) == 2
    cluster.processes[victim] = None
    said = cluster.log(victim)
    assert f"{path} is damaged at offset {offset}" in said
    assert f"raftkv repair {cluster.members[victim].data}" in said

    looked = repair(cluster, victim)
    assert looked.returncode == 1
    assert f"{offset:,}" in looked.stdout
    assert "Nothing was changed" in looked.stderr
    assert not list(cluster.members[victim].data.glob("damaged-*"))
    done = repair(cluster, victim, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["aside"] == str(cluster.members[victim].data / "damaged-1")
    cluster.start(victim)
    wait_until(lambda: is_voter_again(cluster, victim), "it votes again")
    judge(cluster, load)


def test_two_of_three_that_are_damaged_at_once_are_not_taken_back(cluster, wait_until):
    write_in_rounds(cluster, 10)
    leader = cluster.leader()
    victims = [place for place in range(3) if place != leader]
    cluster.kill(*victims)
    for place in victims:
        damage_log(cluster, place)
        cluster.start(place)
    for place in victims:
        wait_until(lambda place=place: "a majority of the other voters" in why_not_ready(cluster, place), "it says so")
        assert cluster.status(place)["repairing"].startswith("repairing: what disk")
        with cluster.connect(place) as client:
            assert client.call(b"READ", b"LOCAL") == "OK"
            assert str(client.call(b"GET", b"key")).startswith("CLUSTERDOWN repairing: what disk")
    wait_until(lambda: cluster.status(leader)["role"] != "leader", "the leader without a quorum steps down")
    assert {cluster.status(place)["voter"] for place in victims} == {"0"}


def test_a_node_without_others_says_what_is_left_to_do(make_cluster):
    cluster = make_cluster(nodes=1)
    write_in_rounds(cluster, 10)
    cluster.kill(0)
    path, offset = damage_log(cluster, 0)
    for _ in range(2):  # and again: it has changed nothing
        cluster.start(0)
        assert cluster.processes[0].wait(20) == 2
        assert f"{path} is damaged at offset {offset}" in cluster.log(0)
        assert "Restore a backup" in cluster.log(0)
        assert "raftkv: ERR" not in cluster.log(0)
    refused = repair(cluster, 0, "--yes")
    assert (refused.returncode, "is the only voter" in refused.stderr) == (2, True)
    cluster.processes[0] = None


def test_damage_that_is_found_while_it_runs_stops_the_node_and_the_next_start_repairs_it(cluster, wait_until):
    """Only a member that was away asks for entries that are old enough not to be in memory any more."""
    leader = cluster.leader()
    away = next(place for place in range(3) if place != leader)
    cluster.kill(away)
    with cluster.connect(leader) as connection:
        for number in range(24):
            connection.ask("SET", f"big{number}", bytes([number]) * (1 << 20))
    path, offset = damage_log(cluster, leader, share=0.4)
    cluster.start(away)
    wait_until(lambda: (cluster.status(leader) or {}).get("halted"), "the leader stops")
    assert f"{path} is damaged at offset {offset}" in cluster.status(leader)["halted"]
    cluster.kill(leader)
    cluster.leader()
    cluster.start(leader)
    wait_until(lambda: is_voter_again(cluster, leader), "it votes again")
    cluster.wait_ready()
    cluster.wait_converged()
    with cluster.connect(leader) as connection:
        assert connection.ask("GET", "big11") == bytes([11]) * (1 << 20)
