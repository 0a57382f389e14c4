"""A file of Redis, of whichever kind, as one stream of what is to be done: keys, commands, and what was passed over.

Kinds: an RDB file; an append-only file, with or without an RDB in front; the directory of Redis 7's append-only files,
or its manifest; standard input with the first two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from raftkv.offline import aof
from raftkv.offline.aof import Replay, Truncated
from raftkv.offline.rdb import MAGIC, ImportedFileError, RdbReader, Readable, Skipped, Source
from raftkv.offline.rebuild import Piece

Event: TypeAlias = Piece | Replay | Skipped | Truncated
_AOF_STARTS: Final = (b"*", b"#")


@dataclass(slots=True)
class Import:
    """Iterate for the events. Raises ImportedFileError; a file can be read again, a stream cannot."""

    paths: tuple[Path, ...] = ()
    stream: Readable | None = None
    skip_unsupported: bool = False
    read_bytes: int = 0
    """So far."""
    total_bytes: int = 0
    """0 when it is not known."""
    facts: dict[str, str] = field(default_factory=dict)
    """What an RDB says of its writer."""
    replays: bool = False
    """There are commands in it, which give the right result once, on databases that were empty."""

    @classmethod
    def of(cls, path: Path, *, skip_unsupported: bool = False) -> Import:
        """Raises ImportedFileError when there is no such file, or no manifest in the directory."""
        try:
            manifest = aof.manifest_of(path)
            paths = tuple(aof.parts(manifest)) if manifest is not None else (path,)
            if path.is_fifo():
                raise ImportedFileError(f"{path} is a pipe, and a file is read twice; give it as standard input: -")
            total = sum(one.stat().st_size for one in paths)
        except OSError as error:
            raise ImportedFileError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
        return cls(paths, skip_unsupported=skip_unsupported, total_bytes=total)

    def __iter__(self) -> Iterator[Event]:
        self.read_bytes = 0
        if self.stream is not None:
            yield from self._file(Source(self.stream, "standard input"), last=True)
            return
        for number, path in enumerate(self.paths, 1):
            with ExitStack() as opened:
                try:
                    file = opened.enter_context(path.open("rb", buffering=0))
                except OSError as error:
                    raise ImportedFileError(f"cannot read {path}: {error.strerror or error}") from error
                yield from self._file(Source(file, str(path)), last=number == len(self.paths))

    def _file(self, source: Source, *, last: bool) -> Iterator[Event]:
        before = self.read_bytes
        for event in self._events(source, last=last):
            self.read_bytes = before + source.at
            yield event
        self.read_bytes = before + source.at

    def _events(self, source: Source, *, last: bool) -> Iterator[Event]:
        has_rdb = source.peek(len(MAGIC)) == MAGIC
        if has_rdb:
            reader = RdbReader(source, skip_unsupported=self.skip_unsupported)
            yield from reader
            self.facts = reader.facts
        start = source.peek(1)
        if not start:
            if not has_rdb and not self.paths[1:]:
                raise ImportedFileError(f"{source.name} is empty")
            return
        if start not in _AOF_STARTS:
            what = "bytes follow the end of the RDB" if has_rdb else "it is neither an RDB nor an append-only file"
            raise source.wrong(what)
        self.replays = True
        yield from aof.read(source, skip_unsupported=self.skip_unsupported, last=last)
