"""Random lives of a node's directory: whatever it does, and whatever strikes it there. The judge is ``directory_node``.

A step is a run of moves (so that there is something to lose when a fault comes), a fault that is armed and strikes some
calls later, perhaps inside a recovery, or the end of a life: kill, power cut, clean stop, a flipped bit, setting aside.
"""

from __future__ import annotations

import copy
import errno
import posixpath
from contextlib import suppress
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chaos.disk import SURVIVALS, Disk, Killed, PowerCut
from chaos.matrix.cells import LostError
from chaos.matrix.logs import PreparingLog, payload, state_of
from persistence.directory import DataDirectory
from persistence.errors import CorruptSnapshotError, IdentityError
from persistence.overlay import OverlayFiles
from persistence.segment import DATA_START, decode_segment_header, segment_number, walk
from persistence.snapshot_file import NAME, SnapshotMeta, order, snapshot_name
from persistence.snapshots import SnapshotStore
from persistence.wal import LogOptions
from raftkv.consensus.soundness import UnsoundError
from tests.unit.directory_node import KEEP, PATH, RESERVE_BYTES, SEGMENT_BYTES, Node

CHUNK_BYTES = 512
"""Of a snapshot: so small that each has several, and parts end in the middle of one."""
SIZES = (0, 20, 450, 700, 1000, 9000)
ENTRIES_MAX = 7
WORTHWHILE = 4
"""Changes of the log in a life before it ends by chance; five times as many before all of it is set aside."""
MOVES = (
    *("propose", "sync", "commit") * 3,
    *("follow", "snapshot", "compact", "receive") * 2,
    *("begin_sync", "finish_sync", "round_without_sync", "truncate"),
    *("set_hard_state", "prepare_segment", "lead_elsewhere", "give_snapshot_up", "abort_transfer"),
)
SHARE = st.integers(0, 120).map(lambda number: number / 121)
"""Evenly spread, as floats are not."""
CALLS = st.sampled_from(["", "", "write", "sync", "syncdir", "rename", "unlink", "create"])
FAULT = st.sampled_from([PowerCut, PowerCut, Killed, errno.EIO, errno.ENOSPC])
SURVIVAL = st.sampled_from(SURVIVALS)
SEED = st.integers(0, 2**32)


class Moves(Node):
    """What a node does with its directory, one thing at a time; ``share`` says how much of it. Nothing where it cannot be."""

    # -- the log
    def propose(self, share):
        """Entries that nobody else has."""
        if self.is_up_to_date:
            last, term = self.last
            term = max(term, self.states[-1][1][0], 1, *(entry[2] for entry in self.history[-1:]))
            kind = int(share * len(SIZES) * ENTRIES_MAX)
            self.meet(term)
            for index in range(last + 1, last + 2 + kind // len(SIZES)):
                self.add(index, term, payload(index, term, SIZES[kind % len(SIZES)]))

    def follow(self, share):
        """As a leader says; what contradicts it is cut."""
        matched = self.matched
        if matched < len(self.history):
            given = self.history[matched : matched + 1 + int(share * 12)]
            self.meet(given[-1][2])
            if self.last[0] > matched:
                self.truncate_from(matched + 1)
            for data, index, term in given:
                self.add(index, term, data)

    def truncate(self, share):
        """Another leader has other entries."""
        kept = len(self.history)
        if self.is_up_to_date and self.last[0] > kept:
            self.truncate_from(kept + 1 + int(share * (self.last[0] - kept)))

    def commit(self, share):
        """What is durable here, and so at a majority, is decided."""
        done, durable = len(self.history), self.log.durable_index
        if self.is_up_to_date and durable > done:
            for entry in self.states[-1][0]:
                if done < entry[1] <= done + 1 + int(share * (durable - done)):
                    self.commit_globally(entry)

    def set_hard_state(self, share):
        """As the engine does: durable before it is used."""
        self.vote(int(share * 3), (None, "n1", "n\u00fc2")[int(share * 9) % 3])

    def sync(self, _share):
        self.sync_now()

    def begin_sync(self, _share):
        if not self.begun:
            self.begun = self.log.begin_sync()

    def finish_sync(self, _share):
        if self.begun:
            self.begun = False
            self.log.finish_sync()
            self.watch()

    def round_without_sync(self, _share):
        """What the committer does between two syncs."""
        if self.options.fsync != "always":
            self.begun = False
            self.log.run_round(sync=False)
            self.log.retire_segments()
            if self.log.failed is not None:
                raise self.log.failed
            self.watch()

    def prepare_segment(self, _share):
        with suppress(OSError):
            self.log.prepare_segment()

    def lead_elsewhere(self, share):
        """The others elect a leader without this node, and commit."""
        entries, hard = self.states[-1]
        term = 1 + max(hard[0], *(entry[2] for entry in (*entries[-1:], *self.history[-1:])), 0)
        for index in range(len(self.history) + 1, len(self.history) + 2 + int(share * 6)):
            self.commit_globally((payload(index, term, 40), index, term))

    # -- snapshots
    def snapshot(self, share):
        """Of what is applied, which need not be on this node's own disk."""
        meta = self.next_snapshot(share)
        if meta is not None:
            name = snapshot_name(meta.index, meta.term)
            self.known[name] = self.content(meta.index)
            try:
                self.owner.write_snapshot(meta, self.content(meta.index))
            except OSError:
                return
            self.published(name)

    def give_snapshot_up(self, share):
        """By its writer, or by the process that waits for one that died."""
        meta = self.next_snapshot(share)
        if meta is not None:
            with suppress(OSError):
                self.owner.write_snapshot(meta, self.content(meta.index), ending="abort" if share < 0.5 else "died")

    def next_snapshot(self, share):
        low = max(2, self.owner.base + 1)  # two entries place a snapshot
        if self.matched < low:
            return None
        data, index, term = self.history[self.matched - int(share * (self.matched + 1 - low)) - 1]
        return SnapshotMeta(index, term, data)

    def published(self, name):
        """It is there for good, and of the others the newest that are not known to be damaged. Raises LostError."""
        self.rotten.discard(name)
        names = set(self.disk.listdir(self.owner.directory.snapshot_path))
        sound = {one for one in {*names, *self.certain, name} if NAME.fullmatch(one)} - set(self.owner.store.damaged)
        expected = set(sorted(sound, reverse=True)[:KEEP])
        if not expected <= names or len(sound & names) > KEEP:
            raise LostError(f"{expected} were to be there when {name} was published, and there are {names}")
        self.certain = expected & set(self.known)

    def compact(self, share):
        """Up to what the newest snapshot covers; with ``fallback``, what the one before it covers."""
        older = sorted(self.valid)[: -1 if self.fallback else None]
        first = self.log.first_index
        if older and first:
            covered = min(order(older[-1])[0], self.owner.base)
            index = first + int(
                (1 - share * share) * (covered - 1 - first)
            )  # a log overlaps its snapshot by two entries
            if index > first:
                self.cut_log(index)

    def cut_log(self, index):
        """What is below ``index`` goes."""
        entries, hard = self.states[-1]
        self.log.compact_to(index)
        self.note((tuple(entry for entry in entries if entry[1] >= index), hard))
        self.sync_now()

    # -- a snapshot of another node, in parts
    def receive(self, share):
        """Some pieces of some size, of which the last may arrive damaged; and all that belongs to it."""
        if not self.matched < len(self.history) > 1:
            return
        if self.sending is None or self.sending[0].index <= self.matched:
            self.abort_transfer(share)
            self.sending = self.at_leader(len(self.history))
        info, raw = self.sending
        self.meet(info.term)
        kind = int(share * 10_000)
        try:
            if self.incoming is None:
                self.incoming = self.owner.store.receive(info.name, info.size_bytes, info.seal)
            self.take(raw, 1 + kind % 4, 1 + kind % 700, damaged=not kind % 5)
            if self.incoming.is_whole:
                self.install(info)
        except OSError:
            self.abort_transfer(share)

    def at_leader(self, index):
        elsewhere = Disk()
        elsewhere.make_dir("leader")
        store = SnapshotStore("leader/snapshots", elsewhere)
        data, _, term = self.history[index - 1]
        writer = store.begin(SnapshotMeta(index, term, data))
        writer.write(self.content(index))
        info = writer.commit()
        return info, store.raw(info, 0, info.size_bytes)

    def take(self, raw, pieces, size, *, damaged):
        """Write them, and verify what is here."""
        incoming = self.incoming
        for piece in range(pieces):
            at = incoming.offset
            data = raw[at : at + size]
            if not data:
                break
            if damaged and piece == pieces - 1:
                data = bytes([data[0] ^ 1]) + data[1:]
                self.spoiled = True
            incoming.write(at, data)
        parts = [self.received]
        try:
            while incoming.advance(parts.append, CHUNK_BYTES):
                pass
        except CorruptSnapshotError as error:
            if not self.spoiled:
                raise LostError(f"nothing of it was damaged: {error}") from error
            parts = []
            self.spoiled = False  # all from there on was cut off
        self.received = b"".join(parts)

    def install(self, info):
        """It is whole: make it durable, then go over to it."""
        content, self.received = self.received, b""
        if content != self.content(info.index):
            raise LostError("what was received is not what was sent")
        self.incoming.sync()
        self.known[info.name] = content
        self.owner.snapshot = self.incoming.publish()
        self.incoming = self.sending = None
        self.spoiled = False
        self.published(info.name)
        self.align()
        self.sync_now()

    def abort_transfer(self, _share):
        incoming, self.incoming, self.received, self.sending = self.incoming, None, b"", None
        if incoming is not None:
            with suppress(OSError):
                incoming.abort()
                self.spoiled = False


class DirectoryMachine(Moves, RuleBasedStateMachine):
    """See the module."""

    @initialize(
        fsync=st.sampled_from(["always", "always", "everysec", "no"]),
        preallocate=st.booleans(),
        fallback=st.booleans(),
        reserve=st.sampled_from([0, RESERVE_BYTES]),
        at=st.integers(0, 25),
        survival=SURVIVAL,
        salt=st.sampled_from([0, 1, (1 << 64) - 1]),
    )
    def begin(self, fsync, preallocate, fallback, reserve, at, survival, salt):
        """Nothing was there before; the power may go at any call of the first start."""
        self.small_chunks = mock.patch("persistence.snapshots.CHUNK_BYTES", CHUNK_BYTES)
        self.small_chunks.start()
        self.fallback = fallback
        self.create(LogOptions(SEGMENT_BYTES, 2000, preallocate, fsync, compress_bytes_min=512, salt=salt), reserve)
        self.survival = survival
        self.disk.arm(at)
        self.start(0)

    def teardown(self):
        self.small_chunks.stop()

    @rule(moves=st.lists(st.tuples(st.sampled_from(MOVES), SHARE), min_size=6, max_size=24))
    def work(self, moves):
        with self.life():
            for name, share in moves:
                getattr(self, name)(share)

    def has_worked(self, changes):
        """So much that the end of this life is worth a look."""
        return len(self.states) - self.opened_at > changes

    # -- faults
    @rule(
        at=st.integers(1, 30),
        fault=FAULT,
        where=CALLS,
        survival=SURVIVAL,
        seed=SEED,
    )
    def strike(self, at, fault, where, survival, seed):
        """Sooner or later, at a call of that kind; also inside the recovery from what comes first."""
        self.survival, self.seed = survival, seed
        self.disk.arm(at if not where else 1 + at % 6, fault, where)

    @precondition(lambda self: self.has_worked(WORTHWHILE))
    @rule(
        name=st.sampled_from(["snapshot", "receive", "propose", "truncate", "follow"]),
        share=SHARE,
        at=st.integers(1, 9),
        fault=FAULT,
        where=CALLS,
        survival=SURVIVAL,
        seed=SEED,
    )
    def strike_in(self, name, share, at, fault, where, survival, seed):
        """Right now, in this move or in the sync after it."""
        self.strike(at if not where else 1 + at % 3, fault, where, survival, seed)
        self.work([(name, share), ("sync", 0)])

    @precondition(lambda self: self.log.segment_count > 1)
    @rule(at=st.integers(1, 5), fault=FAULT, survival=SURVIVAL, seed=SEED)
    def strike_in_compaction(self, at, fault, survival, seed):
        """Where segments are given up: all is applied, and in the snapshot."""
        self.work([("follow", 1), ("sync", 0), ("commit", 1), ("snapshot", 0)])
        self.strike(at, fault, "", survival, seed)
        self.work([("compact", 0)])

    @precondition(lambda self: self.has_worked(WORTHWHILE))
    @rule(survival=SURVIVAL, seed=SEED, again=st.integers(0, 12))
    def power_cut(self, survival, seed, again):
        """Now; and perhaps again at a call of the recovery."""
        self.watch()
        floor = self.number(self.log.synced_sequence)
        self.disk.journal.clear()
        for other in range(1, 3):
            disk = copy.deepcopy(self.disk)
            disk.power_cut(seed + other, survival)
            if not self.rotten:
                self.judge(self.open(disk), floor)
        self.survival, self.seed = survival, seed
        self.disk.power_cut(seed, survival)
        self.disk.arm(again)
        self.start(floor)

    @precondition(lambda self: self.has_worked(WORTHWHILE))
    @rule(clean=st.booleans())
    def stop(self, clean):
        """Killed, or as it should be."""
        with self.life():
            clean = clean and self.close()
            self.watch()
            self.disk.kill()
            self.start(len(self.states) - 1 if clean else self.number(self.log.durable_sequence))
            assert not clean or self.log.torn_bytes == 0

    # -- damage
    @precondition(lambda self: self.has_worked(WORTHWHILE))
    @rule(
        clean=st.booleans(),
        kind=st.sampled_from([".wal", ".wal", ".wal", ".snap", ".snap", ".snap", ".part", "identity", ""]),
        which=st.sampled_from([0, 0, 1, 2]),
        where=SHARE,
        bit=st.integers(0, 7),
        heal=st.sampled_from([True, True, True, False]),
    )
    def rot(self, clean, kind, which, where, bit, heal):
        """A bit turns over in a file at rest. Without its mark, the last sync round of a log may pass for a torn write."""
        self.disk.disarm()
        vouched = self.vouched
        clean = clean and self.close()
        self.disk.kill()
        path = self.file_at_rest(kind, which)
        is_log = path.endswith(".wal")
        content = self.disk.names[path].content
        offset = min(int(where * (len(content.rstrip(b"\0")) + 8)), len(content) - 1)
        record = self.record_at(path, offset) if is_log else 0
        self.disk.flip(path, offset, bit)
        rotten = set(self.rotten)
        if NAME.fullmatch(posixpath.basename(path)):
            self.rotten.add(posixpath.basename(path))
        if self.serves(path, record, offset, clean=clean):
            if is_log:
                self.vouched = vouched
                self.vote(1, None)  # a record behind it vouches for what is left
        elif heal or path.endswith("identity"):
            self.disk.flip(path, offset, bit)
            self.rotten = rotten
            self.start(len(self.states) - 1 if clean else self.number(self.log.durable_sequence))
        else:
            self.set_aside_and_start()

    def file_at_rest(self, kind, which):
        """One of the newest of the kind; a segment where there is none."""
        names = sorted(name for name in self.disk.names if name.startswith(f"{PATH}/") and "/damaged-" not in name)
        found = [name for name in names if name.endswith(kind) and self.disk.names[name].content]
        return (found or [name for name in names if name.endswith(".wal")])[-1 - which :][0]

    def record_at(self, path, offset):
        """Where the record begins that the byte is in; 0 for the header."""
        end = DATA_START
        if offset < end:
            return 0
        content = memoryview(bytes(self.disk.names[path].content))
        header = decode_segment_header(content[:DATA_START], path, segment_number(posixpath.basename(path)))
        for record in walk(content, header.marker):
            if offset < record.end:
                return record.offset
            end = record.end
        return end

    def serves(self, path, record, offset, *, clean):
        """Whether it starts with the damage in ``path``; then it has what nothing but this damage can take. Raises LostError."""
        is_log = path.endswith(".wal")
        floor = self.vouched if is_log else self.number(self.log.durable_sequence)
        try:
            owner = self.open(self.disk)
        except (UnsoundError, IdentityError) as error:
            self.disk.kill()
            self.judge_refusal(error, path, record, offset, clean=clean)
            return False
        if path.endswith("identity"):
            raise LostError("a damaged identity is believed")
        if is_log:
            self.promised = self.states[floor][1]
        self.spoiled = True
        self.judge(owner, floor)
        self.adopt(owner)
        return True

    def judge_refusal(self, error, path, record, offset, *, clean):
        """It names what is damaged, and where. Raises LostError."""
        name = posixpath.basename(path)
        if isinstance(error, IdentityError):
            if name != "identity" or "damaged" not in str(error):
                raise LostError(str(error)) from error
        elif path.endswith(".wal"):
            # A record is not recognised as one that gave up what is gone already when its marker is damaged.
            unmarked = "is missing" in error.reason and offset < record + 4
            if (
                (error.path, error.offset) != (path, record)
                and not unmarked
                and not any(one in str(error) for one in self.rotten)
            ):
                raise LostError(f"{path} is damaged at {record}, and it names {error}") from error
        elif name not in self.rotten or (clean and self.can_serve(self.states[-1])):
            raise LostError(f"it refuses because of {path}, which it does not need: {error}") from error
        elif name not in str(error):
            raise LostError(f"{path} is damaged, and not named: {error}") from error

    # -- setting aside
    @precondition(lambda self: self.has_worked(5 * WORTHWHILE))
    @rule(at=st.integers(0, 25), fault=FAULT, survival=SURVIVAL, seed=SEED)
    def set_aside(self, at, fault, survival, seed):
        """What ``raftkv repair`` does, struck at any call: all is there under the old disk id, or nothing under a new one."""
        self.disk.disarm()
        assert self.close()
        self.survival, self.seed = survival, seed
        self.disk.arm(at, fault)
        if not self.becomes_another_disk():
            self.start(len(self.states) - 1)
            return
        aside = OverlayFiles(self.disk)
        with DataDirectory.open_stopped(PATH, self.disk) as directory:
            path = directory.asides()[-1]
        if state_of(PreparingLog.open(f"{path}/log", self.options, aside)) != self.states[-1]:
            raise LostError("the log that was set aside is another one")
        newest = SnapshotStore(f"{path}/snapshots", aside).newest()
        if (newest.name if newest else "") < max(self.valid, default=""):
            raise LostError("the snapshot that was set aside is not there")
        self.forget()
        self.start(0)

    # -- always
    @invariant()
    def is_as_the_model(self):
        assert state_of(self.log) == self.states[-1]
        vouched = {entry for entry in self.states[-1][0] if entry[1] <= self.log.durable_index}
        for entries, _ in self.states[self.number(self.log.durable_sequence) :]:
            assert vouched <= set(entries), "durable_index vouches for what a crash can lose"
