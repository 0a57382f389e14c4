"""The clients' port while the node recovers, on real sockets."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

import raftkv.server.commands  # noqa: F401 -- fills the table
from raftkv.config import Secret, Settings
from raftkv.server import door as door_module
from raftkv.server.door import Door
from raftkv.server.progress import Progress
from tests.ports import free_ports


class Serving(asyncio.Protocol):
    """Stands in for the node's connection: says how it was reached."""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"served " + data)


def run(scenario, **settings):
    """``scenario(door, connect)`` with a door that listens on a free port."""

    async def main():
        progress = Progress(time.monotonic)
        progress.begin("snapshot")
        progress.at(1 << 20, 2 << 20)
        [port] = free_ports(1)
        door = Door(
            Settings(listen=f"127.0.0.1:{port}", peer_listen="127.0.0.1:1", http_listen="127.0.0.1:2", **settings),
            progress,
        )
        await door.listen()
        try:
            await asyncio.wait_for(scenario(door, lambda: asyncio.open_connection("127.0.0.1", port)), 30)
        finally:
            door.close()

    asyncio.run(main())


LOADING = b"-LOADING raftkv is loading its data from disk (snapshot: 1.0 of 2.0 MiB (50%)); nothing was done\r\n"


def test_every_command_is_answered_loading_in_its_place():
    async def scenario(_door, connect):
        reader, writer = await connect()
        writer.write(b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nEX")
        assert await reader.readexactly(2 * len(LOADING)) == 2 * LOADING
        writer.write(b"EC\r\n")
        assert await reader.readexactly(len(LOADING)) == LOADING
        writer.close()

    run(scenario)


def test_who_waits_is_handed_over_and_need_not_connect_again():
    async def scenario(door, connect):
        early, half = await connect(), await connect()
        for _, writer in (early, half):
            writer.write(b"PING\r\n")
        for reader, _ in (early, half):
            await reader.readline()
        half[1].write(b"*2\r\n$3\r\nGET\r\n")
        await asyncio.sleep(0.05)
        door.open(Serving)
        late = await connect()
        for reader, writer in (early, late):
            writer.write(b"x")
            assert await reader.readexactly(8) == b"served x"
            writer.close()
        assert await half[0].read() == b""  # its command began before, and its end would mean nothing to the node

    run(scenario)


@pytest.mark.parametrize(
    "command", [b"SELECT 3", b"multi", b"AUTH x", b"HELLO 3", b"CLIENT REPLY OFF", b"READONLY", b"READ LOCAL"]
)
def test_what_rests_on_a_refused_command_is_not_handed_over(command):
    """A SET behind it would go to another database, or not wait for an EXEC."""

    async def scenario(door, connect):
        reader, writer = await connect()
        writer.write(b"GET k\r\nINFO\r\n" + command + b"\r\n")
        for _ in range(3):
            assert (await reader.readline()).startswith(b"-LOADING")
        door.open(Serving)
        writer.write(b"SET k v\r\n")
        with suppress(ConnectionResetError):  # the SET found nobody
            assert await reader.readline() == b""
        writer.close()

    run(scenario)


def test_what_is_no_resp_gets_an_error_and_the_end():
    async def scenario(door, connect):
        reader, writer = await connect()
        writer.write(b"*1\r\n!3\r\n")
        assert (await reader.read()).startswith(b"-ERR Protocol error")
        writer.close()
        assert not door.waiting

    run(scenario)


def test_before_auth_nobody_may_declare_much():
    async def scenario(_door, connect):
        reader, writer = await connect()
        writer.write(b"*1\r\n$100000000\r\n")
        assert b"unauthenticated" in await reader.read()
        writer.close()

    run(scenario, requirepass=Secret("swordfish"))


def test_those_who_wait_are_bounded(monkeypatch):
    monkeypatch.setattr(door_module, "WAITING_MAX", 2)

    async def scenario(door, connect):
        held = [await connect() for _ in range(2)]
        for reader, writer in held:
            writer.write(b"PING\r\n")
            await reader.readline()
        reader, writer = await connect()
        assert await reader.read() == b"-ERR max number of clients reached\r\n"
        assert len(door.waiting) == 2
        for _, one in (*held, (reader, writer)):
            one.close()

    run(scenario)


def test_a_closed_door_ends_those_who_wait():
    async def scenario(door, connect):
        reader, writer = await connect()
        writer.write(b"PING\r\n")
        await reader.readline()
        door.close()
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionError):
            await connect()

    run(scenario)
