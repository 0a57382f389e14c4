"""Who is connected: the registry of connections, and how CLIENT LIST and CLIENT INFO show one.

Source of the line's fields: https://redis.io/docs/latest/commands/client-list/ (7.0). ``lib-name`` and ``lib-ver``
stand at the end, where 7.2 has them too, and after them ``read``, the connection's consistency. What raftkv has no
notion of is answered with the value that Redis gives to a connection that does not use it (``sub=0``, ``redir=-1``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raftkv.server.state import Client

_FIRST_ID: Final = 1


class ClientRegistry:
    """Connections by id. Bounded by the caller, which asks :attr:`count` before it accepts (``maxclients``)."""

    __slots__ = ("_by_id", "_last_id", "_received", "_rejected")

    def __init__(self) -> None:
        self._by_id: dict[int, Client] = {}
        self._last_id = _FIRST_ID - 1
        self._received = 0
        self._rejected = 0

    def next_id(self) -> int:
        """A number no connection of this process had before; they only grow, as CLIENT ID promises."""
        self._last_id += 1
        return self._last_id

    def add(self, client: Client) -> None:
        """Register an accepted connection. Raises ValueError when its id is taken."""
        if client.id in self._by_id:
            msg = f"client id {client.id} is registered twice"
            raise ValueError(msg)
        self._by_id[client.id] = client
        self._received += 1

    def remove(self, client: Client) -> None:
        """Forget a closed connection; one that was never added is ignored (refused before it was)."""
        if self._by_id.get(client.id) is client:
            del self._by_id[client.id]

    def reject(self) -> None:
        """Count a connection that was turned away at ``maxclients``."""
        self._received += 1
        self._rejected += 1

    def get(self, client_id: int) -> Client | None:
        """The connection with this id, if it is open."""
        return self._by_id.get(client_id)

    def __iter__(self) -> Iterator[Client]:
        """Open connections by ascending id: a copy, so that the caller may close some of them meanwhile."""
        return iter([self._by_id[client_id] for client_id in sorted(self._by_id)])

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def count(self) -> int:
        """Connections open now."""
        return len(self._by_id)

    @property
    def total_received(self) -> int:
        """Connections accepted or turned away since the last :meth:`reset_counters`."""
        return self._received

    @property
    def total_rejected(self) -> int:
        """Connections turned away since the last :meth:`reset_counters`."""
        return self._rejected

    def reset_counters(self) -> None:
        """CONFIG RESETSTAT."""
        self._received = 0
        self._rejected = 0


def client_flags(client: Client) -> str:
    """Redis' letters: ``S`` a replica (refused), ``x`` in MULTI, ``b`` blocked, ``r`` READONLY, ``e`` NO-EVICT, ``c``
    closing, ``N`` when none holds.
    """
    found = ""
    if client.is_replica:
        found += "S"
    if client.transaction is not None:
        found += "x"
    if client.blocked:
        found += "b"
    if client.closing:
        found += "c"
    if client.readonly:
        found += "r"
    if client.no_evict:
        found += "e"
    return found or "N"


def _command(name: bytes | str) -> str:
    """``config|get``, as Redis shows it; ``NULL`` before the first."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace").lower()
    return name if name == "NULL" else name.lower().replace(" ", "|")


def describe(client: Client, now: float) -> str:
    """One line of CLIENT LIST, without the line feed. ``now`` is ``Clock.monotonic()``, in seconds."""
    query_bytes, output_bytes = client.buffers()
    queued = -1 if client.transaction is None else len(client.transaction)
    queued_bytes = sum(len(word) for argv in client.transaction or () for word in argv)
    fields: tuple[tuple[str, object], ...] = (
        ("id", client.id),
        ("addr", client.address),
        ("laddr", client.local_address),
        ("fd", -1),  # a number of the operating system, of no use to anybody who is not on this machine
        ("name", client.name),
        ("age", max(0, int(now - client.created))),
        ("idle", max(0, int(now - max(client.last_interaction, client.created)))),
        ("flags", client_flags(client)),
        ("db", client.db),
        ("sub", 0),
        ("psub", 0),
        ("ssub", 0),
        ("multi", queued),
        ("qbuf", query_bytes),
        ("qbuf-free", 0),
        ("argv-mem", 0),
        ("multi-mem", queued_bytes),
        ("rbs", 0),
        ("rbp", 0),
        ("obl", 0),
        ("oll", 1 if output_bytes else 0),
        ("omem", output_bytes),
        ("tot-mem", query_bytes + queued_bytes + output_bytes),
        ("events", "rw" if output_bytes else "r"),
        ("cmd", _command(client.last_command)),
        ("user", client.user),
        ("redir", -1),
        ("resp", client.proto),
        ("lib-name", client.lib_name),
        ("lib-ver", client.lib_ver),
        ("read", str(client.consistency).replace(" ", "-")),
    )
    return " ".join(f"{name}={value}" for name, value in fields)
