"""A leaderboard: a sorted set, whose members are always in order.

python examples/leaderboard.py [--nodes host:port,host:port,...]
"""

from __future__ import annotations

import argparse
from random import Random

from raftkv.client import RaftKV

DEFAULT_NODES = "127.0.0.1:7379,127.0.0.1:7380,127.0.0.1:7381"


class Leaderboard:
    """Players by points, most points first."""

    def __init__(self, client: RaftKV[str], name: str) -> None:
        self._client = client
        self._key = f"leaderboard:{name}"

    def clear(self) -> None:
        """Begin anew."""
        self._client.delete(self._key)

    def add(self, player: str, points: float) -> float:
        """Add to a player's points; the new sum. Exactly once, also when the leader dies meanwhile."""
        return self._client.zincrby(self._key, points, player)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best."""
        return self._client.zrevrange_with_scores(self._key, 0, count - 1)

    def place(self, player: str) -> int | None:
        """1 for the best; None for who never played."""
        rank = self._client.zrevrank(self._key, player)
        return None if rank is None else rank + 1

    def around(self, player: str, distance: int) -> list[tuple[int, str, float]]:
        """A player's neighbours: (place, player, points)."""
        place = self.place(player)
        if place is None:
            return []
        first = max(1, place - distance)
        rows = self._client.zrevrange_with_scores(self._key, first - 1, place + distance - 1)
        return [(first + offset, name, points) for offset, (name, points) in enumerate(rows)]


def main() -> None:
    """A thousand games among twenty players, then the standings."""
    parser = argparse.ArgumentParser(description="A leaderboard.")
    parser.add_argument("--nodes", default=DEFAULT_NODES, help="members, host:port,...")
    with RaftKV(parser.parse_args().nodes.split(","), decode_responses=True) as client:
        board = Leaderboard(client, "demo")
        board.clear()
        random = Random(2014)
        players = [f"player{number:02d}" for number in range(1, 21)]
        pipeline = client.pipeline()
        for _ in range(1000):
            pipeline.zincrby("leaderboard:demo", random.randint(1, 10), random.choice(players))
        pipeline.execute()

        print("The best five of", client.zcard("leaderboard:demo"))
        for place, (name, points) in enumerate(board.top(5), 1):
            print(f"  {place}. {name}  {points:.0f}")
        print("Around player07")
        for place, name, points in board.around("player07", 2):
            print(f"  {place}. {name}  {points:.0f}")
        lead = board.top(1)[0][1]
        board.add("player07", lead)
        print(f"player07 wins {lead:.0f} more and is now number {board.place('player07')}")
        total = sum(points for _, points in board.top(20)) - lead
        print(f"Points in all games: {total:.0f}")


if __name__ == "__main__":
    main()
