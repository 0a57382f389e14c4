"""Bytes of a client connection to commands.

A client sends RESP arrays of bulk strings, or inline commands (lines of words), mixed at will and cut
anywhere by the network. Two parsers, one meaning:

* :class:`ReferenceParser` is plain Python, incremental, and the definition: every limit and every error
  text is decided here. It is linear in its input however that is cut.
* :class:`RequestParser` is what the server uses. When nothing is held back it gives the bytes to hiredis (C),
  and believes the result only as far as encoding it again yields the very bytes that came in; what is left
  goes to the reference. hiredis is a parser of *replies*: it takes integers, nested arrays and much else where
  a request must not have them, skips the two bytes after a bulk string unseen, and allocates a list of
  whatever length the peer declares. The comparison settles the first two, :func:`_declares_too_much` the last.

As in Redis 7.0, arrays of zero or negative length and blank lines are skipped, and the two bytes after a
bulk string are not looked at (such bytes are never ``aligned``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import hiredis

from raftkv.errors import ProtocolError
from raftkv.protocol.encoder import encode_commands
from raftkv.protocol.inline import split_inline

ARGUMENTS_MAX: Final = 1024 * 1024
BULK_BYTES_MAX: Final = 512 * 1024 * 1024
LINE_BYTES_MAX: Final = 64 * 1024
QUERY_BUFFER_BYTES_MAX: Final = 1024 * 1024 * 1024
UNAUTHENTICATED_ARGUMENTS_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16 * 1024

SHORT_BYTES_MAX: Final = 512
"""One command in so few bytes is parsed without hiredis."""
_SHORT_LINES: Final = {b"*%d" % words: 2 * words + 2 for words in range(1, UNAUTHENTICATED_ARGUMENTS_MAX)}
"""First line to the number of lines (the empty one at the end counts)."""
_SHORT_LENGTHS: Final = [b"$%d" % length for length in range(SHORT_BYTES_MAX + 1)]

_ARGUMENT_BYTES_MIN: Final = len(b"$0\r\n\r\n")
_CRLF_BYTES: Final = 2
_HEADER_BYTES_USUAL: Final = 16
_ZERO: Final = ord("0")
_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")
_NUMBER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
"""A canonical 64-bit number, as Redis' string2ll wants it: no plus, no leading zero, no space."""
_LONG_ARRAY: Final = re.compile(rb"\*([0-9]{5,})\r\n")
_LONG_AGGREGATE: Final = re.compile(rb"[*~>|%]([0-9]{5,})\r\n")
"""What may be the header of an array (or of any aggregate of RESP3) too long to allocate for on trust; up to 9999
elements (80 kB, given back before feed returns) are."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may declare and leave unfinished. Sizes in bytes."""

    arguments: int = ARGUMENTS_MAX
    """Words of one command, its name included."""
    bulk: int = BULK_BYTES_MAX
    """One argument."""
    line: int = LINE_BYTES_MAX
    """An inline command, or the header of an array or bulk string."""
    query_buffer: int = QUERY_BUFFER_BYTES_MAX
    """An incomplete command as it lies in memory between two feeds."""
    unauthenticated: bool = False
    """Also hold the client to what Redis allows before AUTH: 10 arguments of 16 KiB."""

    @property
    def arguments_allowed(self) -> int:
        """Most words of one command under these limits."""
        return min(self.arguments, UNAUTHENTICATED_ARGUMENTS_MAX) if self.unauthenticated else self.arguments

    @property
    def bulk_allowed(self) -> int:
        """Longest argument under these limits."""
        return min(self.bulk, UNAUTHENTICATED_BULK_BYTES_MAX) if self.unauthenticated else self.bulk


class _UnauthenticatedLimitError(ProtocolError):
    """A declaration that only AUTH would allow; the stream is intact."""


class ReferenceParser:
    """Incremental and exact; see the module's text. Bytes in, commands out, no I/O."""

    __slots__ = ("_arguments", "_bulk", "_line", "_missing", "_value", "buffered", "error", "limits")

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self.error: ProtocolError | None = None
        """Why the stream is broken; None while it is not."""
        self.buffered = 0
        """Bytes of the incomplete command, its headers included."""
        self._missing = 0  # arguments still to come; 0 between two commands
        self._arguments: list[bytes] = []
        self._bulk = -1  # length of the argument being read; -1 before its header
        self._value = bytearray()  # what has come of that argument
        self._line = b""  # what has come of a header or an inline command

    def feed(self, data: bytes) -> list[list[bytes]]:
        """All commands that ``data`` completes, in order; see ``error`` afterwards."""
        commands: list[list[bytes]] = []
        self.consume(data, commands)
        return commands

    def consume(self, data: bytes, commands: list[list[bytes]], *, one: bool = False) -> bytes:
        """Append what ``data`` completes to ``commands``; with ``one`` stop after the first command.

        Returns the bytes after it (empty unless ``one`` stopped it).
        """
        if self.error is not None:
            self._hold_back(data)
            return b""
        start = len(self._line)  # counted in ``buffered`` already
        if start:
            data = self._line + data
            self._line = b""
        pos = before = 0
        size = len(data)
        try:
            while pos < size:
                before = pos
                pos, command = self._step(data, pos)
                if pos == before:
                    self._line = data[pos:]
                    break
                if not self._missing:
                    self.buffered, start = 0, pos
                    if command:
                        commands.append(command)
                        if one:
                            return data[pos:]
            self.buffered += size - start
            if self.buffered > self.limits.query_buffer:
                raise ProtocolError("query buffer limit exceeded")
        except _UnauthenticatedLimitError as error:
            self.error = error
            self._line = data[before:]
            self.buffered += size - start
        except ProtocolError as error:
            self._break(error)
        return b""

    def authenticated(self) -> None:
        """Lift the limits that hold before AUTH. If one of them was the error, ``feed(b"")`` goes on."""
        limits = self.limits
        self.limits = Limits(limits.arguments, limits.bulk, limits.line, limits.query_buffer)
        if isinstance(self.error, _UnauthenticatedLimitError):
            self.error = None

    def unauthenticated(self) -> None:
        """Hold to the limits before AUTH again, from the next declaration on."""
        self.limits = replace(self.limits, unauthenticated=True)

    def _hold_back(self, data: bytes) -> None:
        """Keep what follows a declaration that AUTH may still allow; drop what follows anything else."""
        if isinstance(self.error, _UnauthenticatedLimitError):
            self._line += data
            self.buffered += len(data)
            if self.buffered > self.limits.query_buffer:
                self._break(ProtocolError("query buffer limit exceeded"))

    def _break(self, error: ProtocolError) -> None:
        self.error = error
        self.buffered = self._missing = 0
        self._arguments, self._value, self._line, self._bulk = [], bytearray(), b"", -1

    def _step(self, data: bytes, pos: int) -> tuple[int, list[bytes]]:
        """Read one header, argument (or what there is of it) or inline command at ``pos``.

        Returns where it ends (``pos`` itself when a line is incomplete) and the command it completed, if any.
        """
        if self._bulk >= 0:
            return self._argument(data, pos)
        if self._missing:
            end = self._whole_arguments(data, pos)
            if end > pos:
                return end, self._taken()
            if data[pos] != _DOLLAR:
                found = data[pos : pos + 1].decode("utf-8", "surrogateescape")
                raise ProtocolError(f"expected '$', got '{found}'")
            return self._bulk_header(data, pos), []
        if data[pos] == _STAR:
            return self._array_header(data, pos), []
        return self._inline(data, pos)

    def _whole_arguments(self, data: bytes, pos: int) -> int:
        """Take the arguments at ``pos`` that are here as a whole; where they end.

        A quick way through commands of many arguments: it stops at anything unusual, for the slow way to judge.
        """
        size, longest = len(data), self.limits.bulk_allowed
        append, missing = self._arguments.append, self._missing
        while missing and pos < size and data[pos] == _DOLLAR:
            end = data.find(b"\r\n", pos, pos + _HEADER_BYTES_USUAL)
            digits = data[pos + 1 : end] if end > 0 else b""
            if not digits.isdigit() or (digits[0] == _ZERO and len(digits) > 1):
                break
            start = end + _CRLF_BYTES
            stop = start + int(digits)
            if stop + _CRLF_BYTES > size or stop - start > longest:
                break
            append(data[start:stop])
            pos = stop + _CRLF_BYTES
            missing -= 1
        self._missing = missing
        return pos

    def _taken(self) -> list[bytes]:
        """The command, if it has all its arguments."""
        if self._missing:
            return []
        command, self._arguments = self._arguments, []
        return command

    def _array_header(self, data: bytes, pos: int) -> int:
        number, end = self._header(data, pos, "mbulk", "multibulk")
        if end > pos and number > 0:
            if number > self.limits.arguments:
                raise ProtocolError("invalid multibulk length")
            if number > self.limits.arguments_allowed:
                raise _UnauthenticatedLimitError("unauthenticated multibulk length")
            self._missing = number
        return end

    def _bulk_header(self, data: bytes, pos: int) -> int:
        number, end = self._header(data, pos, "bulk", "bulk")
        if end > pos:
            if not 0 <= number <= self.limits.bulk:
                raise ProtocolError("invalid bulk length")
            if number > self.limits.bulk_allowed:
                raise _UnauthenticatedLimitError("unauthenticated bulk length")
            self._bulk = number
        return end

    def _header(self, data: bytes, pos: int, short_kind: str, kind: str) -> tuple[int, int]:
        """The number of the header line at ``pos`` and where the line ends (``pos`` when incomplete)."""
        end = data.find(b"\r\n", pos, pos + self.limits.line + _CRLF_BYTES)
        if end < 0:
            if len(data) - pos - data.endswith(b"\r") > self.limits.line:
                raise ProtocolError(f"too big {short_kind} count string")
            return 0, pos
        if _NUMBER.fullmatch(data, pos + 1, end) is None:
            raise ProtocolError(f"invalid {kind} length")
        return int(data[pos + 1 : end]), end + _CRLF_BYTES

    def _argument(self, data: bytes, pos: int) -> tuple[int, list[bytes]]:
        value = self._value
        stop = pos + self._bulk + _CRLF_BYTES - len(value)
        if stop > len(data):
            value += memoryview(data)[pos:]
            return len(data), []
        if value:
            value += memoryview(data)[pos:stop]
            self._arguments.append(bytes(memoryview(value)[: self._bulk]))
            self._value = bytearray()
        else:
            self._arguments.append(data[pos : pos + self._bulk])
        self._bulk = -1
        self._missing -= 1
        return stop, self._taken()

    def _inline(self, data: bytes, pos: int) -> tuple[int, list[bytes]]:
        end = data.find(b"\n", pos, pos + self.limits.line + 1)
        if end < 0:
            if len(data) - pos > self.limits.line:
                raise ProtocolError("too big inline request")
            return pos, []
        stop = end - 1 if end > pos and data[end - 1] == ord("\r") else end
        return end + 1, split_inline(data[pos:stop])


class RequestParser:
    """The server's parser of one client connection; see the module's text. Bytes in, commands out, no I/O."""

    __slots__ = ("_fast_bytes_max", "_reader", "_reference", "_short_bytes_max", "aligned")

    def __init__(self, limits: Limits = Limits()) -> None:
        self.aligned = False
        """After :meth:`feed`: nothing was held before or is now, and the data is exactly the returned commands
        as RESP arrays of bulk strings, so it may go to the log as it is and be parsed again by hiredis. (False
        may also mean that this was not looked into, for more data at once than a limit allows in one command.)"""
        self._reference = ReferenceParser(limits)
        self._reader = hiredis.Reader()
        self._fast_bytes_max = _fast_bytes_max(limits)
        self._short_bytes_max = min(SHORT_BYTES_MAX, self._fast_bytes_max)

    @property
    def error(self) -> ProtocolError | None:
        """Set when the stream is broken: the commands before are returned, later feeds return nothing."""
        return self._reference.error

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete command."""
        return self._reference.buffered

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self._reference.limits

    def authenticated(self) -> None:
        """Lift the limits that hold before AUTH.

        Redis parses what is pipelined after an AUTH after having run it. So when ``error`` was one of those
        limits it is cleared, and the commands held back come from ``feed(b"")``.
        """
        self._reference.authenticated()
        self._limits_changed()

    def unauthenticated(self) -> None:
        """Impose them again. Commands that were parsed already are the caller's to check."""
        self._reference.unauthenticated()
        self._limits_changed()

    def _limits_changed(self) -> None:
        self._fast_bytes_max = _fast_bytes_max(self.limits)
        self._short_bytes_max = min(SHORT_BYTES_MAX, self._fast_bytes_max)

    def feed(self, data: bytes) -> list[list[bytes]]:
        """All commands that ``data`` completes, in order; see ``aligned`` and ``error`` afterwards."""
        command = self.feed_one(data)
        if command is not None:
            self.aligned = True
            return [command]
        reference = self._reference
        commands: list[list[bytes]] = []
        if reference.buffered or reference.error is not None:
            self.aligned = False
            data = reference.consume(data, commands, one=True)
            done = self._feed_hiredis(data, commands) if data else 0
        else:
            done = self._feed_hiredis(data, commands) if data else 0
            self.aligned = done == len(data)
        if done < len(data):
            reference.consume(data[done:] if done else data, commands)
        return commands

    def feed_one(self, data: bytes) -> list[bytes] | None:
        """The command, when ``data`` is exactly one short one and nothing is held. None: nothing was taken."""
        reference = self._reference
        if len(data) > self._short_bytes_max or reference.buffered or reference.error is not None:
            return None
        return _one_short_command(data)

    def _feed_hiredis(self, data: bytes, commands: list[list[bytes]]) -> int:
        """Append the commands at the start of ``data`` that are exactly RESP; returns how many bytes they are."""
        size = len(data)
        if data[0] != _STAR or size > self._fast_bytes_max or _declares_too_much(data):
            return 0
        reader = self._reader
        found: list[list[bytes]] = []
        try:
            reader.feed(data)
            reply = reader.gets()
            while type(reply) is list and reply:
                found.append(reply)
                reply = reader.gets()
        except (hiredis.HiredisError, TypeError):  # TypeError: a map of RESP3 with an array as key
            reply = None
        try:
            encoded = encode_commands(found)
        except TypeError:  # an element that is no bytes
            encoded = b"?"
        done = len(encoded)
        if encoded == data and reply is False:
            commands += found
            return done
        self._reader = hiredis.Reader()  # it holds the rest, which the reference is to have
        if data.startswith(encoded):
            commands += found
            return done
        return 0


def _one_short_command(data: bytes) -> list[bytes] | None:
    """The command, when ``data`` is exactly one of a few short words (a client that does not pipeline).

    A third of the time of a trip through hiredis and back: the lines between the CRLFs are the answer if every
    length line is that of its word. A word that holds CRLF itself makes too many lines, and takes the long way.
    """
    words = data.split(b"\r\n")
    if len(words) != _SHORT_LINES.get(words[0]) or words[-1]:
        return None
    lengths = words[1:-1:2]
    command = words[2::2]
    return command if lengths == [_SHORT_LENGTHS[len(word)] for word in command] else None


def _fast_bytes_max(limits: Limits) -> int:
    """So few bytes cannot hold a whole command that breaks ``limits``."""
    return min(limits.bulk_allowed, limits.arguments_allowed * _ARGUMENT_BYTES_MIN)


def _declares_too_much(data: bytes) -> bool:
    """Whether a header declares more elements than ``data`` has room for (hiredis would allocate for them).

    The header may in truth be part of a value: the reference then parses what hiredis could have.
    """
    rare = b"~" in data or b">" in data or b"|" in data or b"%" in data
    header = _LONG_AGGREGATE if rare else _LONG_ARRAY  # a literal first byte is found much faster than a class
    if header.search(data) is None:
        return False
    room = len(data) // _ARGUMENT_BYTES_MIN
    return any(len(number) > 9 or int(number) > room for number in header.findall(data))


def parse_commands(data: bytes) -> Sequence[list[bytes]]:
    """Parse the exact concatenation of commands that ``aligned`` or ``encode_command`` vouch for.

    Raises ProtocolError when ``data`` is anything else.
    """
    parser = RequestParser()
    commands = parser.feed(data)
    if data and not parser.aligned:
        raise parser.error or ProtocolError("not a whole number of commands")
    return commands
