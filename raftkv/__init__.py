"""raftkv: a replicated key-value store that speaks the Redis protocol.

The folders are layers and imports point down; ``docs/architecture/tour.md`` walks through them.
"""

__version__ = "0.1.0"
