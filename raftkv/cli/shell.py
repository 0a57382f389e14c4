"""``raftkv cli``: commands from arguments, from a file, or from a prompt, each with its reply."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from raftkv.cli.connection import Connection
from raftkv.cli.render import Format, is_text, render
from raftkv.cli.resp import ErrorText, Push, Value, encode, split_line
from raftkv.errors import ProtocolError

_SECRET_LINE: Final = re.compile(
    r"\s*(auth\b|hello\b.*\bauth\b|config\s+set\b.*(pass|secret)|acl\s+setuser\b)", re.IGNORECASE
)
"""Lines that stay out of the history, because they hold a password."""


@dataclass(slots=True)
class Options:
    """What the user asked for."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    database: int = 0
    resp3: bool = False
    style: Format = "raw"
    color: bool = False


class Shell:
    """One connection, made when the first command needs it and again after it was lost."""

    def __init__(self, options: Options, output: BinaryIO) -> None:
        self.options = options
        self.database = options.database
        self.in_transaction = False
        self.failures = 0
        """Error replies and lost connections so far."""
        self._output = output
        self._connection: Connection | None = None

    def connect(self) -> Connection:
        """The open connection, or a new one. Raises OSError and RaftKVError."""
        if self._connection is None:
            options = self.options
            made = Connection(options.host, options.port)
            try:
                made.greet(
                    user=options.user, password=options.password, database=self.database, resp3=options.resp3
                )  # fmt: skip
            except BaseException:
                made.close()
                raise
            self._connection = made
        return self._connection

    def close(self) -> None:
        """Forget the connection; the next command opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.in_transaction = False

    def execute(self, words: list[bytes]) -> bool:
        """Send one command and show what comes back; False after an error reply or a lost connection."""
        try:
            connection = self.connect()
            connection.send(encode(words))
            reply = connection.read()
            while isinstance(reply, Push):
                self._show(reply, words)
                reply = connection.read()
        except (OSError, ProtocolError) as error:
            self.close()
            self._complain(f"{self.options.host}:{self.options.port}: {getattr(error, 'strerror', None) or error}")
            return False
        except KeyboardInterrupt:  # the reply may still come: this connection's stream is no use any more
            self.close()
            self._complain("interrupted; the command may have taken effect")
            return False
        self._show(reply, words)
        if isinstance(reply, ErrorText):
            self.failures += 1
            return False
        self._follow(words)
        return True

    def execute_lines(self, lines: Iterable[str]) -> None:
        """One command a line; empty lines and ``#`` comments are skipped, errors are shown and counted."""
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                words = split_line(line)
            except ValueError as error:
                self._complain(f"line {number}: {error}")
                continue
            self.execute(words)

    def _follow(self, words: list[bytes]) -> None:
        """Keep what the prompt shows in step with the connection."""
        name = words[0].upper()
        if name == b"SELECT" and not self.in_transaction:
            self.database = int(words[1])
        elif name == b"MULTI":
            self.in_transaction = True
        elif name in (b"EXEC", b"DISCARD", b"RESET"):
            self.in_transaction = False
            self.database = 0 if name == b"RESET" else self.database

    def _show(self, reply: Value, words: list[bytes]) -> None:
        options = self.options
        self._output.write(render(reply, options.style, text=is_text(words), color=options.color))
        self._output.flush()

    def _complain(self, message: str) -> None:
        self.failures += 1
        print(f"raftkv cli: {message}", file=sys.stderr, flush=True)


def history_file() -> Path:
    """Where the prompt keeps its lines: ``$XDG_STATE_HOME/raftkv/history``."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "raftkv" / "history"


def belongs_in_history(line: str) -> bool:
    """Whether a line holds no secret."""
    return _SECRET_LINE.match(line) is None


def run_prompt(shell: Shell) -> int:
    """Read lines from the terminal until ``exit`` or Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.shortcuts import clear
    from prompt_toolkit.styles import Style

    from raftkv.cli.hints import CommandCompleter, HintProcessor, describe

    class Discreet(FileHistory):
        def store_string(self, string: str) -> None:
            if belongs_in_history(string):
                super().store_string(string)

    history: History = InMemoryHistory()
    try:
        path = history_file()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        history = Discreet(str(path))
    except OSError as error:
        print(f"raftkv cli: no history file: {error}", file=sys.stderr)
    session: PromptSession[str] = PromptSession(
        history=history, completer=CommandCompleter(), complete_while_typing=False,
        input_processors=[HintProcessor()], style=Style.from_dict({"hint": "#808080"} if shell.options.color else {}),
    )  # fmt: skip
    while True:
        try:
            line = session.prompt(_prompt_text(shell))
            words = split_line(line)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return 0
        except ValueError as error:
            print(f"raftkv cli: {error}", file=sys.stderr)
            continue
        if not words:
            continue
        match words[0].lower():
            case b"exit" | b"quit":
                return 0
            case b"clear":
                clear()
            case b"help":
                print(describe([word.decode("utf-8", "replace") for word in words[1:]]))
            case _:
                shell.execute(words)


def _prompt_text(shell: Shell) -> str:
    options = shell.options
    database = f"[{shell.database}]" if shell.database else ""
    return f"{options.host}:{options.port}{database}{'(TX)' if shell.in_transaction else ''}> "
