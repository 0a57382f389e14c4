"""``raftkv wal`` and ``raftkv snapshot``: what they say of a node's files, in both forms, and their exit codes."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from persistence.directory import DataDirectory
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.cli.importer import Counts
from raftkv.cli.main import app
from raftkv.consensus.configuration import Configuration, Member, wrap
from raftkv.machine.batch import DIGEST, OPEN, TXN, WATCH, Group, Run, Watched, encode_group, header, plain
from raftkv.machine.machine import StateMachine
from raftkv.offline.entries import quoted, word_text
from raftkv.offline.rebuild import Piece
from raftkv.protocol.encoder import encode_command

STAMP_MS = 1_700_000_000_000
THREE = Configuration.of([Member("n1", "h1:1", "d1"), Member("n2", "h2:1", "d2"), Member("n3", "h3:1", voter=False)])
SESSION = bytes(range(16))


def words(*texts: str) -> bytes:
    return encode_command([text.encode() for text in texts])


def entries() -> list[bytes]:
    stamp = header(STAMP_MS)
    commands = [words("SET", f"user:{number}", "x" * 50) for number in range(6)]
    watched = (Watched(0, b"user:1", 3),)
    return [
        b"\x01",
        THREE.encode(),
        stamp + b"".join(plain(0, 6, commands)),
        stamp + encode_group(Group(OPEN, 0, 0, b"", numbers=(5000,))),
        stamp + encode_group(Group(TXN, 2, 2, words("SET", "a b", "1") + words("INCR", "n"), watched)),
        stamp + encode_group(Group(0, 1, 1, words("LPUSH", "l", "1"), run=Run(SESSION, 4, 3))),
        stamp + encode_group(Group(WATCH, 0, 1, words("k1", "k2"))),
        stamp + encode_group(Group(DIGEST, 0, 0, b"", numbers=(4, 255))),
        stamp + b"".join(plain(0, 1, [b"*1\r\n$9\r\nshort\r\n"])),
        b"\x07what",
    ]


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "data"
    with DataDirectory.open(str(path), node_id="n1", cluster_id="c") as directory:
        log = Log.open(directory.log_path, LogOptions(segment_bytes=8192, preallocate=False))
        log.set_hard_state(2, "n2")
        for index, payload in enumerate(entries(), 1):
            log.append(index, 2, payload)
        log.close()
        machine = StateMachine()
        for index, payload in enumerate(entries()[2:5], 3):
            machine.apply(index, payload)
        machine.apply(6, header(STAMP_MS) + b"".join(plain(0, 3, [
            words("PEXPIRE", "user:1", "1"), words("PEXPIRE", "user:2", "60000"), words("ZADD", "z", "inf", "m", "0.5", "n"),
        ])))  # fmt: skip
        machine.apply(7, header(STAMP_MS + 10))
        binary = encode_command([b"HSET", b"h", b"f", b"\xff\x00"])
        machine.apply(8, header(STAMP_MS + 10) + b"".join(plain(5, 1, [binary])))
        writer = SnapshotStore(directory.snapshot_path).begin(SnapshotMeta(8, 2, wrap(THREE, entries()[7])))
        for chunk in machine.dump():
            writer.write(chunk)
        writer.commit()
    return path


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("where", ["", "log"])
def test_wal_ls_tells_the_state_of_the_log(data, where):
    code, shown = run("wal", "ls", data / where)
    assert code == 0
    assert "entries        1 to 10, last term 2" in shown
    assert "term 2, voted for n2" in shown
    assert f"{1:020d}.wal" in shown
    code, shown = run("wal", "ls", data / where, "--json")
    found = json.loads(shown)
    assert (found["first_index"], found["last_index"], found["term"], found["voted_for"]) == (1, 10, 2, "n2")
    assert found["segments"][0]["entries"] == 10
    assert found["in_use_by"] is None


def test_a_running_node_is_mentioned_and_not_disturbed(data):
    with (data / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"process {os.getpid()} uses the directory" in run("wal", "verify", data)[1]
    assert "uses the directory" not in run("wal", "verify", data)[1]


def test_wal_dump_explains_every_entry(data):
    code, shown = run("wal", "dump", data)
    assert code == 0
    for text in (
        "voted for n2",
        "no-op",
        "configuration: n1, n2, n3 (learner)",
        "2023-11-14T22:13:20.000Z db0 SET user:0 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...(50B) | SET user:1",
        "and 2 more",
        "open session for 5000 ms",
        "transaction watching user:1 db2 SET 'a b' 1 | INCR n",
        "session 00010203 #4 db1 LPUSH l 1",
        "watch db0 k1 k2",
        "digest 00000000000000ff at 4",
        "unreadable: log entry holds a word of 9 bytes",
        "unreadable: kind 7",
    ):
        assert text in shown
    whole = run("wal", "dump", data, "--commands", "--from", 3, "--to", 3)[1]
    assert whole.count("x" * 50) == 6
    assert "transaction" not in whole
    rows = [json.loads(line) for line in run("wal", "dump", data, "--json")[1].splitlines()]
    assert [row["index"] for row in rows if row["kind"] == "entry"] == list(range(1, 11))
    configuration = next(row for row in rows if row.get("entry") == "configuration")
    assert configuration["voters"][0] == {"id": "n1", "address": "h1:1", "disk": "d1"}
    assert rows[3]["groups"][0]["count"] == 6


def test_nothing_that_a_terminal_obeys_is_printed():
    for word in (b"\x1b[2J", b"a\nb", b"\xc2\x9b31m", b""):
        shown = quoted(word_text(word))
        assert shown.isprintable()
        assert shown.startswith("'")
    assert quoted(word_text("größe:1".encode())) == "größe:1"


def test_wal_verify_finds_damage_and_goes_on(data):
    assert run("wal", "verify", data)[0] == 0
    rows = [json.loads(line) for line in run("wal", "dump", data, "--json", "--from", 3, "--to", 3)[1].splitlines()]
    segment = data / "log" / rows[0]["segment"]
    spoil(segment, rows[0]["offset"] + 60)
    code, shown = run("wal", "verify", data)
    # One round holds all of them, and only the mark of the clean stop vouches for it.
    assert code == 1
    assert f"DAMAGED  {segment} at offset {rows[0]['offset']}: no valid record here" in shown
    assert "8 of them after damage" in shown
    assert "DAMAGED" in run("wal", "dump", data)[1]
    assert "the log is DAMAGED" in run("wal", "ls", data)[1]
    found = json.loads(run("wal", "verify", data, "--json")[1])
    assert found["damage"][0]["offset"] == rows[0]["offset"]


def test_what_is_no_log_and_no_snapshot_is_said(tmp_path):
    for command in ("ls", "dump", "verify"):
        code, shown = run("wal", command, tmp_path)
        assert code == 2
        assert "no segments of a log" in shown
    for command in ("info", "verify"):
        code, shown = run("snapshot", command, tmp_path)
        assert code == 2
        assert "there is no snapshot" in shown
    code, shown = run("archive", "verify", tmp_path)
    assert code == 2, "nobody may take a wrong directory for a sound archive"
    assert "holds no run: it is no archive, or nothing was archived yet" in shown
    code, shown = run("snapshot", "ls", tmp_path / "nowhere")
    assert code == 2
    assert "no such directory" in shown


def test_an_empty_log_is_not_intact(data):
    for one in (data / "log").iterdir():
        one.unlink()
    for command in ("ls", "dump", "verify"):
        code, shown = run("wal", command, data)
        assert code == 2
        assert "no segments of a log" in shown


def test_a_path_that_the_system_refuses_is_said_in_a_line():
    long = Path("x" * 300)
    for words in (("wal", "ls"), ("wal", "verify"), ("snapshot", "ls"), ("snapshot", "info"), ("snapshot", "verify"), ("snapshot", "dump"), ("restore", "--data", "new")):  # fmt: skip
        code, shown = run(*words, long)
        assert code == 2, words
        assert "File name too long" in shown


def test_snapshot_ls_and_verify(data):
    part = data / "snapshots" / "x.part"
    part.write_bytes(b"RAFT")
    code, shown = run("snapshot", "ls", data)
    assert code == 0
    assert "being written or received" in shown
    found = json.loads(run("snapshot", "verify", data, "--json")[1])
    assert [(one["complete"], one["damage"]) for one in found] == [(True, ""), (False, "")]
    assert found[0]["content_bytes"] > 0
    part.unlink()
    (file,) = (data / "snapshots").iterdir()
    copy = data / "copy"
    copy.write_bytes(file.read_bytes())
    assert run("snapshot", "verify", copy)[0] == 0
    assert [one["file"] for one in json.loads(run("snapshot", "ls", copy, "--json")[1])] == [str(copy)]
    spoil(file, -25)
    assert run("snapshot", "verify", copy)[0] == 0
    for command in (("verify", data), ("verify", file)):
        code, shown = run("snapshot", *command)
        assert code == 1
        assert f"DAMAGED  {file} is damaged at offset" in shown
    assert run("snapshot", "ls", data)[0] == 0
    assert run("snapshot", "info", data)[0] == 2
    file.rename(file.with_name(f"{9:020d}-{2:020d}.snap"))
    assert "holds the snapshot of index 8, term 2" in run("snapshot", "ls", data)[1]


def test_snapshot_info_counts_what_is_in_it(data):
    found = json.loads(run("snapshot", "info", data, "--json")[1])
    assert (found["index"], found["term"], found["sessions"], found["expired"]) == (8, 2, 1, 0)
    assert [one["id"] for one in found["members"]["voters"]] == ["n1", "n2"]
    types = {(one["db"], one["type"]): one for one in found["types"]}
    assert types[0, "string"]["keys"] == 5  # user:1 has expired, and was removed
    assert types[0, "string"]["expiring"] == 1
    assert types[0, "string"]["bytes"] == 5 * (6 + 50)
    assert types[0, "zset"]["elements"] == 2
    assert found["prefixes"][0] == {"prefix": "user:", "keys": 5, "elements": 5, "bytes": 280, "expiring": 1}
    assert found["largest"][0]["bytes"] == 56
    code, shown = run("snapshot", "info", data)
    assert code == 0
    assert "members   n1, n2, n3 (learner), by entry 0" in shown
    assert "2023-11-14T22:13:20.010Z" in shown


def test_snapshot_dump_gives_the_keys(data):
    rows = [json.loads(line) for line in run("snapshot", "dump", data)[1].splitlines()]
    by_key = {row["key"]: row for row in rows}
    assert by_key["user:2"]["expire_at_ms"] == STAMP_MS + 60_000
    assert "user:1" not in by_key
    assert by_key["z"]["value"] == [["m", "inf"], ["n", 0.5]]
    assert (by_key["h"]["db"], by_key["h"]["value"]) == (5, [["f", {"base64": "/wA="}]])
    done = CliRunner().invoke(app, ["snapshot", "dump", str(data), "--format", "resp"])
    assert words("SET", "user:2", "x" * 50, "PXAT", str(STAMP_MS + 60_000)) in done.stdout_bytes
    assert words("SELECT", "5") + words("DEL", "h") + b"*4\r\n$4\r\nHSET" in done.stdout_bytes


def test_a_key_that_expires_while_its_parts_are_sent_is_sent_whole():
    """With its first part in the cluster and its last part, which carries the expiry, left out, it would stay for ever."""
    part = Piece(0, b"k", "list", [b"a"], expire_at_ms=1000, last=False)
    counts = Counts()
    assert counts.take(part, 999)
    assert counts.take(part._replace(first=False), 1000)
    assert counts.take(part._replace(first=False, last=True), 1001)
    assert (counts.keys["list"], counts.expired) == (1, 0)
    assert not counts.take(part, 1000)
    assert not counts.take(part._replace(first=False, last=True), 1000)
    assert (counts.keys["list"], counts.expired) == (1, 1)
    assert counts.take(Piece(0, b"other", "string", [b"a"]), 1000)


def test_what_cannot_be_imported_is_said_before_anything_is_sent(tmp_path):
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0004\xff")
    (tmp_path / "short.rdb").write_bytes(b"REDIS0004\x00")
    (tmp_path / "text").write_bytes(b"hello")
    for arguments, told in (
        ([tmp_path / "dump.rdb", "--to", "nowhere"], "'nowhere' is not host:port"),
        ([tmp_path / "missing"], "missing: No such file"),
        ([tmp_path], "has 0 manifests"),
        ([tmp_path / "short.rdb"], "short.rdb at offset 10: the file ends here"),
        ([tmp_path / "text"], "neither an RDB nor an append-only file"),
    ):
        code, shown = run("import", *arguments)
        assert code == 1
        assert shown.startswith("raftkv import: ")
        assert told in shown
