"""Payloads as records again: for readers, and to see that they are what their producer says; and the one of a gap."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ringlog.errors import InvalidRecord
from ringlog.records import to_record_batch
from ringlog.replication import GAP_PRODUCER, Entry, Submit
from ringlog.schema import check_packed, joined, pack, unpack, with_position, with_record_schema


def rows(shard: str, entry: Entry) -> pa.RecordBatch:
    """The records of one entry as rows of the table."""
    return with_position(unpack(entry.payload), shard, entry.start)


def all_rows(shard: str, entries: Sequence[Entry]) -> pa.RecordBatch:
    """The records of ``entries``, which follow on one another, as rows of the table. One batch costs less than many."""
    whole = joined([pa.ipc.open_stream(entry.payload).read_next_batch() for entry in entries])
    return with_position(with_record_schema(whole), shard, entries[0].start)


def invalid(submit: Submit) -> str | None:
    """Why the payload is not the batch that it says it is, or its producer nobody's; None when all is well."""
    if submit.producer.startswith(GAP_PRODUCER):
        return f"a producer's name must not begin with {GAP_PRODUCER}"
    try:
        records = check_packed(submit.payload)
    except InvalidRecord as error:
        return str(error)
    return None if records == submit.records else f"the batch holds {records} records, not {submit.records}"


def gap_record(shard: str, now_ns: int) -> bytes:
    """The payload of the record that stands where an accepted loss begins; every reader shows it."""
    gap = {
        "body": f"records of {shard} may be missing here: the loss was accepted by `ringlog recover --accept-loss`",
        "severity": "FATAL",
        "service": "ringlog",
        "event_name": "ringlog.gap",
        "shard": shard,
    }
    return pack(to_record_batch([gap], observed_ns=now_ns))
