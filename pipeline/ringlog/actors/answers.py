"""What a shard actor says to producers and readers, made of what its cores say."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ringlog.errors import InvalidRecord
from ringlog.replication import Accepted, Entry, Full, Refused
from ringlog.schema import unpack, with_position
from ringlog.wire import Acknowledged, Declined, Submit


def rows(shard: str, entry: Entry) -> pa.RecordBatch:
    """The records of one entry as rows of the table."""
    return with_position(unpack(entry.payload), shard, entry.start)


def invalid(submit: Submit) -> str | None:
    """Why the payload is not the batch that it says it is; None when it is."""
    try:
        records = unpack(submit.payload, validate=True).num_rows
    except InvalidRecord as error:
        return str(error)
    return None if records == submit.records else f"the batch holds {records} records, not {submit.records}"


def declined(submit: Submit, reason: Any, message: str, epoch: int = 0, expected: int = -1) -> Declined:
    """The answer that ``submit`` was not taken."""
    return Declined(submit.shard, submit.producer_epoch, submit.sequence, reason, message, epoch, expected)


def answer_to(submit: Submit, answer: Any) -> Acknowledged | Declined:
    """What a leader's answer is to the producer."""
    if isinstance(answer, Accepted):
        return Acknowledged(
            submit.shard, submit.producer_epoch, submit.sequence, answer.epoch, answer.start, answer.end
        )
    if isinstance(answer, Full):
        message = f"{submit.shard} holds {answer.held_bytes} bytes that are not archived yet"
        return declined(submit, "overloaded", message)
    if isinstance(answer, Refused):
        if answer.expected is None:
            return declined(submit, "rejected", answer.reason)
        return declined(submit, "expected", answer.reason, expected=answer.expected)
    return declined(submit, "unknown", "the leadership ended before a majority answered", epoch=answer.promised)
