"""The verdict on a load: every reply has an explanation, nothing acknowledged is lost, nothing was done twice."""

from __future__ import annotations

from typing import Any

from chaos.checker import check
from chaos.history import Operation
from chaos.workload import Load, Tally


def judge(cluster: Any, load: Load, *, patient: bool = True) -> list[Operation]:
    """Stop the load; nothing acknowledged is lost, nothing applied twice, the replicas are equal.

    ``patient``: the cluster always came back while raftkv's own client still repeated its write.
    """
    load.stop()
    cluster.heal()
    cluster.wait_converged()
    alone = len(cluster.running) == 1
    operations = load.read_all(cluster.addresses[cluster.leader() if alone else cluster.follower()])
    cluster.assert_alive()
    assert not load.findings, load.findings[:5]
    verdict = check(operations)
    assert verdict.linearizable, str(verdict)
    account_for(operations)
    own = Tally.of([one for one in operations if one.process % 2])
    assert own.unknown == 0 or not patient, (
        "raftkv's own client left a write unknown although the cluster came back in time"
    )
    return operations


def account_for(operations: list[Operation]) -> None:
    """The same without the checker, so that each stands for the other: every write is found, or may be missing."""
    last = max(one.process for one in operations)
    final = {one.key: one.result for one in operations if one.process == last}
    for key in sorted(key for key in final if key.startswith("list")):
        appends = [one for one in operations if one.key == key and one.action == "append"]
        there = final[key]
        assert len(there) == len(set(there)), f"{key}: something was applied twice"
        missing = {one.argument for one in appends if one.outcome == "ok"} - set(there)
        assert not missing, f"{key}: acknowledged, and lost: {sorted(missing)[:5]}"
        strangers = set(there) - {one.argument for one in appends if one.outcome != "fail"}
        assert not strangers, f"{key}: refused, and applied: {sorted(strangers)[:5]}"
    for key in sorted(key for key in final if key.startswith("counter")):
        adds = [one.outcome for one in operations if one.key == key and one.action == "add"]
        assert adds.count("ok") <= final[key] <= adds.count("ok") + adds.count("info"), key


def describe(operations: list[Operation]) -> str:
    plain = Tally.of([one for one in operations if one.process % 2 == 0])
    own = Tally.of([one for one in operations if one.process % 2])
    return f"{len(operations)} operations; writes by redis-py {plain}, by raftkv's client {own}"
