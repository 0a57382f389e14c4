"""Structured logs on the standard library's logging, as text for people or JSON lines for machines.

``log = get_logger("server"); log.info("became leader", term=3)`` writes

* text: ``2026-01-02T03:04:05.678Z info raftkv.server became leader term=3``
* JSON:
  ``{"time":"2026-01-02T03:04:05.678Z","level":"info","logger":"raftkv.server","message":"became leader","term":3}``

One record is one line: line breaks and other control characters are escaped, so that no client can forge a record by
what it sends. A layer below the server, which may not import this module, uses ``logging`` itself and passes fields as
``extra={"fields": {...}}``.

Secrets: a :class:`~raftkv.config.Secret` shows as ``***`` wherever it stands in a field, and the texts of the secrets
that :func:`configure` was given are masked in messages, fields and tracebacks, should one have slipped into them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from typing import IO, Any, Final

from raftkv.config import Secret
from raftkv.server.log_writer import LineWriter, QueueingHandler

ROOT: Final = "raftkv"
STANDARD_ERROR: Final = 2
LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""The values of the setting ``loglevel``."""
MASKED_LENGTH_MIN: Final = 4
"""A shorter secret is not searched for in text: it would mask parts of ordinary words (a Secret still hides itself)."""

_LEVEL_NAMES: Final = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}
_RESERVED: Final = frozenset({"time", "level", "logger", "message", "error", "traceback"})
_BARE: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What ends a line somewhere, moves a terminal's cursor, or cannot be encoded."""


class Logger:
    """What the server logs with: an event's name, and its facts as fields."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, /, **fields: object) -> None:
        """For whoever debugs raftkv itself."""
        self._log(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        """Something that an operator wants to find later."""
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        """Something that an operator should look at; the node goes on."""
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        """Something that the node cannot do."""
        self._log(logging.ERROR, message, fields)

    def exception(self, message: str, /, **fields: object) -> None:
        """As :meth:`error`, with the exception that is being handled and its traceback."""
        self._log(logging.ERROR, message, fields, with_exception=True)

    def _log(self, level: int, message: str, fields: dict[str, object], *, with_exception: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", message, extra={"fields": fields}, exc_info=with_exception)


def get_logger(name: str) -> Logger:
    """The logger ``raftkv.<name>`` (a name that begins with ``raftkv`` stays as it is)."""
    full = name if name == ROOT or name.startswith(ROOT + ".") else f"{ROOT}.{name}"
    return Logger(logging.getLogger(full))


def configure(level: str, form: str, *, secrets: Iterable[str] = (), stream: IO[str] | None = None) -> None:
    """Send all logs to ``stream``, in place of what an earlier call configured; without one to standard error, on a
    thread.

    ``level`` and ``form`` are values of the settings ``loglevel`` and ``logformat``; ``secrets`` are to be masked.
    """
    mask = _mask_for(secrets)
    handler = QueueingHandler(_standard_error()) if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(mask) if form == "json" else TextFormatter(mask))
    root = logging.getLogger(ROOT)
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.propagate = False
    set_level(level)


@cache
def _standard_error() -> LineWriter:
    return LineWriter(STANDARD_ERROR)


def lines_dropped() -> int:
    """Log lines since the start that standard error did not take."""
    return _standard_error().dropped


def set_level(level: str) -> None:
    """CONFIG SET loglevel. Raises KeyError for a word that is not in :data:`LEVELS`."""
    logging.getLogger(ROOT).setLevel(LEVELS[level])


class _Mask:
    """Replaces what must not be shown in a text."""

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self._pattern = pattern

    def text(self, text: str) -> str:
        """``text`` with every known secret as ``***``."""
        return text if self._pattern is None else self._pattern.sub("***", text)

    def value(self, value: object) -> Any:
        """``value`` as JSON can say it, secrets masked, at any depth. (``str`` of a Secret hides it.)"""
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value)):
            return value
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(one) for one in value]
        if isinstance(value, (bytes, bytearray)):
            return self.text(bytes(value).decode("utf-8", "backslashreplace"))
        return self.text(str(value))


def _mask_for(secrets: Iterable[str]) -> _Mask:
    plain = {one.reveal() if isinstance(one, Secret) else one for one in secrets}
    # Longest first: a secret that contains another one must not leave a part of itself behind.
    worth = sorted((one for one in plain if len(one) >= MASKED_LENGTH_MIN), key=lambda one: (-len(one), one))
    return _Mask(re.compile("|".join(map(re.escape, worth))) if worth else None)


class _Formatter(logging.Formatter):
    """The parts that both forms share."""

    def __init__(self, mask: _Mask) -> None:
        super().__init__()
        self._mask = mask

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """time, level, logger, message, then the fields, then error and traceback."""
        moment = datetime.fromtimestamp(record.created, UTC)
        found: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": _LEVEL_NAMES.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
            "message": self._mask.text(record.getMessage()),
        }
        fields = getattr(record, "fields", None)
        for name, value in fields.items() if isinstance(fields, Mapping) else ():
            found[f"field_{name}" if name in _RESERVED else name] = self._mask.value(value)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            found["error"] = self._mask.text(f"{type(error).__name__}: {error}")
            found["traceback"] = self._mask.text(self.formatException(record.exc_info))
        return found


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.parts(record), ensure_ascii=True, separators=(",", ":"))


class TextFormatter(_Formatter):
    """``time level logger message key=value ...``; values that are not one plain word are in JSON's quotes.

    A traceback follows on lines of its own, each indented, so that it cannot be taken for a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        parts = self.parts(record)
        traceback = parts.pop("traceback", "")
        message = _CONTROL.sub(lambda found: _escaped(found[0]), parts.pop("message"))
        head = f"{parts.pop('time')} {parts.pop('level')} {parts.pop('logger')} {message}"
        words = [head, *(f"{_word(name)}={_word(value)}" for name, value in parts.items())]
        line = " ".join(words)
        for row in str(traceback).splitlines():
            line += "\n    " + _CONTROL.sub(lambda found: _escaped(found[0]), row)
        return line


def _word(value: object) -> str:
    if isinstance(value, str):
        return value if _BARE.match(value) else json.dumps(value, ensure_ascii=True)
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _escaped(char: str) -> str:
    return json.dumps(char, ensure_ascii=True)[1:-1]
