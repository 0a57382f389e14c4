"""Counters, histograms and what Prometheus sees of them."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from raftkv.commands.registry import Command
from raftkv.machine.alarms import Alarms
from raftkv.replicator import PeerStatus, ReplicationStatus
from raftkv.server.archiver import ArchiveState
from raftkv.server.clients import ClientRegistry
from raftkv.server.metrics import (
    ERROR_CODES_MAX,
    LATENCY_BOUNDS_S,
    METRICS,
    OVERFLOW_MICROS,
    RATE_SAMPLES_MAX,
    Histogram,
    Metrics,
    make_registry,
    metrics_table,
)
from raftkv.server.state import DiskState
from raftkv.store.keyspace import Keyspace

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def declare(name: str, parent: str = "") -> Command:
    return Command(
        name=name, function=lambda *_: None, arity=1, flags=frozenset(), keys=(0, 0, 0), group="generic",
        since="1.0.0", summary="", parent=parent,
    )  # fmt: skip


GET, SET, CONFIG_SET = declare("GET"), declare("SET"), declare("SET", "CONFIG")


class FakeReplicator:
    def __init__(self) -> None:
        peer = PeerStatus("n2", "127.0.0.1:2", "127.0.0.1:12", "", connected=True, match_index=8, last_contact_s=0.25)
        self.picture = ReplicationStatus(
            node_id="n1", cluster_id="c-1", role="leader", leader_id="n1", term=3, commit_index=9, applied_index=8,
            last_index=10, first_index=2, durable_index=10, snapshot_index=1, pending=4, halted="", leader_changes=2,
            peers={"n2": peer},
        )  # fmt: skip

    def status(self) -> ReplicationStatus:
        return self.picture


@pytest.fixture
def node():
    keyspace = Keyspace()
    keyspace[0].set(b"a", b"1")
    keyspace[0].set_expiry(b"a", 5)
    keyspace[3].set(b"b", b"1")
    return SimpleNamespace(
        metrics=Metrics(), replicator=FakeReplicator(), machine=SimpleNamespace(keyspace=keyspace, alarms=Alarms()), disk=DiskState(),
        clients=ClientRegistry(), archiver=None, clock=SimpleNamespace(monotonic=lambda: 12.5), started=2.0,
        recovery=SimpleNamespace(seconds={"log": 0.5, "snapshot": 1.5}),
    )  # fmt: skip


def scrape(node) -> dict[tuple[str, ...], float]:
    """(sample name, label values by label name...) to value."""
    text = generate_latest(make_registry(node)).decode()
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# -------------------------------------------------------------------- histograms


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_at_every_bound_above_it(values):
    histogram = Histogram(LATENCY_BOUNDS_S)
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))
    for bound, seen in histogram.cumulative():
        assert seen == sum(value <= bound for value in values)


@given(st.integers(1, 1000), st.floats(0, 10))
def test_observing_many_is_observing_each(count, value):
    at_once, one_by_one = Histogram(LATENCY_BOUNDS_S), Histogram(LATENCY_BOUNDS_S)
    at_once.observe_many(count, value)
    for _ in range(count):
        one_by_one.observe(value)
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)


def test_bounds_ascend():
    assert list(LATENCY_BOUNDS_S) == sorted(set(LATENCY_BOUNDS_S))
    assert (LATENCY_BOUNDS_S[0], LATENCY_BOUNDS_S[-1]) == (50e-6, 5.0)


def test_an_fsync_on_another_thread_waits_for_a_scrape_that_copies():
    metrics = Metrics()
    metrics.observe_fsync(0.25)
    thread = Thread(target=metrics.observe_fsync, args=(0.5,))
    with metrics._fsync_lock:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join()
    assert (metrics.fsync_copy().count, metrics.fsync_copy().total) == (2, 0.75)


# -------------------------------------------------------------------- commands


def test_a_command_has_one_stat_named_as_in_info():
    metrics = Metrics()
    assert metrics.stat(GET) is metrics.stat(GET)
    assert metrics.stat(SET) is not metrics.stat(CONFIG_SET)
    assert (metrics.stat(SET).name, metrics.stat(CONFIG_SET).name) == ("set", "config|set")


def test_statistics_are_what_info_shows():
    metrics = Metrics()
    get = metrics.stat(GET)
    get.observe_many(3, 0.00015)
    get.observe_many(1, 9.0)
    get.errors += 1
    metrics.stat(SET).rejected += 2
    metrics.stat(CONFIG_SET)
    metrics.error("WRONGTYPE", 2)
    shown = metrics.statistics(expired_keys=5, keyspace_hits=6, keyspace_misses=7)
    assert list(shown.commands) == ["get", "set"]
    assert (shown.commands["get"].calls, shown.commands["get"].micros, shown.commands["get"].failed) == (
        4,
        9_000_450,
        1,
    )
    assert shown.commands["get"].histogram == ((200, 3), (OVERFLOW_MICROS, 4))
    assert (shown.commands["set"].calls, shown.commands["set"].rejected, shown.commands["set"].histogram) == (0, 2, ())
    assert shown.errors == {"WRONGTYPE": 2}
    assert (shown.commands_processed, shown.expired_keys, shown.keyspace_hits, shown.keyspace_misses) == (4, 5, 6, 7)


def test_rates_cover_the_last_samples_only():
    metrics = Metrics()
    assert metrics.statistics().ops_per_s == 0.0
    metrics.sample(0.0)
    assert metrics.statistics().ops_per_s == 0.0
    for second in range(1, 40):
        metrics.stat(GET).observe_many(10 if second > 20 else 1000, 0.001)
        metrics.bytes_in += 2048
        metrics.bytes_out += 1024
        metrics.sample(float(second))
    shown = metrics.statistics()
    assert 40 - RATE_SAMPLES_MAX > 20
    assert (shown.ops_per_s, shown.input_kbps, shown.output_kbps) == (10.0, 2.0, 1.0)


def test_error_codes_are_bounded():
    metrics = Metrics()
    for number in range(ERROR_CODES_MAX + 10):
        metrics.error(f"CODE{number}")
    metrics.error("CODE0")
    assert len(metrics.errors) == ERROR_CODES_MAX + 1
    assert metrics.errors["OTHER"] == 10
    assert metrics.errors["CODE0"] == 2


def test_reset_forgets_all_and_keeps_the_objects(node):
    metrics = node.metrics
    kept = metrics.stat(GET)
    kept.observe_many(1, 0.1)
    kept.errors = kept.rejected = 1
    for name in (
        "bytes_in", "bytes_out", "commands_forwarded", "commands_moved", "protocol_errors", "auth_failures",
        "slow_readers_closed", "idle_clients_closed", "snapshots_failed",
    ):  # fmt: skip
        setattr(metrics, name, 1)
    metrics.error("ERR")
    metrics.observe_batch(5, 100)
    metrics.observe_fsync(0.1)
    metrics.observe_snapshot(1.0, 10)
    metrics.apply_seconds.observe(0.1)
    metrics.sample(1.0)
    metrics.bytes_in += 5
    metrics.sample(2.0)
    metrics.reset()
    assert metrics.statistics() == Metrics().statistics()
    assert metrics.stat(GET) is kept
    after = scrape(node)
    node.metrics = Metrics()
    node.metrics.snapshot_bytes_last = 10  # a fact about a file, not a counter
    fresh = scrape(node)
    assert {key: value for key, value in after.items() if key[0].startswith("raftkv_")} == {
        key: value for key, value in fresh.items() if key[0].startswith("raftkv_")
    }


# -------------------------------------------------------------------- Prometheus


def test_a_scrape_shows_commands_connections_and_keys(node):
    get = node.metrics.stat(GET)
    get.observe_many(4, 0.003)
    get.errors += 1
    get.rejected += 2
    node.metrics.error("WRONGTYPE")
    node.metrics.bytes_in += 77
    node.metrics.slow_readers_closed += 1
    node.clients.reject()
    seen = scrape(node)
    assert seen["raftkv_commands_total", "get", "ok"] == 3
    assert seen["raftkv_commands_total", "get", "error"] == 1
    assert seen["raftkv_commands_total", "get", "rejected"] == 2
    assert seen["raftkv_command_duration_seconds_bucket", "get", "0.002"] == 0
    assert seen["raftkv_command_duration_seconds_bucket", "get", "0.005"] == 4
    assert seen["raftkv_command_duration_seconds_bucket", "get", "+Inf"] == 4
    assert seen["raftkv_command_duration_seconds_sum", "get"] == pytest.approx(0.012)
    assert seen["raftkv_errors_total", "WRONGTYPE"] == 1
    assert seen["raftkv_network_received_bytes_total",] == 77
    assert seen["raftkv_slow_readers_closed_total",] == 1
    assert seen["raftkv_connections_rejected_total",] == 1
    assert (seen["raftkv_keys", "db0"], seen["raftkv_keys", "db3"]) == (1, 1)
    assert (seen["raftkv_keys_expiring", "db0"], seen["raftkv_keys_expiring", "db3"]) == (1, 0)
    assert ("raftkv_keys", "db1") not in seen
    assert seen["raftkv_uptime_seconds",] == 10.5


def test_a_scrape_shows_replication(node):
    node.metrics.raft_events = {"pre_votes": 3, "sticky": 1}
    node.metrics.observe_batch(commands=16, size_bytes=900)
    node.metrics.observe_fsync(0.0001)
    node.metrics.observe_snapshot(0.2, 4096)
    node.metrics.apply_seconds.observe(0.00001)
    seen = scrape(node)
    expected = {
        "term": 3, "commit_index": 9, "applied_index": 8, "last_index": 10, "first_index": 2, "durable_index": 10,
        "snapshot_index": 1, "pending": 4, "halted": 0, "leader_known": 1, "leader_changes_total": 2,
        "elections_total": 3,
    }  # fmt: skip
    assert {name: seen[f"raftkv_raft_{name}",] for name in expected} == expected
    assert [seen["raftkv_raft_role", role] for role in ("leader", "follower", "candidate")] == [1, 0, 0]
    assert seen["raftkv_raft_events_total", "sticky"] == 1
    assert seen["raftkv_raft_peer_connected", "n2"] == 1
    assert seen["raftkv_raft_peer_match_index", "n2"] == 8
    assert seen["raftkv_raft_peer_last_contact_seconds", "n2"] == 0.25
    assert seen["raftkv_batch_commands_bucket", "8.0"] == 0
    assert seen["raftkv_batch_commands_bucket", "16.0"] == 1
    assert seen["raftkv_batch_size_bytes_sum",] == 900
    assert seen["raftkv_fsync_duration_seconds_bucket", "0.0001"] == 1
    assert seen["raftkv_snapshot_duration_seconds_count",] == 1
    assert seen["raftkv_snapshot_size_bytes",] == 4096
    assert seen["raftkv_apply_duration_seconds_count",] == 1


def test_two_nodes_in_one_process_have_a_registry_each(node):
    assert make_registry(node) is not make_registry(node)


def test_names_follow_the_conventions_of_prometheus():
    names = [one.name for one in METRICS]
    assert len(set(names)) == len(names)
    for one in METRICS:
        assert re.fullmatch(r"raftkv_[a-z_]+", one.name)
        assert (one.kind == "counter") == one.name.endswith("_total")
        assert one.meaning.endswith(".")


# -------------------------------------------------------------------- the document


def test_the_document_lists_what_a_scrape_shows_and_nothing_else(node):
    families = text_string_to_metric_families(generate_latest(make_registry(node)).decode())
    exposed = {
        (family.name + "_total" if family.type == "counter" else family.name, family.type)
        for family in families
        if family.name.startswith("raftkv_")
    }
    rows = re.findall(r"^\| `(raftkv_\w+)` \| (\w+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert set(rows) == exposed
    assert len(rows) == len(exposed)


def test_the_document_has_the_table_of_the_code():
    text = DOCUMENT.read_text("utf-8")
    begin, end = "<!-- metrics: begin -->\n", "<!-- metrics: end -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)]
    assert shown.strip() == metrics_table().strip(), "write what metrics_table() gives into docs/metrics.md"


def test_a_scrape_shows_the_archive(node):
    assert "\nraftkv_archive_index " not in generate_latest(make_registry(node)).decode(), (
        "nothing is archived: no sample"
    )
    state = ArchiveState(
        run=2, index=2, base_index=1, behind_since=10.0, error="full", failures=3, gaps=1, written_bytes=9
    )
    node.archiver = SimpleNamespace(state=state)
    shown = generate_latest(make_registry(node)).decode()
    applied = node.replicator.status().applied_index
    for row in (
        "raftkv_archive_working 0.0", "raftkv_archive_index 2.0", "raftkv_archive_base_index 1.0",
        f"raftkv_archive_lag_entries {float(applied - 2)}", "raftkv_archive_lag_seconds 2.5",
        "raftkv_archive_failures_total 3.0", "raftkv_archive_gaps_total 1.0", "raftkv_archive_written_bytes_total 9.0",
    ):  # fmt: skip
        assert f"\n{row}\n" in shown
