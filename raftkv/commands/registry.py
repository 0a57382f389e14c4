"""The table of commands: everything that is known of a command is declared once, here derived.

Arity checks, routing, key extraction, COMMAND and its sub-commands, ACL categories, completion, hints and
``docs/commands.md`` all read the same :class:`Command`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from raftkv.commands.args import shown
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply

if TYPE_CHECKING:
    from raftkv.store.keyspace import Database, Keyspace

Argv: TypeAlias = list[bytes]
Scope: TypeAlias = Literal["data", "server"]
"""``data`` runs on the keyspace (in apply, or as a read); ``server`` runs on the node that got it."""


@dataclass(slots=True)
class Context:
    """What a data command may see. Nothing in it differs between replicas."""

    keyspace: Keyspace
    db_index: int = 0
    index: int = 0
    """Log index of the entry being applied (the applied index, for a read)."""
    _rng: Random | None = None

    @property
    def db(self) -> Database:
        """The selected database."""
        return self.keyspace.databases[self.db_index]

    @property
    def now_ms(self) -> int:
        """The entry's stamp, ms since the epoch."""
        return self.keyspace.now_ms

    @property
    def rng(self) -> Random:
        """A generator seeded by the log index: the same draws on every replica."""
        if self._rng is None:
            self._rng = Random(self.index)  # noqa: S311 -- must be reproducible, protects no secret
        return self._rng


KeyFinder: TypeAlias = Callable[[Argv], list[bytes]]
RunFunction: TypeAlias = Callable[[Context, Sequence[Argv]], "list[Reply] | None"]
"""Many commands of one name at once, with the replies that one by one they would get; None: not these."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or one sub-command of a container command (``parent`` set)."""

    name: str
    """Upper case: ``GETRANGE``; of a sub-command the second word only: ``INFO`` of ``CLUSTER INFO``."""
    function: Callable[..., Any]
    arity: int
    """Number of words with the name; negative: at least that many (Redis' convention)."""
    flags: frozenset[str]
    """Redis' flags: write readonly denyoom admin pubsub noscript blocking loading stale fast movablekeys no_auth ..."""
    keys: tuple[int, int, int]
    """First key, last key (negative: from the end), step; (0, 0, 0): no keys."""
    group: str
    """string list set hash sorted-set generic transactions connection server cluster sentinel raft scripting"""
    since: str
    """The Redis version that has it, or the raftkv version for our own."""
    summary: str
    syntax: str = ""
    """Arguments after the name, in Redis' notation: ``key value [NX | XX] [GET]``."""
    complexity: str = "O(1)"
    scope: Scope = "data"
    key_finder: KeyFinder | None = None
    """For commands whose keys stand at variable places (flag movablekeys)."""
    run: RunFunction | None = None
    """A quicker way for many of them in a row, which is what pipelines and batches are made of."""
    parent: str = ""
    subcommands: dict[bytes, Command] = field(default_factory=dict)
    write: bool = False

    @property
    def full_name(self) -> str:
        """``CLUSTER INFO`` or ``GET``."""
        return f"{self.parent} {self.name}" if self.parent else self.name

    def check_arity(self, argv: Sequence[bytes]) -> None:
        """Raise Redis' arity error when ``argv`` (with the name) has a wrong number of words."""
        count = len(argv)
        if (count != self.arity) if self.arity >= 0 else (count < -self.arity):
            name = f"{self.parent}|{self.name}" if self.parent else self.name
            msg = f"wrong number of arguments for '{name.lower()}' command"
            raise CommandError(msg)

    def keys_of(self, argv: Argv) -> list[bytes]:
        """The keys in ``argv``, in order."""
        if self.key_finder is not None:
            return self.key_finder(argv)
        first, last, step = self.keys
        if first == 0:
            return []
        stop = last if last >= 0 else len(argv) + last
        return argv[first : stop + 1 : step]

    def categories(self) -> list[str]:
        """ACL categories without ``@``, sorted, derived from flags and group as Redis does."""
        found = {_GROUP_CATEGORY.get(self.group, self.group)} - {""}
        if "write" in self.flags:
            found.add("write")
        if "readonly" in self.flags and self.group != "scripting":
            found.add("read")
        for flag in ("admin", "pubsub", "blocking", "fast"):
            if flag in self.flags:
                found.add(flag)
        if "admin" in self.flags:
            found.add("dangerous")
        if "dangerous" in self.flags:
            found.add("dangerous")
        if "fast" not in self.flags:
            found.add("slow")
        return sorted(found)


_GROUP_CATEGORY: Final = {
    "sorted-set": "sortedset",
    "generic": "keyspace",
    "transactions": "transaction",
    "server": "",
    "cluster": "",
    "sentinel": "",
    "raft": "",
}

TABLE: dict[bytes, Command] = {}
"""Upper- and lower-case name to command; use :func:`lookup` for any other spelling."""


def command(
    name: str,
    *,
    arity: int,
    flags: str,
    group: str,
    since: str,
    summary: str,
    keys: tuple[int, int, int] = (0, 0, 0),
    syntax: str = "",
    complexity: str = "O(1)",
    scope: Scope = "data",
    key_finder: KeyFinder | None = None,
    run: RunFunction | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a command. ``name`` may be two words (``"CLUSTER INFO"``): the container is then declared
    by itself, with a function that answers an unknown sub-command. A duplicate raises at import.
    """
    parent, _, last = name.rpartition(" ")

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        flag_set = frozenset(flags.split())
        made = Command(
            name=last, function=function, arity=arity, flags=flag_set, keys=keys, group=group, since=since,
            summary=summary, syntax=syntax, complexity=complexity, scope=scope, key_finder=key_finder, run=run,
            parent=parent, write="write" in flag_set,
        )  # fmt: skip
        table = _container(parent, group, since, scope).subcommands if parent else TABLE
        for spelling in (last.upper().encode(), last.lower().encode()):
            if spelling in table and table[spelling] is not made:
                msg = f"command {name} is declared twice"
                raise ValueError(msg)
            table[spelling] = made
        return function

    return declare


def _container(parent: str, group: str, since: str, scope: Scope) -> Command:
    found = TABLE.get(parent.encode())
    if found is None:
        found = Command(
            name=parent, function=_no_subcommand, arity=-2, flags=frozenset(), keys=(0, 0, 0), group=group, since=since,
            summary=f"The commands whose first word is {parent}.", syntax="subcommand [arg ...]", scope=scope,
        )  # fmt: skip
        TABLE[parent.upper().encode()] = TABLE[parent.lower().encode()] = found
    return found


def _no_subcommand(_context: object, argv: Argv) -> Reply:
    msg = f"unknown subcommand '{shown(argv[1])}'. Try {argv[0].decode().upper()} HELP."
    raise CommandError(msg)


def lookup(argv: Argv) -> Command:
    """The command (or sub-command) that ``argv`` names, arity checked.

    Raises CommandError with Redis' texts for an unknown command or a wrong number of arguments.
    """
    found = TABLE.get(argv[0])
    if found is None:
        found = TABLE.get(argv[0].upper())
        if found is None:
            raise CommandError(_unknown(argv))
    if found.subcommands and len(argv) > 1:
        sub = found.subcommands.get(argv[1].upper())
        if sub is not None:
            found = sub
        elif found.function is _no_subcommand:
            _no_subcommand(None, argv)  # raises: a transaction is refused when this is queued, not when it runs
    count = len(argv)
    arity = found.arity
    if (count != arity) if arity >= 0 else (count < -arity):
        found.check_arity(argv)
    return found


_UNKNOWN_BYTES_MAX: Final = 128
"""Arguments are shown until so many bytes of them stand in the error of an unknown command."""


def _unknown(argv: Argv) -> str:
    words = b""
    for arg in argv[1:]:
        left = _UNKNOWN_BYTES_MAX - len(words)
        if left <= 0:
            break
        words += b"'%b' " % arg[:left].partition(b"\0")[0]
    beginning = words.decode("utf-8", "replace")
    return f"unknown command '{shown(argv[0])}', with args beginning with: {beginning}"


def all_commands() -> list[Command]:
    """Every top-level command once, by name."""
    return sorted({id(one): one for one in TABLE.values()}.values(), key=lambda one: one.name)
