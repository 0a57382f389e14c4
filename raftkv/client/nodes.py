"""Which nodes there are, which of them leads, and which are not worth asking now: what a client has learnt so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

NODES_MAX: Final = 64
"""Addresses remembered besides those that the client was given."""
AVOID_S: Final = 2.0
"""How long a node that could not be reached is asked last."""
LEADER_CHECK_S: Final = 15.0
"""A follower serves by forwarding and says nothing of it, so who leads is asked anew at this interval."""
LEADER_SEARCH_S: Final = 0.2
"""The same while no leader is known."""

STATUS: Final = [b"RAFT.STATUS", b"role", b"leader", b"halted", b"client_addresses"]
"""What :meth:`Nodes.learn` reads."""


class Nodes:
    """Shared by all operations of a client, and safe to use from several threads. Addresses are host:port."""

    def __init__(self, given: Sequence[str], monotonic: Callable[[], float]) -> None:
        """``given`` are any members; the others are learnt."""
        self.leader: str | None = None
        self._given = tuple(given)
        self._monotonic = monotonic
        self._known = list(dict.fromkeys(given))
        self._avoid: dict[str, float] = {}  # address to when it may be asked again
        self._checked = monotonic()
        self._turn = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def check_is_due(self) -> bool:
        """Whether a node should be asked who leads."""
        return self._monotonic() - self._checked > (LEADER_CHECK_S if self.leader else LEADER_SEARCH_S)

    def pick(self, *, spread: bool = False) -> str:
        """The leader if it is known and not down, else (or to ``spread``) the nodes in turn,
        those that are down last.
        """
        with self._lock:
            if self.leader is not None and not spread and not self._avoided(self.leader):
                return self.leader
            count = len(self._known)
            order = [self._known[(self._turn + step) % count] for step in range(count)]
            self._turn = (self._turn + 1) % count
            return next((one for one in order if not self._avoided(one)), order[0])

    def learn(self, address: str, status: Any) -> str:
        """Take note of the RAFT.STATUS of a node; why that node has stopped, if it has."""
        if isinstance(status, list):
            status = dict(zip(status[::2], status[1::2], strict=False))
        if not isinstance(status, dict):
            return ""
        halted: str = status.get(b"halted", b"").decode("utf-8", "replace")
        members = [one.decode() for one in status.get(b"client_addresses", ())]
        if halted:
            self.failed(address)
            with self._lock:  # it was removed, perhaps, as all that this client knows: it tells who was there then
                self._are([*self._known, *members])
            return halted
        with self._lock:
            self._checked = self._monotonic()
            leads = status.get(b"role") == b"leader"
            leader = address if leads else status.get(b"leader", b"").decode()
            if leader:  # who knows no leader may have been away, and know long gone members
                self._are(members)
            if leader and not self._avoided(leader):
                self._follow(leader)
            elif self.leader == address or self._avoided(leader):
                self.leader = None  # it stepped down, or its followers have not noticed yet that it is gone
        return ""

    def failed(self, address: str) -> None:
        """Ask it last for a while."""
        with self._lock:
            now = self._monotonic()
            self._avoid = {one: until for one, until in self._avoid.items() if until > now} | {address: now + AVOID_S}
            if self.leader == address:
                self.leader = None

    def follow(self, leader: str) -> None:
        """A node says that this one leads."""
        with self._lock:
            self._follow(leader)

    def leads_no_more(self, address: str) -> None:
        """A node that was taken for the leader refuses."""
        with self._lock:
            if self.leader == address:
                self.leader = None

    def _are(self, members: list[str]) -> None:
        """These are the members now. Others are forgotten, but for those that the client was given."""
        if members:
            self._known = list(dict.fromkeys([*members[:NODES_MAX], *self._given]))

    def _follow(self, leader: str) -> None:
        self.leader = leader
        if leader not in self._known and len(self._known) < NODES_MAX + len(self._given):
            self._known.append(leader)

    def _avoided(self, address: str) -> bool:
        return self._avoid.get(address, 0.0) > self._monotonic()
