"""The engine's view of the log: positions, bounds, and what must be on disk before a call returns."""

from __future__ import annotations

from random import Random

import pytest

from chaos.disk import Disk
from persistence.wal import Log
from raftkv.consensus import journal as journal_module
from raftkv.consensus.journal import SLICE_BYTES_MAX, SLICE_ENTRIES_MAX, JournalAdapter
from raftkv.errors import InvariantError
from tests.unit.fake_core import OPTIONS, memory


def journal_of(disk=None, *, count=0, first=1, snapshot_index=0, size=4):
    journal = JournalAdapter(Log.open("data/log", OPTIONS, disk or memory()), snapshot_index)
    for index in range(first, first + count):
        journal.add(payload(index, size), index, term(index))
    return journal


def payload(index, size=4):
    return b"%04d" % index + b"x" * (size - 4)


def term(index):
    return 1 + index // 10


def entry(index, size=4):
    return payload(index, size), index, term(index)


def test_an_empty_log_has_no_length_and_begins_where_its_first_entry_does():
    journal = journal_of()
    assert len(journal) == 0
    journal.add(b"x", 7, 1)
    assert len(journal) == 1
    assert journal[0] == journal[-1] == (b"x", 7, 1)


def test_positions_count_from_the_first_entry_and_from_the_end():
    journal = journal_of(count=20, first=5)
    assert len(journal) == 20
    assert journal[0] == entry(5)
    assert journal[19] == journal[-1] == entry(24)
    assert journal[-3] == entry(22)
    assert journal[2:4] == [entry(7), entry(8)]
    assert journal[3:4] == [entry(8)]
    assert journal[18:] == [entry(23), entry(24)]
    assert journal[18:100] == [entry(23), entry(24)]
    assert journal[20:] == journal[4:4] == []


def test_a_slice_has_a_bounded_number_of_entries():
    journal = journal_of(count=SLICE_ENTRIES_MAX + 10)
    assert [index for _, index, _ in journal[2:]] == list(range(3, SLICE_ENTRIES_MAX + 3))


def test_a_slice_has_a_bounded_number_of_bytes_but_two_entries_however_large(monkeypatch):
    assert SLICE_BYTES_MAX >= 1 << 16
    monkeypatch.setattr(journal_module, "SLICE_BYTES_MAX", 100)
    small, large = journal_of(count=30, size=30), journal_of(count=30, size=200)
    assert len(small[0:]) == 4
    assert len(large[0:]) == 2
    assert len(large[0:1]) == 1


def test_a_gap_is_refused():
    journal = journal_of(count=3)
    for index in (3, 5):
        with pytest.raises(InvariantError, match=f"gap in the log: entry {index} after 3"):
            journal.add(b"x", index, 1)
    assert len(journal) == 3


def test_entries_from_a_position_on_are_removed_and_others_take_their_place():
    journal = journal_of(count=10, first=5)
    journal.deleteEntriesFrom(7)
    assert journal[-1] == entry(11)
    journal.deleteEntriesFrom(7)
    assert len(journal) == 7
    journal.add(b"new", 12, 9)
    assert journal[-1] == (b"new", 12, 9)


def test_the_first_entry_is_the_one_of_now_after_any_change():
    journal = journal_of(count=5)
    assert journal[0] == entry(1)
    journal.deleteEntriesFrom(0)
    journal.add(b"other", 1, 7)
    assert journal[0] == (b"other", 1, 7)
    journal.add(b"next", 2, 7)
    journal.deleteEntriesTo(1)
    assert journal[0] == (b"next", 2, 7)
    journal.clear()
    assert len(journal) == 0
    journal.add(b"again", 2, 7)
    assert journal[0] == (b"again", 2, 7)


def test_compaction_keeps_what_slow_followers_may_need():
    journal = journal_of(count=20)
    journal.first_kept = lambda: 6
    journal.deleteEntriesTo(15)
    assert journal.log.first_index == journal.view_first == 6
    assert journal[0] == entry(6)
    journal.deleteEntriesTo(2)
    assert journal.log.first_index == 6
    journal.first_kept = lambda: journal_module.NOTHING_KEPT
    journal.deleteEntriesTo(4)
    assert journal[0] == entry(10)


def test_a_view_from_a_later_entry_hides_the_earlier_ones():
    journal = journal_of(count=10)
    journal.view_first = 4
    assert len(journal) == 7
    assert journal[0] == entry(4)
    assert journal[-1] == entry(10)
    journal.deleteEntriesFrom(2)
    assert journal[-1] == entry(5)


def test_term_and_vote_survive_a_power_cut_the_moment_they_are_set():
    disk = Disk(Random(1))
    disk.make_dir("data")
    for number in range(1, 6):
        journal = journal_of(disk)
        journal.setCurrentTerm(number, f"n{number}")
        disk.power_cut()
        journal = journal_of(disk)
        assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (number, f"n{number}")


def test_a_vote_is_forgotten_with_its_term():
    journal = journal_of()
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (0, None)
    journal.setCurrentTerm(3, "n2")
    journal.setCurrentTerm(4, None)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (4, None)


def test_the_commit_index_is_not_kept_and_starts_at_the_snapshot():
    disk = memory()
    journal = journal_of(disk, count=10)
    journal.setRaftCommitIndex(9)
    assert journal.getRaftCommitIndex() == 1
    journal.log.sync()
    assert journal_of(disk, snapshot_index=6).getRaftCommitIndex() == 6


# ------------------------------------------------------------------ invariants
def test_terms_never_go_back_in_the_log():
    journal = journal_of(count=20)
    with pytest.raises(InvariantError, match="entry 21 of term 2 after one of term 3"):
        journal.add(b"x", 21, 2)
    assert len(journal) == 20


def test_nothing_committed_is_cut():
    journal = journal_of(count=20)
    journal.committed = lambda: 15
    with pytest.raises(InvariantError, match="entry 15 would be cut off the log, and 15 is committed"):
        journal.deleteEntriesFrom(14)
    assert len(journal) == 20
    journal.deleteEntriesFrom(15)
    assert len(journal) == 15


def test_a_term_never_goes_back_and_has_one_vote():
    journal = journal_of(count=1)
    journal.setCurrentTerm(4, None)
    journal.setCurrentTerm(4, "n2")
    journal.setCurrentTerm(4, "n2")
    for vote in ("n3", None):
        with pytest.raises(InvariantError, match="a second vote in term 4"):
            journal.setCurrentTerm(4, vote)
    with pytest.raises(InvariantError, match="would go back from 4 to 3"):
        journal.setCurrentTerm(3, None)
    journal.setCurrentTerm(5, None)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (5, None)
