"""Every place where pysyncobj is touched other than through its documented interface, in one list.

The engine is pinned: :func:`check` refuses to start on another version or when one of the names below has
gone, because each guard was proved against exactly this code. ``consensus.md`` tells why each is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import pysyncobj
from pysyncobj import SyncObj, syncobj
from pysyncobj.journal import Journal
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from raftkv.errors import InvariantError

PINNED: Final = "0.3.17"

OVERRIDDEN: Final = {
    "_SyncObj__doApplyCommand": "unpickles commands; ours are handed to the state machine as bytes",
    "_SyncObj__sendAppendEntries": "sends again what is in flight; ours keeps a window for each follower",
    "_checkCommandsToApply": "takes commands from the engine's queue; proposals go to the log directly",
}
"""Methods that :class:`raftkv.consensus.engine.Engine` replaces, and why."""

CALLED: Final = {
    "_getLeader": "whom this node follows",
    "_SyncObj__updateClusterConfiguration": "who votes; the rules of changing it are ours",
}
"""Methods without a public name that we call."""

REPLACED: Final = {
    "_SyncObj__serializer": "snapshots are checksummed, streamed and aligned with the log",
    "_SyncObj__lastSerializedEntry": "a snapshot whose file is damaged is written again",
    "_poller": "the event loop polls, not the engine",
    "_SyncObj__lastResponseTime": "who comes to vote under a leader has its chance to answer",
    "_SyncObj__raftCommitIndex": "entries of earlier terms are committed without reading each of them",
}
"""Attributes of an engine that are set from outside."""

READ: Final = {
    "_SyncObj__raftElectionDeadline": "0 from the trigger of an election until the tick that begins it",
    "_SyncObj__raftState": "whether this node leads",
    "_SyncObj__raftCurrentTerm": "the term",
    "_SyncObj__raftCommitIndex": "the commit index",
    "_SyncObj__raftLastApplied": "the applied index",
    "_SyncObj__raftMatchIndex": "what each voter acknowledged to this leader",
    "_SyncObj__noopIDx": "the first entry of the term that this node leads",
}
"""Attributes of an engine that we look at."""

OF_THE_TRANSPORT: Final = {
    "_onMessageReceived": "a message for the engine",
    "_onNodeConnected": "a member can be reached",
}
"""Methods without a public name of the engine's Transport that we call."""

GLOBALS: Final = ("createJournal", "monotonicTime", "random")

_original_create_journal = syncobj.createJournal


def _create_journal(journal: Any) -> Any:
    return journal if isinstance(journal, Journal) else _original_create_journal(journal)


def check() -> None:
    """Raise InvariantError when the installed engine is not the one that the guards were written for."""
    if VERSION != PINNED:
        msg = f"pysyncobj {VERSION} is installed but the guards were proved on {PINNED}; install pysyncobj=={PINNED}"
        raise InvariantError(msg)
    missing = [name for name in (*OVERRIDDEN, *CALLED) if not hasattr(SyncObj, name)]
    attributes = SyncObj.__init__.__code__.co_names  # they are set there: no engine has to be made to look for them
    missing += {name for name in (*REPLACED, *READ) if name not in attributes}
    missing += [name for name in OF_THE_TRANSPORT if not hasattr(Transport, name)]
    missing += [name for name in GLOBALS if not hasattr(syncobj, name)]
    if missing:
        msg = f"pysyncobj {VERSION} at {pysyncobj.__file__} lacks {', '.join(sorted(missing))}"
        raise InvariantError(msg)


def install(monotonic: Callable[[], float], rng: random.Random) -> None:
    """Let the engine take a Journal object, and time and randomness from outside.

    These are module globals of the engine, hence one clock and one generator per process (a simulation of
    many nodes in one process shares its virtual clock anyway).
    """
    check()
    syncobj.createJournal = _create_journal
    syncobj.monotonicTime = monotonic
    syncobj.random = rng


class NullPoller:
    """Stands in for the engine's poller: nothing is ever polled there."""

    def subscribe(self, descr: object, callback: object, eventMask: int) -> None:  # noqa: N803 -- engine's name
        pass

    def unsubscribe(self, descr: object) -> None:
        pass

    def poll(self, timeout: float) -> None:
        pass
