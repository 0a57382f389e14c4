"""The operator of a simulated group: adds, removes and replaces nodes while the weather does what it wants.

A task is a change that is asked for again and again, of whoever leads, until a committed configuration shows that it
happened. Nodes come from a reserve of ids and go back to it; each comes with a disk of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftkv.consensus.configuration import Configuration
from raftkv.replicator import Add, MembershipChange, Promote, Remove

if TYPE_CHECKING:
    from chaos.sim.member import Member
    from chaos.sim.world import World

ASK_S: Final = 0.25
"""How often a task is asked for again."""
VOTERS_MIN: Final = 3
"""Only a group of so many can lose one for good and still decide what to do about it."""


@dataclass(slots=True)
class Task:
    """``done`` tells from a committed configuration that it happened; ``then`` is called once."""

    node: str
    change: MembershipChange
    done: Callable[[Configuration], bool]
    then: Callable[[], None]


class Operator:
    """Tasks under way, and nodes in reserve."""

    def __init__(self, world: World, reserve: list[str]) -> None:
        self._world = world
        self.reserve = reserve
        self.tasks: list[Task] = []

    # -- tasks
    def ask(self, task: Task) -> None:
        """Begin it."""
        self.tasks.append(task)
        self._try(task)

    def _try(self, task: Task) -> None:
        world = self._world
        leader = world.leader()
        if leader is not None:
            if _is_up_to_date(leader) and task.done(leader.replica.membership.applied):
                self.tasks.remove(task)
                world.note("done", task.node, str(task.change))
                task.then()
                return
            leader.call(leader.replica.membership.change, task.change, _ignored)
            leader.schedule_tick()
        world.scheduler.after(ASK_S, self._try, task)

    # -- nodes
    def join(self, *, promote: bool = True) -> Member | None:
        """Start a node of the reserve and have it added; None when there is none."""
        if not self.reserve:
            return None
        member = self._new()
        add = Add(member.id, member.address, promote=promote)
        if promote:
            self.ask(Task(member.id, add, lambda now: _is_voter(now, member.id), _nothing))
        else:
            self.ask(Task(member.id, add, lambda now: now.get(member.id) is not None, lambda: self._promote(member)))
        return member

    def replace(self, victim: str) -> Member:
        """A node is lost for good; one of the reserve (there must be one) takes its place."""
        world = self._world
        world.ids.remove(victim)
        world.end(world.members[victim])
        member = self._new()
        add = Add(member.id, member.address, replaces=victim)

        def done(now: Configuration) -> bool:
            return _is_voter(now, member.id) and now.get(victim) is None

        self.ask(Task(member.id, add, done, lambda: self.reserve.append(victim)))
        return member

    def _new(self) -> Member:
        member = self._world.members[self.reserve.pop(0)]
        member.renew(joins=True)
        self._begin(member)
        return member

    def _begin(self, member: Member) -> None:
        self._world.ids.append(member.id)
        self._world.note("new", member.id, f"disk {member.disk_id}")
        member.start()

    def _promote(self, member: Member) -> None:
        self.ask(Task(member.id, Promote(member.id), lambda now: _is_voter(now, member.id), _nothing))

    def remove(self, node: str, then: Callable[[], None]) -> None:
        """Have it removed."""
        self.ask(Task(node, Remove(node), lambda now: now.get(node) is None, then))

    def retire(self, node: str) -> None:
        """Switch a removed node off; its id may come back with another disk."""
        world = self._world
        world.ids.remove(node)
        self.reserve.append(node)
        world.end(world.members[node])

    def wipe(self, member: Member) -> None:
        """Its disk is lost, and it comes back under its old id with an empty one, as if nothing had happened."""
        self._world.end(member)
        member.renew(joins=False)
        member.wiped = True
        self._world.plan_restart(member, 0.3)  # unless one was on its way: it had crashed before

    def rejoin(self, member: Member) -> None:
        """The removed node comes back with an empty disk, this time as a new one."""
        self._world.end(member)
        member.renew(joins=True)
        member.start()
        add = Add(member.id, member.address)
        self.ask(Task(member.id, add, lambda now: _is_voter(now, member.id), _nothing))

    # -- what may be done
    def steady_voters(self) -> list[str]:
        """Voters of a group that works as a whole and is not being changed: one of them may be lost for good."""
        leader = self._world.leader()
        if leader is None or self.tasks:
            return []
        members = self._world.members
        for one in (members[node] for node in self._world.ids):
            if not one.up or one.rotten or one.replica.core.halted:
                return []
            if not _knows_all(one.replica.membership.latest, members):
                return []
        voters = list(leader.replica.core.voters)
        return voters if len(voters) >= VOTERS_MIN and not leader.replica.membership.busy else []

    @property
    def settled(self) -> bool:
        """Nothing is left to do, and the configuration says where everybody is."""
        leader = self._world.leader()
        if self.tasks or leader is None:
            return False
        members = self._world.members
        applied = leader.replica.membership.applied
        return sorted(applied.ids) == sorted(self._world.ids) and all(
            members[one.node_id].address == one.address and members[one.node_id].disk_id == one.disk
            for one in applied.members
        )


def _is_up_to_date(leader: Member) -> bool:
    """A new leader learns what is committed only with an entry of its own term (Raft paper, 5.4.2)."""
    core = leader.replica.core
    return core.log.term_at(core.applied) == core.term


def _knows_all(configuration: Configuration, members: dict[str, Member]) -> bool:
    return all(one.disk == members[one.node_id].disk_id for one in configuration.members)


def _is_voter(configuration: Configuration, node: str) -> bool:
    member = configuration.get(node)
    return member is not None and member.voter


def _ignored(_result: object, _error: object) -> None:
    """Whether it happened is read from the configuration."""


def _nothing() -> None:
    return None
