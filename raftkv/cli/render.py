"""Replies as people and scripts read them: ``pretty`` (as redis-cli on a terminal), ``raw``, ``json``, ``table``."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any, Final, Literal, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from raftkv.cli.resp import ErrorText, Map, Members, Number, Push, Status, Text, Value, quote

Format: TypeAlias = Literal["pretty", "raw", "json", "table"]

_TEXT_COMMANDS: Final = frozenset(
    {"INFO", "LOLWUT", "CLUSTER INFO", "CLUSTER NODES", "CLIENT LIST", "CLIENT INFO", "LATENCY DOCTOR", "MEMORY DOCTOR"}
)
"""Their bulk string is text for people, shown as it is (redis-cli does the same)."""

_RED: Final = "\x1b[31m"
_DIM: Final = "\x1b[2m"
_RESET: Final = "\x1b[0m"


def is_text(words: list[bytes]) -> bool:
    """Whether the command that ``words`` name answers text for people."""
    names = [word.decode("utf-8", "replace").upper() for word in words[:2]]
    return bool(names) and (names[0] in _TEXT_COMMANDS or " ".join(names) in _TEXT_COMMANDS)


def render(value: Value, style: Format, *, text: bool = False, color: bool = False) -> bytes:
    """The whole output for one reply, with a line end. ``text``: a bulk string is shown unquoted."""
    if style == "json":
        return json.dumps(as_json(value), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    if style == "table":
        return _table(value, color=color)
    if style == "raw":
        shown = _raw(value)
        return shown if shown.endswith(b"\n") else shown + b"\n"
    if isinstance(value, bytes) and (text or isinstance(value, Text)):
        return bytes(value) if value.endswith(b"\n") else bytes(value) + b"\n"
    return _pretty(value, "", color=color).encode("utf-8", "surrogateescape")


# ------------------------------------------------------------------------- pretty
def _pretty(value: Value, indent: str, *, color: bool) -> str:
    if isinstance(value, Map):
        return _numbered(list(value.pairs), "#", "(empty hash)", indent, color=color)
    if isinstance(value, list):
        mark, empty = ")", "(empty array)"
        if isinstance(value, Members):
            mark, empty = "~", "(empty set)"
        elif isinstance(value, Push):
            mark, empty = ">", "(empty push)"
        return _numbered(value, mark, empty, indent, color=color)
    return _scalar(value, color=color) + "\n"


def _scalar(value: Value, *, color: bool) -> str:
    if isinstance(value, ErrorText):
        shown = f"(error) {value}"
        return f"{_RED}{shown}{_RESET}" if color else shown
    if value is None:
        return f"{_DIM}(nil){_RESET}" if color else "(nil)"
    if isinstance(value, Status):
        return str(value)
    if isinstance(value, Number):
        return f"(double) {value}"
    if isinstance(value, bool):
        return f"({str(value).lower()})"
    if isinstance(value, int):
        return f"(integer) {value}"
    assert isinstance(value, bytes)
    return quote(value)


def _numbered(items: list[Any], mark: str, empty: str, indent: str, *, color: bool) -> str:
    if not items:
        return empty + "\n"
    width = len(str(len(items)))
    inner = indent + " " * (width + 2)
    out = []
    for number, item in enumerate(items, 1):
        label = f"{number:>{width}}{mark} "
        out.append(("" if number == 1 else indent) + (f"{_DIM}{label}{_RESET}" if color else label))
        if mark == "#":
            key, item = item  # noqa: PLW2901 -- a pair is shown as its key and then as its value
            out.append(_pretty(key, inner, color=color).removesuffix("\n") + " => ")
            if isinstance(item, Map | list) and len(item.pairs if isinstance(item, Map) else item):
                out.append("\n" + inner)
        out.append(_pretty(item, inner, color=color))
    return "".join(out)


# ---------------------------------------------------------------------------- raw
def _raw(value: Value) -> bytes:
    if isinstance(value, Map):
        return b"\n".join(_raw(one) for pair in value.pairs for one in pair)
    if isinstance(value, list):
        return b"\n".join(map(_raw, value))
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


# --------------------------------------------------------------------------- json
def as_json(value: Value) -> Any:
    r"""What :mod:`json` can write. Bytes that are not UTF-8 become ``\xNN``; a map keeps its keys as text."""
    if isinstance(value, Map):
        return {_key(key): as_json(item) for key, item in value.pairs}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, ErrorText):
        return {"error": str(value)}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Number):
        try:
            return json.loads(value)
        except ValueError:  # inf, nan: JSON has no numbers for them
            return str(value)
    return value


def _key(value: Value) -> str:
    plain = as_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


# -------------------------------------------------------------------------- table
def _table(value: Value, *, color: bool) -> bytes:
    columns, rows = _grid(value)
    table = Table(box=box.SIMPLE_HEAD if columns else box.SIMPLE, show_header=bool(columns), pad_edge=False)
    for name in columns or [""] * max((len(row) for row in rows), default=1):
        table.add_column(RichText(name), overflow="fold")
    for row in rows:
        table.add_row(*map(RichText, row))
    out = StringIO()
    console = Console(file=out, force_terminal=color, no_color=not color, highlight=False, width=None if color else 200)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines()).encode() + b"\n"


def _grid(value: Value) -> tuple[list[str], list[list[str]]]:
    """(column names, rows). A map is a row a field; a list of maps a row a map; a list of lists a row a list."""
    if isinstance(value, Map):
        return ["field", "value"], [[_cell(key), _cell(item)] for key, item in value.pairs]
    if isinstance(value, list) and value:
        if all(isinstance(item, Map) for item in value):
            maps = [{_cell(key): _cell(one) for key, one in item.pairs} for item in value if isinstance(item, Map)]
            names = list(dict.fromkeys(name for item in maps for name in item))
            return names, [[item.get(name, "") for name in names] for item in maps]
        if all(isinstance(item, list) for item in value):
            lists = [item for item in value if isinstance(item, list)]
            width = max(len(item) for item in lists)
            return [], [[_cell(one) for one in item] + [""] * (width - len(item)) for item in lists]
        return ["#", "value"], [[str(number), _cell(item)] for number, item in enumerate(value, 1)]
    return ["value"], [] if isinstance(value, list) else [[_cell(value)]]


def _cell(value: Value) -> str:
    if value is None:
        return "(nil)"
    if isinstance(value, ErrorText):
        return f"(error) {value}"
    plain = as_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
