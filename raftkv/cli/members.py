"""What ``raftkv cluster`` asks and tells: the members through the leader, their changes, and what to do next.

Requests go through :mod:`raftkv.client`, which finds the leader, follows it, and repeats what certainly did not happen
until its deadline. A change whose answer was lost is not repeated: the configuration says whether it took place.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from raftkv.cli import tables
from raftkv.client import RaftKV
from raftkv.client.words import report
from raftkv.config import PEER_PORT_OFFSET
from raftkv.config_values import PORT_MAX, is_loopback, join_address, split_address
from raftkv.errors import RaftKVError, UnknownOutcomeError

POLL_S: Final = 0.2
"""Between two looks at a node that is awaited."""
TELL_S: Final = 5.0
"""Between two lines about it when nothing changes, where lines cannot be written over."""
ATTEMPT_S: Final = 8.0
"""For one request with one node: longer than a node waits for a quorum by default."""

Fields = dict[str, Any]


class GoneError(RaftKVError):
    """The awaited node is no member any more."""


@dataclass(frozen=True, slots=True)
class Group:
    """An answer to RAFT.MEMBERS."""

    fields: Fields

    @property
    def members(self) -> list[Fields]:
        found: list[Fields] = self.fields["members"]
        return [one for one in found if one["role"] != "none"]

    def get(self, node_id: str) -> Fields | None:
        return next((one for one in self.members if one["node"] == node_id), None)

    @property
    def voters(self) -> int:
        return sum(one["voter"] for one in self.members)

    @property
    def strength(self) -> str:
        """``3 voters, 1 may fail``; where nobody leads only who is there, because too many have failed already."""
        down = sum(bool(one["voter"]) and not one["connected"] for one in self.members)
        text = _counted(self.voters, "voter") + (f", {down} not connected" if down else "")
        if not self.fields["leader_id"]:
            return text
        spare = (self.voters - 1) // 2 - down
        return f"{text}, {spare if spare > 0 else 'none'} {'more ' if down else ''}may fail"


class Admin:
    """Somebody who looks after a cluster."""

    def __init__(self, address: str, *, timeout_s: float, user: str, password: str) -> None:
        """``address`` of any node; ``timeout_s`` bounds each request with all its repetitions."""
        self._client = RaftKV(
            [address], deadline_s=timeout_s, attempt_timeout_s=min(ATTEMPT_S, timeout_s), username=user or None,
            password=password or None, max_connections=2,
        )  # fmt: skip

    def close(self) -> None:
        self._client.close()

    def look(self) -> Group:
        """The members, as the leader sees them, or the node that was asked while there is none."""
        return Group(self._client.cluster_members())

    def alarms(self) -> list[Fields]:
        """The alarms that stand."""
        return [report(one) for one in self._client.execute("RAFT.ALARM", "LIST")]

    def clear_alarm(self, node_id: str, kind: str) -> int:
        """How many were cleared."""
        return int(self._client.execute("RAFT.ALARM", "CLEAR", node_id, kind))

    def change(self, words: list[str], happened: Callable[[Group], bool]) -> Group:
        """Order a change, and look at what came of it. ``happened`` tells it in a configuration."""
        try:
            self._client.execute(*words)
        except UnknownOutcomeError as error:
            group = self.look()
            if not happened(group):
                msg = f"it is not known whether this takes place ({error.message}); see: raftkv cluster status"
                raise UnknownOutcomeError(msg) from error
            return group
        return self.look()

    def wait(
        self, node_id: str, *, within_s: float, tell: Callable[[str], None], monotonic: Callable[[], float]
    ) -> Group:
        """Until ``node_id`` votes. Raises GoneError when it is removed, RaftKVError when time is up."""
        until = monotonic() + within_s
        while True:
            group = self.look()
            member = group.get(node_id)
            if member is None:
                raise GoneError(f"{node_id} is no member any more: somebody removed it")
            if member["voter"]:
                return group
            progress = describe(member)
            if monotonic() >= until:
                msg = f"not yet a voter after {within_s:g} s ({progress}); it goes on by itself, see: raftkv cluster status"
                raise RaftKVError(msg)
            tell(progress)
            time.sleep(POLL_S)


class Progress:
    """One line that is written over on a terminal; elsewhere a line when there is news."""

    def __init__(self, write: Callable[[str], object], *, terminal: bool, monotonic: Callable[[], float]) -> None:
        self._write = write
        self._terminal = terminal
        self._monotonic = monotonic
        self._last = ""
        self._told = -TELL_S

    def __call__(self, text: str) -> None:
        if self._terminal:
            self._write(f"\r\x1b[K{text}")
        elif text != self._last and (not self._last or self._monotonic() - self._told >= TELL_S):
            self._write(text + "\n")
            self._told = self._monotonic()
        else:
            return
        self._last = text

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._last:
            self._write("\r\x1b[K")


def describe(member: Fields) -> str:
    """How far a learner is, for the one who waits for it."""
    node_id = member["node"]
    if not member["connected"]:
        return f"{node_id} is not connected to the leader: is it started?"
    if member["lag"] < 0:
        return f"{node_id}: waiting for a leader"
    return f"{node_id} is a learner, {member['lag']} entries behind"


# ---------------------------------------------------------------- what is shown
def summary(group: Group) -> str:
    """The first line of ``status``."""
    fields = group.fields
    learners = len(group.members) - group.voters
    leader = fields["leader_id"] or "none"
    text = f"cluster {fields['cluster']}, leader {leader}, term {fields['term']}: {group.strength}" + (
        f"; {_counted(learners, 'learner')}" if learners else ""
    )
    if fields["changing"]:
        text += f"; a change of the members (entry {fields['configuration_index']}) is not committed yet"
    return text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def table(group: Group) -> str:
    """All members, one a line."""
    columns = ("node", "role", "behind", "heard of", "clients", "peers", "disk", "")
    return tables.table(columns, (_row(one, group) for one in group.members), {"behind", "heard of"})


def _row(member: Fields, group: Group) -> list[str]:
    leads = member["node"] == group.fields["leader_id"]
    contact_ms = member["last_contact_ms"]
    heard = "" if leads else "never" if contact_ms < 0 else f"{contact_ms / 1000:.1f} s ago"
    notes = []
    if not member["connected"]:
        notes.append("not connected")
    if member["replaces"]:
        notes.append(f"takes the place of {member['replaces']}")
    elif member["promote"]:
        notes.append("will be promoted")
    behind = "" if leads or member["lag"] < 0 else str(member["lag"])
    return [
        member["node"], member["role"], behind, heard, member["client_address"] or "?", member["peer_address"] or "?",
        member["disk"] or "?", ", ".join(notes),
    ]  # fmt: skip


def alarms_text(standing: list[Fields]) -> str:
    """One line an alarm."""
    if not standing:
        return "no alarm stands"
    rows = [[one["node"], one["kind"], _moment(one["since_ms"]), one["reason"]] for one in standing]
    return tables.table(("node", "alarm", "since (UTC)", "reason"), rows)


def _moment(since_ms: int) -> str:
    return f"{datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


# ---------------------------------------------------------------- what to do next
def start_words(node_id: str, address: str, cluster_id: str) -> list[str]:
    """The command that starts the new node on its machine."""
    host, port = split_address(address)
    words = ["raftkv", "server", "--id", node_id]
    if PEER_PORT_OFFSET < port <= PORT_MAX:  # ports as they are by default: clients at the peers' less the offset
        words += ["--listen", join_address(host, port - PEER_PORT_OFFSET)]
    return [*words, "--peer-listen", address, "--cluster-id", cluster_id, "--join", "--data", f"data/{node_id}"]


def start_advice(node_id: str, address: str, cluster_id: str) -> str:
    """How to start it, in words."""
    host, _ = split_address(address)
    lines = [
        "start it on its machine, with an empty data directory:",
        "",
        "  " + shlex.join(start_words(node_id, address, cluster_id)),
        "",
        f"Where it listens on another address than {address} (DNS, NAT), let --peer-listen say that one and add",
        f"  --peer-advertise {address}",
    ]
    if not is_loopback(host):
        lines.append("It needs the peer_secret and the requirepass of the others.")
    return "\n".join(lines)
