"""Links between members on real sockets: who is let in, what a break does, and what a full link drops."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import struct
from dataclasses import replace
from functools import wraps
from random import Random

import pytest
import uvloop

from raftkv.consensus import lanes as lanes_module
from raftkv.consensus import links as links_module
from raftkv.consensus.links import HANDSHAKE_BYTES_MAX, MAGIC, PROTOCOL_VERSION, Introduction, Links, PeerInfo
from raftkv.consensus.messages import AppendEntries, Application, Heartbeat, TermNotice, Vote, encode
from raftkv.errors import ProtocolError

LOOPBACK = "127.0.0.1"
NOBODY = f"{LOOPBACK}:1"
SECRET = b"secret"
WAIT_S = 20
LARGE_BYTES = 32 * 1024 * 1024


def on_loop(test):
    """Run a coroutine as a test, and fail it when something that must happen does not."""

    @wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), WAIT_S))

    return run


class Changes:
    """Notes what happens, and lets a test wait until its condition holds."""

    def __init__(self):
        self._changed = asyncio.Event()

    def note(self):
        self._changed.set()

    async def until(self, holds):
        while not holds():
            self._changed.clear()
            await self._changed.wait()


class Gate:
    """Admits everybody but those in ``verdicts`` (by disk)."""

    def __init__(self):
        self.verdicts, self.refusals, self.seen, self.standing = {}, [], [], 7

    def greet(self, peer, disk, address, index, former):
        assert index in {0, 7}  # what the other one said, or nothing
        verdict = self.verdicts.get(disk, "")
        if not verdict:
            self.seen.append((peer, disk, address, *former))
        return verdict

    def refused(self, peer, reason):
        self.refusals.append((peer, reason))


class Member:
    """Links of one node, with everything they report."""

    def __init__(self, node_id, addresses, *, cluster="c1", boot="", secret=SECRET):
        self.changes = Changes()
        self.reports, self.warnings, self.messages, self.applications, self.up = [], [], [], [], {}
        me = Introduction(
            cluster, node_id, boot or f"boot-{node_id}", f"client-{node_id}", f"http-{node_id}", disk=f"disk-{node_id}"
        )
        self.gate = Gate()
        self.links = Links(me, {}, secret, Random(node_id), self)
        self.links.gate = self.gate
        self.links.set_members(addresses)
        self.links.on_message = lambda *one: self._noted(self.messages, one)
        self.links.on_application = lambda *one: self._noted(self.applications, one)
        self.links.on_link = self._linked
        self.inbound = []
        self.links.on_inbound = lambda *one: self._noted(self.inbound, one)
        inbound_lost = self.links.inbound_lost
        self.links.inbound_lost = lambda *one: (inbound_lost(*one), self.changes.note())

    def _noted(self, where, what):
        where.append(what)
        self.changes.note()

    def info(self, event, /, **fields):
        self._noted(self.reports, (event, fields))

    def warning(self, event, /, **fields):
        self.warnings.append(event)
        self.info(event, **fields)

    def _linked(self, peer, up):
        self.up[peer] = up
        self.changes.note()

    @property
    def port(self):
        return self.links._server.sockets[0].getsockname()[1]

    @property
    def address(self):
        return f"{LOOPBACK}:{self.port}"

    async def reported(self, text):
        await self.changes.until(lambda: any(text in fields.get("error", "") for _, fields in self.reports))

    async def linked(self, peer, up=True):
        await self.changes.until(lambda: self.up.get(peer) == up)


@contextlib.asynccontextmanager
async def members(*them):
    """Start them one after the other on ports of the system's choice."""
    try:
        for one in them:
            await one.links.start(LOOPBACK, 0)
        yield
    finally:
        for one in them:
            await one.links.stop()


def acceptor(**options):
    """A member that knows n2 but can never reach it."""
    return Member("n1", {"n2": NOBODY}, **options)


class Dialler:
    """The dialling side of the handshake, written from its description and free to lie."""

    def __init__(self, port, secret=SECRET, **lies):
        self.port, self.secret = port, secret
        self.hello = {
            "version": PROTOCOL_VERSION, "cluster": "c1", "node": "n2", "to": "n1", "boot": "b2", "client": "c:1", "http": "h:1",
            "nonce": "aa" * 32,
        } | lies  # fmt: skip

    async def dial(self):
        self.reader, self.writer = await asyncio.open_connection(LOOPBACK, self.port)
        return self

    async def introduce(self, magic=MAGIC):
        await self.dial()
        self.writer.write(magic + packed(self.hello))
        answer = await self.read()
        if "error" in answer:
            return answer
        text = f"dialler\0c1\0{self.hello['nonce']}\0{answer['nonce']}".encode()
        self.writer.write(packed({"proof": hmac.new(self.secret, text, "sha256").hexdigest()}))
        return await self.read()

    async def read(self):
        (length,) = struct.unpack("!I", await self.reader.readexactly(4))
        return json.loads(await self.reader.readexactly(length))

    async def ended(self):
        """Wait until the other side closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass
        self.writer.close()


def packed(value):
    body = json.dumps(value).encode() if not isinstance(value, bytes) else value
    return struct.pack("!I", len(body)) + body


def frame(message):
    return b"".join(encode(message))


# ------------------------------------------------------------------ two members
@contextlib.asynccontextmanager
async def pair(*, secrets=(SECRET, SECRET), **second):
    """Two members that dial each other, and where n1 looks for n2. The ports are known when both listen."""
    to_first, to_second = {"n1": NOBODY}, {"n2": NOBODY}
    one, other = Member("n1", to_second, secret=secrets[0]), Member("n2", to_first, secret=secrets[1], **second)
    async with members(one, other):
        to_first["n1"], to_second["n2"] = one.address, other.address
        yield one, other, to_second


@on_loop
async def test_two_members_introduce_themselves_and_talk_both_ways_in_order():
    async with pair() as (one, other, _):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        assert one.links.both_ways("n2")
        sent = [Vote(1), Application(b"x" * 300_000), Heartbeat(2, 3, 0), Application(b""), TermNotice(4)]
        assert all(one.links.send("n2", message) for message in sent)
        assert other.links.send("n1", Vote(9))
        await other.changes.until(lambda: len(other.messages) == 3 and len(other.applications) == 2)
        await one.changes.until(lambda: one.messages)
        assert other.messages == [("n1", Vote(1)), ("n1", Heartbeat(2, 3, 0)), ("n1", TermNotice(4))]
        assert other.applications == [("n1", b"x" * 300_000), ("n1", b"")]
        assert one.messages == [("n2", Vote(9))]
        assert (one.links.info["n2"].client_address, one.links.info["n2"].http_address) == ("client-n2", "http-n2")
        assert (other.links.info["n1"].client_address, other.links.info["n1"].boot_id) == ("client-n1", "boot-n1")


@on_loop
async def test_a_broken_link_is_told_dialled_again_and_works():
    async with pair() as (one, other, _):
        await one.linked("n2")
        one.links._out["n2"].transport.abort()
        assert not one.links.send("n2", Vote(1))
        await one.linked("n2", up=False)
        await one.linked("n2")
        assert one.links.send("n2", Vote(2))
        await other.changes.until(lambda: other.messages)
        assert other.messages == [("n1", Vote(2))]


@on_loop
async def test_a_break_of_one_direction_is_told_at_its_other_end():
    async with pair() as (one, other, to_second):
        await one.changes.until(lambda: one.links.both_ways("n2"))
        await other.changes.until(lambda: other.links.both_ways("n1"))
        to_second["n2"] = NOBODY
        other.links.info["n1"] = one.links.info["n2"] = PeerInfo()
        one.links._out["n2"].close()
        await other.changes.until(lambda: ("n1", False) in other.inbound)
        assert other.links.connected("n1")
        assert not other.links.both_ways("n1")
        assert ("n2", False) not in one.inbound


@on_loop
async def test_a_restarted_member_is_found_again_with_its_new_life():
    async with pair() as (one, other, to_second):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        await other.links.stop()
        await one.linked("n2", up=False)
        again = Member("n2", {"n1": one.address}, boot="second life")
        async with members(again):
            to_second["n2"] = again.address
            await asyncio.gather(one.linked("n2"), again.linked("n1"))
            assert one.links.info["n2"].boot_id == "second life"


@on_loop
async def test_a_secret_that_differs_is_refused_by_both_sides():
    async with pair(secrets=(b"one", b"other")) as (one, other, _):
        await asyncio.gather(one.reported("the peer secret differs"), other.reported("the peer secret differs"))
        assert not one.links.send("n2", Vote(1))
        assert not one.up


@on_loop
async def test_another_cluster_is_refused_and_told_why():
    async with pair(cluster="c2") as (one, other, _):
        await asyncio.gather(
            one.reported("cluster id 'c2', but node 'n1' belongs to 'c1'"),
            other.reported("cluster id 'c2', but node 'n1' belongs to 'c1'"),
        )
        assert not other.up


@on_loop
async def test_who_is_not_known_yet_is_let_in_and_dialled_back_where_it_says():
    one, stranger = Member("n1", {}), Member("n9", {"n1": NOBODY})
    async with members(one, stranger):
        stranger.links.me = replace(stranger.links.me, peer_address=stranger.address)
        stranger.links.set_members({"n1": one.address})
        await asyncio.gather(one.linked("n9"), stranger.linked("n1"))
        assert set(one.gate.seen) == {("n9", "disk-n9", stranger.address)}
        stranger.links.set_members({})
        await one.linked("n9", up=False)
        assert "n9" not in one.links.info, "what it said of itself is forgotten with it"


@on_loop
async def test_the_disks_that_a_node_had_before_are_told():
    async with pair() as (one, other, _):
        one.links.me = replace(one.links.me, disk="d3", former=("d1", "d2"))
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        one.links.drop("n2")
        await asyncio.gather(one.linked("n2", up=False), other.linked("n1", up=False))
        await one.linked("n2")
        assert ("n1", "d3", "", "d1", "d2") in other.gate.seen


@on_loop
async def test_dropped_links_are_made_anew():
    async with pair() as (one, other, _):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        one.links.drop("n2")
        await asyncio.gather(one.linked("n2", up=False), other.linked("n1", up=False))
        await asyncio.gather(one.linked("n2"), other.linked("n1"))


@on_loop
async def test_a_disk_that_lost_its_place_is_refused_and_the_other_side_told():
    async with pair() as (one, other, _):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        one.gate.verdicts["disk-n2"] = "foreign disk"
        one.links._out["n2"].transport.abort()
        one.links._inbound["n2"][2].transport.abort()
        await other.reported("has no place in the cluster: foreign disk")
        assert other.gate.refusals[-1] == ("n1", "foreign disk")
        assert not one.gate.refusals
        assert "peer refused" in one.warnings
        assert "peer link refused" in other.warnings
        assert not any("rotocol error" in fields.get("error", "") for _, fields in one.reports + other.reports)
        assert not one.links.connected("n2")


@on_loop
async def test_that_a_damaged_member_waits_to_be_taken_back_is_no_warning():
    async with pair() as (one, other, _):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        one.gate.verdicts["disk-n2"] = "repairing"
        one.links._out["n2"].transport.abort()
        one.links._inbound["n2"][2].transport.abort()
        await asyncio.gather(*(member.reported("takes the place of a damaged one") for member in (one, other)))
        assert not one.warnings + other.warnings


@on_loop
async def test_a_member_that_moved_is_found_where_the_settings_say():
    one, other = Member("n1", {}), Member("n2", {})
    async with members(one, other):
        one.links._known["n2"] = other.address
        one.links.set_members({"n2": NOBODY})
        await one.linked("n2")


# ------------------------------------------------------------------ what an acceptor refuses
@pytest.mark.parametrize(
    ("lie", "text"),
    [
        ({"version": 1}, "peer protocol version 1, this node speaks 3"),
        ({"version": None}, "peer protocol version None"),
        ({"cluster": "c2"}, "cluster id 'c2', but node 'n1' belongs to 'c1'"),
        ({"to": "n3"}, "meant for node 'n3', this is 'n1'"),
        ({"node": "n1"}, "node id 'n1' is this node's own: two nodes were started with the same --id"),
        ({"node": "n 9"}, "'n 9' is not a node id"),
        ({"node": ["n2"]}, "is not a node id"),
        ({"secret": b"wrong"}, "the peer secret differs"),
    ],
    ids=str,
)  # fmt: skip
@on_loop
async def test_a_stranger_is_refused_and_told_why(lie, text):
    node = acceptor()
    async with members(node):
        dialler = Dialler(node.port, **lie)
        answer = await dialler.introduce()
        assert text in answer["error"]
        await dialler.ended()
        await node.reported(text)
        assert node.messages == []
        assert node.links.info["n2"].boot_id == ""
        assert "wrong" not in str(node.reports)


@on_loop
async def test_what_is_no_peer_at_all_is_refused():
    node = acceptor()
    async with members(node):
        dialler = Dialler(node.port)
        assert "wrong magic" in (await dialler.introduce(magic=b"GET / HT"))["error"]
        await dialler.ended()


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (struct.pack("!I", HANDSHAKE_BYTES_MAX + 1), "handshake message of 4097 bytes, allowed are 4096"),
        (packed([1, 2]), "handshake message is not an object"),
        (packed(b"[" * 4000), "nested too deep"),
        (packed({"error": "go away"}), "go away"),
    ],
)
@on_loop
async def test_a_malformed_introduction_is_refused(sent, text):
    node = acceptor()
    async with members(node):
        dialler = await Dialler(node.port).dial()
        dialler.writer.write(MAGIC + sent)
        assert text in (await dialler.read())["error"]
        await dialler.ended()
        await node.reported(text)


@pytest.mark.parametrize("sent", [packed(b"no json"), packed(b"\xff\xfe"), packed(b"{}")[:5]])
@on_loop
async def test_garbage_and_half_an_introduction_end_the_connection(sent):
    node = acceptor()
    async with members(node):
        dialler = await Dialler(node.port).dial()
        dialler.writer.write(MAGIC + sent)
        dialler.writer.write_eof()
        await dialler.ended()


@on_loop
async def test_an_introduction_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(links_module, "HANDSHAKE_S", 0.05)
    node = acceptor()
    async with members(node):
        dialler = await Dialler(node.port).dial()
        dialler.writer.write(MAGIC)
        await dialler.ended()
        monkeypatch.undo()
        assert await Dialler(node.port).introduce() == {"ok": True}


@on_loop
async def test_a_second_process_with_the_same_id_is_refused_while_the_first_is_connected():
    node = acceptor()
    async with members(node):
        first, second = Dialler(node.port, boot="first"), Dialler(node.port, boot="second")
        assert await first.introduce() == {"ok": True}
        assert "another process is connected as node 'n2'" in (await second.introduce())["error"]
        first.writer.write(frame(Vote(3)))
        await node.changes.until(lambda: node.messages)
        first.writer.close()
        await node.changes.until(lambda: not node.links._inbound)
        assert await Dialler(node.port, boot="second").introduce() == {"ok": True}
        assert node.links.info["n2"].boot_id == "second"


@on_loop
async def test_the_same_process_that_dials_again_takes_the_place_of_its_old_connection():
    node = acceptor()
    async with members(node):
        old, new = Dialler(node.port), Dialler(node.port)
        assert await old.introduce() == {"ok": True}
        assert await new.introduce() == {"ok": True}
        await old.ended()
        new.writer.write(frame(Vote(3)))
        await node.changes.until(lambda: node.messages)
        assert node.messages == [("n2", Vote(3))]
        assert node.inbound == [("n2", True), ("n2", False), ("n2", True)], "answers on the old one may be lost"


@on_loop
async def test_frames_that_follow_the_introduction_at_once_are_not_lost():
    node = acceptor()
    async with members(node):
        dialler = await Dialler(node.port).dial()
        dialler.writer.write(MAGIC + packed(dialler.hello))
        answer = await dialler.read()
        text = f"dialler\0c1\0{dialler.hello['nonce']}\0{answer['nonce']}".encode()
        proof = hmac.new(SECRET, text, "sha256").hexdigest()
        dialler.writer.write(packed({"proof": proof}) + frame(Vote(1)) + frame(Application(b"early"))[:-1])
        await node.changes.until(lambda: node.messages)
        assert node.applications == []
        dialler.writer.write(b"y" + frame(Vote(2)))
        await node.changes.until(lambda: len(node.messages) == 2)
        assert node.messages == [("n2", Vote(1)), ("n2", Vote(2))]
        assert node.applications == [("n2", b"early")]


@pytest.mark.parametrize("bad", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x01\xee", struct.pack("!IB", 2, 13) + b"x"])
@on_loop
async def test_a_bad_frame_ends_its_link_and_nothing_else(bad):
    node = acceptor()
    async with members(node):
        dialler = Dialler(node.port)
        await dialler.introduce()
        dialler.writer.write(frame(Vote(1)))
        await node.changes.until(lambda: node.messages)
        dialler.writer.write(bad + frame(Vote(2)))
        await dialler.ended()
        assert node.messages == [("n2", Vote(1))]
        assert [event for event, _ in node.reports] == ["peer sent a bad frame"] == node.warnings
        assert await Dialler(node.port).introduce() == {"ok": True}


@on_loop
async def test_a_parcel_that_the_layer_above_cannot_read_ends_its_link_and_is_reported():
    async with pair() as (one, other, _):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))

        def refuse(_peer, data):
            msg = f"parcel of {len(data)} bytes"
            raise ProtocolError(msg)

        other.links.on_application = refuse
        assert one.links.send("n2", Application(b"x" * 7))
        await asyncio.gather(other.reported("parcel of 7 bytes"), one.linked("n2", up=False))
        await one.linked("n2")
        assert one.links.send("n2", Vote(1))
        await other.changes.until(lambda: other.messages)
        assert [event for event, _ in other.reports] == ["peer sent a bad frame"]


# ------------------------------------------------------------------ what a dialler refuses
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (packed({"node": "n7", "nonce": "x", "proof": "y"}), "is node 'n7', not 'n2'"),
        (packed({"node": "n2", "nonce": "x", "proof": "y"}), "the peer secret differs"),
        (packed({"node": "n2"}), "the peer secret differs"),
        (packed({"error": "no room"}), "no room"),
        (packed({"error": "gone", "refusal": "removed"}), "gone"),
        (packed(b"[" * 4000), "nested too deep"),
        (struct.pack("!I", 2**32 - 1), "handshake message of 4294967295 bytes"),
    ],
)  # fmt: skip
@on_loop
async def test_a_dialler_trusts_nobody_who_cannot_prove_himself_and_tries_again(answer, text):
    calls = asyncio.Queue()

    async def impostor(reader, writer):
        await reader.readexactly(len(MAGIC))
        writer.write(answer)
        calls.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(impostor, LOOPBACK, 0)
    node = Member("n1", {"n2": f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"})
    async with members(node):
        await node.reported(text)
        for _ in range(2):
            assert b"proof" not in await calls.get()
        assert not node.up
        assert len(node.reports) == 1  # the same refusal again is not news
        assert node.warnings == ["peer link refused"]
        assert not node.gate.refusals, "somebody at its address must not stop this node"
    server.close()


# ------------------------------------------------------------------ bounds
@on_loop
async def test_a_link_that_cannot_take_more_drops_and_counts(monkeypatch):
    monkeypatch.setattr(lanes_module, "BUFFER_BYTES_MAX", 100_000)
    async with pair() as (one, other, _):
        await asyncio.gather(one.linked("n2"), other.linked("n1"))
        _, protocol, _ = other.links._inbound["n1"]
        protocol._transport.pause_reading()
        message = Application(b"x" * 50_000)
        sent = 0
        while one.links.send("n2", message):
            sent += 1
        assert one.links.dropped == 1
        link = one.links._out["n2"]
        assert link.queued_bytes + link.transport.get_write_buffer_size() <= 100_000 + len(frame(message))
        assert one.links.connected("n2")
        protocol._transport.resume_reading()
        await other.changes.until(lambda: len(other.applications) == sent)
        assert one.links.send("n2", message)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_heartbeat_overtakes_a_large_entry_on_a_real_connection(run):
    async def check():
        async with asyncio.timeout(WAIT_S), pair() as (one, other, _):
            await asyncio.gather(one.linked("n2"), other.linked("n1"))
            arrived = []
            other.links.on_message = lambda _peer, message: (arrived.append(message), other.changes.note())
            entries = [(b"x" * LARGE_BYTES, 8, 3)]
            assert one.links.send("n2", AppendEntries(3, 1, 7, 7, 3, entries))
            assert one.links.send("n2", AppendEntries(3, 2, 8, 8, 3, [(b"small", 9, 3)]))
            assert one.links.send("n2", Heartbeat(3, 3, 7))
            await other.changes.until(lambda: len(arrived) == 3)
            assert [message.sequence for message in arrived] == [3, 1, 2]
            assert arrived[1].entries == entries

    run(check())


@on_loop
async def test_without_a_link_nothing_is_kept():
    node = acceptor()
    async with members(node):
        assert not node.links.send("n2", Vote(1))
        assert not node.links.connected("n2")
        assert node.links.dropped == 0


@on_loop
async def test_a_port_in_use_is_an_error_of_the_start():
    node, late = acceptor(), acceptor()
    async with members(node):
        with pytest.raises(OSError, match="address already in use"):
            await late.links.start(LOOPBACK, node.port)
