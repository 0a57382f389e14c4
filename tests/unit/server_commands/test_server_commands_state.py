"""INFO, ROLE, WAIT, RAFT.*, snapshots, SLOWLOG, LATENCY, MEMORY: what a node says of itself, as leader and as follower."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.config import Secret
from raftkv.errors import BusyError, CommandError, NodeStoppedError
from raftkv.protocol.replies import Verbatim
from raftkv.server.clients import client_flags
from raftkv.server.commands.info import SECTIONS, percentile_us
from raftkv.server.commands.persistence import begin_scheduled
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
            b"durable_index": 100, b"synced_index": 0, b"snapshot_index": 4, b"pending": 2, b"leader_changes": 0, b"members": 3,
            b"alarms": [], b"halted": b"", b"repairing": b"", b"uptime_s": 100, b"voter": 1, b"voters": 3,
            b"learners": 0, b"configuration_index": 0, b"changing": 0,
            b"client_addresses": [b"127.0.0.1:7379", b"127.0.0.1:7380", b"127.0.0.1:7381"],
        }  # fmt: skip

    def test_status_of_some_fields(self, server):
        assert server.line("RAFT.STATUS term role") == {b"term": 7, b"role": b"leader"}
        assert server.line("RAFT.STATUS digest digest_index") == {b"digest": b"ab" * 16, b"digest_index": 99}
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

    def test_a_clock_that_is_set_does_not_move_lastsave(self, server):
        """Whoever waits for BGSAVE polls it until it changes."""
        server.node.clock.now_ms += 3_600_000
        assert server.line("LASTSAVE") == 1_699_999_900

    def test_a_halted_node_begins_none(self, server):
        server.node.saves.scheduled = "save"
        server.node.replicator.change(halted="entry 7 is damaged")
        for line in ("SAVE", "BGSAVE", "BGREWRITEAOF", "COMPACT", "RAFT.SNAPSHOT"):
            with pytest.raises(NodeStoppedError, match="entry 7 is damaged"):
                server.line(line)
        begin_scheduled(server.node)
        assert fields(server.line("INFO persistence"))["rdb_bgsave_in_progress"] == "0"

    def test_bgsave_does_not_wait(self, server):
        server.node.replicator.hold_snapshots = True
        assert server.line("BGSAVE") == "Background saving started"
        assert fields(server.line("INFO persistence"))["rdb_bgsave_in_progress"] == "1"
        for line in ("BGSAVE", "BGSAVE SCHEDULE", "SAVE", "RAFT.SNAPSHOT", "COMPACT"):
            with pytest.raises(CommandError, match="Background save already in progress"):
                server.line(line)
        server.node.replicator.waiting_snapshots.pop()(99, None)
        assert fields(server.line("INFO persistence"))["rdb_bgsave_in_progress"] == "0"

    def test_a_snapshot_that_nobody_asked_for_counts_as_one_under_way(self, server):
        server.node.replicator.change(saving_s=3.7)
        with pytest.raises(CommandError, match="Background save already in progress"):
            server.line("BGSAVE")
        shown = fields(server.line("INFO persistence"))
        assert (shown["rdb_bgsave_in_progress"], shown["rdb_current_bgsave_time_sec"]) == ("1", "3")
        assert (shown["aof_rewrite_in_progress"], shown["aof_current_rewrite_time_sec"]) == ("0", "-1")

    def test_a_rewrite_waits_for_a_save_and_a_scheduled_save_for_a_rewrite(self, server):
        replicator, node = server.node.replicator, server.node
        replicator.hold_snapshots = True
        server.line("BGSAVE")
        assert server.line("BGREWRITEAOF") == "Background append only file rewriting scheduled"
        assert fields(server.line("INFO persistence"))["aof_rewrite_scheduled"] == "1"
        begin_scheduled(node)
        assert len(replicator.waiting_snapshots) == 1
        replicator.waiting_snapshots.pop()(99, None)
        begin_scheduled(node)
        shown = fields(server.line("INFO persistence"))
        assert (shown["rdb_bgsave_in_progress"], shown["aof_rewrite_in_progress"]) == ("0", "1")
        assert shown["aof_rewrite_scheduled"] == "0"
        with pytest.raises(CommandError, match="Background append only file rewriting already in progress"):
            server.line("BGREWRITEAOF")
        with pytest.raises(CommandError, match="Another child process is active"):
            server.line("BGSAVE")
        assert server.line("BGSAVE SCHEDULE") == "Background saving scheduled"
        replicator.waiting_snapshots.pop()(99, None)
        begin_scheduled(node)
        assert fields(server.line("INFO persistence"))["rdb_bgsave_in_progress"] == "1"
        replicator.waiting_snapshots.pop()(99, None)
        begin_scheduled(node)
        assert not replicator.waiting_snapshots

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


class TestPersistence:
    def test_info_says_what_is_on_disk(self, server):
        server.node.replicator.change(synced_index=95)
        shown = fields(server.line("INFO persistence"))
        assert {name: shown[name] for name in shown if name.startswith(("log_", "snapshot_"))} == {
            "log_first_index": "5", "log_last_index": "101", "log_durable_index": "100", "log_synced_index": "95",
            "log_segments": "2", "log_torn_bytes": "17", "snapshot_index": "4", "snapshot_bytes": "12345",
            "snapshot_age_seconds": "-1",
        }  # fmt: skip
        assert (shown["aof_current_size"], shown["aof_last_write_status"], shown["aof_pending_bio_fsync"]) == (
            "50000", "ok", "0",
        )  # fmt: skip
        assert (shown["loading"], shown["recovery_seconds"]) == ("0", "1.250")
        server.node.recovery.over = False
        assert fields(server.line("INFO persistence"))["loading"] == "1"

    def test_info_of_a_log_that_failed(self, server):
        replicator = server.node.replicator
        replicator.disk_state = replace(replicator.disk_state, log_failed="EIO", sync_pending=True)
        shown = fields(server.line("INFO persistence"))
        assert (shown["aof_last_write_status"], shown["aof_pending_bio_fsync"]) == ("err", "1")

    def test_sync(self, server):
        assert server.line("SYNC") == 101
        assert server.line("sync all") == {b"n1": 101, b"n2": 99, b"n3": 99}
        assert server.node.calls.asked == [("n2", "sync", 99), ("n3", "sync", 99)]
        server.node.calls.fail["n3"] = BusyError("far behind")
        assert str(server.line("SYNC ALL")[b"n3"]) == "TRYAGAIN far behind"
        server.node.replicator.sync_error = NodeStoppedError("EIO")
        with pytest.raises(NodeStoppedError, match="EIO"):
            server.line("SYNC")
        for line in ("SYNC now", "SYNC ALL ALL", "COMPACT n1"):
            with pytest.raises(CommandError, match="syntax error"):
                server.line(line)

    def test_compact(self, server):
        own = {b"index": 99, b"first_index": 98, b"freed_bytes": 4096}
        assert server.line("COMPACT") == own
        assert fields(server.line("INFO persistence"))["rdb_saves"] == "1"
        server.node.calls.fail["n3"] = BusyError("away")
        everywhere = server.line("COMPACT ALL")
        assert everywhere[b"n1"] == own
        assert everywhere[b"n2"] == {b"index": 90, b"first_index": 80, b"freed_bytes": 4096}
        assert str(everywhere[b"n3"]) == "TRYAGAIN away"

    def test_sync_of_a_redis_replica_is_refused(self, server):
        for line in ("REPLCONF listening-port 6379", "PSYNC ? -1", "SYNC"):
            with pytest.raises(CommandError, match="raftkv does not replicate to a Redis server"):
                server.line(line)
        assert client_flags(server.client) == "S"
        server.line("RESET")
        assert server.line("SYNC") == 101


class TestWaitaof:
    def test_it_counts_this_node_and_the_others(self, server):
        assert server.line("WAITAOF 1 1 0")[0] == 1
        assert server.line("WAITAOF 0 9 0") == [1, 2]
        assert not server.client.blocked

    def test_nobody_is_asked_for_nothing(self, server):
        server.node.replicator.change(synced_index=10)
        assert server.line("WAITAOF 0 0 0") == [0, 0]
        assert (server.node.calls.asked, server.node.replicator.syncs) == ([], [])

    def test_in_time_it_says_how_far_it_came(self, server):
        server.node.calls.silent = {"n2", "n3"}
        server.node.replicator.hold_syncs = True
        assert server.line("WAITAOF 1 1 20") == [0, 0]
        server.node.calls.silent = {"n3"}
        assert server.line("WAITAOF 0 2 20") == [1, 1]

    def test_a_member_that_failed_is_asked_again(self, server):
        server.node.calls.fail = {"n2": BusyError("behind"), "n3": BusyError("behind")}
        server.node.replicator.on_status = lambda: (
            server.node.calls.fail.clear() if len(server.node.calls.asked) > 3 else None
        )
        assert server.line("WAITAOF 0 2 0")[1] == 2

    def test_a_learner_does_not_count(self, server):
        peers = server.node.replicator.state.peers
        server.node.replicator.change(peers={**peers, "n3": replace(peers["n3"], voter=False)})
        assert server.line("WAITAOF 1 2 0") == [1, 1]

    def test_a_voter_that_was_repaired_meanwhile_is_asked_again(self, server):
        """What it had synced is gone with its disk."""
        replicator, calls = server.node.replicator, server.node.calls
        peers, looks = replicator.state.peers, []
        calls.fail = {"n3": BusyError("behind")}

        def look():
            if ("n2", "sync", 99) in calls.asked:
                looks.append(len(looks))
                replicator.change(peers={**peers, "n2": replace(peers["n2"], voter=len(looks) > 1)})
            if len(looks) > 1:
                calls.fail.clear()

        replicator.on_status = look
        assert server.line("WAITAOF 0 2 5000")[1] == 2
        assert calls.asked.count(("n2", "sync", 99)) == 2

    def test_a_failed_log_is_told(self, server):
        server.node.replicator.sync_error = NodeStoppedError("EIO")
        with pytest.raises(NodeStoppedError, match="EIO"):
            server.line("WAITAOF 1 0 0")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("WAITAOF 2 0 0", "value is out of range, value must between 0 and 1"),
            ("WAITAOF x 0 0", "value is out of range, value must between 0 and 1"),
            ("WAITAOF 1 -1 0", "value is out of range, must be positive"),
            ("WAITAOF 1 0 x", "timeout is not an integer or out of range"),
            ("WAITAOF 1 0 -1", "timeout is negative"),
        ],
    )
    def test_arguments(self, server, line, message):
        with pytest.raises(CommandError, match=message):
            server.line(line)


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


class TestAlarms:
    def test_list_shows_what_stands(self, server):
        assert server.line("RAFT.ALARM LIST") == []
        server.node.machine.alarms.raise_("n2", "NOSPACE", "none is free", 7)
        assert server.line("RAFT.ALARM LIST") == [
            {b"node": b"n2", b"kind": b"NOSPACE", b"reason": b"none is free", b"since_ms": 7}
        ]
        assert server.line("RAFT.STATUS")[b"alarms"] == [b"n2 NOSPACE: none is free"]

    def test_clear_is_ordered(self, server):
        orders = []
        server.node.order_alarm = lambda words, done: (orders.append(words), done(1, None))
        assert server.line("RAFT.ALARM CLEAR n2 nospace") == 1
        assert orders == [[b"CLEAR", b"n2", b"NOSPACE"]]

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            ("RAFT.ALARM CLEAR n2 CORRUPT", "ERR no kind of alarm is called 'CORRUPT'; there is: NOSPACE"),
            (f"RAFT.ALARM CLEAR {'n' * 33} NOSPACE", "ERR a member's id has at most 32 bytes"),
            ("RAFT.ALARM CLEAR n2", "ERR wrong number of arguments for 'raft.alarm|clear' command"),
        ],
    )
    def test_clear_refuses_what_there_is_not(self, server, line, error):
        with pytest.raises(CommandError) as raised:
            server.line(line)
        assert str(raised.value) == error
