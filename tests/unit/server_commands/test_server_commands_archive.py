"""INFO persistence of a node that archives."""

from __future__ import annotations

from types import SimpleNamespace

from raftkv.server.archiver import ArchiveState


def fields(server):
    rows = server.line("INFO persistence").text.decode().split("\r\n")
    return dict(row.split(":", 1) for row in rows if row.startswith("archive_"))


def test_without_an_archive_it_says_so(server):
    assert fields(server) == {"archive_enabled": "0"}


def test_how_far_the_archive_is_and_what_is_wrong_with_it(server):
    now = server.node.clock.monotonic()
    state = ArchiveState(
        run=2, index=90, base_index=50, behind_since=now - 3, error="disk full\r\nreally", failures=3, gaps=1
    )
    server.node.archiver = SimpleNamespace(state=state)
    assert fields(server) == {
        "archive_enabled": "1", "archive_status": "err", "archive_error": "disk full  really", "archive_index": "90",
        "archive_lag_entries": "9", "archive_lag_seconds": "3.0", "archive_run": "2", "archive_base_index": "50",
        "archive_failures": "3", "archive_gaps": "1",
    }  # fmt: skip
