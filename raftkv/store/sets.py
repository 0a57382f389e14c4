"""The set type: a list of members, and where in it each one stands.

A hash table alone cannot answer SPOP in O(1) without depending on hash order, which differs between
processes. Here the order is that of a list which only add and discard change, so it is the same on every
replica that applied the same commands, and "the member number i" is a look-up. The order is therefore
part of the state: a snapshot writes members in it, and :meth:`IndexedSet.from_members` restores it.

* add: append to the list;
* discard: move the last member into the hole, so that nothing else moves;
* random member: :meth:`IndexedSet.at` of a number that the caller drew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


class IndexedSet:
    """A set of ``bytes`` with numbered members, iterated in list order. All single-member operations are O(1)."""

    __slots__ = ("_members", "_positions")

    def __init__(self) -> None:
        self._members: list[bytes] = []
        self._positions: dict[bytes, int] = {}

    @classmethod
    def from_members(cls, members: Iterable[bytes]) -> IndexedSet:
        """A set of ``members`` in their order; of duplicates the first counts."""
        made = cls()
        made._members = list(dict.fromkeys(members))
        made._positions = dict(zip(made._members, range(len(made._members)), strict=True))
        return made

    def copy(self) -> IndexedSet:
        """An independent set with the same members in the same order."""
        made = IndexedSet()
        made._members = self._members.copy()
        made._positions = self._positions.copy()
        return made

    # ---------------------------------------------------------------- change
    def add(self, member: bytes) -> bool:
        """Put ``member`` last; False if it was there already."""
        if member in self._positions:
            return False
        self._positions[member] = len(self._members)
        self._members.append(member)
        return True

    def update(self, members: Iterable[bytes]) -> int:
        """Add each of ``members`` in turn; how many were new."""
        positions, listed = self._positions, self._members
        before = len(listed)
        for member in members:
            if member not in positions:
                positions[member] = len(listed)
                listed.append(member)
        return len(listed) - before

    def discard(self, member: bytes) -> bool:
        """Remove ``member``, the last member taking its place; False if it was not there."""
        position = self._positions.pop(member, None)
        if position is None:
            return False
        self._fill(position)
        return True

    def pop_at(self, position: int) -> bytes:
        """Remove and return the member at ``position``, in ``range(len(self))``; the last member takes its place."""
        member = self._members[position]
        del self._positions[member]
        self._fill(position)
        return member

    def _fill(self, hole: int) -> None:
        last = self._members.pop()
        if hole < len(self._members):
            self._members[hole] = last
            self._positions[last] = hole

    # ---------------------------------------------------------------- look-up
    def at(self, position: int) -> bytes:
        """The member at ``position``, in ``range(len(self))``; raises IndexError beyond it."""
        return self._members[position]

    @property
    def index(self) -> Mapping[bytes, int]:
        """Member to position. Read only: for membership tests in a loop, without a Python call for each."""
        return self._positions

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """At most ``count`` (at least 1) members, and the cursor of the next call; 0 begins a scan and ends it.

        A cursor above 0 says that the positions below it are still to be visited. The scan goes from the end
        of the list to its beginning, because that keeps one promise whatever is added or removed between two
        calls: *a member that is present during the whole scan, and was not returned yet, stands below the
        cursor*. To begin with all of them do. An addition moves nobody. A removal at position p moves one
        member, the last, to p:

        * p below the cursor: whoever moves there stands below the cursor; if it was returned before, it will
          be returned again, which SCAN allows;
        * p at or above the cursor: the last member stood at or above p, so it was above the cursor before
          (returned, or added since the scan began), and that it stays above loses nobody.

        A scan in the other direction would lose members: the last, not visited yet, moves into a hole behind
        the cursor. When the list became shorter than the cursor says, nothing stands between its end and the
        cursor, and clipping the cursor to the length is safe. The cursor is a plain number of positions, so
        that it means the same on every replica and survives a restart.

        The promise holds for one set that changes in place. A command that replaces the whole value
        (SUNIONSTORE over it, DEL and SADD) gives the members new positions.
        """
        end = min(cursor, len(self._members)) if cursor else len(self._members)
        start = max(0, end - count)
        return start, self._members[start:end][::-1]

    def __contains__(self, member: object) -> bool:
        return member in self._positions

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._members)

    def __eq__(self, other: object) -> bool:
        """Equal members in equal order: two sets that differ in order answer SPOP differently."""
        return self._members == other._members if isinstance(other, IndexedSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable, as the built-in set

    def __repr__(self) -> str:
        return f"IndexedSet({self._members!r})"
