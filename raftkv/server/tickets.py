"""Work on its way through a node: what was asked, and whom to answer.

Replication and reads work on tickets and do not know whether a connection, another node's forwarded command or the
server itself waits for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raftkv.commands.registry import Argv
from raftkv.errors import RaftKVError
from raftkv.machine.batch import Group
from raftkv.protocol.replies import Reply
from raftkv.server.state import Client


class Ticket:
    """Commands of one sender that stand next to each other in the order of its replies.

    ``raw`` is their RESP form if it is at hand. Exactly one of :meth:`answer` and :meth:`fail` is called, once.
    """

    __slots__ = ("commands", "database", "raw")

    group: Group | None = None
    """Anything but independent commands: a transaction, a session's request, a watch."""
    client: Client | None = None
    """The connection of this node that sent it, for command statistics."""
    name: bytes | None = None
    """The name that all its commands have, when that is known."""

    def __init__(self, commands: list[Argv], raw: bytes | None, database: int) -> None:
        self.commands = commands
        self.raw = raw
        self.database = database

    def later(self) -> Iterable[Ticket]:
        """The same sender's tickets after this one. None by default: one of which the next waits for the answer."""
        return ()

    def answer(self, replies: Sequence[Reply]) -> None:
        """One reply for each command (one in all for a group)."""
        raise NotImplementedError

    def answer_raw(self, replies: bytes) -> None:
        """The replies in RESP, as the leader encoded them for this sender's protocol version."""
        raise NotImplementedError

    def fail(self, error: RaftKVError) -> None:
        """The same error for all; ``error.definite`` says whether nothing was done."""
        raise NotImplementedError

    @property
    def proto(self) -> int:
        """RESP version of the sender."""
        return 2


class GroupTicket(Ticket):
    """A group with a function to be called with its result."""

    __slots__ = ("_done", "_proto", "group")

    def __init__(
        self, group: Group, commands: list[Argv], proto: int, done: Callable[[Any, RaftKVError | None], None]
    ) -> None:
        super().__init__(commands, bytes(group.data), group.database)
        self.group = group
        self._proto = proto
        self._done = done

    @property
    def proto(self) -> int:
        return self._proto

    def answer(self, replies: Sequence[Reply]) -> None:
        self._done(replies[0], None)

    def fail(self, error: RaftKVError) -> None:
        self._done(None, error)
