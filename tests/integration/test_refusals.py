"""What a node refuses at its start, and what it does when its disk fails: it says why, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from random import Random

import pytest

from raftkv.cli.topology import server_command
from raftkv.server.disk_failure import EXIT_DISK
from tests.integration.conftest import TOLERANT, Cluster, wait_until
from tests.integration.wire import OK, Wire

REFUSED = 2
EXIT_WITHIN_S = 20.0
VALUE = Random(7).randbytes(1 << 16)
"""Nothing that could be compressed in the log."""


def _start(words: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **TOLERANT, **(env or {})}
    )  # fmt: skip


def _refusal(process: subprocess.Popen[bytes], code: int = REFUSED) -> str:
    """What a process that refuses to start says, without a traceback."""
    try:
        output, _ = process.communicate(timeout=EXIT_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"it started: {output.decode()}")
    text = output.decode()
    assert process.returncode == code, (process.returncode, text)
    assert "Traceback" not in text, text
    return text


def _http(port: int, path: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class TestSettings:
    def test_unknown_and_unsafe_settings_are_named_with_their_source(self, tmp_path):
        unknown, wrong, broken, secret = (
            tmp_path / name for name in ("unknown.toml", "wrong.toml", "broken.toml", "secret")
        )
        unknown.write_text('node_id = "n1"\nfsnyc = "always"\n')
        wrong.write_text('fsync = "sometimes"\n')
        broken.write_text("fsync = \n")
        secret.write_text("")
        base = [sys.executable, "-m", "raftkv", "server", "--data", str(tmp_path / "data")]
        cases = [
            ([*base, "--config", str(unknown)], {}, ("fsnyc", "unknown.toml:2", "did you mean fsync")),
            ([*base, "--config", str(wrong)], {}, ("fsync", "sometimes", "wrong.toml:1", "always", "everysec")),
            ([*base, "--config", str(broken)], {}, ("broken.toml", "TOML")),
            ([*base, "--config", str(tmp_path / "missing.toml")], {}, ("missing.toml",)),
            (base, {"RAFTKV_FSNYC": "always"}, ("RAFTKV_FSNYC", "RAFTKV_FSYNC", "environment")),
            (base, {"RAFTKV_MAXCLIENTS": "many"}, ("maxclients", "many", "RAFTKV_MAXCLIENTS", "1")),
            ([*base, "--maxclients", "0"], {}, ("maxclients", "0", "--maxclients")),
            ([*base, "--fsnyc", "always"], {}, ("--fsnyc",)),
            ([*base, "--id", "Node 1"], {}, ("node_id", "a-z")),
            ([*base, "--id", "n9", "--peers", "n1=127.0.0.1:1"], {}, ("n9", "peers")),
            ([*base, "--listen", "0.0.0.0:7379", "--advertise", "127.0.0.1:7379"], {}, ("listen", "requirepass", "peer_secret", "insecure")),
            ([*base, "--listen", "0.0.0.0:7379", "--advertise", "127.0.0.1:7379"], {"RAFTKV_REQUIREPASS": "hush"}, ("peer_secret", "insecure")),
            ([*base, "--http-listen", "0.0.0.0:8379"], {}, ("http_listen", "insecure")),
            ([*base, "--requirepass-file", str(secret)], {}, ("requirepass_file", "empty")),
            ([*base, "--heartbeat-ms", "300"], {}, ("heartbeat_ms", "election_timeout_ms")),
        ]  # fmt: skip
        started = [(_start(words, env), expected) for words, env, expected in cases]
        for process, expected in started:
            text = _refusal(process)
            for part in expected:
                assert part in text, (part, text)
            assert "hush" not in text
        assert not (tmp_path / "data").exists(), "a refused node made its directory"

    def test_insecure_is_allowed_and_warned_of(self, tmp_path, make_cluster):
        cluster = make_cluster(nodes=1, insecure="true", advertise="127.0.0.1:7379")
        assert "insecure" in cluster.log(0)


class TestAddresses:
    @pytest.mark.parametrize("flag", ["--listen", "--peer-listen", "--http-listen"])
    def test_a_port_in_use_is_named(self, shared_cluster, tmp_path, flag):
        member = shared_cluster.members[0]
        taken = f"127.0.0.1:{member.client_port}"
        free = Cluster(tmp_path, 1)
        free.members[0].directory.mkdir()
        words = server_command(free.members[0], free.members)
        words[words.index(flag) + 1] = taken
        if flag == "--peer-listen":
            words[words.index("--peers") + 1] = f"n1={taken}"
        text = _refusal(_start(words))
        assert taken in text
        assert "in use" in text
        assert shared_cluster.status(0) is not None, "the one who had the port still serves"


class TestDataDirectory:
    def test_of_another_node_cluster_version_or_in_use(self, make_cluster):
        cluster = make_cluster(nodes=1)
        member = cluster.members[0]
        with Wire(member.client_port) as wire:
            assert wire.do("SET", "k", "kept") == OK
        other = Cluster(member.directory.parent / "other", 1)
        words = server_command(member, cluster.members)
        words[words.index("--listen") + 1] = f"127.0.0.1:{other.ports[0]}"
        words[words.index("--http-listen") + 1] = f"127.0.0.1:{other.http_ports[0]}"
        text = _refusal(_start(words))
        assert "in use by process" in text
        assert str(cluster.pids[0]) in text
        assert cluster.stop(0) == 0

        words = server_command(member, cluster.members)
        words[words.index("--id") + 1] = "n2"
        words[words.index("--peers") + 1] = words[words.index("--peers") + 1].replace("n1=", "n2=")
        text = _refusal(_start(words))
        assert "belongs to node 'n1', this is node 'n2'" in text

        text = _refusal(_start(server_command(member, cluster.members), {"RAFTKV_CLUSTER_ID": "another"}))
        assert "belongs to cluster" in text
        assert "'another'" in text

        data = Path(words[words.index("--data") + 1])
        identity = data / "identity"
        original = identity.read_bytes()
        identity.write_bytes(_of_version(original, 99))
        text = _refusal(_start(server_command(member, cluster.members)))
        assert "format 99" in text
        identity.write_bytes(original[:20])
        assert "damaged" in _refusal(_start(server_command(member, cluster.members)))
        identity.unlink()
        assert "no identity file" in _refusal(_start(server_command(member, cluster.members)))

        identity.write_bytes(original)
        cluster.start(0)
        cluster.wait_ready()
        with Wire(member.client_port) as wire:
            assert wire.do("GET", "k") == ("bulk", b"kept"), "refusals changed the data"

    def test_whose_log_begins_behind_a_snapshot_is_not_refused(self, make_cluster):
        cluster = make_cluster(nodes=1, segment_bytes=1 << 20, log_retain_bytes=0)
        with Wire(cluster.ports[0]) as wire:
            for _ in range(2):
                for number in range(30):
                    assert wire.do("SET", f"k{number}", VALUE) == OK
                assert wire.do("RAFT.SNAPSHOT")[0] == "integer"
            assert wire.do("SET", "last", 1) == OK
        assert int(cluster.status(0)["first_index"]) > 1, "the log was not cut"
        cluster.kill(0)
        cluster.start(0)
        cluster.wait_ready()
        with Wire(cluster.ports[0]) as wire:
            assert wire.do("DBSIZE") == ("integer", 31)
            assert wire.do("GET", "k29") == ("bulk", VALUE)

    def test_that_cannot_be_written(self, tmp_path):
        cluster = Cluster(tmp_path / "nodes", 1)
        words = server_command(cluster.members[0], cluster.members)
        data = words.index("--data") + 1
        a_file = tmp_path / "file"
        a_file.write_text("")
        for place, reason in ((a_file, "a file is in the way"), (tmp_path / "missing" / "below", "does not exist")):
            words[data] = str(place)
            text = _refusal(_start(words))
            assert str(place) in text
            assert reason in text, text

    def test_on_a_read_only_file_system(self, tmp_path):
        with _mounted(tmp_path / "disk", "size=64m") as disk:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            cluster = Cluster(tmp_path / "nodes", 1)
            words = server_command(cluster.members[0], cluster.members)
            words[words.index("--data") + 1] = str(disk / "data")
            text = _refusal(_start(words), EXIT_DISK)
            assert "read-only" in text


def _of_version(identity: bytes, version: int) -> bytes:
    from persistence.directory import _checksum

    fields = json.loads(identity)
    del fields["crc32c"]
    fields["format"] = version
    return json.dumps({**fields, "crc32c": _checksum(fields)}).encode() + b"\n"


@contextlib.contextmanager
def _mounted(directory: Path, options: str):
    directory.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a file system: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False)


class TestPeers:
    @pytest.mark.parametrize(
        ("setting", "reason"),
        [("RAFTKV_CLUSTER_ID", "cluster id 'another'"), ("RAFTKV_PEER_SECRET", "the peer secret differs")],
    )
    def test_of_another_cluster_or_with_another_secret_stays_outside(self, make_cluster, setting, reason):
        cluster = make_cluster(wait=False)
        stranger = 2
        cluster.kill(stranger)
        cluster.members[stranger].directory.joinpath("log").unlink()
        for path in sorted(Path(_data(cluster, stranger)).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        own = cluster.env
        cluster.env = own | {setting: "another"}
        cluster.start(stranger)
        cluster.env = own
        wait_until(lambda: any(reason in cluster.log(place) for place in (0, 1)), "the others say why")
        leader = cluster.leader()
        assert leader != stranger
        with Wire(cluster.ports[leader]) as wire:
            assert wire.do("SET", "k", 1) == OK
        status = cluster.status(stranger)
        assert status is not None
        assert (status["role"], status["applied_index"]) != ("leader", "1")
        assert status["leader_id"] == ""
        assert _http(cluster.http_ports[stranger], "/ready")[0] == 503

    def test_two_nodes_with_one_id(self, make_cluster, tmp_path):
        """The second one has ports and a directory of its own: it cannot join while the first is there."""
        cluster = make_cluster()
        double = Cluster(tmp_path / "double", 3)
        words = server_command(cluster.members[2], cluster.members)
        for flag, port in (
            ("--listen", double.ports[2]), ("--peer-listen", double.members[2].peer_port), ("--http-listen", double.http_ports[2]),
        ):  # fmt: skip
            words[words.index(flag) + 1] = f"127.0.0.1:{port}"
        peers = words.index("--peers") + 1
        words[peers] = words[peers].replace(str(cluster.members[2].peer_port), str(double.members[2].peer_port))
        words[words.index("--data") + 1] = str(tmp_path / "double-data")
        process = _start(words)
        try:
            wait_until(
                lambda: any("two nodes were started with the same --id" in cluster.log(place) for place in (0, 1)),
                "they say so",
            )
            assert cluster.wait_converged()
            for port in cluster.ports:
                with Wire(port) as wire:
                    assert wire.do("INCR", "n")[0] == "integer"
        finally:
            process.kill()
            process.communicate()


def _data(cluster: Cluster, place: int) -> str:
    words = server_command(cluster.members[place], cluster.members)
    return words[words.index("--data") + 1]


class TestDiskFails:
    @pytest.mark.parametrize("who", ["leader", "follower"])
    def test_while_running(self, make_cluster, who):
        """Files of one node may not grow any more: it ends, to be started again, and the others go on."""
        cluster = make_cluster(segment_bytes=1 << 20, request_timeout_ms=2000)
        place = cluster.leader() if who == "leader" else cluster.follower()
        limit = 512 * 1024
        resource.prlimit(cluster.pids[place], resource.RLIMIT_FSIZE, (limit, limit))
        acknowledged = self._write_until_it_ends(cluster, place)
        assert cluster.processes[place].wait(EXIT_WITHIN_S) == EXIT_DISK
        assert "the log cannot be written" in cluster.log(place)
        others = [other for other in range(3) if other != place]
        with Wire(cluster.ports[others[0]]) as wire:
            wait_until(lambda: wire.do("SET", "after", 1) == OK, "the others go on")
        cluster.start(place)
        cluster.wait_ready()
        self._assert_kept(cluster, acknowledged)

    def _write_until_it_ends(self, cluster: Cluster, place: int) -> dict[str, int]:
        """SETs through every node, numbered; what was acknowledged until one stopped answering."""
        acknowledged: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(Wire(port)) for port in cluster.ports]
            for number in range(2000):
                try:
                    reply = wires[number % 3].do("SET", f"k{number}", f"{number}:".encode() + VALUE)
                except OSError:
                    assert number % 3 == place
                    return acknowledged
                if reply == OK:
                    acknowledged[f"k{number}"] = number
                else:
                    assert reply[1].split()[0] in {"MISCONF", "UNKNOWN", "CLUSTERDOWN"}, reply
        pytest.fail(f"the node never ended: {cluster.status(place)}")

    def _assert_kept(self, cluster: Cluster, acknowledged: dict[str, int]) -> None:
        cluster.wait_converged()
        for port in cluster.ports:
            with Wire(port) as wire:
                for key, number in acknowledged.items():
                    kind, value = wire.do("GETRANGE", key, 0, 8)
                    assert kind == "bulk"
                    assert value.startswith(f"{number}:".encode()), (port, key, value)


class TestHttp:
    def test_health_ready_and_metrics_of_live_nodes(self, shared_cluster):
        leader = shared_cluster.leader()
        with Wire(shared_cluster.ports[leader]) as wire:
            assert wire.do("SET", "k", 1) == OK
            assert wire.do("NOSUCH")[0] == "error"
        for place, port in enumerate(shared_cluster.http_ports):
            code, body = _http(port, "/health")
            assert (code, body["status"], body["node"]) == (200, "ok", f"n{place + 1}")
            assert body["role"] == ("leader" if place == leader else "follower")
            code, body = _http(port, "/ready?sync&timeout_ms=5000")
            assert (code, body["status"], body["leader"]) == (200, "ready", f"n{leader + 1}")
            code, body = _http(port, "/ready")
            assert code == 200
            assert _http(port, "/ready?sync&timeout_ms=x")[0] == 400
            assert _http(port, "/nothing")[0] == 404
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            assert "raftkv_connected_clients" in text
            assert "raftkv_raft_term" in text
        assert "raftkv_" in text

    def test_without_a_majority_nobody_is_ready_but_healthy(self, shared_cluster):
        alone = shared_cluster.follower()
        others = [place for place in range(3) if place != alone]
        for place in others:
            shared_cluster.pause(place)
        try:
            port = shared_cluster.http_ports[alone]
            wait_until(lambda: _http(port, "/ready")[0] == 503, "it notices")
            code, body = _http(port, "/ready?sync&timeout_ms=300")
            assert (code, body["status"]) == (503, "not ready")
            assert body["reason"]
            assert _http(port, "/health")[0] == 200
        finally:
            shared_cluster.heal()
        assert _http(port, "/ready?sync&timeout_ms=10000")[0] == 200
