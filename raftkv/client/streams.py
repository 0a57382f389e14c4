"""asyncio I/O: the same connection and pool as :mod:`raftkv.client.sockets`, for any number of tasks."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from raftkv.client.errors import ClosedError, ConnectionLostError, NoAnswerError
from raftkv.client.policy import Exchange, Outcome, Policy
from raftkv.client.pool import Slots, Turn
from raftkv.client.sockets import READ_BYTES, excused, split_address
from raftkv.errors import BusyError, NoLeaderError, ProtocolError, RaftKVError
from raftkv.protocol.decoder import Push, ReplyParser


class Connection:
    """One stream to one node. Any failure leaves it useless: a late reply would answer the wrong question."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = ReplyParser()
        self._address = address

    @classmethod
    async def open(cls, address: str, until: float) -> Connection:
        """Connect before ``until`` (loop time). Raises ConnectionLostError."""
        host, port = split_address(address)
        try:
            async with asyncio.timeout_at(until):
                return cls(address, *await asyncio.open_connection(host, port))
        except (OSError, UnicodeError) as error:
            raise ConnectionLostError(f"cannot connect to {address}: {error or 'no answer in time'}") from error

    async def exchange(self, payload: bytes, count: int, until: float) -> Outcome:
        """Send ``payload``, read ``count`` replies before ``until`` (loop time)."""
        replies: list[Any] = []
        try:
            async with asyncio.timeout_at(until):
                self._writer.write(payload)
                await self._writer.drain()
                while len(replies) < count:
                    data = await self._reader.read(READ_BYTES)
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
        """Whether the server has closed an idle connection."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        """Give up the stream."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the socket with it
            self._writer.close()


class Pool:
    """Carries out exchanges for any number of tasks of one event loop over a bounded number of connections."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._slots: Slots[Connection] = Slots(policy.options.max_connections)
        self._closed = False

    async def perform(self, effect: Exchange) -> Outcome:
        """Carry out one exchange; errors of the network are part of the outcome. Raises ClosedError."""
        now = asyncio.get_running_loop().time
        deadline = now() + effect.wait_s
        if effect.connection is not None:
            held: Connection = effect.connection
            return await held.exchange(effect.payload, effect.replies, min(deadline, now() + effect.timeout_s))
        try:
            idle = await self._grant(effect.address, deadline)
            begun = now()
            until = min(deadline, begun + effect.timeout_s)
            connection = idle or await self._open(effect.address, until)
        except ClosedError:
            raise
        except RaftKVError as error:
            return Outcome((), error, sent=False)
        reusable = hold = False
        try:
            outcome = await connection.exchange(effect.payload, effect.replies, until)
            outcome = excused(outcome, until - begun, effect.timeout_s)
            reusable = outcome.error is None
            hold = effect.hold and reusable and not any(isinstance(reply, RaftKVError) for reply in outcome.replies)
        finally:
            if not hold:
                self.release(effect.address, connection, reusable=reusable)
        return replace(outcome, connection=connection) if hold else outcome

    def release(self, address: str, connection: Connection, *, reusable: bool) -> None:
        """Give a connection back."""
        if reusable and not self._closed:
            self._slots.give(address, connection)
        else:
            connection.close()
            self._slots.drop()

    def close(self) -> None:
        """Close what is idle; what is busy is closed when its exchange ends."""
        self._closed = True
        for connection in self._slots.drain():
            connection.close()

    async def _grant(self, address: str, deadline: float) -> Connection | None:
        """A place in the pool: an idle connection, or None for a new one."""
        while True:
            turn = None if self._closed else await self._turn(address, deadline)
            if turn is None or turn.grant is None:
                raise ClosedError("the client was closed")
            grant = turn.grant
            if grant.evict is not None:
                grant.evict.close()
            if grant.idle is None or not grant.idle.stale():
                return grant.idle
            self.release(address, grant.idle, reusable=False)

    async def _turn(self, address: str, deadline: float) -> Turn[Connection]:
        woken = asyncio.Event()
        turn = self._slots.enter(address, woken.set)
        if turn.grant is not None:
            return turn
        try:
            async with asyncio.timeout_at(deadline):
                await woken.wait()
        except (TimeoutError, asyncio.CancelledError) as error:
            evicted = self._slots.leave(turn)
            if evicted is not None:
                evicted.close()
            if isinstance(error, TimeoutError):
                raise BusyError(f"all {self._policy.options.max_connections} connections are in use") from None
            raise
        return turn

    async def _open(self, address: str, until: float) -> Connection:
        connection: Connection | None = None
        try:
            connection = await Connection.open(address, until)
            greeting = await connection.exchange(*self._policy.hello(), until)
            if greeting.error is not None:
                raise greeting.error
            if not self._policy.greeted(address, greeting.replies):
                raise NoLeaderError(f"{address} does not lead")
        except BaseException:
            if connection is not None:
                connection.close()
            self._slots.drop()
            raise
        return connection
