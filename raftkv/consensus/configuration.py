"""Who belongs to the group: a value, its changes and its binary form. Pure.

A configuration names every member. *Voters* elect and count for commits; *learners* get the log and do neither, until
they are promoted. A change makes a new configuration out of the old one and adds or removes at most one voter, so
that any majority of the old one shares a member with any majority of the new one (Raft thesis 4.1).

Each member is bound to its *disk*: a random id that its data directory was created with. A node that comes back with
another one has forgotten what it acknowledged and whom it voted for, and must not pass for the one it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final

from raftkv.errors import InvariantError, RaftKVError
from raftkv.replicator import Add, MembershipChange, Promote, Remove

CONFIGURATION: Final = 2
"""First byte of a log entry that holds a configuration."""
MEMBERS_MAX: Final = 64
VOTERS_MAX: Final = 15
REMOVED_MAX: Final = 256
"""Disks of removed members that are remembered, so that one that comes back is told so."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member."""

    node_id: str
    address: str = ""
    """host:port where the other members reach it."""
    disk: str = ""
    """Id of its data directory; empty until the leader has met it."""
    voter: bool = True
    promote: bool = False
    """A learner that becomes a voter as soon as it has caught up."""
    replaces: str = ""
    """A voter that is removed right before this learner is promoted."""


@dataclass(frozen=True, slots=True)
class Register:
    """What members said of themselves when they were met: id to (disk, address). Changes no votes."""

    met: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Readmit:
    """A member whose disk was damaged goes on with another one: as if it were removed and added, in one change."""

    node_id: str
    disk: str
    """Its new one."""
    former: tuple[str, ...]
    """Those that it had before; none of them is admitted again."""
    address: str = ""


Change = MembershipChange | Register | Readmit


@dataclass(frozen=True, slots=True)
class Configuration:
    """All members, ordered by id, since log entry ``index`` (0: what the node was first started with)."""

    members: tuple[Member, ...] = ()
    index: int = 0
    removed: tuple[str, ...] = ()
    """Disks that were removed, newest last."""

    @classmethod
    def of(cls, members: Iterable[Member | str]) -> Configuration:
        """The one that a group begins with; a bare id is a voter."""
        made = [Member(one) if isinstance(one, str) else one for one in members]
        return cls(tuple(sorted(made, key=lambda one: one.node_id)))

    def get(self, node_id: str) -> Member | None:
        """The member of that id."""
        return next((one for one in self.members if one.node_id == node_id), None)

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(one.node_id for one in self.members if one.voter)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(one.node_id for one in self.members)

    def alone(self, node_id: str, disk: str) -> Configuration:
        """The group of one that goes on when the quorum is lost for good. The disks of all others count as removed."""
        own = self.get(node_id)
        if own is None or own.disk not in ("", disk):
            own = Member(node_id)  # its place, and the address, are another directory's
        disks = dict.fromkeys((*self.removed, *(one.disk for one in self.members if one.disk)))
        disks.pop(disk, None)
        return Configuration((Member(node_id, own.address, disk),), removed=tuple(disks)[-REMOVED_MAX:])

    # ------------------------------------------------------------ changes
    def changed(self, change: Change) -> Configuration:
        """The next one. Raises RaftKVError (definite) that says what is wrong with the change."""
        match change:
            case Add():
                return self._added(change)
            case Remove():
                return self._removed(change)
            case Promote():
                return self._promoted(change)
            case Register():
                return self._registered(change)
            case Readmit():
                return self._readmitted(change)

    def _with(self, members: Iterable[Member]) -> Configuration:
        return replace(self, members=tuple(sorted(members, key=lambda one: one.node_id)))

    def _added(self, change: Add) -> Configuration:
        _refuse(not change.node_id, "a node needs an id")
        there = self.get(change.node_id)
        _refuse(
            there is not None,
            f"{change.node_id} is a member already ({_role(there)}); remove it first, or add another id",
        )
        user = next((one.node_id for one in self.members if one.address == change.address != ""), "")
        _refuse(bool(user), f"{change.address} is the address of {user}; each member needs its own")
        _refuse(len(self.members) >= MEMBERS_MAX, f"{MEMBERS_MAX} members are the most; remove one first")
        if change.replaces:
            old = self.get(change.replaces)
            _refuse(old is None, f"{change.replaces}, which is to be replaced, is no member: {self.listed()}")
            _refuse(not change.promote, "a member that replaces another one has to become a voter")
        new = Member(change.node_id, change.address, "", False, change.promote, change.replaces)
        return self._with((*self.members, new))

    def _removed(self, change: Remove) -> Configuration:
        old = self.get(change.node_id)
        if old is None:
            raise RaftKVError(f"{change.node_id} is no member; the members are: {self.listed()}")
        _refuse(self.voters == (change.node_id,), f"{change.node_id} is the last voter; without it there is no cluster")
        left = self._with(
            replace(one, replaces="") if one.replaces == old.node_id else one
            for one in self.members
            if one.node_id != old.node_id
        )
        if not old.disk:
            return left
        return replace(left, removed=(*self.removed, old.disk)[-REMOVED_MAX:])

    def _promoted(self, change: Promote) -> Configuration:
        old = self.get(change.node_id)
        if old is None:
            raise RaftKVError(f"{change.node_id} is no member; the members are: {self.listed()}")
        _refuse(old.voter, f"{change.node_id} is a voter already")
        _refuse(len(self.voters) >= VOTERS_MAX, f"{VOTERS_MAX} voters are the most; remove one first")
        new = replace(old, voter=True, promote=False, replaces="")
        return self._with(new if one is old else one for one in self.members)

    def _registered(self, change: Register) -> Configuration:
        met = {node_id: (disk, address) for node_id, disk, address in change.met}
        return self._with(
            replace(one, disk=one.disk or met[one.node_id][0], address=met[one.node_id][1] or one.address)
            if one.node_id in met
            else one
            for one in self.members
        )

    def _readmitted(self, change: Readmit) -> Configuration:
        """It has forgotten what it acknowledged and whom it voted for: a voter no more, until it has caught up."""
        old = self.get(change.node_id)
        if old is None:
            raise RaftKVError(f"{change.node_id} is no member; the members are: {self.listed()}")
        _refuse(self.voters == (change.node_id,), f"{change.node_id} is the last voter; nobody has what it lost")
        new = replace(
            old,
            disk=change.disk,
            address=change.address or old.address,
            voter=False,
            promote=old.voter or old.promote,
        )
        former = dict.fromkeys((*self.removed, *change.former, old.disk))
        removed = tuple(one for one in former if one not in ("", change.disk))
        return replace(self._with(new if one is old else one for one in self.members), removed=removed[-REMOVED_MAX:])

    def listed(self) -> str:
        """For messages: ``n1, n2, n4 (learner)``."""
        return ", ".join(one.node_id if one.voter else f"{one.node_id} (learner)" for one in self.members) or "none"

    # ------------------------------------------------------------ bytes
    def encode(self) -> bytes:
        """The payload of its log entry. The index is the entry's own."""
        body = {"members": [asdict(one) for one in self.members], "removed": list(self.removed)}
        return bytes([CONFIGURATION]) + json.dumps(body, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def decode(cls, payload: bytes, index: int) -> Configuration:
        """The other way round. Raises InvariantError on what :meth:`encode` did not write."""
        try:
            if payload[0] != CONFIGURATION:
                raise ValueError(f"kind {payload[0]}")
            body = json.loads(payload[1:])
            members = tuple(map(_decode_member, body["members"]))
            removed = tuple(body["removed"])
            if {*map(type, removed)} - {str}:
                raise TypeError("a removed disk is no text")
            return cls(members, index, removed)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            msg = f"entry {index} is no configuration: {error!r}"
            raise InvariantError(msg) from error


_PLAIN: Final = Member("")


def _decode_member(fields: dict[str, object]) -> Member:
    """Raises TypeError when a field is unknown, or has another type than it should."""
    member = Member(**fields)  # type: ignore[arg-type]  # checked on the next line, by the types of the defaults
    if any(type(value) is not type(getattr(_PLAIN, name)) for name, value in asdict(member).items()):
        raise TypeError(f"a member with a field of another type: {fields}")
    return member


def _role(member: Member | None) -> str:
    return "a voter" if member is not None and member.voter else "a learner"


def _refuse(condition: bool, message: str) -> None:
    if condition:
        raise RaftKVError(message)


# -------------------------------------------------------------------- beside a snapshot

_WRAPPED: Final = b"\xc5"
"""First byte of a snapshot's ``extra`` that carries a configuration; older ones hold the entry's payload alone."""


def wrap(configuration: Configuration, payload: bytes) -> bytes:
    """What a snapshot carries beside the state: the configuration as of its last entry, and that entry's payload."""
    head = configuration.encode()
    return b"".join((
        _WRAPPED, len(head).to_bytes(4, "big"), configuration.index.to_bytes(8, "big"), head, payload,
    ))  # fmt: skip


def unwrap(extra: bytes) -> tuple[Configuration | None, bytes]:
    """(configuration or None in a snapshot of an older version, payload of the last entry)."""
    if extra[:1] != _WRAPPED:
        return None, extra
    size, index = int.from_bytes(extra[1:5], "big"), int.from_bytes(extra[5:13], "big")
    return Configuration.decode(extra[13 : 13 + size], index), extra[13 + size :]
