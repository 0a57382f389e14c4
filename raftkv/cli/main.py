"""The commands of ``raftkv`` and their options; what each does is in the module that it calls."""

from __future__ import annotations

import errno
import inspect
import os
import sys
from dataclasses import replace
from enum import StrEnum
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from chaos.matrix.command import matrix
from chaos.sim.command import sim
from raftkv.cli.archive import app as archive_app
from raftkv.cli.backup import app as backup_app
from raftkv.cli.cluster import app as cluster_app
from raftkv.cli.diff import diff
from raftkv.cli.import_file import import_file
from raftkv.cli.options import Host, Password, Port, User
from raftkv.cli.recover import recover
from raftkv.cli.repair import repair
from raftkv.cli.restore import restore
from raftkv.cli.snapshot import app as snapshot_app
from raftkv.cli.wal import app as wal_app
from raftkv.config import SETTINGS, Setting, load
from raftkv.config_values import YesNo
from raftkv.errors import ConfigError, RaftKVError

if TYPE_CHECKING:
    from raftkv.cli.shell import Shell

EXIT_CONFIG: Final = 2
"""A setting is wrong, or a node could not start: starting it again will not help."""

EXIT_OUTPUT: Final = 74
"""Standard output could not be written (EX_IOERR of sysexits.h)."""

RUN: Final = "Run nodes"
USE: Final = "Use and manage a cluster"
KEEP: Final = "Back up and restore"
RESCUE: Final = "Look into and rescue the files of a node"
PROVE: Final = "Search for faults"
"""Titles under which ``raftkv --help`` lists the commands."""

app = typer.Typer(
    name="raftkv",
    help="A replicated, linearizable key-value store that speaks the Redis protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help"]},
)


def main() -> None:
    """Entry point of the ``raftkv`` script. Exits with the command's code."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # a path need not be UTF-8: it goes out as it came in
    try:
        try:
            app()
        finally:
            if sys.stdout:  # none when it is closed
                sys.stdout.flush()  # what cannot be written is said here, not ignored by the interpreter at its end
    except ConfigError as error:
        print(f"raftkv: {error.message}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except BrokenPipeError:  # `raftkv cli ... | head`: whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # `raftkv snapshot dump ... > FILE` on a full disk
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is still buffered cannot be written either
        print(f"raftkv: the output cannot be written and is incomplete: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_OUTPUT)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"raftkv {version('raftkv')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A replicated, linearizable key-value store that speaks the Redis protocol."""


# ------------------------------------------------------------------------ server
def _server(**given: Any) -> None:
    """Run one node until SIGTERM or Ctrl-C.

    Every setting can stand in a TOML file (--config), in the environment (RAFTKV_...) and here; flags win.
    """
    file: Path | None = given.pop("config")
    if file is None and os.environ.get("RAFTKV_CONFIG"):
        file = Path(os.environ["RAFTKV_CONFIG"])
    settings = load(file, os.environ, given)
    from raftkv.server import start

    try:
        code = start.run(settings)
    except RaftKVError as error:
        print(f"raftkv: {error.message}", file=sys.stderr)
        raise typer.Exit(EXIT_CONFIG) from None
    raise typer.Exit(code)


def _flag(setting: Setting) -> inspect.Parameter:
    """The option of one setting. Values stay text: the table checks them and names flag and allowed values."""
    switch = isinstance(setting.kind, YesNo)
    name = f"{setting.flag}/--no-{setting.flag[2:]}" if switch else setting.flag
    option = typer.Option(
        name, help=setting.help_text, rich_help_panel=setting.group, show_default=False, metavar=None if switch else "VALUE"
    )  # fmt: skip
    kind: Any = bool | None if switch else str | None
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _declare_server() -> None:
    """Give ``_server`` one option for each row of the settings table, then register it."""
    config = inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[
            Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings; also RAFTKV_CONFIG.")
        ],
    )  # fmt: skip
    parameters = [config, *map(_flag, SETTINGS.values())]
    _server.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature reads
    _server.__annotations__ = {one.name: one.annotation for one in parameters}
    app.command("server", rich_help_panel=RUN)(_server)


_declare_server()


# --------------------------------------------------------------------------- dev
@app.command("dev", rich_help_panel=RUN)
def _dev(
    nodes: Annotated[int, typer.Option("--nodes", help="Number of nodes.")] = 3,
    port: Annotated[
        int,
        typer.Option(
            "--port", help="Node i listens for clients at PORT+i-1, for HTTP 1000 higher, for its peers 10000 higher."
        ),
    ] = 7379,
    data: Annotated[Path, typer.Option("--data", help="Directory; node i keeps its files in DATA/node<i>.")] = Path(
        "data"
    ),
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with settings for every node.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start nodes again that end by themselves.")] = False,
) -> None:
    """Run a cluster on this machine, one process for each node; Ctrl-C stops it and keeps the data.

    Settings for every node: --config, or the environment (RAFTKV_FSYNC=everysec raftkv dev).
    """
    from raftkv.cli import dev, topology

    members = topology.fixed_layout(nodes, port, data)
    settings = load(config, os.environ, {})  # a wrong value is told once, before anything starts
    cluster = dev.Cluster(
        members,
        extra=[] if config is None else ["--config", str(config)],
        restart=restart,
        password=settings.requirepass.reveal(),
    )
    raise typer.Exit(cluster.run())


# ----------------------------------------------------------------------- cluster
app.add_typer(cluster_app, name="cluster", rich_help_panel=USE)
app.add_typer(archive_app, name="archive", rich_help_panel=KEEP)
app.add_typer(backup_app, name="backup", rich_help_panel=KEEP)


# ------------------------------------------------------------ a node's files
app.add_typer(wal_app, name="wal", rich_help_panel=RESCUE)
app.add_typer(snapshot_app, name="snapshot", rich_help_panel=RESCUE)


# --------------------------------------------------------------------------- cli
class OutputFormat(StrEnum):
    """What ``--format`` takes."""

    RAW = "raw"
    JSON = "json"
    TABLE = "table"
    PRETTY = "pretty"


@app.command("cli", context_settings={"allow_interspersed_args": False}, rich_help_panel=USE)
def _cli(
    command: Annotated[
        list[str] | None, typer.Argument(help="A command and its arguments.", show_default=False)
    ] = None,
    port: Port = 7379,
    host: Host = "127.0.0.1",
    password: Password = "",
    user: User = "",
    database: Annotated[int, typer.Option("--db", "-n", help="Database.")] = 0,
    style: Annotated[
        OutputFormat | None,
        typer.Option("--format", help="Default: pretty (as redis-cli) on a terminal, raw in a pipe."),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="File of commands, one a line; - is standard input.")
    ] = None,
    pipe: Annotated[
        bool, typer.Option("--pipe", help="Mass insertion: send standard input (RESP or lines), count the replies.")
    ] = False,
    pipe_timeout: Annotated[
        float, typer.Option("--pipe-timeout", help="Seconds without a reply after which --pipe gives up.")
    ] = 30.0,
    resp3: Annotated[
        bool | None,
        typer.Option("--resp3/--resp2", "-3/-2", help="Protocol. Default: RESP3 for json and table, else RESP2."),
    ] = None,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours; the variable NO_COLOR does the same.")
    ] = False,
) -> None:
    """Send one command, those of a file, or those of standard input; on a terminal without any of them, open a prompt.

    The prompt has completion and hints. Options stand before the command. Exit code 1 when a reply is an error.
    """
    from raftkv.cli.shell import Options, Shell, run_prompt

    terminal = sys.stdout.isatty()
    chosen = style or (OutputFormat.PRETTY if terminal else OutputFormat.RAW)
    wide = chosen in (OutputFormat.JSON, OutputFormat.TABLE) if resp3 is None else resp3
    options = Options(
        host, port, user=user, password=password, database=database, resp3=wide, style=chosen.value,
        color=terminal and not no_color and not os.environ.get("NO_COLOR"),
    )  # fmt: skip
    shell = Shell(options, sys.stdout.buffer)
    try:
        if pipe:
            raise typer.Exit(_pipe(shell, pipe_timeout))
        if command:
            shell.execute([os.fsencode(word) for word in command])
        elif file not in (None, "-"):
            with Path(str(file)).open(encoding="utf-8", errors="surrogateescape") as lines:
                shell.execute_lines(lines)
        elif file == "-" or not sys.stdin.isatty():
            sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # it is a TextIOWrapper
            shell.execute_lines(sys.stdin)
        else:
            raise typer.Exit(run_prompt(shell))
    except RaftKVError as error:
        print(f"raftkv cli: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        print(f"raftkv cli: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        shell.close()
    raise typer.Exit(1 if shell.failures else 0)


def _pipe(shell: Shell, timeout_s: float) -> int:
    from raftkv.cli.pipe import pump

    outcome = pump(shell.connect().fileno(), sys.stdin.fileno(), timeout_s=timeout_s)
    for text in outcome.first_errors:
        print(text, file=sys.stderr)
    print(f"errors: {outcome.errors}, replies: {outcome.replies}")
    if outcome.problem:
        print(f"raftkv cli: {outcome.problem}; what was sent may have taken effect", file=sys.stderr)
    return 1 if outcome.errors or outcome.problem else 0


# ------------------------------------------------------------------------- bench
@app.command("bench", rich_help_panel=USE)
def _bench(
    workloads: Annotated[
        str,
        typer.Option(
            "--workload",
            "-t",
            help="Workloads, separated by commas: ping, set, get, incr, lpush, rpush, lpop, rpop, sadd, hset, hget, zadd.",
        ),
    ] = "set,get",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="Port of any node; the leader's is the fastest.")] = 7379,
    password: Password = "",
    clients: Annotated[int, typer.Option("--clients", "-c", help="Connections.")] = 50,
    pipeline: Annotated[int, typer.Option("--pipeline", "-P", help="Commands in flight on each connection.")] = 1,
    requests: Annotated[int, typer.Option("--requests", "-n", help="Commands of each workload.")] = 100_000,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Stop sending after this time; 0: after --requests.")
    ] = 0.0,
    size: Annotated[int, typer.Option("--size", "-d", help="Bytes of a value.")] = 64,
    keyspace: Annotated[int, typer.Option("--keyspace", "-r", help="Different keys.")] = 100_000,
    processes: Annotated[int, typer.Option("--processes", help="Processes that share the clients.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random choice of keys.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each workload.")] = False,
) -> None:
    """Put load on a cluster, and report throughput, latency percentiles and errors of each workload.

    The load generator is written in Python, and reports how busy it was itself; benchmarks/loadgen is one in C.
    """
    from raftkv.cli import bench

    names = [name for name in workloads.split(",") if name]
    plan = bench.Plan(host, port, names[0] if names else "", clients, pipeline, requests, seconds, size, keyspace, seed, password)  # fmt: skip
    bench.check(plan, names, processes)
    rows = []
    try:
        for name in names:
            result = bench.run_workload(replace(plan, workload=name), processes)
            rows.append(bench.summary(name, result, processes))
    except RaftKVError as error:
        print(f"raftkv bench: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(bench.report(rows, as_json=as_json))
    failed = any(row["errors"] or not row["commands"] for row in rows)
    raise typer.Exit(1 if failed else 0)


# ------------------------------------------- what has modules of its own for its options
app.command("import", rich_help_panel=USE)(import_file)
app.command("restore", rich_help_panel=KEEP)(restore)
app.command("diff", rich_help_panel=KEEP)(diff)
app.command("recover", rich_help_panel=RESCUE)(recover)
app.command("repair", rich_help_panel=RESCUE)(repair)
app.command("sim", rich_help_panel=PROVE)(sim)
app.command("matrix", rich_help_panel=PROVE)(matrix)
