"""A damaged disk: its node comes back as another one under the same id.

Theory: Raft rests on what servers remember. A server that has lost a part of its log has forgotten what it
acknowledged, and may have forgotten whom it voted for: it must not go on as the voter that it was. To the group it is
one server that is gone, and a new one that happens to have the same id.

So its directory gets a new disk id and remembers the old ones (``former``). It tells them to the leader, which makes
**one** change: this member votes no more, its disk is the new one, and the former ones count as removed. That is the
removal of one voter and the addition of a learner, so any two majorities still share a server. From there on it is a
learner like any other: it gets everything, and is promoted when it has caught up.

What holds until then:

* a node whose configuration has another disk in its place does not talk to it: its votes and acknowledgements would
  count as those of the voter that it was (:meth:`raftkv.consensus.membership.Membership.admit`). That also goes for
  links that stand already, when another leader takes the change back, or when the other node knew no members yet as it
  let this one in: its messages are dropped, and the links made anew;
* the configurations of its former life that it finds in the log do not make it a voter (:meth:`Core.is_own`);
* the change is refused, as a removal is, when it leaves no majority of voters that answer: two of three that were
  damaged at once do not come back by themselves, because nobody knows what only they held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftkv.consensus.configuration import Configuration, Member, Readmit
from raftkv.consensus.core import Core

FRESH_S: Final = 5.0
"""A node that asked longer ago may be gone again. One that waits asks more often: it and the leader keep dialling."""


@dataclass(frozen=True, slots=True)
class _Asked:
    change: Readmit
    at: float


class Readmission:
    """Who asks to be taken back with another disk."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked: dict[str, _Asked] = {}

    def ask(self, change: Readmit) -> None:
        """A member proved to know the secret, and says this of itself."""
        self._asked[change.node_id] = _Asked(change, self._core.monotonic())
        self._core.wants_tick = True

    def forget(self, peer: str) -> None:
        """``peer`` was met with the disk that its place belongs to."""
        self._asked.pop(peer, None)

    def next(self, latest: Configuration) -> Readmit | None:
        """What a leader should propose."""
        since = self._core.monotonic() - FRESH_S
        for asked in self._asked.values():
            change = asked.change
            if asked.at > since and is_former(latest.get(change.node_id), change.disk, change.former):
                return change
        return None


def is_former(member: Member | None, disk: str, former: tuple[str, ...]) -> bool:
    """Whether the member's place is that of an earlier life of ``disk``, which had the ids ``former``.

    A voter whose disk nobody has written down yet is one of before, too: nobody becomes a voter with an unknown disk
    again.
    """
    if member is None or not former or member.disk == disk:
        return False
    return member.disk in former if member.disk else member.voter
