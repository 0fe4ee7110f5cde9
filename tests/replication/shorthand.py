"""Messages, answers and states in a line each: complete, and short enough to be read by the dozen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ringlog.replication import (
    Accepted,
    Append,
    Appended,
    CompareAndSet,
    Confirm,
    Confirmed,
    Deposed,
    Discard,
    Entries,
    Entry,
    Fenced,
    Fetch,
    Join,
    Joined,
    Leads,
    NotLeading,
    Outpaced,
    Promise,
    ReadStored,
    Refused,
    ReplicaState,
    Sealed,
    ShardState,
    Trim,
    Write,
)


def words(entry: Entry) -> list[str]:
    """The records of an entry; a gap record is one, however many words it has."""
    return entry.payload.decode().split() if entry.end - entry.start > 1 else [entry.payload.decode()]


def end(disk: ReplicaState) -> int:
    """Where the log on a disk ends."""
    return disk.entries[-1].end if disk.entries else disk.trimmed


def listed(entries: Iterable[Entry]) -> str:
    """``[0,3)p/0@1``: offsets, producer and sequence, and the epoch in which it was written."""
    return " ".join(f"[{one.start},{one.end}){_producer(one)}/{one.sequence}@{one.epoch}" for one in entries)


def _producer(entry: Entry) -> str:
    return f"{entry.producer}:{entry.producer_epoch}" if entry.producer_epoch else entry.producer


def standing(state: ShardState | None, version: int) -> str:
    """What stands in the metadata store."""
    if state is None:
        return "nothing yet"
    accepted = f", loss accepted by epoch {state.accepted}" if state.accepted else ""
    gaps = "".join(f", gap at {start} by epoch {epoch}" for epoch, start in state.gaps)
    return f"version {version}: epoch {state.epoch} {state.state} by {state.claimant}, {members(state)}{accepted}{gaps}"


def members(state: ShardState) -> str:
    """The ids that are recorded."""
    return f"members {' '.join(member.id for member in state.members) or 'none'}"


def head(message: Any) -> str:
    """What a message is, in a word and an epoch."""
    if isinstance(message, CompareAndSet):
        return f"{_change(message.state)} {message.state.epoch}"
    name = type(message).__name__
    return f"{name} {message.epoch}" if hasattr(message, "epoch") else name


def _change(state: ShardState) -> str:
    if state.state == "open":
        return "Open"
    return "Accept" if state.accepted == state.epoch else "Claim"


def in_full(message: Any) -> str:
    """All that a message says."""
    brief = head(message)
    if isinstance(message, Append):
        known = f", producers as of {message.trimmed}" if message.producers is not None else ""
        what = listed(message.entries) or f"nothing from {message.start}"
        return f"{brief}: {what}; committed {message.committed}, trimmed {message.trimmed}{known}"
    if isinstance(message, Appended | Joined):
        return f"{brief}: end {message.end}"
    if isinstance(message, Sealed):
        log = f"log of epoch {message.log_epoch} [{message.trimmed},{message.end})"
        return f"{brief}: {log}, epochs {epochs(message.boundaries)}"
    if isinstance(message, Fetch):
        return f"{brief} from {message.start}"
    if isinstance(message, Entries):
        return f"{brief} [{message.start},{message.end}): {listed(message.entries) or 'none'}"
    if isinstance(message, Join):
        kept = f"keep [{message.trimmed},{message.start}), " if message.start > message.trimmed else ""
        what = listed(message.entries) or "nothing"
        return f"{brief}: from {message.trimmed}, {kept}then {what}; epochs {epochs(message.boundaries)}"
    if isinstance(message, Confirm | Confirmed):
        return f"{brief}, round {message.round}"
    if isinstance(message, Trim):
        return f"{brief} below {message.offset}"
    if isinstance(message, Fenced):
        return f"{brief}: promised {message.promised}"
    if isinstance(message, CompareAndSet):
        return f"{brief} if version is {message.expected}; {members(message.state)}"
    if isinstance(message, ReadStored) and message.fence is not None:
        return f"{brief}, and close it below epoch {message.fence}"
    return brief


def epochs(boundaries: Iterable[tuple[int, int]]) -> str:
    """``2@40``: epoch 2 began at offset 40."""
    return " ".join(f"{epoch}@{start}" for epoch, start in boundaries) or "none"


def stored(op: Any) -> str:
    """What a replica stores."""
    if isinstance(op, Promise):
        return f"promise {op.promised}"
    if isinstance(op, Write):
        return listed(op.entries)
    if isinstance(op, Discard):
        return f"that [0,{op.trimmed}) is trimmed"
    return f"its log anew: epoch {op.log_epoch}, from {op.trimmed}: {listed(op.entries) or 'no entries'}"


def answered(answer: Any) -> str:
    """What a caller hears."""
    if isinstance(answer, Accepted):
        return f"Accepted: [{answer.start},{answer.end}) in epoch {answer.epoch}"
    if isinstance(answer, Deposed):
        return f"Deposed: epoch {answer.epoch} is over, the outcome is unknown"
    if isinstance(answer, Refused):
        return f"Refused: {answer.reason}"
    if isinstance(answer, NotLeading):
        return f"NotLeading: {'no epoch' if not answer.epoch else answer.epoch} is led here"
    if isinstance(answer, Leads | Outpaced):
        return f"{type(answer).__name__} {answer.epoch}"
    return str(answer)
