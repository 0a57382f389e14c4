"""The leader's lease: for a while after a round of questions no other leader can be elected, so reads need no round.

Theory (Raft thesis 6.4.1): a voter that heard its leader refuses to vote for an election timeout. So a round of
questions that was *sent* at ``t`` and answered by a majority keeps every rival out until ``t`` plus the election
timeout, on the voters' clocks. The leader counts the same time on its own, and a share less for what clocks differ.

What the lease rests on, and where each is kept:

* **clocks**: the rates of any two members' monotonic clocks differ by less than :data:`DRIFT`, and go on
  while a process is stopped. An operator promises this by ``read_lease``; without the lease no clock is
  trusted with anything but progress;
* **stickiness**: whoever answered neither votes nor campaigns for an election timeout (:class:`ElectionGuard`); a
  member that is about to campaign does not answer (:meth:`Replica._on_probe`);
* **a restarted voter** has forgotten when it heard its leader, and behaves as if it had just
  heard it (:class:`ElectionGuard`);
* **a transfer** is an election without stickiness: once a TimeoutNow left, there is no lease in its term, because one
  that is late can still be obeyed (:meth:`Lease.give_up`). The licence that it gives is for the next term only;
* **the voters** are those that were asked: another configuration has other majorities, and ends
  the lease (:meth:`Lease.end`).

That a leader knows all that was acknowledged before its time (an entry of its term is committed) is a condition of
every round already, with or without a lease.
"""

from __future__ import annotations

from typing import Final

from raftkv.consensus.core import Core

DRIFT: Final = 0.1
"""Share of the election timeout that a leader does not use: so much may one clock be faster than another."""
RENEW: Final = 0.5
"""Share of the lease after which a read asks for the next one without waiting for it."""


class Lease:
    """Of this node as a leader. Never holds unless ``timing.read_lease``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._term = -1
        self._begun = -1e9
        self.until = -1e9
        """Core.monotonic() at its end, if nothing else ends it before."""
        self._given_up = -1

    @property
    def length_s(self) -> float:
        """On the leader's clock, from when a round was sent."""
        return self._core.timing.election_min_s * (1.0 - DRIFT)

    def extend(self, sent: float) -> None:
        """A round that was sent at ``sent`` in this term was answered by a majority of the voters."""
        core = self._core
        if core.timing.read_lease and core.term != self._given_up:
            self._term = core.term
            self._begun, self.until = sent, sent + self.length_s

    @property
    def holds(self) -> bool:
        """Whether this node is the only leader there can be, now."""
        core = self._core
        known = self._term == core.term and self._term != self._given_up
        return known and core.monotonic() < self.until and core.is_leader

    @property
    def ages(self) -> bool:
        """Whether it is time for a round that replaces it."""
        return self._core.monotonic() >= self._begun + RENEW * self.length_s

    def end(self) -> None:
        """Other voters, or another leader: what was answered says nothing any more."""
        self.until = -1e9

    def give_up(self) -> None:
        """Another node is about to be told to campaign: no lease in this term any more."""
        self._given_up = self._core.term
