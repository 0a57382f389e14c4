"""The data: databases of typed values, expiry, digest. Pure: no clock, no randomness, no I/O."""
