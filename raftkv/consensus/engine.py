"""pysyncobj's state machine of Raft, with its doors to the world replaced.

What stays the engine's: terms and votes, roles, the commit rule, check-quorum, the follower's side of an append.
What is ours: the log, sending entries (:mod:`raftkv.consensus.replication`), elections' timing, snapshots, apply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from raftkv.consensus.seams import NullPoller
from raftkv.replicator import Role

if TYPE_CHECKING:
    from raftkv.consensus.journal import JournalAdapter

logging.getLogger("pysyncobj").setLevel(logging.CRITICAL)  # what it says of value, the guards say with context

REGULAR: Final = 0
"""First byte of an entry that the state machine applies; the engine's no-op is 1."""

NEVER_S: Final = 1e9
"""The engine's own election timer must never fire: the election guard decides."""

_ROLES: Final[tuple[Role, ...]] = ("follower", "candidate", "leader")
"""By the engine's number of a state."""
_LEADER: Final = _ROLES.index("leader")

Deliver = dict[str, Any]


class EngineTransport(Transport):
    """The engine's messages leave through ``outgoing`` and enter through :meth:`deliver`."""

    def __init__(self, outgoing: Callable[[str, Deliver], bool]) -> None:
        super().__init__(None, None, None)
        self._outgoing = outgoing

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Node, message: Deliver) -> bool:
        return self._outgoing(node.id, message)

    def deliver(self, node: Node | None, message: Deliver) -> None:
        """Hand a message to the engine as if ``node`` had sent it."""
        self._onMessageReceived(node, message)

    def connected(self, node: Node) -> None:
        """Say that ``node`` can be reached."""
        self._onNodeConnected(node)

    def destroy(self) -> None:
        pass


def configuration(*, heartbeat_s: float, fallback_s: float, snapshot_file: str | None) -> SyncObjConf:
    """The engine's settings: no thread, no sockets, no timers of its own."""
    conf = SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,  # False would add a pipe and a write for each proposal
        appendEntriesPeriod=heartbeat_s,
        raftMinTimeout=NEVER_S,
        raftMaxTimeout=2 * NEVER_S,
        connectionTimeout=4 * NEVER_S,
        leaderFallbackTimeout=fallback_s,  # check-quorum: a leader without a majority steps down
        commandsWaitLeader=False,
        logCompactionMinEntries=2**62,  # only the compaction policy asks for snapshots
        logCompactionMinTime=NEVER_S,
        dynamicMembershipChange=False,
        pollerType="select",
    )
    conf.serializer = conf.deserializer = _unused
    conf.fullDumpFile = snapshot_file or "none"
    return conf


def _unused(*_: object) -> None:
    raise AssertionError


class _Nodes(dict[str, Node]):
    """The engine's name of a member, made when it is first met."""

    def __missing__(self, peer: str) -> Node:
        made = self[peer] = Node(peer)
        return made


class Engine(SyncObj):
    """One member's Raft state. ``apply`` gets (index, entry bytes); ``send_entries`` is asked on every tick."""

    def __init__(
        self,
        node_id: str,
        others: Iterable[str],
        conf: SyncObjConf,
        journal: JournalAdapter,
        transport: EngineTransport,
        apply: Callable[[int, bytes], None],
        send_entries: Callable[[], None],
    ) -> None:
        self._apply_entry = apply
        self._send_entries = send_entries
        self.nodes = _Nodes()
        snapshot_file = conf.fullDumpFile
        conf.journalFile = journal
        super().__init__(Node(node_id), [self.nodes[peer] for peer in sorted(others)], conf, transport=transport)
        conf.fullDumpFile = None if snapshot_file == "none" else snapshot_file
        self._poller = NullPoller()
        self._connect = transport.connected
        for node in self.nodes.values():
            self._connect(node)  # the links decide what is reachable; the engine need not care

    def use_serializer(self, serializer: object) -> None:
        """Replace the engine's snapshot code."""
        self._SyncObj__serializer = serializer

    def forget_snapshot(self) -> None:
        """Take another snapshot when asked, even of the entry that the last one ends with."""
        self._SyncObj__lastSerializedEntry = 0

    def use_voters(self, others: Iterable[str], now: float) -> None:
        """From now on these vote beside this node (fault 7 of consensus.md: not the engine's own membership code)."""
        before = self.otherNodes
        voters = [self.nodes[peer] for peer in others]
        self._SyncObj__updateClusterConfiguration(voters)
        for node in voters:
            if node not in before:
                self._connect(node)
                # A leader counts who answered lately: one that has just come to vote has not had its chance yet.
                self._SyncObj__lastResponseTime[node] = now

    # ------------------------------------------------------------ what the engine calls
    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802 -- mangled name of the engine's method
        self._apply_entry(self.raftLastApplied + 1, command)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 -- mangled name of the engine's method
        self._send_entries()

    def _checkCommandsToApply(self) -> None:  # noqa: N802 -- the engine's name
        """Proposals go to the log directly (:meth:`Replica.propose`); the engine's queue is not used."""

    # ------------------------------------------------------------ what we ask of it
    # Asked for at every message: as the engine's own properties, without a call into Python for each.
    raftCurrentTerm = property(attrgetter("_SyncObj__raftCurrentTerm"))  # noqa: N815 -- the engine's name
    raftCommitIndex = property(attrgetter("_SyncObj__raftCommitIndex"))  # noqa: N815 -- the engine's name
    raftLastApplied = property(attrgetter("_SyncObj__raftLastApplied"))  # noqa: N815 -- the engine's name

    @property
    def is_leader(self) -> bool:
        """Whether this node believes to lead."""
        return bool(self._SyncObj__raftState == _LEADER)

    @property
    def is_about_to_campaign(self) -> bool:
        """Whether an election was triggered that begins at the next tick."""
        return bool(self._SyncObj__raftElectionDeadline == 0)

    @property
    def leader_id(self) -> str:
        """The leader that this node follows (itself when it leads); empty if none is known."""
        leader = self._getLeader()
        return "" if leader is None else str(leader.id)

    @property
    def first_own(self) -> int:
        """The first entry of the newest term that this node leads or led; 0 before it ever did."""
        return int(self._SyncObj__noopIDx or 0)

    def pass_over_earlier_terms(self) -> None:
        """Before a leader's tick: entries of earlier terms are committed along with its first own one (Raft paper,
        5.4.2).

        The engine would read each of them, in one go, to find that out: seconds after a start with a long log.
        """
        first = self.first_own
        if self.is_leader and self.raftCommitIndex < first - 1:
            matches = self._SyncObj__raftMatchIndex
            holders = 1 + sum(matches[node] >= first for node in self.otherNodes)
            if 2 * holders > len(self.otherNodes) + 1:
                self._SyncObj__raftCommitIndex = first - 1

    def role(self) -> Role:
        """leader, follower or candidate."""
        return _ROLES[int(self.getStatus()["state"])]
