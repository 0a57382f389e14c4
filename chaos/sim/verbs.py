"""What a script may say (:mod:`chaos.sim.script`): one function a verb, in a table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final
from unittest import mock

from chaos.disk import Lost
from chaos.sim.guards import GUARDS, switched_off
from chaos.sim.stage import Actor, Flight, Stage, counted, entry_text
from persistence.segment import DATA_START
from raftkv.consensus import replication, snapshot_sender
from raftkv.consensus.core import Timing
from raftkv.replicator import Add, MembershipChange, Promote, Remove

QUIET_S: Final = 0.025
"""``settle`` ends when so much time has passed without a message: every node has ticked meanwhile."""
SETTLE_ROUNDS_MAX: Final = 400
STEP_S: Final = 0.01
RUN_STEP_S: Final = 0.1
LIMITS: Final = {"batch": (replication, "APPEND_ENTRIES_MAX"), "chunk": (snapshot_sender, "CHUNK_BYTES")}
ELECTIONS: Final = frozenset({"pre-vote", "pre-vote-granted", "request-vote", "vote", "term-notice"})
ELECTION_ATTEMPTS: Final = 4
"""Voters may hear a leader yet, and a candidate in an old term learns of the newer one first."""
CAMPAIGN: Final = frozenset({"pre-vote", "request-vote"})


class ScriptError(Exception):
    """The script asks for something that is not there: the file is wrong, not the code under test."""


@dataclass(slots=True)
class Arguments:
    """What follows a verb."""

    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)


Verb = Callable[["Script", Arguments], "list[str] | None"]
VERBS: Final[dict[str, Verb]] = {}


def verb(function: Verb) -> Verb:
    """Enter it into the table, by its name. What it returns is printed in place of what the stage reports."""
    VERBS[function.__name__.rstrip("_")] = function
    return function


class Script:
    """One script being played."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.lost: dict[str, list[Lost]] = {}
        """What may be mounted again, by node."""
        self._stage: Stage | None = None

    # -- what verbs use
    @property
    def stage(self) -> Stage:
        """The group. Raises ScriptError before ``cluster``."""
        if self._stage is None:
            raise ScriptError("a script begins with a cluster")
        return self._stage

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self._stage = stage

    def node(self, arguments: Arguments) -> Actor:
        """The next word: a node that runs."""
        name = arguments.words.pop(0) if arguments.words else ""
        member = self.stage.members.get(name)
        if member is None or not member.up:
            raise ScriptError(f"{name!r} is no node that runs, of {', '.join(self.stage.members)}")
        return member

    def nodes(self, names: list[str]) -> list[Actor]:
        """The nodes of these names; all that run for none."""
        unknown = [name for name in names if name not in self.stage.members]
        if unknown:
            raise ScriptError(f"{', '.join(unknown)}: the nodes are {', '.join(self.stage.members)}")
        chosen = names or list(self.stage.members)
        return [self.stage.members[name] for name in chosen if self.stage.members[name].up]

    def choose(self, arguments: Arguments) -> list[Flight]:
        """The messages that are meant (see the module)."""
        held = "held" in arguments.words
        found = [one for one in self.stage.network.flights if one.held == held]
        for word in arguments.words:
            if "->" in word:
                source, target = (side.split(",") for side in word.split("->"))
                found = [one for one in found if _named(one.source, source) and _named(one.target, target)]
            elif word not in ("held", "last"):
                found = [one for one in found if one.kind == word]
        if "last" in arguments.words:
            found = found[-1:]
        if "nth" in arguments.options:
            number = int(arguments.options["nth"])
            found = found[number - 1 : number]
        if not found:
            raise ScriptError(f"no such message; there are: {counted(map(str, self.stage.network.flights))}")
        return found

    def elapse(self, members: list[Actor], seconds: float) -> None:
        """Time passes at these nodes, in steps, so that none is far ahead."""
        while seconds > 0:
            for member in members:
                if member.up:
                    member.clock.run(min(STEP_S, seconds))
            self.stage.settle()
            seconds = round(seconds - STEP_S, 6)

    def campaign(self, member: Actor) -> None:
        """The node's clock runs until it asks for votes."""
        sent = self.stage.sent
        before = len(sent)
        end = member.clock.now + 3 * self.stage.timing.election_max_s
        while not any(one.kind in CAMPAIGN and one.source == member.id for one in sent[before:]):
            if not member.up or member.clock.now > end:  # the clock of a node that is down stands still
                raise ScriptError(f"{member.id} does not campaign: {member.state()}")
            self.elapse([member], STEP_S)

    def change(self, arguments: Arguments, make: Callable[[str], MembershipChange]) -> None:
        """The first node is asked for a change that concerns the second."""
        self.stage.change(self.node(arguments).id, make(arguments.words[0]))

    def poll(self, member: Actor, voters: list[str]) -> None:
        """What is said of elections between the candidate and these voters arrives."""
        while True:
            pairs = {pair for voter in voters for pair in ((member.id, voter), (voter, member.id))}
            flights = self.stage.network.flights
            said = [one for one in flights if one.kind in ELECTIONS and (one.source, one.target) in pairs]
            said = [one for one in said if not one.held]
            if not said:
                return
            self.stage.deliver(said[0])

    def flush(self, members: list[Actor]) -> None:
        """Messages between these nodes arrive until a while passes without one."""
        names = {one.id for one in members}

        def under_way() -> list[Flight]:
            flights = [one for one in self.stage.network.flights if not one.held]
            return [one for one in flights if one.source in names and one.target in names]

        for _ in range(SETTLE_ROUNDS_MAX):
            if not under_way():
                self.elapse(members, QUIET_S)
                if not under_way():
                    return
            for one in under_way():
                if one in self.stage.network.flights:  # not lost meanwhile, with a node that stopped
                    self.stage.deliver(one)
        raise ScriptError("messages go on and on")


def _named(node: str, names: list[str]) -> bool:
    return node in names or "*" in names


# ------------------------------------------------------------ the group
@verb
def off(script: Script, arguments: Arguments) -> list[str]:
    """``off GUARD...``: before the cluster: switch guards off (:mod:`chaos.sim.guards`) for this script."""
    script.stack.enter_context(switched_off(arguments.words))
    return [f"without {name}: {GUARDS[name].stops}" for name in arguments.words]


@verb
def cluster(script: Script, arguments: Arguments) -> None:
    """``cluster nodes=3 [lease] [disks] [batch=1] [chunk=99]``: n1, n2, n3... start on empty disks. Leaders use leases;
    nodes say to each other which disk they have, and a leader writes that down; an append carries at most ``batch``
    entries, a message ``chunk`` bytes of a snapshot.
    """
    for name, (owner, attribute) in LIMITS.items():
        if name in arguments.options:
            limit = int(arguments.options[name])
            script.stack.enter_context(mock.patch.object(owner, attribute, limit))
    timing = Timing(read_lease="lease" in arguments.words)
    script.stage = Stage(int(arguments.options["nodes"]), disks="disks" in arguments.words, timing=timing)


@verb
def partition(script: Script, arguments: Arguments) -> None:
    """``partition n1 n2 | n3``: nothing passes between the sides, but within; what is in flight between them is lost.
    Who is named on two sides talks to both.
    """
    sides = [side.split() for side in " ".join(arguments.words).split("|")]
    script.nodes([name for side in sides for name in side])
    script.stage.network.partition(sides)
    script.stage.settle()


@verb
def heal(script: Script, _arguments: Arguments) -> None:
    """``heal``: no partition any more."""
    script.stage.network.partition([])
    script.stage.settle()


@verb
def crash(script: Script, arguments: Arguments) -> None:
    """``crash n1 [power]``: the process ends; with ``power`` its disk loses all that was not synced."""
    script.node(arguments).crash(power="power" in arguments.words)
    script.stage.settle()


@verb
def restart(script: Script, arguments: Arguments) -> None:
    """``restart n1``: a crashed node recovers from its disk, and connects."""
    member = script.stage.members[arguments.words[0]]
    if member.up:
        raise ScriptError(f"{member.id} runs; crash it first")
    member.start()
    script.stage.settle()


@verb
def damage(script: Script, arguments: Arguments) -> list[str]:
    """``damage n1 OFFSET``: a bit of the part of a snapshot turns over that a crashed node has received."""
    name, offset = arguments.words
    member = script.stage.members[name]
    parts = [one for one in member.disk.listdir("data/snapshots") if one.endswith(".part")]
    if member.up or not parts:
        raise ScriptError(f"{name} runs, or has no part of a snapshot")
    member.disk.flip(f"data/snapshots/{parts[0]}", int(offset), 0)
    return [f"{name}'s part of {int(parts[0].split('-')[1])}/{int(parts[0].split('-')[2])} is damaged at {offset}"]


@verb
def wipe(script: Script, arguments: Arguments) -> None:
    """``wipe n1 [joins]``: a crashed node gets an empty disk in the place of its own. It restarts as if nothing had
    happened, or with ``joins`` as one that waits to be added.
    """
    member = script.stage.members[arguments.words[0]]
    if member.up:
        raise ScriptError(f"{member.id} runs; crash it first")
    joins = "joins" in arguments.words
    member.renew(joins=joins)
    member.wiped = not joins


@verb
def rot(script: Script, arguments: Arguments) -> None:
    """``rot n1``: the first record in the log of a crashed node does not verify any more; its next start finds out."""
    member = script.stage.members[arguments.words[0]]
    if member.up:
        raise ScriptError(f"{member.id} runs; crash it first")
    oldest = min(path for path in member.disk.names if path.startswith("data/log/") and path.endswith(".wal"))
    member.disk.flip(oldest, DATA_START + 8, 0)


@verb
def lose(script: Script, arguments: Arguments) -> None:
    """``lose n1``: log and snapshots of a crashed node are gone, its identity stays."""
    member = script.stage.members[arguments.words[0]]
    if member.up:
        raise ScriptError(f"{member.id} runs; crash it first")
    script.lost[member.id] = [member.disk.lose(path) for path in ("data/log", "data/snapshots")]


@verb
def remount(script: Script, arguments: Arguments) -> None:
    """``remount n1``: what a crashed node lost is there again, in the place of what is there by now."""
    member = script.stage.members[arguments.words[0]]
    if member.up or member.id not in script.lost:
        raise ScriptError(f"{member.id} runs, or has lost nothing")
    for one in script.lost.pop(member.id):
        member.disk.put_back(one)


@verb
def stall(script: Script, arguments: Arguments) -> None:
    """``stall n1``: from now on no sync of n1's log completes by itself (term and vote are synced all the same)."""
    script.node(arguments).stalled = True


@verb
def sync(script: Script, arguments: Arguments) -> None:
    """``sync n1``: the sync that is under way at n1 completes; what came after it began waits for the next."""
    member = script.node(arguments)
    if not member.sync():
        raise ScriptError(f"no sync is under way at {member.id}")
    script.stage.settle()


@verb
def unstall(script: Script, arguments: Arguments) -> None:
    """``unstall n1``: n1's disk works again: the sync that is under way completes, and all that follow."""
    member = script.node(arguments)
    member.stalled = False
    while member.sync():
        script.stage.settle()


# ------------------------------------------------------------ time
@verb
def advance(script: Script, arguments: Arguments) -> None:
    """``advance [n1...] MS``: so many milliseconds pass, at these nodes or at all. Nothing is delivered."""
    milliseconds = int(arguments.words.pop())
    script.elapse(script.nodes(arguments.words), milliseconds / 1000)


@verb
def run(script: Script, arguments: Arguments) -> list[str]:
    """``run MS``: about so many milliseconds pass, and messages that are not held arrive soon.

    Tells only states and answers.
    """
    members = script.nodes([])
    end = members[0].clock.now + int(arguments.words.pop()) / 1000
    while members[0].clock.now < end:
        script.elapse(members, RUN_STEP_S)
        script.flush(members)
    return script.stage.report(messages=False)


@verb
def campaign(script: Script, arguments: Arguments) -> None:
    """``campaign n1``: n1's clock runs until its election timeout makes it ask for votes."""
    script.campaign(script.node(arguments))


@verb
def settle(script: Script, arguments: Arguments) -> list[str]:
    """``settle [n1...]``: all but held messages between these nodes, or all, arrive, and what follows from them.

    It takes a little time at these nodes. Tells only states and answers.
    """
    script.flush(script.nodes(arguments.words))
    return script.stage.report(messages=False)


@verb
def elect(script: Script, arguments: Arguments) -> list[str]:
    """``elect n1 [n2...]``: the leader's silence makes n1 campaign; the others (or all) vote. Only votes arrive."""
    member = script.node(arguments)
    voters = [one for one in script.nodes(arguments.words) if one is not member]
    for _ in range(ELECTION_ATTEMPTS):
        script.campaign(member)
        script.poll(member, [one.id for one in voters])
        if member.replica.core.is_leader:
            return script.stage.report(messages=False)
        script.elapse(voters, script.stage.timing.election_min_s + 0.001)
    raise ScriptError(f"{member.id} was not elected: {member.state()}")


# ------------------------------------------------------------ messages
@verb
def deliver(script: Script, arguments: Arguments) -> list[str]:
    """``deliver MESSAGES``: they arrive, in the order in which they were sent."""
    lines = script.stage.report()
    for one in script.choose(arguments):
        lines.append(f"{one.source} => {str(one).split(' -> ')[1]}")
        script.stage.deliver(one)
        lines += [f"  {line}" for line in script.stage.report()]
    return lines


@verb
def drop(script: Script, arguments: Arguments) -> list[str]:
    """``drop MESSAGES``: they are lost."""
    found = script.choose(arguments)
    script.stage.network.flights = [one for one in script.stage.network.flights if one not in found]
    return counted(f"lost: {one}" for one in found)


@verb
def hold(script: Script, arguments: Arguments) -> list[str]:
    """``hold MESSAGES``: they are late: from now on they arrive only when asked for with ``held``."""
    found = script.choose(arguments)
    for one in found:
        one.held = True
    return counted(f"held: {one}" for one in found)


@verb
def duplicate(script: Script, arguments: Arguments) -> list[str]:
    """``duplicate MESSAGES``: each is under way a second time, and the second is held."""
    found = script.choose(arguments)
    script.stage.network.flights += [Flight(one.source, one.target, one.message, held=True) for one in found]
    return counted(f"held, a second time: {one}" for one in found)


@verb
def flights(script: Script, _arguments: Arguments) -> list[str]:
    """``flights``: the messages under way."""
    return counted(f"{one} (held)" if one.held else str(one) for one in script.stage.network.flights) or ["none"]


# ------------------------------------------------------------ clients
@verb
def propose(script: Script, arguments: Arguments) -> None:
    """``propose n1 SET x 1 [session=NAME seq=2]``: a client asks n1 for a write; the answer is told when it comes."""
    options = arguments.options
    node = script.node(arguments)
    script.stage.propose(node.id, arguments.words, options.get("session", ""), int(options.get("seq", "0")))


@verb
def open_(script: Script, arguments: Arguments) -> None:
    """``open n1 NAME``: a client opens a session at n1."""
    script.stage.open_session(script.node(arguments).id, arguments.words[0])


@verb
def read(script: Script, arguments: Arguments) -> None:
    """``read n1 GET x``: a client asks n1 for a linearizable read; the answer is told when it comes."""
    script.stage.read(script.node(arguments).id, arguments.words)


@verb
def peek(script: Script, arguments: Arguments) -> list[str]:
    """``peek n1 GET x``: what n1's own state says, which promises nothing."""
    return [script.stage.peek(script.node(arguments).id, arguments.words)]


# ------------------------------------------------------------ nodes
@verb
def transfer(script: Script, arguments: Arguments) -> None:
    """``transfer n1 n2``: n1 is asked to hand its leadership to n2; it goes on trying as its clock runs."""
    leader, target = script.node(arguments), script.node(arguments)
    script.stage.transfer(leader.id, target.id)


@verb
def snapshot(script: Script, arguments: Arguments) -> None:
    """``snapshot n1``: n1 writes a snapshot of its state, and drops the log before the one it wrote before."""
    member = script.node(arguments)
    before = member.replica.snapshots.index
    member.call(member.replica.take_snapshot)
    script.elapse([member], 2 * STEP_S + 0.1)
    if member.replica.snapshots.index == before:
        raise ScriptError(f"{member.id} has nothing new for a snapshot")


@verb
def status(script: Script, arguments: Arguments) -> list[str]:
    """``status [n1...]``: role, term, vote, log and commit index of each node."""
    names = arguments.words or list(script.stage.members)
    return [f"{name} {script.stage.members[name].state()}" for name in names]


@verb
def log(script: Script, arguments: Arguments) -> list[str]:
    """``log n1...``: the entries, as index/term."""
    lines = []
    for member in script.nodes(arguments.words):
        held = member.log
        entries = held.entries(held.first_index, held.last_index - held.first_index + 1)
        lines.append(f"{member.id} " + ", ".join(f"{index}/{term} {entry_text(data)}" for data, index, term in entries))
    return lines


# ------------------------------------------------------------ members
@verb
def join(script: Script, arguments: Arguments) -> None:
    """``join n4``: a node that knows nobody starts on an empty disk, and waits to be added."""
    script.stage.join(arguments.words[0])


@verb
def add(script: Script, arguments: Arguments) -> None:
    """``add n1 n4 [promote] [replaces=n2]``: n1 is asked to make n4 a learner, and a voter when
    it has caught up, in n2's place.
    """
    options, promote = arguments.options, "promote" in arguments.words
    members = script.stage.members
    script.change(arguments, lambda name: Add(name, members[name].address, promote, options.get("replaces", "")))


@verb
def promote(script: Script, arguments: Arguments) -> None:
    """``promote n1 n4``: n1 is asked to make the learner n4 a voter."""
    script.change(arguments, Promote)


@verb
def remove(script: Script, arguments: Arguments) -> None:
    """``remove n1 n3``: n1 is asked to remove n3."""
    script.change(arguments, Remove)
