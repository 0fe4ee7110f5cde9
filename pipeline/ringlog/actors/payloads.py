"""Payloads as records again: for readers, and to see that they are what their producer says."""

from __future__ import annotations

import pyarrow as pa

from ringlog.errors import InvalidRecord
from ringlog.replication import Entry
from ringlog.schema import unpack, with_position
from ringlog.wire import Submit


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
