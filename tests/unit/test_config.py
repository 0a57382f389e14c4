"""Settings: every source, every refusal, and the document that lists them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence.records import BODY_BYTES_MAX
from persistence.wal import LogOptions
from raftkv.config import SETTINGS, Secret, Settings, change, change_all, load, settings_table, view
from raftkv.config_values import GIB, MIB, Integer, Size, is_loopback, join_address, split_address
from raftkv.consensus.messages import ENTRY_BYTES_MAX
from raftkv.errors import ConfigError
from raftkv.store.keyspace import DATABASES

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
THREE = "n1=127.0.0.1:17379,n2=127.0.0.1:17380,n3=127.0.0.1:17381"


@pytest.fixture
def write(tmp_path):
    def to_file(text: str, name: str = "raftkv.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return to_file


def refused(file=None, env=None, flags=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, env or {}, flags or {})
    return caught.value.message


# -------------------------------------------------------------------- sources


def test_defaults_are_complete_and_allowed():
    settings = load(None, {}, {})
    assert settings == Settings()
    assert settings.peer_listen == "127.0.0.1:17379"
    assert settings.http_listen == "127.0.0.1:8379"
    assert settings.advertise == settings.listen
    assert settings.peers == {"n1": "127.0.0.1:17379"}
    assert settings.fsync == "always"


def test_later_sources_win(write):
    file = write('maxclients = 1\ntimeout = 1\nloglevel = "error"\n')
    env = {"RAFTKV_TIMEOUT": "2", "RAFTKV_LOGLEVEL": "warning", "HOME": "/", "RAFTKVX": "no"}
    settings = load(file, env, {"loglevel": "debug", "listen": None})
    assert (settings.maxclients, settings.timeout, settings.loglevel) == (1, 2, "debug")


@pytest.mark.parametrize(
    "line", [f'peers = "{THREE}"', "[peers]\nn3='127.0.0.1:17381'\nn1='127.0.0.1:17379'\nn2='127.0.0.1:17380'"]
)
def test_peers_as_text_and_as_table(write, line):
    settings = load(write(line), {}, {"node_id": "n2"})
    assert list(settings.peers) == ["n1", "n2", "n3"]
    assert settings.peer_listen == "127.0.0.1:17380"


def test_cluster_id_depends_on_the_member_ids_alone():
    one = load(None, {}, {"peers": THREE})
    other = load(None, {}, {"peers": "n3=127.0.0.1:3,n1=127.0.0.1:1,n2=127.0.0.1:2", "node_id": "n2"})
    assert one.cluster_id == other.cluster_id
    assert one.cluster_id != load(None, {}, {}).cluster_id
    assert load(None, {}, {"cluster_id": "mine"}).cluster_id == "mine"


def test_every_setting_can_come_from_every_source(write):
    """A round trip of each default through TOML text, environment text and flag text changes nothing."""
    base = Settings()
    for one in SETTINGS.values():
        text = one.kind.show(getattr(base, one.name))
        for settings in (
            load(write(f"{one.name} = '{text}'"), {}, {}),
            load(None, {one.env: text}, {}),
            load(None, {}, {one.name: text}),
        ):
            assert settings == base, one.name


def test_variables_that_are_not_settings_are_left_alone():
    env = {
        "RAFTKV_CONFIG": "/etc/raftkv.toml", "RAFTKV_SERVICE_HOST": "10.0.0.1", "RAFTKV_SERVICE_PORT": "7379",
        "RAFTKV_SERVICE_PORT_REDIS": "7379", "RAFTKV_PORT": "tcp://10.0.0.1:7379", "RAFTKV_PORT_7379_TCP_ADDR": "10.0.0.1",
    }  # fmt: skip
    assert load(None, env, {}) == Settings()


# -------------------------------------------------------------------- refusals


def test_a_refusal_names_setting_source_value_and_what_is_allowed(write):
    file = write("# comment\n\nmaxclients = 0\n")
    for message, source in (
        (refused(file), f"{file}:3"),
        (refused(env={"RAFTKV_MAXCLIENTS": "0"}), "environment variable RAFTKV_MAXCLIENTS"),
        (refused(flags={"maxclients": 0}), "flag --maxclients"),
    ):
        assert message == (
            f"setting maxclients = '0' ({source}) is refused: argument must be between 1 and 1000000 inclusive; "
            "allowed: an integer from 1 to 1000000"
        )


def test_an_unknown_setting_is_refused_with_a_suggestion(write):
    file = write("timeout = 1\nmax_clients = 5\n")
    assert refused(file) == f"unknown setting max_clients in {file}:2; did you mean maxclients?"
    assert "did you mean RAFTKV_LISTEN?" in refused(env={"RAFTKV_LISTENS": "x"})
    assert "docs/configuration.md lists all" in refused(flags={"zzzzz": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node_id", "N1"), ("node_id", ""), ("node_id", "x" * 33), ("listen", "7379"), ("listen", "127.0.0.1:0"),
        ("listen", "127.0.0.1:65536"), ("listen", "300.0.0.1:1"), ("listen", "::1:7379"), ("listen", "[zz]:1"),
        ("listen", "127.0.0.1:+1"), ("listen", "127.0.0.1:0007379"), ("listen", ""), ("listen", 7379), ("peers", "n1"),
        ("peers", "n1=127.0.0.1:1,n1=127.0.0.1:2"), ("peers", {"n1": 5}), ("peers", 5), ("data_dir", ""),
        ("fsync", "maybe"), ("insecure", "perhaps"), ("insecure", 1), ("maxclients", True), ("maxclients", 1.5),
        ("maxclients", "1_000"), ("maxclients", "\uff11"), ("max_batch_bytes", "8 MiB"), ("max_batch_bytes", "8tb"),
        ("max_batch_bytes", "1"), ("requirepass", "two\nlines"), ("requirepass", 5), ("snapshot_level", 20),
        ("cluster_id", "a b"), ("timeout", -1), ("slowlog_log_slower_than", -2),
    ],
)  # fmt: skip
def test_values_that_are_not_allowed(name, value):
    message = refused(flags={name: value})
    assert message.startswith(f"setting {name} = ")
    assert f"(flag {SETTINGS[name].flag})" in message
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: value})


def test_a_file_that_cannot_be_used(tmp_path, write):
    assert "No such file" in refused(tmp_path / "none.toml")
    assert "not valid TOML" in refused(write("maxclients = \n"))
    (tmp_path / "latin.toml").write_bytes(b"node_id = '\xff'")
    assert "not valid TOML" in refused(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"peers": THREE, "node_id": "n4"}, "node_id 'n4' is not in peers, which has: n1, n2, n3 (node_id: flag --id"),
        ({"http_listen": "127.0.0.1:7379"}, "http_listen and listen have the same port 7379"),
        ({"peer_listen": "127.0.0.1:8379"}, "http_listen and peer_listen have the same port 8379"),
        ({"listen": "127.0.0.1:60000"}, "peer_listen must be given, because listen's port + 10000 is above 65535"),
        ({"heartbeat_ms": 134}, "heartbeat_ms (134) must be below a third of election_timeout_ms (400)"),
        ({"peers": "n1=127.0.0.1:1,n2=127.0.0.1:1"}, "peers: 'n1' and 'n2' have the same address 127.0.0.1:1"),
        ({"peers": "n1=127.0.0.1:1,n2=0.0.0.0:2"}, "peers: nobody can connect to 0.0.0.0:2 of 'n2'"),
        ({"max_batch_bytes": "512mb"}, "max_batch_bytes must not be above max_pending_bytes"),
        ({"archive_dir": "data"}, "archive_dir (data) is where the node keeps its own files"),
        ({"archive_dir": "./data/log/", "data_dir": "data"}, "is where the node keeps its own files"),
        ({"archive_dir": "/d/snapshots/a", "data_dir": "/d"}, "is where the node keeps its own files"),
        ({"archive_dir": "/d/x/../damaged-1", "data_dir": "/d/"}, "is where the node keeps its own files"),
        ({"proto_max_bulk_len": "2gb"}, "proto_max_bulk_len must not be above client_query_buffer_limit"),
        ({"listen": "0.0.0.0:7379", "insecure": True}, "no client can connect to 0.0.0.0:7379; give advertise"),
    ],
)
def test_settings_that_do_not_go_together(flags, expected):
    assert expected in refused(flags=flags)


@pytest.mark.parametrize("place", ["data/archive", "archive", "data/logs", "../log", "/data"])
def test_an_archive_may_be_anywhere_else(place):
    assert Settings(archive_dir=place).archive_dir == Path(place)


def test_a_derived_port_just_fits():
    assert Settings(listen="127.0.0.1:55535").peer_listen == "127.0.0.1:65535"


# -------------------------------------------------------------------- security


@pytest.mark.parametrize("name", ["listen", "peer_listen", "http_listen"])
def test_an_open_address_needs_both_secrets_or_insecure(name):
    flags = {name: "192.0.2.1:5000", "advertise": "192.0.2.1:5000"}
    if name == "listen":
        flags |= {"peer_listen": "127.0.0.1:1", "http_listen": "127.0.0.1:2"}
    message = refused(flags=flags)
    assert "needs requirepass and peer_secret" in message
    assert "insecure" in message
    assert f"{name}: flag {SETTINGS[name].flag}, requirepass: not given, peer_secret: not given" in message
    assert "needs peer_secret;" in refused(flags=flags | {"requirepass": "a"})
    assert load(None, {}, flags | {"requirepass": "a", "peer_secret": "b"}).peer_secret == "b"
    assert load(None, {}, flags | {"insecure": True}).insecure


def test_a_wildcard_listens_everywhere_and_advertises_the_member_address():
    peers = "n1=db1.example:17379,n2=db2.example:17379"
    settings = Settings(listen="0.0.0.0:7379", peers=peers, requirepass=Secret("a"), peer_secret=Secret("b"))
    assert settings.advertise == "db1.example:7379"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("db1", False), ("192.0.2.1", False), ("localhost.example", False)],
)  # fmt: skip
def test_loopback(host, expected):
    assert is_loopback(host) is expected


def test_secrets_come_from_files(write):
    file = write("s3cret\n", "pass")
    settings = load(None, {"RAFTKV_REQUIREPASS_FILE": str(file)}, {})
    assert settings.requirepass == "s3cret"
    assert settings.requirepass_file == file
    # A stronger source wins, in both directions; two of one source are a mistake.
    assert load(None, {"RAFTKV_REQUIREPASS_FILE": str(file)}, {"requirepass": "flag"}).requirepass == "flag"
    assert load(None, {"RAFTKV_REQUIREPASS": "env"}, {"requirepass_file": file}).requirepass == "s3cret"
    message = refused(flags={"requirepass": "abcdef", "requirepass_file": file})
    assert "both given" in message
    assert "abcdef" not in message


def test_a_secret_file_that_cannot_be_used(tmp_path, write):
    assert "No such file" in refused(flags={"peer_secret_file": tmp_path / "none"})
    assert "is empty" in refused(flags={"peer_secret_file": write("\n", "empty")})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not readable as text" in refused(flags={"peer_secret_file": tmp_path / "binary"})
    message = refused(flags={"peer_secret_file": write("hush\nhush\n", "lines")})
    assert "named by flag --peer-secret-file" in message
    assert "hush" not in message


def test_no_message_or_view_shows_a_secret():
    settings = Settings(requirepass=Secret("hunter2"), peer_secret=Secret("swordfish"))
    for text in (repr(settings), str(view(settings)), refused(env={"RAFTKV_REQUIREPASS": "hunter2\n"})):
        assert "hunter2" not in text
        assert "swordfish" not in text
        assert "***" in text


def test_a_secret_hides_itself_but_compares_as_text():
    secret = Secret("hunter2")
    logged = "%s" % secret  # noqa: UP031 -- this is how logging formats
    assert {str(secret), repr(secret), f"{secret}", logged} == {"***"}
    assert (f"{secret:>5}", repr([secret])) == ("  ***", "[***]")
    assert secret == "hunter2"
    assert secret.encode() == b"hunter2"
    assert type(secret.reveal()) is str
    assert f"{secret.reveal()}" == "hunter2"
    assert not Secret("")
    assert str(Secret("")) == ""


# -------------------------------------------------------------------- run time


def test_change_returns_new_settings_and_leaves_the_old():
    old = Settings()
    new = change(old, "Slowlog-Log-Slower-Than", "5")
    assert (old.slowlog_log_slower_than, new.slowlog_log_slower_than) == (10_000, 5)
    with pytest.raises(FrozenInstanceError):
        new.timeout = 3


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("foo", "1")], "Unknown option or number of arguments for CONFIG SET - 'foo'"),
        ([("tcp-backlog", "1")], "CONFIG SET failed (possibly related to argument 'tcp-backlog') - can't set immutable config"),
        ([("maxclients", "abc")], "CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed into an integer"),
        ([("maxclients", "0")], "CONFIG SET failed (possibly related to argument 'maxclients') - argument must be between 1 and 1000000 inclusive"),
        ([("proto-max-bulk-len", "1zz")], "CONFIG SET failed (possibly related to argument 'proto-max-bulk-len') - argument must be a memory value"),
        ([("loglevel", "x")], "CONFIG SET failed (possibly related to argument 'loglevel') - argument(s) must be one of the following: debug, info, warning, error"),
        ([("timeout", "1"), ("TIMEOUT", "2")], "CONFIG SET failed (possibly related to argument 'TIMEOUT') - duplicate parameter"),
    ],
)  # fmt: skip
def test_change_refuses_with_the_texts_of_redis(pairs, expected):
    with pytest.raises(ConfigError) as caught:
        change_all(Settings(), pairs)
    assert str(caught.value) == "ERR " + expected


def test_changes_are_checked_together():
    settings = Settings()
    with pytest.raises(ConfigError, match=r"'proto-max-bulk-len'.*must not be above client_query_buffer_limit"):
        change(settings, "proto-max-bulk-len", "2gb")
    both = [("proto-max-bulk-len", "2gb"), ("client-query-buffer-limit", "3gb")]
    assert change_all(settings, both).proto_max_bulk_len == 2 * GIB


def test_the_password_cannot_be_removed_from_an_open_address():
    settings = Settings(
        listen="192.0.2.1:7379", requirepass=Secret("a"), peer_secret=Secret("b"),
    )  # fmt: skip
    assert change(settings, "requirepass", "new").requirepass == "new"
    with pytest.raises(ConfigError, match="needs requirepass;"):
        change(settings, "requirepass", "")


@given(st.data())
def test_what_config_get_shows_config_set_takes(data):
    """For every setting that CONFIG SET may change: show, then set, is the identity."""
    one = data.draw(st.sampled_from([one for one in SETTINGS.values() if one.runtime and not one.secret]))
    if isinstance(one.kind, (Integer, Size)):
        value = data.draw(st.integers(one.kind.low, one.kind.high))
    else:
        value = data.draw(st.sampled_from(one.kind.options))
    assert one.kind.read(one.kind.show(value)) == value


def test_view_names_every_setting_and_what_redis_tools_ask_for():
    shown = view(Settings())
    assert {one.config_name for one in SETTINGS.values()} <= set(shown)
    assert shown["databases"] == str(DATABASES)
    assert shown["save"] == ""
    assert shown["slowlog-log-slower-than"] == "10000"
    assert all(isinstance(text, str) for text in shown.values())


# -------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1048576", MIB),
        ("1mb", MIB),
        ("1MiB", MIB),
        ("2m", 2_000_000),
        ("1GB", GIB),
        ("2000k", 2_000_000),
        ("1024kb", MIB),
    ],
)
def test_sizes_have_the_units_of_redis(text, expected):
    assert Size(0, 64 * GIB).read(text) == expected


@given(st.ip_addresses(), st.integers(1, 65535))
def test_addresses_survive_join_and_split(ip, port):
    assert split_address(join_address(str(ip), port)) == (str(ip), port)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        host, port = split_address(text)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65535


# -------------------------------------------------------------------- the table and its document


def test_the_table_has_every_field_and_no_name_twice():
    assert list(SETTINGS) == [one.name for one in fields(Settings)]
    for attribute in ("env", "flag", "config_name"):
        names = [getattr(one, attribute) for one in SETTINGS.values()]
        assert len(set(names)) == len(names)
    assert all(one.meaning.endswith(".") and one.group for one in SETTINGS.values())
    assert SETTINGS["node_id"].flag == "--id"
    assert SETTINGS["data_dir"].flag == "--data"
    assert SETTINGS["slowlog_max_len"].help_text == (
        "Entries that SLOWLOG keeps. Allowed: an integer from 0 to 1000000. Default: 128."
    )


def test_the_document_has_the_table_of_the_code():
    text = DOCUMENT.read_text("utf-8")
    begin, end = "<!-- settings: begin -->\n", "<!-- settings: end -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)]
    assert shown.strip() == settings_table().strip(), "write what settings_table() gives into docs/configuration.md"


def test_no_size_is_allowed_that_the_layers_below_refuse():
    """Or a start ends in a traceback, and an entry that fits the log fits no message to a follower."""
    segment, batch = SETTINGS["segment_bytes"].kind, SETTINGS["max_batch_bytes"].kind
    assert isinstance(segment, Size)
    assert isinstance(batch, Size)
    assert LogOptions(segment_bytes=segment.low).segment_bytes == segment.low
    assert LogOptions(segment_bytes=segment.high).segment_bytes == segment.high
    assert batch.high <= min(BODY_BYTES_MAX, ENTRY_BYTES_MAX) - MIB
