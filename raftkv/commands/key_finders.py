"""Keys at places that the arguments themselves say (commands with the flag movablekeys)."""

from __future__ import annotations

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv
from raftkv.errors import CommandError


def counted_keys(argv: Argv) -> list[bytes]:
    """The keys of ``COMMAND numkeys key [key ...] ...``.

    Empty when ``numkeys`` is not a positive integer or fewer words follow: the command itself refuses those.
    """
    try:
        count = parse_int(argv[1], low=1)
    except CommandError:
        return []
    keys = argv[2 : 2 + count]
    return keys if len(keys) == count else []
