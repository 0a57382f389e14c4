"""The crash matrix: every file operation of the product, struck by every kind of fault, once each.

A *scenario* is a life of production code on a simulated disk (:class:`chaos.disk.Disk`): a log, a snapshot store, a
data directory, a node alone, a follower in a group. It is played once without a fault; each mutating call of that life
is a *failpoint*, with a name made of what the code was doing and what it did to which kind of file
(``roll: rename spare -> segment``). Then, for each failpoint and each kind of fault, the same life is played again up
to that call, where the process is killed, the power goes, the disk is full, fails, or changes a bit. After that the
files are opened again by production code, and *judged* against what the life had been promised:

* what was acknowledged is there, once, in order, with the content that it had; nothing is there that was not asked for;
* or the node refuses, with a reason that names what is wrong;
* what it shows after the recovery is on the disk: a second power cut right after it changes nothing;
* it can be used again, and what it takes then is as safe as before.

The matrix is complete by construction: :mod:`chaos.matrix.sites` finds every mutating call in the
source of the product, and a test fails when no scenario comes by. That it can fail is shown by
planted bugs (:mod:`chaos.matrix.plants`).

``raftkv matrix`` prints it; docs/architecture/durability.md says what it does and does not prove.
"""
