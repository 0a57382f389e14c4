"""Handing leadership over without losing a request (Raft thesis 3.10).

The leader takes no further proposals (its callers keep them and send them to the next leader), waits until the
target holds everything and all of it is committed, and then tells it to campaign at once. When the target does
not take over in time the leader goes on as before. A leader that can commit nothing, because its disk does not
answer, leaves that to the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raftkv.consensus.core import Core
from raftkv.consensus.messages import TimeoutNow
from raftkv.errors import NodeStoppedError, NoLeaderError, RaftKVError

if TYPE_CHECKING:
    from raftkv.consensus.lease import Lease
    from raftkv.consensus.replication import Replication

Done = Callable[[RaftKVError | None], None]


class Transfer:
    """At most one at a time."""

    def __init__(self, core: Core, replication: Replication, lease: Lease) -> None:
        self._core = core
        self._replication = replication
        self._lease = lease
        self.target = ""
        """Who is to lead; empty when nothing is under way."""
        self._committed = True
        self._deadline = 0.0
        self._asked = -1e9
        self._waiting: list[Done] = []

    def best_successor(self) -> str:
        """The voter that holds most of the log and answers; empty when there is none."""
        progress = self._replication.progress
        alive = [peer for peer in self._core.peers if peer in progress and self._replication.is_alive(peer)]
        return max(alive, key=lambda peer: (progress[peer].match_index, peer), default="")

    def start(self, target: str, done: Done, *, committed: bool = True) -> None:
        """Hand over to ``target``, or to the best successor when that is empty; once all is ``committed``, or before.

        ``done`` gets None when another node leads, or an error: this node leads on, or nobody that it knows of.
        """
        core = self._core
        target = target or self.target or self.best_successor()
        if not core.is_leader:
            done(NoLeaderError("this node does not lead; ask the leader"))
        elif target == core.node_id:
            done(None)
        elif not target:
            done(NoLeaderError("no other voter answers; this node leads on", code="ERR"))
        elif target not in core.peers:
            what = "a learner, which cannot lead" if target in core.learners else "no member"
            done(NoLeaderError(f"'{target}' is {what}; the voters are: {', '.join(core.voters)}", code="ERR"))
        elif self.target and self.target != target:
            done(NoLeaderError(f"leadership is being handed to {self.target}", code="TRYAGAIN"))
        else:
            self._waiting.append(done)
            if not self.target:
                self.target = target
                self._committed = committed
                # Without a disk it does not hear of its successor: it keeps writes back until it has fallen from
                # office.
                self._deadline = core.monotonic() + core.timing.election_max_s * (1 if committed else 2)
                self._asked = -1e9
            core.wants_tick = True

    def tick(self) -> None:
        """Ask the target when it is ready, give up when it takes too long.

        Called often while something is under way.
        """
        if not self.target:
            return
        core = self._core
        now = core.monotonic()
        if core.halted:
            self._end(NodeStoppedError(core.halted))
        elif not core.is_leader:
            # The engine of a leader that steps down knows the next one a moment later.
            if core.engine.leader_id:
                self._end(None)
            elif now > self._deadline:
                self._end(NoLeaderError("this node leads no more, and knows no other leader yet"))
        elif now > self._deadline:
            self._end(NoLeaderError(f"{self.target} did not take over in time; this node leads on", code="ERR"))
        elif now - self._asked >= core.timing.heartbeat_s and self._is_ready():
            self._asked = now
            self._lease.give_up()
            core.wire.send(self.target, TimeoutNow(core.term))

    def _is_ready(self) -> bool:
        core = self._core
        progress = self._replication.progress.get(self.target)
        last = core.log.last_index
        holds_all = progress is not None and progress.match_index == last
        return holds_all and (last == core.committed or not self._committed)

    def _end(self, error: RaftKVError | None) -> None:
        self.target = ""
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(error)
