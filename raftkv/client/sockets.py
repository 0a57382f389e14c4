"""Blocking I/O: a connection, and the bounded pool that threads share."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from dataclasses import replace
from typing import Any, Final

from raftkv.client.errors import ClosedError, ConnectionLostError, NoAnswerError
from raftkv.client.policy import Exchange, Outcome, Policy
from raftkv.client.pool import Slots, Turn
from raftkv.errors import BusyError, NoLeaderError, ProtocolError, RaftKVError
from raftkv.protocol.decoder import Push, ReplyParser

READ_BYTES: Final = 256 * 1024


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[ipv6]:port``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def excused(outcome: Outcome, given_s: float, timeout_s: float) -> Outcome:
    """A node that was given less than half of its time, because the deadline came, is not to blame for its silence."""
    if isinstance(outcome.error, NoAnswerError) and given_s < timeout_s / 2:
        return replace(outcome, error=ConnectionLostError(outcome.error.message))
    return outcome


class Connection:
    """One socket to one node. Any failure leaves it useless: a late reply would answer the wrong question."""

    def __init__(self, address: str, until: float) -> None:
        try:
            self._socket = socket.create_connection(split_address(address), max(0.001, until - time.monotonic()))
        except (OSError, UnicodeError) as error:
            raise ConnectionLostError(f"cannot connect to {address}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = ReplyParser()
        self._address = address

    def exchange(self, payload: bytes, count: int, until: float) -> Outcome:
        """Send ``payload``, read ``count`` replies before ``until`` (monotonic seconds)."""
        replies: list[Any] = []
        try:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            self._socket.sendall(payload)
            while len(replies) < count:
                self._socket.settimeout(max(0.001, until - time.monotonic()))
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("closed by the server")
                replies += [reply for reply in self._parser.feed(data) if not isinstance(reply, Push)]
            if len(replies) > count:
                raise ProtocolError("more replies than requests")
        except TimeoutError:
            return Outcome(replies[:count], NoAnswerError(f"{self._address}: no answer in time"))
        except (OSError, ProtocolError) as error:
            return Outcome(replies[:count], ConnectionLostError(f"{self._address}: {error}"))
        return Outcome(replies)

    def stale(self) -> bool:
        """Whether an idle connection has something to read: an end of file, or a reply that nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Give up the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()


class Pool:
    """Carries out exchanges for any number of threads over a bounded number of connections."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._slots: Slots[Connection] = Slots(policy.options.max_connections)
        self._lock = threading.Lock()
        self._closed = False

    def perform(self, effect: Exchange) -> Outcome:
        """Carry out one exchange; errors of the network are part of the outcome. Raises ClosedError."""
        deadline = time.monotonic() + effect.wait_s
        if effect.connection is not None:
            held: Connection = effect.connection
            return held.exchange(effect.payload, effect.replies, min(deadline, time.monotonic() + effect.timeout_s))
        try:
            idle = self._grant(effect.address, deadline)
            begun = time.monotonic()
            until = min(deadline, begun + effect.timeout_s)
            connection = idle or self._open(effect.address, until)
        except ClosedError:
            raise
        except RaftKVError as error:
            return Outcome((), error, sent=False)
        reusable = hold = False
        try:
            outcome = connection.exchange(effect.payload, effect.replies, until)
            outcome = excused(outcome, until - begun, effect.timeout_s)
            reusable = outcome.error is None
            hold = effect.hold and reusable and not any(isinstance(reply, RaftKVError) for reply in outcome.replies)
        finally:
            if not hold:
                self.release(effect.address, connection, reusable=reusable)
        return replace(outcome, connection=connection) if hold else outcome

    def release(self, address: str, connection: Connection, *, reusable: bool) -> None:
        """Give a connection back."""
        with self._lock:
            if reusable and not self._closed:
                self._slots.give(address, connection)
            else:
                connection.close()
                self._slots.drop()

    def close(self) -> None:
        """Close what is idle; what is busy is closed when its exchange ends."""
        with self._lock:
            self._closed = True
            for connection in self._slots.drain():
                connection.close()

    def _grant(self, address: str, deadline: float) -> Connection | None:
        """A place in the pool: an idle connection, or None for a new one."""
        while True:
            woken = threading.Event()
            with self._lock:
                turn = None if self._closed else self._slots.enter(address, woken.set)
            if turn is not None and turn.grant is None:
                self._wait(turn, woken, deadline)
            if turn is None or turn.grant is None:
                raise ClosedError("the client was closed")
            grant = turn.grant
            if grant.evict is not None:
                grant.evict.close()
            if grant.idle is None or not grant.idle.stale():
                return grant.idle
            self.release(address, grant.idle, reusable=False)

    def _wait(self, turn: Turn[Connection], woken: threading.Event, deadline: float) -> None:
        try:
            if woken.wait(max(0.0, deadline - time.monotonic())):
                return
            error: BaseException = BusyError(f"all {self._policy.options.max_connections} connections are in use")
        except BaseException as interrupt:  # noqa: BLE001 -- raised again below, when the place has been given up
            error = interrupt
        with self._lock:
            evicted = self._slots.leave(turn)
        if evicted is not None:
            evicted.close()
        raise error

    def _open(self, address: str, until: float) -> Connection:
        connection: Connection | None = None
        try:
            connection = Connection(address, until)
            greeting = connection.exchange(*self._policy.hello(), until)
            if greeting.error is not None:
                raise greeting.error
            if not self._policy.greeted(address, greeting.replies):
                raise NoLeaderError(f"{address} does not lead")
        except BaseException:
            if connection is not None:
                connection.close()
            with self._lock:
                self._slots.drop()
            raise
        return connection
