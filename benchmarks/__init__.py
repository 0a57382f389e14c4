"""raftkv beside the stores it is compared with, on one machine in one run: ``python -m benchmarks.compare``."""
