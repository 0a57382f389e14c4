"""``raftkv cluster``: what it asks, what it tells, and what it makes of a lost answer. The cluster is played."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from raftkv.cli import members
from raftkv.cli.main import app
from raftkv.cli.members import Admin, Group, Progress, describe, start_words, summary, table
from raftkv.config import load
from raftkv.errors import NoLeaderError, RaftKVError, UnknownOutcomeError


def member(node: str, role: str = "follower", **fields: Any) -> dict[str, Any]:
    return {
        "node": node, "role": role, "voter": int(role not in ("learner", "none")), "connected": 1, "match_index": 100,
        "lag": 0, "last_contact_ms": 40, "peer_address": f"db{node[1:]}:17379", "client_address": f"db{node[1:]}:7379",
        "disk": f"disk-{node}", "promote": 0, "replaces": "", **fields,
    }  # fmt: skip


def group(*found: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "cluster": "c1", "leader_id": "n1", "term": 7, "configuration_index": 42, "changing": 0,
        "members": [member("n1", "leader"), member("n2"), member("n3"), *found], **fields,
    }  # fmt: skip


class Play:
    """A client of a cluster that answers with ``looks`` one after the other, and with ``refusal`` to a change."""

    def __init__(self, *looks: dict[str, Any] | RaftKVError, refusal: RaftKVError | None = None) -> None:
        self.looks = list(looks)
        self.refusal = refusal
        self.sent: list[str] = []
        self.options: dict[str, Any] = {}

    def __call__(self, nodes: list[str], **options: Any) -> Play:
        self.options = {"nodes": nodes, **options}
        return self

    def execute(self, *words: str) -> None:
        self.sent.append(" ".join(words))
        if self.refusal is not None:
            raise self.refusal

    def cluster_members(self) -> dict[str, Any]:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, RaftKVError):
            raise look
        return look

    def close(self) -> None:
        self.sent.append("closed")


@pytest.fixture
def run(monkeypatch):
    """``run(play, "add", ...)``: the result of the command."""

    def call(play: Play, *words: str) -> Any:
        monkeypatch.setattr(members, "RaftKV", play)
        monkeypatch.setattr(members, "POLL_S", 0.0)
        return CliRunner().invoke(app, ["cluster", *words], env={"COLUMNS": "200"})

    return call


LEARNER = member("n4", "learner", lag=1234, promote=1, last_contact_ms=-1, client_address="", disk="")


class TestStatus:
    def test_for_people(self, run):
        done = run(Play(group(LEARNER, changing=1)), "status")
        assert done.exit_code == 0
        head, _, *rows = done.stdout.splitlines()
        assert head == (
            "cluster c1, leader n1, term 7: 3 voters, 1 may fail; 1 learner; a change of the members (entry 42) is not "
            "committed yet"
        )
        shown = {row.split()[0]: row for row in rows if row.strip()}
        assert "leader" in shown["n1"]
        assert "0.0 s ago" in shown["n2"]
        for part in ("learner", "1234", "never", "will be promoted", "?"):
            assert part in shown["n4"]

    def test_as_json(self, run):
        play = Play(group())
        assert json.loads(run(play, "status", "--json", "-p", "7380", "-a", "pw").stdout) == group()
        assert play.options["nodes"] == ["127.0.0.1:7380"]
        assert play.options["password"] == "pw"

    def test_a_node_that_is_no_member_is_not_shown_as_one(self):
        waiting = Group(group(members=[member("n9", "none")], leader_id=""))
        assert "n9" not in table(waiting)
        assert summary(waiting) == "cluster c1, leader none, term 7: 0 voters"

    @pytest.mark.parametrize(("voters", "told"), [(1, "1 voter, none"), (2, "2 voters, none"), (5, "5 voters, 2")])
    def test_strength(self, voters, told):
        found = [member(f"n{number}") for number in range(voters)]
        assert Group(group(members=found)).strength == f"{told} may fail"

    @pytest.mark.parametrize(
        ("voters", "leader", "told"),
        [(3, "n0", "3 voters, 1 not connected, none more may fail"), (5, "n0", "5 voters, 1 not connected, 1 more may fail"),
         (3, "", "3 voters, 1 not connected")],
    )  # fmt: skip
    def test_who_has_failed_already_counts(self, voters, leader, told):
        found = [member("n0"), member("n1", connected=0), *(member(f"n{number}") for number in range(2, voters))]
        learner = member("n9", "learner", connected=0)
        assert Group(group(members=[*found, learner], leader_id=leader)).strength == told


class TestChanges:
    def test_add_tells_how_to_start_the_node(self, run):
        play = Play(group(LEARNER))
        done = run(play, "add", "n4", "db4:17382")
        assert play.sent == ["RAFT.ADD n4 db4:17382", "closed"]
        [command] = [line.strip() for line in done.stdout.splitlines() if "raftkv server" in line]
        words = shlex.split(command)
        assert words[:4] == ["raftkv", "server", "--id", "n4"]
        assert words[words.index("--listen") + 1] == "db4:7382"
        assert "peer_secret" in done.stdout, "it is not on loopback"

    @pytest.mark.parametrize("address", ["127.0.0.1:17382", "127.0.0.1:900", "[::1]:17382"])
    def test_the_node_can_be_started_like_that(self, address):
        words = start_words("n4", address, "c1")[2:]
        flags = {}
        while words:
            flag = words.pop(0)
            flags[flag] = True if flag == "--join" else words.pop(0)
        names = {"--id": "node_id", "--data": "data_dir"}
        settings = load(None, {}, {names.get(flag, flag[2:].replace("-", "_")): value for flag, value in flags.items()})
        assert (settings.peer_advertise, settings.cluster_id, settings.join) == (address, "c1", True)

    def test_words_of_the_others(self, run):
        play = Play(group(LEARNER))
        for words in (["replace", "n2", "n4", "db4:1"], ["add", "n4", "db4:1", "--learner"], ["remove", "n9"], ["promote", "n2"],
                      ["transfer"], ["transfer", "n2"]):  # fmt: skip
            assert run(play, *words).exit_code == 0
        assert [sent for sent in play.sent if sent != "closed"] == [
            "RAFT.ADD n4 db4:1 REPLACES n2", "RAFT.ADD n4 db4:1 LEARNER", "RAFT.REMOVE n9", "RAFT.PROMOTE n2", "RAFT.TRANSFER",
            "RAFT.TRANSFER n2",
        ]  # fmt: skip

    def test_a_refusal_is_shown_as_it_came(self, run):
        done = run(Play(group(), refusal=RaftKVError("n9 is no member; the members are: n1, n2, n3")), "remove", "n9")
        assert (done.exit_code, done.stderr) == (1, "raftkv cluster: n9 is no member; the members are: n1, n2, n3\n")

    def test_a_lost_answer_is_looked_up(self, run):
        lost = UnknownOutcomeError("no answer")
        assert run(Play(group(LEARNER), refusal=lost), "add", "n4", "db4:1").exit_code == 0
        done = run(Play(group(), refusal=lost), "add", "n4", "db4:1")
        assert done.exit_code == 1
        assert "not known whether this takes place (no answer); see: raftkv cluster status" in done.stderr

    def test_learner_and_wait_do_not_go_together(self, run):
        play = Play(group())
        done = run(play, "add", "n4", "db4:1", "--learner", "--wait")
        assert done.exit_code == 2
        assert not [sent for sent in play.sent if sent.startswith("RAFT")]


class TestWaiting:
    def test_until_it_votes(self, run):
        away = {**LEARNER, "connected": 0}
        play = Play(group(away), group(away), group(LEARNER), group({**LEARNER, "lag": 3}), group(member("n4")))
        done = run(play, "add", "n4", "db4:1", "--wait")
        assert done.exit_code == 0
        assert "is it started?" in done.stderr
        assert done.stdout.endswith("n4 is a voter now\n")

    def test_ends_when_it_was_removed(self, run):
        done = run(Play(group(LEARNER), group(LEARNER), group()), "add", "n4", "db4:1", "--wait")
        assert (done.exit_code, "somebody removed it" in done.stderr) == (1, True)

    def test_ends_when_time_is_up(self, run):
        done = run(Play(group(LEARNER)), "add", "n4", "db4:1", "--wait", "--wait-timeout", "0")
        assert done.exit_code == 1
        assert "not yet a voter after 0 s (n4 is a learner, 1234 entries behind)" in done.stderr

    def test_goes_on_while_there_is_no_leader(self, monkeypatch):
        monkeypatch.setattr(members, "POLL_S", 0.0)
        times = iter(range(10))
        play = Play(group({**LEARNER, "lag": -1}), group(member("n4")))
        monkeypatch.setattr(members, "RaftKV", play)
        told: list[str] = []
        admin = Admin("a:1", timeout_s=5, user="", password="")
        admin.wait("n4", within_s=100, tell=told.append, monotonic=lambda: float(next(times)))
        assert told == ["n4: waiting for a leader"]

    def test_one_line_on_a_terminal_and_news_elsewhere(self):
        now = [0.0]
        for terminal, expected in ((True, 4), (False, 2)):
            out: list[str] = []
            show = Progress(out.append, terminal=terminal, monotonic=lambda: now[0])
            for at, text in enumerate(["3 behind", "2 behind", "1 behind"]):
                now[0] = at * 3.0
                show(text)
            show.end()
            assert len(out) == expected
        assert out == ["3 behind\n", "1 behind\n"]

    def test_how_far(self):
        assert describe(LEARNER) == "n4 is a learner, 1234 entries behind"


def test_without_a_leader_the_reason_is_told(run):
    done = run(Play(NoLeaderError("not done within 15 s: cannot connect")), "status")
    assert (done.exit_code, done.stderr) == (1, "raftkv cluster: not done within 15 s: cannot connect\n")
