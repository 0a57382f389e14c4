"""Reads of all senders: all tickets of one consistency that arrive in one turn of the loop pass one gate together."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakValueDictionary

from raftkv.commands.registry import Argv, Command, Context
from raftkv.errors import CommandError, RaftKVError
from raftkv.server.consistency import LINEARIZABLE, Consistency, Gate, Gates

if TYPE_CHECKING:
    from raftkv.machine.machine import StateMachine
    from raftkv.replicator import Replicator
    from raftkv.server.accounting import Accounting
    from raftkv.server.connection import Connection
    from raftkv.server.tickets import Ticket

Alone: TypeAlias = "tuple[Connection, Command, Argv]"
"""One read of a connection that waits for nothing else."""

ALONE_TOGETHER_MIN: Final = 4
"""From so many single reads on it is tried whether all are of one command, which may know how to do many at once."""


class Readers:
    """The readers of a node: one for each consistency that a connection reads with."""

    def __init__(
        self,
        replicator: Replicator,
        machine: StateMachine,
        rng: Random,
        call_soon: Callable[[Callable[[], None]], object],
        account: Accounting,
    ) -> None:
        gates = Gates(replicator, account.monotonic)

        def make(consistency: Consistency) -> Reader:
            return Reader(consistency, gates.gate(consistency), machine, rng, call_soon, account)

        self._make = make
        self.linearizable = make(LINEARIZABLE)
        self._others = WeakValueDictionary[Consistency, Reader]()

    def of(self, consistency: Consistency) -> Reader:
        """It lives for as long as a connection uses it."""
        if consistency is LINEARIZABLE:
            return self.linearizable
        found = self._others.get(consistency)
        if found is None:
            found = self._others[consistency] = self._make(consistency)
        return found


class Reader:
    """Works on every node: a follower's barrier asks the leader for a read index."""

    def __init__(
        self,
        consistency: Consistency,
        gate: Gate,
        machine: StateMachine,
        rng: Random,
        call_soon: Callable[[Callable[[], None]], object],
        account: Accounting,
    ) -> None:
        self.consistency = consistency
        self._gate = gate
        self._machine = machine
        self._rng = rng
        self._call_soon = call_soon
        self._account = account
        self._waiting: list[Ticket] = []
        self._alone: list[Alone] = []

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket whose commands do not write."""
        if not (self._waiting or self._alone):
            self._call_soon(self._flush)
        self._waiting.append(ticket)

    def add_alone(self, connection: Connection, command: Command, argv: Argv) -> None:
        """Queue one read of a connection that waits for nothing else; its arity has been checked."""
        if not (self._waiting or self._alone):
            self._call_soon(self._flush)
        self._alone.append((connection, command, argv))

    def _flush(self) -> None:
        tickets, self._waiting = self._waiting, []
        alone, self._alone = self._alone, []
        started = self._account.monotonic()
        self._gate(lambda now_ms, error: self._ready(tickets, alone, started, now_ms, error))

    def _ready(
        self, tickets: list[Ticket], alone: list[Alone], started: float, now_ms: int, error: RaftKVError | None
    ) -> None:
        if error is not None:
            for ticket in tickets:
                ticket.fail(error)
            for connection, _, argv in alone:
                connection.answer_alone(error, argv)
        else:
            context = self._machine.reading(now_ms, self._rng)
            if alone:
                self._run_alone(context, alone)
            if tickets:
                self._run(context, tickets)
        self._account.tickets(tickets, started)
        self._account.alone(alone, started)

    def _run(self, context: Context, tickets: list[Ticket]) -> None:
        run = self._machine.run
        asked = missed = 0
        for ticket in tickets:
            replies = run(context, ticket.database, ticket.commands)
            asked += len(replies)
            missed += replies.count(None)
            ticket.answer(replies)
        self._account.misses += missed
        self._account.hits += asked - missed

    def _run_alone(self, context: Context, alone: list[Alone]) -> None:
        if len(alone) >= ALONE_TOGETHER_MIN and self._run_alone_together(context, alone):
            return
        missed = 0
        for connection, command, argv in alone:
            context.db_index = connection.client.db
            try:
                reply = command.function(context, argv)
            except CommandError as error:
                reply = error
            if reply is None:
                missed += 1
            connection.answer_alone(reply, argv)
        self._account.misses += missed
        self._account.hits += len(alone) - missed

    def _run_alone_together(self, context: Context, alone: list[Alone]) -> bool:
        """The same command on the same database from all, which knows how to do many at once. False: not so."""
        command = alone[0][1]
        database = alone[0][0].client.db
        if command.run is None:
            return False
        for connection, other, _ in alone:
            if other is not command or connection.client.db != database:
                return False
        context.db_index = database
        replies = command.run(context, [argv for _, _, argv in alone])
        if replies is None:
            return False
        for (connection, _, argv), reply in zip(alone, replies, strict=True):
            connection.answer_alone(reply, argv)
        missed = replies.count(None)
        self._account.misses += missed
        self._account.hits += len(alone) - missed
        return True
