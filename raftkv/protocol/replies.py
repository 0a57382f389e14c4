"""What a command may return. The encoder turns it into RESP2 or RESP3.

=================  =======================================  ==========================
Python             RESP2                                    RESP3
=================  =======================================  ==========================
``None``           null bulk string                         null
``NIL_ARRAY``      null array                               null
``str``            simple string                            simple string
``bytes``          bulk string                              bulk string
``int``            integer                                  integer
``bool``           integer 0 or 1                           boolean
``float``          bulk string                              double
``list, tuple``    array                                    array
``dict``           flat array of key, value                 map
``SetReply``       array                                    set
``Pairs``          flat array                               array of two-element arrays
``Verbatim``       bulk string                              verbatim string
``RaftKVError``    error                                    error
``Raw``            already encoded for the connection       the same
=================  =======================================  ==========================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Reply: TypeAlias = Any
"""One of the types of the table above; nested in containers at will."""

OK: Final = "OK"
QUEUED: Final = "QUEUED"


class NilArray:
    """The type of :data:`NIL_ARRAY`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NIL_ARRAY"


NIL_ARRAY: Final = NilArray()
"""``*-1`` in RESP2, as EXEC (aborted), LPOP key count (missing key) and others answer."""


class SetReply(list[Any]):
    """Members of a set, in a deterministic order."""


class Pairs(list[tuple[Any, Any]]):
    """Member and score, field and value: flat in RESP2, nested pairs in RESP3."""

    def __init__(self, items: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__(items)


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text for people (INFO, LOLWUT): ``kind`` is ``txt`` or ``mkd``."""

    text: bytes
    kind: str = "txt"


class Raw(bytes):
    """Bytes that are already RESP."""
