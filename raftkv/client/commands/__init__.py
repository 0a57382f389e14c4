"""One method a command: its words and the shape of its reply. All clients and pipelines share them."""

from raftkv.client.commands.caller import Caller, T
from raftkv.client.commands.hashes import HashCommands
from raftkv.client.commands.keys import KeyCommands
from raftkv.client.commands.lists import ListCommands
from raftkv.client.commands.server import ServerCommands
from raftkv.client.commands.sets import SetCommands
from raftkv.client.commands.strings import StringCommands
from raftkv.client.commands.zranges import SortedSetRangeCommands
from raftkv.client.commands.zsets import SortedSetCommands


class Commands(
    StringCommands[T],
    KeyCommands[T],
    ListCommands[T],
    SetCommands[T],
    HashCommands[T],
    SortedSetCommands[T],
    SortedSetRangeCommands[T],
    ServerCommands[T],
):
    """Every command with a method of its own."""


__all__ = ["Caller", "Commands", "T"]
