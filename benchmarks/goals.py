"""What raftkv has to reach, as ratios between measurements of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Medians: TypeAlias = Mapping[str, float]
"""``system/case`` to the median of the rounds: operations per second, MiB or seconds. What was not measured is
absent."""


@dataclass(frozen=True, slots=True)
class Goal:
    """``subject`` divided by ``other`` shall be at least (or at most) ``wanted``."""

    title: str
    subject: str
    other: tuple[str, ...]
    """Several: the best of them. None: the subject itself is compared."""
    wanted: float
    at_most: bool = False

    def ratio(self, medians: Medians) -> float | None:
        """None when something was not measured."""
        others = [medians[name] for name in self.other if name in medians]
        if self.subject not in medians or len(others) != len(self.other) or 0 in others:
            return None
        return medians[self.subject] / max(others) if others else medians[self.subject]

    def reached(self, ratio: float) -> bool:
        """Whether the ratio is good enough."""
        within: Callable[[float], bool] = self.wanted.__ge__ if self.at_most else self.wanted.__le__
        return bool(within(ratio))


ETCD_PUTS: Final = ("etcd/put 50x1", "etcd/put 200x1", "etcd/put 1000x1")

GOALS: Final = (
    Goal("SET 50x1 : etcd put 50", "raftkv/set 50x1", ("etcd/put 50x1",), 3.0),
    Goal("SET 50x1 : Redis SET+WAIT 50x1", "raftkv/set 50x1", ("redis-wait/setwait 50x1",), 1.2),
    Goal("SET 200x1 : etcd put 200", "raftkv/set 200x1", ("etcd/put 200x1",), 3.0),
    Goal("SET 50x16 : etcd put, best client count", "raftkv/set 50x16", ETCD_PUTS, 10.0),
    Goal("SET 50x16 : Redis SET+WAIT 50x16", "raftkv/set 50x16", ("redis-wait/setwait 50x16",), 3.0),
    Goal("SET 50x100 : plain Redis", "raftkv/set 50x100", ("redis/set 50x100",), 0.25),
    Goal("GET 50x1 : etcd get 50", "raftkv/get 50x1", ("etcd/get 50x1",), 4.0),
    Goal("GET 200x1 : etcd get 200", "raftkv/get 200x1", ("etcd/get 200x1",), 4.0),
    Goal("GET 50x1 : plain Redis", "raftkv/get 50x1", ("redis/get 50x1",), 0.7),
    Goal("GET 200x1 : plain Redis", "raftkv/get 200x1", ("redis/get 200x1",), 0.7),
    Goal("GET 50x16 : plain Redis", "raftkv/get 50x16", ("redis/get 50x16",), 0.37),
    Goal("memory of a node, 1 M keys : Redis", "raftkv/memory MiB", ("redis/memory MiB",), 2.0, at_most=True),
    Goal("leader killed: first ack again, seconds", "raftkv/failover s", (), 1.0, at_most=True),
    Goal(
        "log syncs of one writer : plain fdatasync",
        "raftkv/log fsync batches /s, 1 writers",
        ("disk/plain fdatasync /s",),
        0.8,
    ),
    Goal("1 M keys from a snapshot, seconds", "raftkv/snapshot load s", (), 3.0, at_most=True),
    Goal(
        "1 M keys from a snapshot : Redis' RDB load", "raftkv/snapshot load s", ("redis/RDB load s",), 3.0, at_most=True
    ),
    Goal("log replay, commands a second", "raftkv/log replay commands /s", (), 150_000.0),
    Goal("log replay : Redis' AOF load", "raftkv/log replay commands /s", ("redis/AOF load commands /s",), 0.25),
    Goal("snapshot of 1 M keys, worst latency, ms", "raftkv/snapshot max ms, load 0", (), 20.0, at_most=True),
    Goal("snapshot of 1 M keys, size : Redis' RDB", "raftkv/snapshot MiB", ("redis/RDB MiB",), 1.0, at_most=True),
    Goal("leader killed: raftkv : etcd", "raftkv/failover s", ("etcd/failover s",), 1.0, at_most=True),
)
