"""Links as TCP gives them to :mod:`raftkv.consensus.links`: one connection a direction, queued, breaking, half open.

Where a profile limits the bandwidth, bulk waits its turn and takes its time, and what is urgent goes in
between fragments (:mod:`raftkv.consensus.lanes`). Without a limit nothing ever waits, and everything
arrives in the order of sending.

A cut direction holds what is sent (TCP sends again) until it is healed or the connection is given up; what was in
flight on a broken connection is lost, or arrives late, after messages of the next one. ``loss``, ``duplicates`` and
``reorder`` go beyond TCP: the messages promise not to rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from raftkv.consensus.links import REDIAL_MAX_S, REDIAL_MIN_S
from raftkv.consensus.messages import FRAGMENT_BYTES, AppendEntries, Message, SnapshotChunk

if TYPE_CHECKING:
    from chaos.sim.member import Member
    from chaos.sim.world import World

HELD_MAX: Final = 20_000
"""Messages that a cut connection holds; more are refused as by a full buffer."""
JAMMED_S: Final = 0.3
"""A connection that is so far behind when the network heals is given up."""
LOST_WITH_BREAK: Final = 0.6
"""Share of broken connections whose messages in flight are lost; the others deliver them late."""


@dataclass(slots=True)
class Link:
    """The connection on which ``source`` sends to ``target``."""

    source: str
    target: str
    up: bool = False
    dead: bool = False
    """Half open: the sender does not know yet."""
    slow: float = 1.0
    epoch: int = 0
    lost_before: int = 0
    """Messages of epochs below it never arrive."""
    last_arrival: float = 0.0
    last_urgent_arrival: float = 0.0
    """Of what overtook bulk."""
    bulk_until: float = 0.0
    """The line is busy so long with the bulk that was sent so far."""
    redial_s: float = REDIAL_MIN_S
    held: list[Message] = field(default_factory=list)


class Network:
    """All links of a group."""

    def __init__(self, world: World, ids: list[str], rng: Random) -> None:
        self._world = world
        self._rng = rng
        self.links = {(a, b): Link(a, b) for a in ids for b in ids if a != b}
        self.cuts: dict[tuple[str, str], None] = {}
        profile = world.profile
        self.loss, self.duplicates, self.reorder = profile.loss, profile.duplicates, profile.reorder
        self.messages = 0

    # -- sending
    def send(self, source: str, target: str, message: Message) -> bool:
        """False when the sender knows that it did not leave."""
        link = self.links[source, target]
        if not link.up:
            return False
        if link.dead:
            return True
        if (source, target) in self.cuts:
            if len(link.held) >= HELD_MAX:
                return False
            link.held.append(message)
            return True
        self._transmit(link, message)
        return True

    def _transmit(self, link: Link, message: Message) -> None:
        rng, world = self._rng, self._world
        self.messages += 1
        if self.loss and rng.random() < self.loss:
            return
        profile = world.profile
        departure = max(world.scheduler.now, world.members[link.source].busy_until)
        left, overtakes = self._leave(link, message, departure) if profile.bandwidth else (departure, False)
        arrival = left + (profile.latency_s + profile.jitter_s * rng.expovariate(1.0)) * link.slow
        if not self.reorder or rng.random() >= self.reorder:
            if overtakes:
                link.last_urgent_arrival = arrival = max(arrival, link.last_urgent_arrival)
            else:
                link.last_arrival = arrival = max(arrival, link.last_arrival, link.last_urgent_arrival)
        else:
            arrival += rng.random() * 0.3
        target = world.members[link.target]
        world.scheduler.at(arrival, target.deliver, link, link.epoch, target.incarnation, message)
        if self.duplicates and rng.random() < self.duplicates:
            again = arrival + rng.choice((0.01, 0.3, 3.0)) * rng.random()
            world.scheduler.at(again, target.deliver, link, link.epoch, target.incarnation, message)

    def _leave(self, link: Link, message: Message, departure: float) -> tuple[float, bool]:
        """When all of ``message`` is on the line, and whether it overtakes bulk that is not."""
        bandwidth = self._world.profile.bandwidth
        waiting = max(0.0, link.bulk_until - departure)
        if self._urgent(message):
            return departure + min(waiting, FRAGMENT_BYTES / bandwidth), waiting > 0
        link.bulk_until = departure + waiting + payload_bytes(message) / bandwidth
        return link.bulk_until, False

    @staticmethod
    def _urgent(message: Message) -> bool:
        """Whether it travels in the urgent lane."""
        return not payload_bytes(message)

    # -- connections
    def dial_all(self, source: str) -> None:
        """A process started: it dials everybody."""
        for link in self.links.values():
            if link.source == source:
                link.redial_s = REDIAL_MIN_S
                self._world.scheduler.after(self._rng.random() * 0.01, self._dial, link, link.epoch)

    def _dial(self, link: Link, epoch: int) -> None:
        world = self._world
        source, target = world.members[link.source], world.members[link.target]
        if link.up or epoch != link.epoch or not source.up:
            return
        blocked = (link.source, link.target) in self.cuts or (link.target, link.source) in self.cuts
        wanted = source.dials(target.id) or self.links[link.target, link.source].up
        if not target.up or blocked or not wanted or not_admitted(source, target):
            world.scheduler.after(link.redial_s * (0.5 + self._rng.random()), self._dial, link, epoch)
            link.redial_s = min(2 * link.redial_s, REDIAL_MAX_S)
            return
        link.up, link.dead, link.redial_s = True, False, REDIAL_MIN_S
        # Nothing waits for what is still under way on the connection before.
        link.bulk_until = link.last_arrival = link.last_urgent_arrival = 0.0
        source.link(link.target, up=True)

    def break_link(self, link: Link, epoch: int | None = None) -> None:
        """The connection ends (if it still is the one of ``epoch``), and is dialled again."""
        if epoch is not None and epoch != link.epoch:
            return
        was_up = link.up
        link.up, link.dead = False, False
        link.held.clear()
        link.epoch += 1
        if self._rng.random() < LOST_WITH_BREAK:
            link.lost_before = link.epoch
        source = self._world.members[link.source]
        if source.up:
            if was_up:
                source.link(link.target, up=False)
            delay = link.redial_s * (0.5 + self._rng.random())
            self._world.scheduler.after(delay, self._dial, link, link.epoch)

    def redial(self, source: str, target: str) -> None:
        """The connection begins anew."""
        self.break_link(self.links[source, target])

    def half_open(self, link: Link, detected_s: float) -> None:
        """Messages vanish; the sender finds out later."""
        link.dead = True
        self._world.scheduler.after(detected_s, self.break_link, link, link.epoch)

    def process_ended(self, node_id: str) -> None:
        """Its connections end: at once on its own side, soon after on the others'."""
        for link in self.links.values():
            if link.source == node_id:
                link.up = link.dead = False
                link.held.clear()
                link.epoch += 1
            elif link.target == node_id:
                self._world.scheduler.after(self._rng.random() * 0.1, self.break_link, link, link.epoch)

    @property
    def whole(self) -> bool:
        """Everybody reaches everybody."""
        used = self._world.ids
        links = (self.links[a, b] for a in used for b in used if a != b)
        return not self.cuts and all(link.up and not link.dead for link in links)

    # -- partitions
    def cut(self, source: str, target: str) -> None:
        """Nothing gets from ``source`` to ``target`` from now on."""
        if source == target or (source, target) in self.cuts:
            return
        self.cuts[source, target] = None
        link = self.links[source, target]
        self._world.scheduler.after(1.0 + 3.0 * self._rng.random(), self._give_up, link, link.epoch)

    def _give_up(self, link: Link, epoch: int) -> None:
        if (link.source, link.target) in self.cuts:
            self.break_link(link, epoch)

    def heal(self, source: str, target: str) -> None:
        """Held messages arrive, unless the connection was given up."""
        if self.cuts.pop((source, target), 0) == 0:
            return
        link = self.links[source, target]
        held, link.held = link.held, []
        for message in held:
            self._transmit(link, message)

    def heal_all(self) -> None:
        """A perfect network from now on."""
        self.loss = self.duplicates = self.reorder = 0.0
        for pair in list(self.cuts):
            self.heal(*pair)
        for link in self.links.values():
            link.slow = 1.0
            if link.dead or link.last_arrival > self._world.scheduler.now + JAMMED_S:
                self.break_link(link)
                link.lost_before = link.epoch
                link.last_arrival = 0.0


def not_admitted(source: Member, target: Member) -> bool:
    """The handshake: each looks at the other's disk; who answers says why not."""
    verdict = target.meet(source)
    if verdict:
        source.refused(target.id, verdict)
    return bool(verdict or source.meet(target))


def payload_bytes(message: Message) -> int:
    """What a message carries of log or snapshot; 0 for all that is urgent."""
    if type(message) is AppendEntries:
        return sum(len(payload) for payload, _, _ in message.entries)
    return len(message.data) if type(message) is SnapshotChunk else 0
