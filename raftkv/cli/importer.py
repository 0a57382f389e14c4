"""What a file of Redis holds, into a cluster. How such files are read is in :mod:`raftkv.offline.importing`.

A file is read twice: once to its end, so that damage, or something that raftkv has not, is found before anything is
sent; and once to be sent. Keys go as commands that replace what was there, so an import of keys can be repeated.
Commands of an append-only file cannot: they are only sent to an empty cluster.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from raftkv.client import RaftKV
from raftkv.clock import SystemClock
from raftkv.errors import RaftKVError
from raftkv.offline.aof import Replay
from raftkv.offline.importing import Event, Import
from raftkv.offline.rdb import Skipped
from raftkv.offline.rebuild import Piece, commands

BATCH_COMMANDS: Final = 512
BATCH_BYTES: Final = 1 << 20
FIRST_S: Final = 15.0
"""The first answer may take so long: more than an election, and little for who mistyped the address."""
DEADLINE_S: Final = 120.0
"""A batch may take so long, with elections in between."""
ATTEMPT_S: Final = 20.0
"""One attempt at it: a value of many megabytes on a slow disk takes longer than the client allows by default."""
NAMES_SHOWN: Final = 10
SHOW_S: Final = 0.2


@dataclass(slots=True)
class Counts:
    """What was met in a file."""

    keys: Counter[str] = field(default_factory=Counter)
    """By type."""
    commands: int = 0
    """Of append-only files."""
    expired: int = 0
    """Keys that had expired already; they are not sent."""
    skipped: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    """The first few of what was skipped, by kind."""
    truncated: list[str] = field(default_factory=list)
    _passes: bool = False
    """The key whose pieces come had expired when the first of them came."""

    def take(self, event: Event, now_ms: int) -> bool:
        """Whether it is something to be sent."""
        if isinstance(event, Piece):
            if event.first:  # for all of it: the expiry goes with the last piece, and would be missed on what was sent
                self._passes = event.expire_at_ms is not None and event.expire_at_ms <= now_ms
            if self._passes:
                self.expired += event.last
                return False
            self.keys[event.kind] += event.last
            return True
        if isinstance(event, Replay):
            self.commands += len(event.commands)
            return True
        if isinstance(event, Skipped):
            self.skipped[event.kind] += 1
            shown = self.names.setdefault(event.kind, [])
            if len(shown) < NAMES_SHOWN:
                shown.append(event.name)
        else:
            self.truncated.append(
                f"{event.name} ends in the middle of a write; what follows offset {event.offset} was left out"
            )
        return False


class Sender:
    """Sends batches, one on its way while the next is read."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self._address = address
        self._access: dict[str, Any] = {"password": password, "username": user or None} if password else {}
        self._clients: dict[int, RaftKV[bytes]] = {}
        self._thread = ThreadPoolExecutor(1)
        self._sending: Future[None] | None = None
        self._database = 0
        self._words: list[list[bytes]] = []
        self._bytes = 0
        self.sent = 0
        """Commands that were acknowledged."""

    def is_empty(self) -> bool:
        """Whether no database of the cluster holds a key. Raises RaftKVError."""
        with RaftKV([self._address], deadline_s=FIRST_S, **self._access) as client:
            return not any(line.startswith(b"db") for line in client.execute("INFO", "keyspace").splitlines())

    def add(self, event: Piece | Replay) -> None:
        """Raises RaftKVError when this or an earlier batch failed."""
        if isinstance(event, Replay) and event.atomic:
            self.flush()
            self._database = event.database
            self._submit(event.commands, atomic=True)
            return
        if event.database != self._database or len(self._words) >= BATCH_COMMANDS or self._bytes >= BATCH_BYTES:
            self.flush()
            self._database = event.database
        for words in event.commands if isinstance(event, Replay) else commands(event):
            self._words.append(words)
            self._bytes += sum(map(len, words))

    def flush(self) -> None:
        """Send what was added. It is acknowledged when :meth:`wait` has returned."""
        if self._words:
            self._submit(self._words, atomic=False)
            self._words, self._bytes = [], 0

    def wait(self) -> None:
        """Until all that was submitted is acknowledged. Raises RaftKVError."""
        if self._sending is not None:
            sending, self._sending = self._sending, None
            sending.result()

    def _submit(self, batch: list[list[bytes]], *, atomic: bool) -> None:
        self.wait()
        self._sending = self._thread.submit(self._send, self._client(self._database), batch, atomic=atomic)

    def _send(self, client: RaftKV[bytes], batch: list[list[bytes]], *, atomic: bool) -> None:
        pipeline = client.pipeline(transaction=atomic)
        for words in batch:
            pipeline.add(*words)
        failed: RaftKVError | None = None
        for words, result in zip(batch, pipeline.execute(raise_on_error=False), strict=True):
            if not isinstance(result, RaftKVError):
                self.sent += 1
            elif failed is None:
                shown = " ".join(word[:40].decode(errors="backslashreplace") for word in words[:3])
                failed = RaftKVError(f"{shown}: {result}")
        if failed is not None:
            raise failed

    def _client(self, database: int) -> RaftKV[bytes]:
        if database not in self._clients:
            self._clients[database] = RaftKV(
                [self._address], db=database, deadline_s=DEADLINE_S, attempt_timeout_s=ATTEMPT_S, **self._access
            )
        return self._clients[database]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        self._thread.shutdown()


def run(file: str, to: str, *, user: str, password: str, skip_unsupported: bool) -> dict[str, Any]:
    """Import ``file`` (- is standard input) into the cluster of the node ``to``; what was done.

    Raises RaftKVError (nothing was sent, or it says what is in the cluster and what to do), OSError, ValueError.
    """
    counts, began = Counts(), time.monotonic()
    if file == "-":
        source = Import(stream=sys.stdin.buffer, skip_unsupported=skip_unsupported)
    else:
        source = Import.of(Path(file), skip_unsupported=skip_unsupported)
        for _ in _shown(source, "checking"):
            pass
    with Sender(to, user, password) as sender:
        _send(source, sender, counts)
    return _report(source, counts, sender.sent, time.monotonic() - began)


def _send(source: Import, sender: Sender, counts: Counts) -> None:
    """Raises RaftKVError that says what is in the cluster now, and what to do."""
    was_empty = sender.is_empty()
    if source.replays and not was_empty:
        raise _not_empty(source)
    clock = SystemClock()
    try:
        for event in _shown(source, "sending"):
            if isinstance(event, Replay) and not was_empty:
                raise _not_empty(source)
            if counts.take(event, clock.wall_ms()) and isinstance(event, Piece | Replay):
                sender.add(event)
        sender.flush()
        sender.wait()
    except (RaftKVError, OSError) as error:
        said = error.message if isinstance(error, RaftKVError) else str(error)
        raise RaftKVError(f"{said}\n{_what_to_do(source, sender.sent)}") from error


def _not_empty(source: Import) -> RaftKVError:
    name = source.paths[-1] if source.paths else "standard input"
    return RaftKVError(
        f"{name} holds commands (an append-only file), which give the right result on an empty cluster only, and there are "
        "keys; empty it with FLUSHALL, or have Redis write an RDB file (SAVE) and import that"
    )


def _what_to_do(source: Import, sent: int) -> str:
    if not sent:
        return "Nothing was acknowledged; mend the cause and run the same command again."
    if source.replays:
        return (
            f"{sent:,} commands were acknowledged. Mend the cause, empty it (FLUSHALL), and run the same command again."
        )
    return f"{sent:,} commands were acknowledged. Mend the cause and run the same command again: keys are replaced, not doubled."


def _shown(source: Import, what: str) -> Iterator[Event]:
    """The events, with a line on the terminal that is written over."""
    began = shown = time.monotonic()
    terminal = sys.stderr.isatty()
    for event in source:
        yield event
        if terminal and (now := time.monotonic()) - shown >= SHOW_S:
            shown = now
            rate = source.read_bytes / (now - began)
            share = (
                f"{source.read_bytes / source.total_bytes:4.0%}"
                if source.total_bytes
                else f"{source.read_bytes:,} bytes"
            )
            left = (
                f", {(source.total_bytes - source.read_bytes) / rate:.0f} s left" if source.total_bytes and rate else ""
            )
            print(f"\r{what} {share}, {rate / 1e6:.1f} MB/s{left}   ", end="", file=sys.stderr, flush=True)
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(source: Import, counts: Counts, sent: int, seconds: float) -> dict[str, Any]:
    return {
        "keys": sum(counts.keys.values()),
        "types": dict(sorted(counts.keys.items())),
        "commands": counts.commands,
        "acknowledged": sent,
        "expired": counts.expired,
        "skipped": {kind: {"count": count, "names": counts.names[kind]} for kind, count in counts.skipped.items()},
        "truncated": counts.truncated,
        "redis_version": source.facts.get("redis-ver"),
        "bytes": source.read_bytes,
        "seconds": round(seconds, 3),
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["types"].items())
    lines = [f"imported {report['keys']:,} keys" + (f" ({kinds})" if kinds else "")]
    if report["commands"]:
        lines.append(f"replayed {report['commands']:,} commands")
    if report["expired"]:
        lines.append(f"{report['expired']:,} keys had expired")
    for kind, one in report["skipped"].items():
        more = ", ..." if one["count"] > len(one["names"]) else ""
        lines.append(f"LEFT OUT {one['count']:,} x {kind}: {', '.join(one['names'])}{more}")
    lines += report["truncated"]
    seconds = max(report["seconds"], 1e-3)
    lines.append(
        f"{seconds:.1f} s, {report['bytes'] / seconds / 1e6:.1f} MB/s, {report['acknowledged'] / seconds:,.0f} commands/s"
    )
    return lines
