"""The command line: ``raftkv server | dev | cli | bench``."""
