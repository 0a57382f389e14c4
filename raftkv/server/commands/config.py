"""CONFIG: the settings of this node, in the names and forms that Redis' tools ask for.

Names, checks and texts are those of :mod:`raftkv.config`. A change holds for this node until it stops: the file
and the environment it was started with stay as they are. Secrets are never shown, set or not.
"""

from __future__ import annotations

from raftkv.commands.glob import compile_glob
from raftkv.commands.registry import Argv, command
from raftkv.config import SETTINGS, Settings, change_all, view
from raftkv.errors import CommandError, ConfigError
from raftkv.protocol.replies import OK, Reply
from raftkv.server.commands.common import declare_help
from raftkv.server.state import ServerContext

_FLAGS = "admin noscript loading stale"


@command("CONFIG GET", arity=-3, flags=_FLAGS, group="server", since="2.0.0", scope="server",
         syntax="parameter [parameter ...]", summary="Settings whose names match one of the patterns; secrets are empty.",
         complexity="O(N) with N the number of settings times that of patterns")  # fmt: skip
def config_get(context: ServerContext, argv: Argv) -> Reply:
    matches = [compile_glob(pattern.lower()) for pattern in argv[2:]]
    secret = {one.config_name for one in SETTINGS.values() if one.secret}
    return {
        name.encode(): b"" if name in secret else value.encode()
        for name, value in view(context.node.settings).items()
        if any(match(name.encode()) for match in matches)
    }


def _is_what_is_fixed(settings: Settings, name: str, value: str) -> bool:
    """Whether a tool sets what is fixed here (appendonly yes, save "") to what it is: no change, and no error.

    Raises CommandError when it is one of Redis' names for what is fixed, and the value another one.
    """
    shown = view(settings).get(name.lower())
    known = SETTINGS.get(name.lower().replace("-", "_"))
    if shown is None or (known is not None and known.runtime):
        return False
    if known is None and shown != value:
        raise CommandError(f"CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config")
    return shown == value


@command("CONFIG SET", arity=-4, flags=_FLAGS, group="server", since="2.0.0", scope="server",
         syntax="parameter value [parameter value ...]", summary="Change settings of this node until it stops.",
         complexity="O(N) with N the number of settings given")  # fmt: skip
def config_set(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) % 2:
        raise CommandError("wrong number of arguments for 'config|set' command")
    words = [word.decode("utf-8", "replace") for word in argv[2:]]
    pairs = list(zip(words[::2], words[1::2], strict=True))
    settings = context.node.settings
    changes = [pair for pair in pairs if not _is_what_is_fixed(settings, *pair)]
    try:
        settings = change_all(settings, changes)
    except ConfigError as error:
        raise CommandError(error.message) from None
    context.node.change_settings(settings)
    return OK


@command("CONFIG RESETSTAT", arity=2, flags=_FLAGS, group="server", since="2.0.0", scope="server",
         summary="Set the counters that INFO shows back to zero.")  # fmt: skip
def config_resetstat(context: ServerContext, _argv: Argv) -> Reply:
    context.node.reset_statistics()
    context.node.clients.reset_counters()
    return OK


@command("CONFIG REWRITE", arity=2, flags=_FLAGS, group="server", since="2.8.0", scope="server",
         summary="Refused: a node does not write the file that it was configured with.")  # fmt: skip
def config_rewrite(_context: ServerContext, _argv: Argv) -> Reply:
    raise CommandError("CONFIG REWRITE is not supported: change the file or the environment that this node starts with")


declare_help("CONFIG", "server", "5.0.0")
