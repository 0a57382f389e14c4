"""Settings that are allowed one by one, but not together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftkv.config_values import is_loopback, is_wildcard, split_address

if TYPE_CHECKING:
    from raftkv.config import Settings

HEARTBEATS_PER_ELECTION: Final = 3
"""Heartbeats that must be lost in a row before a follower suspects its leader."""


def conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """For each rule that is broken: (the settings' names, what is wrong and the remedy)."""
    yield from _address_conflicts(settings)
    listens = {name: split_address(getattr(settings, name)) for name in ("listen", "peer_listen", "http_listen")}
    missing = [name for name in ("requirepass", "peer_secret") if not getattr(settings, name)]
    for name, (host, _) in listens.items():
        if missing and not settings.insecure and not is_loopback(host):
            yield (
                (name, *missing),
                (
                    f"{name} is reachable from other machines ({host}), which needs {' and '.join(missing)}; "
                    f"set them (or their ..._file), listen on 127.0.0.1, or accept the risk with insecure"
                ),
            )
    if settings.heartbeat_ms * HEARTBEATS_PER_ELECTION >= settings.election_timeout_ms:
        yield (
            ("heartbeat_ms", "election_timeout_ms"),
            (
                f"heartbeat_ms ({settings.heartbeat_ms}) must be below a third of election_timeout_ms "
                f"({settings.election_timeout_ms}), or one late message starts an election"
            ),
        )
    for low, high, why in (
        ("max_batch_bytes", "max_pending_bytes", "or a full batch could never be proposed"),
        ("disk_low_bytes", "disk_high_bytes", "or the alarm would come and go all the time"),
        ("proto_max_bulk_len", "client_query_buffer_limit", "or an allowed argument would close its client"),
    ):
        if getattr(settings, low) > getattr(settings, high):
            yield (low, high), f"{low} must not be above {high}, {why}"
    if settings.archive_dir is not None and _is_in_use(settings.archive_dir, settings.data_dir):
        yield (
            ("archive_dir", "data_dir"),
            (
                f"archive_dir ({settings.archive_dir}) is where the node keeps its own files; give a directory of its own, best "
                "on another disk"
            ),
        )


def _is_in_use(place: Path, data: Path) -> bool:
    """Whether it is the data directory, or in one of those that the node makes and empties there."""
    first = next(iter(Path(os.path.relpath(place.absolute(), data.absolute())).parts), "")
    return first in ("", "log", "snapshots") or first.startswith("damaged-")


def _address_conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    if settings.join and not settings.cluster_id:
        yield (
            ("join", "cluster_id"),
            "a node that joins needs cluster_id: the one that `raftkv cluster status` of the cluster shows",
        )
    if is_wildcard(split_address(settings.peer_advertise)[0]):
        yield (
            ("peer_advertise", "peer_listen"),
            f"no node can connect to {settings.peer_advertise}; give peer_advertise, the address that others reach",
        )
    if not settings.join and settings.node_id not in settings.peers:
        known = ", ".join(settings.peers)
        yield ("node_id", "peers"), f"node_id '{settings.node_id}' is not in peers, which has: {known}"
    ports: dict[int, str] = {}
    for name in ("listen", "peer_listen", "http_listen"):
        port = split_address(getattr(settings, name))[1]
        if port in ports:
            yield (name, ports[port]), f"{name} and {ports[port]} have the same port {port}; give each its own"
        ports[port] = name
    owners: dict[str, str] = {}
    for node_id, address in settings.peers.items():
        if is_wildcard(split_address(address)[0]):
            yield ("peers",), f"peers: nobody can connect to {address} of '{node_id}'; give the address others reach"
        if address in owners:
            yield ("peers",), f"peers: '{owners[address]}' and '{node_id}' have the same address {address}"
        owners[address] = node_id
    if is_wildcard(split_address(settings.advertise)[0]):
        yield (
            ("advertise", "listen"),
            (f"no client can connect to {settings.advertise}; give advertise, the address that clients reach"),
        )
