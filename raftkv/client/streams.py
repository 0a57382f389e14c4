"""asyncio I/O: the same connection and pool as :mod:`raftkv.client.sockets`, for any number of tasks."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from raftkv.client.errors import ClosedError, ConnectionLostError, NoAnswerError
from raftkv.client.policy import Exchange, Outcome, Policy
from raftkv.client.pool import Slots
from raftkv.client.sockets import READ_BYTES, split_address
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
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    async def perform(self, effect: Exchange) -> Outcome:
        """Carry out one exchange; errors of the network are part of the outcome. Raises ClosedError."""
        until = asyncio.get_running_loop().time() + effect.timeout_s
        if effect.connection is not None:
            held: Connection = effect.connection
            return await held.exchange(effect.payload, effect.replies, until)
        try:
            connection = await self._connect(effect.address, until)
        except ClosedError:
            raise
        except RaftKVError as error:
            return Outcome((), error, sent=False)
        reusable = hold = False
        try:
            outcome = await connection.exchange(effect.payload, effect.replies, until)
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
        self._wake()

    def close(self) -> None:
        """Close what is idle; what is busy is closed when its exchange ends."""
        self._closed = True
        for connection in self._slots.drain():
            connection.close()
        self._wake()

    def _wake(self) -> None:
        """Let all that wait look again. (A task that is woken alone may be cancelled, and the place be lost.)"""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _grant(self, address: str, until: float) -> Connection | None:
        """A place in the pool: an idle connection, or None for a new one."""
        while True:
            if self._closed:
                raise ClosedError("the client was closed")
            grant = self._slots.take(address)
            if grant is not None:
                if grant.evict is not None:
                    grant.evict.close()
                return grant.idle
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                async with asyncio.timeout_at(until):
                    await future
            except TimeoutError:
                raise BusyError(f"all {self._policy.options.max_connections} connections are in use") from None
            finally:
                self._waiting.discard(future)

    async def _connect(self, address: str, until: float) -> Connection:
        while (idle := await self._grant(address, until)) is not None:
            if not idle.stale():
                return idle
            self.release(address, idle, reusable=False)
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
            self._wake()
            raise
        return connection
