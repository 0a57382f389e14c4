"""pysyncobj as it is installed, without our guards, in the same simulation: the evidence that they are needed.

The engine runs with its own journal, full dump, queue, request forwarding and election timer, at its default settings.
From outside come what it has interfaces or globals for: a transport, the clock, the generator, our state machine as a
consumer. A killed process finds its files as it wrote them. A power cut leaves them as they were up to
:data:`WRITE_BACK_S` ago, which is kind: the engine never syncs, and Linux may take 30 s to write a page back.

Checked are what clients may demand (:mod:`chaos.sim.clients`), one leader a term, one entry an index, progress, and
equal states at the end. Left out are faults of a disk below the files, and what is worse than TCP: messages lost,
repeated or overtaken on a connection, of which the engine promises nothing. Reads go through the log: the engine has no
others that could be linearizable.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, SyncObjConsumer, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from chaos.sim.changes import CHANGES
from chaos.sim.checks import Checks, Violation
from chaos.sim.clients import resp
from chaos.sim.member import Done, Member, SimReplica, TimedLog
from chaos.sim.profiles import Profile
from chaos.sim.trace import Trace
from chaos.sim.world import Result, World, judged
from raftkv.consensus.messages import Message
from raftkv.errors import BusyError, NoLeaderError, RaftKVError, UnknownOutcomeError
from raftkv.machine.batch import PLAIN, Group, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.server.consistency import LINEARIZABLE, Consistency

WRITE_BACK_S: Final = 1.0
CLOCK_STEP_S: Final = 0.0001
"""Each look at the clock takes so long: the engine has loops that end only when time has passed."""
LEFT_OUT: Final = frozenset({"power_at_operation", "disk_full", "rot", "slow_disk", *CHANGES})
"""Disks are the operating system's here, and nothing but our guards is told of changes of the group."""

_ERRORS: Final[dict[int, Callable[[], RaftKVError]]] = {
    FAIL_REASON.QUEUE_FULL: lambda: BusyError("the engine's queue is full"),
    FAIL_REASON.MISSING_LEADER: lambda: NoLeaderError("the engine knows no leader"),
    FAIL_REASON.DISCARDED: lambda: NoLeaderError("another command took its place"),
    FAIL_REASON.NOT_LEADER: lambda: NoLeaderError("forwarded to a node that does not lead"),
    FAIL_REASON.REQUEST_DENIED: lambda: NoLeaderError("denied"),
}
"""Reasons that promise that the command was not applied; all others leave it open."""


class State(SyncObjConsumer):  # type: ignore[misc]  # the engine's classes are untyped
    """Our state machine, as what the engine replicates."""

    def __init__(self, member: StockMember) -> None:
        super().__init__()
        self.member = member

    @replicated  # type: ignore[untyped-decorator]  # as above
    def order(self, entry: bytes) -> Any:
        """Apply one batch."""
        index = self.member.view.applied + 1
        self.member.stock_checks.applies(self.member, index, entry)
        return self.member.machine.apply(index, entry)

    def _serialize(self) -> dict[str, list[bytes]]:
        self.member.world.snapshots += 1
        return {"chunks": [bytes(chunk) for chunk in self.member.machine.dump()]}

    def _deserialize(self, data: dict[str, list[bytes]]) -> None:
        self.member.machine.load(data["chunks"])
        self.member.view.installed_total += 1


class Wire(Transport):  # type: ignore[misc]  # as above
    """The engine's messages, over the simulated links."""

    def __init__(self, member: StockMember) -> None:
        super().__init__(None, None, None)
        self._member = member

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        return self._member.world.network.send(self._member.id, node.id, cast("Message", message))

    def arrived(self, peer: str, message: dict[str, Any]) -> None:
        """``peer`` sent it."""
        self._onMessageReceived(self._member.nodes[peer], message)

    def reaches(self, peer: str, *, up: bool) -> None:
        """The connection to ``peer`` came or went."""
        (self._onNodeConnected if up else self._onNodeDisconnected)(self._member.nodes[peer])

    def destroy(self) -> None:
        pass


@dataclass(slots=True)
class View:
    """A bare engine, seen as what the simulation looks at of a replica: its core, engine, log, snapshots, in one."""

    member: StockMember
    engine_: SyncObj
    halted: str = ""
    wants_tick: bool = True
    checking: bool = False
    peers: tuple[str, ...] = ()
    """Who is being sent a snapshot: it does not say."""
    is_receiving: bool = False
    installed_total: int = 0
    elections: int = 0
    target: str = ""
    """Of a transfer: the engine keeps none."""

    @property
    def core(self) -> View:
        return self

    engine = log = snapshots = sender = receiver = election = transfer = core

    @property
    def counters(self) -> dict[str, int]:
        return {}

    @property
    def is_leader(self) -> bool:
        return bool(self.engine_._isLeader())

    @property
    def leader_id(self) -> str:
        leader = self.engine_._getLeader()
        return "" if leader is None else str(leader.id)

    @property
    def term(self) -> int:
        return int(self.engine_.raftCurrentTerm)

    @property
    def applied(self) -> int:
        return int(self.engine_.raftLastApplied)

    @property
    def committed(self) -> int:
        return max(int(self.engine_.raftCommitIndex), self.applied)

    @property
    def last_index(self) -> int:
        return int(self.engine_._SyncObj__raftLog[-1][1])

    def role(self) -> str:
        return ("follower", "candidate", "leader")[int(self.engine_.getStatus()["state"])]

    def receive(self, peer: str, message: Message) -> None:
        """A message of ``peer``. The engine's own thread logs an exception and goes on, and so does this."""
        self._going_on(self.member.wire.arrived, peer, message)

    def tick(self) -> None:
        self._going_on(self.engine_.doTick, 0.0)

    def _going_on(self, work: Callable[..., Any], *args: object) -> None:
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 -- whatever it is, pysyncobj goes on
            self.member.world.note("exception", self.member.id, f"{type(error).__name__}: {error}")


class StockMember(Member):
    """A node that runs nothing but the engine."""

    registers = False
    view: View
    wire: Wire
    stock_checks: StockChecks

    def __init__(self, world: StockWorld, node_id: str, peers: list[str]) -> None:
        super().__init__(world, node_id, peers)
        self.stock_checks = world.stock_checks
        self.nodes = {peer: Node(peer) for peer in peers if peer != node_id}
        self.directory = world.directory / node_id
        self.directory.mkdir()
        self._written_back: dict[str, bytes] = {}
        self._looked_s = 0.0

    def _boot(self) -> None:
        self.machine = StateMachine()
        profile = self.world.profile
        conf = SyncObjConf(
            autoTick=False,
            journalFile=str(self.directory / "journal"),
            fullDumpFile=str(self.directory / "dump"),
            useFork=False,
            logCompactionMinEntries=profile.snapshot_entries,
        )
        self.wire = Wire(self)
        self.state = State(self)
        others = [self.nodes[peer] for peer in sorted(self.nodes)]
        engine = SyncObj(Node(self.id), others, conf, consumers=[self.state], transport=self.wire)
        self.view = View(self, engine)
        self.replica, self.log = cast("SimReplica", self.view), cast("TimedLog", self.view)
        self.world.checks.booted(self)
        self.later(WRITE_BACK_S, self._write_back)

    def _write_back(self) -> None:
        self._written_back = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        self.later(WRITE_BACK_S, self._write_back)

    def crash(self, *, power: bool) -> None:
        super().crash(power=power)
        self.view.engine_.destroy()
        if power:
            for path in self.directory.iterdir():
                path.unlink()
            for name, content in self._written_back.items():
                (self.directory / name).write_bytes(content)

    def monotonic(self) -> float:
        self._looked_s = max(self._looked_s, super().monotonic()) + CLOCK_STEP_S
        return self._looked_s

    def _tick(self) -> None:
        self._tick_pending = False
        self.view.tick()

    def link(self, peer: str, *, up: bool) -> None:
        self.call(lambda: self.wire.reaches(peer, up=up))
        self.schedule_tick()

    def propose(self, group: bytes, done: Done) -> None:
        self._order(group, lambda result, error: done(None if error is not None else result[0], error))

    def read(self, command: list[bytes], done: Done, _consistency: Consistency = LINEARIZABLE) -> None:
        """Through the log, which is good enough for any consistency."""
        group = encode_group(Group(PLAIN, 0, 1, resp(*command)))
        self._order(group, lambda result, error: done(None if error is not None else result[0][0], error))

    def _order(self, group: bytes, done: Done) -> None:
        """What the engine does not answer in time is unknown, as for one who calls it with a timeout."""
        answer = self._remember(done)

        def answered(result: object, reason: int) -> None:
            if reason == FAIL_REASON.SUCCESS:
                answer(result, None)
            else:
                make = _ERRORS.get(reason)
                answer(None, make() if make else UnknownOutcomeError(f"the engine says {reason}"))

        entry = header(max(self.wall_ms(), self.machine.stamp_ms)) + group
        self.call(lambda: self.state.order(entry, callback=answered))
        self.later(self.world.timing.request_s, answer, None, UnknownOutcomeError("no answer in time"))
        self.schedule_tick()

    def hand_over(self, target: str) -> None:
        self.later(0.0, self.view.engine_.transferLeadership, self.nodes[target])


class StockChecks(Checks):
    """Of all the properties those that can be seen without looking into messages."""

    def applies(self, member: StockMember, index: int, entry: bytes) -> None:
        """An entry is about to be applied."""
        value = (0, zlib.crc32(entry))
        if self._committed.setdefault(index, value) != value:
            raise Violation("state machine safety", f"{member.id} applies another entry {index} than was applied")
        self.highest = max(self.highest, index)

    def after(self, member: Member) -> None:
        view = cast("StockMember", member).view
        if not view.is_leader or self._leading.get(member.id) == view.term:
            return
        self._leading[member.id] = view.term
        self.elections += 1
        self.on_leader(member, view.term)
        other = self.leaders.setdefault(view.term, member.id)
        if other != member.id:
            raise Violation("two leaders", f"{other} and {member.id} in term {view.term}")


class StockWorld(World):
    """A world of such nodes, with the weather that the engine was made for."""

    late = True  # the engine keeps commands in a queue until there is a leader
    stock_checks: StockChecks

    def __init__(
        self, seed: int, profile: Profile, nodes: int, only_faults: frozenset[int] | None, directory: Path
    ) -> None:
        self.directory = directory
        kept = {kind: weight for kind, weight in profile.faults.items() if kind not in LEFT_OUT}
        weather = replace(profile, faults=kept, reserve=0, loss=0.0, duplicates=0.0, reorder=0.0)
        super().__init__(seed, weather, nodes, only_faults)
        self.trace = StockTrace()

    def make_checks(self) -> Checks:
        self.stock_checks = StockChecks(self.on_leader)
        return self.stock_checks

    def make_member(self, node_id: str) -> Member:
        return StockMember(self, node_id, self.ids)


class StockTrace(Trace):
    """Messages are dictionaries."""

    def message(self, now_s: float, source: str, target: str, message: Message) -> None:
        fields = cast("dict[str, Any]", message)
        text = " ".join(f"{name}={_short(value)}" for name, value in fields.items() if name != "type")
        self.note(now_s, str(fields["type"]), f"{source} > {target}", text)


def _short(value: object) -> str:
    """Without payloads: the dump's begins with the date."""
    if isinstance(value, list | tuple | bytes):
        return f"[{len(value)}]"
    return str(value)


def simulate_stock(
    seed: int, profile: Profile, nodes: int, only_faults: frozenset[int] | None = None, *, lines: int = 0
) -> Result:
    """One run, as :func:`chaos.sim.world.simulate`."""
    with TemporaryDirectory() as directory:
        return judged(lambda: StockWorld(seed, profile, nodes, only_faults, Path(directory)), lines)
