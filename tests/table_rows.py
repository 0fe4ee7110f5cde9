"""Batches of the table's schema, made by hand, so that a test can say exactly which rows exist."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ringlog.schema import TABLE_SCHEMA

EPOCH = datetime.date(1970, 1, 1)
DAY_NS = 86_400 * 10**9
NOON = 1_760_011_200_000_000_000
"""2025-10-09 12:00:00 UTC, in ns."""


def rows(shard: str, start: int, count: int, *, times: Any = None, **columns: Any) -> pa.RecordBatch:
    """``count`` rows ``[start, start + count)`` of ``shard``, 1 ms apart from noon; a column given wins."""
    offsets = np.arange(start, start + count, dtype=np.int64)
    nanos = NOON + offsets * 1_000_000 if times is None else np.asarray(times, dtype=np.int64)
    micros = pa.array(nanos // 1000).cast(pa.timestamp("us", "UTC"))
    made: dict[str, Any] = {
        "timestamp": micros,
        "time_unix_nano": nanos,
        "observed_timestamp": micros,
        "severity_number": [9] * count,
        "severity_text": ["INFO"] * count,
        "body": [f"{shard} says {offset}" for offset in offsets.tolist()],
        "service": ["train"] * count,
        "host": ["node-1"] * count,
        "tenant": ["default"] * count,
        "shard": [shard] * count,
        "record_offset": offsets,
        "date": pa.array(nanos // DAY_NS, pa.int32()).cast(pa.date32()),
        **columns,
    }
    arrays = []
    for field in TABLE_SCHEMA:
        values = made.get(field.name)
        if values is None:
            arrays.append(pa.nulls(count, field.type))
        else:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=TABLE_SCHEMA)
