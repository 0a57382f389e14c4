"""A reader of RESP replies that keeps every difference a client could see.

hiredis turns simple and bulk strings into the same bytes, null arrays and null strings into the same None; here each
reply is a tuple of its kind and its content. Independent of the code under test on purpose.
"""

from __future__ import annotations

import socket
from typing import Any, TypeAlias

Seen: TypeAlias = tuple[str, Any]
"""("simple" | "bulk" | "error" | "integer" | "null" | "nil-array" | "array" | "map" | "set" | "double" | "bool", content)."""

NULL: Seen = ("null", None)
NIL_ARRAY: Seen = ("nil-array", None)
_CONTAINERS = {b"*": "array", b"%": "map", b"~": "set"}


class Connection:
    """A socket to redis-server: batches of commands in, one :data:`Seen` each out."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, commands: list[list[bytes]]) -> list[Seen]:
        self._socket.sendall(b"".join(_encode(argv) for argv in commands))
        return [self._read() for _ in commands]

    def _read(self) -> Seen:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError(f"the server closed the connection: {line!r}")
        mark, rest = line[:1], line[1:-2]
        if mark in _CONTAINERS:
            return self._read_container(mark, int(rest))
        match mark:
            case b"+":
                return "simple", rest.decode()
            case b"-":
                return "error", rest.decode()
            case b":":
                return "integer", int(rest)
            case b"$" if rest == b"-1":
                return NULL
            case b"$":
                return "bulk", self._file.read(int(rest) + 2)[:-2]
            case b"_":
                return NULL
            case b",":
                return "double", float(rest)
            case b"#":
                return "bool", rest == b"t"
        raise AssertionError(f"unknown reply {line!r}")

    def _read_container(self, mark: bytes, count: int) -> Seen:
        if count < 0:
            return NIL_ARRAY
        if mark == b"%":
            return "map", [(self._read(), self._read()) for _ in range(count)]
        return _CONTAINERS[mark], [self._read() for _ in range(count)]


def _encode(argv: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in argv)
