"""COMMAND: the table of commands, told to clients in the forms that Redis 7.0 has for it.

Cluster clients route by COMMAND and COMMAND GETKEYS; redis-cli completes and hints from COMMAND DOCS.
Sources: https://redis.io/docs/latest/commands/command/, command-docs, command-list; the forms of RESP3 (sets, maps)
were compared with redis-server 7.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from raftkv.commands.glob import compile_glob
from raftkv.commands.registry import TABLE, Argv, Command, all_commands, command, lookup
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply, SetReply
from raftkv.server.commands.common import declare_help, unknown_subcommand
from raftkv.server.commands.syntax import Argument, parse_syntax

_FLAGS = "loading stale"

FLAG_ORDER: Final = (
    "write", "readonly", "denyoom", "admin", "pubsub", "noscript", "blocking", "loading", "stale", "skip_monitor",
    "skip_slowlog", "fast", "no_auth", "may_replicate", "no_mandatory_keys", "no_async_loading", "no_multi", "movablekeys",
    "allow_busy",
)  # fmt: skip
"""Flags that clients know, in Redis' order. What else the table has (``dangerous``) only makes an ACL category."""


def wire_name(one: Command) -> str:
    """``get``, ``config|set``: how COMMAND, INFO and ACL call a command."""
    return one.full_name.lower().replace(" ", "|")


def subcommands(one: Command) -> list[Command]:
    """The sub-commands of a container, each once, by name."""
    return sorted({id(sub): sub for sub in one.subcommands.values()}.values(), key=lambda sub: sub.name)


def is_container(one: Command) -> bool:
    """Whether ``one`` does nothing but hold sub-commands (COMMAND itself does something)."""
    return bool(one.subcommands) and one.syntax.startswith("subcommand ")


def with_subcommands(commands: Iterable[Command]) -> list[Command]:
    """Each command followed by its sub-commands."""
    return [found for one in commands for found in (one, *subcommands(one))]


def find(name: bytes) -> Command | None:
    """The command called ``get``, ``config`` or ``config|set``, in any case."""
    parent, _, sub = name.upper().partition(b"|")
    found = TABLE.get(parent)
    if found is None or not sub:
        return None if sub or b"|" in name else found
    return found.subcommands.get(sub)


# ---------------------------------------------------------------- COMMAND, COMMAND INFO
def visible_flags(one: Command) -> list[str]:
    """The flags of ``one`` that clients know."""
    flags = one.flags | {"movablekeys"} if one.key_finder is not None else one.flags
    return [flag for flag in FLAG_ORDER if flag in flags]


def access_flags(one: Command) -> list[str]:
    """How ``one`` uses its keys. Of a write the most is said (it may read too), as Redis does where it cannot tell."""
    return ["RW", "access", "update"] if one.write else ["RO", "access"]


def _key_specs(one: Command) -> list[Reply]:
    first, last, step = one.keys
    if one.key_finder is not None and not first:
        unknown = {b"type": b"unknown", b"spec": {}}
        return [{b"flags": SetReply(access_flags(one)), b"begin_search": unknown, b"find_keys": unknown}]
    if not first:
        return []
    last_relative = last - first if last >= 0 else last
    return [
        {
            b"flags": SetReply(access_flags(one)),
            b"begin_search": {b"type": b"index", b"spec": {b"index": first}},
            b"find_keys": {
                b"type": b"range",
                b"spec": {b"lastkey": last_relative, b"keystep": step, b"limit": 0},
            },
        }
    ]


def info_entry(one: Command) -> list[Reply]:
    """The ten elements of COMMAND INFO."""
    subs = [info_entry(sub) for sub in subcommands(one)]
    return [
        wire_name(one).encode(),
        one.arity,
        SetReply(visible_flags(one)),
        *one.keys,
        SetReply(f"@{category}" for category in one.categories()),
        SetReply(),  # tips: how to merge answers of many shards, of which there is one
        SetReply(_key_specs(one)),
        subs or SetReply(),
    ]


@command("COMMAND", arity=-1, flags=_FLAGS, group="server", since="2.8.13", scope="server",
         summary="Details of every command.", complexity="O(N) with N the number of commands")  # fmt: skip
def command_(_context: object, argv: Argv) -> Reply:
    if len(argv) > 1:
        raise unknown_subcommand(argv)
    return [info_entry(one) for one in all_commands()]


@command("COMMAND INFO", arity=-2, flags=_FLAGS, group="server", since="2.8.13", scope="server",
         syntax="[command-name [command-name ...]]", summary="Details of some commands; nil for one that is unknown.",
         complexity="O(N) with N the number of commands asked for")  # fmt: skip
def command_info(_context: object, argv: Argv) -> Reply:
    if len(argv) == 2:
        return [info_entry(one) for one in all_commands()]
    found = [find(name) for name in argv[2:]]
    return [None if one is None else info_entry(one) for one in found]


@command("COMMAND COUNT", arity=2, flags=_FLAGS, group="server", since="2.8.13", scope="server",
         summary="How many commands there are.")  # fmt: skip
def command_count(_context: object, _argv: Argv) -> Reply:
    return len(all_commands())


# ---------------------------------------------------------------- COMMAND DOCS
def _argument_entry(argument: Argument) -> Reply:
    entry: dict[bytes, Reply] = {b"name": argument.name.encode(), b"type": argument.type.encode()}
    if argument.type == "key":
        entry[b"key_spec_index"] = 0
    if argument.token:
        entry[b"token"] = argument.token.encode()
    flags = [name for name in ("optional", "multiple") if getattr(argument, name)]
    if flags:
        entry[b"flags"] = SetReply(flags)
    if argument.arguments:
        entry[b"arguments"] = [_argument_entry(one) for one in argument.arguments]
    return entry


def docs_entry(one: Command) -> dict[bytes, Reply]:
    """What COMMAND DOCS says of one command."""
    entry: dict[bytes, Reply] = {
        b"summary": one.summary.encode(),
        b"since": one.since.encode(),
        b"group": one.group.encode(),
        b"complexity": one.complexity.encode(),
    }
    subs = subcommands(one)
    if subs:
        entry[b"subcommands"] = {wire_name(sub).encode(): docs_entry(sub) for sub in subs}
    elif one.syntax:
        entry[b"arguments"] = [_argument_entry(argument) for argument in parse_syntax(one.syntax)]
    return entry


@command("COMMAND DOCS", arity=-2, flags=_FLAGS, group="server", since="7.0.0", scope="server",
         syntax="[command-name [command-name ...]]", summary="Documentation of commands; unknown ones are left out.",
         complexity="O(N) with N the number of commands asked for")  # fmt: skip
def command_docs(_context: object, argv: Argv) -> Reply:
    found = [find(name) for name in argv[2:]] if len(argv) > 2 else all_commands()
    return {wire_name(one).encode(): docs_entry(one) for one in found if one is not None}


# ---------------------------------------------------------------- COMMAND LIST
def _name_filter(kind: bytes, value: bytes) -> Callable[[Command], bool]:
    if kind == b"ACLCAT":
        category = value.decode("utf-8", "replace").lower()
        return lambda one: category in one.categories()
    if kind == b"PATTERN":
        matches = compile_glob(value, ignore_case=True)
        return lambda one: matches(wire_name(one).encode())
    if kind == b"MODULE":
        return lambda _one: False
    raise CommandError("syntax error")


@command("COMMAND LIST", arity=-2, flags=_FLAGS, group="server", since="7.0.0", scope="server",
         syntax="[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]", summary="Names of commands.",
         complexity="O(N) with N the number of commands")  # fmt: skip
def command_list(_context: object, argv: Argv) -> Reply:
    every = with_subcommands(all_commands())
    if len(argv) == 2:
        return [wire_name(one).encode() for one in every]
    if len(argv) != 5 or argv[2].upper() != b"FILTERBY":
        raise CommandError("syntax error")
    wanted = _name_filter(argv[3].upper(), argv[4])
    return [wire_name(one).encode() for one in every if wanted(one)]


# ---------------------------------------------------------------- COMMAND GETKEYS
def _keys_in(words: Argv) -> tuple[Command, list[bytes]]:
    if find(words[0]) is None or b"|" in words[0]:
        raise CommandError("Invalid command specified")
    try:
        one = lookup(words)
    except CommandError:
        raise CommandError("Invalid number of arguments specified for command") from None
    if one.key_finder is None and not one.keys[0]:
        raise CommandError("The command has no key arguments")
    keys = one.keys_of(words)
    if not keys:
        raise CommandError("Invalid arguments specified for command")
    return one, keys


@command("COMMAND GETKEYS", arity=-4, flags=_FLAGS, group="server", since="2.8.13", scope="server",
         syntax="command [arg [arg ...]]", summary="The keys in a command.",
         complexity="O(N) with N the number of arguments")  # fmt: skip
def command_getkeys(_context: object, argv: Argv) -> Reply:
    return _keys_in(argv[2:])[1]


@command("COMMAND GETKEYSANDFLAGS", arity=-4, flags=_FLAGS, group="server", since="7.0.0", scope="server",
         syntax="command [arg [arg ...]]", summary="The keys in a command, each with how it is used.",
         complexity="O(N) with N the number of arguments")  # fmt: skip
def command_getkeysandflags(_context: object, argv: Argv) -> Reply:
    one, keys = _keys_in(argv[2:])
    return [[key, SetReply(access_flags(one))] for key in keys]


declare_help("COMMAND", "server", "5.0.0")
