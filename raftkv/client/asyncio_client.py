"""The asyncio client. One object serves any number of tasks of one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from raftkv.client.base import Batch, ClientOptions, make_policy, result_of, single
from raftkv.client.commands import T
from raftkv.client.errors import ConnectionLostError, WatchError
from raftkv.client.policy import Effect, Exchange, Kind, Options, Outcome, Policy, Request
from raftkv.client.streams import Connection, Pool
from raftkv.client.twins import AsyncCommands, PipelineCommands
from raftkv.client.words import Shape, Word, to_bytes
from raftkv.errors import CommandError, NoLeaderError

R = TypeVar("R")


class AsyncRaftKV(AsyncCommands[T]):
    """A client of a raftkv cluster: ``RaftKV(["127.0.0.1:7379"])``.

    Every method raises a subclass of :class:`raftkv.errors.RaftKVError`, whose ``definite`` says whether the
    operation certainly did not happen. Writes happen exactly once however often they had to be sent. Keys and values
    are ``bytes``, or ``str`` with ``decode_responses=True``. Use it as a context manager, or :meth:`close` it.
    """

    @overload
    def __init__(
        self: AsyncRaftKV[bytes],
        nodes: Sequence[str],
        *,
        decode_responses: Literal[False] = False,
        **options: Unpack[ClientOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: AsyncRaftKV[str],
        nodes: Sequence[str],
        *,
        decode_responses: Literal[True],
        **options: Unpack[ClientOptions],
    ) -> None: ...

    def __init__(
        self, nodes: Sequence[str], *, decode_responses: bool = False, **options: Unpack[ClientOptions]
    ) -> None:
        """Connects at the first command. ``options``: see :class:`raftkv.client.policy.Options`."""
        self._policy = make_policy(Options(tuple(nodes), **options))
        self._pool = Pool(self._policy)
        self._decode = decode_responses

    async def execute(self, *words: Word) -> Any:
        """Any command, as words; the reply as the protocol has it."""
        return await self._call(*words)

    def pipeline(self, *, transaction: bool = False) -> AsyncPipeline[T]:
        """Commands that are sent together by ``execute()``; with ``transaction`` they are applied as one (MULTI)."""
        return AsyncPipeline(Batch(transaction=transaction, decode=self._decode), self._run)

    def watch(self, *keys: Word) -> AsyncTransaction[T]:
        """Start an optimistic transaction: WATCH ``keys``, read, then commit unless one of them has changed.

        ``async with client.watch("stock") as tx: await tx.get("stock"); await tx.multi().decr("stock").execute()``
        """
        return AsyncTransaction(self._policy, self._pool, keys, decode=self._decode)

    async def transaction(self, body: Callable[[AsyncTransaction[T]], Awaitable[R]], *keys: Word) -> R:
        """Call ``body`` with a transaction that watches ``keys``, again for as long as it certainly did not happen.

        Returns what ``body`` returns. Raises WatchError when the deadline passes first.
        """
        until = time.monotonic() + self._policy.options.deadline_s
        while True:
            try:
                async with self.watch(*keys) as transaction:
                    return await body(transaction)
            except (WatchError, ConnectionLostError, NoLeaderError):
                if time.monotonic() >= until:
                    raise

    async def scan_iter(
        self, match: Word | None = None, count: int | None = None, type_: str | None = None
    ) -> AsyncIterator[T]:
        """All keys, fetched batch by batch; a key that is there throughout comes at least once."""
        cursor = 0
        while True:
            cursor, keys = await self.scan(cursor, match=match, count=count, type_=type_)
            for key in keys:
                yield key
            if cursor == 0:
                return

    async def token(self) -> int:
        """A token for :meth:`read_after`, of any client: it covers all that was acknowledged before."""
        return int(await self._call("RAFT.TOKEN"))

    def read_after(self, token: int) -> None:
        """From now on reads of this client (with ``reads="token"``) see what ``token`` covers,
        whatever node answers.
        """
        self._policy.read_after(token)

    async def close(self) -> None:
        """Close all connections. Other tasks' operations end with ClosedError."""
        self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        request = single(words)
        await self._run([request])
        return result_of(request, shape, decode=self._decode)

    async def _run(self, requests: Sequence[Request]) -> None:
        await drive(self._policy.run(requests), self._pool)


async def drive(flow: Generator[Effect, Outcome, R], pool: Pool) -> R:
    """Do what the policy asks for, until it is through."""
    try:
        effect = next(flow)
        while True:
            if isinstance(effect, Exchange):
                outcome = await pool.perform(effect)
            else:
                await asyncio.sleep(effect.seconds)
                outcome = Outcome()
            effect = flow.send(outcome)
    except StopIteration as stop:
        result: R = stop.value
        return result
    finally:
        flow.close()


class AsyncPipeline(PipelineCommands[T]):
    """Queues commands; :meth:`execute` sends them and returns their results. Methods return the pipeline itself.

    Left as a context manager it forgets what was not executed.
    """

    def __init__(self, batch: Batch, run: Callable[[Sequence[Request]], Awaitable[None]]) -> None:
        self._batch = batch
        self._run = run

    def add(self, *words: Word) -> Self:
        """Queue any command, as words."""
        self._batch.add(words, None)
        return self

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Send what is queued; one result a command. Raises the first error, or leaves errors among the results."""
        requests = self._batch.requests()
        await self._run(requests)
        return self._batch.results(requests, raise_on_error=raise_on_error)

    def __len__(self) -> int:
        return len(self._batch.queued)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._batch.queued.clear()

    def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        self._batch.add(words, shape)
        return self


class AsyncTransaction(AsyncCommands[T]):
    """Watched keys on a connection of its own. Reads are answered at once; writes go through :meth:`multi`.

    Not repeated by itself: another connection would not have the watches. See :meth:`AsyncRaftKV.transaction`.
    """

    def __init__(self, policy: Policy, pool: Pool, keys: Sequence[Word], *, decode: bool) -> None:
        self._policy = policy
        self._pool = pool
        self._keys = [to_bytes(key) for key in keys]
        self._decode = decode
        self._address = ""
        self._connection: Connection | None = None
        self._clean = False

    def multi(self) -> AsyncPipeline[T]:
        """The writes: its ``execute()`` applies all of them, or raises WatchError and applies none."""
        return AsyncPipeline(Batch(transaction=True, decode=self._decode), self._commit)

    async def __aenter__(self) -> Self:
        request = Request([[b"WATCH", *self._keys]], Kind.READ)
        self._address, self._connection = await drive(self._policy.watch(request), self._pool)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._pool.release(self._address, self._connection, reusable=self._clean)
            self._connection = None

    async def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        request = single(words)
        if request.kind is not Kind.READ:
            raise CommandError("only reads are answered inside a watched transaction; write with multi()")
        await self._converse(request)
        return result_of(request, shape, decode=self._decode)

    async def _commit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._clean = await self._converse(request)

    async def _converse(self, request: Request) -> bool:
        if self._connection is None:
            raise CommandError("use the transaction inside its with block")
        return await drive(self._policy.converse(request, self._address, self._connection), self._pool)
