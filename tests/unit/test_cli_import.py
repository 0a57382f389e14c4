"""raftkv import where there is no cluster."""

from __future__ import annotations

import os
import socket
import time

from typer.testing import CliRunner

from raftkv.cli import importer
from raftkv.cli.main import app


def test_who_cannot_be_reached_is_named_and_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(importer, "FIRST_S", 0.3)
    file = tmp_path / "commands.aof"
    file.write_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    done = CliRunner().invoke(app, ["import", str(file), "--to", f"127.0.0.1:{port}"])
    assert done.exit_code == 1
    assert f"cannot connect to 127.0.0.1:{port}" in done.stderr
    assert time.monotonic() - began < importer.DEADLINE_S / 4


def test_a_pipe_is_refused_because_it_cannot_be_read_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = CliRunner().invoke(app, ["import", str(pipe)])
    assert done.exit_code == 1
    assert f"{pipe} is a pipe, and a file is read twice; give it as standard input: -" in done.stderr
