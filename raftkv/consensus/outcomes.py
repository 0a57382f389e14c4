"""What became of a request that the consensus layer could not carry out: one table of causes.

A write is *applied*, *certainly not applied*, or its outcome is *unknown*, and nothing else is ever answered. Which of
them a cause means is a fact about the log, not a guess about time:

* what never became an entry, and an entry whose index another one was committed at, is certainly not applied;
* an entry that some member may still hold can be committed by a later leader, however long ago it was given up here.

A read that fails read nothing, so its errors are definite.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from raftkv.errors import BusyError, NodeStoppedError, NoLeaderError, RaftKVError, UnknownOutcomeError


@dataclass(frozen=True, slots=True)
class Row:
    """What a cause means for the client."""

    request: Literal["write", "read"]
    when: str
    """For the documentation."""
    kind: type[RaftKVError]
    """Gives code and definiteness."""
    text: str
    """Of the error; ``{}`` is what is known only then."""


class Cause(Enum):
    """Why there is no result."""

    # -- a proposal that was not taken
    STOPPED = Row("write", "this node had stopped", NodeStoppedError, "{}")
    NOT_LEADER = Row("write", "this node does not lead", NoLeaderError, "this node does not lead")
    LOG_FAILED = Row("write", "the disk fails", NodeStoppedError, "the log cannot be written: {}")
    HANDING_OVER = Row(
        "write", "leadership is being handed over", NoLeaderError, "leadership is being handed to {}"
    )  # fmt: skip
    QUEUE_FULL = Row(
        "write", "too much waits for the quorum", BusyError,
        "{} batches are waiting for the quorum; nothing was done, try again",
    )  # fmt: skip
    # -- a proposal that became an entry
    OVERWRITTEN = Row(
        "write", "another leader's entry was committed in its place", NoLeaderError,
        "another leader's entry took the place of this one; it was not applied",
    )  # fmt: skip
    DISPLACED = Row(
        "write", "this node lost its leadership, and its entry its place here; others may hold it", UnknownOutcomeError,
        "this node lost its leadership before the entry was committed",
    )  # fmt: skip
    COVERED = Row(
        "write", "a snapshot of another leader covers its place", UnknownOutcomeError, "a snapshot took the place of the log"
    )  # fmt: skip
    LATE = Row(
        "write", "not committed within `request_timeout_ms`", UnknownOutcomeError,
        "the entry was not committed within request_timeout_ms; it may still be applied",
    )  # fmt: skip
    STOPPED_MEANWHILE = Row(
        "write", "this node stopped meanwhile", UnknownOutcomeError, "this node stopped before the outcome was known: {}"
    )  # fmt: skip
    # -- a read
    READ_STOPPED = Row("read", "this node has stopped", NodeStoppedError, "{}")
    READS_FULL = Row("read", "too many reads wait", BusyError, "{} reads are waiting; try again")
    READ_LATE = Row(
        "read", "no leader confirmed it, or its entries did not come, within `request_timeout_ms`", NoLeaderError,
        "no leader confirmed the read, or its entries did not come, within request_timeout_ms; nothing was read, try again",
    )  # fmt: skip
    TOKEN_LATE = Row(
        "read", "this node has not applied its token's entry within `request_timeout_ms`", BusyError,
        "entry {} was not applied at this node within request_timeout_ms; nothing was read, try again, or ask another node",
    )  # fmt: skip
    SYNCS_FULL = Row("read", "too many wait for a sync", BusyError, "{} commands are waiting for a sync; try again")

    def error(self, known: object = "") -> RaftKVError:
        """What the client is told."""
        return self.value.kind(self.value.text.format(known))


def table() -> str:
    """The table of ``docs/architecture/consensus.md``, in Markdown."""
    lines = ["| request | what happened | error | definite |", "|---|---|---|---|"]
    for cause in Cause:
        row = cause.value
        lines.append(f"| {row.request} | {row.when} | `{row.kind.code}` | {'yes' if row.kind.definite else 'no'} |")
    return "\n".join(lines)
