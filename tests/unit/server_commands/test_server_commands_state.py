"""INFO, ROLE, WAIT, RAFT.*, snapshots, SLOWLOG, LATENCY, MEMORY: what a node says of itself, as leader and as follower."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.config import Secret
from raftkv.errors import BusyError, CommandError
from raftkv.protocol.replies import Verbatim
from raftkv.server.commands.info import SECTIONS, percentile_us
from raftkv.server.commands.replication import followers_holding
from raftkv.server.process import read_process_usage
from raftkv.server.state import CommandStatistics, Statistics

GET_STATISTICS = CommandStatistics(calls=10, micros=905, rejected=1, failed=2, histogram=((50, 5), (100, 9), (200, 10)))


def fields(reply: Verbatim) -> dict[str, str]:
    rows = reply.text.decode().split("\r\n")
    return dict(row.split(":", 1) for row in rows if row and not row.startswith("#"))


def titles(reply: Verbatim) -> list[str]:
    return [row.removeprefix("# ") for row in reply.text.decode().split("\r\n") if row.startswith("# ")]


class TestInfo:
    def test_default_is_everything_but_statistics_by_command(self, server):
        expected = [title for title in SECTIONS if title not in {"Commandstats", "Latencystats"}]
        assert titles(server.line("INFO")) == titles(server.line("INFO default")) == expected

    @pytest.mark.parametrize("word", ["all", "EVERYTHING"])
    def test_all(self, server, word):
        assert titles(server.line(f"INFO {word}")) == list(SECTIONS)

    def test_sections_come_in_one_order_and_once(self, server):
        assert titles(server.line("INFO raft CLIENTS raft nope")) == ["Clients", "Raft"]
        assert server.line("INFO nope").text == b""

    def test_layout(self, server):
        assert server.line("INFO cluster modules").text == b"# Modules\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n"

    def test_server(self, server):
        shown = fields(server.line("INFO server"))
        assert (shown["redis_version"], shown["raftkv_version"], shown["redis_mode"]) == ("7.0.0", "0.1.0", "cluster")
        assert (shown["uptime_in_seconds"], shown["tcp_port"], shown["run_id"]) == ("100", "7379", "f" * 40)

    def test_memory(self, server):
        shown = fields(server.line("INFO memory"))
        assert (shown["used_memory"], shown["used_memory_human"]) == ("50000000", "47.68M")
        assert (shown["used_memory_peak_perc"], shown["total_system_memory_human"]) == ("50.00%", "7.45G")

    def test_clients_and_stats(self, server):
        server.connect(buffers=lambda: (5, 9))
        server.node.clients.reject()
        server.node.stats = Statistics(
            commands_processed=12, ops_per_s=3.6, input_kbps=0.5, errors={"ERR": 2, "MOVED": 1}
        )
        shown = fields(server.line("INFO clients stats errorstats"))
        assert (shown["connected_clients"], shown["client_recent_max_output_buffer"]) == ("2", "9")
        assert (shown["total_connections_received"], shown["rejected_connections"]) == ("3", "1")
        assert (shown["total_commands_processed"], shown["instantaneous_ops_per_sec"]) == ("12", "4")
        assert (shown["total_error_replies"], shown["errorstat_ERR"]) == ("3", "count=2")

    def test_commands(self, server):
        server.node.stats = Statistics(commands={"get": GET_STATISTICS})
        shown = fields(server.line("INFO commandstats latencystats"))
        assert shown == {
            "cmdstat_get": "calls=10,usec=905,usec_per_call=90.50,rejected_calls=1,failed_calls=2",
            "latency_percentiles_usec_get": "p50=50.000,p99=200.000,p99.9=200.000",
        }

    def test_replication_of_the_leader(self, server):
        server.node.replicator.disconnect("n3")
        shown = fields(server.line("INFO replication"))
        assert (shown["role"], shown["connected_slaves"], shown["master_repl_offset"]) == ("master", "1", "100")
        assert shown["slave0"] == "ip=127.0.0.1,port=7380,state=online,offset=100,lag=0"

    def test_replication_of_a_follower(self, server):
        server.node.replicator.follow("n2")
        shown = fields(server.line("INFO replication"))
        assert (shown["role"], shown["master_host"], shown["master_port"]) == ("slave", "127.0.0.1", "7380")
        assert (shown["master_link_status"], shown["slave_repl_offset"]) == ("up", "99")
        server.node.replicator.follow("")
        shown = fields(server.line("INFO replication"))
        assert (shown["role"], shown["master_link_status"], shown["master_port"]) == ("slave", "down", "0")

    def test_keyspace(self, server):
        databases = server.node.machine.keyspace.databases
        databases[0].set(b"a", b"x")
        databases[3].set(b"a", b"x")
        databases[3].set_expiry(b"a", server.node.clock.now_ms + 5_000)
        assert fields(server.line("INFO keyspace")) == {
            "db0": "keys=1,expires=0,avg_ttl=0", "db3": "keys=1,expires=1,avg_ttl=5000",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("fsync", "loss"), [("always", "nothing"), ("everysec", "the last second"), ("no", "acknowl")]
    )
    def test_persistence_says_what_can_be_lost(self, server, fsync, loss):
        server.set(fsync=fsync)
        shown = fields(server.line("INFO persistence"))
        assert (shown["fsync_policy"], shown["rdb_changes_since_last_save"]) == (fsync, "95")
        assert shown["fsync_can_lose"].startswith(loss)

    def test_raft(self, server):
        server.node.replicator.change(halted="disk\r\nfull")
        shown = fields(server.line("INFO raft"))
        assert (shown["raft_role"], shown["raft_leader"], shown["raft_term"]) == ("leader", "127.0.0.1:7379", "7")
        assert shown["raft_halted"] == "disk  full"

    def test_no_secret(self, server):
        server.set(requirepass=Secret("s3cret"), peer_secret=Secret("p33r"))
        shown = server.line("INFO everything").text
        assert b"s3cret" not in shown
        assert b"p33r" not in shown

    def test_percentiles_of_nothing(self):
        assert percentile_us(CommandStatistics(calls=0, micros=0), 99) == 0


class TestRole:
    def test_leader(self, server):
        assert server.line("ROLE") == [
            b"master", 100, [[b"127.0.0.1", b"7380", b"100"], [b"127.0.0.1", b"7381", b"90"]],
        ]  # fmt: skip

    def test_follower(self, server):
        server.node.replicator.follow("n3")
        assert server.line("ROLE") == [b"slave", b"127.0.0.1", 7381, b"connected", 99]
        server.node.replicator.follow("")
        assert server.line("ROLE") == [b"slave", b"", 0, b"connect", 99]


class TestWait:
    @pytest.mark.parametrize(("line", "answer"), [("WAIT 0 0", 0), ("WAIT 1 0", 1), ("WAIT -1 0", 0)])
    def test_a_majority_holds_what_was_acknowledged(self, server, line, answer):
        assert server.line(line) == answer
        server.node.replicator.follow("n2")
        assert server.line(line) == answer

    def test_gives_up_at_the_timeout(self, server):
        server.node.replicator.on_status = lambda: setattr(server.node.clock, "now", server.node.clock.now + 0.1)
        assert server.line("WAIT 2 300") == 1

    def test_waits_for_a_follower_that_is_behind(self, server):
        replicator = server.node.replicator
        asked = []

        def catch_up() -> None:
            asked.append(1)
            if len(asked) == 3:
                peer = replicator.state.peers["n3"]
                replicator.change(peers={**replicator.state.peers, "n3": replace(peer, match_index=100)})

        replicator.on_status = catch_up
        assert server.line("WAIT 2 60000") == 2
        assert len(asked) == 3

    def test_more_than_there_are_does_not_wait_for_ever(self, server):
        peers = {name: replace(peer, match_index=100) for name, peer in server.node.replicator.state.peers.items()}
        server.node.replicator.change(peers=peers)
        assert server.line("WAIT 9 0") == 2

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            ("WAIT x 1", "ERR value is not an integer or out of range"),
            ("WAIT 1 -1", "ERR timeout is negative"),
            ("WAIT 1 x", "ERR timeout is not an integer or out of range"),
        ],
    )
    def test_errors(self, server, line, error):
        with pytest.raises(CommandError) as raised:
            server.line(line)
        assert str(raised.value) == error

    def test_a_single_node_has_no_followers(self, server):
        alone = replace(server.node.replicator.state, peers={})
        assert followers_holding(alone, 100) == 0


class TestRaft:
    def test_status(self, server):
        assert server.line("RAFT.STATUS") == {
            b"node": b"n1", b"cluster": b"c1", b"role": b"leader", b"leader": b"127.0.0.1:7379", b"leader_id": b"n1",
            b"term": 7, b"commit_index": 100, b"applied_index": 99, b"last_index": 101, b"first_index": 5,
            b"durable_index": 100, b"snapshot_index": 4, b"pending": 2, b"leader_changes": 0, b"members": 3,
            b"digest": b"ab" * 16, b"digest_index": 99, b"halted": b"", b"uptime_s": 100, b"voter": 1, b"voters": 3,
            b"learners": 0, b"configuration_index": 0, b"changing": 0,
            b"client_addresses": [b"127.0.0.1:7379", b"127.0.0.1:7380", b"127.0.0.1:7381"],
        }  # fmt: skip

    def test_status_of_some_fields(self, server):
        assert server.line("RAFT.STATUS term role") == {b"term": 7, b"role": b"leader"}
        assert server.line("RAFT.STATUS digest_index") == {b"digest_index": 99}
        with pytest.raises(CommandError, match="unknown field 'colour'"):
            server.line("RAFT.STATUS colour")

    def test_status_without_a_leader(self, server):
        server.node.replicator.follow("")
        status = server.line("RAFT.STATUS")
        assert (status[b"role"], status[b"leader"], status[b"leader_id"]) == (b"candidate", b"", b"")

    def test_snapshot_answers_its_index(self, server):
        assert server.line("RAFT.SNAPSHOT") == 99


class TestSnapshots:
    def test_lastsave_is_the_start_until_there_is_one(self, server):
        assert server.line("LASTSAVE") == 1_699_999_900
        assert server.line("SAVE") == "OK"
        assert server.line("LASTSAVE") == 1_700_000_000
        assert fields(server.line("INFO persistence"))["rdb_saves"] == "1"

    def test_bgsave_does_not_wait(self, server):
        server.node.replicator.hold_snapshots = True
        assert server.line("BGSAVE") == "Background saving started"
        assert fields(server.line("INFO persistence"))["rdb_bgsave_in_progress"] == "1"
        for line in ("BGSAVE", "SAVE", "BGREWRITEAOF", "RAFT.SNAPSHOT"):
            with pytest.raises(CommandError, match="Background save already in progress"):
                server.line(line)
        server.node.replicator.waiting_snapshots.pop()(99, None)
        assert fields(server.line("INFO persistence"))["rdb_bgsave_in_progress"] == "0"
        assert server.line("BGREWRITEAOF") == "Background append only file rewriting started"

    def test_a_failure_is_told_and_shown(self, server):
        server.node.replicator.snapshot_error = BusyError("disk full")
        with pytest.raises(BusyError, match="disk full"):
            server.line("SAVE")
        shown = fields(server.line("INFO persistence"))
        assert (shown["rdb_last_bgsave_status"], shown["rdb_bgsave_in_progress"]) == ("err", "0")
        assert server.line("LASTSAVE") == 1_699_999_900

    def test_bgsave_syntax(self, server):
        assert server.line("BGSAVE schedule") == "Background saving started"
        with pytest.raises(CommandError, match="syntax error"):
            server.line("BGSAVE foo")


class TestSlowlog:
    def test_get_len_reset(self, server):
        for micros in range(12):
            server.node.slowlog.note([b"GET", b"k"], micros, "1.2.3.4:5", "me", 1_700_000_000)
        newest = server.line("SLOWLOG GET")
        assert len(newest) == 10
        assert newest[0] == [11, 1_700_000_000, 11, [b"GET", b"k"], b"1.2.3.4:5", b"me"]
        assert [len(server.line(f"SLOWLOG GET {count}")) for count in (-1, 0, 3)] == [12, 0, 3]
        assert server.line("SLOWLOG LEN") == 12
        assert server.line("SLOWLOG RESET") == "OK"
        assert server.line("SLOWLOG LEN") == 0

    @pytest.mark.parametrize("count", ["x", "-2"])
    def test_count(self, server, count):
        with pytest.raises(CommandError, match="count should be greater than or equal to -1"):
            server.line(f"SLOWLOG GET {count}")


def test_latency(server):
    server.node.stats = Statistics(
        commands={"get": GET_STATISTICS, "config|get": CommandStatistics(calls=1, micros=3, histogram=((50, 1),)),
                  "set": CommandStatistics(calls=0, micros=0, rejected=1)}
    )  # fmt: skip
    assert server.line("LATENCY HISTOGRAM") == {
        b"config|get": {b"calls": 1, b"histogram_usec": {50: 1}},
        b"get": {b"calls": 10, b"histogram_usec": {50: 5, 100: 9, 200: 10}},
    }
    assert list(server.line("LATENCY HISTOGRAM config nope")) == [b"config|get"]
    assert (server.line("LATENCY LATEST"), server.line("LATENCY HISTORY x"), server.line("LATENCY RESET")) == (
        [],
        [],
        0,
    )
    server.node.slowlog.note([b"GET"], 123, "", "", 0)
    assert b"1 kept, the slowest took 123 microseconds" in server.line("LATENCY DOCTOR").text


def test_memory(server):
    server.node.machine.keyspace.databases[0].set(b"a", b"x")
    server.connect(buffers=lambda: (5, 9))
    assert server.line("MEMORY STATS") == {
        b"peak.allocated": 100_000_000, b"total.allocated": 50_000_000, b"clients.normal": 14, b"keys.count": 1,
        b"peak.percentage": 50.0,
    }  # fmt: skip
    assert server.line("MEMORY DOCTOR").text.startswith(b"1 keys; the process takes 50000000 bytes")
    assert server.line("MODULE LIST") == []


def test_process_usage_is_read_from_proc(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("Name:\tpython\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n", encoding="ascii")
    (tmp_path / "meminfo").write_text("MemTotal:       4096 kB\n", encoding="ascii")
    usage = read_process_usage(tmp_path)
    assert (usage.rss_bytes, usage.rss_peak_bytes, usage.system_memory_bytes) == (1 << 20, 2 << 20, 4 << 20)
    assert usage.pid > 0
    nowhere = read_process_usage(tmp_path / "nope")
    assert (nowhere.rss_bytes, nowhere.system_memory_bytes) == (0, 0)
