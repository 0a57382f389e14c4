"""ACL: the one user there is, and the categories of the commands.

The user ``default`` may do everything once it is logged in; ``requirepass`` is its password.
Formats: https://redis.io/docs/latest/commands/acl-getuser/, acl-list, acl-cat (7.0).
"""

from __future__ import annotations

from raftkv.commands.registry import Argv, Command, all_commands, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply, SetReply
from raftkv.server.commands.common import declare_help
from raftkv.server.commands.connection import DEFAULT_USER
from raftkv.server.commands.introspection import is_container, wire_name, with_subcommands
from raftkv.server.state import ServerContext

_OPEN = "noscript loading stale"
_ADMIN = "admin noscript loading stale"


@command("ACL WHOAMI", arity=2, flags=_OPEN, group="server", since="6.0.0", scope="server",
         summary="The user of this connection.")  # fmt: skip
def acl_whoami(context: ServerContext, _argv: Argv) -> Reply:
    return context.client.user.encode()


def _by_category() -> dict[str, list[Command]]:
    found: dict[str, list[Command]] = {}
    for one in with_subcommands(all_commands()):
        for category in one.categories():
            found.setdefault(category, []).append(one)
    return found


@command("ACL CAT", arity=-2, flags=_OPEN, group="server", since="6.0.0", scope="server", syntax="[category]",
         summary="The categories of commands, or the commands of one.", complexity="O(N) with N the number of commands")  # fmt: skip
def acl_cat(_context: ServerContext, argv: Argv) -> Reply:
    found = _by_category()
    if len(argv) == 2:
        return [category.encode() for category in sorted(found)]
    asked = argv[2].decode("utf-8", "replace").lower()
    if asked not in found:
        raise CommandError(f"Unknown category '{argv[2].decode('utf-8', 'replace')[:128]}'")
    return [wire_name(one).encode() for one in found[asked] if not is_container(one)]


@command("ACL LIST", arity=2, flags=_ADMIN, group="server", since="6.0.0", scope="server",
         summary="The users as rules; a password is left out.")  # fmt: skip
def acl_list(context: ServerContext, _argv: Argv) -> Reply:
    # Redis shows a hash of the password here. A hash of a short password is as good as the password: it is left out.
    nopass = "" if context.node.settings.requirepass else " nopass"
    return [f"user {DEFAULT_USER} on{nopass} ~* &* +@all".encode()]


@command("ACL USERS", arity=2, flags=_ADMIN, group="server", since="6.0.0", scope="server",
         summary="The names of the users.")  # fmt: skip
def acl_users(_context: ServerContext, _argv: Argv) -> Reply:
    return [DEFAULT_USER.encode()]


@command("ACL GETUSER", arity=3, flags=_ADMIN, group="server", since="6.0.0", scope="server", syntax="username",
         summary="What a user may do; its password is left out.")  # fmt: skip
def acl_getuser(context: ServerContext, argv: Argv) -> Reply:
    if argv[2] != DEFAULT_USER.encode():
        return None
    return {
        b"flags": SetReply([b"on"] if context.node.settings.requirepass else [b"on", b"nopass"]),
        b"passwords": [],
        b"commands": b"+@all",
        b"keys": b"~*",
        b"channels": b"&*",
        b"selectors": [],
    }


declare_help("ACL", "server", "6.0.0")
