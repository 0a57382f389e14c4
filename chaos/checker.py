"""Judges a history: is there one order of its operations that explains every reply (linearizability)?

The order must respect time: an operation takes effect once, between its invocation and its end. Keys are independent
(linearizability is local: Herlihy, Wing 1990, theorem 1), so each is judged by itself. An operation that failed for
certain takes no part: whoever saw its effect has no explanation. One of unknown outcome may have taken effect at any
time after its invocation, or never.

Method
    Wing and Gong's search (1993) with Lowe's memory of configurations (2017), in the order of time: a configuration is
    (state, which of the operations under way have taken effect). An invocation adds an operation that is under way; the
    end of one keeps the configurations in which it has taken effect, which may first need others to. None left is the
    verdict *not linearizable*, with the operation that cannot be explained.

What keeps it small
    * a read that matches takes effect as soon as it can: it changes nothing;
    * of unknown operations that are alike only the first may be the next: they are interchangeable;
    * an unknown write whose value nobody read is left out: an order with it is also one without it;
    * lists: every read must be a beginning of the longest one, which gives each value its place; with places known the
      state is a length, and there is next to nothing to search;
    * counters that are only added to: replies give the order in the same way.

Caveat: a register that many processes write at the same time has exponentially many configurations. At
CONFIGURATIONS_MAX the key is *undecided*, which is no acquittal: use more keys.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from chaos.history import NEVER, Operation

CONFIGURATIONS_MAX: Final = 200_000
"""Configurations looked at to explain one reply; beyond that the key is undecided."""

_IMPOSSIBLE: Final = object()
Step: TypeAlias = Callable[[Any], Any]
"""The state after the operation, or _IMPOSSIBLE where its reply contradicts the state."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a key's history has no explanation."""

    key: str
    reason: str
    operations: tuple[Operation, ...] = ()
    """The witnesses, if there are particular ones."""

    def __str__(self) -> str:
        return "\n    ".join([f"{self.key}: {self.reason}", *map(str, self.operations)])


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a whole history."""

    operations: int
    keys: int
    violations: tuple[Violation, ...]
    undecided: tuple[str, ...]
    """Keys that were too hard to judge."""

    @property
    def linearizable(self) -> bool:
        """Every key was judged, and none has a violation."""
        return not self.violations and not self.undecided

    def __str__(self) -> str:
        head = f"{self.operations} operations on {self.keys} keys: "
        if self.linearizable:
            return head + "linearizable"
        lines = [*map(str, self.violations), *(f"{key}: undecided" for key in self.undecided)]
        return "\n".join([head + "NOT shown to be linearizable", *lines])


class _UndecidedError(Exception):
    """The search grew beyond its bound."""


@dataclass(slots=True)
class _Task:
    """An operation as the search sees it."""

    operation: Operation
    step: Step
    alike: Hashable = None
    """Unknown operations with the same value here are interchangeable; None: like no other."""
    reads: bool = False


def check(operations: Iterable[Operation]) -> Verdict:
    """Judge a history. Raises ValueError when a key is used as two kinds of thing."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    count = 0
    for one in operations:
        by_key[one.key].append(one)
        count += 1
    violations: list[Violation] = []
    undecided: list[str] = []
    for key, history in sorted(by_key.items()):
        try:
            violations += _check_key(key, history)
        except _UndecidedError:
            undecided.append(key)
    return Verdict(count, len(by_key), tuple(violations), tuple(undecided))


def _check_key(key: str, history: Sequence[Operation]) -> list[Violation]:
    models = {one.model for one in history}
    if len(models) > 1:
        raise ValueError(f"key {key!r} is used as {' and '.join(sorted(models))}")
    took_part = [one for one in history if one.outcome != "fail" and (one.outcome == "ok" or one.action != "read")]
    model = models.pop()
    if model == "list":
        found, tasks = _list_tasks(key, history, took_part)
        if found:
            return found
        initial: Any = 0
    elif model == "counter":
        tasks, initial = [_counter_task(one) for one in took_part], 0
    else:
        tasks, initial = _register_tasks(took_part), None
    unexplained = _search(tasks, initial)
    if unexplained is None:
        return []
    return [Violation(key, f"no order of the operations on this {model} explains a reply", (unexplained,))]


# ---------------------------------------------------------------- models
def _register_tasks(history: Sequence[Operation]) -> list[_Task]:
    read = {_frozen(one.result) for one in history if one.action == "read"}
    tasks = []
    for one in history:
        if one.action == "read":
            tasks.append(_Task(one, _expect(_frozen(one.result)), reads=True))
        elif one.outcome == "ok":
            tasks.append(_Task(one, _become(_frozen(one.argument))))
        elif _frozen(one.argument) in read:
            tasks.append(_Task(one, _become(_frozen(one.argument)), alike=_frozen(one.argument)))
    return tasks


def _counter_task(one: Operation) -> _Task:
    if one.action == "read":
        return _Task(one, _expect(int(one.result or 0)), reads=True)
    amount = int(one.argument)
    if one.outcome == "ok":
        return _Task(one, _move(int(one.result) - amount, int(one.result)))
    return _Task(one, lambda state: state + amount, alike=amount)


def _list_tasks(
    key: str, history: Sequence[Operation], took_part: Sequence[Operation]
) -> tuple[list[Violation], list[_Task]]:
    """Tasks whose state is the list's length, once every value has its place; or why it cannot have one."""
    reads = [one for one in took_part if one.action == "read"]
    longest = max(reads, key=lambda one: len(one.result), default=None)
    order = [] if longest is None else [_frozen(value) for value in longest.result]
    found = _strange_values(key, history, order, longest)
    for one in reads:
        if [_frozen(value) for value in one.result] != order[: len(one.result)] and longest is not None:
            found.append(Violation(key, "one read is no beginning of another: lost or reordered", (one, longest)))
    place = {value: number for number, value in enumerate(order, 1)}
    tasks = []
    for one in took_part:
        if one.action == "read":
            tasks.append(_Task(one, _expect(len(one.result)), reads=True))
            continue
        at = place.get(_frozen(one.argument))
        if one.outcome == "ok" and one.result is not None:
            length = int(one.result)
            if longest is not None and at != length and (at is not None or length <= len(order)):
                reason = f"appended at {length}, but its value is read {f'at {at}' if at else 'nowhere'}"
                found.append(Violation(key, reason, (one, longest)))
            at = length
        elif one.outcome == "info" and at is None and not _needed_beyond(took_part, len(order)):
            continue  # nothing shows it, and nothing follows that would need it
        tasks.append(_Task(one, _move(at - 1, at)) if at else _Task(one, _beyond(len(order)), alike="anywhere"))
    return found, tasks


def _needed_beyond(history: Sequence[Operation], length: int) -> bool:
    """Whether some append was acknowledged at a place that no read reached."""
    return any(one.action == "append" and one.outcome == "ok" and (one.result or 0) > length for one in history)


def _strange_values(
    key: str, history: Sequence[Operation], order: Sequence[Hashable], longest: Operation | None
) -> list[Violation]:
    """Values that were read twice, or that nobody can have appended."""
    if longest is None:
        return []
    found = []
    appends = {_frozen(one.argument): one for one in history if one.action == "append"}
    seen: set[Hashable] = set()
    for value in order:
        one = appends.get(value)
        if value in seen:
            found.append(Violation(key, f"{value!r} was applied twice", tuple(filter(None, (one, longest)))))
        elif one is None:
            found.append(Violation(key, f"{value!r} was read, but nobody appended it", (longest,)))
        elif one.outcome == "fail":
            found.append(Violation(key, f"{value!r} was refused for certain, but it is there", (one, longest)))
        seen.add(value)
    return found


def _expect(value: Any) -> Step:
    return lambda state: state if state == value else _IMPOSSIBLE


def _become(value: Any) -> Step:
    return lambda _state: value


def _move(before: int, after: int) -> Step:
    return lambda state: after if state == before else _IMPOSSIBLE


def _beyond(length: int) -> Step:
    return lambda state: state + 1 if state >= length else _IMPOSSIBLE


def _frozen(value: Any) -> Hashable:
    """``value`` as something that can be in a set: JSON's lists become tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    hashable: Hashable = value
    return hashable


# ---------------------------------------------------------------- search
_Configuration: TypeAlias = tuple[Any, int]
"""State, and a bit for each operation under way that has taken effect."""


class _UnderWay:
    """The operations between invocation and end. Each has a bit as long as it is here."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used = 0
        self.reads: dict[int, _Task] = {}
        self.known: dict[int, _Task] = {}
        self.unknown: defaultdict[Hashable, list[tuple[int, _Task]]] = defaultdict(list)

    def add(self, task: _Task) -> int:
        """Put it under way; its bit."""
        if self._free:
            bit = heapq.heappop(self._free)
        else:
            bit = 1 << self._used
            self._used += 1
        if task.reads:
            self.reads[bit] = task
        elif task.operation.completed == NEVER:
            self.unknown[task.alike if task.alike is not None else ("single", bit)].append((bit, task))
        else:
            self.known[bit] = task
        return bit

    def remove(self, bit: int) -> None:
        """It has ended."""
        self.reads.pop(bit, None)
        self.known.pop(bit, None)
        heapq.heappush(self._free, bit)

    def successors(self, configuration: _Configuration) -> list[_Configuration]:
        """What one more operation taking effect can lead to."""
        state, done = configuration
        for bit, task in self.reads.items():
            if not done & bit and task.step(state) is not _IMPOSSIBLE:
                return [(state, done | bit)]
        found = []
        for bit, task in self.known.items():
            if not done & bit and (after := task.step(state)) is not _IMPOSSIBLE:
                found.append((after, done | bit))
        for alike in self.unknown.values():
            following = next(((bit, task) for bit, task in alike if not done & bit), None)
            if following is not None and (after := following[1].step(state)) is not _IMPOSSIBLE:
                found.append((after, done | following[0]))
        return found


def _search(tasks: Sequence[_Task], initial: Any) -> Operation | None:
    """The first operation, in the order of their ends, that no configuration explains; None if all are explained.

    Raises _UndecidedError beyond CONFIGURATIONS_MAX.
    """
    events: list[tuple[float, int, int]] = []
    for number, task in enumerate(tasks):
        events.append((task.operation.invoked, 0, number))
        if task.operation.completed != NEVER:
            events.append((task.operation.completed, 1, number))
    events.sort()  # at the same instant invocations come first: nothing is held against the store that may be chance
    under_way = _UnderWay()
    bits: dict[int, int] = {}
    configurations: set[_Configuration] = {(initial, 0)}
    for _time, is_end, number in events:
        if not is_end:
            bits[number] = under_way.add(tasks[number])
            continue
        configurations = _having(configurations, under_way, bits[number])
        if not configurations:
            return tasks[number].operation
        under_way.remove(bits.pop(number))
    return None


def _having(configurations: set[_Configuration], under_way: _UnderWay, bit: int) -> set[_Configuration]:
    """The configurations, and those that follow from them, in which ``bit`` has taken effect; without the bit."""
    kept: set[_Configuration] = set()
    seen = set(configurations)
    waiting = list(configurations)
    while waiting:
        one = waiting.pop()
        if one[1] & bit:
            kept.add((one[0], one[1] ^ bit))
            continue
        for following in under_way.successors(one):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
        if len(seen) > CONFIGURATIONS_MAX:
            raise _UndecidedError
    return kept
