# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""The cluster and its nodes. What a node says of itself is asked of the leader."""

from __future__ import annotations

from typing import Any

from raftkv.client.commands.caller import Caller, T, option
from raftkv.client.words import Word, done, info, report


class ServerCommands(Caller[T]):
    """State, figures, whole databases."""

    def ping(self) -> bool:
        """True when a node answers."""
        return self._call("PING", shape=done)

    def echo(self, message: Word) -> T:
        """``message``."""
        return self._call("ECHO", message)

    def time(self) -> tuple[int, int]:
        """The server's time: seconds since the epoch, and microseconds."""
        return self._call("TIME", shape=_time)

    def dbsize(self) -> int:
        """Number of keys in the selected database."""
        return self._call("DBSIZE")

    def flushdb(self) -> bool:
        """Delete all keys of the selected database."""
        return self._call("FLUSHDB", shape=done)

    def flushall(self) -> bool:
        """Delete all keys of all databases."""
        return self._call("FLUSHALL", shape=done)

    def swapdb(self, first: int, second: int) -> bool:
        """Exchange two databases."""
        return self._call("SWAPDB", first, second, shape=done)

    def info(self, *sections: str) -> dict[str, str]:
        """INFO's fields, as text."""
        return self._call("INFO", *sections, shape=info)

    def stats(self) -> dict[str, str]:
        """All that INFO tells."""
        return self._call("INFO", shape=info)

    def cluster_status(self) -> dict[str, Any]:
        """RAFT.STATUS: role, leader, term, indices of the node that answers."""
        return self._call("RAFT.STATUS", shape=report)

    def cluster_nodes(self) -> list[dict[str, Any]]:
        """RAFT.NODES: every member as that node sees it."""
        return self._call("RAFT.NODES", shape=_reports)

    def cluster_members(self) -> dict[str, Any]:
        """RAFT.MEMBERS: who belongs to the cluster by the log, how far each is, and whether a change is under way."""
        return self._call("RAFT.MEMBERS", shape=_membership)

    def add_member(self, node: str, address: str, *, learner: bool = False, replaces: str | None = None) -> bool:
        """Let a node join that listens for its peers at ``address`` (RAFT.ADD); it votes once it has caught up.

        ``learner``: only after :meth:`promote_member`. ``replaces``: in the place of that member.
        """
        words = [*(["LEARNER"] if learner else []), *option("REPLACES", replaces)]
        return self._call("RAFT.ADD", node, address, *words, shape=done)

    def remove_member(self, node: str) -> bool:
        """Let a member leave for good (RAFT.REMOVE)."""
        return self._call("RAFT.REMOVE", node, shape=done)

    def promote_member(self, node: str) -> bool:
        """Make a learner that has caught up a voter (RAFT.PROMOTE)."""
        return self._call("RAFT.PROMOTE", node, shape=done)

    def transfer_leadership(self, node: str | None = None) -> bool:
        """Let another member lead (RAFT.TRANSFER)."""
        return self._call("RAFT.TRANSFER", *([node] if node is not None else []), shape=done)

    def snapshot(self) -> int:
        """Let the node write a snapshot (RAFT.SNAPSHOT); the log index it covers."""
        return self._call("RAFT.SNAPSHOT")

    def config_get(self, *patterns: str) -> dict[str, Any]:
        """Settings that match."""
        return self._call("CONFIG", "GET", *patterns, shape=report)

    def config_set(self, name: str, value: Word) -> bool:
        """Change a setting of the node."""
        return self._call("CONFIG", "SET", name, value, shape=done)

    def slowlog_get(self, count: int | None = None) -> list[Any]:
        """The slowest commands of late."""
        return self._call("SLOWLOG", *option("GET", -1 if count is None else count))

    def keyslot(self, key: Word) -> int:
        """The hash slot of a key (CLUSTER KEYSLOT)."""
        return self._call("CLUSTER", "KEYSLOT", key)


def _reports(reply: list[Any]) -> list[dict[str, Any]]:
    return [report(item) for item in reply]


def _membership(reply: Any) -> dict[str, Any]:
    found = report(reply)
    found["members"] = _reports(found["members"])
    return found


def _time(reply: list[Any]) -> tuple[int, int]:
    return int(reply[0]), int(reply[1])
