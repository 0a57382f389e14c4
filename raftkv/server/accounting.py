"""What commands cost and how they ended: command statistics, slow log, hits and misses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from raftkv.commands.registry import TABLE, Argv, Command, lookup
from raftkv.errors import CommandError, RaftKVError
from raftkv.protocol.replies import Reply

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.server.connection import _ConnectionTicket
    from raftkv.server.metrics import CommandStat, Metrics
    from raftkv.server.slowlog import Slowlog
    from raftkv.server.state import Client

_ERROR: Final = ord("-")
_GET: Final = (b"GET", b"get")


class Accounting:
    """Part of the node: called once for each ticket, so that a pipeline of a hundred costs as much as one command."""

    clock: Clock
    metrics: Metrics
    slowlog: Slowlog

    def _init_accounting(self) -> None:
        self.hits = 0
        self.misses = 0
        self._stats: dict[bytes, CommandStat] = {}

    def _stat(self, name: bytes, argv: Argv) -> CommandStat:
        found = self._stats.get(name)
        if found is None:
            try:
                command = lookup(argv)
            except CommandError:
                command = TABLE[name.upper()]
            found = self.metrics.stat(command)
            if not command.parent:
                self._stats[name] = found
        return found

    def account(self, ticket: _ConnectionTicket, replies: Sequence[Reply] | None, encoded: bytes) -> None:
        """A pipeline was answered. ``replies`` is None when the leader encoded them."""
        seconds = self.clock.monotonic() - ticket.started
        commands, names = ticket.commands, ticket.names
        if len(names) == 1:
            (name,) = names
            self._stat(name, commands[0]).observe_many(len(commands), seconds)
            if name in _GET and replies is not None:
                missed = replies.count(None)
                self.misses += missed
                self.hits += len(commands) - missed
        else:
            for name, count in Counter(argv[0] for argv in commands).items():
                self._stat(name, next(argv for argv in commands if argv[0] == name)).observe_many(count, seconds)
        if replies is not None and (encoded[0] == _ERROR or b"\r\n-" in encoded):
            self._account_errors(commands, replies)
        if seconds * 1e6 >= self.slowlog.threshold_us >= 0:
            client = ticket.client
            micros = int(seconds * 1e6)
            self.slowlog.note(commands[0], micros, client.address, client.name, self.wall_s)

    def _account_errors(self, commands: list[Argv], replies: Sequence[Reply]) -> None:
        for argv, reply in zip(commands, replies, strict=True):
            if isinstance(reply, RaftKVError):
                self._stat(argv[0], argv).errors += 1
                self.metrics.error(reply.code)

    def count(self, command: Command, argv: Argv, started: float, value: Reply, client: Client) -> None:
        """A stepped command was answered."""
        seconds = self.clock.monotonic() - started
        stat = self.metrics.stat(command)
        stat.observe_many(1, seconds)
        if isinstance(value, RaftKVError):
            stat.errors += 1
        micros = int(seconds * 1e6)
        if micros >= self.slowlog.threshold_us >= 0 and "skip_slowlog" not in command.flags:
            self.slowlog.note(argv, micros, client.address, client.name, self.wall_s)

    def count_rejected(self, argv: Argv) -> None:
        """A command was refused before it ran."""
        found = TABLE.get(argv[0].upper())
        if found is not None:
            self.metrics.stat(found).rejected += 1

    @property
    def wall_s(self) -> int:
        """Seconds since the epoch."""
        return self.clock.wall_ms() // 1000
