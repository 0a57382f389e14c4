"""Faults, histories of what clients saw, and the judge of those histories."""
