"""Turns the writes of all senders into log entries, on the leader.

All tickets that arrive while an entry is on its way form the next one: one log record, one fsync, one message to
each follower, one apply. That is where the throughput comes from (architecture tour, "A write's way").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from raftkv.consensus.messages import ENTRY_BYTES_MAX
from raftkv.errors import BusyError, RaftKVError
from raftkv.machine.batch import DIGEST, TICK, Group, encode_group, header, plain
from raftkv.protocol.encoder import encode_commands

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.machine.machine import StateMachine
    from raftkv.replicator import Replicator
    from raftkv.server.accounting import Accounting
    from raftkv.server.metrics import Metrics
    from raftkv.server.tickets import Ticket

ENTRIES_IN_FLIGHT: Final = 1
"""Entries proposed and not applied; what comes meanwhile waits and forms the next. More gives smaller entries."""
FULL_ENTRIES_IN_FLIGHT: Final = 16
"""Full entries gain nothing by waiting: so many may be on their way, as long as their bytes are below the bound."""
ENTRY_COMMANDS_MAX: Final = 1024
"""One entry takes about so many commands: while a follower applies it (1 to 2 ms), it acknowledges nothing else."""


class Proposer:
    """``call_soon`` runs a function after all input of this turn of the loop was read."""

    def __init__(
        self,
        replicator: Replicator,
        machine: StateMachine,
        clock: Clock,
        metrics: Metrics,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        entry_bytes_max: int,
        pending_bytes_max: int,
        refused: Callable[[list[Ticket]], None],
        account: Accounting,
    ) -> None:
        """``refused`` gets tickets that certainly were not proposed because this node does not lead."""
        self._replicator = replicator
        self._machine = machine
        self._clock = clock
        self._metrics = metrics
        self._call_soon = call_soon
        self._entry_bytes_max = entry_bytes_max
        self._pending_bytes_max = pending_bytes_max
        self._refused = refused
        self._account = account
        self._waiting: deque[Ticket] = deque()
        self._waiting_bytes = self._waiting_commands = 0
        self._in_flight = self._in_flight_bytes = 0
        self._scheduled = False

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket. It fails, definitely not done, when it is too large or too much is waiting already."""
        if ticket.raw is None:
            ticket.raw = encode_commands(ticket.commands)
        size = len(ticket.raw)
        if size > ENTRY_BYTES_MAX:
            ticket.fail(too_large(size))
            return
        if self._waiting_bytes + size > self._pending_bytes_max and self._waiting:
            ticket.fail(self._busy(size))
            return
        self._waiting.append(ticket)
        self._waiting_bytes += size
        self._waiting_commands += len(ticket.commands)
        if not self._scheduled and self._in_flight < FULL_ENTRIES_IN_FLIGHT:
            self._scheduled = True
            self._call_soon(self._flush)

    def _busy(self, size: int) -> BusyError:
        return BusyError(
            f"{self._waiting_bytes} bytes of writes are waiting, and {size} more would be above max_pending_bytes "
            f"({self._pending_bytes_max}); nothing was done, try again"
        )

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting and (
            self._in_flight < ENTRIES_IN_FLIGHT
            or (
                self._full
                and self._in_flight < FULL_ENTRIES_IN_FLIGHT
                and self._in_flight_bytes < self._pending_bytes_max
            )
        ):
            self._propose(self._take())

    @property
    def _full(self) -> bool:
        return self._waiting_commands >= ENTRY_COMMANDS_MAX or self._waiting_bytes >= self._entry_bytes_max

    def _take(self) -> list[Ticket]:
        """As many tickets as one entry may hold, at least one."""
        waiting = self._waiting
        taken: list[Ticket] = []
        commands = size = 0
        while waiting:
            ticket = waiting[0]
            raw_size = len(ticket.raw or b"")
            if taken and (size + raw_size > self._entry_bytes_max or commands >= ENTRY_COMMANDS_MAX):
                break
            taken.append(waiting.popleft())
            size += raw_size
            commands += len(ticket.commands)
        self._waiting_bytes -= size
        self._waiting_commands -= commands
        return taken

    def _propose(self, tickets: list[Ticket]) -> None:
        parts = [header(self._clock.wall_ms())]
        commands: list[list[list[bytes]]] = []
        owners: list[list[Ticket]] = []
        run: list[Ticket] = []
        for ticket in tickets:
            if ticket.group is None:
                if run and run[0].database != ticket.database:
                    _close(run, parts, commands, owners)
                    run = []
                run.append(ticket)
                continue
            if run:
                _close(run, parts, commands, owners)
                run = []
            parts.append(encode_group(ticket.group))
            commands.append(ticket.commands)
            owners.append([ticket])
        if run:
            _close(run, parts, commands, owners)
        entry = b"".join(parts)
        self._machine.prepare(entry, commands)
        self._metrics.observe_batch(sum(map(len, commands)), len(entry))
        self._in_flight += 1
        self._in_flight_bytes += len(entry)
        self._replicator.propose(entry, _Answer(self, owners, entry, self._account.monotonic()))

    def applied(
        self, owners: list[list[Ticket]], entry: bytes, started: float, results: Any, error: RaftKVError | None
    ) -> None:
        """The outcome of ``entry`` arrived: answer everybody in order, then go on with what waited."""
        self._machine.forget(entry)
        self._in_flight -= 1
        self._in_flight_bytes -= len(entry)
        if error is None:
            for tickets, result in zip(owners, results, strict=True):
                _answer(tickets, result)
                if tickets[0].group is None:
                    self._account.tickets(tickets, started)
        else:
            tickets = [ticket for group in owners for ticket in group]
            if error.definite and error.code == "CLUSTERDOWN":
                self._refused(tickets)
            else:
                for ticket in tickets:
                    ticket.fail(error)
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def take_back(self) -> list[Ticket]:
        """All tickets that were not proposed yet: this node does not lead any more."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = self._waiting_commands = 0
        return waiting


class _Answer:
    """The callback of one entry (an object with slots is cheaper than a closure)."""

    __slots__ = ("_entry", "_owners", "_proposer", "_started")

    def __init__(self, proposer: Proposer, owners: list[list[Ticket]], entry: bytes, started: float) -> None:
        self._proposer = proposer
        self._owners = owners
        self._entry = entry
        self._started = started

    def __call__(self, results: object, error: RaftKVError | None) -> None:
        self._proposer.applied(self._owners, self._entry, self._started, results, error)


def _close(
    run: list[Ticket], parts: list[bytes], commands: list[list[list[bytes]]], owners: list[list[Ticket]]
) -> None:
    """One PLAIN group of adjacent tickets on the same database."""
    together: list[list[bytes]] = []
    chunks: list[bytes] = []
    for ticket in run:
        together += ticket.commands
        chunks.append(ticket.raw or b"")
    parts += plain(run[0].database, len(together), chunks)
    commands.append(together)
    owners.append(run)


def _answer(tickets: list[Ticket], result: Any) -> None:
    if tickets[0].group is not None:
        tickets[0].answer((result,))
        return
    at = 0
    for ticket in tickets:
        count = len(ticket.commands)
        ticket.answer(result[at : at + count])
        at += count


def too_large(size: int) -> RaftKVError:
    """The refusal of commands that no member could send to another."""
    return RaftKVError(f"commands of {size} bytes, {ENTRY_BYTES_MAX} are the most for one log entry; send less at once")


def tick_group() -> Group:
    """An entry that only lets time pass."""
    return Group(TICK, 0, 0, b"")


def digest_group(index: int, digest: int) -> Group:
    """The leader's audit of the state after ``index``."""
    return Group(DIGEST, 0, 0, b"", numbers=(index, digest))
