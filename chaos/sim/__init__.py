"""A deterministic simulation of a whole group: production code, virtual time, one seed.

What runs is what ships: :class:`raftkv.consensus.replica.Replica`, :class:`raftkv.machine.machine.StateMachine`,
:class:`persistence.wal.Log` and :class:`persistence.snapshots.SnapshotStore`. What is simulated is what is outside:
time, the network, the disk below :class:`persistence.files.Files`, the fork that writes a snapshot, crashes, clients.

Every choice comes from generators seeded by (seed, profile, number of nodes), every event from one queue that is
ordered by (virtual time, order of creation), and nothing iterates in hash order, so the same seed gives the same trace,
and the same trace hash, in any process. ``raftkv sim --help`` says how to run it.
"""
