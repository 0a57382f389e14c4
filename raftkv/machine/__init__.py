"""The replicated state machine: batches of commands in, replies out. Pure and deterministic."""
