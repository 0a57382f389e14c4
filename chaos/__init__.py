"""Faults, histories of what clients saw, and the judge of those histories.

``workload`` drives real clients and records them with ``history``; ``checker`` judges what they recorded. ``disk`` is a
file system in memory that fails, on which ``sim`` (whole groups) and ``matrix`` (every file operation) run production
code. ``power`` cuts the power of real processes.
"""
