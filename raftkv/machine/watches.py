"""WATCH, as replicated state.

A watch is registered through the log, so that every replica knows which keys are watched, and checked when the
transaction's entry is applied. While nothing is watched a write pays one comparison with None. A watch names the log
index of its registration: the transaction fails when the key was changed by a later entry. A registration that is gone
(too old, or pushed out) fails the transaction too, which a client must expect of WATCH at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftkv.machine.batch import Watched
from raftkv.store.keyspace import Keyspace

WATCHES_MAX: Final = 65_536
"""Keys watched at once; one more pushes out the one registered first."""
TTL_MS: Final = 600_000
"""A transaction must follow its WATCH within ten minutes."""


@dataclass(slots=True)
class Watch:
    """A watched key. ``changed_index`` is the last entry that changed it since the first registration."""

    changed_index: int
    registered_ms: int
    expired: bool
    """The key had already expired when it was watched, though it may not have been removed yet."""


class Watches:
    """Watched keys by (database, key), the one registered longest ago first."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self.by_key: dict[tuple[int, bytes], Watch] = {}
        self.index = 0
        """The entry being applied; set by the machine."""

    def register(self, database: int, key: bytes, index: int, now_ms: int) -> None:
        """Watch ``key`` from entry ``index`` on."""
        place = (database, key)
        watch = self.by_key.pop(place, None)
        expired = self._expired(database, key)
        if watch is None:
            while len(self.by_key) >= WATCHES_MAX:
                del self.by_key[next(iter(self.by_key))]
            watch = Watch(index, now_ms, expired)
        if expired and not watch.expired:
            watch.changed_index = index  # whoever watched it alive must hear of it, though nobody removed it yet
        watch.registered_ms, watch.expired = now_ms, expired
        self.by_key[place] = watch
        self.hook()

    def unchanged(self, watched: Watched) -> bool:
        """Whether the key is as it was when the watch was registered."""
        watch = self.by_key.get((watched.database, watched.key))
        if watch is None or watch.changed_index > watched.index:
            return False
        return watch.expired or not self._expired(watched.database, watched.key)

    def _expired(self, database: int, key: bytes) -> bool:
        at_ms = self._keyspace[database].expiries.get(key)
        return at_ms is not None and at_ms <= self._keyspace.now_ms

    def hook(self) -> None:
        """Have every database report changes while something is watched.

        By its number, not by itself: SWAPDB exchanges databases, and leaves with each number its callback.
        """
        for number, database in enumerate(self._keyspace.databases):
            database.watched = _Reporter(self, number) if self.by_key else None

    def changed(self, database: int, key: bytes) -> None:
        """``key`` was changed by the entry being applied."""
        watch = self.by_key.get((database, key))
        if watch is not None:
            watch.changed_index = self.index

    def collect(self, now_ms: int) -> None:
        """Forget registrations past their time."""
        changed = False
        while self.by_key:
            place = next(iter(self.by_key))
            if self.by_key[place].registered_ms + TTL_MS > now_ms:
                break
            del self.by_key[place]
            changed = True
        if changed:
            self.hook()


@dataclass(frozen=True, slots=True)
class _Reporter:
    watches: Watches
    database: int

    def __call__(self, key: bytes) -> None:
        self.watches.changed(self.database, key)
