"""What commands cost and how they ended: command statistics, slow log, hits and misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from raftkv.commands.registry import TABLE, Argv, Command, lookup
from raftkv.errors import CommandError, RaftKVError
from raftkv.protocol.replies import Reply

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.server.connection import Connection
    from raftkv.server.metrics import CommandStat, Metrics
    from raftkv.server.slowlog import Slowlog
    from raftkv.server.state import Client
    from raftkv.server.tickets import Ticket

SLOW_NOTED_MAX: Final = 8
"""Tickets that one slow entry or read round leaves in the slow log: what made one of them slow made all slow."""


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

    def monotonic(self) -> float:
        """Clock.monotonic()."""
        return self.clock.monotonic()

    def tickets(self, tickets: Sequence[Ticket], started: float) -> None:
        """Tickets that started together were answered. Those of other nodes' clients are counted there."""
        seconds = self.clock.monotonic() - started
        counts: dict[bytes, int] = {}
        samples: dict[bytes, Argv] = {}
        for ticket in tickets:
            if ticket.client is None:
                continue
            if ticket.name is not None:
                counts[ticket.name] = counts.get(ticket.name, 0) + len(ticket.commands)
                samples[ticket.name] = ticket.commands[0]
                continue
            for argv in ticket.commands:
                name = argv[0]
                if name in counts:
                    counts[name] += 1
                else:
                    counts[name], samples[name] = 1, argv
        for name, count in counts.items():
            self._stat(name, samples[name]).observe_many(count, seconds)
        micros = int(seconds * 1e6)
        if micros >= self.slowlog.threshold_us >= 0:
            for ticket in tickets[:SLOW_NOTED_MAX]:
                client = ticket.client
                if client is not None:
                    self.slowlog.note(ticket.commands[0], micros, client.address, client.name, self.wall_s)

    def alone(self, reads: Sequence[tuple[Connection, Command, Argv]], started: float) -> None:
        """Reads that came one by one, and started together, were answered."""
        seconds = self.clock.monotonic() - started
        counts: dict[str, int] = {}
        commands: dict[str, Command] = {}
        for _, command, _ in reads:
            name = command.name
            counts[name] = counts.get(name, 0) + 1
            commands[name] = command
        for name, count in counts.items():
            self.metrics.stat(commands[name]).observe_many(count, seconds)
        if seconds * 1e6 >= self.slowlog.threshold_us >= 0:
            for connection, _, argv in reads[:SLOW_NOTED_MAX]:
                client = connection.client
                self.slowlog.note(argv, int(seconds * 1e6), client.address, client.name, self.wall_s)

    def errors(self, commands: list[Argv], replies: Sequence[Reply]) -> None:
        """Some of the replies are errors."""
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
