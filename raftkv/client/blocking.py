"""The blocking client. One object serves any number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from raftkv.client.base import Batch, ClientOptions, make_policy, result_of, single
from raftkv.client.commands import Commands, T
from raftkv.client.errors import ConnectionLostError, WatchError
from raftkv.client.policy import Effect, Exchange, Kind, Options, Outcome, Policy, Request
from raftkv.client.sockets import Connection, Pool
from raftkv.client.twins import PipelineCommands
from raftkv.client.words import Shape, Word, to_bytes
from raftkv.errors import CommandError, NoLeaderError

R = TypeVar("R")


class RaftKV(Commands[T]):
    """A client of a raftkv cluster: ``RaftKV(["127.0.0.1:7379"])``.

    Every method raises a subclass of :class:`raftkv.errors.RaftKVError`, whose ``definite`` says whether the
    operation certainly did not happen. Writes happen exactly once however often they had to be sent. Keys and values
    are ``bytes``, or ``str`` with ``decode_responses=True``. Use it as a context manager, or :meth:`close` it.
    """

    @overload
    def __init__(
        self: RaftKV[bytes],
        nodes: Sequence[str],
        *,
        decode_responses: Literal[False] = False,
        **options: Unpack[ClientOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: RaftKV[str], nodes: Sequence[str], *, decode_responses: Literal[True], **options: Unpack[ClientOptions]
    ) -> None: ...

    def __init__(
        self, nodes: Sequence[str], *, decode_responses: bool = False, **options: Unpack[ClientOptions]
    ) -> None:
        """Connects at the first command. ``options``: see :class:`raftkv.client.policy.Options`."""
        self._policy = make_policy(Options(tuple(nodes), **options))
        self._pool = Pool(self._policy)
        self._decode = decode_responses

    def execute(self, *words: Word) -> Any:
        """Any command, as words; the reply as the protocol has it."""
        return self._call(*words)

    def pipeline(self, *, transaction: bool = False) -> Pipeline[T]:
        """Commands that are sent together by ``execute()``; with ``transaction`` they are applied as one (MULTI)."""
        return Pipeline(Batch(transaction=transaction, decode=self._decode), self._run)

    def watch(self, *keys: Word) -> Transaction[T]:
        """Start an optimistic transaction: WATCH ``keys``, read, then commit unless one of them has changed.

        ``with client.watch("stock") as tx: left = tx.get("stock"); tx.multi().decr("stock").execute()``
        """
        return Transaction(self._policy, self._pool, keys, decode=self._decode)

    def transaction(self, body: Callable[[Transaction[T]], R], *keys: Word) -> R:
        """Call ``body`` with a transaction that watches ``keys``, again for as long as it certainly did not happen.

        Returns what ``body`` returns. Raises WatchError when the deadline passes first.
        """
        until = time.monotonic() + self._policy.options.deadline_s
        while True:
            try:
                with self.watch(*keys) as transaction:
                    return body(transaction)
            except (WatchError, ConnectionLostError, NoLeaderError):
                if time.monotonic() >= until:
                    raise

    def scan_iter(self, match: Word | None = None, count: int | None = None, type_: str | None = None) -> Iterator[T]:
        """All keys, fetched batch by batch; a key that is there throughout comes at least once."""
        cursor = 0
        while True:
            cursor, keys = self.scan(cursor, match=match, count=count, type_=type_)
            yield from keys
            if cursor == 0:
                return

    def token(self) -> int:
        """A token for :meth:`read_after`, of any client: it covers all that was acknowledged before."""
        return int(self._call("RAFT.TOKEN"))

    def read_after(self, token: int) -> None:
        """From now on reads of this client (with ``reads="token"``) see what ``token`` covers,
        whatever node answers.
        """
        self._policy.read_after(token)

    def close(self) -> None:
        """Close all connections. Other threads' operations end with ClosedError."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        request = single(words)
        self._run([request])
        return result_of(request, shape, decode=self._decode)

    def _run(self, requests: Sequence[Request]) -> None:
        drive(self._policy.run(requests), self._pool)


def drive(flow: Generator[Effect, Outcome, R], pool: Pool) -> R:
    """Do what the policy asks for, until it is through."""
    try:
        effect = next(flow)
        while True:
            if isinstance(effect, Exchange):
                outcome = pool.perform(effect)
            else:
                time.sleep(effect.seconds)
                outcome = Outcome()
            effect = flow.send(outcome)
    except StopIteration as stop:
        result: R = stop.value
        return result
    finally:
        flow.close()


class Pipeline(PipelineCommands[T]):
    """Queues commands; :meth:`execute` sends them and returns their results. Methods return the pipeline itself.

    Left as a context manager it forgets what was not executed.
    """

    def __init__(self, batch: Batch, run: Callable[[Sequence[Request]], None]) -> None:
        self._batch = batch
        self._run = run

    def add(self, *words: Word) -> Self:
        """Queue any command, as words."""
        self._batch.add(words, None)
        return self

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Send what is queued; one result a command. Raises the first error, or leaves errors among the results."""
        requests = self._batch.requests()
        self._run(requests)
        return self._batch.results(requests, raise_on_error=raise_on_error)

    def __len__(self) -> int:
        return len(self._batch.queued)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._batch.queued.clear()

    def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        self._batch.add(words, shape)
        return self


class Transaction(Commands[T]):
    """Watched keys on a connection of its own. Reads are answered at once; writes go through :meth:`multi`.

    Not repeated by itself: another connection would not have the watches. See :meth:`RaftKV.transaction`.
    """

    def __init__(self, policy: Policy, pool: Pool, keys: Sequence[Word], *, decode: bool) -> None:
        self._policy = policy
        self._pool = pool
        self._keys = [to_bytes(key) for key in keys]
        self._decode = decode
        self._address = ""
        self._connection: Connection | None = None
        self._clean = False

    def multi(self) -> Pipeline[T]:
        """The writes: its ``execute()`` applies all of them, or raises WatchError and applies none."""
        return Pipeline(Batch(transaction=True, decode=self._decode), self._commit)

    def __enter__(self) -> Self:
        request = Request([[b"WATCH", *self._keys]], Kind.READ)
        self._address, self._connection = drive(self._policy.watch(request), self._pool)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._pool.release(self._address, self._connection, reusable=self._clean)
            self._connection = None

    def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        request = single(words)
        if request.kind is not Kind.READ:
            raise CommandError("only reads are answered inside a watched transaction; write with multi()")
        self._converse(request)
        return result_of(request, shape, decode=self._decode)

    def _commit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._clean = self._converse(request)

    def _converse(self, request: Request) -> bool:
        if self._connection is None:
            raise CommandError("use the transaction inside its with block")
        return drive(self._policy.converse(request, self._address, self._connection), self._pool)
