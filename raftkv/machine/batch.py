"""The form of a log entry: a batch of groups of commands, as the clients' own RESP bytes.

    entry  = u8 0 | u8 version | u64 stamp_ms | group*
    group  = u8 kind | u8 database | u32 commands | u32 bytes | head | RESP bytes

``stamp_ms`` is the leader's clock; the machine never lets time go back, whatever the stamps say. ``bytes`` counts
head and RESP bytes together. Heads by kind:

=========  =================================================================================
PLAIN      none: independent commands
TXN        u16 watches, then each: u8 database | u64 index | u32 length | key. One atomic group
OPEN       u64 ttl_ms: a new client session
RUN        16 bytes session | u64 sequence | u64 acknowledged | u8 inner kind | inner head
WATCH      none: the RESP bytes are one command whose words are the keys
TICK       none: lets time pass, so that due keys expire when nobody writes
DIGEST     u64 index | u64 digest: what the leader's audit found after applying ``index``
ALARM      none: the RESP bytes are one command, see :mod:`raftkv.machine.alarms`
=========  =================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from raftkv.errors import InvariantError

VERSION: Final = 1
PLAIN: Final = 0
TXN: Final = 1
OPEN: Final = 2
RUN: Final = 3
WATCH: Final = 4
TICK: Final = 5
DIGEST: Final = 6
ALARM: Final = 7

_ENTRY: Final = struct.Struct("!BBQ")
_GROUP: Final = struct.Struct("!BBII")
_COUNT: Final = struct.Struct("!H")
_WATCH: Final = struct.Struct("!BQI")
_OPEN: Final = struct.Struct("!Q")
_RUN: Final = struct.Struct("!16sQQB")
_DIGEST: Final = struct.Struct("!QQ")

SESSION_ID_BYTES: Final = 16
LINE_BYTES_MAX: Final = 32
"""A mark, the digits of a number, a line end."""
COMMAND_BYTES_MIN: Final = 10
"""The shortest command is one empty word, ``*1 $0`` and three line ends: a group cannot declare more than fit."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A key that must not have changed since the entry ``index`` registered the watch."""

    database: int
    key: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Run:
    """Which request of which client session a group is."""

    session: bytes
    """SESSION_ID_BYTES bytes."""
    sequence: int
    acknowledged: int
    """Replies up to this sequence have been received and may be forgotten."""


class Group(NamedTuple):
    """One decoded group. ``commands`` counts the RESP commands in ``data``."""

    kind: int
    database: int
    commands: int
    data: bytes | memoryview
    """A view when the entry was given as one: values of many megabytes are then copied once, into the state."""
    watches: tuple[Watched, ...] = ()
    run: Run | None = None
    numbers: tuple[int, ...] = ()
    """(ttl_ms,) of OPEN; (index, digest) of DIGEST."""


def header(stamp_ms: int) -> bytes:
    """The start of an entry."""
    return _ENTRY.pack(0, VERSION, stamp_ms)


def plain(database: int, commands: int, chunks: Sequence[bytes]) -> list[bytes]:
    """A PLAIN group of the RESP bytes ``chunks``, as buffers to be joined."""
    return [_GROUP.pack(PLAIN, database, commands, sum(map(len, chunks))), *chunks]


def encode_group(group: Group) -> bytes:
    """Any group. ``kind`` is what runs: TXN or PLAIN (RUN is added when ``run`` is set), OPEN, WATCH, TICK, DIGEST,
    ALARM.
    """
    head = _encode_head(group)
    kind = group.kind
    if group.run is not None:
        run = group.run
        head = _RUN.pack(run.session, run.sequence, run.acknowledged, kind) + head
        kind = RUN
    return _GROUP.pack(kind, group.database, group.commands, len(head) + len(group.data)) + head + group.data


def _encode_head(group: Group) -> bytes:
    if group.kind == TXN:
        parts = [_COUNT.pack(len(group.watches))]
        for one in group.watches:
            parts += (_WATCH.pack(one.database, one.index, len(one.key)), one.key)
        return b"".join(parts)
    if group.kind == OPEN:
        return _OPEN.pack(*group.numbers)
    if group.kind == DIGEST:
        return _DIGEST.pack(*group.numbers)
    return b""


def stamp_of(entry: bytes) -> int:
    """The leader's clock when it made the entry. Raises InvariantError for a damaged or another version's entry."""
    if len(entry) < _ENTRY.size:
        msg = f"log entry of {len(entry)} bytes ends inside its header"
        raise InvariantError(msg)
    _, version, stamp_ms = _ENTRY.unpack_from(entry)
    if version != VERSION:
        msg = f"log entry of version {version}, this node reads {VERSION}: upgrade it"
        raise InvariantError(msg)
    return int(stamp_ms)


def groups(entry: bytes | memoryview) -> Iterator[Group]:
    """The groups of an entry, in order; their ``data`` are slices of it. Raises InvariantError when it is damaged."""
    at, end = _ENTRY.size, len(entry)
    while at < end:
        if at + _GROUP.size > end:
            msg = f"log entry of {end} bytes ends inside the head of a group"
            raise InvariantError(msg)
        kind, database, commands, size = _GROUP.unpack_from(entry, at)
        at += _GROUP.size
        if at + size > end:
            msg = f"log entry ends inside a group: {at + size} bytes declared, {end} there"
            raise InvariantError(msg)
        if commands * COMMAND_BYTES_MIN > size:
            msg = f"log entry holds a group of {size} bytes that declares {commands} commands"
            raise InvariantError(msg)
        if kind == PLAIN:
            yield Group(PLAIN, database, commands, entry[at : at + size])
        else:
            yield _decode(kind, database, commands, entry[at : at + size])
        at += size


def _decode(kind: int, database: int, commands: int, body: bytes | memoryview) -> Group:
    run: Run | None = None
    watches: tuple[Watched, ...] = ()
    numbers: tuple[int, ...] = ()
    at, outer = 0, kind
    try:
        if kind == RUN:
            session, sequence, acknowledged, kind = _RUN.unpack_from(body)
            run = Run(session, sequence, acknowledged)
            at = _RUN.size
        if kind == TXN:
            watches, at = _decode_watches(body, at)
        elif kind == OPEN:
            numbers = _OPEN.unpack_from(body, at)
            at += _OPEN.size
        elif kind == DIGEST:
            numbers = _DIGEST.unpack_from(body, at)
            at += _DIGEST.size
    except struct.error as error:
        msg = f"log entry holds a group of kind {outer} that ends inside its head ({error})"
        raise InvariantError(msg) from error
    if kind > ALARM:
        msg = f"log entry holds a group of unknown kind {kind}: upgrade this node"
        raise InvariantError(msg)
    if run is not None and kind not in {PLAIN, TXN}:
        msg = f"log entry holds a session's request of kind {kind}, which no session makes"
        raise InvariantError(msg)
    return Group(kind, database, commands, body[at:], watches, run, numbers)


def _decode_watches(body: bytes | memoryview, at: int) -> tuple[tuple[Watched, ...], int]:
    """The watches of a transaction, and where its commands begin."""
    (count,) = _COUNT.unpack_from(body, at)
    at += _COUNT.size
    watches: list[Watched] = []
    for _ in range(count):
        database, index, length = _WATCH.unpack_from(body, at)
        at += _WATCH.size
        if at + length > len(body):
            msg = f"log entry holds a watched key that ends {at + length - len(body)} bytes after its group"
            raise InvariantError(msg)
        watches.append(Watched(database, bytes(body[at : at + length]), index))
        at += length
    return tuple(watches), at


def large_commands(data: memoryview, count: int) -> list[list[bytes]]:
    """The RESP commands in ``data``, each word copied once. Raises InvariantError when there are not just ``count``."""
    commands: list[list[bytes]] = []
    at = 0
    for _ in range(count):
        words, at = _number(data, at, b"*")
        command: list[bytes] = []
        for _ in range(words):
            length, start = _number(data, at, b"$")
            at = start + length + 2
            if bytes(data[start + length : at]) != b"\r\n":
                msg = f"log entry holds a word of {length} bytes that does not end after these"
                raise InvariantError(msg)
            command.append(bytes(data[start : start + length]))
        commands.append(command)
    if at != len(data):
        msg = f"log entry holds a group with {len(data) - at} bytes after its {count} commands"
        raise InvariantError(msg)
    return commands


def _number(data: memoryview, at: int, mark: bytes) -> tuple[int, int]:
    """The number of a RESP header, and where it ends."""
    line, end, _ = bytes(data[at : at + LINE_BYTES_MAX]).partition(b"\r\n")
    if line[:1] != mark or not line[1:].isdigit() or not end:
        msg = f"log entry holds {line[:10]!r} in place of a number after {mark!r}"
        raise InvariantError(msg)
    return int(line[1:]), at + len(line) + 2
