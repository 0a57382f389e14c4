"""What clients asked and what they were told, as JSON lines: the evidence that the checker judges.

One line an event, in the order in which it was recorded:

    {"time": 1.25, "process": 3, "type": "invoke", "model": "list", "action": "append", "key": "l1", "value": 17}
    {"time": 1.27, "process": 3, "type": "ok", "model": "list", "action": "append", "key": "l1", "value": 42}

``value`` is the argument in an ``invoke`` and the reply in an ``ok``. As in Jepsen, ``fail`` says that the operation
certainly did not happen and ``info`` that nobody knows; both carry the reason in ``value``. An invocation without an
end (the client died with it) counts as ``info``.

A process is a client that does one thing at a time. ``time`` is in seconds of a clock that never goes back, the same
for all processes of a history.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TextIO, TypeAlias

Model: TypeAlias = Literal["register", "counter", "list"]
Action: TypeAlias = Literal["read", "write", "add", "append"]
"""register: read, write(value). counter: read, add(amount) -> new value. list: read, append(value) -> new length."""
Outcome: TypeAlias = Literal["ok", "fail", "info"]

EVENTS_MAX: Final = 4_000_000
"""Events of one history in memory; recording one more raises OverflowError."""
NEVER: Final = math.inf
"""When an operation of unknown outcome ended: it may take effect at any later time."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation from its invocation to its end."""

    process: int
    model: Model
    action: Action
    key: str
    argument: Any
    """What was written, added or appended; None for a read."""
    outcome: Outcome
    result: Any
    """The reply if ``outcome`` is ok, else the reason as text."""
    invoked: float
    """Seconds."""
    completed: float
    """Seconds; NEVER when the outcome is unknown."""

    def __str__(self) -> str:
        asked = self.action if self.argument is None else f"{self.action} {self.argument!r}"
        end = "..." if self.completed == NEVER else f"{self.completed:.6f}"
        return f"[{self.invoked:.6f} .. {end}] process {self.process}: {asked} -> {self.outcome} {self.result!r}"


class Call:
    """An operation under way. Left as a context manager without a verdict, its outcome is unknown."""

    def __init__(self, recorder: Recorder, fields: dict[str, Any]) -> None:
        self._recorder = recorder
        self._fields = fields
        self._ended = False

    def ok(self, result: Any = None) -> None:
        """It was acknowledged, with this reply."""
        self._end("ok", result)

    def fail(self, reason: object) -> None:
        """It certainly did not happen."""
        self._end("fail", str(reason))

    def info(self, reason: object) -> None:
        """Nobody knows whether it happened, or will."""
        self._end("info", str(reason))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended:
            self.info("no verdict" if error is None else repr(error))

    def _end(self, outcome: Outcome, value: Any) -> None:
        if self._ended:
            raise ValueError(f"the operation has ended already: {self._fields}")
        self._ended = True
        self._recorder.record(outcome, self._fields, value)


class Recorder:
    """Takes down events of many threads. With ``path``, each goes to that file at once as a line."""

    def __init__(self, path: Path | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._started = monotonic()
        self._events: list[dict[str, Any]] = []
        self._file: TextIO | None = None if path is None else path.open("w", encoding="utf-8")

    def now(self) -> float:
        """Seconds since the history began."""
        return self._monotonic() - self._started

    def invoke(self, process: int, model: Model, action: Action, key: str, argument: Any = None) -> Call:
        """Note that ``process`` is about to ask; tell the call what came of it."""
        fields = {"process": process, "model": model, "action": action, "key": key}
        self.record("invoke", fields, argument)
        return Call(self, fields)

    def record(self, kind: Literal["invoke", "ok", "fail", "info"], fields: dict[str, Any], value: Any) -> None:
        """Add an event now. Raises OverflowError when there are EVENTS_MAX."""
        with self._lock:
            if len(self._events) >= EVENTS_MAX:
                raise OverflowError(f"the history holds {EVENTS_MAX} events already")
            event = {"time": self.now(), "type": kind, **fields, "value": value}
            self._events.append(event)
            if self._file is not None:
                self._file.write(json.dumps(event) + "\n")

    def operations(self) -> list[Operation]:
        """What was recorded so far, in the order of invocation."""
        with self._lock:
            events = list(self._events)
        return pair(events)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def load(path: Path) -> list[Operation]:
    """The operations of a history on disk. Raises ValueError when it is none."""
    with path.open(encoding="utf-8") as lines:
        return pair(json.loads(line) for line in lines)


def pair(events: Iterable[dict[str, Any]]) -> list[Operation]:
    """Operations from events, in the order of invocation.

    Raises ValueError when a process asks twice at once, or something ends that was not begun.
    """
    operations: list[Operation | None] = []
    begun: dict[int, tuple[int, dict[str, Any]]] = {}
    for event in events:
        process = event["process"]
        if event["type"] == "invoke":
            if process in begun:
                raise ValueError(f"process {process} began another operation before the end of the last: {event}")
            begun[process] = (len(operations), event)
            operations.append(None)
        elif process not in begun:
            raise ValueError(f"process {process} ended what it had not begun: {event}")
        else:
            place, invocation = begun.pop(process)
            operations[place] = _operation(invocation, event)
    for place, invocation in begun.values():
        operations[place] = _operation(invocation, {"type": "info", "value": "never ended"})
    return [one for one in operations if one is not None]


def _operation(invocation: dict[str, Any], end: dict[str, Any]) -> Operation:
    outcome = end["type"]
    return Operation(
        process=invocation["process"],
        model=invocation["model"],
        action=invocation["action"],
        key=invocation["key"],
        argument=invocation["value"],
        outcome=outcome,
        result=end["value"],
        invoked=invocation["time"],
        completed=NEVER if outcome == "info" else end["time"],
    )
