"""One declaration per command and its function. Pure: works on :mod:`raftkv.store` only.

Importing this package fills :data:`raftkv.commands.registry.TABLE`.
"""
