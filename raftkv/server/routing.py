"""Which way a command takes: local read, log, another node, or wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.commands.registry import TABLE, Argv, Command
from raftkv.errors import RaftKVError
from raftkv.machine.alarms import takes_space
from raftkv.server.consistency import LINEARIZABLE, Consistency
from raftkv.store.slots import key_slot

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.config import Settings
    from raftkv.consensus.node import RaftNode
    from raftkv.machine.machine import StateMachine
    from raftkv.server.connection import Connection

_READ: Final = 1
_WRITE: Final = 2


class MovedError(RaftKVError):
    """Another node is to be asked (setting ``redirect = moved``)."""

    code = "MOVED"


class Routing:
    """Part of the node: classification of pipelines, redirection, CLIENT PAUSE."""

    settings: Settings
    clock: Clock
    raft: RaftNode
    machine: StateMachine
    detour: bool
    """No pipeline may take the short way now: commands are paused, must be redirected, or some are refused."""

    def client_address(self, node_id: str) -> str:
        """host:port of a member's client port."""
        raise NotImplementedError

    def _init_routing(self) -> None:
        self._paused_until = 0.0
        self._paused_writes_only = False
        self._paused: list[Connection] = []
        plain = {
            name: one
            for name, one in TABLE.items()
            if one.scope == "data" and not one.subcommands and name in (one.name.encode(), one.name.lower().encode())
        }
        self._data_names = frozenset(plain)
        self._read_names = frozenset(name for name, one in plain.items() if not one.write)
        self.kinds = {name: _WRITE if one.write else _READ for name, one in plain.items()}
        self.reads_alone = {name: one for name, one in plain.items() if not one.write and one.arity > 0}
        """Commands that :meth:`Connection._read_alone` may take: the number of words alone tells their arity."""
        self.detour = False
        self.leadership_changed()

    def classify(self, names: set[bytes]) -> int:
        """1: all only read; 2: all work on data and may go through the log together; 0: look at each."""
        if names <= self._read_names:
            return _READ
        return _WRITE if names <= self._data_names else 0

    # ------------------------------------------------------------ redirection
    def leadership_changed(self) -> None:
        """Who leads decides whether commands are redirected."""
        redirects = self.settings.redirect == "moved" and not self.raft.is_leader
        self.detour = redirects or bool(self._paused_until) or self.machine.refusal is not None

    settings_changed = leadership_changed

    def refusal(self, *commands: Command) -> RaftKVError | None:
        """Why none of these may get into the log now: one may take space, and a member has none."""
        if self.machine.refusal is None or not any(map(takes_space, commands)):
            return None
        return self.machine.alarms.refusal()  # a new one, for whoever raises it

    def moved(self, command: Command, argv: Argv, consistency: Consistency) -> MovedError | None:
        """The redirection of a command with keys to the leader, when this node is set to redirect and does not lead.

        A connection that chose a weaker consistency wants to read here, and is not redirected.
        """
        if self.settings.redirect != "moved" or self.raft.is_leader:
            return None
        if consistency is not LINEARIZABLE and not command.write:
            return None
        address = self.client_address(self.raft.leader_id) if self.raft.leader_id else ""
        keys = command.keys_of(argv)
        if not address or not keys:
            return None
        return MovedError(f"{key_slot(keys[0])} {address}")

    # ------------------------------------------------------------ CLIENT PAUSE
    def pause_clients(self, until: float, *, writes_only: bool) -> None:
        """Hold commands back until ``until`` (Clock.monotonic(); 0 ends the pause)."""
        self._paused_until = until
        self._paused_writes_only = writes_only
        self.release_paused(self.clock.monotonic())
        self.leadership_changed()

    def holds(self, connection: Connection, command: Command) -> bool:
        """Whether a pause is on for ``command``; the connection is then resumed at its end."""
        if not self._paused_until or command.full_name.startswith("CLIENT"):
            return False
        if self._paused_writes_only and not command.write and command.name != "EXEC":
            return False
        self._paused.append(connection)
        return True

    def release_paused(self, now: float) -> None:
        """End a pause whose time has come."""
        if self._paused_until and now < self._paused_until:
            return
        if self._paused_until or self._paused:
            self._paused_until = 0.0
            self.leadership_changed()
            paused, self._paused = self._paused, []
            for connection in paused:
                connection.resume()
