"""Bytes to values and back (RESP2, RESP3, inline commands). Pure: no I/O, no clock.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""
