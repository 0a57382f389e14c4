"""Errors that only a client raises. All others come from :mod:`raftkv.errors` and the server.

What a caller may do is in ``definite``: True, the operation certainly did not happen; False, it is not known.
"""

from __future__ import annotations

from raftkv.errors import RaftKVError, UnknownOutcomeError
from raftkv.protocol.decoder import ResponseError


class WatchError(RaftKVError):
    """A watched key changed: nothing of the transaction was applied. Read again, try again."""

    code = "WATCH"

    def __init__(self) -> None:
        super().__init__("a watched key changed before EXEC")


class SessionExpiredError(UnknownOutcomeError):
    """The session ended while a write was in doubt, so its first answer cannot be asked for any more."""

    code = "SESSIONEXPIRED"


class ConnectionLostError(RaftKVError):
    """A node could not be reached, or the connection broke before anything was asked of it."""

    code = "CONNECTION"


class NoAnswerError(ConnectionLostError):
    """A node was silent for too long."""


class ClosedError(RaftKVError):
    """The client was used after ``close()``."""

    code = "CLOSED"


__all__ = ["ClosedError", "ConnectionLostError", "NoAnswerError", "ResponseError", "SessionExpiredError", "WatchError"]
