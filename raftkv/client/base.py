"""What the blocking and the asyncio client have in common: options, requests, shapes of replies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, TypedDict

from raftkv.client.kinds import kind_of
from raftkv.client.policy import Kind, Options, Policy, Request
from raftkv.client.words import Shape, Word, shaped, to_words
from raftkv.errors import RaftKVError


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of a client; what they mean is said at :class:`raftkv.client.policy.Options`."""

    deadline_s: float
    attempt_timeout_s: float
    username: str | None
    password: str | None
    db: int
    client_name: str
    max_connections: int
    reads: str


def make_policy(options: Options) -> Policy:
    """A policy on the machine's clock."""
    return Policy(options, time.monotonic, SystemRandom())


def single(words: Sequence[Word]) -> Request:
    """The request for one command."""
    argv = to_words(words)
    return Request([argv], kind_of(argv))


@dataclass(frozen=True, slots=True)
class Queued:
    """One command of a pipeline."""

    request: Request
    shape: Shape | None


class Batch:
    """Commands of a pipeline, and what their requests and results are."""

    def __init__(self, *, transaction: bool, decode: bool) -> None:
        self.queued: list[Queued] = []
        self._transaction = transaction
        self._decode = decode

    def add(self, words: Sequence[Word], shape: Shape | None) -> None:
        """Queue a command."""
        self.queued.append(Queued(single(words), shape))

    def requests(self) -> list[Request]:
        """What to run: each command by itself, or all as one transaction."""
        requests = [one.request for one in self.queued]
        if not self._transaction or not requests:
            return requests
        writes = any(request.kind is not Kind.READ for request in requests)
        argvs = [request.commands[0] for request in requests]
        return [Request(argvs, Kind.WRITE if writes else Kind.READ, atomic=True)]

    def results(self, requests: Sequence[Request], *, raise_on_error: bool) -> list[Any]:
        """One result a command, in order. Raises the first error, unless errors are to be returned as results.

        A transaction that did not run at all raises in any case.
        """
        if self._transaction and requests:
            replies = requests[0].reply
            if isinstance(replies, RaftKVError):
                raise replies
        else:
            replies = [request.reply for request in requests]
        results = [
            shaped(reply, one.shape, decode=self._decode) for reply, one in zip(replies, self.queued, strict=True)
        ]
        self.queued.clear()
        if raise_on_error:
            for result in results:
                if isinstance(result, RaftKVError):
                    raise result
        return results


def result_of(request: Request, shape: Shape | None, *, decode: bool) -> Any:
    """The value of a finished request. Raises its error."""
    result = shaped(request.reply, shape, decode=decode)
    if isinstance(result, RaftKVError):
        raise result
    return result
