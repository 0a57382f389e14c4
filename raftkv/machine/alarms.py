"""What is wrong with a member and concerns all of them: replicated, and in snapshots (the idea is etcd's).

While an alarm of kind NOSPACE stands, no replica runs a command that may take space (Redis' flag ``denyoom``): a member
whose disk is nearly full could not keep what the others acknowledge. A node raises its own alarm and clears it; an
operator may clear anybody's. Entry by entry every replica has the same alarms, so all refuse the same commands.

The form in a log entry: a group of kind ALARM, whose command is ``RAISE node kind reason`` or ``CLEAR node kind``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from raftkv.commands.registry import Argv, Command, lookup
from raftkv.errors import CommandError, InvariantError

NOSPACE: Final = "NOSPACE"
KINDS: Final = (NOSPACE,)
RAISE: Final = b"RAISE"
CLEAR: Final = b"CLEAR"
ALARMS_MAX: Final = 64
"""More than there are members; a further one is not noted, and those that stand refuse enough."""
NODE_BYTES_MAX: Final = 32
REASON_BYTES_MAX: Final = 200
DENIED: Final = "denyoom"
"""Redis' flag of the commands that may take memory, which are those that may take space on disk."""


class Alarm(NamedTuple):
    """One that stands."""

    node: str
    kind: str
    reason: str
    since_ms: int
    """The stamp of the entry that raised it."""


class NoSpaceError(CommandError):
    """A member has no space for what the command may need."""

    code = "NOSPACE"


class Alarms:
    """All that stand, by node and kind in the order in which they were raised."""

    def __init__(self, standing: tuple[Alarm, ...] = ()) -> None:
        self.standing = standing

    def raise_(self, node: str, kind: str, reason: str, now_ms: int) -> None:
        """A reason that is new takes the place of the one before."""
        known = {(one.node, one.kind): one for one in self.standing}
        if (node, kind) not in known and len(known) >= ALARMS_MAX:
            return
        before = known.get((node, kind))
        known[node, kind] = Alarm(node, kind, reason, now_ms if before is None else before.since_ms)
        self.standing = tuple(known.values())

    def clear(self, node: str, kind: str) -> int:
        """How many were cleared: 0 or 1."""
        before = self.standing
        self.standing = tuple(one for one in before if (one.node, one.kind) != (node, kind))
        return len(before) - len(self.standing)

    def of(self, node: str) -> Alarm | None:
        """The one that says that ``node`` is full."""
        return next((one for one in self.standing if one.node == node and one.kind == NOSPACE), None)

    def refusal(self) -> NoSpaceError | None:
        """The answer to a command that may take space; None when no alarm stands against it."""
        for one in self.standing:
            if one.kind == NOSPACE:
                others = len(self.standing) - 1
                more = f" (and {others} more)" if others else ""
                return NoSpaceError(
                    f"the disk of {one.node} is full ({one.reason}){more}: only commands that take no space are run until "
                    f"there is room; delete keys, make room on that disk, see RAFT.ALARM LIST"
                )
        return None

    def apply(self, words: Argv, now_ms: int) -> int:
        """Run the command of an ALARM group: how many alarms came or went, 0 or 1."""
        if words[0] == CLEAR:
            return self.clear(_text(words[1]), _text(words[2]))
        before = len(self.standing)
        self.raise_(_text(words[1]), _text(words[2]), _text(words[3]), now_ms)
        return len(self.standing) - before


def raising(node: str, kind: str, reason: str) -> Argv:
    """The command that raises an alarm; a longer reason is cut."""
    return [RAISE, node.encode(), kind.encode(), reason.encode()[:REASON_BYTES_MAX]]


def clearing(node: str, kind: str) -> Argv:
    """The command that clears an alarm."""
    return [CLEAR, node.encode(), kind.encode()]


def check(words: Argv) -> None:
    """Raise InvariantError unless these are the words of an ALARM group."""
    wanted = {RAISE: 4, CLEAR: 3}.get(words[0]) if words else None
    if wanted != len(words) or len(words[1]) > NODE_BYTES_MAX or _text(words[2]) not in KINDS:
        msg = f"an alarm of {len(words)} words, which begins with {words[:3]!r}"
        raise InvariantError(msg)
    if len(words) > 3 and len(words[3]) > REASON_BYTES_MAX:
        msg = f"an alarm's reason of {len(words[3])} bytes, {REASON_BYTES_MAX} are the most"
        raise InvariantError(msg)


def takes_space(command: Command) -> bool:
    """Whether a command is refused while a member is full."""
    return DENIED in command.flags


def first_denied(commands: Sequence[Argv]) -> bool:
    """Whether any of these may take space; what is no command takes none."""
    for argv in commands:
        try:
            if takes_space(lookup(argv)):
                return True
        except CommandError:
            continue
    return False


def _text(word: bytes) -> str:
    return word.decode("utf-8", "replace")
