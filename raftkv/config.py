# ruff: noqa: RUF009 -- _setting() is dataclasses.field() with our metadata: a declaration, not a shared value
"""Settings: one table, frozen and validated once.

The fields of :class:`Settings` are the table. Names in the environment, flags, their help, CONFIG GET and SET, the
checks of values and ``docs/configuration.md`` all derive from a field's declaration (:data:`SETTINGS`).

Sources, later ones win: defaults, a TOML file, the environment (``RAFTKV_...``), flags. A setting that is unknown or
has a value outside what is allowed stops the start with a :class:`~raftkv.errors.ConfigError` that names it, its
source, its value (never a secret's) and what is allowed. No :class:`Settings` exists that breaks a rule, because the
constructor applies the same checks.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from raftkv.config_conflicts import conflicts
from raftkv.config_values import (
    GIB,
    KIB,
    MIB,
    PORT_MAX,
    Address,
    Choice,
    Integer,
    Kind,
    Location,
    Members,
    Name,
    Password,
    Secret,
    Size,
    YesNo,
    is_wildcard,
    join_address,
    show_size,
    split_address,
)
from raftkv.errors import ConfigError

__all__ = ["SETTINGS", "ConfigError", "Secret", "Setting", "Settings", "change", "change_all", "load", "view"]

T = TypeVar("T")

ENVIRONMENT_PREFIX: Final = "RAFTKV_"
PEER_PORT_OFFSET: Final = 10_000
HTTP_PORT_OFFSET: Final = 1_000
INT31_MAX: Final = 2**31 - 1

_NOT_SETTINGS: Final = re.compile(r"RAFTKV_(CONFIG|SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_[0-9]+_\w+)\Z")
"""``RAFTKV_CONFIG`` names the file itself; the others are what Kubernetes injects for a Service called raftkv."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of one setting. Its default stands in typed form in ``default``."""

    name: str
    default: Any
    kind: Kind
    meaning: str
    group: str
    unit: str
    runtime: bool
    """Changeable with CONFIG SET."""
    flag: str
    """``--listen``."""
    derived: str
    """How the value comes about when none is given; empty when ``default`` stands."""

    @property
    def env(self) -> str:
        """``RAFTKV_LISTEN``."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def config_name(self) -> str:
        """The name in CONFIG GET and CONFIG SET: ``slowlog-max-len``."""
        return self.name.replace("_", "-")

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown."""
        return isinstance(self.kind, Password)

    @property
    def default_text(self) -> str:
        """The default, for people."""
        if self.derived:
            return self.derived
        if isinstance(self.kind, Size):
            return show_size(self.default)
        return self.kind.show(self.default) or "none"

    @property
    def help_text(self) -> str:
        """One line for ``--help``: meaning, allowed values, default."""
        unit = f" in {self.unit}" if self.unit else ""
        return f"{self.meaning} Allowed: {self.kind.allowed}{unit}. Default: {self.default_text}."


def _setting(
    default: T, kind: Kind, meaning: str, *, unit: str = "", runtime: bool = False, flag: str = "", derived: str = ""
) -> T:  # fmt: skip
    extra = {"kind": kind, "meaning": meaning, "unit": unit, "runtime": runtime, "flag": flag, "derived": derived}
    if isinstance(default, dict):
        return cast("T", field(default_factory=lambda: dict(default), metadata=extra))
    return field(default=default, metadata=extra)


def _node_name(allowed: str) -> Name:
    return Name(r"[a-z0-9-]{1,32}", allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one node. Units are in the names; sizes are in bytes.

    Empty addresses, members and cluster id are filled in (see ``derived`` of each). Raises ConfigError.
    """

    # -- Identity and addresses
    node_id: str = _setting(
        "n1", _node_name("1 to 32 characters of a-z 0-9 -"), "Name of this node, unique in the cluster.", flag="--id"
    )
    listen: str = _setting("127.0.0.1:7379", Address(), "Address for clients (Redis protocol).")
    peer_listen: str = _setting(
        "", Address(optional=True), "Address for the other nodes (Raft).",
        derived="this node's entry in peers, else the loopback address with listen's port + 10000",
    )  # fmt: skip
    http_listen: str = _setting(
        "", Address(optional=True), "Address for /health, /ready and /metrics.",
        derived="the loopback address with listen's port + 1000",
    )  # fmt: skip
    advertise: str = _setting(
        "", Address(optional=True), "Address that clients are told (MOVED, CLUSTER SLOTS).",
        derived="listen; when that is a wildcard, the host of this node's entry in peers with listen's port",
    )  # fmt: skip
    peer_advertise: str = _setting(
        "", Address(optional=True),
        "Address where the other nodes reach this one (a DNS name, or what a NAT shows); need not be peer_listen.",
        derived="this node's entry in peers, else peer_listen",
    )  # fmt: skip
    peers: dict[str, str] = _setting(
        {}, Members(),
        "The members that the cluster begins with and their peer addresses, this node included. Later the log says "
        "who the members are, and these are only further addresses to try.",
        derived="this node alone",
    )  # fmt: skip
    join: bool = _setting(
        False, YesNo(),
        "This node is new: it waits until it is added to a running cluster (raftkv cluster add). It needs the cluster_id of "
        "that cluster. No effect once it was added.",
    )  # fmt: skip
    cluster_id: str = _setting(
        "", Name(r"[A-Za-z0-9_.-]{1,64}", "1 to 64 characters of A-Z a-z 0-9 _ . -", optional=True),
        "Nodes with another cluster id are refused. Set it where two clusters use the same node ids.",
        derived="c- and a hash of the sorted ids in peers",
    )  # fmt: skip
    data_dir: Path = _setting(Path("data"), Location(), "Directory of the log and the snapshots.", flag="--data")

    # -- Security
    requirepass: Secret = _setting(Secret(""), Password(), "Password that clients give with AUTH.", runtime=True)
    requirepass_file: Path | None = _setting(None, Location(optional=True), "File that holds requirepass.")
    peer_secret: Secret = _setting(Secret(""), Password(), "Secret that nodes prove to each other; same on every node.")
    peer_secret_file: Path | None = _setting(None, Location(optional=True), "File that holds peer_secret.")
    insecure: bool = _setting(
        False, YesNo(), "Allow addresses that are not loopback without requirepass and peer_secret."
    )

    # -- Clients
    redirect: Literal["forward", "moved"] = _setting(
        "forward", Choice(("forward", "moved")),
        "What a follower does with a plain client's command: forward it to the leader, or answer MOVED.", runtime=True,
    )  # fmt: skip
    maxclients: int = _setting(10_000, Integer(1, 1_000_000), "Most client connections at once.", runtime=True)
    timeout: int = _setting(
        0, Integer(0, INT31_MAX), "Close a client that was idle for this time; 0: never.", unit="seconds", runtime=True
    )
    tcp_backlog: int = _setting(511, Integer(1, 65_535), "Most connections that may wait to be accepted.")
    client_query_buffer_limit: int = _setting(
        GIB, Size(MIB, 64 * GIB), "Close a client whose unfinished commands take more than this.", runtime=True
    )
    client_output_buffer_limit: int = _setting(
        256 * MIB,
        Size(MIB, 64 * GIB),
        "Close a client that leaves more than this of its replies unread. Read larger values in parts (GETRANGE).",
        runtime=True,
    )
    proto_max_bulk_len: int = _setting(
        512 * MIB, Size(MIB, 4 * GIB), "Longest single argument of a command.", runtime=True
    )
    slowlog_log_slower_than: int = _setting(
        10_000, Integer(-1, 2**63 - 1), "Commands that took longer than this are in SLOWLOG; 0: all, -1: none.",
        unit="microseconds", runtime=True,
    )  # fmt: skip
    slowlog_max_len: int = _setting(128, Integer(0, 1_000_000), "Entries that SLOWLOG keeps.", runtime=True)
    request_timeout_ms: int = _setting(
        5_000, Integer(10, 3_600_000),
        "Answer UNKNOWN for a write that was not decided within this time: it may still take effect.",
        unit="milliseconds", runtime=True,
    )  # fmt: skip
    session_ttl_s: int = _setting(
        3_600, Integer(1, 31_536_000),
        "Forget an idle client session (exactly-once retries) after this time; same on every node.", unit="seconds",
    )  # fmt: skip

    # -- Replication
    election_timeout_ms: int = _setting(
        400, Integer(50, 600_000),
        "A follower starts an election after hearing nothing from its leader for one to two times this long.",
        unit="milliseconds",
    )  # fmt: skip
    heartbeat_ms: int = _setting(
        50,
        Integer(5, 60_000),
        "How often a leader that has nothing else to send tells its followers that it is there.",
        unit="milliseconds",
    )
    read_lease: bool = _setting(
        False, YesNo(),
        "Let a leader answer reads without asking the others, for nine tenths of election_timeout_ms after they last "
        "answered. Only where clocks can be trusted: see Read lease.",
    )  # fmt: skip
    max_batch_bytes: int = _setting(
        8 * MIB,
        Size(64 * KIB, 512 * MIB),
        "Most bytes of commands that share one log entry; a larger command gets an entry of its own.",
    )
    max_pending_bytes: int = _setting(
        256 * MIB, Size(MIB, 64 * GIB), "Refuse writes (TRYAGAIN) while more than this waits to be committed."
    )
    digest_interval: int = _setting(
        4_096, Integer(1, INT31_MAX), "Compare the states of the replicas every so many log entries."
    )

    # -- Durability
    fsync: Literal["always", "everysec", "no"] = _setting(
        "always", Choice(("always", "everysec", "no")),
        "When writes are synced. always: before they are acknowledged. everysec: a power failure of a majority at once loses up "
        "to one second of acknowledged writes. no: it loses what the operating system had not written yet.",
    )  # fmt: skip
    repair: Literal["auto", "manual"] = _setting(
        "auto", Choice(("auto", "manual")), "When the log is damaged: auto sets it aside, and the others take the node back; "
        "manual refuses to start until `raftkv repair` was run.",
    )  # fmt: skip
    segment_bytes: int = _setting(64 * MIB, Size(MIB, GIB), "Size of one file of the log.")
    snapshot_log_bytes: int = _setting(
        256 * MIB, Size(MIB, 1024 * GIB),
        "Take a snapshot after this much log. As much log may be kept for live followers that are behind.",
    )  # fmt: skip
    snapshot_entries: int = _setting(1_000_000, Integer(1, INT31_MAX), "Take a snapshot after so many log entries.")
    log_retain_bytes: int = _setting(
        64 * MIB,
        Size(0, 1024 * GIB),
        "Log kept although a snapshot covers it, so that a node that was away needs no snapshot.",
    )
    disk_reserve_bytes: int = _setting(
        64 * MIB, Size(0, 1024 * GIB),
        "Space claimed in the data directory and given back when the disk is full, so that deletions and a snapshot still "
        "find room; 0: none.",
    )  # fmt: skip
    disk_low_bytes: int = _setting(
        256 * MIB, Size(0, 1024 * GIB),
        "With less free space than this the node raises an alarm: the whole cluster refuses commands that may take space.",
        runtime=True,
    )  # fmt: skip
    disk_high_bytes: int = _setting(
        384 * MIB, Size(0, 1024 * GIB), "With more free space than this the node clears its alarm.", runtime=True
    )
    disk_slow_ms: int = _setting(
        100, Integer(0, INT31_MAX), "Warn of syncs of the log that take longer than this; 0: never.", unit="milliseconds",
        runtime=True,
    )  # fmt: skip
    disk_stall_ms: int = _setting(
        2_000, Integer(0, INT31_MAX), "A leader whose log waits for its disk for longer than this hands leadership over; 0: never.",
        unit="milliseconds",
    )  # fmt: skip
    snapshot_level: int = _setting(3, Integer(1, 19), "zstd level of snapshots: higher is smaller and slower.")

    # -- Archive
    archive_dir: Path | None = _setting(
        None, Location(optional=True),
        "Directory into which committed entries are archived, for going back in time. Each node needs its own, best on another disk.",
    )  # fmt: skip
    archive_file_bytes: int = _setting(
        16 * MIB, Size(4 * KIB, GIB), "Close a file of the archive when it holds this much, before compression."
    )
    archive_file_s: int = _setting(
        10, Integer(1, 86_400), "Close a file of the archive after this time. Until then its entries are in the log only.",
        unit="seconds",
    )  # fmt: skip
    archive_base_s: int = _setting(
        86_400, Integer(60, INT31_MAX), "Put a snapshot into the archive this often; a restore replays what follows it.",
        unit="seconds",
    )  # fmt: skip
    archive_retain_bytes: int = _setting(
        GIB, Size(0, 1024 * GIB), "Log kept for an archive that lags or fails; beyond it the archive gets a gap."
    )

    # -- Logging
    loglevel: Literal["debug", "info", "warning", "error"] = _setting(
        "info", Choice(("debug", "info", "warning", "error")), "Least severe messages that are logged.", runtime=True
    )
    logformat: Literal["text", "json"] = _setting("text", Choice(("text", "json")), "Form of the log lines.")

    def __post_init__(self) -> None:
        for one in SETTINGS.values():
            try:
                value = one.kind.read(getattr(self, one.name))
            except ValueError as error:
                raise _refusal(one, getattr(self, one.name), "", error) from None
            object.__setattr__(self, one.name, value)
        _derive(self)
        for names, message in conflicts(self):
            raise _ConflictError(names, message)


_GROUPS: Final = {
    "Identity and addresses": "node_id",
    "Security": "requirepass",
    "Clients": "redirect",
    "Replication": "election_timeout_ms",
    "Durability": "fsync",
    "Archive": "archive_dir",
    "Logging": "loglevel",
}
"""Title to its first setting."""


def _table() -> dict[str, Setting]:
    table = {}
    titles = {first: title for title, first in _GROUPS.items()}
    group = ""
    for one in fields(Settings):
        group = titles.get(one.name, group)
        made = dict(one.metadata) | {"flag": one.metadata["flag"] or "--" + one.name.replace("_", "-")}
        default = {} if one.name == "peers" else one.default
        table[one.name] = Setting(name=one.name, default=default, group=group, **made)
    return table


SETTINGS: Final[dict[str, Setting]] = _table()
"""Every setting by name, in the order of the documentation."""


class _ConflictError(ConfigError):
    """Two settings that do not go together; ``names`` are all that the message is about."""

    def __init__(self, names: tuple[str, ...], message: str) -> None:
        self.names = names
        super().__init__(message)


def _derive(settings: Settings) -> None:
    """Fill in what was left empty. Later lines use what earlier ones filled in."""
    host, port = split_address(settings.listen)
    own = settings.peers.get(settings.node_id, "")

    def fill(name: str, value: object) -> None:
        if not getattr(settings, name):
            object.__setattr__(settings, name, value)

    if own:
        fill("peer_listen", own)
    for name, offset in (("peer_listen", PEER_PORT_OFFSET), ("http_listen", HTTP_PORT_OFFSET)):
        if not getattr(settings, name) and port + offset > PORT_MAX:
            msg = f"{name} must be given, because listen's port + {offset} is above {PORT_MAX}"
            raise _ConflictError((name, "listen"), msg)
        fill(name, join_address("127.0.0.1", port + offset))
    fill("advertise", join_address(split_address(own)[0], port) if own and is_wildcard(host) else settings.listen)
    fill("peer_advertise", own or settings.peer_listen)
    if not settings.join:
        fill("peers", {settings.node_id: settings.peer_listen})
        ids = ",".join(sorted(settings.peers))
        fill("cluster_id", "c-" + sha256(ids.encode()).hexdigest()[:16])


# -------------------------------------------------------------------- sources


@dataclass(frozen=True, slots=True)
class _Given:
    """A raw value and where it came from."""

    value: object
    source: str
    rank: int
    """0 file, 1 environment, 2 flag."""


def load(file: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """Settings from a TOML file (or none), the environment and flags (name to value; None: not given).

    Raises ConfigError that names the setting, its source, its value (never a secret's) and what is allowed.
    """
    given: dict[str, _Given] = {}
    if file is not None:
        given |= _from_file(file)
    given |= _from_environment(env)
    given |= _from_flags(flags)
    _read_secret_files(given)
    values = {}
    for name, one in given.items():
        setting = SETTINGS[name]
        try:
            values[name] = setting.kind.read(one.value)
        except ValueError as error:
            raise _refusal(setting, one.value, one.source, error) from None
    try:
        return Settings(**values)
    except _ConflictError as error:
        where = ", ".join(f"{name}: {given[name].source if name in given else 'not given'}" for name in error.names)
        msg = f"{error.message} ({where})"
        raise ConfigError(msg) from None


def _from_file(file: Path) -> dict[str, _Given]:
    try:
        text = file.read_text("utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        msg = f"cannot read the configuration file {file}: {error.strerror or error}"
        raise ConfigError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file} is not valid TOML: {error}"
        raise ConfigError(msg) from None
    given = {}
    for name, value in content.items():
        source = f"{file}:{_line_of(text, name)}"
        if name not in SETTINGS:
            raise _unknown(name, source, list(SETTINGS))
        given[name] = _Given(value, source, 0)
    return given


def _line_of(text: str, name: str) -> int:
    """The first line that looks as if it set ``name``: tomllib does not tell where a key stood."""
    pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(name)}["']?\s*[]=.]""")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)


def _from_environment(env: Mapping[str, str]) -> dict[str, _Given]:
    by_env = {one.env: one.name for one in SETTINGS.values()}
    given = {}
    for variable in sorted(env):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _NOT_SETTINGS.match(variable):
            continue
        if variable not in by_env:
            raise _unknown(variable, "the environment", list(by_env))
        given[by_env[variable]] = _Given(env[variable], f"environment variable {variable}", 1)
    return given


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    given = {}
    for name, value in flags.items():
        if name not in SETTINGS:
            raise _unknown(name, "the command line", list(SETTINGS))
        if value is not None:
            given[name] = _Given(value, f"flag {SETTINGS[name].flag}", 2)
    return given


def _read_secret_files(given: dict[str, _Given]) -> None:
    """Put what ``..._file`` names in the place of the secret, unless a stronger source gives the secret itself."""
    for name in [one.name for one in SETTINGS.values() if one.secret]:
        reference, direct = given.get(f"{name}_file"), given.get(name)
        if reference is None or reference.value == "":
            continue
        if direct is not None and direct.rank == reference.rank:
            msg = f"{name} and {name}_file are both given ({direct.source}; {reference.source}); give one of them"
            raise ConfigError(msg)
        if direct is not None and direct.rank > reference.rank:
            continue
        try:
            text = Path(str(reference.value)).read_text("utf-8")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not readable as text"
            msg = f"{name}_file: cannot read {reference.value} ({reference.source}): {why}"
            raise ConfigError(msg) from None
        source = f"file {reference.value}, named by {reference.source}"
        given[name] = _Given(text.removesuffix("\n").removesuffix("\r"), source, reference.rank)
        if not given[name].value:
            msg = f"{name}_file: {reference.value} ({reference.source}) is empty"
            raise ConfigError(msg)


def _refusal(setting: Setting, value: object, source: str, error: ValueError) -> ConfigError:
    shown = "***" if setting.secret else repr(str(value))
    where = f" ({source})" if source else ""
    return ConfigError(f"setting {setting.name} = {shown}{where} is refused: {error}; allowed: {setting.kind.allowed}")


def _unknown(name: str, source: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; docs/configuration.md lists all"
    return ConfigError(f"unknown setting {name} in {source}{hint}")


# -------------------------------------------------------------------- at run time


def change(settings: Settings, name: str, value: str) -> Settings:
    """CONFIG SET of one setting; see :func:`change_all`."""
    return change_all(settings, [(name, value)])


def change_all(settings: Settings, pairs: Sequence[tuple[str, str]]) -> Settings:
    """CONFIG SET: all of the changes or, when ConfigError (with Redis' texts) is raised, none of them.

    A name may be written with ``-`` or ``_``, in any case.
    """
    changes: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in pairs:
        setting = SETTINGS.get(name.lower().replace("-", "_"))
        if setting is None:
            msg = f"Unknown option or number of arguments for CONFIG SET - '{name}'"
            raise ConfigError(msg)
        if not setting.runtime:
            raise _not_set(name, "can't set immutable config")
        if setting.name in changes:
            raise _not_set(name, "duplicate parameter")
        try:
            changes[setting.name] = setting.kind.read(value)
        except ValueError as error:
            raise _not_set(name, str(error)) from None
        written[setting.name] = name
    try:
        return replace(settings, **changes)
    except _ConflictError as error:
        blamed = next((written[name] for name in error.names if name in written), pairs[0][0])
        raise _not_set(blamed, error.message) from None


def _not_set(name: str, why: str) -> ConfigError:
    return ConfigError(f"CONFIG SET failed (possibly related to argument '{name}') - {why}")


def view(settings: Settings) -> dict[str, str]:
    """Every name that CONFIG GET knows with its text; a secret that is set shows as ``***``.

    The last few are Redis' names for what is fixed here: redis-benchmark and RedisInsight ask for them.
    """
    shown = {one.config_name: one.kind.show(getattr(settings, one.name)) for one in SETTINGS.values()}
    shown["appendonly"] = "yes"
    shown["appendfsync"] = settings.fsync
    shown["save"] = ""
    shown["databases"] = "16"
    shown["maxmemory"] = "0"
    shown["maxmemory-policy"] = "noeviction"
    return shown


def settings_table() -> str:
    """The tables of ``docs/configuration.md``, in Markdown."""
    lines: list[str] = []
    for group in _GROUPS:
        lines += [f"### {group}", "", "| setting | meaning | allowed | default | CONFIG SET |", "|---|---|---|---|---|"]
        for one in SETTINGS.values():
            if one.group == group:
                unit = f" ({one.unit})" if one.unit else ""
                names = f"`{one.name}`<br>`{one.flag}`<br>`{one.env}`"
                change_text = "yes" if one.runtime else "no"
                lines.append(
                    f"| {names} | {one.meaning} | {one.kind.allowed}{unit} | {one.default_text} | {change_text} |"
                )
        lines.append("")
    return "\n".join(lines)
