"""raftkv backup against a node that loses connections: nothing is read twice into the file, nothing is left out."""

from __future__ import annotations

import os
import random
import socket

import pytest
from typer.testing import CliRunner

from persistence.snapshots import SnapshotMeta, SnapshotStore
from raftkv.cli import backup as module
from raftkv.cli.connection import ReplyError
from raftkv.cli.main import app
from raftkv.machine.machine import StateMachine

PIECE = 300


class FakeNode:
    """Hands out one snapshot in small pieces; each connection breaks after ``lasts`` reads."""

    def __init__(self, directory, lasts):
        store = SnapshotStore(str(directory))
        writer = store.begin(SnapshotMeta(9, 2, b"x" * 5000), 1)
        machine = StateMachine()
        machine.keyspace[0].set(b"key", random.Random(1).randbytes(20_000))
        for chunk in machine.dump():
            writer.write(chunk)
        info = writer.commit()
        self.raw = store.raw(info, 0, info.size_bytes)
        self.lasts = lasts
        self.connections = 0
        self.ended = []
        self.gone = False

    def connect(self):
        self.connections += 1
        return FakeConnection(self)


class FakeConnection:
    def __init__(self, node):
        self.node = node
        self.left = node.lasts

    def ask(self, *words):
        node = self.node
        if words[1] == "BEGIN":
            fields = {
                "id": 7, "index": 9, "term": 2, "size": len(node.raw), "cluster": "c1", "node": "n1", "program": "p", "piece": PIECE,
            }  # fmt: skip
            return [part for name, value in fields.items() for part in (name.encode(), str(value).encode())]
        assert words[:3] == ("RAFT.BACKUP", "READ", "7")
        if node.gone:
            raise ReplyError("ERR no backup 7 is being read")
        if not self.left:
            raise ConnectionResetError("broken")
        self.left -= 1
        _, _, _, offset, length = words
        assert length <= PIECE
        return node.raw[offset : offset + length]

    def call(self, *words):
        self.node.ended.append(words)

    def close(self):
        self.left = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture
def node(tmp_path, monkeypatch):
    found = FakeNode(tmp_path / "s", lasts=9)
    monkeypatch.setattr(module.RemoteSnapshot, "_connect", lambda _self, _timeout: found.connect())
    monkeypatch.setattr(module, "RECONNECT_S", 0.001)
    monkeypatch.setattr(module, "READ_S", 0.05)
    return found


def run(*words):
    return CliRunner().invoke(app, ["backup", *map(str, words)])


def test_broken_connections_are_made_again_and_go_on(node, tmp_path):
    file = tmp_path / "b.backup"
    done = run("-o", file)
    assert done.exit_code == 0, done.output
    assert node.connections > 5
    assert node.ended == [("RAFT.BACKUP", "END", "7")]
    assert node.raw in file.read_bytes()
    assert "verified: every checksum matches" in run("verify", file).output


def test_a_pipe_gets_the_same_bytes(node, tmp_path):
    file = tmp_path / "b.backup"
    piped = run("-o", "-")
    assert (piped.exit_code, run("-o", file).exit_code) == (0, 0)
    (tmp_path / "piped").write_bytes(piped.stdout_bytes)
    assert run("verify", tmp_path / "piped").exit_code == 0
    assert node.raw in piped.stdout_bytes


def test_a_pipe_is_no_damaged_backup(node, tmp_path):
    assert run("-o", tmp_path / "b").exit_code == 0
    end, other = os.pipe()
    with os.fdopen(end), os.fdopen(other, "wb") as pipe:
        pipe.write((tmp_path / "b").read_bytes()[:1000])
        pipe.flush()
        for words in (("backup", "verify"), ("restore", "--data", tmp_path / "new"), ("diff", tmp_path / "b")):
            done = CliRunner().invoke(app, [*map(str, words), f"/dev/fd/{end}"])
            assert "it is a pipe, and has to be a file" in done.stderr, words


@pytest.mark.parametrize(("lasts", "gone", "why"), [(0, False, "broken"), (3, True, "no backup 7 is being read")])
def test_a_node_that_stays_away_or_let_go_leaves_no_file(node, tmp_path, lasts, gone, why):
    node.lasts, node.gone = lasts, gone
    done = run("-o", tmp_path / "b.backup")
    assert done.exit_code == 1
    assert why in done.stderr
    assert not list(tmp_path.glob("b.backup*"))


def test_who_cannot_be_reached_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = run("-p", port, "-o", tmp_path / "b.backup")
    assert done.exit_code == 1
    assert f"cannot connect to 127.0.0.1:{port}: Connection refused" in done.stderr
    assert not list(tmp_path.glob("b.backup*"))


@pytest.mark.parametrize("words", [[], ["-o", "-", "--json"]])
def test_what_makes_no_sense_is_refused(node, words):
    assert run(*words).exit_code == 2
    assert node.connections == 0
