"""A node's files, and Redis', without a server: read, explained, translated, backed up and restored."""
