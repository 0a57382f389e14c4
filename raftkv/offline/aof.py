"""Redis' append-only files, read as a stream: RESP commands, with time stamps and transactions, and the manifest of
Redis 7.

A file that ends inside a command, or inside a transaction, was being written when Redis or its machine stopped: as in
Redis (``aof-load-truncated``) what is before counts, and the rest is told. Anything else that does not parse is damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftkv.commands.registry import lookup
from raftkv.errors import CommandError, ProtocolError
from raftkv.offline.rdb import STRING_BYTES_MAX, ImportedFileError, Skipped, Source, UnsupportedError
from raftkv.protocol.inline import split_inline
from raftkv.store.keyspace import DATABASES

LINE_BYTES_MAX: Final = 64
NOTE_BYTES_MAX: Final = 1024
WORDS_MAX: Final = 1024 * 1024
"""In one command; Redis' own limit."""
MANIFEST_SUFFIX: Final = ".manifest"
MANIFEST_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Replay:
    """Commands of one database; all of them at once, if ``atomic``."""

    database: int
    commands: list[list[bytes]]
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class Truncated:
    """The file ends in the middle of something that was being written; it was passed over."""

    name: str
    offset: int
    """Where that begins."""


class _EndError(Exception):
    """The file ends inside a command."""


def read(
    source: Source, *, skip_unsupported: bool = False, last: bool = True
) -> Iterator[Replay | Skipped | Truncated]:
    """The commands from here on. ``last``: no other file follows, so that the end may be torn. Raises
    ImportedFileError.

    A transaction over several databases comes as one for each run of commands of one database.
    """
    database = 0
    queued: list[Replay] | None = None
    begun = at = source.at
    torn: int | None = None
    try:
        while (words := _command(source)) is not None:
            name = words[0].upper()
            if name == b"MULTI":
                queued, begun = [], at
            elif name == b"EXEC" and queued is not None:
                yield from queued
                queued = None
            elif name == b"SELECT":
                database = _database(source, words)
            elif (unsupported := _unsupported(words)) is not None:
                if not skip_unsupported:
                    raise UnsupportedError(
                        f"{source.name} at offset {at}: {unsupported}; --skip-unsupported leaves such commands out, and names them"
                    )
                yield Skipped(name.decode(errors="backslashreplace")[:40], _key(words))
            elif queued is None:
                yield Replay(database, [words])
            elif queued and queued[-1].database == database:
                queued[-1].commands.append(words)
            else:
                queued.append(Replay(database, [words], atomic=True))
            _check_size(source, begun if queued is not None else at)
            at = source.at
    except _EndError:
        torn = at
    if queued is not None:
        torn = begun
    if torn is not None:
        if not last:
            raise ImportedFileError(
                f"{source.name} at offset {torn}: it ends inside a command, and another file follows"
            )
        yield Truncated(source.name, torn)


def _check_size(source: Source, begun: int) -> None:
    if source.at - begun > 2 * STRING_BYTES_MAX:
        raise source.wrong(f"a transaction of more than {2 * STRING_BYTES_MAX} bytes")


def _unsupported(words: list[bytes]) -> str | None:
    """Why raftkv cannot do this command; None when it can."""
    try:
        command = lookup(words)
    except CommandError as error:
        return error.message
    return None if command.scope == "data" else f"'{command.full_name.lower()}' does nothing to data here"


def _key(words: list[bytes]) -> str:
    return words[1][:60].decode(errors="backslashreplace") if len(words) > 1 else ""


def _database(source: Source, words: list[bytes]) -> int:
    number = words[1] if len(words) == 2 else b""
    if not number.isdigit() or int(number) >= DATABASES:
        raise source.wrong(f"SELECT {number[:20]!r}; raftkv has databases 0 to {DATABASES - 1}")
    return int(number)


def _command(source: Source) -> list[bytes] | None:
    """The next command, None at the end. Raises _EndError when the file ends inside one."""
    while source.peek(1) == b"#":  # a time stamp (aof-timestamp-enabled)
        if source.line(NOTE_BYTES_MAX) is None:
            raise _EndError
    if not source.peek(1):
        return None
    count = _number(source, b"*")
    if not 1 <= count <= WORDS_MAX:
        raise source.wrong(f"a command of {count} words")
    return [_word(source) for _ in range(count)]


def _word(source: Source) -> bytes:
    size = _number(source, b"$")
    if size > STRING_BYTES_MAX:
        raise source.wrong(f"a word of {size} bytes is declared, {STRING_BYTES_MAX} are the most")
    word = source.take_if(size + 2)
    if word is None:
        raise _EndError
    if word[-2:] != b"\r\n":
        raise source.wrong(f"a word of {size} bytes does not end there")
    return word[:-2]


def _number(source: Source, mark: bytes) -> int:
    line = source.line(LINE_BYTES_MAX)
    if line is None:
        if source.peek(1) not in (b"", mark):
            raise source.wrong(f"{source.peek(20)!r} where {mark.decode()} and a number have to be")
        raise _EndError
    if line[:1] != mark or not line[1:].isdigit():
        raise source.wrong(f"{line[:20]!r} where {mark.decode()} and a number have to be")
    return int(line[1:])


# ---------------------------------------------------------------- Redis 7: several files
def manifest_of(path: Path) -> Path | None:
    """The manifest that ``path`` is, or that the directory ``path`` has; None when it is another file.

    Raises ImportedFileError for a directory without one, or with several.
    """
    if not path.is_dir():
        return path if path.name.endswith(MANIFEST_SUFFIX) else None
    found = sorted(path.glob("*" + MANIFEST_SUFFIX))
    if len(found) != 1:
        raise ImportedFileError(f"{path} has {len(found)} manifests of an append-only file; give one by name")
    return found[0]


def parts(manifest: Path) -> list[Path]:
    """The files that make up the data, in order. Raises ImportedFileError, OSError."""
    with manifest.open("rb") as file:
        text = file.read(MANIFEST_BYTES_MAX + 1)
    if len(text) > MANIFEST_BYTES_MAX:
        raise ImportedFileError(f"{manifest} is no manifest: it has more than {MANIFEST_BYTES_MAX} bytes")
    base: list[str] = []
    increments: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, sequence, kind = _manifest_line(manifest, number, line)
        if kind == "b":
            base.append(name)
        elif kind == "i":
            increments.append((sequence, name))
    if len(base) > 1 or not (base or increments):
        raise ImportedFileError(f"{manifest} names {len(base)} base files and {len(increments)} others")
    return [manifest.parent / name for name in (*base, *(name for _, name in sorted(increments)))]


def _manifest_line(manifest: Path, number: int, line: bytes) -> tuple[str, int, str]:
    try:
        words = split_inline(line)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        name, kind = fields[b"file"].decode(), fields[b"type"].decode()
        sequence = int(fields[b"seq"])
    except (ProtocolError, ValueError, KeyError) as error:
        raise ImportedFileError(f"{manifest}, line {number}: it says no file, seq and type") from error
    if "/" in name or kind not in {"b", "i", "h"}:
        raise ImportedFileError(f"{manifest}, line {number}: {name!r} of type {kind!r}")
    return name, sequence, kind
