"""What the guards of consensus share, for tests of one guard: a real log on a disk in memory, everything else in the hand."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

from chaos.disk import Disk
from persistence.wal import Log, LogOptions
from raftkv.consensus.core import Core, Timing
from raftkv.consensus.durability import DurabilityGuard

TIMING = Timing(heartbeat_s=1 / 16, election_min_s=0.5, election_max_s=0.75, request_s=5.0)
"""Exact in binary, so that a test can stand right at a deadline."""
OPTIONS = LogOptions(segment_bytes=1 << 20, cache_bytes=1 << 20, preallocate=False)
WALL_MS = 1_700_000_000_000


class FakeCore:
    """One member ``n1``. ``sent`` is what left, ``delivered`` what the engine was told."""

    def __init__(self, peers=("n2", "n3"), *, term=1, leads=True):
        self.now = 128.0
        self.sent = []
        self.refuses = set()
        """Peers to which nothing can be sent."""
        self.delivered = []
        self.log = Log.open("data/log", OPTIONS, memory())
        self.core = Core(
            "n1", tuple(peers), TIMING, self.log, None, self, lambda: self.now, lambda: WALL_MS, Random(1)
        )  # fmt: skip
        self.core.engine = SimpleNamespace(
            raftCurrentTerm=term, raftCommitIndex=0, raftLastApplied=0, is_leader=leads, leader_id="n1" if leads else "",
            first_own=0,
            nodes={peer: peer for peer in peers},
        )  # fmt: skip
        self.core.transport = SimpleNamespace(deliver=lambda peer, message: self.delivered.append((peer, message)))
        self.durability = DurabilityGuard(self.core)

    def send(self, peer, message):
        if peer in self.refuses:
            return False
        self.sent.append((peer, message))
        return True

    def take(self, peer=None):
        """What was sent since the last call (to ``peer``), in order."""
        taken = [(to, message) for to, message in self.sent if peer in {None, to}]
        self.sent = [one for one in self.sent if one not in taken]
        return [message for _, message in taken] if peer else taken

    def write(self, *terms, size=10, durable=True):
        """Append entries of these terms."""
        for term in terms:
            self.log.append(self.log.last_index + 1, term, b"x" * size)
        if durable:
            self.log.sync()

    def commit(self, index, *, applied=None):
        engine = self.core.engine
        engine.raftCommitIndex = index
        engine.raftLastApplied = index if applied is None else applied

    def change_term(self, term, *, leads, leader=""):
        engine = self.core.engine
        engine.raftCurrentTerm, engine.is_leader, engine.leader_id = term, leads, "n1" if leads else leader


def memory():
    """A disk that loses nothing."""
    disk = Disk(Random(1))
    disk.make_dir("data")
    return disk
