"""raftkv diff: against a model on random states, and every kind of point that it takes."""

from __future__ import annotations

import json
import os
from shutil import copytree, rmtree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from persistence.archive import ArchiveWriter
from persistence.backup import Origin
from persistence.directory import DataDirectory
from persistence.entries import Archived
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.cli.diff import line
from raftkv.cli.main import app
from raftkv.consensus.configuration import Configuration, wrap
from raftkv.machine.batch import PLAIN, Group, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.machine.summary import StateSummary
from raftkv.offline import backup as backups
from raftkv.offline.diff import Counts, differences

NOW = 1_700_000_000_000
WORDS = st.sampled_from([b"a", b"b", b"c", b""])
COMMANDS = st.one_of(
    st.tuples(st.just(b"SET"), WORDS, WORDS),
    st.tuples(
        st.just(b"SET"), WORDS, WORDS, st.just(b"PXAT"), st.sampled_from([b"%d" % (NOW + 5), b"%d" % (NOW + 10**6)])
    ),
    st.tuples(st.sampled_from([b"RPUSH", b"SADD", b"DEL"]), WORDS, WORDS),
    st.tuples(st.just(b"HSET"), WORDS, WORDS, WORDS),
    st.tuples(st.just(b"ZADD"), WORDS, st.sampled_from([b"1", b"2"]), WORDS),
)
STATES = st.tuples(st.lists(st.tuples(st.integers(0, 2), COMMANDS), max_size=12), st.sampled_from([NOW, NOW + 7]))


def resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def entry(stamp, commands):
    return header(stamp) + b"".join(encode_group(Group(PLAIN, db, 1, resp(*words))) for db, words in commands)


def machine_of(commands, stamp=NOW):
    machine = StateMachine(digest_interval=0)
    for index, one in enumerate(commands, 1):
        machine.apply(index, entry(NOW, [one]))
    machine.apply(len(commands) + 1, header(stamp))
    return machine


def model(machine):
    """(database, key) to everything about it, as commands answer it."""
    found = {}
    for number in range(3):
        names = machine.read(number, [[b"KEYS", b"*"]], 0, None)[0]
        for key in names:
            kind, expiry = machine.read(number, [[b"TYPE", key], [b"PEXPIRETIME", key]], 0, None)
            ask = {
                "string": [b"GET", key], "list": [b"LRANGE", key, b"0", b"-1"], "set": [b"SMEMBERS", key],
                "hash": [b"HGETALL", key], "zset": [b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
            }[kind]  # fmt: skip
            value = machine.read(number, [ask], 0, None)[0]
            if kind == "hash":
                value = dict(value) if not isinstance(value, dict) else value
            found[number, bytes(key)] = (kind, expiry, sorted(value) if kind == "set" else value)
    return found


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(a=STATES, b=STATES)
def test_differences_are_those_that_commands_show(a, b):
    one, other = machine_of(*a), machine_of(*b)
    before, after = model(one), model(other)
    counts = Counts()
    found = {(each.database, each.key): each for each in differences(one.keyspace, other.keyspace, counts)}
    wanted = {
        place: "added" if place not in before else "removed" if place not in after else "changed"
        for place in before.keys() | after.keys()
        if before.get(place) != after.get(place)
    }
    assert {place: each.change for place, each in found.items()} == wanted
    assert sum(counts.equal.values()) == len(before.keys() | after.keys()) - len(wanted)
    assert counts.differ == bool(wanted)
    for each in found.values():
        assert (each.before is None, each.after is None) == (each.change == "added", each.change == "removed")
        for side, states in ((each.before, before), (each.after, after)):
            if side is not None:
                assert side.kind == states[each.database, each.key][0]


def test_the_order_of_a_set_does_not_count():
    members = [b"%d" % number for number in range(20)]
    one, other = (machine_of([(0, (b"SADD", b"s", *row))]) for row in (members, members[::-1]))
    counts = Counts()
    assert list(differences(one.keyspace, other.keyspace, counts)) == []
    assert counts.equal == {0: 1}
    less = machine_of([(0, (b"SADD", b"s", *members[1:], b"other"))])
    assert [each.change for each in differences(one.keyspace, less.keyspace, counts)] == ["changed"]


# ------------------------------------------------------------------ the command
ENTRIES = [
    entry(NOW, [(0, (b"SET", b"same", b"1")), (0, (b"SET", b"gone", b"old"))]),
    entry(NOW + 10, [(0, (b"SET", b"text", b"before")), (3, (b"RPUSH", b"list", b"a", b"b"))]),
    entry(NOW + 20, [(0, (b"DEL", b"gone")), (0, (b"SET", b"text", b"after")), (3, (b"RPUSH", b"list", b"c"))]),
    entry(NOW + 30, [(0, (b"PEXPIREAT", b"same", b"%d" % (NOW + 10**9))), (0, (b"SET", b"user:\xff", b"x" * 100))]),
]


def replayed(count):
    machine = StateMachine(digest_interval=0)
    for index, one in enumerate(ENTRIES[:count], 1):
        machine.apply(index, one)
    return machine


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same history as a snapshot and a backup after entry 2, as an archive, and as a stopped node."""
    root = tmp_path_factory.mktemp("points")
    store = SnapshotStore(str(root / "snapshots"))
    writer = store.begin(SnapshotMeta(2, 1, wrap(Configuration.of(["n1"]), ENTRIES[1])))
    for chunk in replayed(2).dump():
        writer.write(chunk)
    info = writer.commit()
    raw = store.raw(info, 0, info.size_bytes)
    backups.save(str(root / "b.backup"), Origin("c1", "n1", 2, 1, len(raw), 0, "t"), lambda at, n: raw[at : at + n])
    with ArchiveWriter.open(str(root / "archive"), cluster_id="c1") as archive:
        archive.begin_run(None, lambda *_: b"", StateSummary())
        archive.add(Archived(index, 1, NOW + 10 * (index - 1), one) for index, one in enumerate(ENTRIES, 1))
        archive.flush()
    with (
        DataDirectory.open(str(root / "node"), node_id="n1", cluster_id="c1", new_disk_id="d") as directory,
        Log.open(directory.log_path, LogOptions(salt=1)) as log,
    ):
        for index, one in enumerate(ENTRIES, 1):
            log.append(index, 1, one)
    return root, str(root / "snapshots" / info.name)


def run(*words, code):
    done = CliRunner().invoke(app, ["diff", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout.splitlines()


def test_all_kinds_of_points_are_the_same_where_they_are(places):
    root, snapshot = places
    at_two = [root / "b.backup", snapshot, f"{root}/archive@2", f"{root}/archive@2023-11-14T22:13:20.015Z"]
    for one in at_two:
        assert run(at_two[0], one, code=0) == ["db0: 0 added, 0 removed, 0 changed, 3 equal", "db3: 0 added, 0 removed, 0 changed, 1 equal",
                                              "all: 0 added, 0 removed, 0 changed, 4 equal"]  # fmt: skip
    assert run(root / "archive", root / "node", code=0)[-1] == "all: 0 added, 0 removed, 0 changed, 4 equal"


def test_what_changed(places):
    root, _ = places
    lines = run(root / "b.backup", root / "archive", code=1)
    assert lines == [
        '- 0 gone  string of 3 bytes "old"',
        "~ 0 same  string of 1 bytes, expires never -> 2023-11-26T12:00:00.000Z",
        '~ 0 text  string of 6 bytes "before" -> string of 5 bytes "after"',
        '+ 0 user:\\xff  string of 100 bytes "' + "x" * 40 + '...(100B)"',
        '~ 3 list  list of 2 ["a", "b"] -> list of 3 ["a", "b", "c"]',
        "db0: 1 added, 1 removed, 2 changed, 0 equal",
        "db3: 0 added, 0 removed, 1 changed, 0 equal",
        "all: 1 added, 1 removed, 3 changed, 0 equal",
    ]
    assert run(root / "b.backup", root / "archive", "--keys-only", "--match", "[gt]*", code=1) == [
        "- 0 gone", "~ 0 text", "db0: 0 added, 1 removed, 1 changed, 0 equal",
    ]  # fmt: skip
    assert run(root / "b.backup", root / "archive", "--keys-only", "--match", os.fsdecode(b"*\xff"), code=1) == [
        "+ 0 user:\\xff", "db0: 1 added, 0 removed, 0 changed, 0 equal",
    ]  # fmt: skip


def test_a_line_is_a_line_whatever_the_key_holds():
    (found,) = differences(machine_of([]).keyspace, machine_of([(0, (b"SET", b"a\nb", b"\r\n"))]).keyspace, Counts())
    assert line(found) == '+ 0 a\\nb  string of 2 bytes "\\r\\n"'


def test_values_that_differ_beyond_what_is_shown_say_so():
    one, other = (machine_of([(0, (b"SET", b"k", b"x" * 50 + end))]).keyspace for end in (b"a", b"b"))
    (found,) = differences(one, other, Counts())
    assert line(found) == '~ 0 k  string of 51 bytes "' + "x" * 40 + '...(51B)", different further on'


def test_as_json(places):
    root, _ = places
    *found, counts = map(json.loads, run(root / "b.backup", root / "archive", "--json", code=1))
    assert [(one["database"], one["key"], one["change"]) for one in found] == [
        (0, "gone", "removed"), (0, "same", "changed"), (0, "text", "changed"), (0, "user:\\xff", "added"), (3, "list", "changed"),
    ]  # fmt: skip
    assert found[1]["after"]["expire_at_ms"] == NOW + 10**9
    assert counts == {"added": {"0": 1}, "removed": {"0": 1}, "changed": {"0": 2, "3": 1}, "equal": {}}


def test_a_node_that_has_lost_its_log_is_no_point(places, tmp_path):
    root, snapshot = places
    path = tmp_path / "node"
    copytree(root / "node", path)
    with DataDirectory.open_stopped(str(path)) as directory:
        directory.begin_log(1)
    copytree(root / "snapshots", path / "snapshots")
    assert run(root / "archive", path, code=0)
    rmtree(path / "log")
    done = CliRunner().invoke(app, ["diff", snapshot, str(path)])
    assert done.exit_code == 2, "what the snapshot lacks is not equal, it is unknown"
    assert f"{path}/log: this node has had a log, and there is none" in done.stderr


@pytest.mark.parametrize(
    "point", ["missing", "b.backup@3", "archive@9", "archive@noon", "archive@²", "archive@" + "9" * 5000, "snapshots"]
)
def test_what_is_no_point_is_refused(places, point):
    root, _ = places
    assert run(root / "b.backup", f"{root}/{point}", code=2) == []
