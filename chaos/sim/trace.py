"""What happened in a run: kept and hashed as values, and written out only when somebody wants to read it."""

from __future__ import annotations

import hashlib
import marshal
from collections import deque
from collections.abc import Callable
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from raftkv.consensus.messages import AppendEntries, Message, SnapshotAck, SnapshotChunk

EVENTS_MAX: Final = 100_000
"""The newest events, from which lines can be made."""
HASHED_TOGETHER: Final = 256
MARSHAL_VERSION: Final = 2
"""The last one whose bytes depend on the values alone: later ones also tell which objects are the same."""


class Trace:
    """A note is (time, where, kind, text), a delivered message (time, source, target, message)."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str, str, Any]] = deque(maxlen=EVENTS_MAX)
        self._unhashed: list[bytes] = []
        self._hash = hashlib.blake2b(digest_size=16)
        self._values: dict[type[Any], Callable[[Any], Any]] = {}

    def note(self, now_s: float, kind: str, where: str, text: str) -> None:
        """Something that is no message."""
        self._events.append((now_s, where, kind, text))
        self._unhashed.append(marshal.dumps((now_s, where, kind, text), MARSHAL_VERSION))

    def message(self, now_s: float, source: str, target: str, message: Message) -> None:
        """A message that is being delivered."""
        self._events.append((now_s, source, target, message))
        kind = type(message)
        values = self._values.get(kind)
        if values is None:
            values = self._values[kind] = _values_of(kind)
        event = (now_s, source, target, kind.__name__, values(message))
        self._unhashed.append(marshal.dumps(event, MARSHAL_VERSION))
        if len(self._unhashed) >= HASHED_TOGETHER:
            self._hash.update(b"".join(self._unhashed))
            self._unhashed.clear()

    def digest(self) -> str:
        """32 hex digits that stand for everything so far: the same for the same run, in any process."""
        self._hash.update(b"".join(self._unhashed))
        self._unhashed.clear()
        return self._hash.hexdigest()

    def lines(self, count: int) -> list[str]:
        """The newest events, readable."""
        return [line(*event) for event in islice(self._events, max(0, len(self._events) - count), None)]

    def forget(self) -> None:
        """Let go of the events."""
        self._events.clear()


def _values_of(kind: type[Any]) -> Callable[[Any], Any]:
    """All fields, but not those that depend on the compressor's version."""
    unstable = {SnapshotChunk: ("data", "total_bytes", "seal"), SnapshotAck: ("seal",)}.get(kind, ())
    return attrgetter(*(name for name in kind.__slots__ if name not in unstable))


def line(now_s: float, where: str, kind: str, what: str | Message) -> str:
    """One event, without payloads."""
    if isinstance(what, str):
        return f"{now_s:10.6f} {where:>9} {kind}: {what}"
    return f"{now_s:10.6f} {where} > {kind}  {describe(what)}"


def describe(message: Message) -> str:
    """One line, without payloads and without what depends on the compressor's version."""
    if type(message) is AppendEntries:
        m = message
        return f"append t{m.term} #{m.sequence} after {m.prev_index}/t{m.prev_term} +{len(m.entries)} commit {m.commit}"
    if type(message) is SnapshotChunk:
        return f"snapshot t{message.term} {message.index}/t{message.last_term} at {message.offset}"
    if type(message) is SnapshotAck:
        verdict = "installed" if message.installed else "damaged" if message.damaged else "here"
        return f"snapshot t{message.term} {message.index} to {message.offset} {verdict}"
    return repr(message)
