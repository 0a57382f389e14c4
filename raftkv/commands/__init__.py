"""One declaration per command and its function. Pure: works on :mod:`raftkv.store` only.

Importing this package fills :data:`raftkv.commands.registry.TABLE` with the data commands; the server adds its own.
"""

from raftkv.commands import (
    counters,
    expiry,
    hashes,
    introspection,
    keys,
    lcs,
    lists,
    scan,
    scripts,
    sets,
    strings,
    zset_algebra,
    zset_ranges,
    zsets,
)

__all__ = [
    "counters",
    "expiry",
    "hashes",
    "introspection",
    "keys",
    "lcs",
    "lists",
    "scan",
    "scripts",
    "sets",
    "strings",
    "zset_algebra",
    "zset_ranges",
    "zsets",
]
