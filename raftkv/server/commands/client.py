"""CLIENT: who is connected, and what a connection may change about itself or do to others.

Source: https://redis.io/docs/latest/commands/client/ (7.0; SETINFO and NO-TOUCH are 7.2, because clients send
them at connect). All connections are of type ``normal``: nodes speak to each other on a port of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import OK, Reply, SetReply
from raftkv.server.clients import describe
from raftkv.server.commands.common import declare_help, on_off, printable, text
from raftkv.server.commands.connection import DEFAULT_USER
from raftkv.server.state import Client, ServerContext

ClientType: TypeAlias = Literal["normal", "master", "replica", "pubsub"]

_OWN = "noscript loading stale"
_ADMIN = "admin noscript loading stale"
_TYPES: Final[dict[bytes, ClientType]] = {
    b"NORMAL": "normal",
    b"MASTER": "master",
    b"REPLICA": "replica",
    b"SLAVE": "replica",
    b"PUBSUB": "pubsub",
}


# ---------------------------------------------------------------- about the caller
@command("CLIENT ID", arity=2, flags=_OWN, group="connection", since="5.0.0", scope="server",
         summary="The number of this connection.")  # fmt: skip
def client_id(context: ServerContext, _argv: Argv) -> Reply:
    return context.client.id


@command("CLIENT INFO", arity=2, flags=_OWN, group="connection", since="6.2.0", scope="server",
         summary="The line of CLIENT LIST about this connection.")  # fmt: skip
def client_info(context: ServerContext, _argv: Argv) -> Reply:
    return text(describe(context.client, context.node.clock.monotonic()) + "\n")


@command("CLIENT SETNAME", arity=3, flags=_OWN, group="connection", since="2.6.9", scope="server",
         syntax="connection-name", summary="Name this connection.")  # fmt: skip
def client_setname(context: ServerContext, argv: Argv) -> Reply:
    context.client.name = printable(argv[2], "Client names")
    return OK


@command("CLIENT GETNAME", arity=2, flags=_OWN, group="connection", since="2.6.9", scope="server",
         summary="The name of this connection, nil if it has none.")  # fmt: skip
def client_getname(context: ServerContext, _argv: Argv) -> Reply:
    return context.client.name.encode() or None


@command("CLIENT SETINFO", arity=4, flags=_OWN, group="connection", since="7.2.0", scope="server",
         syntax="<LIB-NAME libname | LIB-VER libver>", summary="Say which library this connection uses.")  # fmt: skip
def client_setinfo(context: ServerContext, argv: Argv) -> Reply:
    attribute = argv[2].upper()
    if attribute == b"LIB-NAME":
        context.client.lib_name = printable(argv[3], "lib-name")
    elif attribute == b"LIB-VER":
        context.client.lib_ver = printable(argv[3], "lib-ver")
    else:
        raise CommandError(f"Unrecognized option '{argv[2].decode('utf-8', 'replace')[:128]}'")
    return OK


@command("CLIENT REPLY", arity=3, flags=_OWN, group="connection", since="3.2.0", scope="server", syntax="<ON | OFF | SKIP>",
         summary="Send replies to this connection, or none, or skip the next one.")  # fmt: skip
def client_reply(context: ServerContext, argv: Argv) -> Reply:
    client, mode = context.client, argv[2].upper()
    if mode == b"ON":
        client.reply_on = True
        client.reply_skip = 0
    elif mode == b"OFF":
        client.reply_on = False
    elif mode == b"SKIP":
        # This answer and the next one are swallowed; after OFF there is nothing to skip.
        client.reply_skip = 2 if client.reply_on else 0
    else:
        raise CommandError("syntax error")
    return OK


@command("CLIENT NO-EVICT", arity=3, flags=_ADMIN, group="connection", since="7.0.0", scope="server", syntax="<ON | OFF>",
         summary="Exempt this connection from eviction; accepted, as raftkv evicts none.")  # fmt: skip
def client_no_evict(context: ServerContext, argv: Argv) -> Reply:
    context.client.no_evict = on_off(argv[2])
    return OK


@command("CLIENT NO-TOUCH", arity=3, flags=_OWN, group="connection", since="7.2.0", scope="server", syntax="<ON | OFF>",
         summary="Do not count reads as use of a key; accepted, as raftkv does not count it.")  # fmt: skip
def client_no_touch(_context: ServerContext, argv: Argv) -> Reply:
    on_off(argv[2])
    return OK


@command("CLIENT GETREDIR", arity=2, flags=_OWN, group="connection", since="6.0.0", scope="server",
         summary="Where invalidation messages go: -1, as there is no client-side caching.")  # fmt: skip
def client_getredir(_context: ServerContext, _argv: Argv) -> Reply:
    return -1


@command("CLIENT TRACKINGINFO", arity=2, flags=_OWN, group="connection", since="6.2.0", scope="server",
         summary="State of client-side caching: off.")  # fmt: skip
def client_trackinginfo(_context: ServerContext, _argv: Argv) -> Reply:
    return {b"flags": SetReply([b"off"]), b"redirect": -1, b"prefixes": []}


# ---------------------------------------------------------------- about others
def _client_type(raw: bytes) -> ClientType:
    found = _TYPES.get(raw.upper())
    if found is None:
        raise CommandError(f"Unknown client type '{raw.decode('utf-8', 'replace')[:128]}'")
    return found


@command("CLIENT LIST", arity=-2, flags=_ADMIN, group="connection", since="2.4.0", scope="server",
         syntax="[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
         summary="One line for each connection to this node.", complexity="O(N) with N the number of connections")  # fmt: skip
def client_list(context: ServerContext, argv: Argv) -> Reply:
    registry = context.node.clients
    if len(argv) == 2:
        chosen = list(registry)
    elif len(argv) == 4 and argv[2].upper() == b"TYPE":
        chosen = list(registry) if _client_type(argv[3]) == "normal" else []
    elif len(argv) > 3 and argv[2].upper() == b"ID":
        found = [registry.get(parse_int(word, "Invalid client ID")) for word in argv[3:]]
        chosen = [client for client in found if client is not None]
    else:
        raise CommandError("syntax error")
    now = context.node.clock.monotonic()
    return text("".join(describe(client, now) + "\n" for client in chosen))


Test: TypeAlias = Callable[[Client], bool]


def _kill_test(option: bytes, value: bytes) -> Test:
    """Whether a connection is meant by ``option value`` of CLIENT KILL."""
    if option == b"ID":
        wanted = parse_int(value, "client-id should be greater than 0", low=1)
        return lambda client: client.id == wanted
    if option == b"ADDR":
        return lambda client: client.address.encode() == value
    if option == b"LADDR":
        return lambda client: client.local_address.encode() == value
    if option == b"TYPE":
        normal = _client_type(value) == "normal"
        return lambda _client: normal
    if option == b"USER":
        if value != DEFAULT_USER.encode():
            raise CommandError(f"No such user '{value.decode('utf-8', 'replace')[:128]}'")
        return lambda client: client.user == DEFAULT_USER
    raise CommandError("syntax error")


def _kill(context: ServerContext, victim: Client) -> None:
    if victim is context.client:
        victim.closing = True  # its own answer still has to be sent
    else:
        victim.close()


@command("CLIENT KILL", arity=-3, flags=_ADMIN, group="connection", since="2.4.0", scope="server",
         syntax="<ip:port | [ID client-id] [TYPE type] [USER username] [ADDR ip:port] [LADDR ip:port] [SKIPME <YES | NO>]>",
         summary="Close connections to this node.", complexity="O(N) with N the number of connections")  # fmt: skip
def client_kill(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) == 3:  # the form of before 2.8.12, which answers OK
        victims = [client for client in context.node.clients if client.address.encode() == argv[2]]
        if not victims:
            raise CommandError("No such client")
        _kill(context, victims[0])
        return OK
    if len(argv) % 2:
        raise CommandError("syntax error")
    tests: list[Test] = []
    skip_me = True
    for option, value in zip(argv[2::2], argv[3::2], strict=True):
        if option.upper() != b"SKIPME":
            tests.append(_kill_test(option.upper(), value))
        elif value.upper() in {b"YES", b"NO"}:
            skip_me = value.upper() == b"YES"
        else:
            raise CommandError("syntax error")
    victims = [client for client in context.node.clients if all(meant(client) for meant in tests)]
    if skip_me:
        victims = [client for client in victims if client is not context.client]
    for victim in victims:
        _kill(context, victim)
    return len(victims)


@command("CLIENT PAUSE", arity=-3, flags=_ADMIN, group="connection", since="3.0.0", scope="server",
         syntax="timeout [WRITE | ALL]", summary="Hold back the commands of clients, for a time in milliseconds.")  # fmt: skip
def client_pause(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) > 4:
        raise CommandError("syntax error")
    mode = argv[3].upper() if len(argv) == 4 else b"ALL"
    if mode not in {b"WRITE", b"ALL"}:
        raise CommandError("CLIENT PAUSE mode must be WRITE or ALL")
    timeout_ms = parse_int(argv[2], "timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise CommandError("timeout is negative")
    node = context.node
    node.pause_clients(node.clock.monotonic() + timeout_ms / 1000, writes_only=mode == b"WRITE")
    return OK


@command("CLIENT UNPAUSE", arity=2, flags=_ADMIN, group="connection", since="6.2.0", scope="server",
         summary="End CLIENT PAUSE now.")  # fmt: skip
def client_unpause(context: ServerContext, _argv: Argv) -> Reply:
    context.node.pause_clients(0.0, writes_only=False)
    return OK


declare_help("CLIENT", "connection", "5.0.0")
