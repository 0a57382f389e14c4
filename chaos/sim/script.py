"""Golden scripts: a schedule that somebody thought out, played on the production code, and what came of it.

    python -m chaos.sim.script FILE...            play, and show where the outcome is another than the file says
    python -m chaos.sim.script --rewrite FILE...  write the outcome into the files
    python -m chaos.sim.script --verbs            what a script may say

A script is text. Lines that begin with ``#`` are for its reader. A block is one or more commands, a line ``----``, and
the outcome, up to an empty line::

    campaign n1
    deliver n1->n2
    ----
    n1 -> n2 pre-vote term 2 last 5/1
    n1 => n2 pre-vote term 2 last 5/1
      n2 -> n1 pre-vote-granted term 2

``n1 -> n2`` is a message that n1 sends, ``n1 => n2`` one that arrives; what follows from an arrival stands below it,
further in. Other lines tell the new state of a node, an answer to a client, or ``VIOLATION`` with the safety property
(:mod:`chaos.sim.checks`) that no longer holds. ``5/1`` is the log's entry 5, of term 1.

Nothing moves by itself. A message is under way until the script delivers or drops it; clocks stand until ``advance``
(or a verb that says so) moves them. A disk completes each sync at once, unless it is stalled. The first entry of each
log is the engine's own, 1/0. After the ``cluster`` nobody leads.

Verbs that choose messages (``deliver``, ``drop``, ``hold``, ``duplicate``) take, in any order, a direction (``n1->n2``;
``n1,n3->*``), a kind (``append-entries``, ``vote``), ``nth=2`` for the second of those that fit, or ``last``. Without any of
these they mean all. A held message is meant only if the word ``held`` is there. To mean none is an error.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

from chaos.sim.guards import GUARDS, switched_off
from chaos.sim.stage import Actor, Flight, Stage, counted, entry_text
from chaos.sim.world import pinned
from raftkv.consensus import replica, replication, snapshots

RULE: Final = "----"
QUIET_S: Final = 0.025
"""``settle`` ends when so much time has passed without a message: every node has ticked meanwhile."""
SETTLE_ROUNDS_MAX: Final = 400
STEP_S: Final = 0.01
NOTE_LINES: Final = 60
"""With an error: so much of what was played before."""
LIMITS: Final = {"batch": (replication, "APPEND_ENTRIES_MAX"), "chunk": (snapshots, "CHUNK_BYTES")}
ELECTIONS: Final = frozenset({"pre-vote", "pre-vote-granted", "request-vote", "vote", "term-notice"})
ELECTION_ATTEMPTS: Final = 4
"""Voters may hear a leader yet, and a candidate in an old term learns of the newer one first."""
CAMPAIGN: Final = frozenset({"pre-vote", "request-vote"})


class ScriptError(Exception):
    """The script asks for something that is not there: the file is wrong, not the code under test."""


@dataclass(slots=True)
class Block:
    """``text`` is what stands before it: comments and empty lines."""

    text: list[str]
    commands: list[str]
    outcome: list[str]
    line: int


@dataclass(slots=True)
class Arguments:
    """What stands behind a verb."""

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
        self._stage: Stage | None = None
        self.quiet = False

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
            if member.clock.now > end:
                raise ScriptError(f"{member.id} does not campaign: {member.state()}")
            self.elapse([member], STEP_S)

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

    def flush(self) -> None:
        """Messages arrive until a while passes without one."""
        for _ in range(SETTLE_ROUNDS_MAX):
            flights = [one for one in self.stage.network.flights if not one.held]
            if not flights:
                self.elapse(self.nodes([]), QUIET_S)
                if all(one.held for one in self.stage.network.flights):
                    return
            for one in flights:
                if one in self.stage.network.flights:
                    self.stage.deliver(one)
        raise ScriptError("messages go on and on")

    # -- playing
    def play(self, block: Block) -> list[str]:
        """The outcome of a block's commands. Raises ScriptError."""
        lines: list[str] = []
        for command in block.commands:
            if len(block.commands) > 1:
                lines.append(f"> {command}")
            name, *rest = command.split()
            function = VERBS.get(name)
            if function is None:
                raise ScriptError(f"line {block.line}: no verb {name!r}; there are {', '.join(sorted(VERBS))}")
            options = dict(word.split("=", 1) for word in rest if "=" in word)
            arguments = Arguments([word for word in rest if "=" not in word], options)
            try:
                printed = function(self, arguments)
            except (ScriptError, ValueError, KeyError, IndexError) as error:
                raise ScriptError(f"line {block.line}: {command}: {error}") from error
            lines += (self.stage.report() if printed is None else printed) or ["(nothing)"]
        return lines


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
    """``cluster nodes=3 [batch=1] [chunk=99]``: n1, n2, n3... start on empty disks. An append carries at most ``batch``
    entries, a message ``chunk`` bytes of a snapshot.
    """
    for name, (owner, attribute) in LIMITS.items():
        if name in arguments.options:
            limit = int(arguments.options[name])
            script.stack.enter_context(mock.patch.object(owner, attribute, limit))
    script.stage = Stage(int(arguments.options["nodes"]))


@verb
def partition(script: Script, arguments: Arguments) -> None:
    """``partition n1 n2 | n3``: nothing passes between the sides; what is in flight between them is lost."""
    sides = [side.split() for side in " ".join(arguments.words).split("|")]
    script.stage.network.partition([[one.id for one in script.nodes(side)] for side in sides])


@verb
def heal(script: Script, _arguments: Arguments) -> None:
    """``heal``: no partition any more; connections that were cut are made anew."""
    script.stage.network.heal()
    script.stage.settle()


@verb
def crash(script: Script, arguments: Arguments) -> None:
    """``crash n1 [power]``: the process ends; with ``power`` its disk loses all that was not synced."""
    script.node(arguments).crash(power="power" in arguments.words)
    script.stage.settle()


@verb
def restart(script: Script, arguments: Arguments) -> None:
    """``restart n1``: a crashed node recovers from its disk, and connects."""
    script.stage.members[arguments.words[0]].start()
    script.stage.settle()


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


# ------------------------------------------------------------ time
@verb
def advance(script: Script, arguments: Arguments) -> None:
    """``advance [n1...] MS``: so many milliseconds pass, at these nodes or at all. Nothing is delivered."""
    milliseconds = int(arguments.words.pop())
    script.elapse(script.nodes(arguments.words), milliseconds / 1000)


@verb
def campaign(script: Script, arguments: Arguments) -> None:
    """``campaign n1``: n1's clock runs until its election timeout makes it ask for votes."""
    script.campaign(script.node(arguments))


@verb
def settle(script: Script, _arguments: Arguments) -> list[str]:
    """``settle``: all but held messages arrive, and those that follow from them. Tells only states and answers."""
    script.flush()
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
    leader.hand_over(target.id)
    script.stage.settle()


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


# ------------------------------------------------------------ files
def parse(text: str) -> tuple[list[Block], list[str]]:
    """Blocks, and the lines behind the last one."""
    blocks: list[Block] = []
    before: list[str] = []
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            before.append(line)
            continue
        blocks.append(Block(before, [line], [], number))
        before = []
        if _until(lines, blocks[-1].commands, RULE):
            _until(lines, blocks[-1].outcome, "")
    return blocks, before


def _until(lines: Iterator[tuple[int, str]], into: list[str], end: str) -> bool:
    """Take lines up to ``end``; False when an empty line comes first."""
    for _, line in lines:
        if line in (end, ""):
            return line == end
        into.append(line)
    return False


def played(text: str) -> str:
    """The script with the outcome that it has now. Raises ScriptError."""
    blocks, rest = parse(text)
    lines: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(pinned())
        stack.enter_context(mock.patch.object(replica, "MARK_BYTES", 1))
        script = Script(stack)
        for block in blocks:
            try:
                lines += [*block.text, *block.commands, RULE, *script.play(block), ""]
            except ScriptError as error:
                error.add_note("\n".join(lines[-NOTE_LINES:]))
                raise
    return "\n".join([*lines[:-1], "", *rest]).rstrip("\n") + "\n"


def difference(path: Path) -> str:
    """What the script's outcome has other than its file says; empty when nothing. Raises ScriptError."""
    text = path.read_text(encoding="utf-8")
    now = played(text)
    return "\n".join(difflib.unified_diff(text.splitlines(), now.splitlines(), str(path), "played now", lineterm=""))


def main(argv: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim.script", description="Plays golden scripts.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rewrite", action="store_true", help="write the outcome into the files")
    parser.add_argument("--verbs", action="store_true", help="what a script may say")
    options = parser.parse_args(argv)
    if options.verbs:
        print("\n".join(inspect.cleandoc(function.__doc__ or "") for function in VERBS.values()))
    changed = 0
    for path in options.files:
        try:
            found = difference(path)
            if options.rewrite:
                path.write_text(played(path.read_text(encoding="utf-8")), encoding="utf-8")
        except ScriptError as error:
            found = "\n".join([*error.__notes__, f"{path}: {error}"])
        changed += bool(found)
        print(found or f"{path}: as written")
    return int(bool(changed) and not options.rewrite)


if __name__ == "__main__":
    sys.exit(main())
