"""``raftkv backup``: the state of a running node into one file, verified while it is written;
and what such files hold.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, Self

import typer

from raftkv.cli.options import Host, Password, Port, User
from raftkv.clock import SystemClock
from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.cli.connection import Connection
    from raftkv.offline.backup import BackupInfo, Origin

BEGIN_S: Final = 600.0
"""Writing the snapshot may take that long."""
READ_S: Final = 30.0
"""A piece that takes longer, or a node that does not come back in this time, ends the attempt."""
RECONNECT_S: Final = 0.2
SHOW_S: Final = 0.2
EXIT_FAILED: Final = 1

app = typer.Typer(
    help="Back up a running cluster into one file, from any node; look at backups and verify them.",
    invoke_without_command=True,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="A backup.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.callback()
def backup(
    context: typer.Context,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, which must not exist; - is standard output.",
            show_default=False,
        ),
    ] = "",
    port: Port = 7379,
    host: Host = "127.0.0.1",
    password: Password = "",
    user: User = "",
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Take the newest snapshot that the node has: this needs no leader, and lacks later writes."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a backup of all that was acknowledged before the command was given.

    Nobody has to stop: the node writes a snapshot in a process of its own. What arrives is verified as it comes, down
    to the last byte of its content; a FILE is there only if it is complete, synced and verified.
    """
    if context.invoked_subcommand is not None:
        return
    if not output:
        raise typer.BadParameter("say where to write the backup", param_hint="--output")
    if output == "-" and as_json:
        raise typer.BadParameter("standard output is taken by the backup", param_hint="--json")
    from raftkv.offline import backup as files

    began = time.monotonic()
    try:
        with RemoteSnapshot(host, port, user=user, password=password, stale=stale) as remote:
            read = _shown(remote.read, remote.origin.snapshot_bytes) if sys.stderr.isatty() else remote.read
            if output == "-":
                info = files.stream(_to_stdout, remote.origin, read)
                sys.stdout.buffer.flush()
            else:
                info = files.save(output, remote.origin, read)
    except BrokenPipeError:
        raise
    except (RaftKVError, OSError) as error:
        _fail(error)
    if as_json:
        print(json.dumps(fields(info) | {"seconds": round(time.monotonic() - began, 3)}))
        return
    seconds = max(time.monotonic() - began, 1e-3)
    print(f"{told(info)}\n{seconds:.1f} s, {info.size_bytes / seconds / 1e6:.1f} MB/s; verified", file=sys.stderr)


@app.command("info")
def show(file: File, as_json: AsJson = False) -> None:
    """What a backup says of itself. Its content is not read: see verify."""
    from raftkv.offline import backup as files

    _print(file, files.info, as_json=as_json, verdict="")


@app.command("verify")
def verify(file: File, as_json: AsJson = False) -> None:
    """Read all of a backup, decompression included. Exit code 1 when it is damaged."""
    from raftkv.offline import backup as files

    _print(file, files.verify, as_json=as_json, verdict="\nverified: every checksum matches")


def _print(file: Path, look: Callable[[str], BackupInfo], *, as_json: bool, verdict: str) -> None:
    try:
        info = look(str(file))
    except RaftKVError as error:
        _fail(error)
    print(json.dumps(fields(info)) if as_json else told(info) + verdict)


def fields(info: BackupInfo) -> dict[str, object]:
    """For JSON."""
    return asdict(info.origin) | asdict(info.facts) | {"size_bytes": info.size_bytes}


def told(info: BackupInfo) -> str:
    """For people."""
    from raftkv.offline.backup import show_time

    origin, facts = info.origin, info.facts
    return (
        f"cluster {origin.cluster_id}, taken from {origin.node_id} at {show_time(origin.taken_ms)} ({origin.program})\n"
        f"up to entry {origin.index}, term {origin.term}, of {show_time(facts.stamp_ms)}\n"
        f"{facts.keys:,} keys, {facts.content_bytes:,} bytes in a file of {info.size_bytes:,}"
    )


def _fail(error: RaftKVError | OSError) -> NoReturn:
    print(f"raftkv backup: {error.message if isinstance(error, RaftKVError) else error}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED) from None


def _to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)


def _shown(read: Callable[[int, int], bytes], total: int) -> Callable[[int, int], bytes]:
    """``read`` with a line on the terminal that is written over."""
    began = time.monotonic()
    shown = 0.0

    def reading(offset: int, length: int) -> bytes:
        nonlocal shown
        data = read(offset, length)
        now, done = time.monotonic(), offset + len(data)
        if now - shown >= SHOW_S or done == total:
            shown = now
            rate = done / max(now - began, 1e-3)
            left = f", {(total - done) / rate:.0f} s left" if done < total else ""
            end = "\n" if done == total else ""
            print(f"\r{done / total:4.0%} of {total:,} bytes, {rate / 1e6:.1f} MB/s{left}   ", end=end, file=sys.stderr)
            sys.stderr.flush()
        return data

    return reading


class RemoteSnapshot:
    """A node's snapshot, held there for reading.

    A connection that breaks is made anew; what was read is not read again.
    """

    def __init__(self, host: str, port: int, *, user: str, password: str, stale: bool) -> None:
        """Raises ReplyError, OSError."""
        from raftkv.cli.connection import as_fields
        from raftkv.offline.backup import Origin

        self._address = host, port
        self._user, self._password = user, password
        taken_ms = SystemClock().wall_ms()
        with self._connect(BEGIN_S) as connection:
            begun = as_fields(connection.ask("RAFT.BACKUP", "BEGIN", *(["STALE"] if stale else [])))
        self._id = begun["id"]
        self._piece = int(begun["piece"])
        self.origin: Origin = Origin(
            begun["cluster"], begun["node"], int(begun["index"]), int(begun["term"]), int(begun["size"]), taken_ms,
            begun["program"],
        )  # fmt: skip
        self._connection: Connection | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes. Raises ReplyError (the node let it go), OSError when the node stays away."""
        deadline = time.monotonic() + READ_S
        while True:
            try:
                if self._connection is None:
                    self._connection = self._connect(READ_S)
                data = self._connection.ask("RAFT.BACKUP", "READ", self._id, offset, min(length, self._piece))
            except OSError:
                self._drop()
                if time.monotonic() > deadline:
                    raise
                time.sleep(RECONNECT_S)
            else:
                if not isinstance(data, bytes):
                    raise RaftKVError(f"the node answered RAFT.BACKUP READ with {data!r}")
                return data

    def _connect(self, timeout_s: float) -> Connection:
        from raftkv.cli.connection import Connection

        host, port = self._address
        try:
            connection = Connection(host, port, timeout_s=timeout_s)
        except OSError as error:
            raise ConnectionError(f"cannot connect to {host}:{port}: {error.strerror or error}") from error
        connection.greet(user=self._user, password=self._password)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go there; the node does so by itself if this cannot be said."""
        try:
            if self._connection is not None:
                self._connection.call("RAFT.BACKUP", "END", self._id)
        except (OSError, RaftKVError):
            pass
        finally:
            self._drop()
