from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from persistence.wal import Log, LogOptions
from raftkv.cli.bench import WORKLOADS
from raftkv.cli.dev import how_it_ended
from raftkv.cli.main import KEEP, PROVE, RESCUE, RUN, USE
from raftkv.cli.topology import (
    FREE_PORTS,
    LOOPBACK,
    fixed_layout,
    free_layout,
    free_ports,
    log_tail,
    ports_in_use,
    server_command,
)  # fmt: skip
from raftkv.config import SETTINGS
from raftkv.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def raftkv(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")}
    return subprocess.run(
        [sys.executable, "-m", "raftkv", *words], cwd=ROOT, env={**clean, "COLUMNS": "400", **env},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_every_setting_is_a_flag_of_server():
    shown = raftkv("server", "--help").stdout
    missing = [one.flag for one in SETTINGS.values() if one.flag + " " not in shown and one.flag + "/" not in shown]
    assert not missing
    assert "--config" in shown


def test_every_workload_is_in_the_help_of_bench():
    shown = raftkv("bench", "--help").stdout
    assert f"separated by commas: {', '.join(WORKLOADS)}." in shown


def test_every_command_has_its_place_in_the_help():
    shown = raftkv("--help").stdout
    assert "─ Commands ─" not in shown  # where those without a title of their own would be
    for title in (RUN, USE, KEEP, RESCUE, PROVE):
        assert f"─ {title} ─" in shown


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        (["--fsync", "never"], {}, ["fsync", "flag --fsync", "always"]),
        ([], {"RAFTKV_FSYNC": "never"}, ["fsync", "RAFTKV_FSYNC", "always"]),
        ([], {"RAFTKV_FSNC": "always"}, ["RAFTKV_FSNC", "did you mean"]),
        (["--config", "no/such/file"], {}, ["no/such/file"]),
        (["--listen", "10.1.2.3:7379"], {}, ["listen", "requirepass", "insecure"]),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_named(words: list[str], env: dict[str, str], told: list[str]):
    done = raftkv("server", *words, **env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in told:
        assert part in done.stderr


def test_a_file_of_settings_is_checked_before_dev_starts_anything(tmp_path: Path):
    file = tmp_path / "raftkv.toml"
    file.write_text('fsinc = "no"\n')
    done = raftkv("dev", "--config", str(file), "--data", str(tmp_path / "data"))
    assert done.returncode == 2
    assert f"{file}:1" in done.stderr
    assert not (tmp_path / "data").exists()


def test_dev_refuses_ports_in_use_before_it_starts_anything(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        peer_port = taken.getsockname()[1]
        done = raftkv("dev", "--nodes", "1", "--port", str(peer_port - 10_000), "--data", str(tmp_path / "data"))
    assert done.returncode == 2
    assert f"in use: {LOOPBACK}:{peer_port}" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_layout_is_what_scripts_rely_on(tmp_path: Path):
    members = fixed_layout(3, 7379, tmp_path)
    assert [member.ports for member in members] == [(7379, 17379, 8379), (7380, 17380, 8380), (7381, 17381, 8381)]
    assert [member.pid_file for member in members] == [tmp_path / f"node{number}" / "pid" for number in (1, 2, 3)]
    words = server_command(members[1], members)
    assert words[words.index("--id") + 1] == "n2"
    assert words[words.index("--peers") + 1] == "n1=127.0.0.1:17379,n2=127.0.0.1:17380,n3=127.0.0.1:17381"


@pytest.mark.parametrize(("count", "port"), [(0, 7379), (10, 7379), (3, 0), (3, 55_534)])
def test_a_layout_that_does_not_fit_is_refused(count: int, port: int, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--nodes|--port"):
        fixed_layout(count, port, tmp_path)


def test_free_ports_differ_and_are_out_of_the_way_of_clients(tmp_path: Path):
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(port in FREE_PORTS for port in ports)
    assert ports_in_use(free_layout(3, tmp_path)) == []


def test_how_a_process_ended_in_words():
    assert how_it_ended(-9) == "killed by SIGKILL"
    assert how_it_ended(2) == "exit code 2"


def test_the_tail_of_a_log_begins_where_the_process_did(tmp_path: Path):
    member = fixed_layout(1, 7379, tmp_path)[0]
    assert log_tail(member) == ""
    member.directory.mkdir()
    member.log.write_text("old\n" + "".join(f"new {number}\n" for number in range(20)))
    assert log_tail(member, since=4, lines=2) == "new 18\nnew 19"
    assert log_tail(member, since=4, lines=50).startswith("new 0\n")


def test_a_path_that_is_no_utf_8_goes_out_as_it_came_in(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"dir\xff")
    (path / "00000001").mkdir(parents=True)
    (path / "00000001" / f"{1:020d}-{2:020d}.entries").write_bytes(b"")
    words = [sys.executable, "-m", "raftkv", "archive", "verify", str(path)]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert os.fsencode(path) in done.stdout


def test_cli_fails_when_nobody_listens():
    done = raftkv("cli", "-p", "1", "ping")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path):
    Log.open(str(tmp_path / "log"), LogOptions(preallocate=False)).close()
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        words = [sys.executable, "-m", "raftkv", "wal", "dump", str(tmp_path)]
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            words, cwd=ROOT, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert done.stderr == "raftkv: the output cannot be written and is incomplete: No space left on device\n"
    assert done.returncode == 74
