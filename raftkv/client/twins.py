"""The commands as an asyncio client and a pipeline have them.

They are the same methods: what differs is what ``_call`` returns, and so the types. Those are in ``twins.pyi``, which
:mod:`raftkv.client.make_twins` derives from the methods; a test fails when it is not up to date.
"""

from raftkv.client.commands import Commands

AsyncCommands = Commands
PipelineCommands = Commands
