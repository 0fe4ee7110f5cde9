"""The record as Arrow: the columns of the table, and how a batch is packed, positioned and cut."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ringlog.errors import InvalidRecord

_TIME = pa.timestamp("us", "UTC")
_TIMES = ("timestamp", "observed_timestamp")
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_DAY_US = 86_400_000_000
_TIME_US_MAX = (2**63 - 1) // 1000  # what int64 nanoseconds can say: up to 2262-04-11

TABLE_SCHEMA = pa.schema(
    [
        ("timestamp", _TIME),
        ("time_unix_nano", pa.int64()),
        ("observed_timestamp", _TIME),
        ("severity_number", pa.int8()),
        ("severity_text", pa.string()),
        ("body", pa.string()),
        ("service", pa.string()),
        ("host", pa.string()),
        ("attributes", pa.string()),
        ("resource", pa.string()),
        ("scope", pa.string()),
        ("event_name", pa.string()),
        ("trace_id", pa.string()),
        ("span_id", pa.string()),
        ("trace_flags", pa.int16()),
        ("ray_job_id", pa.string()),
        ("ray_submission_id", pa.string()),
        ("ray_node_id", pa.string()),
        ("ray_worker_id", pa.string()),
        ("ray_actor_id", pa.string()),
        ("ray_actor_name", pa.string()),
        ("ray_task_id", pa.string()),
        ("ray_task_name", pa.string()),
        ("pid", pa.int64()),
        ("tenant", pa.string()),
        ("shard", pa.string()),
        ("record_offset", pa.int64()),
        ("date", pa.date32()),
    ]
)
"""The columns of the Delta table. ``(shard, record_offset)`` is a record's position and unique."""

_POSITION = ("shard", "record_offset", "date")

RECORD_SCHEMA = pa.schema([field for field in TABLE_SCHEMA if field.name not in _POSITION])
"""The columns that a client fills; a leader adds the position."""

PROMOTED_TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
"""What a promoted attribute may be, in the words of JSON, and the type of its column."""

_PROMOTABLE = re.compile(r"[\w.:/@$-]{1,128}")  # what every reader of Delta tables takes for a name
_TAKEN = frozenset(TABLE_SCHEMA.names) | {"file_row_number"}


@dataclass(frozen=True)
class Promoted:
    """An attribute that has a column of its own, named like it. ``kind`` is one of `PROMOTED_TYPES`.

    Raises `ValueError` where there can be no such column.

    >>> Promoted.parse("http.status_code integer"), Promoted.parse("request_id").kind
    (Promoted(name='http.status_code', kind='integer'), 'string')
    """

    name: str
    kind: str = "string"

    def __post_init__(self) -> None:
        if self.kind not in PROMOTED_TYPES:
            raise ValueError(f"{self.name} cannot be promoted as {self.kind!r}: one of {', '.join(PROMOTED_TYPES)}")
        if not _PROMOTABLE.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} cannot be promoted: a column's name has letters, digits and _ . : / @ $ -, 128 at most"
            )
        if self.name.lower() in _TAKEN:
            raise ValueError(f"{self.name!r} cannot be promoted: a record has that column already")

    @classmethod
    def parse(cls, text: str) -> Promoted:
        """The attribute's name alone, or its name and its type. Raises `ValueError`."""
        name, _, kind = text.strip().partition(" ")
        return cls(name, kind.strip() or "string")

    @property
    def type(self) -> pa.DataType:
        """The type of the column."""
        return PROMOTED_TYPES[self.kind]


def pack(batch: pa.RecordBatch) -> bytes:
    """``batch`` as a self-contained Arrow IPC stream without metadata; columns without any value are left out.

    Not compressed: lz4 would leave two fifths of the bytes of a thousand usual records, in ten times the time.

    >>> batch = pa.RecordBatch.from_pylist([{"body": "hi"}], schema=RECORD_SCHEMA)
    >>> unpack(pack(batch)).equals(batch)
    True
    """
    packed = with_values(batch).replace_schema_metadata(None)
    if any(field.metadata for field in packed.schema):
        packed = packed.cast(pa.schema([field.remove_metadata() for field in packed.schema]))
    # What a stream writer writes, without the pages that its growing buffer would touch.
    return b"".join((packed.schema.serialize(), packed.serialize(), _END_OF_STREAM))


def with_values(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` without the columns that have no value; what is done with each column is done with fewer then."""
    present = [at for at, column in enumerate(batch.columns) if column.null_count < len(column)]
    return batch if len(present) == batch.num_columns else batch.select(present)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """All records of ``batches``, at least one, as one batch; a column that some lack is null there."""
    alike = itertools.groupby(batches, key=lambda batch: batch.schema)
    tables = [pa.Table.from_batches(list(each)) for _, each in alike]
    whole = pa.concat_tables(tables, promote_options="default").combine_chunks()
    if not len(whole):
        return batches[0]
    [one] = whole.to_batches()  # there would be more where the texts of a column came to 2 GiB
    return one


def text_offsets(texts: pa.Array) -> npt.NDArray[np.int32]:
    """Where each of ``texts``, strings, begins in the bytes of all, and where the last ends; also of a slice."""
    offsets = texts.buffers()[1]
    found = np.frombuffer(offsets or bytes(4), dtype=np.int32)
    return found[texts.offset : texts.offset + len(texts) + 1]


def unpack(payload: bytes | memoryview | pa.Buffer) -> pa.RecordBatch:
    """The batch of `RECORD_SCHEMA` that `pack` packed; columns that were left out are null.

    Raises `InvalidRecord` for anything that does not read as an Arrow IPC stream with a batch.
    """
    return with_record_schema(_first_batch(payload)[0])


def check_packed(payload: bytes | memoryview | pa.Buffer) -> int:
    """How many records ``payload``, bytes from somebody else, holds; checked in full before anything reads them.

    Raises `InvalidRecord` for anything that is not one batch of at least one record with known columns.
    """
    try:
        _check_plain(payload)
        batch, reader = _first_batch(payload)
        _check(batch, reader)
        if batch.nbytes > len(payload):
            raise ValueError(f"its columns claim {batch.nbytes} bytes, and it has {len(payload)}")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidRecord(f"this is no batch of records as an Arrow IPC stream: {error}") from error
    return int(batch.num_rows)


def _check_plain(payload: bytes | memoryview | pa.Buffer) -> None:
    """Compressed, a few bytes could stand for more than there is memory: seen before anything is unpacked.

    The message's metadata is a flatbuffer, in whose table ``Message`` the third field is the ``RecordBatch``, and in
    that the fourth its compression (Arrow's format/Message.fbs).
    """
    source = pa.BufferReader(payload)
    try:
        pa.ipc.read_message(source)  # the schema
        message = pa.ipc.read_message(source)
        if message.type != "record batch":
            raise ValueError(f"after its schema comes a {message.type}, not its batch")
        metadata = message.metadata.to_pybytes()
        (root,) = struct.unpack_from("<I", metadata)
        if _field_of(metadata, _indirect(metadata, _field_of(metadata, root, 2)), 3):
            raise ValueError("it is compressed: send it plain")
    except (struct.error, EOFError) as error:
        raise ValueError(f"it has no batch: {error}") from error


def _field_of(flatbuffer: bytes, table: int, number: int) -> int:
    """Where field ``number`` of the table at ``table`` stands; 0 where it is absent."""
    (back,) = struct.unpack_from("<i", flatbuffer, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", flatbuffer, vtable)
    at = 4 + 2 * number
    if at + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", flatbuffer, vtable + at)
    return table + offset if offset else 0


def _indirect(flatbuffer: bytes, at: int) -> int:
    (offset,) = struct.unpack_from("<I", flatbuffer, at)
    return at + int(offset)


def _first_batch(payload: bytes | memoryview | pa.Buffer) -> tuple[pa.RecordBatch, Any]:
    try:
        reader = pa.ipc.open_stream(payload)
        return reader.read_next_batch(), reader
    except (pa.ArrowException, StopIteration, OSError, ValueError) as error:
        raise InvalidRecord(f"this is no batch of records as an Arrow IPC stream: {error}") from error


def with_record_schema(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` with all columns of `RECORD_SCHEMA`; those that it lacks are null."""
    given = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns = [
        given[field.name] if field.name in given else pa.nulls(batch.num_rows, field.type) for field in RECORD_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def _check(batch: pa.RecordBatch, reader: Any) -> None:
    if len(set(batch.schema.names)) != len(batch.schema.names):
        raise ValueError("a column stands there twice")
    for field in batch.schema:
        at = RECORD_SCHEMA.get_field_index(field.name)
        if at < 0:
            raise ValueError(f"{field.name!r} is no column of a record; what else a record has goes to attributes")
        if b"ARROW:extension:name" in (field.metadata or {}):
            raise ValueError(f"{field.name!r} is of an extension type; send its plain {RECORD_SCHEMA.field(at).type}")
        if field.type != RECORD_SCHEMA.field(at).type:
            raise ValueError(f"{field.name!r} must be {RECORD_SCHEMA.field(at).type}, not {field.type}")
    batch.validate(full=True)
    for required in ("timestamp", "time_unix_nano"):
        if required not in batch.schema.names or batch[required].null_count:
            raise ValueError(f"every record needs its {required}")
    if batch.num_rows == 0:
        raise ValueError("it holds no record")
    _check_ranges(batch)
    try:
        reader.read_next_batch()
    except StopIteration:
        return
    raise ValueError("it holds more than one batch")


def _check_ranges(batch: pa.RecordBatch) -> None:
    """A time that has no date would make every archiving of its shard fail, long after it was acknowledged."""
    ranges = {"severity_number": 24, "time_unix_nano": 2**63 - 1, **dict.fromkeys(_TIMES, _TIME_US_MAX)}
    for name in ranges.keys() & set(batch.schema.names):
        column = batch[name].cast(pa.int64()) if name in _TIMES else batch[name]
        found = pc.min_max(column).as_py()
        if found["min"] is not None and not 0 <= found["min"] <= found["max"] <= ranges[name]:
            raise ValueError(f"{name!r} must lie in 0–{ranges[name]}, not {found['min']}–{found['max']}")


def with_position(batch: pa.RecordBatch, shard: str, start: int) -> pa.RecordBatch:
    """``batch`` of `RECORD_SCHEMA` as rows of the table: offsets from ``start`` on in ``shard``, and the UTC date."""
    count = batch.num_rows
    # Times are never negative; Arrow's own rounding to days is ten times slower.
    days = pc.divide(batch["timestamp"].cast(pa.int64()), _DAY_US).cast(pa.int32()).cast(pa.date32())
    columns = [
        *batch.columns,
        pa.repeat(pa.scalar(shard), count),
        pa.array(np.arange(start, start + count, dtype=np.int64)),
        days,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TABLE_SCHEMA)


def cut(batch: pa.RecordBatch, rows_max: int, bytes_max: int) -> list[pa.RecordBatch]:
    """Consecutive slices of ``batch`` of at most ``rows_max`` records and about ``bytes_max`` bytes, one at least.

    >>> batch = pa.RecordBatch.from_pylist([{"body": "x"}] * 5, schema=RECORD_SCHEMA)
    >>> [piece.num_rows for piece in cut(batch, rows_max=2, bytes_max=10**6)]
    [2, 2, 1]
    """
    if batch.num_rows <= rows_max and batch.nbytes <= bytes_max:
        return [batch]
    if batch.num_rows <= 1:
        return [batch]
    parts = max(-(-batch.num_rows // rows_max), -(-batch.nbytes // bytes_max))
    rows = max(1, batch.num_rows // parts if batch.nbytes > bytes_max else rows_max)
    pieces: list[pa.RecordBatch] = []
    for start in range(0, batch.num_rows, rows):
        piece = batch.slice(start, min(rows, batch.num_rows - start))
        # Records differ in size: a slice that still is too large is halved.
        pieces.extend([piece] if piece.nbytes <= 2 * bytes_max else cut(piece, max(1, rows // 2), bytes_max))
    return pieces
