"""From tickets to log entries: what shares an entry, what waits, what is refused, and in which order all are answered."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import BusyError, NoLeaderError, UnknownOutcomeError
from raftkv.machine.batch import DIGEST, OPEN, PLAIN, TICK, TXN, Group, groups, stamp_of
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_commands
from raftkv.protocol.replies import OK
from raftkv.server import proposer as proposer_module
from raftkv.server.proposer import (
    ENTRY_COMMANDS_MAX,
    FULL_ENTRIES_IN_FLIGHT,
    Proposer,
    digest_group,
    tick_group,
)
from raftkv.server.tickets import GroupTicket, Ticket

WALL_MS = 1_700_000_000_000


class Asked(Ticket):
    """A ticket that notes its outcome in a common list."""

    __slots__ = ("got", "outcomes")

    def __init__(self, commands, database=0, *, outcomes=None, raw=None):
        super().__init__([list(one) for one in commands], raw, database)
        self.got = []
        self.outcomes = outcomes if outcomes is not None else []

    def answer(self, replies):
        self.got.append(list(replies))
        self.outcomes.append(self)

    def fail(self, error):
        self.got.append(error)
        self.outcomes.append(self)


class World:
    """A proposer and what it talks to: a replicator that orders when the test says so."""

    def __init__(self, *, entry_bytes_max=1 << 20, pending_bytes_max=1 << 20):
        self.machine = StateMachine()
        self.on_their_way = []
        self.entries = []
        self.turns = []
        self.refused = []
        self.batches = []
        self.counted = []
        self.error_at_once = None
        self.proposer = Proposer(
            self, self.machine, self, self, self.turns.append, entry_bytes_max=entry_bytes_max,
            pending_bytes_max=pending_bytes_max, refused=self.refused.append, account=self,
        )  # fmt: skip

    # what the proposer calls
    def wall_ms(self):
        return WALL_MS

    def monotonic(self):
        return 5.0

    def observe_batch(self, commands, size_bytes):
        self.batches.append((commands, size_bytes))

    def tickets(self, tickets, started):
        self.counted.append((list(tickets), started))

    def propose(self, entry, done):
        self.entries.append(entry)
        if self.error_at_once is not None:
            done(None, self.error_at_once)
        else:
            self.on_their_way.append((entry, done))

    # what the test does
    def add(self, *tickets):
        for ticket in tickets:
            self.proposer.add(ticket)

    def turn(self):
        turns, self.turns[:] = list(self.turns), []
        for work in turns:
            work()
        return len(turns)

    def commit(self):
        """The oldest entry on its way is applied; the loop turns."""
        entry, done = self.on_their_way.pop(0)
        done(self.machine.apply(self.machine.index + 1, entry), None)
        self.turn()

    def fail(self, error):
        self.on_their_way.pop(0)[1](None, error)


def sets(*keys, **options):
    return Asked([[b"SET", key, b"v"] for key in keys], **options)


def group_ticket(group, commands, got):
    return GroupTicket(group, commands, 2, lambda result, error: got.append((result, error)))


def keys_of(entry):
    machine = StateMachine()
    return [[argv[1] for argv in machine.parse(group)] for group in groups(entry)]


def test_all_that_arrives_in_one_turn_is_one_entry_and_one_group():
    world = World()
    first, second = sets(b"a", b"b"), sets(b"c")
    world.add(first, second)
    assert world.entries == []
    assert world.turn() == 1
    assert [keys_of(entry) for entry in world.entries] == [[[b"a", b"b", b"c"]]]
    assert stamp_of(world.entries[0]) == WALL_MS
    assert world.batches == [(3, len(world.entries[0]))]
    world.commit()
    assert (first.got, second.got) == ([[OK, OK]], [[OK]])
    assert world.counted == [([first, second], 5.0)]


def test_what_arrives_while_an_entry_is_on_its_way_forms_the_next():
    world = World()
    world.add(sets(b"a"))
    world.turn()
    for key in (b"b", b"c", b"d"):
        world.add(sets(key))
        world.turn()
    assert len(world.entries) == 1
    world.commit()
    assert [keys_of(entry) for entry in world.entries] == [[[b"a"]], [[b"b", b"c", b"d"]]]


def test_bytes_as_they_came_go_into_the_entry():
    world = World()
    raw = b"*3\r\n$3\r\nsEt\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"
    world.add(Asked([[b"sEt", b"k", b"\r\n"]], raw=raw))
    world.turn()
    assert [one.data for one in groups(world.entries[0])] == [raw]
    world.commit()
    assert world.machine.keyspace[0].get(b"k") == b"\r\n"


def test_databases_and_groups_between_plain_tickets_keep_the_order():
    world, outcomes, got = World(), [], []
    commands = [[b"GET", b"k"], [b"SET", b"k", b"txn"]]
    transaction = group_ticket(Group(TXN, 0, 2, encode_commands(commands)), commands, got)
    opening = group_ticket(Group(OPEN, 0, 0, b"", numbers=(5,)), [], got)
    tickets = [
        Asked([[b"SET", b"k", b"1"]], outcomes=outcomes), Asked([[b"GET", b"k"]], outcomes=outcomes),
        Asked([[b"GET", b"k"]], database=1, outcomes=outcomes), transaction, opening,
        Asked([[b"GET", b"k"]], outcomes=outcomes),
    ]  # fmt: skip
    world.add(*tickets)
    world.turn()
    shape = [(one.kind, one.database, one.commands) for one in groups(world.entries[0])]
    assert shape == [(PLAIN, 0, 2), (PLAIN, 1, 1), (TXN, 0, 2), (OPEN, 0, 0), (PLAIN, 0, 1)]
    world.commit()
    assert [one.got for one in outcomes] == [[[OK]], [[b"1"]], [[None]], [[b"txn"]]]
    assert outcomes == [tickets[0], tickets[1], tickets[2], tickets[5]]
    (session,) = world.machine.sessions.by_id
    assert got == [([b"1", OK], None), (session.hex().encode(), None)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 30), st.booleans()), max_size=30))
def test_everybody_gets_the_answers_to_his_own_commands_in_the_order_of_arrival(asked):
    world, outcomes = World(entry_bytes_max=400), []
    tickets = []
    for number, (count, database, size, turns) in enumerate(asked):
        words = [[b"ECHO-IS-NOT-HERE", b"%d" % number], [b"GETSET", b"k", b"%d/" % number + b"x" * size]]
        commands = [words[0]] * (count - 1) + [words[1]]
        tickets.append(Asked(commands, database, outcomes=outcomes))
        world.add(tickets[-1])
        if turns:
            world.turn()
    world.turn()
    while world.on_their_way:
        world.commit()
    assert outcomes == tickets
    last = {}
    for number, ticket in enumerate(tickets):
        (replies,) = ticket.got
        assert len(replies) == len(ticket.commands)
        assert all(f"'{number}'" in str(one) for one in replies[:-1])
        assert replies[-1] == last.get(ticket.database)
        last[ticket.database] = ticket.commands[-1][2]


def test_an_entry_has_a_bounded_number_of_commands_and_a_ticket_is_never_split():
    world = World()
    big = [sets(*[b"k"] * (ENTRY_COMMANDS_MAX - 1)) for _ in range(3)]
    world.add(*big)
    world.turn()
    assert [sum(map(len, keys_of(entry))) for entry in world.entries] == [2 * (ENTRY_COMMANDS_MAX - 1)]
    world.commit()
    assert [sum(map(len, keys_of(entry))) for entry in world.entries][1:] == [ENTRY_COMMANDS_MAX - 1]


def test_an_entry_has_a_bounded_number_of_bytes_or_one_larger_ticket():
    ticket = sets(b"k")
    size = len(encode_commands(ticket.commands))
    world = World(entry_bytes_max=2 * size)
    world.add(sets(b"a"), sets(b"b"), sets(b"c"), Asked([[b"SET", b"d", b"v" * 3 * size]]), sets(b"e"))
    world.turn()
    while world.on_their_way:
        world.commit()
    assert [keys_of(entry) for entry in world.entries] == [[[b"a", b"b"]], [[b"c"]], [[b"d"]], [[b"e"]]]


def test_full_entries_do_not_wait_for_each_other_up_to_a_bound():
    world = World()
    for _ in range(FULL_ENTRIES_IN_FLIGHT + 2):
        world.add(sets(*[b"k"] * ENTRY_COMMANDS_MAX))
    world.add(sets(b"last"))
    world.turn()
    assert len(world.on_their_way) == FULL_ENTRIES_IN_FLIGHT
    world.add(sets(b"later"))
    assert world.turns == []
    for _ in range(2):
        world.commit()
        assert len(world.on_their_way) == FULL_ENTRIES_IN_FLIGHT
    for _ in range(FULL_ENTRIES_IN_FLIGHT - 1):  # what is left is not full and waits for all the others
        world.commit()
        assert len(world.entries) == FULL_ENTRIES_IN_FLIGHT + 2
    world.commit()
    assert keys_of(world.entries[-1]) == [[b"last", b"later"]]


@pytest.mark.parametrize("outcome", ["applied", "applied from the log", "unknown", "refused at once"])
def test_nothing_is_kept_of_an_entry_whose_outcome_is_known(outcome):
    world = World()
    if outcome == "refused at once":
        world.error_at_once = UnknownOutcomeError("no quorum")
    world.add(sets(b"k"))
    world.turn()
    if outcome.startswith("applied"):
        entry, done = world.on_their_way.pop()
        if outcome == "applied from the log":
            entry = bytes(bytearray(entry))
        done(world.machine.apply(1, entry), None)
        del done
    elif outcome == "unknown":
        world.fail(UnknownOutcomeError("no quorum"))
    kept = [one for one in gc.get_referrers(world.entries[0]) if one is not world.entries]
    assert kept == []


def test_too_many_bytes_waiting_are_refused_as_busy_and_surely_not_done():
    size = len(encode_commands([[b"SET", b"k", b"v"]]))
    world = World(pending_bytes_max=2 * size)
    taken, late = [sets(b"a"), sets(b"b")], sets(b"c")
    world.add(*taken, late)
    (error,) = late.got
    assert isinstance(error, BusyError)
    assert error.definite
    assert str(error) == (
        f"TRYAGAIN {2 * size} bytes of writes are waiting, and {size} more would be above max_pending_bytes ({2 * size}); "
        "nothing was done, try again"
    )
    world.turn()
    world.commit()
    assert [one.got for one in taken] == [[[OK]], [[OK]]]
    assert world.machine.keyspace[0].get(b"c") is None
    again = sets(b"c")
    world.add(again)
    world.turn()
    world.commit()
    assert again.got == [[OK]]


def test_one_ticket_larger_than_the_bound_is_taken_when_nothing_waits():
    world = World(pending_bytes_max=10)
    large = sets(b"k" * 100)
    world.add(large)
    world.turn()
    world.commit()
    assert large.got == [[OK]]


def test_full_entries_wait_when_too_many_bytes_are_on_their_way():
    size = len(encode_commands([[b"SET", b"k", b"v"]]))
    world = World(entry_bytes_max=size, pending_bytes_max=3 * size)
    world.add(*[sets(b"abc"[at : at + 1]) for at in range(3)])
    world.turn()
    world.add(*[sets(b"def"[at : at + 1]) for at in range(3)])
    world.turn()
    # Heads count as well, so two entries reach the bound.
    assert len(world.entries) == len(world.on_their_way) < FULL_ENTRIES_IN_FLIGHT
    launched = len(world.entries)
    assert launched <= 3
    world.commit()
    world.turn()
    assert len(world.entries) == launched + 1


def test_commands_that_no_member_could_send_to_another_are_refused_and_surely_not_done(monkeypatch):
    size = len(encode_commands([[b"SET", b"k", b"v"]]))
    monkeypatch.setattr(proposer_module, "ENTRY_BYTES_MAX", size)
    world = World()
    largest, larger = sets(b"k"), sets(b"kk")
    world.add(largest, larger)
    (error,) = larger.got
    assert (error.code, error.definite) == ("ERR", True)
    assert f"{size} are the most" in str(error)
    world.turn()
    world.commit()
    assert largest.got == [[OK]]


@pytest.mark.parametrize("at_once", [True, False])
def test_tickets_that_a_former_leader_took_are_given_back_not_failed(at_once):
    world = World()
    world.error_at_once = NoLeaderError("this node does not lead") if at_once else None
    tickets = [sets(b"a"), group_ticket(tick_group(), [], []), sets(b"b")]
    world.add(*tickets)
    world.turn()
    if not at_once:
        world.fail(NoLeaderError("another leader's entry took the place of this one; it was not applied"))
    assert world.refused == [tickets]
    assert tickets[0].got == tickets[2].got == []
    world.error_at_once = None
    after = sets(b"c")
    world.add(after)
    world.turn()
    world.commit()
    assert after.got == [[OK]]


@pytest.mark.parametrize(
    "error",
    [UnknownOutcomeError("in time"), UnknownOutcomeError("who knows", code="CLUSTERDOWN"), BusyError("4096 batches")],
)
def test_any_other_error_reaches_everybody_as_it_is(error):
    world, got = World(), []
    first, second = sets(b"a"), group_ticket(tick_group(), [], got)
    world.add(first, second)
    world.turn()
    world.add(third := sets(b"b"))
    world.fail(error)
    assert first.got == [error]
    assert got == [(None, error)]
    assert world.refused == []
    assert third.got == []
    world.turn()
    world.commit()
    assert third.got == [[OK]]


def test_what_was_not_proposed_can_be_taken_back():
    world = World()
    gone, kept = sets(b"a"), [sets(b"b"), sets(b"c")]
    world.add(gone)
    world.turn()
    world.add(*kept)
    assert world.proposer.take_back() == kept
    assert world.proposer.take_back() == []
    world.turn()
    world.commit()
    assert len(world.entries) == 1
    assert gone.got == [[OK]]


def test_what_the_server_itself_proposes_is_a_group():
    world, got = World(), []
    world.add(group_ticket(tick_group(), [], got), group_ticket(digest_group(3, 2**64 - 1), [], got))
    world.turn()
    assert [(one.kind, one.numbers) for one in groups(world.entries[0])] == [(TICK, ()), (DIGEST, (3, 2**64 - 1))]
    world.commit()
    assert got == [(None, None), (None, None)]
    assert world.counted == []
