"""A write-ahead log, a store of snapshots and a data directory that can be trusted with data.

This package stands alone: it imports nothing of raftkv, runs without asyncio, and reaches the disk only
through :class:`persistence.files.Files`, so that a simulated or a faulty disk can take its place.
"""
