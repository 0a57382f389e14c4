"""A whole node: replica, state machine, log and snapshots; alone, and as the follower of a
group that is given a snapshot.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.disk import Disk
from chaos.matrix.cells import Judgement, LostError
from chaos.matrix.faults import CellDisk
from chaos.sim.checks import Violation
from chaos.sim.clients import resp
from chaos.sim.profiles import Profile
from chaos.sim.script import prepared
from chaos.sim.stage import Actor, Stage
from chaos.sim.verbs import VERBS, Arguments, ScriptError
from persistence.errors import CorruptionError, DirectoryError
from raftkv.consensus.soundness import UnsoundError
from raftkv.errors import RaftKVError
from raftkv.machine.batch import PLAIN, Group, encode_group

LIST: Final = b"list"
VALUE_BYTES: Final = 400
PROFILE: Final = Profile(
    "matrix", "nothing by chance", snapshot_entries=1 << 30, retain_bytes=0, segment_bytes=8192, cache_bytes=4096, preallocate=True
)  # fmt: skip
ELECTION_S: Final = 1.0
SNAPSHOT_S: Final = 0.12
CATCH_UP_S: Final = 0.5
ATTEMPTS: Final = 12


class Subject(Actor):
    """The node whose disk fails. It may refuse to start."""

    refusal = ""

    def _start(self) -> None:
        try:
            super()._start()
            self.rotten = True  # it may halt: the life is over then, and what it left is judged
        except (OSError, DirectoryError) as error:
            self.up, self.refusal = False, str(error)
        except Violation as violation:
            if not isinstance(violation.__cause__, CorruptionError | UnsoundError):
                raise
            self.up, self.refusal = False, str(violation.__cause__)


@dataclass(slots=True)
class MatrixStage(Stage):
    """A stage on which one node, the last, has the disk of a cell."""

    disk: Disk = field(default_factory=Disk)

    def make_member(self, node_id: str, peers: list[str]) -> Actor:
        if node_id != peers[-1]:
            return Actor(self, node_id, peers)
        subject = Subject(self, node_id, peers)
        subject.disk = self.disk
        return subject


class NodeEndedError(RaftKVError):
    """The node under test stopped, or was stopped: its life is over."""


class GroupLife:
    """What the lives of a node have in common: pushes to one list, and the state in the end.

    Every element is pushed once, by a client that does not ask again: what was acknowledged is there once, in order;
    what was not may be there, once.
    """

    nodes = 1

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.script = prepared(self._stack)
        self.asked: list[bytes] = []
        self.acknowledged: list[tuple[bytes, int]] = []
        """Element, and the place in the list that the client was told."""

    # -- moves
    @property
    def stage(self) -> Stage:
        """The group."""
        return self.script.stage

    @property
    def subject(self) -> Subject:
        """The node whose disk fails."""
        member = self.stage.members[f"n{self.nodes}"]
        assert isinstance(member, Subject)
        return member

    def do(self, line: str) -> None:
        """One line of a script (:mod:`chaos.sim.verbs`). Raises NodeEndedError once the subject has ended."""
        self.check()
        name, *words = line.split()
        try:
            VERBS[name](self.script, Arguments(words))
        except ScriptError as error:
            self.check()
            raise AssertionError(f"{line}: {error}") from error
        self.check()

    def check(self) -> None:
        """Raises NodeEndedError when the subject is down or has halted."""
        subject = self.subject
        if not subject.up or subject.replica.core.halted:
            raise NodeEndedError(subject.refusal if not subject.up else subject.replica.core.halted)

    def push(self, node: str, count: int, *, among: str = "") -> None:
        """So many clients push an element each, one after the other; messages arrive ``among`` these nodes, or all."""
        for _ in range(count):
            self.push_one(self.stage.members[node])
            self.do(f"settle {among}")

    def push_one(self, member: Actor) -> None:
        """A client pushes an element; its answer may come later."""
        element = b"%06d" % len(self.asked) + b"." * VALUE_BYTES
        self.asked.append(element)

        def done(result: Any, error: RaftKVError | None) -> None:
            if error is None and isinstance(result[0], int):
                self.acknowledged.append((element, result[0]))

        member.propose(encode_group(Group(PLAIN, 0, 1, resp(b"RPUSH", LIST, element))), done)
        self.stage.settle()

    def restart(self) -> None:
        """The subject stops as a process that is told to, and starts again."""
        subject = self.subject
        subject.call(subject.log.close)
        self.check()
        self._end()
        subject.start()
        self.stage.settle()
        self.check()

    def snapshot(self, node: str) -> None:
        """The node writes a snapshot, if it can."""
        member = self.stage.members[node]
        member.call(member.replica.take_snapshot)
        self.script.elapse([member], SNAPSHOT_S)
        self.check()

    def prepare_segment(self) -> None:
        """What the preparing thread does, which lets a full disk pass."""
        subject = self.subject
        with suppress(OSError):
            subject.call(subject.log._spares.prepare)
        self.check()

    # -- the scenario
    def prepare(self, disk: CellDisk) -> None:
        """Nothing was there before."""

    def live(self, disk: CellDisk) -> None:
        self.script.stage = MatrixStage(self.nodes, label="matrix", profile=PROFILE, disk=disk)
        try:
            self.play()
        except Violation as violation:
            raise NodeEndedError(str(violation)) from violation

    def play(self) -> None:
        """The life."""
        raise NotImplementedError

    def _end(self) -> None:
        """The process is gone; what the disk has lost, it has lost."""
        subject = self.subject
        if subject.up:
            subject.up = False
            subject.incarnation += 1
            self.stage.network.process_ended(subject.id)
        subject.disk.locks.clear()
        subject.clock.settle()

    def open(self, disk: CellDisk) -> None:  # noqa: ARG002 -- the subject has it
        self._end()
        self.subject.start()
        self._end()

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        try:
            return self._judge(disk, damaged=damaged)
        except (Violation, NodeEndedError) as error:
            raise LostError(str(error)) from error
        finally:
            self._stack.close()

    def _judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        self._end()
        subject = self.subject
        subject.start()
        if not subject.up or subject.replica.core.halted:
            if not damaged:
                self.check()
            return "refused"
        self._serve(damaged=damaged)
        self._compare(damaged=damaged)
        disk.survival = "nothing"
        subject.crash(power=True)
        subject.start()
        self._serve(damaged=damaged)
        self._compare(damaged=damaged)
        return "survived"

    def _serve(self, *, damaged: bool) -> None:
        """The group takes a write, and all its nodes apply it. Raises LostError.

        With damage the subject may have forgotten what it acknowledged; then only another leader gives it that again.
        """
        members = list(self.stage.members.values())
        self.stage.network.partition([])
        before = len(self.acknowledged)
        for attempt in range(ATTEMPTS):
            self.script.flush(members)
            leader = next((one for one in members if one.up and one.replica.core.is_leader), None)
            if leader is None:
                self._elect(members[attempt % len(members)])
            elif len(self.acknowledged) == before:
                self.push_one(leader)
            elif len({one.replica.core.applied for one in members}) == 1:
                return
            elif damaged and attempt > ATTEMPTS // 2:
                self._elect(members[attempt % 2])
            else:
                self.script.elapse(members, CATCH_UP_S)
        self.check()
        raise LostError(f"the group does not serve: {', '.join(one.state() for one in members)}")

    def _elect(self, candidate: Actor) -> None:
        if self.nodes == 1:
            self.script.elapse([candidate], ELECTION_S)
        else:
            with suppress(ScriptError):
                VERBS["elect"](self.script, Arguments([candidate.id]))

    def _compare(self, *, damaged: bool) -> None:
        """The list is what clients were told; all nodes agree. Raises LostError."""
        self.check()
        digests = {member.machine.digest() for member in self.stage.members.values()}
        if len(digests) > 1:
            raise LostError(f"the nodes differ: {sorted(digests)}")
        found = self._elements()
        rest = iter(self.asked)
        if not all(one in rest for one in found):
            raise LostError("an element is there twice, or in another order, or was never pushed")
        lost = [place for element, place in self.acknowledged if found[place - 1 : place] != [element]]
        if lost and not (damaged and self.nodes == 1 and len(lost) == 1):
            raise LostError(f"the list has {len(found)} elements; not as was acknowledged are those at {lost}")
        if self.stage.violations and not damaged:  # a bit of the last round may have cost what was acknowledged with it
            raise LostError("; ".join(self.stage.violations))

    def _elements(self) -> list[bytes]:
        subject = self.subject
        reply = subject.look([b"LRANGE", LIST, b"0", b"-1"], subject.machine.stamp_ms)
        return list(reply) if isinstance(reply, list) else []


class AloneLife(GroupLife):
    """A group of one: save and apply, snapshots, compaction, stop and start."""

    def play(self) -> None:
        self.check()
        self.script.elapse([self.subject], ELECTION_S)
        self.push("n1", 5)
        self.prepare_segment()
        self.push("n1", 14)
        self.snapshot("n1")
        self.push("n1", 16)
        self.snapshot("n1")
        self.push("n1", 4)
        self.snapshot("n1")
        self.restart()
        self.script.elapse([self.subject], ELECTION_S)
        self.push("n1", 3)


class FollowerLife(GroupLife):
    """A member of three: it leads for a while, its entries are overwritten, it is given a snapshot, it restarts."""

    nodes = 3

    def play(self) -> None:
        self.check()
        self.do("elect n1")
        self.push("n1", 3)
        self.do("elect n3")
        self.push("n3", 2)
        self.do("partition n3 | n1 n2")
        self.push("n3", 3, among="n3")
        self.do("elect n1 n2")
        self.push("n1", 3, among="n1 n2")
        self.do("heal")
        self.do("settle")
        self.push("n1", 2)
        self.do("partition n3 | n1 n2")
        for _ in range(2):
            self.push("n1", 4, among="n1 n2")
            self.snapshot("n1")
        self.do("heal")
        self.do("settle")
        self.push("n1", 2)
        self.snapshot("n3")
        self.restart()
        self.do("settle")
        self.push("n1", 2)
