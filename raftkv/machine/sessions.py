"""Client sessions: a retried write gets the first attempt's answer (Raft thesis 6.3).

Sessions are part of the replicated state. Each keeps the replies that its client has not acknowledged yet; a request
whose sequence is among them is not run again. A session that nobody used for its time to live, by the entries'
stamps, is forgotten on every replica at the same entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from raftkv.errors import CommandError
from raftkv.machine.batch import SESSION_ID_BYTES, Run

SESSIONS_MAX: Final = 65_536
"""Opening one more forgets the one unused for longest."""
REPLIES_MAX: Final = 1024
"""Unacknowledged replies a session; one more request is refused."""
COLLECT_PER_ENTRY: Final = 16
"""Expired sessions forgotten by one entry."""


class SessionError(CommandError):
    """The session is unknown, or its request cannot be told from one that was already answered and forgotten."""

    code = "SESSIONEXPIRED"


@dataclass(slots=True)
class Session:
    """One client's memory. ``replies`` holds each reply as (RESP2, RESP3) bytes."""

    ttl_ms: int
    used_ms: int
    acknowledged: int = 0
    replies: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)


class Sessions:
    """All sessions, least recently used first."""

    def __init__(self) -> None:
        self.by_id: dict[bytes, Session] = {}

    def open(self, index: int, ordinal: int, ttl_ms: int, now_ms: int) -> bytes:
        """A new session; its id is its place in the log, and so unique. Returns 32 hex digits.

        The stamp is in it as well: after a loss of quorum places of entries that were lost are taken a second time, and
        whose session was lost with them must not be served with another client's.
        """
        stamp = now_ms % 2**32
        identity = index.to_bytes(8, "big") + stamp.to_bytes(4, "big") + ordinal.to_bytes(SESSION_ID_BYTES - 12, "big")
        while len(self.by_id) >= SESSIONS_MAX:
            del self.by_id[next(iter(self.by_id))]
        self.by_id[identity] = Session(ttl_ms, now_ms)
        return identity.hex().encode()

    def find(self, run: Run, now_ms: int) -> tuple[bytes, bytes] | None:
        """The first attempt's reply if there was one; None when the request must run now.

        Raises SessionError when that cannot be known any more, CommandError when too much is unacknowledged.
        """
        session = self.by_id.pop(run.session, None)
        if session is None or session.used_ms + session.ttl_ms <= now_ms:
            msg = "the session is unknown or has expired: open a new one; a request in doubt may have been applied"
            raise SessionError(msg)
        self.by_id[run.session] = session
        session.used_ms = now_ms
        if run.acknowledged > session.acknowledged:
            session.acknowledged = run.acknowledged
            for sequence in [one for one in session.replies if one <= run.acknowledged]:
                del session.replies[sequence]
        known = session.replies.get(run.sequence)
        if known is not None:
            return known
        if run.sequence <= session.acknowledged:
            msg = f"request {run.sequence} was acknowledged before; its reply is forgotten"
            raise SessionError(msg)
        if len(session.replies) >= REPLIES_MAX:
            msg = f"{REPLIES_MAX} replies of this session are not acknowledged; raise the acknowledged sequence"
            raise CommandError(msg)
        return None

    def has_answered(self, run: Run) -> bool:
        """Whether a repetition of the request gets the first attempt's reply, as far as is known here."""
        session = self.by_id.get(run.session)
        return session is not None and run.sequence in session.replies

    def keep(self, run: Run, reply: tuple[bytes, bytes]) -> None:
        """Remember what the request was answered."""
        self.by_id[run.session].replies[run.sequence] = reply

    def collect(self, now_ms: int) -> None:
        """Forget some of the sessions that expired."""
        for _ in range(COLLECT_PER_ENTRY):
            oldest = next(iter(self.by_id), None)
            if oldest is None:
                return
            session = self.by_id[oldest]
            if session.used_ms + session.ttl_ms > now_ms:
                return
            del self.by_id[oldest]
