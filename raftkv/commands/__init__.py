"""One declaration per command and its function. Pure: works on :mod:`raftkv.store` only.

Importing this package fills :data:`raftkv.commands.registry.TABLE` with the data commands; the server adds its own.
"""

from raftkv.commands import counters as _counters
from raftkv.commands import expiry as _expiry
from raftkv.commands import hashes as _hashes
from raftkv.commands import introspection as _introspection
from raftkv.commands import keys as _keys
from raftkv.commands import lcs as _lcs
from raftkv.commands import lists as _lists
from raftkv.commands import scan as _scan
from raftkv.commands import scripts as _scripts
from raftkv.commands import sets as _sets
from raftkv.commands import strings as _strings
from raftkv.commands import zset_algebra as _zset_algebra
from raftkv.commands import zset_ranges as _zset_ranges
from raftkv.commands import zsets as _zsets

__all__: list[str] = []
_LOADED = (
    _counters,
    _expiry,
    _hashes,
    _introspection,
    _keys,
    _lcs,
    _lists,
    _scan,
    _scripts,
    _sets,
    _strings,
    _zset_algebra,
    _zset_ranges,
    _zsets,
)
