"""Clients that work on shared registers, counters and lists while somebody breaks the cluster, and note every answer.

Two kinds of client, half of each: redis-py on any node, which goes to the next node when one does not answer and never
repeats a command; and raftkv's own, which repeats writes until they are answered, each exactly once.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.history import Action, Model, Operation, Recorder
from raftkv.client import RaftKV
from raftkv.errors import RaftKVError

WRITERS_PER_REGISTER: Final = 4
"""More would make registers too hard to judge (see the checker's caveat)."""
LIST_VALUES: Final = 150
"""A client goes on to its next list after so many values, so that reading one stays cheap."""
PAUSE_S: Final = 0.004
"""Between two operations of a client: the load shall leave the machine room to elect leaders."""
REDIS_TIMEOUT_S: Final = 3.0
DEADLINE_S: Final = 30.0
"""Of raftkv's own client for one operation, all its repetitions included."""

_REFUSALS: Final = ("CLUSTERDOWN", "TRYAGAIN", "MOVED", "LOADING", "NOSPACE")
_DOUBTS: Final = ("UNKNOWN", "MISCONF")


class RefusedError(Exception):
    """The operation certainly did not happen."""


class DoubtError(Exception):
    """Nobody knows whether the operation happened."""


class Client(Protocol):
    """One command at a time; errors are RefusedError and DoubtError, anything else is a finding."""

    def call(self, *words: str) -> Any: ...
    def close(self) -> None: ...


class PlainClient:
    """redis-py on one node after the other."""

    def __init__(self, addresses: Sequence[str], first: int, stopped: threading.Event) -> None:
        self._nodes = itertools.cycle([*addresses[first:], *addresses[:first]])
        self._stopped = stopped
        self._redis: redis.Redis | None = None

    def connect(self) -> redis.Redis:
        """A connection that answered a PING, so that what fails afterwards was sent."""
        while self._redis is None:
            host, _, port = next(self._nodes).rpartition(":")
            found = redis.Redis(
                host=host, port=int(port), socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=1.0,
                retry=Retry(NoBackoff(), 0), single_connection_client=False,
            )  # fmt: skip
            try:
                found.ping()
            except (redis.exceptions.RedisError, OSError) as error:
                found.close()
                if self._stopped.wait(0.02):
                    raise RefusedError("stopped") from error
            else:
                self._redis = found
        return self._redis

    def call(self, *words: str) -> Any:
        """Send it once."""
        connection = self.connect()
        try:
            return connection.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py's own
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            self.close()
            raise DoubtError(repr(error)) from error
        except redis.exceptions.ClusterDownError as error:  # it knows no leader, or is no member any more
            self.close()
            raise RefusedError(repr(error)) from error
        except redis.exceptions.TryAgainError as error:
            raise RefusedError(repr(error)) from error
        except redis.exceptions.ResponseError as error:
            code = str(error).partition(" ")[0]
            if code == "MISCONF":  # it has stopped, and answers nothing else any more
                self.close()
            if code in _DOUBTS:
                raise DoubtError(str(error)) from error
            if code in _REFUSALS:
                raise RefusedError(str(error)) from error
            raise

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()
            self._redis = None


class OwnClient:
    """raftkv's client: a connection of its own to the leader, one session."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._client = RaftKV(addresses, deadline_s=DEADLINE_S, max_connections=1)

    def call(self, *words: str) -> Any:
        try:
            return self._client.execute(*words)
        except RaftKVError as error:
            if not error.definite:
                raise DoubtError(repr(error)) from error
            if error.code in {*_REFUSALS, "CONNECTION"}:
                raise RefusedError(repr(error)) from error
            raise

    def close(self) -> None:
        self._client.close()


@dataclass(slots=True)
class _Worker:
    """One client and its place in the shared data."""

    number: int
    client: Client
    rng: Random
    pushed: int = 0
    written: int = 0

    @property
    def list_key(self) -> str:
        return f"list:{self.number % 4}:{self.pushed // LIST_VALUES}"

    @property
    def counter_key(self) -> str:
        return f"counter:{self.number % 5}"

    def register_key(self, clients: int) -> str:
        return f"register:{self.number % max(1, clients // WRITERS_PER_REGISTER)}"


@dataclass(slots=True)
class Load:
    """Runs between :meth:`start` and :meth:`stop`; :meth:`read_all` then adds a last look at every key."""

    addresses: Sequence[str]
    clients: int = 20
    seed: int = 1
    path: Path | None = None
    """Where the history goes as JSON lines, if anywhere."""
    pause_s: float = PAUSE_S
    recorder: Recorder = field(init=False)
    findings: list[str] = field(init=False, default_factory=list)
    """Errors that no client should ever see."""
    acknowledged: int = field(init=False, default=0)
    """Writes; a lower bound while the load runs."""
    _stopped: threading.Event = field(init=False, default_factory=threading.Event)
    _threads: list[threading.Thread] = field(init=False, default_factory=list)
    _workers: list[_Worker] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.path)

    # ------------------------------------------------------------ life
    def start(self) -> Load:
        """Even numbers are redis-py, odd ones raftkv's own client."""
        for number in range(self.clients):
            client: Client = (
                OwnClient(self.addresses)
                if number % 2
                else PlainClient(self.addresses, number // 2 % len(self.addresses), self._stopped)
            )
            worker = _Worker(number, client, Random(self.seed * 1000 + number))  # noqa: S311 -- reproducible, no secret
            self._workers.append(worker)
            self._threads.append(threading.Thread(target=self._work, args=(worker,), name=f"client {number}"))
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End every client after the operation that it is at. Raises TimeoutError when one does not end."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(DEADLINE_S + REDIS_TIMEOUT_S)
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} does not end")
        self._threads.clear()

    def close(self) -> None:
        """Stop, and close the history's file."""
        if self._threads:
            self.stop()
        self.recorder.close()

    def now(self) -> float:
        """Seconds on the history's clock."""
        return self.recorder.now()

    def wait_acknowledged(self, more: int, within_s: float = 30.0) -> None:
        """Until so many more writes were acknowledged. Raises TimeoutError."""
        target, deadline = self.acknowledged + more, time.monotonic() + within_s
        while self.acknowledged < target:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{more} more writes were not acknowledged within {within_s:g} s")
            time.sleep(0.005)

    # ------------------------------------------------------------ work
    def _work(self, worker: _Worker) -> None:
        try:
            while not self._stopped.wait(self.pause_s * worker.rng.uniform(0.5, 1.5)):
                self._one(worker)
        finally:
            worker.client.close()

    def _one(self, worker: _Worker) -> None:
        client, die = worker.client, worker.rng.random()
        if isinstance(client, PlainClient):
            try:
                client.connect()  # before the operation begins: a node that is down refuses nothing of the history
            except RefusedError:
                return
        if die < 0.35:
            worker.pushed += 1
            value = f"{worker.number}.{worker.pushed}"
            self._do(worker, "list", "append", worker.list_key, value, ("RPUSH", worker.list_key, value), int)
        elif die < 0.65:
            self._do(worker, "counter", "add", worker.counter_key, 1, ("INCR", worker.counter_key), int)
        elif die < 0.98:
            key = worker.register_key(self.clients)
            if die < 0.85:
                worker.written += 1
                value = f"{worker.number}.{worker.written}"
                self._do(worker, "register", "write", key, value, ("SET", key, value), str)
            self._do(worker, "register", "read", key, None, ("GET", key), _text)
        else:
            self._do(worker, "list", "read", worker.list_key, None, ("LRANGE", worker.list_key, "0", "-1"), _texts)

    def _do(
        self, worker: _Worker, model: Model, action: Action, key: str, argument: Any, words: Sequence[str],
        shape: Callable[[Any], Any],
    ) -> None:  # fmt: skip
        call = self.recorder.invoke(worker.number, model, action, key, argument)
        try:
            reply = worker.client.call(*words)
        except RefusedError as error:
            call.fail(error)
        except DoubtError as error:
            call.info(error)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the test must see it and not lose a thread
            call.info(error)
            self.findings.append(f"client {worker.number}, {' '.join(words)}: {error!r}")
        else:
            call.ok(shape(reply))
            if action != "read":
                self.acknowledged += 1

    # ------------------------------------------------------------ afterwards
    def read_all(self, address: str) -> list[Operation]:
        """Read every key of the history once more, from one node, and return the whole history."""
        reader = PlainClient([address], 0, threading.Event())
        last = _Worker(self.clients, reader, Random(self.seed))  # noqa: S311 -- reproducible, no secret
        seen = {(one.model, one.key): None for one in self.recorder.operations()}
        commands: dict[Model, tuple[Callable[[str], Sequence[str]], Callable[[Any], Any]]] = {
            "register": (lambda key: ("GET", key), _text),
            "counter": (lambda key: ("GET", key), lambda reply: int(reply or 0)),
            "list": (lambda key: ("LRANGE", key, "0", "-1"), _texts),
        }
        for model, key in sorted(seen):
            words, shape = commands[model]
            self._do(last, model, "read", key, None, words(key), shape)
        reader.close()
        return self.recorder.operations()


def _text(reply: Any) -> str | None:
    return None if reply is None else str(reply, "utf-8") if isinstance(reply, bytes) else str(reply)


def _texts(reply: Any) -> list[str | None]:
    return [_text(one) for one in reply]


@dataclass(frozen=True, slots=True)
class Tally:
    """What a history says about one kind of client or about all."""

    acknowledged: int
    refused: int
    unknown: int

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> Tally:
        """Counts writes."""
        writes = [one.outcome for one in operations if one.action != "read"]
        return cls(writes.count("ok"), writes.count("fail"), writes.count("info"))


def first_acknowledged_s(operations: Sequence[Operation], since: float) -> float:
    """Seconds from ``since`` to the end of the first acknowledged write that began after it."""
    ends = [
        one.completed for one in operations if one.outcome == "ok" and one.action != "read" and one.invoked >= since
    ]
    return min(ends, default=float("inf")) - since


def longest_gap_s(operations: Sequence[Operation], since: float, until: float) -> float:
    """The longest time between two acknowledged writes, of all clients, between two moments."""
    ends = [one.completed for one in operations if one.outcome == "ok" and one.action != "read"]
    moments = sorted([since, until, *(end for end in ends if since <= end <= until)])
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
