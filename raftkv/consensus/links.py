r"""Links between members: asyncio, one TCP connection in each direction for each pair.

A node sends on the connections that it opened and receives on those that it accepted, so that neither side must decide
which of two crossing connections lives. The dialling side introduces itself and both prove that they know the peer
secret (HMAC-SHA256 over both nonces), before any frame of consensus is read:

    dialler   "RAFTKV1\n" | u32 length | JSON {version, cluster, to, purpose, nonce} and what :class:`Introduction` has
    acceptor  u32 length | JSON {nonce, proof} and its Introduction, or {error}
    dialler   u32 length | JSON {proof}
    acceptor  u32 length | JSON {ok} or {error, refusal}

Who proves to know the secret is let in, member or not: a node that missed an entry does not know the newest members
(fault 7e of consensus.md). Whether its disk is the one it joined with is for :class:`Gate` to say.

Nothing is pickled, every length is bounded, and a link that cannot take more drops what it is given: consensus sends
again what is still needed. What leaves when is decided in :mod:`raftkv.consensus.lanes`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol, cast

from raftkv.config_values import split_address
from raftkv.consensus.lanes import Outbound
from raftkv.consensus.messages import Application, FrameReader, Message
from raftkv.errors import ProtocolError, RaftKVError
from raftkv.replicator import Report

MAGIC: Final = b"RAFTKV1\n"
PROTOCOL_VERSION: Final = 3
HANDSHAKE_BYTES_MAX: Final = 4096
HANDSHAKE_S: Final = 2.0
READ_BYTES: Final = 256 * 1024
LIVENESS: Final = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 5_000}
"""Seconds, and milliseconds for the last. A machine that lost its power sends no end of the connection: without these
its next life would be refused as a second node with the same id for as long as the old connection seems to stand."""
REDIAL_MIN_S: Final = 0.05
REDIAL_MAX_S: Final = 1.0
REPAIRING: Final = "repairing"
"""The refusal of a damaged node, until the leader takes it back."""

_LENGTH: Final = struct.Struct("!I")
_NODE_ID: Final = re.compile(r"[a-z0-9-]{1,32}")


class HandshakeError(RaftKVError):
    """The other side is not of this cluster, or says that we are not; ``refusal``: why this node has no place in it."""

    def __init__(self, message: str, refusal: str = "") -> None:
        super().__init__(message)
        self.refusal = refusal

    @property
    def passes(self) -> bool:
        """Whether nobody has to do anything: a damaged member is about to be taken back."""
        return self.refusal == REPAIRING


class NotAdmittedError(HandshakeError):
    """The other side has no place in the cluster any more; ``verdict``: why."""

    def __init__(self, peer: str, verdict: str) -> None:
        says = "has no place in the cluster" if verdict != REPAIRING else "takes the place of a damaged one"
        super().__init__(f"node {peer!r} comes with a disk that {says}: {verdict}")
        self.verdict = verdict

    @property
    def passes(self) -> bool:
        return self.verdict == REPAIRING


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a member tells the others about itself."""

    cluster_id: str
    node_id: str
    boot_id: str
    """New at every start: tells a restart from a second node with the same id."""
    client_address: str
    http_address: str
    peer_address: str = ""
    """host:port where other members reach this node; need not be what it listens on."""
    disk: str = ""
    """Id of the data directory."""
    former: tuple[str, ...] = ()
    """Ids that it had before what it held was damaged."""


class Gate(Protocol):
    """Who may talk to this node (:class:`raftkv.consensus.membership.Membership`)."""

    def greet(self, peer: str, disk: str, address: str, index: int, former: tuple[str, ...]) -> str: ...
    def refused(self, peer: str, reason: str) -> None: ...
    @property
    def standing(self) -> int: ...


@dataclass(slots=True)
class PeerInfo:
    """What another member told us."""

    client_address: str = ""
    http_address: str = ""
    boot_id: str = ""
    peer_address: str = ""


class _Framed(asyncio.Protocol):
    """Inbound frames of an introduced peer."""

    def __init__(self, links: Links, peer: str) -> None:
        self._links = links
        self._peer = peer
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        links, peer = self._links, self._peer
        links.on_bytes(peer)
        try:
            for message in self._frames.feed(data):
                if type(message) is Application:
                    links.on_application(peer, message.data)
                else:
                    links.on_message(peer, message)
        except ProtocolError as error:
            links.report.warning("peer sent a bad frame", peer=peer, error=error.message)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._links.inbound_lost(self._peer, self)


class Links:
    """All links of one node. Callbacks run on the loop."""

    def __init__(
        self,
        me: Introduction,
        known: dict[str, str],
        secret: bytes,
        rng: Random,
        report: Report,
    ) -> None:
        """``known``: where members may be found besides the addresses that the configuration has."""
        self.me = me
        self.gate: Gate
        """To be set before the start."""
        self._known = known
        self._members: dict[str, str] = {}
        self._secret = secret
        self._rng = rng
        self.report = report
        self.info: dict[str, PeerInfo] = {}
        self._out: dict[str, Outbound] = {}
        self._inbound: dict[str, tuple[str, _Framed, asyncio.StreamWriter]] = {}
        self._called: dict[str, asyncio.Event] = {}
        """Set when a peer has dialled us."""
        self._diallers: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """Whom we dial, and why: a member, or somebody who is to be answered."""
        self._callers: set[str] = set()
        """Who dialled us for more than to answer us."""
        self._server: asyncio.Server | None = None
        self._refused_last = ""
        self._accepting: set[asyncio.Task[None]] = set()
        self.dropped = 0
        self.on_message: Callable[[str, Message], None] = _ignore
        self.on_application: Callable[[str, bytes], None] = _ignore
        self.on_link: Callable[[str, bool], None] = _ignore
        """The connection to a peer was made, or ended."""
        self.on_inbound: Callable[[str, bool], None] = _ignore
        """Likewise the one from a peer: what it had said and did not arrive never will."""
        self.on_bytes: Callable[[str], None] = _ignore

    # ------------------------------------------------------------ life
    async def start(self, host: str, port: int) -> None:
        """Listen and dial the members. Raises OSError when the address is taken."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=READ_BYTES)
        self.set_members(self._members)

    def set_members(self, members: dict[str, str]) -> None:
        """From now on these are the others, and their host:port. Links to everybody else end, but for answers."""
        self._members = members
        if self._server is None:
            return
        for peer in {*self._diallers, *members}:
            self._dial_or_not(peer)

    def _dial_or_not(self, peer: str) -> None:
        """Dial members, and dial back who dialled us and waits for answers."""
        wanted = "member" if peer in self._members else "back" if peer in self._callers else ""
        purpose, task = self._diallers.get(peer, ("", None))
        if wanted == purpose:
            return
        if task is not None:
            task.cancel()
            del self._diallers[peer]
        if not wanted:
            self.info.pop(peer, None)  # should it be added again, it is where that entry says
        else:
            self.info.setdefault(peer, PeerInfo())
            self._called.setdefault(peer, asyncio.Event())
            self._diallers[peer] = (wanted, asyncio.create_task(self._dial_for_ever(peer, wanted)))

    async def stop(self) -> None:
        """Close everything."""
        tasks = [*(task for _, task in self._diallers.values()), *self._accepting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for link in list(self._out.values()):
            link.close()
        for _, _, writer in list(self._inbound.values()):
            writer.close()

    def drop(self, peer: str) -> None:
        """End the links to ``peer``; they are made anew, and with them the introductions."""
        link, inbound = self._out.get(peer), self._inbound.get(peer)
        if link is not None:
            link.close()
        if inbound is not None:
            inbound[2].transport.abort()

    # ------------------------------------------------------------ out
    def send(self, peer: str, message: Message) -> bool:
        """Queue a message; False when there is no link or its buffer is full."""
        link = self._out.get(peer)
        if link is None:
            return False
        sent = link.send(message)
        if not sent and not link.transport.is_closing():
            self.dropped += 1
        return sent

    def addresses(self, peer: str) -> list[str]:
        """Where ``peer`` may be found, best first: what it said itself, what the group knows, what the settings say."""
        info = self.info.get(peer)
        said = info.peer_address if info is not None else ""
        return list(dict.fromkeys(filter(None, (said, self._members.get(peer, ""), self._known.get(peer, "")))))

    def connected(self, peer: str) -> bool:
        """Whether messages to ``peer`` can leave now."""
        link = self._out.get(peer)
        return link is not None and not link.transport.is_closing()

    def both_ways(self, peer: str) -> bool:
        """Whether messages to ``peer`` can leave now, and what it answers arrive."""
        return peer in self._inbound and self.connected(peer)

    async def _dial_for_ever(self, peer: str, purpose: str) -> None:
        delay = REDIAL_MIN_S
        last = ""
        attempt = 0
        while True:
            try:
                link = await self._dial(peer, purpose, attempt)
            except (TimeoutError, OSError, asyncio.IncompleteReadError, HandshakeError, ValueError) as error:
                attempt += 1
                last = self._link_refused(peer, error, last)
                called = await self._called_within(peer, delay * (0.5 + self._rng.random()))
                delay = REDIAL_MIN_S if called else min(delay * 2, REDIAL_MAX_S)
                continue
            delay, last = REDIAL_MIN_S, ""
            self._out[peer] = link
            self.on_link(peer, True)
            try:
                await link.ended
            finally:
                self._out.pop(peer, None)
                link.close()
                self.on_link(peer, False)

    def _link_refused(self, peer: str, error: Exception, last: str) -> str:
        """An attempt to dial ``peer`` failed: what is reported of it, unless it is the same as ``last``."""
        say, text = self.report.info, f"{type(error).__name__}: {error}"
        if isinstance(error, HandshakeError):
            if error.refusal:
                self.gate.refused(peer, error.refusal)
            say, text = say if error.passes else self.report.warning, error.message
        if text != last and not isinstance(error, ConnectionError):
            say("peer link refused", peer=peer, error=text)
        return text

    async def _called_within(self, peer: str, seconds: float) -> bool:
        """Wait before dialling again, but not longer than until ``peer`` dials us: it is up, and needs our answers."""
        called = self._called[peer]
        try:
            async with asyncio.timeout(seconds):
                await called.wait()
        except TimeoutError:
            return False
        called.clear()
        return True

    async def _dial(self, peer: str, purpose: str, attempt: int) -> Outbound:
        addresses = self.addresses(peer)
        if not addresses:
            msg = f"no address of {peer} is known"
            raise HandshakeError(msg)
        address = addresses[attempt % len(addresses)]
        host, port = split_address(address)
        async with asyncio.timeout(HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                await self._introduce(peer, purpose, address, reader, writer)
                _tune(writer)
                return Outbound(reader, writer)
            except BaseException:
                writer.close()
                raise

    async def _introduce(
        self, peer: str, purpose: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonce = self._nonce()
        hello = self._hello() | {"version": PROTOCOL_VERSION, "cluster": self.me.cluster_id, "to": peer, "nonce": nonce}
        hello["purpose"] = purpose
        writer.write(MAGIC + _pack(hello))
        answer = await _read(reader)
        if answer.get("node") != peer:
            msg = f"{address} is node {answer.get('node')!r}, not {peer!r}"
            raise HandshakeError(msg)
        theirs = str(answer.get("nonce", ""))
        self._check_proof(answer, "acceptor", nonce, theirs)
        writer.write(_pack({"proof": self._proof("dialler", nonce, theirs)}))
        await _read(reader, proven=True)
        self._admit(peer, answer)

    # ------------------------------------------------------------ in
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                peer, boot, back = await self._welcome(reader, writer)
        except HandshakeError as error:
            if error.message != self._refused_last:
                self._refused_last = error.message
                say = self.report.info if error.passes else self.report.warning
                say("peer refused", address=str(writer.get_extra_info("peername")), error=error.message)
            verdict = error.verdict if isinstance(error, NotAdmittedError) else ""
            writer.write(_pack({"error": error.message, "refusal": verdict}))
            writer.close()
            return
        except (TimeoutError, OSError, asyncio.IncompleteReadError, ValueError):
            writer.close()
            return
        _tune(writer)
        protocol = _Framed(self, peer)
        transport = cast("asyncio.Transport", writer.transport)
        protocol.connection_made(transport)
        old = self._inbound.get(peer)
        if old is not None:
            old[2].transport.abort()
            self.on_inbound(peer, False)
        self._inbound[peer] = (boot, protocol, writer)
        self.on_inbound(peer, True)
        if back:
            self._callers.discard(peer)
        else:
            self._callers.add(peer)
        self._dial_or_not(peer)
        if peer in self._called:
            self._called[peer].set()
        early = bytes(cast("Any", reader)._buffer)
        transport.set_protocol(protocol)
        if early:
            protocol.data_received(early)
        transport.resume_reading()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, str, bool]:
        """(who, its boot id, whether it dialled only to answer us)."""
        if await reader.readexactly(len(MAGIC)) != MAGIC:
            msg = "not a raftkv peer (wrong magic); clients use the other port"
            raise HandshakeError(msg)
        hello = await _read(reader)
        peer, boot = str(hello.get("node")), str(hello.get("boot"))
        self._check_hello(hello, peer, boot)
        theirs, nonce = str(hello.get("nonce", "")), self._nonce()
        proof = self._proof("acceptor", theirs, nonce)
        writer.write(_pack(self._hello() | {"nonce": nonce, "proof": proof}))
        self._check_proof(await _read(reader), "dialler", theirs, nonce)
        self._admit(peer, hello)
        writer.write(_pack({"ok": True}))
        return peer, boot, hello.get("purpose") == "back"

    def _check_hello(self, hello: dict[str, Any], peer: str, boot: str) -> None:
        if hello.get("version") != PROTOCOL_VERSION:
            msg = f"peer protocol version {hello.get('version')!r}, this node speaks {PROTOCOL_VERSION}"
            raise HandshakeError(msg)
        if hello.get("cluster") != self.me.cluster_id:
            msg = (
                f"cluster id {hello.get('cluster')!r}, but node {self.me.node_id!r} belongs to {self.me.cluster_id!r}: data of "
                "another cluster, or of before a recovery, does not mix with it"
            )
            raise HandshakeError(msg)
        if hello.get("to") != self.me.node_id:
            msg = f"meant for node {hello.get('to')!r}, this is {self.me.node_id!r}"
            raise HandshakeError(msg)
        if not _NODE_ID.fullmatch(peer):
            msg = f"{peer[:128]!r} is not a node id"
            raise HandshakeError(msg)
        if peer == self.me.node_id:
            msg = f"node id {peer!r} is this node's own: two nodes were started with the same --id"
            raise HandshakeError(msg)
        old = self._inbound.get(peer)
        if old is not None and old[0] != boot and not old[2].transport.is_closing():
            msg = f"another process is connected as node {peer!r}: two nodes were started with the same --id"
            raise HandshakeError(msg)

    def inbound_lost(self, peer: str, protocol: _Framed) -> None:
        """An accepted link ended."""
        current = self._inbound.get(peer)
        if current is not None and current[1] is protocol:
            del self._inbound[peer]
            self._callers.discard(peer)
            self.on_inbound(peer, False)
            self._dial_or_not(peer)

    # ------------------------------------------------------------ proof
    def _hello(self) -> dict[str, Any]:
        me = self.me
        return {
            "node": me.node_id, "boot": me.boot_id, "client": me.client_address, "http": me.http_address,
            "peer": me.peer_address, "disk": me.disk, "configuration": self.gate.standing,
            "former": me.former,
        }  # fmt: skip

    def _nonce(self) -> str:
        return f"{self._rng.getrandbits(256):064x}"

    def _proof(self, side: str, dialler_nonce: str, acceptor_nonce: str) -> str:
        text = f"{side}\0{self.me.cluster_id}\0{dialler_nonce}\0{acceptor_nonce}".encode()
        return hmac.new(self._secret, text, "sha256").hexdigest()

    def _check_proof(self, answer: dict[str, Any], side: str, dialler_nonce: str, acceptor_nonce: str) -> None:
        expected = self._proof(side, dialler_nonce, acceptor_nonce)
        if not hmac.compare_digest(str(answer.get("proof", "")).encode(), expected.encode()):
            msg = "the peer secret differs: set the same peer_secret on every node"
            raise HandshakeError(msg)

    def _admit(self, peer: str, hello: dict[str, Any]) -> None:
        """Its proof was right; learn what it says, unless its disk has no place in the group any more."""
        client, http, boot, address, disk = (
            str(hello.get(name, "")) for name in ("client", "http", "boot", "peer", "disk")
        )
        index = hello.get("configuration")
        said = hello.get("former")
        former = tuple(map(str, said)) if isinstance(said, list) else ()
        verdict = self.gate.greet(peer, disk, address, index if isinstance(index, int) else 0, former)
        if verdict:
            raise NotAdmittedError(peer, verdict)
        self.info[peer] = PeerInfo(client, http, boot, address)


def _pack(value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    return _LENGTH.pack(len(body)) + body


async def _read(reader: asyncio.StreamReader, *, proven: bool = False) -> dict[str, Any]:
    """A message of the handshake. Raises HandshakeError for one that says why not.

    Only who has proven to know the secret may say that this node has no place in the group, at which it stops.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > HANDSHAKE_BYTES_MAX:
        msg = f"handshake message of {length} bytes, allowed are {HANDSHAKE_BYTES_MAX}"
        raise HandshakeError(msg)
    try:
        value = json.loads(await reader.readexactly(length))
    except RecursionError as error:
        msg = "handshake message is nested too deep"
        raise HandshakeError(msg) from error
    if not isinstance(value, dict):
        msg = "handshake message is not an object"
        raise HandshakeError(msg)
    if "error" in value:
        raise HandshakeError(str(value["error"]), str(value.get("refusal", "")) if proven else "")
    return value


def _tune(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in LIVENESS.items():
            if hasattr(socket, name):  # Linux
                raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _ignore(*_: object) -> None:
    return None
