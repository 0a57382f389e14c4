"""What several families of server commands share: HELP, name checks, glob patterns, awaiting a callback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from raftkv.commands.registry import TABLE, Argv, command
from raftkv.errors import CommandError, RaftKVError
from raftkv.protocol.replies import Reply, Verbatim

T = TypeVar("T")

Start = Callable[[Callable[[T, RaftKVError | None], None]], None]
"""A method of the replicator with everything but its callback filled in."""

_PRINTABLE: Final = range(ord("!"), ord("~") + 1)


def declare_help(parent: str, group: str, since: str) -> None:
    """Declare ``<parent> HELP``, which answers the sub-commands that the table has: it cannot go stale."""

    def show_help(_context: object, _argv: Argv) -> Reply:
        lines = [f"{parent} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
        found = {one.name: one for one in TABLE[parent.encode()].subcommands.values()}
        for name in sorted(found):
            lines.append(f"{name} {found[name].syntax}".rstrip())
            lines.append(f"    {found[name].summary}")
        return lines

    command(
        f"{parent} HELP", arity=2, flags="loading stale", group=group, since=since, scope="server",
        summary=f"What the sub-commands of {parent} are.", complexity="O(N) with N the number of sub-commands",
    )(show_help)  # fmt: skip


def unknown_subcommand(argv: Argv) -> CommandError:
    """Redis' error for a container command whose second word it does not know."""
    word = argv[1].decode("utf-8", "replace")[:128]
    return CommandError(f"unknown subcommand '{word}'. Try {argv[0].decode('utf-8', 'replace').upper()} HELP.")


def printable(raw: bytes, what: str) -> str:
    """``raw`` as a name without spaces or control characters.

    Raises CommandError with Redis' text (``what`` is its subject: "Client names", "lib-name").
    """
    if any(byte not in _PRINTABLE for byte in raw):
        raise CommandError(f"{what} cannot contain spaces, newlines or special characters.")
    return raw.decode("ascii")


def on_off(raw: bytes) -> bool:
    """``ON`` or ``OFF`` in any case; raises a syntax error for anything else."""
    word = raw.upper()
    if word not in {b"ON", b"OFF"}:
        raise CommandError("syntax error")
    return word == b"ON"


def text(lines: str) -> Verbatim:
    """Text for people, as INFO and CLIENT LIST answer it."""
    return Verbatim(lines.encode("utf-8", "surrogateescape"))


def host_port(address: str) -> tuple[str, int]:
    """``("::1", 7379)`` of ``[::1]:7379``; ``("", 0)`` of an empty or unknown address."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdigit() else ("", 0)


async def completed(start: Start[T]) -> T:
    """Call ``start`` with a callback and wait for it; raises the error that the callback gets."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(value: T, error: RaftKVError | None) -> None:
        # The connection that waited may be gone: its task was cancelled, and nobody reads the outcome.
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    start(done)
    return await future


def human_bytes(count: int) -> str:
    """``1.50M``: as INFO shows an amount of memory."""
    amount: float = count
    for unit in "BKMGT":
        if amount < 1024:
            return f"{count}B" if unit == "B" else f"{amount:.2f}{unit}"
        amount /= 1024
    return f"{amount:.2f}P"


def flat_text(pairs: dict[str, Any]) -> Reply:
    """A map whose keys and values are all bulk strings, as SENTINEL answers."""
    return {name.encode(): str(value).encode() for name, value in pairs.items()}
