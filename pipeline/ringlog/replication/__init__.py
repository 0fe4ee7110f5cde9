"""Replication: pure state machines, values in and values out. Payloads are opaque bytes here.

``Leader`` orders appends and says what to send; ``Replica`` keeps one durable copy; ``Takeover`` opens the next epoch
over what the last one left. None of them does I/O, reads a clock or draws a random number: each takes an event and the
time, and answers with an `Output`. docs/PROTOCOL.md has the rules, `invariants` their names.
"""

from ringlog.replication.dedup import Evicted, Expected, Known, New, ProducerTable, Superseded
from ringlog.replication.invariants import Violation
from ringlog.replication.leader import Leader
from ringlog.replication.messages import (
    Append,
    Appended,
    Boundary,
    Confirm,
    Confirmed,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Member,
    Message,
    Seal,
    Sealed,
    ShardState,
    Trim,
)
from ringlog.replication.output import (
    Accepted,
    Answer,
    Confirmation,
    Deposed,
    Discard,
    Full,
    Output,
    Promise,
    Refused,
    Replace,
    StoreOp,
    Write,
)
from ringlog.replication.replica import Replica, ReplicaState
from ringlog.replication.takeover import (
    Claimed,
    CompareAndSet,
    Opened,
    ReadStored,
    Stored,
    Takeover,
)

__all__ = [
    "Accepted",
    "Answer",
    "Append",
    "Appended",
    "Boundary",
    "Claimed",
    "CompareAndSet",
    "Confirm",
    "Confirmation",
    "Confirmed",
    "Deposed",
    "Discard",
    "Entries",
    "Entry",
    "Evicted",
    "Expected",
    "Fenced",
    "Fetch",
    "Full",
    "Join",
    "Joined",
    "Known",
    "Leader",
    "Member",
    "Message",
    "New",
    "Opened",
    "Output",
    "ProducerTable",
    "Promise",
    "ReadStored",
    "Refused",
    "Replace",
    "Replica",
    "ReplicaState",
    "Seal",
    "Sealed",
    "ShardState",
    "StoreOp",
    "Stored",
    "Superseded",
    "Takeover",
    "Trim",
    "Violation",
    "Write",
]
