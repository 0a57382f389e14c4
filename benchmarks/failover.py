"""How long after the leader's death a write is acknowledged again.

Writers keep writing through every node, each over one connection at a time. The leader's process is killed with
SIGKILL; when it is gone the clock starts, and it stops at the first acknowledgement of a write that was sent after
that. A request that hangs is given up after a quarter of a second. The same code drives raftkv and etcd, each through
one plain request a write (RESP; etcd's JSON gateway).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from benchmarks.systems import Crew, Etcd, RaftKV, wait_until

WRITERS_PER_NODE: Final = 3
ATTEMPT_TIMEOUT_S: Final = 0.25
"""A writer gives a request up after that and tries again on a new connection."""
RETRY_DELAY_S: Final = 0.01
WARM_ACKS: Final = 200
"""Acknowledged writes before the kill, so that the leader dies under load."""
BACK_WITHIN_S: Final = 60.0


class Writers(Crew):
    """Threads that write until the context ends, and remember when."""

    def __init__(self, system: RaftKV | Etcd) -> None:
        super().__init__()
        self._system = system
        self.threads = [
            threading.Thread(target=self._run, args=(place, number))
            for place in range(system.nodes)
            for number in range(WRITERS_PER_NODE)
        ]
        self._lock = threading.Lock()
        self.acks: list[tuple[float, float]] = []
        """(sent, acknowledged), time.perf_counter()."""

    def first_ack_after(self, moment: float) -> float | None:
        """When the first write that was sent after ``moment`` was acknowledged."""
        with self._lock:
            return min((acked for sent, acked in self.acks if sent >= moment), default=None)

    def _run(self, place: int, number: int) -> None:
        write: Callable[[bytes], bool] | None = None
        key = f"failover:{place}:{number}".encode()
        while not self.stop.is_set():
            try:
                write = write or self._system.write(place, ATTEMPT_TIMEOUT_S)
                sent = time.perf_counter()
                if write(key):
                    with self._lock:
                        self.acks.append((sent, time.perf_counter()))
                    continue
            except OSError:
                write = None
            self.stop.wait(RETRY_DELAY_S)


def measure(system: RaftKV | Etcd, heal: Callable[[], None], times: int, note: Callable[[str], None]) -> list[float]:
    """Seconds without an acknowledgement, for each of ``times`` kills of the leader; ``heal`` brings it back."""
    found = []
    for number in range(1, times + 1):
        heal()
        found.append(_one_kill(system))
        note(f"kill {number} of {times}: {found[-1]:.3f} s")
    return found


def _one_kill(system: RaftKV | Etcd) -> float:
    leader = system.leader()
    with Writers(system) as writers:
        wait_until(lambda: len(writers.acks) >= WARM_ACKS, "writes are acknowledged")
        system.kill(leader)
        killed = time.perf_counter()
        back: float = wait_until(
            lambda: writers.first_ack_after(killed), "a write is acknowledged again", BACK_WITHIN_S
        )  # fmt: skip
    return back - killed
