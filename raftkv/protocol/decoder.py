"""Bytes from a server to values, for clients.

=================  ==========================================
RESP2 and RESP3    Python
=================  ==========================================
simple, bulk       ``bytes``
integer            ``int``
null, null array   ``None``
array              ``list``
map                ``dict``
set                ``list``, in the server's order
double             ``float``
boolean            ``bool``
verbatim           ``bytes`` without its kind
error              :class:`ResponseError`, an instance, never raised here
push               :class:`Push`
=================  ==========================================
"""

from __future__ import annotations

from typing import Any, Final

import hiredis

from raftkv.errors import ProtocolError, RaftKVError

_MISSING: Final = object()


class ResponseError(RaftKVError):
    """An error line of the server. ``code`` is its first word when that is in capitals, else ``ERR``.

    ``str(error)`` is the line as it came, without ``-``.
    """

    def __init__(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word and word == word.upper():
            super().__init__(rest, code=word)
        else:
            super().__init__(line)


class Push(list[Any]):
    """An out-of-band message of RESP3: its kind, then its content."""


class ReplyParser:
    """Incremental parser of replies over hiredis. Bytes in, values out, no I/O."""

    __slots__ = ("_reader",)

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=ResponseError, notEnoughData=_MISSING)

    def feed(self, data: bytes) -> list[Any]:
        """All replies that ``data`` completes, in order.

        Raises ProtocolError when the bytes are no RESP; the connection is of no use then.
        """
        reader = self._reader
        reader.feed(data)
        replies: list[Any] = []
        try:
            while (reply := reader.gets()) is not _MISSING:
                replies.append(Push(reply) if isinstance(reply, hiredis.PushNotification) else reply)
        except (hiredis.HiredisError, TypeError) as error:  # TypeError: a map with an array as key
            raise ProtocolError(str(error)) from None
        return replies
