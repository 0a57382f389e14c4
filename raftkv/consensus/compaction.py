"""When to take a snapshot, and what stays of the log that it covers.

The newest snapshot makes the log up to its end superfluous, but there are reasons to keep some of that. A reason is a
function that names the first entry it needs. Each is bounded: at most the last so many bytes of the log are kept for
it, so that none holds the log for ever. The reasons hold on every node, because any of them may lead next; only a
leader knows followers.

| reason | from | bound |
|---|---|---|
| tail | as far back as the bound allows, for whoever was away | ``retain_bytes`` |
| fallback | where the snapshot before the newest ends: should the newest be damaged, that one and the log serve | ``log_bytes`` |
| followers | what the slowest live one has not acknowledged, or what follows the snapshot that it is given | ``hold_bytes`` |

Others may be added with :meth:`Retention.hold`. Whole segments are deleted, so some more may stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftkv.consensus.core import Core
from raftkv.consensus.journal import NOTHING_KEPT
from raftkv.consensus.replication import Replication
from raftkv.consensus.snapshots import Snapshots

LIVE_S: Final = 60.0
"""A follower that was heard of within so long counts as live: a restart should not cost it a snapshot."""

PRECAUTIONS: Final = frozenset({"tail", "fallback"})
"""Reasons that an operator who asks for COMPACT does without."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """The policy."""

    log_bytes: int = 256 * 1024 * 1024
    """Log on disk since the last snapshot that starts the next, as do so many ``entries``."""
    entries: int = 1_000_000
    retain_bytes: int = 64 * 1024 * 1024
    hold_bytes: int = 256 * 1024 * 1024


class Retention:
    """Asks for snapshots, and says what of the log must stay."""

    def __init__(self, core: Core, policy: Compaction, snapshots: Snapshots, replication: Replication) -> None:
        self._core = core
        self._policy = policy
        self._snapshots = snapshots
        self._replication = replication
        self._reasons: dict[str, tuple[Callable[[], int], int]] = {}
        self.hold("tail", lambda: 1, policy.retain_bytes)
        self.hold("fallback", self._fallback, policy.log_bytes)
        self.hold("followers", self._slowest_follower, policy.hold_bytes)

    def hold(self, name: str, first_needed: Callable[[], int], bytes_max: int) -> None:
        """From now on entries from ``first_needed()`` on are kept, but not more than the last ``bytes_max`` of the log.

        ``first_needed`` answers NOTHING_KEPT when it needs none. A reason of the same name is replaced.
        """
        self._reasons[name] = (first_needed, bytes_max)

    def release(self, name: str) -> None:
        """The reason ``name`` does not count any more."""
        self._reasons.pop(name, None)

    def first_kept(self) -> int:
        """First entry that some reason keeps; beyond the log's end when none does."""
        return self._first_kept(frozenset())

    def first_needed(self) -> int:
        """First entry kept for somebody who is there (every reason but tail and fallback): what COMPACT leaves."""
        return self._first_kept(PRECAUTIONS)

    def _first_kept(self, but: frozenset[str]) -> int:
        log = self._core.log
        reasons = (reason for name, reason in self._reasons.items() if name not in but)
        return min((max(needed(), log.first_within(limit)) for needed, limit in reasons), default=NOTHING_KEPT)

    def reasons(self) -> dict[str, int]:
        """The first entry that each reason needs, whatever its bound (NOTHING_KEPT: none)."""
        return {name: needed() for name, (needed, _) in self._reasons.items()}

    def tick(self) -> None:
        """Ask for a snapshot when it is time."""
        core, policy, snapshots = self._core, self._policy, self._snapshots
        if snapshots.checking or snapshots.rests:
            return
        grown = core.applied - snapshots.index >= policy.entries
        if grown or snapshots.failed or core.log.bytes_from(snapshots.index + 1) >= policy.log_bytes:
            snapshots.request()

    def _fallback(self) -> int:
        return max(1, self._snapshots.previous_index - 1)  # the engine wants the entry before the snapshot's last, too

    def _slowest_follower(self) -> int:
        core, replication = self._core, self._replication
        if not core.is_leader:
            return NOTHING_KEPT
        now = core.monotonic()
        live = {peer for peer, heard in replication.contact.items() if now - heard < LIVE_S}
        needed = NOTHING_KEPT
        for peer, progress in replication.progress.items():
            if peer not in live:
                continue
            if progress.needs_snapshot:
                behind = self._snapshots.sender.index(peer)
            else:
                behind = progress.match_index or progress.next_index - 1
            needed = min(needed, max(1, behind))  # the entry before the first to send is compared
        return needed
