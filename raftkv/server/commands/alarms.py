"""RAFT.ALARM: what is wrong with a member and stops all of them from growing (:mod:`raftkv.machine.alarms`)."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError, RaftKVError
from raftkv.machine.alarms import KINDS, NODE_BYTES_MAX, clearing
from raftkv.protocol.replies import Reply
from raftkv.server.commands.common import completed, declare_help
from raftkv.server.state import Node, ServerContext

_SINCE = "raftkv 0.1.0"


def alarm_texts(node: Node) -> list[str]:
    """``n2 NOSPACE: reason`` of each that stands, as this node knows it."""
    return [f"{one.node} {one.kind}: {one.reason}" for one in node.machine.alarms.standing]


@command("RAFT.ALARM LIST", arity=2, flags="loading stale", group="raft", since=_SINCE, scope="server",
         summary="The alarms that stand, as this node knows them: the member, what is wrong, and since when.",
         complexity="O(N) with N the number of alarms")  # fmt: skip
def alarm_list(context: ServerContext, _argv: Argv) -> Reply:
    return [
        {
            b"node": one.node.encode(),
            b"kind": one.kind.encode(),
            b"reason": one.reason.encode(),
            b"since_ms": one.since_ms,
        }
        for one in context.node.machine.alarms.standing
    ]


@command("RAFT.ALARM CLEAR", arity=4, flags="admin noscript", group="raft", since=_SINCE, scope="server", syntax="member kind",
         summary="Clear an alarm on every member; answers how many that were. A member that is still full raises it again.")  # fmt: skip
async def alarm_clear(context: ServerContext, argv: Argv) -> Reply:
    node, kind = (word.decode("utf-8", "backslashreplace") for word in argv[2:4])
    if kind.upper() not in KINDS:
        raise CommandError(f"no kind of alarm is called '{kind[:32]}'; there is: {', '.join(KINDS)}")
    if len(node.encode()) > NODE_BYTES_MAX:
        raise CommandError(f"a member's id has at most {NODE_BYTES_MAX} bytes")

    def start(done: Callable[[object, RaftKVError | None], None]) -> None:
        context.node.order_alarm(clearing(node, kind.upper()), done)

    return int(str(await completed(start)))


declare_help("RAFT.ALARM", "raft", _SINCE)
