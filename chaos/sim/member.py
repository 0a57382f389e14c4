"""One simulated node: the production replica, state machine, log and snapshot store on simulated surroundings.

It does what :class:`raftkv.consensus.node.RaftNode` does on an event loop: ticks, group commit, commit notices,
leadership transfer. A sync inside a handler keeps the node busy for as long as it takes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

from chaos.disk import Disk, Killed, PowerCut
from chaos.sim.checks import Violation
from chaos.sim.network import Link
from persistence.directory import DataDirectory
from persistence.errors import DirectoryError, LogFailedError, PersistenceError
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.consensus import seams
from raftkv.consensus.compaction import Compaction
from raftkv.consensus.configuration import Configuration
from raftkv.consensus.configuration import Member as Peer
from raftkv.consensus.messages import Message
from raftkv.consensus.replica import Replica
from raftkv.consensus.soundness import UnsoundError, check_sound, sound_log
from raftkv.errors import RaftKVError, UnknownOutcomeError
from raftkv.machine.batch import DIGEST, Group, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.replicator import ReadReady
from raftkv.server.consistency import LINEARIZABLE, Consistency, Gates
from raftkv.server.space import alarm_group

if TYPE_CHECKING:
    from chaos.sim.world import World

TICK_S: Final = 0.02
COALESCE_S: Final = 0.0001
"""After a message the node ticks this much later, once for all that arrived meanwhile."""
COMMIT_NOTICE_S: Final = 0.002
DIGEST_INTERVAL: Final = 64
WALL_EPOCH_MS: Final = 1_700_000_000_000
ANY_FILE: Final = __file__
ENGINE_GLOBALS: Final[Any] = vars(seams)["syncobj"]
"""The engine's module: it takes clock and randomness from there, so both are set anew for each node's step."""

Done = Callable[[Any, RaftKVError | None], None]


_durable_index: Final = vars(Log)["durable_index"].fget
_durable_sequence: Final = vars(Log)["durable_sequence"].fget


class TimedLog(Log):
    """The real log; its group-commit thread is replaced by events, its syncs take virtual time."""

    member: Member
    _round_running = False
    _round_wanted = False

    def request_sync(self) -> None:
        if self._round_running:
            self._round_wanted = True
            return
        self._round_running = True
        self.member.later(0.00002, self._begin)

    request_fsync = request_sync
    """Each round syncs here."""

    def sync(self) -> None:
        self.member.charge(self.member.fsync_s())
        super().sync()

    def _begin(self) -> None:
        self._round_wanted = False
        with suppress(LogFailedError):  # the next tick finds it in ``failed``
            if self.begin_sync():
                self.member.later(self.member.fsync_s(), self._finish)
                return
        self._ended()  # an empty round reports as well: a sync in between may have made all durable

    def _finish(self) -> None:
        with suppress(LogFailedError):
            self.finish_sync()
        self._ended()

    def _ended(self) -> None:
        self._round_running = False
        self.member.replica.on_durable()
        if self._round_wanted and self.buffered_count:  # otherwise the report that was wanted is the one just made
            self.request_sync()


class DelayedWriter:
    """Stands in for the forked child: the state as of the start, written a little later."""

    def __init__(self, member: Member, store: SnapshotStore) -> None:
        self._member = member
        self._store = store
        self._finished: bool | None = None
        self.running = False
        self.failure: OSError | None = None

    def start(self, index: int, term: int, extra: bytes, chunks: Callable[[], Iterable[bytes]]) -> None:
        content = list(chunks())
        self.running, self._finished = True, None
        self._member.later(self._member.snapshot_s(), self._write, SnapshotMeta(index, term, extra), content)

    def _write(self, meta: SnapshotMeta, content: list[bytes]) -> None:
        try:
            file = self._store.begin(meta, level=1)
            for chunk in content:
                file.write(chunk)
            file.commit()
            self._finished = True
            self._member.world.snapshots += 1
        except OSError as error:
            self.failure = error
            self._store.discard(meta)
            self._finished = False

    def poll(self) -> bool | None:
        finished = self._finished
        if finished is not None:
            self.running = False
        return finished


class SimReplica(Replica):
    """The production replica, watched."""

    member: Member

    def _apply(self, index: int, entry: bytes) -> None:
        self.member.world.checks.applied(self.member, index, entry)
        super()._apply(index, entry)


class Member:
    """One node over all its lives."""

    registers = True
    """Whether it has a disk of its own and says which, and where it is."""

    def __init__(self, world: World, node_id: str, peers: list[str]) -> None:
        profile = world.profile
        self.world = world
        self.scheduler = world.scheduler
        self.id = node_id
        self.peers = tuple(peers)
        self.generation = 1
        """Of its disk."""
        self.address = f"{node_id}:1" if self.registers else ""
        self.joins = False
        self.wiped = False
        """It came back with an empty disk under its old id: it must stop."""
        self.rng = Random(f"{world.label}/{node_id}")  # noqa: S311 -- seeded on purpose
        self.disk = self._new_disk(f"{world.label}/{node_id}/disk")
        self.up = False
        self.incarnation = 0
        self.busy_until = self._charged_s = 0.0
        self.slow_disk = 1.0
        self.disk_faulted = False
        """A halt is no surprise: its disk was made to fail in this life."""
        self.rotten = False
        """What was durable on its disk was damaged in this life: it may stop. Its next one begins with a repair."""
        self.rate = 1.0 + (2 * self.rng.random() - 1) * profile.clock_rate
        self._rate_since = (0.0, 0.0)
        """(virtual time, monotonic time) from which the rate counts."""
        self.wall_offset_ms = self.rng.randrange(-200, 200)
        self.replica: SimReplica
        self.machine: StateMachine
        self.log: TimedLog
        self.waiting: dict[int, Done] = {}
        self._linked_for: tuple[str, ...] = ()
        self._asked = 0
        self._tick_pending = False
        self._notice_pending = False

    @property
    def disk_id(self) -> str:
        return f"{self.id}/{self.generation}" if self.registers else ""

    @property
    def former(self) -> tuple[str, ...]:
        """Ids that its disk had before what it held was damaged."""
        return self.replica.core.former

    @property
    def key(self) -> str:
        """Names it and its disk: with another disk it is another node, which promised nothing yet."""
        return f"{self.id}/{self.generation}"

    # -- life
    def renew(self, *, joins: bool) -> None:
        """An empty disk in the place of its own, while it is down."""
        self.generation += 1
        self.joins = joins
        self.wiped = self.rotten = False
        self.disk = self._new_disk(f"{self.world.label}/{self.key}/disk")

    @staticmethod
    def _new_disk(seed: str) -> Disk:
        disk = Disk(Random(seed))  # noqa: S311 -- seeded on purpose
        disk.make_dir("data")
        return disk

    def move(self) -> None:
        """From its next start on it is found somewhere else."""
        host, _, port = self.address.partition(":")
        self.address = f"{host}:{int(port) + 1}"

    @property
    def belongs(self) -> bool:
        """Whether it takes itself for a member: as a server, it refuses at once what it is asked for otherwise."""
        return not self.registers or self.replica.membership.latest.get(self.id) is not None

    def meet(self, other: Member) -> str:
        """``other`` dials or answers: why it is not admitted, or nothing."""
        if not self.registers:
            return ""
        standing = other.replica.membership.standing
        return self.replica.membership.greet(other.id, other.disk_id, other.address, standing, other.former)

    def _on_configuration(self, configuration: Configuration) -> None:
        """As the real links: to a new member they begin anew, with a handshake."""
        for peer in configuration.ids:
            if peer not in self._linked_for and peer != self.id:
                self.later(0.0, self.world.network.redial, self.id, peer)
        self._linked_for = configuration.ids

    def refused(self, peer: str, verdict: str) -> None:
        """Another node says that this one has no place in the group."""
        self.call(self.replica.membership.refused, peer, verdict)

    def dials(self, peer: str) -> bool:
        """Whether it wants to talk to that node by itself."""
        if not self.registers:
            return True
        known = self.replica.membership.latest.ids
        return peer in known or peer in self.replica.replication.leaving or (bool(self.former) and not known)

    def start(self) -> None:
        """Recover from the disk and join."""
        self.incarnation += 1
        self.up = True
        self.disk_faulted = False
        self.busy_until = self.scheduler.now
        self._tick_pending = self._notice_pending = False
        self.call(self._start)
        if self.up:
            self.world.network.dial_all(self.id)
            self.later(TICK_S * self.rng.random(), self._timer)

    def _start(self) -> None:
        try:
            self._boot()
        except (OSError, DirectoryError):
            if not self.disk.full:
                raise
            self.up = False  # refuses to start, rightly; somebody tries again
            self.world.plan_restart(self, 0.5)
        except PersistenceError as error:
            raise Violation("recovery", f"{self.id} cannot be started: {error}") from error

    def _boot(self) -> None:
        world, profile = self.world, self.world.profile
        options = LogOptions(
            segment_bytes=profile.segment_bytes,
            cache_bytes=profile.cache_bytes,
            preallocate=profile.preallocate,
            compress_bytes_min=128,
        )
        directory = DataDirectory.open("data", node_id=self.id, cluster_id="sim", new_disk_id=self.key, files=self.disk)
        try:
            self.log, store = self._open_sound(directory, options)
        except BaseException:
            directory.close()
            raise
        self.log.member = self
        waits = self.joins or bool(directory.repairs)
        self.machine = StateMachine(digest_interval=DIGEST_INTERVAL)
        self.machine.audit.on_digest = self._on_digest
        replica_type = type("MemberReplica", (SimReplica,), {"member": self})
        self.replica = replica_type(
            self.id,
            Configuration.of(() if waits else (Peer(peer, f"{peer}:1") for peer in self.peers)),
            disk=self.disk_id,
            address=self.address,
            former=directory.repairs if self.registers else (),
            waits_to_join=waits,
            log=self.log,
            store=store,
            writer=DelayedWriter(self, store),
            machine=self.machine,
            loaded=store.load_newest(self.machine.load),
            wire=self,
            monotonic=self.monotonic,
            wall_ms=self.wall_ms,
            rng=self.rng,
            timing=world.timing,
            compaction=Compaction(
                log_bytes=1 << 30,
                entries=profile.snapshot_entries,
                retain_bytes=profile.retain_bytes,
                hold_bytes=profile.hold_bytes,
            ),
            snapshot_file=ANY_FILE,
            aside=self.aside,
        )
        self.replica.membership.on_stranger = self._on_stranger
        self.gates = Gates(self, self.monotonic)
        known = self.replica.membership.latest.ids
        # One that has lost the log with the members dials all of whom it knows otherwise, as members.
        self._linked_for = known if known or not directory.repairs else tuple(world.members)
        if self.registers:
            self.replica.membership.on_change = self._on_configuration
        self.replica.tick()
        world.checks.booted(self)

    def _open_sound(self, directory: DataDirectory, options: LogOptions) -> tuple[TimedLog, SnapshotStore]:
        """As the server does, damage is set aside, and the node begins anew with a disk of another id."""

        def opened() -> tuple[TimedLog, SnapshotStore]:
            own = replace(options, salt=zlib.crc32(directory.disk_id.encode()))
            log = sound_log(directory, lambda: cast("TimedLog", TimedLog.open(directory.log_path, own, self.disk)))
            directory.begin_log(log.salt)
            store = SnapshotStore(directory.snapshot_path, self.disk)
            newest = store.newest()
            if self.registers:
                check_sound(log, newest.index if newest else 0, store)
            return log, store

        self.generation = _generation(directory)
        try:
            return opened()
        except UnsoundError as damage:
            if not self.registers:
                raise  # nobody knows it by its disk: it cannot come back as another one
            self.world.note("damaged", self.id, str(damage))
            self.generation += 1
            directory.set_aside(self.key, str(damage).encode())
            return opened()
        finally:
            self.generation = _generation(directory)
            self.rotten = False

    def _on_stranger(self, peer: str) -> None:
        self.later(0.0, self.world.network.redial, self.id, peer)
        self.later(0.0, self.world.network.redial, peer, self.id)

    def crash(self, *, power: bool) -> None:
        """The process ends without a word; with ``power`` the disk loses what was not synced."""
        self.up = False
        self.incarnation += 1
        if power:
            self.disk.power_cut()
        else:
            self.disk.kill()
        self.world.network.process_ended(self.id)
        waiting, self.waiting = self.waiting, {}
        for done in waiting.values():
            error = UnknownOutcomeError("the connection was lost")
            self.scheduler.after(0.001 + 0.02 * self.rng.random(), done, None, error)

    def durable_index(self) -> int:
        """Up to where a power cut now would leave the log, whatever a guard that was switched off pretends."""
        return int(_durable_index(self.log))

    def durable_sequence(self) -> int:
        """How many records a power cut now would leave, as :meth:`durable_index`."""
        return int(_durable_sequence(self.log))

    # -- time
    def monotonic(self) -> float:
        since, then = self._rate_since
        return then + (self.scheduler.now - since) * self.rate

    def wall_ms(self) -> int:
        return WALL_EPOCH_MS + int(1000 * self.monotonic()) + self.wall_offset_ms

    def run_clock(self, rate: float) -> None:
        """From now on this node's clock runs so fast."""
        self._rate_since = (self.scheduler.now, self.monotonic())
        self.rate = rate

    def fsync_s(self) -> float:
        """How long the next sync takes."""
        return self.world.profile.fsync_s * self.slow_disk * (0.5 + self.rng.random())

    def snapshot_s(self) -> float:
        """How long it takes to write the next snapshot."""
        return 0.002 + self.rng.random() * 0.2

    def charge(self, seconds: float) -> None:
        """The event loop is busy for so long."""
        self.busy_until = max(self.busy_until, self.scheduler.now) + seconds
        self._charged_s += seconds

    @property
    def stood_s(self) -> float:
        """How long its event loop has been busy until now."""
        return self._charged_s - max(0.0, self.busy_until - self.scheduler.now)

    def aside(self, work: Callable[[], None]) -> Callable[[], bool]:
        """What would run on a thread: it ends a sync later, and raises what it raised when it is asked."""
        ended: list[OSError | None] = []

        def run() -> None:
            try:
                work()
                ended.append(None)
            except OSError as error:
                ended.append(error)
            self.schedule_tick()

        def is_done() -> bool:
            if ended and ended[0] is not None:
                raise ended[0]
            return bool(ended)

        self.later(self.fsync_s(), run)
        return is_done

    # -- events
    def call(self, work: Callable[..., Any], *args: object) -> None:
        """Run the node's code, as this node: its clock, its generator, its power."""
        ENGINE_GLOBALS.monotonicTime = self.monotonic
        ENGINE_GLOBALS.random = self.rng
        try:
            work(*args)
        except PowerCut:
            self.world.power_cut(self)
            return
        except Killed:
            self.crash(power=False)
            return
        if self.up:
            self.world.checks.after(self)

    def later(self, delay_s: float, work: Callable[..., Any], *args: object) -> None:
        """Run the node's code later, unless the process has ended by then."""
        self.scheduler.after(delay_s, self._run_later, self.incarnation, work, args)

    def _run_later(self, incarnation: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if incarnation != self.incarnation or not self.up:
            return
        if self.busy_until > self.scheduler.now:
            self.scheduler.at(self.busy_until, self._run_later, incarnation, work, args)
            return
        self.call(work, *args)

    def deliver(self, link: Link, epoch: int, incarnation: int, message: Message) -> None:
        """A message arrives, if both the process and the connection that it was sent to still live."""
        world = self.world
        if incarnation != self.incarnation or not self.up or epoch < link.lost_before:
            return
        if self.busy_until > self.scheduler.now:
            self.scheduler.at(self.busy_until, self.deliver, link, epoch, incarnation, message)
            return
        world.trace.message(self.scheduler.now, link.source, self.id, message)
        self.call(self.replica.receive, link.source, message)
        if self.replica.core.wants_tick:
            self.schedule_tick()

    def schedule_tick(self) -> None:
        if not self._tick_pending:
            self._tick_pending = True
            self.later(COALESCE_S, self._tick)

    def _tick(self) -> None:
        self._tick_pending = False
        replica = self.replica
        replica.tick()
        core = replica.core
        if core.halted:
            return
        if replica.has_more_to_do:
            self.schedule_tick()
        if core.is_leader and not self._notice_pending and self._unannounced():
            self._notice_pending = True
            self.later(COMMIT_NOTICE_S, self._announce)

    def _unannounced(self) -> bool:
        commit = self.replica.core.engine.raftCommitIndex
        return any(one.sent_commit < commit for one in self.replica.replication.progress.values())

    def _announce(self) -> None:
        self._notice_pending = False
        if self.replica.core.is_leader:
            self.replica.replication.announce_commit()

    def _timer(self) -> None:
        self.later(TICK_S, self._timer)
        self._tick()

    def link(self, peer: str, *, up: bool) -> None:
        """The connection on which this node sends to ``peer`` came or went."""
        replication = self.replica.replication
        self.call(replication.link_up if up else replication.link_down, peer)
        self.schedule_tick()

    # -- the wire
    def send(self, peer: str, message: Message) -> bool:
        self.world.checks.sent(self, peer, message)
        return self.world.network.send(self.id, peer, message)

    # -- what a server does
    def _remember(self, done: Done) -> Done:
        self._asked += 1
        number, incarnation = self._asked, self.incarnation
        self.waiting[number] = done

        def answer(result: object, error: RaftKVError | None) -> None:
            if self.waiting.pop(number, None) is not None and incarnation == self.incarnation:
                self.scheduler.after(0.0002, done, result, error)

        return answer

    def propose(self, group: bytes, done: Done) -> None:
        """Order a batch of one group; ``done`` gets the group's result, later, or an error."""
        answer = self._remember(done)
        stamp_ms = max(self.wall_ms(), self.machine.stamp_ms)

        def applied(result: Any, error: RaftKVError | None) -> None:
            answer(None if error is not None else result[0], error)

        self.call(self.replica.propose, header(stamp_ms) + group, applied)

    def read(self, command: list[bytes], done: Done, consistency: Consistency = LINEARIZABLE) -> None:
        """A read; ``done`` gets the reply, later, or an error."""
        answer = self._remember(done)

        def ready(now_ms: int, error: RaftKVError | None) -> None:
            reply = None if error is not None else self.look(command, now_ms)
            answer(reply, error)

        self.call(self.gates.gate(consistency), ready)

    def token(self, done: Done) -> None:
        """What RAFT.TOKEN answers."""
        answer = self._remember(done)
        self.call(self.read_barrier, lambda _, error: answer(self.replica.core.applied, error))

    def read_barrier(self, done: ReadReady) -> None:
        self.replica.reads.barrier(done)
        self.replica.reads.pump()

    def await_applied(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        self.replica.reads.await_applied(index, done)

    def look(self, command: list[bytes], now_ms: int) -> object:
        """The reply of a command that does not write, on the state as it is."""
        machine = self.machine
        return machine.run(machine.reading(now_ms, self.rng), 0, [command])[0]

    def _on_digest(self, index: int, digest: int) -> None:
        if self.replica.core.is_leader:
            group = encode_group(Group(DIGEST, 0, 0, b"", numbers=(index, digest)))
            self.later(0.0, self.replica.propose, header(self.machine.stamp_ms) + group, _nothing)

    def alarm(self, words: list[bytes]) -> None:
        """Order an alarm, as the leader."""
        group = encode_group(alarm_group(words))
        self.later(0.0, self.replica.propose, header(self.machine.stamp_ms) + group, _nothing)

    def hand_over(self, target: str) -> None:
        """Transfer leadership."""
        self.later(0.0, self._start_transfer, target)

    def _start_transfer(self, target: str) -> None:
        self.replica.transfer.start(target, _handed_over)
        self.schedule_tick()


def _generation(directory: DataDirectory) -> int:
    return int(directory.disk_id.rpartition("/")[2])


def _handed_over(_error: RaftKVError | None) -> None:
    return None


def _nothing(_result: object, _error: RaftKVError | None) -> None:
    return None
