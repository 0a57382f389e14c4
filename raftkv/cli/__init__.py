"""The command line, ``raftkv``: :mod:`raftkv.cli.main` declares the commands, the other modules carry them out."""
