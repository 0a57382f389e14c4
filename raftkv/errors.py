"""One tree of errors. Every error says three things that its reader must not have to guess:

* ``code``: the first word of the RESP error reply, which Redis clients match on;
* ``definite``: True when the operation certainly did not happen, so that it is safe to retry and a
  history checker records it as *fail*. False is an answer of its own: *unknown*;
* ``deterministic``: True when every replica that applies the same entry raises the same error. Such an
  error is a reply; any other exception inside apply stops the node, because skipping the entry would
  let its state diverge.
"""

from __future__ import annotations


class RaftKVError(Exception):
    """Base of all errors raised on purpose by raftkv.

    ``message`` is the text after the code; ``str(error)`` is the whole RESP error line without ``-``.
    """

    code = "ERR"
    definite = True
    deterministic = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        if code is not None:
            self.code = code
        self.message = message
        super().__init__(f"{self.code} {message}" if message else self.code)


class CommandError(RaftKVError):
    """The client's fault: a command refused for its arguments or the state of its keys.

    Raised before anything changed, and the same on every replica.
    """

    deterministic = True


class WrongTypeError(CommandError):
    """A key holds another type than the command works on."""

    code = "WRONGTYPE"

    def __init__(self) -> None:
        super().__init__("Operation against a key holding the wrong kind of value")


class ProtocolError(RaftKVError):
    """The client's fault: bytes that are not RESP, or that declare more than a limit allows.

    The connection is closed after the reply, because the stream cannot be resynchronised.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"Protocol error: {message}")


class AuthError(RaftKVError):
    """Missing or wrong credentials (codes NOAUTH, WRONGPASS, NOPERM)."""

    code = "NOAUTH"


class NoLeaderError(RaftKVError):
    """No leader is known, or this node lost its leadership before it proposed the command."""

    code = "CLUSTERDOWN"


class BusyError(RaftKVError):
    """A bounded queue is full: nothing was taken, try again later."""

    code = "TRYAGAIN"


class NodeStoppedError(RaftKVError):
    """This node stopped serving (failed disk, diverged state, a bug in apply) and says why."""

    code = "MISCONF"


class UnknownOutcomeError(RaftKVError):
    """The command was handed to replication, and whether it took effect cannot be known from here."""

    code = "UNKNOWN"
    definite = False


class ForwardedError(RaftKVError):
    """An error that another node answered."""

    def __init__(self, code: str, message: str, definite: bool) -> None:
        super().__init__(message, code=code)
        self.definite = definite


class ConfigError(RaftKVError):
    """A setting is unknown or has a value outside what is allowed; names setting, source and remedy."""


class InvariantError(RaftKVError):
    """A bug of ours, or a damaged file: the evidence is in the message, and the node stops."""

    code = "MISCONF"
    definite = False
