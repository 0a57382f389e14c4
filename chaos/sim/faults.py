"""Faults: each function does one kind of harm to a :class:`chaos.sim.world.World` and schedules its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from persistence.records import CLEAR, COMPACT
from persistence.segment import DATA_START, decode_segment_header, segment_number, walk
from raftkv.machine.alarms import NOSPACE, clearing, raising

if TYPE_CHECKING:
    from chaos.disk import Disk, Lost
    from chaos.sim.member import Member
    from chaos.sim.world import World


STALL_S: Final = 3.0
"""A sync on a stalled disk; longer than a leader waits for one."""
ALARM_STEP_S: Final = 0.3
"""Between two attempts to clear an alarm."""


class Harm(NamedTuple):
    """What was done."""

    text: str
    nodes: tuple[str, ...] = ()
    """Who was hit, at this moment."""


Fault = Callable[["World", Random], Harm | None]
"""Does it and says what; None: it could not."""


def _duration(rng: Random) -> float:
    return rng.choice((0.1, 0.5, 1.0, 2.0, 4.0)) * (0.5 + rng.random())


def _pair(world: World, rng: Random) -> tuple[str, str]:
    a, b = rng.sample(world.ids, 2)
    return a, b


def cut_off(world: World, group: list[str], seconds: float) -> None:
    """Cut all links between ``group`` and the others, both ways."""
    pairs = [(a, b) for a in group for b in world.ids if b not in group]
    for a, b in pairs:
        world.network.cut(a, b)
        world.network.cut(b, a)
        world.scheduler.after(seconds, world.network.heal, a, b)
        world.scheduler.after(seconds, world.network.heal, b, a)


def partition(world: World, rng: Random) -> Harm | None:
    """Some nodes, fewer than half, are cut off."""
    group = rng.sample(world.ids, rng.randrange(1, len(world.ids) // 2 + 1))
    seconds = _duration(rng)
    cut_off(world, group, seconds)
    return Harm(f"{','.join(group)} cut off for {seconds:.1f} s", tuple(group))


def isolate_leader(world: World, rng: Random) -> Harm | None:
    """The leader alone is cut off."""
    leader = world.leader()
    if leader is None:
        return None
    seconds = _duration(rng)
    cut_off(world, [leader.id], seconds)
    return Harm(f"leader {leader.id} cut off for {seconds:.1f} s", (leader.id,))


def minority_leader(world: World, rng: Random) -> Harm | None:
    """The leader with as many followers as are no majority: entries that they acknowledge will be replaced."""
    leader = world.leader()
    if leader is None:
        return None
    others = [one for one in world.ids if one != leader.id]
    group = [leader.id, *rng.sample(others, (len(world.ids) - 1) // 2 - 1)]
    seconds = 0.8 + rng.random()
    cut_off(world, group, seconds)
    return Harm(f"{','.join(group)} cut off for {seconds:.1f} s", tuple(group))


def isolate_follower(world: World, rng: Random) -> Harm | None:
    """One follower is cut off; the others keep their leader."""
    leader = world.leader()
    if leader is None or not world.network.whole:
        return None
    victim = rng.choice([one for one in world.ids if one != leader.id])
    seconds = 1.0 + 3.0 * rng.random()
    cut_off(world, [victim], seconds)
    return Harm(f"follower {victim} cut off for {seconds:.1f} s", (victim,))


def deaf_follower(world: World, rng: Random) -> Harm | None:
    """It hears nobody, but everybody hears it (over connections that were made before)."""
    leader = world.leader()
    if leader is None or not world.network.whole:
        return None
    victim = rng.choice([one for one in world.ids if one != leader.id])
    seconds = 1.0 + 3.0 * rng.random()
    world.network.cut(leader.id, victim)
    world.scheduler.after(seconds, world.network.heal, leader.id, victim)
    return Harm(f"{victim} does not hear {leader.id} for {seconds:.1f} s", (victim,))


def one_way(world: World, rng: Random) -> Harm | None:
    """One direction between two nodes is cut."""
    a, b = _pair(world, rng)
    seconds = _duration(rng)
    world.network.cut(a, b)
    world.scheduler.after(seconds, world.network.heal, a, b)
    return Harm(f"{a} to {b} cut for {seconds:.1f} s", (a, b))


def break_(world: World, rng: Random) -> Harm | None:
    """One connection is reset, and dialled again."""
    a, b = _pair(world, rng)
    world.network.break_link(world.network.links[a, b])
    return Harm(f"connection {a} to {b}", (a, b))


def half_open(world: World, rng: Random) -> Harm | None:
    """One connection swallows everything until its sender notices."""
    a, b = _pair(world, rng)
    seconds = _duration(rng)
    world.network.half_open(world.network.links[a, b], seconds)
    return Harm(f"{a} to {b}, found out after {seconds:.1f} s", (a, b))


def slow_link(world: World, rng: Random) -> Harm | None:
    """One connection gets slow."""
    a, b = _pair(world, rng)
    link = world.network.links[a, b]
    link.slow = rng.choice((5.0, 20.0, 100.0))

    def end() -> None:
        link.slow = 1.0

    world.scheduler.after(_duration(rng), end)
    return Harm(f"{a} to {b} {link.slow:.0f} times slower", (a, b))


def _crash(world: World, member: Member, rng: Random, *, power: bool) -> Harm | None:
    if not member.up:
        return None
    world.crash(member, power=power)
    world.plan_restart(member, _duration(rng))
    return Harm(member.id, (member.id,))


def kill(world: World, rng: Random) -> Harm | None:
    """A process dies; what it wrote is there."""
    return _crash(world, world.members[rng.choice(world.ids)], rng, power=False)


def power(world: World, rng: Random) -> Harm | None:
    """A power cut at one node."""
    return _crash(world, world.members[rng.choice(world.ids)], rng, power=True)


def kill_leader(world: World, rng: Random) -> Harm | None:
    """The leader dies, with or without its power."""
    leader = world.leader()
    return _crash(world, leader, rng, power=rng.random() < 0.5) if leader else None


def power_all(world: World, rng: Random) -> Harm | None:
    """A majority, or all, at the same moment."""
    victims = rng.sample(world.ids, rng.randrange(len(world.ids) // 2 + 1, len(world.ids) + 1))
    done = [harm.text for one in victims if (harm := _crash(world, world.members[one], rng, power=True)) is not None]
    return Harm(" ".join(done), tuple(done)) if done else None


def power_at_operation(world: World, rng: Random) -> Harm | None:
    """A power cut inside a file operation, soon."""
    member = world.members[rng.choice(world.ids)]
    if not member.up or member.disk.armed:
        return None
    at = rng.randrange(1, 30)
    member.disk.arm(at)
    return Harm(f"{member.id} at its {at}th file operation from now")


def disk_full(world: World, rng: Random) -> Harm | None:
    """The node must stop; later there is space, and somebody starts it again."""
    member = world.members[rng.choice(world.ids)]
    if not member.up or member.disk.full:
        return None
    member.disk.full = member.disk_faulted = True

    def end() -> None:
        member.disk.full = False
        if member.up:
            world.crash(member, power=False)
            world.plan_restart(member, 0.2)

    world.scheduler.after(_duration(rng), end)
    return Harm(member.id, (member.id,))


def _steady_voter(world: World, rng: Random) -> Member | None:
    """A voter that may lose what it holds: the group is whole, and nobody else has lost anything, known or not."""
    if any(member.rotten or not member.registers for member in world.members.values()):
        return None
    voters = world.operator.steady_voters()
    return world.members[rng.choice(voters)] if voters else None


def rot(world: World, rng: Random) -> Harm | None:
    """One bit of one voter's newest snapshot turns over, while it is down or while it runs."""
    member = _steady_voter(world, rng)
    if member is None or not any(map(_is_snapshot, member.disk.names)):
        return None
    stopped = rng.random() < 0.7
    if stopped:
        world.crash(member, power=rng.random() < 0.5)
        world.plan_restart(member, 0.2 + rng.random())
    name = max(filter(_is_snapshot, member.disk.names), default="")
    if not name:
        return None
    member.disk.flip(name)
    member.rotten = True
    if not stopped:
        world.plan_crash(member, 3.0 * rng.random())
    return Harm(f"{member.id} {name}{'' if stopped else ', while it runs'}", (member.id,))


def _is_snapshot(path: str) -> bool:
    return path.startswith("data/snapshots/") and path.endswith(".snap")


def rot_log(world: World, rng: Random) -> Harm | None:
    """One bit of one voter's log turns over, while it is down or while it runs.

    Not in the last sync round, where damage looks like a write that the power cut tore.
    """
    member = _steady_voter(world, rng)
    if member is None:
        return None
    stopped = rng.random() < 0.5
    if stopped:
        world.crash(member, power=rng.random() < 0.5)
        world.plan_restart(member, 0.2 + rng.random())
    places = list(_vouched(member.disk))
    if not places:
        return None
    path, begin, end = rng.choice(places)
    offset = rng.randrange(begin, end)
    member.disk.flip(path, offset)
    member.rotten = True
    if not stopped:
        world.plan_crash(member, 3.0 * rng.random())
    return Harm(f"{member.id} {path} at {offset}{'' if stopped else ', while it runs'}", (member.id,))


def _vouched(disk: Disk) -> Iterator[tuple[str, int, int]]:
    """(file, from, to): what of the log is durable, and followed by something that proves it."""
    live = {number: name for name in disk.listdir("data/log") if (number := segment_number(name)) is not None}
    if not live:
        return
    for number in range(_oldest_needed(disk, f"data/log/{live[max(live)]}", max(live)), max(live) + 1):
        path = f"data/log/{live[number]}"
        content = memoryview(bytes(disk.names[path].durable))
        header = decode_segment_header(content[:DATA_START], path, number)
        records = list(walk(content, header.marker))
        end = records[-1].end if records else DATA_START
        if records and number == max(live):
            end = records[-1].round_start
        if end > DATA_START:
            yield path, DATA_START, end


def _oldest_needed(disk: Disk, path: str, number: int) -> int:
    content = bytes(disk.names[path].content)
    header = decode_segment_header(content[:DATA_START], path, number)
    records = walk(memoryview(content), header.marker)
    return max([header.first_segment, *(one.term for one in records if one.kind in (CLEAR, COMPACT))])


def lose_log(world: World, rng: Random) -> Harm | None:
    """One voter's log is gone when it starts, and mostly its snapshots, too; its identity stays. They were removed, or not
    mounted: then the old log may be mounted again, later.
    """
    member = _steady_voter(world, rng)
    if member is None:
        return None
    world.crash(member, power=rng.random() < 0.5)
    world.plan_restart(member, 0.2 + rng.random())
    gone = ["data/log"] + ["data/snapshots"] * (rng.random() < 0.7)
    log, *_ = [member.disk.lose(path) for path in gone]
    member.rotten = True
    if rng.random() < 0.5:
        world.scheduler.after(2.0 + 4.0 * rng.random(), _put_back, world, member, log)
    return Harm(f"{member.id} {' '.join(gone)}", (member.id,))


def _put_back(world: World, member: Member, log: Lost) -> None:
    """The log of a disk that the node was before, if it is another one by now."""
    if member.id in world.operator.steady_voters() and not any(one.rotten for one in world.members.values()):
        world.crash(member, power=False)
        world.plan_restart(member, 0.3)
        member.disk.put_back(log)
        member.rotten = True
        world.note("put back", member.id, log.path)


def slow_disk(world: World, rng: Random) -> Harm | None:
    """The syncs of one node take long."""
    member = world.members[rng.choice(world.ids)]
    member.slow_disk = rng.choice((10.0, 100.0, 500.0))

    def end() -> None:
        member.slow_disk = 1.0

    world.scheduler.after(_duration(rng), end)
    return Harm(f"{member.id} {member.slow_disk:.0f} times slower", (member.id,))


def stalled_disk(world: World, rng: Random) -> Harm | None:
    """The syncs of one node, rather of the leader, take seconds: a leader has to hand over."""
    leader = world.leader()
    member = leader if leader is not None and rng.random() < 0.7 else world.members[rng.choice(world.ids)]
    member.slow_disk = STALL_S / world.profile.fsync_s

    def end() -> None:
        member.slow_disk = 1.0

    world.scheduler.after(_duration(rng), end)
    return Harm(f"{member.id}: {STALL_S:.0f} s for a sync", (member.id,))


def alarm(world: World, rng: Random) -> Harm | None:
    """The leader says of a node that it is full, and later that it is not: what takes space is refused in between."""
    leader, node = world.leader(), rng.choice(world.ids)
    if leader is None:
        return None
    until = world.scheduler.now + _duration(rng)
    leader.alarm(raising(node, NOSPACE, "the simulation says so"))

    def clear() -> None:
        now = world.leader()
        over = not world.storming or world.scheduler.now >= until
        if over and now is not None:
            now.alarm(clearing(node, NOSPACE))
        if not over or world.storming or now is None or now.machine.alarms.of(node) is not None:
            world.scheduler.after(ALARM_STEP_S, clear)

    clear()
    return Harm(f"{node}, said by {leader.id}", (leader.id,))


def clock_jump(world: World, rng: Random) -> Harm | None:
    """The date of one node jumps."""
    member = world.members[rng.choice(world.ids)]
    jump_ms = rng.choice((-60_000, -1000, 1000, 60_000, 3_600_000))
    member.wall_offset_ms += jump_ms
    return Harm(f"{member.id} by {jump_ms} ms", (member.id,))


def transfer(world: World, rng: Random) -> Harm | None:
    """The leader is asked to hand over, rather to one that led lately."""
    leader = world.leader()
    if leader is None:
        return None
    earlier = [one for one in list(world.checks.leaders.values())[-3:] if one != leader.id]
    target = rng.choice(earlier or [one for one in world.ids if one != leader.id])
    leader.hand_over(target)
    return Harm(f"{leader.id} to {target}", (leader.id,))


def deaf_transfer(world: World, rng: Random) -> Harm | None:
    """The leader hands over and from then on hears nobody: it is not told that its time is over."""
    leader = world.leader()
    if leader is None:
        return None
    others = [one for one in world.ids if one != leader.id]
    target = world.members[rng.choice(others)]
    if not target.up:
        return None
    election, seconds = target.replica.election, 0.5 + rng.random()
    begun, give_up = election.elections, world.scheduler.now + world.timing.election_max_s

    def watch() -> None:
        if election.elections > begun:
            for one in others:
                world.network.cut(one, leader.id)
                world.scheduler.after(seconds, world.network.heal, one, leader.id)
        elif world.scheduler.now < give_up:
            world.scheduler.after(0.0002, watch)

    leader.hand_over(target.id)
    watch()
    return Harm(f"{leader.id} to {target.id}, and then deaf for {seconds:.1f} s", (leader.id,))


def slow_leader(world: World, rng: Random) -> Harm | None:
    """The slowest clock that is allowed leads the fastest ones, and is cut off right after its lease was renewed."""
    leader = world.leader()
    if leader is None or not world.network.whole:
        return None
    for member in world.members.values():
        member.run_clock(1.0 + world.profile.clock_rate * (-1 if member is leader else 1))
    lease, seconds = leader.replica.reads.lease, (1.5 + rng.random()) * world.timing.election_min_s
    known = lease.until

    def watch() -> None:
        if lease.until > known:
            cut_off(world, [leader.id], seconds)
        elif lease.holds:
            world.scheduler.after(0.0005, watch)

    watch()
    return Harm(f"{leader.id} at its next lease, cut off for {seconds:.1f} s", (leader.id,))


def forgetful_voter(world: World, rng: Random) -> Harm | None:
    """A voter restarts right after it heard the leader, which is then cut off, and another's patience is at its end.

    While clients only read, so that the other one's log is new enough for a vote.
    """
    leader = world.leader()
    if leader is None or not world.network.whole:
        return None
    candidate, *voters = rng.sample([one for one in world.ids if one != leader.id], len(world.ids) - 1)
    patience_s = world.timing.election_min_s
    strike_s = 0.3 + patience_s * (0.4 + 0.4 * rng.random())
    world.hushed_until = world.scheduler.now + strike_s

    def deafen() -> None:
        world.network.cut(leader.id, candidate)
        world.scheduler.after(2 * patience_s, world.network.heal, leader.id, candidate)

    def strike() -> None:
        cut_off(world, [leader.id], 2 * patience_s)
        for voter in voters:
            if world.members[voter].up:
                world.crash(world.members[voter], power=False)
                world.plan_restart(world.members[voter], 0.02)

    world.scheduler.after(0.3, deafen)
    world.scheduler.after(strike_s, strike)
    return Harm(f"{leader.id} unheard by {candidate}, then cut off; {','.join(voters)} restart", (leader.id, *voters))


def pause(world: World, rng: Random) -> Harm | None:
    """A process is stopped and goes on later; its clock went on."""
    member = world.members[rng.choice(world.ids)]
    seconds = rng.choice((0.1, 0.35, 0.45, 1.0)) * (0.9 + 0.2 * rng.random())
    member.charge(seconds)
    return Harm(f"{member.id} for {seconds:.2f} s", (member.id,))


HARMS: Final[dict[str, Fault]] = {
    "partition": partition,
    "isolate_leader": isolate_leader,
    "minority_leader": minority_leader,
    "isolate_follower": isolate_follower,
    "deaf_follower": deaf_follower,
    "one_way": one_way,
    "break": break_,
    "half_open": half_open,
    "slow_link": slow_link,
    "kill": kill,
    "power": power,
    "kill_leader": kill_leader,
    "power_all": power_all,
    "power_at_operation": power_at_operation,
    "disk_full": disk_full,
    "rot": rot,
    "rot_log": rot_log,
    "lose_log": lose_log,
    "slow_disk": slow_disk,
    "stalled_disk": stalled_disk,
    "alarm": alarm,
    "clock_jump": clock_jump,
    "transfer": transfer,
    "deaf_transfer": deaf_transfer,
    "slow_leader": slow_leader,
    "forgetful_voter": forgetful_voter,
    "pause": pause,
}
