"""A write or a sync of the log that fails, at a chosen call: real processes, whose disk then does not have what the file shows.

Failure classes (see chaos/): a failed sync that is tried again and believed, a record that was acknowledged although its
write failed, a restart that takes over pages which never reach the disk, a half written record in the way of the next.
"""

from __future__ import annotations

import secrets
from typing import Any

from chaos.power import Power
from raftkv.errors import RaftKVError
from raftkv.server.disk_failure import EXIT_DISK
from tests.integration.conftest import wait_until
from tests.integration.disks import log_of
from tests.integration.judging import describe, judge

WRITE = "write+sync /log/*.wal"
SYNC = "sync /log/*.wal"
STRUCK_WITHIN_S = 60.0
PAD_BYTES = 100_000


def pad(cluster: Any, place: int) -> None:
    """A megabyte of log: a compaction follows, which syncs the log as a whole."""
    try:
        with cluster.connect(place) as client:
            for number in range(12):
                client.ask("SET", f"pad{number}", secrets.token_bytes(PAD_BYTES))
    except (OSError, RaftKVError):
        pass  # struck


def ends_of(cluster: Any, power: Power, place: int, what: str) -> None:
    """The node meets ``what`` under the load, and ends because of it."""
    process = cluster.processes[place]
    began = len(log_of(cluster, place))
    power.fail(what)

    def is_over() -> bool:
        if process.poll() is None and what.endswith(f" {SYNC}"):
            pad(cluster, place)
        return process.poll() is not None

    wait_until(is_over, f"an end because of {what!r}", STRUCK_WITHIN_S)
    assert process.returncode == EXIT_DISK, cluster.log(place)
    said = log_of(cluster, place)[began:]
    assert "failed and must be opened again: [Errno 5] Input/output error" in said
    assert f"exit_code={EXIT_DISK}" in said
    print(f"\n{what}: {power.struck()}", end="")


def test_members_end_one_after_the_other_and_the_cluster_goes_on(powered, load_on):
    cluster, powers = powered(3)
    cluster.start_all()
    cluster.wait_ready()
    load = load_on(cluster)
    for number, (leads, what) in enumerate([
        (True, f"3 EIO {WRITE}"),
        (False, f"5 torn {WRITE}"),
        (True, f"4 unsynced {WRITE}"),
        (False, f"1 EIO {SYNC}"),
    ]):  # fmt: skip
        place = cluster.leader() if leads else cluster.follower()
        ends_of(cluster, powers[place], place, what)
        load.wait_acknowledged(50)
        if number % 2:
            powers[place].cut()  # as if the kernel had dropped the pages that it could not write
        cluster.start(place)
        cluster.wait_ready()
    place = cluster.leader()
    powers[place].fail(f"3 short {WRITE}")
    wait_until(powers[place].struck, "a short write", STRUCK_WITHIN_S)
    load.wait_acknowledged(50)
    assert cluster.processes[place].poll() is None, "a short write is gone on with"
    print(f"\n{describe(judge(cluster, load))}")


def test_a_node_alone_believes_no_page_that_its_disk_may_not_have(powered, load_on):
    """It comes back, sees what never got to the disk, goes on, and loses its power: nobody else could help it."""
    cluster, (power,) = powered(1)
    cluster.start_all()
    cluster.wait_ready()
    load = load_on(cluster)
    for what in (f"5 unsynced {WRITE}", f"1 EIO {SYNC}", f"5 torn {WRITE}"):
        ends_of(cluster, power, 0, what)
        cluster.start(0)
        cluster.wait_ready()
        load.wait_acknowledged(30)
        cluster.kill(0)
        power.cut()
        cluster.start(0)
        cluster.wait_ready()
        load.wait_acknowledged(30)
    print(f"\n{describe(judge(cluster, load, patient=False))}")
