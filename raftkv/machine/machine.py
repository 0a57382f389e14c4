"""Applies log entries to the keyspace. The same entries give the same state and replies on every replica.

Nothing here reads a clock or draws a random number of its own: time is the entry's stamp (which never goes back), and
randomness comes from a generator seeded by the entry's index. A :class:`~raftkv.errors.CommandError` is an answer; any
other exception leaves through :meth:`StateMachine.apply` and stops the node, because the others may not share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from random import Random
from typing import Final, TypeAlias

import hiredis

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands.args import parse_int
from raftkv.commands.registry import TABLE, Argv, Context, lookup
from raftkv.errors import CommandError, InvariantError
from raftkv.machine.alarms import Alarm, Alarms, check, first_denied, takes_space
from raftkv.machine.audit import Audit
from raftkv.machine.batch import (
    ALARM,
    DIGEST,
    OPEN,
    PLAIN,
    TICK,
    TXN,
    WATCH,
    Group,
    Run,
    groups,
    large_commands,
    stamp_of,
)
from raftkv.machine.image import VERSION, Staging, State, encode_state
from raftkv.machine.sessions import Session, Sessions
from raftkv.machine.watches import Watch, Watches
from raftkv.protocol.encoder import encode
from raftkv.protocol.replies import NIL_ARRAY, OK, Reply
from raftkv.protocol.sizes import exceeds
from raftkv.store.digest import StateDigest
from raftkv.store.dump import dump
from raftkv.store.keyspace import DATABASES, Keyspace

EXPIRE_PER_ENTRY: Final = 200
"""Due keys removed by one entry in each database; the rest (invisible already) waits for the next ones."""
SESSION_REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
"""A session's reply is encoded and kept on every replica; a larger one is answered with an error instead."""
_LIST: Final = frozenset({list})
_BYTES: Final = frozenset({bytes})
LARGE_BYTES: Final = 1024 * 1024
"""The commands of a larger group are cut out of it one by one: the parser would copy all of it first."""
RUN_MIN: Final = 8
"""So many commands are looked at for being of one name: fewer gain nothing."""

GroupResult: TypeAlias = object
"""PLAIN: list of replies. TXN: one reply. RUN: (RESP2, RESP3) bytes or an error. OPEN: the id. WATCH: the index.
ALARM: how many came or went."""


def _nothing() -> None:
    return None


class StateMachine:
    """Sixteen databases, client sessions, watches, alarms."""

    def __init__(self, *, digest_interval: int = 4096) -> None:
        self.keyspace = Keyspace()
        self.sessions = Sessions()
        self.watches = Watches(self.keyspace)
        self.index = 0
        """The last entry applied here (the engine's own entries do not count)."""
        self.stamp_ms = 0
        """The newest stamp applied: time as the state sees it."""
        self._digest = StateDigest(self.keyspace)
        self.audit = Audit(self._digest, digest_interval)
        self.commands_applied = 0
        self.expired_keys = 0
        self._reader = hiredis.Reader()
        self.alarms = Alarms()
        self.refusal: CommandError | None = None
        """The answer to commands that may take space, while an alarm stands against them."""
        self.on_alarms: Callable[[], None] = _nothing
        """Called when there are other alarms than before."""
        self._note_alarms()
        self._prepared: dict[int, tuple[bytes, list[list[Argv]]]] = {}

    def _note_alarms(self) -> None:
        """Without an alarm the hot path pays nothing for there being such a thing: its tables are changed instead."""
        self.refusal = refusal = self.alarms.refusal()
        allowed = {name: one for name, one in TABLE.items() if refusal is None or not takes_space(one)}
        self._direct = {
            name: (command.function, command.arity)
            for name, command in allowed.items()
            if command.scope == "data" and not command.subcommands
        }
        """Commands without sub-commands by the usual spellings of their names: one look-up on the hot path."""
        self._runs = {name: command.run for name, command in allowed.items() if command.run is not None}
        self.on_alarms()

    # ------------------------------------------------------------ apply
    def prepare(self, entry: bytes, commands: list[list[Argv]]) -> None:
        """Keep the commands that the leader has parsed already, group by group, for when ``entry`` is applied.

        Until :meth:`forget`: what is applied may be another copy of it, read from the log, or nothing.
        """
        self._prepared[id(entry)] = (entry, commands)

    def forget(self, entry: bytes) -> None:
        """The outcome of a prepared entry is known."""
        self._prepared.pop(id(entry), None)

    def apply(self, index: int, entry: bytes) -> list[GroupResult]:
        """Apply one entry; one result for each of its groups.

        Raises InvariantError when the entry cannot be read, comes again, or the state has diverged from the leader's.
        """
        if index <= self.index:
            msg = f"entry {index} would be applied after entry {self.index}"
            raise InvariantError(msg)
        self.index = self.watches.index = index
        self.stamp_ms = max(self.stamp_ms, stamp_of(entry))
        self.keyspace.now_ms = self.stamp_ms
        self._pass_time()
        prepared = self._prepared.pop(id(entry), None)
        known = prepared[1] if prepared is not None and prepared[0] is entry else None
        context = Context(self.keyspace, 0, index)
        results: list[GroupResult] = []
        for ordinal, group in enumerate(groups(memoryview(entry))):
            commands = known[ordinal] if known is not None else self.parse(group)
            results.append(self._apply_group(context, group, commands, ordinal))
        self.audit.after(index)
        return results

    def _pass_time(self) -> None:
        now_ms = self.stamp_ms
        for database in self.keyspace.expiring():
            due = database.next_expiry_ms
            if due is not None and due <= now_ms:
                self.expired_keys += database.expire_due(EXPIRE_PER_ENTRY)
        if self.sessions.by_id:
            self.sessions.collect(now_ms)
        if self.watches.by_key:
            self.watches.collect(now_ms)

    def parse(self, group: Group) -> list[Argv]:
        """The commands in a group's RESP bytes. Raises InvariantError when they are not what the group declares."""
        if len(group.data) > LARGE_BYTES:
            return large_commands(memoryview(group.data), group.commands)
        reader = self._reader
        reader.feed(bytes(group.data))
        try:
            commands = [reader.gets() for _ in range(group.commands)]
            whole = reader.gets() is False and not reader.has_data() and not (commands and commands[-1] is False)
        except hiredis.HiredisError as error:
            self._reader = hiredis.Reader()
            msg = f"log entry {self.index}: {error}"
            raise InvariantError(msg) from error
        if not whole:
            self._reader = hiredis.Reader()
            msg = f"log entry {self.index}: {len(group.data)} bytes are not the {group.commands} commands declared"
            raise InvariantError(msg)
        return commands

    def examine(self, group: Group) -> list[Argv]:
        """:meth:`parse` for a group that another node made, before it gets into the log.

        Raises InvariantError also for what can be parsed, but would stop every replica at the same entry.
        """
        commands = self.parse(group)
        words = chain.from_iterable(commands) if {*map(type, commands)} <= _LIST else (None,)
        databases = (group.database, *(watched.database for watched in group.watches))
        if not (all(commands) and {*map(type, words)} <= _BYTES and max(databases) < DATABASES):
            msg = f"a group of kind {group.kind} for database {max(databases)} holds what is no command"
            raise InvariantError(msg)
        if not commands and (group.run is not None or group.kind == WATCH):
            msg = f"a group of kind {group.kind} holds no command"
            raise InvariantError(msg)
        if group.kind == ALARM:
            self._alarm_of(commands)
        return commands

    def _apply_group(self, context: Context, group: Group, commands: list[Argv], ordinal: int) -> GroupResult:
        kind = group.kind
        context.db_index = group.database
        if group.run is not None:
            return self._apply_run(context, group, group.run, commands)
        if kind == PLAIN:
            return self._run_all(context, commands)
        if kind == TXN:
            return self._run_transaction(context, group, commands)
        if kind == OPEN:
            return self.sessions.open(self.index, ordinal, group.numbers[0], self.stamp_ms)
        if kind == WATCH:
            for key in commands[0]:
                self.watches.register(group.database, key, self.index, self.stamp_ms)
            return self.index
        if kind == DIGEST:
            self.audit.compare(*group.numbers)
            return None
        if kind == TICK:
            return None
        if kind == ALARM:
            changed = self.alarms.apply(self._alarm_of(commands), self.stamp_ms)
            self._note_alarms()
            return changed
        msg = f"group of kind {kind} in entry {self.index}"
        raise InvariantError(msg)

    @staticmethod
    def _alarm_of(commands: list[Argv]) -> Argv:
        if len(commands) != 1:
            msg = f"an alarm of {len(commands)} commands"
            raise InvariantError(msg)
        check(commands[0])
        return commands[0]

    def _run_all(self, context: Context, commands: Sequence[Argv]) -> list[Reply]:
        if len(commands) >= RUN_MIN:
            together = self._run_together(context, commands)
            if together is not None:
                return together
        replies: list[Reply] = []
        add = replies.append
        find = self._direct.get
        for argv in commands:
            try:
                direct = find(argv[0])
                if direct is None:
                    add(self._run_any(context, argv))
                    continue
                function, arity = direct
                if (len(argv) != arity) if arity >= 0 else (len(argv) < -arity):
                    lookup(argv)  # raises the arity error
                add(function(context, argv))
            except CommandError as error:
                add(error)
        self.commands_applied += len(commands)
        return replies

    def _run_together(self, context: Context, commands: Sequence[Argv]) -> list[Reply] | None:
        """A run of one command whose declaration knows how to do many at once; None for everything else."""
        names = {argv[0] for argv in commands}
        run = self._runs.get(names.pop()) if len(names) == 1 else None
        replies = None if run is None else run(context, commands)
        if replies is not None:
            self.commands_applied += len(commands)
        return replies

    def _run_transaction(self, context: Context, group: Group, commands: Sequence[Argv]) -> Reply:
        if self.refusal is not None and first_denied(commands):
            return CommandError(f"Transaction discarded because of: {self.refusal}", code="EXECABORT")
        if not all(map(self.watches.unchanged, group.watches)):
            return NIL_ARRAY
        replies: list[Reply] = []
        for argv in commands:
            if argv[0].upper() == b"SELECT" and len(argv) == 2:
                replies.append(_select(context, argv[1]))
            else:
                replies += self._run_all(context, (argv,))
        return replies

    def _run_any(self, context: Context, argv: Argv) -> Reply:
        command = lookup(argv)
        if self.refusal is not None and takes_space(command):
            return self.refusal
        if command.scope == "data":
            return command.function(context, argv)
        return CommandError(f"'{command.full_name.lower()}' cannot be part of a replicated batch")

    def _apply_run(self, context: Context, group: Group, run: Run, commands: list[Argv]) -> GroupResult:
        try:
            known = self.sessions.find(run, self.stamp_ms)
        except CommandError as error:
            return error
        if known is not None:
            return known
        reply = (
            self._run_transaction(context, group, commands)
            if group.kind == TXN
            else self._run_all(context, commands)[0]
        )
        if exceeds((reply,), SESSION_REPLY_BYTES_MAX):
            # Encoding it could take more memory than there is, on every replica at the same entry.
            reply = CommandError(
                f"the command was applied, but a session does not keep replies above {SESSION_REPLY_BYTES_MAX} bytes; "
                "read large values without a session"
            )
        encoded = encode(reply, 2), encode(reply, 3)
        self.sessions.keep(run, encoded)
        return encoded

    def begin_anew(self) -> None:
        """Another cluster begins with this data: sessions and watches were promises about the old one's history, and
        its alarms speak of the old one's disks, whose nodes will never clear them.
        """
        self.alarms = Alarms()
        self._note_alarms()
        self.sessions = Sessions()
        self.watches = Watches(self.keyspace)
        self.watches.hook()

    # ------------------------------------------------------------ reads
    def reading(self, now_ms: int, rng: Random) -> Context:
        """A context for commands that do not write. ``now_ms`` decides what has expired."""
        self.keyspace.now_ms = max(self.stamp_ms, now_ms)
        return Context(self.keyspace, 0, self.index, rng)

    def run(self, context: Context, database: int, commands: Sequence[Argv]) -> list[Reply]:
        """Run commands that do not write, on the state as it is."""
        context.db_index = database
        return self._run_all(context, commands)

    def read(self, database: int, commands: Sequence[Argv], now_ms: int, rng: Random) -> list[Reply]:
        """:meth:`reading` and :meth:`run` in one."""
        return self.run(self.reading(now_ms, rng), database, commands)

    @property
    def next_expiry_ms(self) -> int | None:
        """A lower bound of when the next key expires; None when none does."""
        due = [one.next_expiry_ms for one in self.keyspace.expiring() if one.next_expiry_ms is not None]
        return min(due, default=None)

    def digest(self) -> tuple[str, int]:
        """(digest of the whole state as hex, index of the entry it stands at). Costs what changed since the last."""
        return self._digest.full(), self.index

    # ------------------------------------------------------------ snapshots
    def dump(self) -> Iterator[bytes]:
        """The whole state, in chunks."""
        sessions = [
            (identity, one.ttl_ms, one.used_ms, one.acknowledged, [(n, *reply) for n, reply in one.replies.items()])
            for identity, one in self.sessions.by_id.items()
        ]
        watches = [
            (database, key, one.changed_index, one.registered_ms, one.expired)
            for (database, key), one in self.watches.by_key.items()
        ]
        alarms = [(one.node, one.kind, one.reason, one.since_ms) for one in self.alarms.standing]
        yield encode_state(State(VERSION, self.index, self.stamp_ms, sessions, watches, self.audit.round, alarms))
        yield from dump(self.keyspace)

    def load(self, chunks: Iterable[bytes]) -> None:
        """Become the state that :meth:`dump` wrote. Raises InvariantError when it is damaged or of another version."""
        staging = self.stage()
        for chunk in chunks:
            staging.feed(chunk)
        staging.finish()
        self.adopt(staging)

    @staticmethod
    def stage() -> Staging:
        """A state beside this one, to be fed with what :meth:`dump` wrote, and finished."""
        return Staging()

    def adopt(self, staging: Staging) -> None:
        """Become the finished state of ``staging``, which gets this one's keyspace, to be released."""
        state, keyspace = staging.state, staging.keyspace
        assert state is not None
        staging.keyspace, self.keyspace = self.keyspace, keyspace
        self.sessions = Sessions()
        for identity, ttl_ms, used_ms, acknowledged, replies in state.sessions:
            kept = {sequence: (resp2, resp3) for sequence, resp2, resp3 in replies}
            self.sessions.by_id[identity] = Session(ttl_ms, used_ms, acknowledged, kept)
        self.watches = Watches(keyspace)
        for database, key, changed_index, registered_ms, expired in state.watches:
            self.watches.by_key[database, key] = Watch(changed_index, registered_ms, expired)
        self.watches.hook()
        self.index, self.stamp_ms = state.index, state.stamp_ms
        self._digest = StateDigest(keyspace)
        self.audit = Audit(self._digest, self.audit.interval, self.audit.on_digest, state.index)
        self._prepared.clear()
        self.alarms = Alarms(tuple(Alarm(*one) for one in state.alarms))
        self._note_alarms()


def _select(context: Context, number: bytes) -> Reply:
    try:
        index = parse_int(number)
        context.keyspace[index]
    except CommandError as error:
        return error
    context.db_index = index
    return OK
