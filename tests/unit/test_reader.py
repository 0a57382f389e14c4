"""Reads of all senders share a barrier: who waits for which, and what each of them gets."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

from raftkv.commands.registry import TABLE
from raftkv.errors import NoLeaderError, WrongTypeError
from raftkv.machine.batch import header, plain
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_commands
from raftkv.server.consistency import LINEARIZABLE
from raftkv.server.reader import Reader
from raftkv.server.tickets import Ticket

START_MS = 1_700_000_000_000


class Asked(Ticket):
    __slots__ = ("got",)

    def __init__(self, *commands, database=0):
        super().__init__([list(one) for one in commands], None, database)
        self.got = []

    def answer(self, replies):
        self.got.append(list(replies))

    def fail(self, error):
        self.got.append(error)


class Connection:
    """A connection that reads one command at a time."""

    def __init__(self, database=0):
        self.client = SimpleNamespace(db=database)
        self.got = []

    def answer_alone(self, reply, argv):
        self.got.append((argv[0], reply))


class World:
    """A reader, a state, and barriers that the test opens."""

    def __init__(self):
        self.machine = StateMachine()
        self.barriers = []
        self.turns = []
        self.hits = self.misses = 0
        self.counted = []
        self.reader = Reader(LINEARIZABLE, self.read_barrier, self.machine, Random(1), self.turns.append, self)

    def read_barrier(self, done):
        self.barriers.append(done)

    def monotonic(self):
        return 7.0

    def tickets(self, tickets, started):
        self.counted.append(("tickets", len(tickets), started))

    def alone(self, reads, started):
        self.counted.append(("alone", len(reads), started))

    def write(self, *commands, database=0):
        entry = header(START_MS) + b"".join(plain(database, len(commands), [encode_commands(commands)]))
        return self.machine.apply(self.machine.index + 1, entry)[0]

    def turn(self):
        turns, self.turns[:] = list(self.turns), []
        for work in turns:
            work()

    def alone_read(self, connection, *argv):
        self.reader.add_alone(connection, TABLE[argv[0]], list(argv))


def test_one_barrier_serves_all_of_one_turn_and_nothing_is_read_before_it():
    world = World()
    world.write([b"SET", b"k", b"old"])
    first, second, alone = Asked([b"GET", b"k"], [b"GET", b"none"]), Asked([b"STRLEN", b"k"]), Connection()
    world.reader.add(first)
    world.alone_read(alone, b"GET", b"k")
    world.reader.add(second)
    assert len(world.turns) == 1
    world.turn()
    assert len(world.barriers) == 1
    world.write([b"SET", b"k", b"newer"])
    assert first.got == second.got == alone.got == []
    world.barriers[0](START_MS, None)
    assert first.got == [[b"newer", None]]
    assert second.got == [[5]]
    assert alone.got == [(b"GET", b"newer")]
    assert (world.hits, world.misses) == (3, 1)
    assert world.counted == [("tickets", 2, 7.0), ("alone", 1, 7.0)]


def test_a_read_of_a_later_turn_never_shares_an_earlier_barrier():
    world = World()
    first, second = Asked([b"GET", b"k"]), Asked([b"GET", b"k"])
    world.reader.add(first)
    world.turn()
    world.reader.add(second)
    world.turn()
    assert len(world.barriers) == 2
    world.barriers[0](START_MS, None)
    assert first.got == [[None]]
    assert second.got == []
    world.write([b"SET", b"k", b"v"])
    world.barriers[1](START_MS, None)
    assert second.got == [[b"v"]]


def test_an_error_of_the_barrier_reaches_everybody():
    world = World()
    world.write([b"SET", b"k", b"v"])
    ticket, alone = Asked([b"GET", b"k"], [b"GET", b"k"]), Connection()
    world.reader.add(ticket)
    world.alone_read(alone, b"GET", b"k")
    world.turn()
    error = NoLeaderError("no leader confirmed the read in time")
    world.barriers[0](0, error)
    assert ticket.got == [error]
    assert alone.got == [(b"GET", error)]
    assert (world.hits, world.misses) == (0, 0)
    after = Asked([b"GET", b"k"])
    world.reader.add(after)
    world.turn()
    world.barriers[1](START_MS, None)
    assert after.got == [[b"v"]]


def test_each_reads_its_own_database_at_the_leaders_time():
    world = World()
    world.write([b"SET", b"k", b"zero", b"PX", b"100"])
    world.write([b"SET", b"k", b"three"], database=3)
    zero, three = Asked([b"GET", b"k"]), Asked([b"GET", b"k"], database=3)
    alone = [Connection(3), Connection(0)]
    for ticket in (three, zero):
        world.reader.add(ticket)
    for connection in alone:
        world.alone_read(connection, b"GET", b"k")
    world.turn()
    world.barriers[0](START_MS + 100, None)
    assert (zero.got, three.got) == ([[None]], [[b"three"]])
    assert [one.got for one in alone] == [[(b"GET", b"three")], [(b"GET", None)]]


def test_a_command_that_fails_is_answered_and_the_next_runs():
    world = World()
    world.write([b"LPUSH", b"list", b"x"], [b"SET", b"k", b"v"])
    ticket, alone = Asked([b"GET", b"list"], [b"GET", b"k"]), [Connection(), Connection()]
    world.reader.add(ticket)
    world.alone_read(alone[0], b"GET", b"list")
    world.alone_read(alone[1], b"GET", b"k")
    world.turn()
    world.barriers[0](START_MS, None)
    assert isinstance(ticket.got[0][0], WrongTypeError)
    assert ticket.got[0][1] == b"v"
    assert isinstance(alone[0].got[0][1], WrongTypeError)
    assert alone[1].got == [(b"GET", b"v")]


def test_reads_alone_need_no_ticket_to_be_served():
    world = World()
    one, other = Connection(), Connection()
    world.alone_read(one, b"GET", b"k")
    world.alone_read(other, b"EXISTS", b"k")
    assert len(world.turns) == 1
    world.turn()
    world.barriers[0](START_MS, None)
    assert one.got == [(b"GET", None)]
    assert other.got == [(b"EXISTS", 0)]
    assert (world.hits, world.misses) == (1, 1)
