"""``docs/commands.md`` from the table of commands: ``python -m raftkv.server.commands.docs > docs/commands.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from raftkv.commands.registry import Command, all_commands
from raftkv.server.commands.introspection import is_container, subcommands

_GROUPS: Final = {
    "string": "Strings",
    "list": "Lists",
    "set": "Sets",
    "hash": "Hashes",
    "sorted-set": "Sorted sets",
    "generic": "Keys",
    "transactions": "Transactions",
    "scripting": "Scripts",
    "connection": "Connection",
    "server": "Server",
    "cluster": "Cluster",
    "sentinel": "Sentinel",
    "raft": "Raft",
}
"""Group to its title, in the order of the document; a group that is not here stands at the end under its own name."""

_HEAD: Final = """\
# Commands

Made from the table of commands by `python -m raftkv.server.commands.docs`; a test compares the two.
*since* is the version of Redis that a command has come with, or the version of raftkv for our own.
Writes go through the Raft log and are on a majority of disks before they are answered; reads are linearizable on
every node. Commands of the groups Connection, Server, Cluster, Sentinel and Raft speak of the node that gets them.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _rows(one: Command) -> list[str]:
    own = [] if is_container(one) else [_row(one)]
    return own + [_row(sub) for sub in subcommands(one)]


def _row(one: Command) -> str:
    synopsis = _cell(f"{one.full_name} {one.syntax}".rstrip())
    return f"| {synopsis} | {_cell(one.summary)} | {_cell(one.complexity)} | {one.since} |"


def render(commands: Iterable[Command]) -> str:
    """The document about ``commands`` (top-level ones; sub-commands are found in them)."""
    groups: dict[str, list[Command]] = {group: [] for group in _GROUPS}
    for one in sorted(commands, key=lambda one: one.name):
        groups.setdefault(one.group, []).append(one)
    lines = [_HEAD]
    for group, found in groups.items():
        if found:
            lines += [f"## {_GROUPS.get(group, group.capitalize())}", ""]
            lines += ["| command | what it does | complexity | since |", "|---|---|---|---|"]
            lines += [row for one in found for row in _rows(one)]
            lines.append("")
    return "\n".join(lines)


def load_all() -> list[Command]:
    """Every command that a node has: importing the packages declares them."""
    import raftkv.commands
    import raftkv.server.commands

    load = getattr(raftkv.commands, "load_all", None)
    if callable(load):
        load()
    return all_commands()


if __name__ == "__main__":
    sys.stdout.write(render(load_all()))
