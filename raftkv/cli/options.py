"""Options that several commands have: where a node is, and as whom to ask it."""

from __future__ import annotations

from typing import Annotated

import typer

Port = Annotated[int, typer.Option("--port", "-p", help="Port of any node.")]
Host = Annotated[str, typer.Option("--host", "-h", help="Host of any node.")]
Password = Annotated[str, typer.Option("--pass", "-a", envvar="REDISCLI_AUTH", help="Password.", show_default=False)]
User = Annotated[str, typer.Option("--user", help="User, if not the default one.", show_default=False)]
