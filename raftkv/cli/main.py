"""The commands of ``raftkv`` and their options; what each does is in the module that it calls."""

from __future__ import annotations

import inspect
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from raftkv.config import SETTINGS, Setting, load
from raftkv.config_values import YesNo
from raftkv.errors import ConfigError, RaftKVError

EXIT_CONFIG: Final = 2
"""A setting is wrong, or a node could not start: starting it again will not help."""

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
    try:
        app()
    except ConfigError as error:
        print(f"raftkv: {error.message}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except BrokenPipeError:  # `raftkv cli ... | head`: whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


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
    from raftkv.server import node

    try:
        code = node.run(settings)
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
    app.command("server")(_server)


_declare_server()


# --------------------------------------------------------------------------- dev
@app.command("dev")
def _dev(
    nodes: Annotated[int, typer.Option("--nodes", help="Number of nodes.")] = 3,
    port: Annotated[
        int,
        typer.Option(
            "--port", help="Node i listens for clients at PORT+i-1, for HTTP 1000 and for its peers 10000 higher."
        ),
    ] = 7379,
    data: Annotated[Path, typer.Option("--data", help="Directory; node i keeps its files in DATA/node<i>.")] = Path(
        "data"
    ),
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with settings for every node.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start a node again that ended by itself.")] = False,
) -> None:
    """A cluster on this machine, one process a node; Ctrl-C stops it and keeps the data.

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
