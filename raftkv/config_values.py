# ruff: noqa: TRY004 -- a value of a wrong type is a wrong value to whoever configures: one error for both
"""Kinds of values that a setting can have: how each is read, shown, and described to people.

A kind reads what any source gives (TOML's own types, or text from the environment, a flag or CONFIG SET) and
raises ValueError with Redis' wording (``redis-server`` 7.0, CONFIG SET) when it is not allowed. Reading is
idempotent: ``kind.read(kind.read(x)) == kind.read(x)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
PORT_MAX: Final = 65535
SECRET_LENGTH_MAX: Final = 4096

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}\Z", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,19})([a-z]{0,3})\Z", re.ASCII)
_SIZE_UNITS: Final = {
    "": 1, "b": 1, "k": 1000, "kb": KIB, "kib": KIB, "m": 1000**2, "mb": MIB, "mib": MIB, "g": 1000**3, "gb": GIB,
    "gib": GIB,
}  # fmt: skip
"""As in redis.conf (k = 1000, kb = 1024), and the unambiguous spellings besides."""
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z", re.IGNORECASE
)
_NODE_ID: Final = re.compile(r"[a-z0-9-]{1,32}\Z")


class Secret(str):
    """Text that must not be printed: ``str()``, ``repr()`` and formatting give ``***`` (nothing when empty).

    Comparison, ``len`` and ``encode`` see the text itself; :meth:`reveal` returns it as a plain string.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "***" if self else ""

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def reveal(self) -> str:
        """The secret itself."""
        return str.__str__(self)


class Kind(Protocol):
    """How the values of one setting are read, shown and described."""

    @property
    def allowed(self) -> str:
        """What is allowed, for an error message and the documentation."""
        ...

    def read(self, raw: object) -> Any:
        """The typed value. Raises ValueError with Redis' wording."""
        ...

    def show(self, value: Any) -> str:
        """The value as CONFIG GET answers it; :meth:`read` understands it (but for a secret)."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"an integer from {self.low} to {self.high}"

    def read(self, raw: object) -> int:
        if isinstance(raw, str) and _INTEGER.match(raw):
            raw = int(raw)
        if not isinstance(raw, int) or isinstance(raw, bool):
            msg = "argument couldn't be parsed into an integer"
            raise ValueError(msg)
        return _in_range(raw, self.low, self.high)

    def show(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, with a unit or without."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"bytes from {show_size(self.low)} to {show_size(self.high)}; units k, kb, m, mb, g, gb as in Redis"

    def read(self, raw: object) -> int:
        if isinstance(raw, str):
            found = _SIZE.match(raw.lower())
            if found is not None and found[2] in _SIZE_UNITS:
                raw = int(found[1]) * _SIZE_UNITS[found[2]]
        if not isinstance(raw, int) or isinstance(raw, bool):
            msg = "argument must be a memory value"
            raise ValueError(msg)
        return _in_range(raw, self.low, self.high)

    def show(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.options)

    def read(self, raw: object) -> str:
        if isinstance(raw, str) and raw.lower() in self.options:
            return raw.lower()
        msg = "argument(s) must be one of the following: " + ", ".join(self.options)
        raise ValueError(msg)

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True, slots=True)
class YesNo:
    """A switch."""

    @property
    def allowed(self) -> str:
        return "yes or no"

    def read(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and raw.lower() in ("yes", "true", "1", "no", "false", "0"):
            return raw.lower() in ("yes", "true", "1")
        msg = "argument must be 'yes' or 'no'"
        raise ValueError(msg)

    def show(self, value: bool) -> str:
        return "yes" if value else "no"


@dataclass(frozen=True, slots=True)
class Name:
    """A short identifier."""

    pattern: str
    allowed: str
    optional: bool = False

    def read(self, raw: object) -> str:
        if isinstance(raw, str) and ((self.optional and not raw) or re.fullmatch(self.pattern, raw, re.ASCII)):
            return raw
        msg = f"argument must be {self.allowed}"
        raise ValueError(msg)

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True, slots=True)
class Address:
    """``host:port``; an IPv6 address stands in brackets."""

    optional: bool = False

    @property
    def allowed(self) -> str:
        return f"host:port or [IPv6 address]:port, port from 1 to {PORT_MAX}"

    def read(self, raw: object) -> str:
        if self.optional and raw == "":
            return ""
        if not isinstance(raw, str):
            msg = f"argument must be {self.allowed}"
            raise ValueError(msg)
        return join_address(*split_address(raw))

    def show(self, value: str) -> str:
        return value


@dataclass(frozen=True, slots=True)
class Members:
    """The members of the cluster: node id to peer address; as text ``n1=host:port,n2=host:port``."""

    @property
    def allowed(self) -> str:
        return "id=host:port,id=host:port,... (in TOML also a table), each id of a-z 0-9 - and at most 32 characters"

    def read(self, raw: object) -> dict[str, str]:
        members: dict[str, str] = {}
        for node_id, address in self._pairs(raw):
            if not _NODE_ID.match(node_id):
                msg = f"'{node_id}' is not a node id (a-z 0-9 -, at most 32 characters)"
                raise ValueError(msg)
            if node_id in members:
                msg = f"member '{node_id}' is there twice"
                raise ValueError(msg)
            members[node_id] = join_address(*split_address(address))
        return dict(sorted(members.items()))

    @staticmethod
    def _pairs(raw: object) -> list[tuple[str, str]]:
        if isinstance(raw, Mapping):
            return [(str(node_id), str(address)) for node_id, address in raw.items()]
        if not isinstance(raw, str):
            msg = "argument must be id=host:port,..."
            raise ValueError(msg)
        pairs = []
        for part in raw.split(",") if raw.strip() else []:
            node_id, equals, address = part.strip().partition("=")
            if not equals:
                msg = f"'{part.strip()}' is not id=host:port"
                raise ValueError(msg)
            pairs.append((node_id.strip(), address.strip()))
        return pairs

    def show(self, value: Mapping[str, str]) -> str:
        return ",".join(f"{node_id}={address}" for node_id, address in value.items())


@dataclass(frozen=True, slots=True)
class Location:
    """A path in the file system."""

    optional: bool = False

    @property
    def allowed(self) -> str:
        return "a path" + (", or nothing" if self.optional else "")

    def read(self, raw: object) -> Path | None:
        if self.optional and (raw is None or raw == ""):
            return None
        if not isinstance(raw, (str, Path)) or not str(raw) or "\0" in str(raw):
            msg = "argument must be a path"
            raise ValueError(msg)
        return Path(raw)

    def show(self, value: Path | None) -> str:
        return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Password:
    """A secret; shown as ``***``."""

    @property
    def allowed(self) -> str:
        return f"text of at most {SECRET_LENGTH_MAX} characters, without line breaks; empty: none"

    def read(self, raw: object) -> Secret:
        if not isinstance(raw, str) or len(raw) > SECRET_LENGTH_MAX or any(char in raw for char in "\0\r\n"):
            msg = "argument must be " + self.allowed
            raise ValueError(msg)
        return raw if isinstance(raw, Secret) else Secret(raw)

    def show(self, value: Secret) -> str:
        return repr(value)


def _in_range(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        msg = f"argument must be between {low} and {high} inclusive"
        raise ValueError(msg)
    return value


def show_size(count: int) -> str:
    """Bytes in the largest binary unit that divides them: ``256 MiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return str(count)


def split_address(text: str) -> tuple[str, int]:
    """``"[::1]:7379"`` to ``("::1", 7379)``. Raises ValueError that says what is wrong with ``text``."""
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        valid = ":" in host and _is_ip(host)
    else:
        numeric = not host.replace(".", "").strip("0123456789")
        valid = _is_ip(host) if numeric else _HOST_NAME.match(host) is not None
    if not colon or not valid:
        msg = f"'{text}' is not host:port or [IPv6 address]:port"
        raise ValueError(msg)
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 1 <= int(port_text) <= PORT_MAX):
        msg = f"the port of '{text}' is not a number from 1 to {PORT_MAX}"
        raise ValueError(msg)
    return host, int(port_text)


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. A name other than ``localhost`` counts as reachable."""
    return ip_address(host).is_loopback if _is_ip(host) else host.lower() == "localhost"


def is_wildcard(host: str) -> bool:
    """Whether ``host`` means "every interface" (``0.0.0.0``, ``::``), which nobody can connect to."""
    return _is_ip(host) and ip_address(host).is_unspecified
