"""A node's directory as the node uses it, and what it was promised there: the model of ``directory_machine``.

The model is exact where the files are: every change of the log has a number, and after a crash the log must be in a state
that some number from the acknowledged one on left it in; a snapshot holds the state that its index stands for. What a
node makes of both is judged, too: the two have everything between them that was promised, or it refuses and names the damage.

``history`` is what the group has committed: nobody ever cuts that. This node may be ahead of it (entries that only it has,
which it may truncate or see committed), or behind (then it follows, or is given a snapshot in parts).
"""

from __future__ import annotations

import copy
import hashlib
from contextlib import contextmanager
from random import Random

from chaos.disk import Killed, PowerCut, ProcessEnd
from chaos.matrix.cells import LostError
from chaos.matrix.faults import CellDisk
from chaos.matrix.logs import PreparingLog, state_of
from persistence.directory import DataDirectory
from persistence.errors import DirectoryError, IdentityError, LogFailedError
from persistence.reserve import Reserve
from persistence.segment import segment_number
from persistence.snapshot_file import NAME, order
from persistence.snapshots import SnapshotStore
from persistence.spares import SPARES_MAX
from raftkv.consensus.snapshots import NO_OP, continues
from raftkv.consensus.soundness import UnsoundError, check_sound, sound_log

PATH = "data/n1"
KEEP = 2
SEGMENT_BYTES = 8192
RESERVE_BYTES = 3000
ATTEMPTS = 8
"""Starts in a row of which a fault may end one or two."""
EMPTY = ((), (0, None))


class Owner:
    """A directory, opened and used in the server's order (:mod:`raftkv.server.disk`), without the server."""

    def __init__(self, disk, options, reserve_bytes, disk_id):
        self.disk = disk
        self.directory = DataDirectory.open(PATH, node_id="n1", cluster_id="c1", new_disk_id=disk_id, files=disk)
        reserve = Reserve(PATH, reserve_bytes, disk)
        self.log = sound_log(self.directory, lambda: PreparingLog.open(self.directory.log_path, options, disk, reserve))
        self.directory.begin_log(self.log.salt)
        self.store = SnapshotStore(self.directory.snapshot_path, disk, KEEP)
        self.content = b""
        self.snapshot = self.store.load_newest(self._load)
        check_sound(self.log, self.base, self.store)
        reserve.make()

    def _load(self, pieces):
        self.content = b"".join(pieces)

    @property
    def base(self):
        """Last entry in the newest valid snapshot; 0 without one."""
        return self.snapshot.index if self.snapshot else 0

    def write_snapshot(self, meta, content, ending="commit"):
        """One of this node's own. Raises OSError; then it is given up, as by the process that waits for the writing one."""
        try:
            writer = self.store.begin(meta, level=1)
            for start in range(0, len(content), 700):
                writer.write(content[start : start + 700])
            if ending == "commit":
                self.snapshot = writer.commit()
            elif ending == "abort":
                writer.abort()
        finally:
            self.store.discard(meta)

    def close(self):
        """Raises nothing; whether the log took it well is in ``log.failed``."""
        self.log.close()
        self.directory.close()


class Node:
    """One node over all its lives, and what is certain about it. A fault that struck is followed by the next life at once."""

    # -- lives
    def create(self, options, reserve_bytes):
        """Nothing is there yet."""
        self.disk = CellDisk("machine")
        self.options = options
        self.reserve_bytes = reserve_bytes
        self.survival, self.seed = "random", 0
        self.history = []
        self.digests = [b"start"]
        self.disks = 1
        self.disk_id = "disk1"
        self.forget()

    def forget(self):
        """This disk has nothing, and remembers nothing."""
        self.states = [EMPTY]
        self.vouched = self.synced = 0
        """Numbers of states: the newest that a later sync round vouches for, and the newest that a sync covers."""
        self.opened_at = 0
        self.promised = EMPTY[1]
        self.known = {}
        """Content of each snapshot that was ever complete here, by file name."""
        self.certain = set()
        """Names of those that are there whatever happens."""
        self.rotten = set()
        """Names of those in which a bit was changed."""
        self.sending = self.incoming = None
        self.spoiled = self.begun = False
        self.received = b""

    @contextmanager
    def life(self):
        """What is done inside may be the end of the process: another one starts then."""
        try:
            yield
        except ProcessEnd as end:
            self.end(end)
        except LogFailedError:
            self.disk.kill()
            self.start(self.number(self.log.durable_sequence))

    def end(self, end):
        self.watch()
        floor = self.number(self.log.durable_sequence)
        if isinstance(end, PowerCut):
            floor = self.number(self.log.synced_sequence)
            self.disk.power_cut(self.seed, self.survival)
        else:
            self.disk.kill()
        self.start(floor)

    def open(self, disk):
        """An owner of what is on ``disk``. Raises as it does."""
        return Owner(disk, self.options, self.reserve_bytes, f"disk{self.disks}")

    def start(self, floor):
        """Start until it succeeds; the log must be in state number ``floor`` or a later one. Raises LostError."""
        self.spoiled = True  # what was received is synced at its end only
        for _ in range(ATTEMPTS):
            try:
                owner = self.open(self.disk)
            except PowerCut:
                floor = min(floor, self.synced)
                self.disk.power_cut(self.seed, self.survival)
            except ProcessEnd:
                self.disk.kill()
            except IdentityError as error:
                raise LostError(f"the identity: {error}") from error
            except UnsoundError as error:
                self.disk.kill()
                self.excuse(error, floor)
                self.set_aside_and_start()
                return
            except (OSError, DirectoryError):
                self.disk.kill()
            else:
                self.judge(owner, floor)
                self.adopt(owner)
                return
        raise LostError(f"it does not start in {ATTEMPTS} attempts")

    def excuse(self, error, floor):
        """A refusal is right only where a damaged snapshot held what is nowhere else."""
        if not self.rotten or all(self.can_serve(state) for state in self.states[floor:]):
            raise LostError(f"it refuses to serve, and nothing that it needs is damaged: {error}") from error
        if not any(name in str(error) for name in self.rotten):
            raise LostError(f"the damage is not named: {error}") from error

    def can_serve(self, state):
        """Whether the log in this state and the valid snapshots have everything between them."""
        covered = max((order(name)[0] for name in self.valid), default=0)
        entries = state[0]
        if entries and entries[0][1] > max(covered - 1, 1):
            return False
        return max((order(name)[0] for name in self.rotten), default=0) <= max(
            covered, entries[-1][1] if entries else 0
        )

    @property
    def valid(self):
        return self.certain - self.rotten

    def judge(self, owner, floor):
        """What was found is what was promised. Raises LostError."""
        if owner.directory.disk_id != self.disk_id:
            raise LostError(f"it is {owner.directory.disk_id}, and was {self.disk_id}")
        found = state_of(owner.log)
        if found not in self.states[floor:]:
            where = [number for number, one in enumerate(self.states) if one == found]
            raise LostError(f"the log is in state {where or 'none'} of {len(self.states)}, {floor} was acknowledged")
        self.judge_hard_state(found[1])
        self.judge_snapshots(owner)
        if found[0] and found[0][0][1] > max(owner.base - 1, 1):
            raise LostError(f"the log begins at {found[0][0][1]}, the snapshot ends at {owner.base}")
        self.judge_files(owner)

    def judge_hard_state(self, found):
        term, vote = self.promised
        if found[0] < term or (found[0] == term and vote not in (None, found[1])):
            raise LostError(f"term and vote were {self.promised}, and went back to {found}")

    def judge_snapshots(self, owner):
        newest = max(self.valid, default="")
        name = owner.snapshot.name if owner.snapshot else ""
        if name < newest:
            raise LostError(f"snapshot {newest} was published, the newest is {name or 'none'}: {owner.store.damaged}")
        if name and owner.content != self.known.get(name):
            raise LostError(f"snapshot {name} has another content than was written")
        unsound = {one for one in owner.store.damaged if one not in self.rotten}
        if unsound:
            raise LostError(f"{unsound} got its name before it was whole")
        for one, reason in owner.store.damaged.items():
            if f"{owner.directory.snapshot_path}/{one} is damaged at offset " not in reason:
                raise LostError(f"the damage is not named: {reason}")

    def judge_files(self, owner):
        """Nothing is left that nobody needs. Raises LostError."""
        disk, store = owner.disk, owner.store
        names = disk.listdir(owner.directory.log_path)
        left = [name for name in names if name.endswith(".prep")]
        left += [name for name in names if name.endswith(".spare")][SPARES_MAX:]
        left += [name for name in names if segment_number(name) is not None][: -owner.log.segment_count]
        names = disk.listdir(owner.directory.snapshot_path)
        useful = [name for name in store.parts() if not owner.base or order(name) > order(owner.snapshot.name)]
        left += [name for name in names if NAME.fullmatch(name) is None and name not in useful[-1:]]
        left += sorted(name for name in names if NAME.fullmatch(name) and name not in store.damaged)[:-KEEP]
        there = {"identity", "lock", "log", "snapshots", "reserve"}
        left += [name for name in disk.listdir(PATH) if name not in there and not name.startswith("damaged-")]
        if left:
            raise LostError(f"{', '.join(left)} is left behind")

    def adopt(self, owner):
        """Go on with what was found, which is on the disk for good."""
        self.disk.journal.clear()
        hasty = copy.deepcopy(self.disk)
        hasty.power_cut(0, "nothing")
        again = self.open(hasty)
        if state_of(again.log) != state_of(owner.log) or again.snapshot != owner.snapshot:
            raise LostError("what was shown after the recovery was not on the disk")
        self.owner, self.log = owner, owner.log
        self.states.append(state_of(owner.log))
        self.opened_at = self.synced = len(self.states) - 1
        self.begun = False
        self.promised = tuple(self.log.hard_state)
        names = self.disk.listdir(owner.directory.snapshot_path)
        self.certain = {name for name in names if name in self.known}
        self.incoming, self.received = None, b""
        self.align()

    def align(self):
        """As the engine does: a log that does not go on from the snapshot makes room for one that does."""
        snapshot = self.owner.snapshot
        if snapshot is not None and not continues(self.log, snapshot.meta):
            hard = self.states[-1][1]
            self.log.clear()
            self.note(((), hard))
            self.add(snapshot.index - 1, snapshot.term, NO_OP)
            self.add(snapshot.index, snapshot.term, snapshot.meta.extra)

    # -- what is known
    def number(self, sequence):
        """Of the state that the log's change ``sequence`` of this life led to."""
        return self.opened_at + sequence

    def note(self, state):
        if self.number(self.log.sequence) == len(self.states):
            self.states.append(state)

    def add(self, index, term, data):
        entries, hard = self.states[-1]
        self.log.append(index, term, data)
        self.note(((*entries, (data, index, term)), hard))

    def watch(self):
        """After a round: how far the disk is, by what the log says."""
        synced = self.number(self.log.synced_sequence)
        if synced > self.synced:
            self.vouched, self.synced = self.synced, synced
            self.promised = self.states[synced][1]

    @property
    def last(self):
        """(index, term) of the last entry in snapshot and log."""
        entries = self.states[-1][0]
        if entries:
            return entries[-1][1:]
        return (self.owner.base, self.owner.snapshot.term) if self.owner.snapshot else (0, 0)

    @property
    def matched(self):
        """Up to here this node has what the group committed."""
        base = self.owner.base
        own = {entry[1]: entry for entry in self.states[-1][0]}
        while base < len(self.history) and own.get(base + 1) == self.history[base]:
            base += 1
        return base

    @property
    def is_up_to_date(self):
        return self.matched == len(self.history)

    def commit_globally(self, entry):
        self.history.append(entry)
        self.digests.append(hashlib.sha256(self.digests[-1] + repr(entry[1:]).encode() + entry[0]).digest())

    def content(self, index):
        """The state after entry ``index``: a few chunks that do not compress."""
        noise = Random(self.digests[index])
        return self.digests[index] + noise.randbytes(noise.choice((0, 300, 1500, 4000)))

    def truncate_from(self, index):
        entries, hard = self.states[-1]
        self.log.truncate_from(index)
        self.note((tuple(entry for entry in entries if entry[1] < index), hard))

    def vote(self, step, vote):
        entries, (term, voted) = self.states[-1]
        hard = (term + step, vote if step or voted is None else voted)
        self.log.set_hard_state(*hard)
        self.note((entries, hard))
        self.sync_now()

    def meet(self, term):
        """A leader of ``term``: its term is durable before anything of it is taken (Raft paper, 5.1)."""
        known = self.states[-1][1][0]
        if known < term:
            self.vote(term - known, None)

    def sync_now(self):
        self.log.sync()
        self.begun = False
        assert self.log.synced_sequence == self.log.durable_sequence == self.log.sequence
        self.watch()

    def close(self):
        """Whether the log was closed well, and its mark vouches for all of it."""
        self.owner.close()
        if self.log.failed is None:
            self.vouched = self.synced = len(self.states) - 1
        return self.log.failed is None

    # -- another disk
    def set_aside_and_start(self):
        """After a refusal: the node gets everything from the others."""
        self.disk.disarm()
        while not self.becomes_another_disk():
            pass
        self.forget()
        self.start(0)

    def becomes_another_disk(self):
        """Whether it did, once a crash was repaired by the next start. Raises LostError."""
        self.disks += 1
        done = False
        try:
            with DataDirectory.open_stopped(PATH, self.disk) as directory:
                directory.set_aside(f"disk{self.disks}", b"why")
            done = True
        except PowerCut:
            self.disk.power_cut(self.seed, self.survival)
        except (Killed, OSError, DirectoryError):
            self.disk.kill()
        self.disk.disarm()
        with DataDirectory.open(PATH, node_id="n1", cluster_id="c1", files=self.disk) as directory:
            disk_id, repairs = directory.disk_id, directory.repairs
        if disk_id == self.disk_id and not done:
            return False
        if disk_id != f"disk{self.disks}" or self.disk_id not in repairs:
            raise LostError(f"it is {disk_id} with {repairs} behind it, and was {self.disk_id}")
        self.disk_id = disk_id
        return True
