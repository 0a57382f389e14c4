"""Linearizable reads of all senders: one barrier for all tickets that arrive in one turn of the loop."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.machine.machine import StateMachine
    from raftkv.replicator import Replicator
    from raftkv.server.accounting import Accounting
    from raftkv.server.tickets import Ticket


class Reader:
    """Works on every node: a follower's barrier asks the leader for a read index."""

    def __init__(
        self,
        replicator: Replicator,
        machine: StateMachine,
        rng: Random,
        call_soon: Callable[[Callable[[], None]], object],
        account: Accounting,
    ) -> None:
        self._replicator = replicator
        self._machine = machine
        self._rng = rng
        self._call_soon = call_soon
        self._account = account
        self._waiting: list[Ticket] = []

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket whose commands do not write."""
        if not self._waiting:
            self._call_soon(self._flush)
        self._waiting.append(ticket)

    def _flush(self) -> None:
        tickets, self._waiting = self._waiting, []
        started = self._account.monotonic()
        self._replicator.read_barrier(lambda now_ms, error: self._ready(tickets, started, now_ms, error))

    def _ready(self, tickets: list[Ticket], started: float, now_ms: int, error: RaftKVError | None) -> None:
        if error is not None:
            for ticket in tickets:
                ticket.fail(error)
        else:
            run = self._machine.run
            context = self._machine.reading(now_ms, self._rng)
            asked = missed = 0
            for ticket in tickets:
                replies = run(context, ticket.database, ticket.commands)
                asked += len(replies)
                missed += replies.count(None)
                ticket.answer(replies)
            self._account.misses += missed
            self._account.hits += asked - missed
        self._account.tickets(tickets, started)
