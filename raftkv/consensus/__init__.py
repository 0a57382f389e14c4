"""Consensus: pysyncobj as the Raft engine, and the guards around it. The only package that imports it."""
