"""PING, ECHO, HELLO, AUTH, SELECT, READ, RESET, QUIT: the state of one connection.

Source: https://redis.io/docs/latest/commands/?group=connection (7.0).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from raftkv import __version__
from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, command
from raftkv.errors import AuthError, CommandError
from raftkv.protocol.replies import OK, Reply
from raftkv.server.commands.common import printable
from raftkv.server.consistency import LINEARIZABLE, parse
from raftkv.server.state import Client, ServerContext
from raftkv.store.keyspace import DATABASES

REDIS_VERSION: Final = "7.0.0"
"""The Redis whose behaviour is implemented. Clients choose features by it; ``raftkv_version`` is our own."""

DEFAULT_USER: Final = "default"

_NO_AUTH = "noscript loading stale fast no_auth allow_busy"
_INT32_MAX: Final = 2**31 - 1
_NO_PASSWORD = (
    "AUTH <password> called without any password configured for the default user. "  # noqa: S105 -- a message
    "Are you sure your configuration is correct?"
)
_HELLO_NOAUTH = (
    "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time"
)


@command("PING", arity=-1, flags="fast", group="connection", since="1.0.0", scope="server", syntax="[message]",
         summary="Answer PONG, or the message.")  # fmt: skip
def ping(_context: ServerContext, argv: Argv) -> Reply:
    if len(argv) > 2:
        raise CommandError("wrong number of arguments for 'ping' command")
    return argv[1] if len(argv) == 2 else "PONG"


@command("ECHO", arity=2, flags="loading stale fast", group="connection", since="1.0.0", scope="server",
         syntax="message", summary="Answer the message.")  # fmt: skip
def echo(_context: ServerContext, argv: Argv) -> Reply:
    return argv[1]


@command("QUIT", arity=-1, flags=_NO_AUTH, group="connection", since="1.0.0", scope="server",
         summary="Close the connection once its replies are sent.")  # fmt: skip
def quit_(context: ServerContext, _argv: Argv) -> Reply:
    context.client.closing = True
    return OK


@command("SELECT", arity=2, flags="loading stale fast", group="connection", since="1.0.0", scope="server",
         syntax="index", summary="Change the database that this connection works on.")  # fmt: skip
def select(context: ServerContext, argv: Argv) -> Reply:
    index = parse_int(argv[1])
    if not -_INT32_MAX - 1 <= index <= _INT32_MAX:
        raise CommandError(f"value is out of range, value must between {-_INT32_MAX - 1} and {_INT32_MAX}")
    if not 0 <= index < DATABASES:
        raise CommandError("DB index is out of range")
    context.client.db = index
    return OK


@command("RESET", arity=1, flags=_NO_AUTH, group="connection", since="6.2.0", scope="server",
         summary="Bring the connection back to the state that it had when it was opened.")  # fmt: skip
def reset(context: ServerContext, _argv: Argv) -> Reply:
    client = context.client
    leave_transaction(client)
    client.name = ""
    client.user = DEFAULT_USER
    client.authenticated = not context.node.settings.requirepass
    client.proto = 2
    client.db = 0
    client.no_evict = client.readonly = client.asking = client.redirect = client.is_replica = False
    client.consistency = LINEARIZABLE
    client.reply_on = True
    client.reply_skip = 0
    return "RESET"


@command("READ", arity=-1, flags="noscript loading stale fast", group="connection", since="raftkv 0.1.0", scope="server",
         syntax="[LINEARIZABLE | LOCAL | BOUNDED milliseconds | AT LEAST token]",
         summary="Choose how fresh the reads of this connection have to be, or tell what is chosen.")  # fmt: skip
def read(context: ServerContext, argv: Argv) -> Reply:
    client = context.client
    if len(argv) == 1:
        return str(client.consistency)
    client.consistency = parse(argv[1:])
    return OK


def leave_transaction(client: Client) -> None:
    """Forget the queue of MULTI and all watches (DISCARD, RESET, and EXEC once it is done)."""
    client.transaction = None
    client.transaction_failed = False
    client.watches.clear()


# ---------------------------------------------------------------- passwords
def same_secret(given: bytes, expected: bytes) -> bool:
    """Compare in a time that depends on neither content nor length of ``expected``."""
    return hmac.compare_digest(sha256(given).digest(), sha256(expected).digest())


def authenticate(context: ServerContext, user: bytes, password: bytes) -> None:
    """Log the client in. Raises AuthError (WRONGPASS). Without ``requirepass`` any password opens ``default``."""
    required = context.node.settings.requirepass or ""
    right_password = same_secret(password, required.encode()) or not required
    if not (same_secret(user, DEFAULT_USER.encode()) and right_password):
        context.node.metrics.auth_failures += 1
        raise AuthError("invalid username-password pair or user is disabled.", code="WRONGPASS")
    context.client.user = DEFAULT_USER
    context.client.authenticated = True


@command("AUTH", arity=-2, flags=_NO_AUTH, group="connection", since="1.0.0", scope="server",
         syntax="[username] password", summary="Log in with a password.")  # fmt: skip
def auth(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) > 3:
        raise CommandError("syntax error")
    if len(argv) == 2 and not context.node.settings.requirepass:
        raise CommandError(_NO_PASSWORD)
    user = argv[1] if len(argv) == 3 else DEFAULT_USER.encode()
    authenticate(context, user, argv[-1])
    return OK


@dataclass(frozen=True, slots=True)
class _HelloOptions:
    """The arguments of HELLO, checked."""

    proto: int
    """0: leave it."""
    credentials: tuple[bytes, bytes] | None = None
    name: str | None = None


def _hello_options(argv: Argv) -> _HelloOptions:
    proto = parse_int(argv[1], "Protocol version is not an integer or out of range")
    if proto not in {2, 3}:
        raise CommandError("unsupported protocol version", code="NOPROTO")
    credentials: tuple[bytes, bytes] | None = None
    name: str | None = None
    at = 2
    while at < len(argv):
        word = argv[at].upper()
        if word == b"AUTH" and at + 2 < len(argv):
            credentials = (argv[at + 1], argv[at + 2])
            at += 3
        elif word == b"SETNAME" and at + 1 < len(argv):
            name = printable(argv[at + 1], "Client names")
            at += 2
        else:
            raise CommandError(f"Syntax error in HELLO option '{argv[at].decode('utf-8', 'replace')[:128]}'")
    return _HelloOptions(proto, credentials, name)


@command("HELLO", arity=-1, flags=_NO_AUTH, group="connection", since="6.0.0", scope="server",
         syntax="[protover [AUTH username password] [SETNAME clientname]]",
         summary="Choose RESP2 or RESP3, log in and name the connection in one step.")  # fmt: skip
def hello(context: ServerContext, argv: Argv) -> Reply:
    client, node = context.client, context.node
    options = _hello_options(argv) if len(argv) > 1 else _HelloOptions(0)
    if options.credentials is not None:
        authenticate(context, *options.credentials)
    if node.settings.requirepass and not client.authenticated:
        raise AuthError(_HELLO_NOAUTH)
    if options.name is not None:
        client.name = options.name
    if options.proto:
        client.proto = options.proto
    leads = node.replicator.status().role == "leader"
    return {
        b"server": b"redis",
        b"version": REDIS_VERSION.encode(),
        b"proto": client.proto,
        b"id": client.id,
        b"mode": b"cluster",
        b"role": b"master" if leads else b"replica",
        b"modules": [],
        b"raftkv_version": __version__.encode(),
    }


@command("TIME", arity=1, flags="loading stale fast", group="server", since="2.6.0", scope="server",
         summary="This node's clock: seconds since the epoch, and microseconds.")  # fmt: skip
def time_(context: ServerContext, _argv: Argv) -> Reply:
    seconds, millis = divmod(context.node.clock.wall_ms(), 1000)
    return [b"%d" % seconds, b"%d" % (millis * 1000)]
