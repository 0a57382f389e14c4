"""What an operator does to a simulated group in the middle of a storm. Beside the faults, and drawn like them.

Nodes of the group are lost only while it is whole otherwise (:meth:`chaos.sim.operator.Operator.steady_voters`): two
disks lost at once would be data lost, and nobody's fault.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from chaos.sim.faults import Fault, Harm, cut_off

if TYPE_CHECKING:
    from chaos.sim.world import World


def join(world: World, _rng: Random) -> Harm | None:
    """A node is started and added; it is to become a voter."""
    member = world.operator.join()
    return Harm(f"{member.id} joins", (member.id,)) if member else None


def learner(world: World, _rng: Random) -> Harm | None:
    """A node is added that becomes a voter only when it is told to."""
    member = world.operator.join(promote=False)
    return Harm(f"{member.id} joins as a learner", (member.id,)) if member else None


def remove(world: World, rng: Random) -> Harm | None:
    """A member is removed, whoever it is; it learns of it or not, and is switched off later."""
    voters = world.operator.steady_voters()
    if not voters:
        return None
    node = rng.choice(voters)
    later_s = 3.0 * rng.random()
    world.operator.remove(node, lambda: world.scheduler.after(later_s, world.operator.retire, node))
    return Harm(f"{node} is removed", (node,))


def expel(world: World, rng: Random) -> Harm | None:
    """A follower is removed while it is cut off, and comes back as if nothing had happened."""
    voters, leader = world.operator.steady_voters(), world.leader()
    if not voters or leader is None or not world.network.whole:
        return None
    node = rng.choice([one for one in voters if one != leader.id])
    cut_off(world, [node], 1.5 + rng.random())
    world.operator.remove(node, lambda: world.scheduler.after(5.0, _retire_and_join, world, node))
    return Harm(f"{node} is cut off and removed", (node,))


def _retire_and_join(world: World, node: str) -> None:
    world.operator.retire(node)
    world.operator.join()


def replace(world: World, rng: Random) -> Harm | None:
    """A node and its disk are lost, and another one takes its place."""
    voters = world.operator.steady_voters()
    if not voters or not world.operator.reserve:
        return None
    victim = rng.choice(voters)
    member = world.operator.replace(victim)
    return Harm(f"{victim} is lost; {member.id} replaces it", (victim,))


def wipe(world: World, rng: Random) -> Harm | None:
    """A node loses its disk and comes back with an empty one under its old id; later it is removed and added again."""
    voters = world.operator.steady_voters()
    if not voters:
        return None
    member = world.members[rng.choice(voters)]
    world.operator.wipe(member)
    pause_s = 0.5 + 2.0 * rng.random()
    world.scheduler.after(pause_s, world.operator.remove, member.id, lambda: world.operator.rejoin(member))
    return Harm(f"{member.id} comes back with an empty disk", (member.id,))


def move(world: World, rng: Random) -> Harm | None:
    """A node is started again at another address."""
    member = world.members[rng.choice(world.ids)]
    if not member.up:
        return None
    world.crash(member, power=False)
    member.move()
    world.plan_restart(member, 0.1 + rng.random())
    return Harm(f"{member.id} moves to {member.address}", (member.id,))


def compact(world: World, rng: Random) -> Harm | None:
    """COMPACT at a node, whoever it is: a snapshot, and the log is cut to it; sometimes before
    that snapshot is there.
    """
    member = world.members[rng.choice(world.ids)]
    if not member.up or member.replica.core.halted:
        return None
    member.call(member.replica.take_snapshot)
    member.later(rng.choice((0.0, 0.05, 0.2, 0.6)), member.replica.cut_log)
    return Harm(member.id, (member.id,))


CHANGES: Final[dict[str, Fault]] = {
    "join": join,
    "learner": learner,
    "remove": remove,
    "expel": expel,
    "replace": replace,
    "wipe": wipe,
    "move": move,
    "compact": compact,
}
