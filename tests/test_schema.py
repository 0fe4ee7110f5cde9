from __future__ import annotations

import datetime
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlog.errors import InvalidRecord
from ringlog.records import to_record_batch
from ringlog.schema import (
    RECORD_SCHEMA,
    TABLE_SCHEMA,
    _field_of,
    _indirect,
    check_packed,
    cut,
    joined,
    pack,
    unpack,
    with_position,
    with_record_schema,
    with_values,
)

texts = st.one_of(st.none(), st.text(max_size=20))
ROWS = st.lists(st.fixed_dictionaries({"body": texts, "service": texts, "scope": texts}), min_size=1, max_size=20)


def stream(batch: pa.RecordBatch, times: int = 1) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(times):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch(rows: list[dict[str, Any]] | None = None) -> pa.RecordBatch:
    return to_record_batch(rows or [{"body": "hi"}], observed_ns=7)


@given(ROWS)
def test_packing_keeps_every_value(rows: list[dict[str, Any]]) -> None:
    one = batch(rows)
    assert check_packed(pack(one)) == one.num_rows
    assert unpack(pack(one)).equals(one)


def test_columns_without_a_value_take_no_room() -> None:
    packed = pa.ipc.open_stream(pack(batch())).schema.names
    assert "body" in packed
    assert "trace_id" not in packed


def test_records_without_any_value_are_still_counted() -> None:
    nothing = pa.RecordBatch.from_pylist([{}, {}, {}], schema=RECORD_SCHEMA)
    assert unpack(pack(nothing)).num_rows == 3
    assert unpack(pack(nothing.slice(0, 0))).num_rows == 0


def test_metadata_stays_at_home() -> None:
    field = pa.field("body", pa.string(), metadata={"who": "me"})
    noted = pa.RecordBatch.from_arrays([pa.array(["x"])], schema=pa.schema([field], metadata={"where": "here"}))
    packed = pa.ipc.open_stream(pack(noted)).schema
    assert (packed.metadata, packed.field("body").metadata) == (None, None)


def hidden(column: str, kind: pa.DataType, value: Any, metadata: dict[str, str] | None = None) -> pa.RecordBatch:
    times = {"timestamp": RECORD_SCHEMA.field("timestamp").type, "time_unix_nano": pa.int64()}
    fields = [*(pa.field(name, kind) for name, kind in times.items()), pa.field(column, kind, metadata=metadata)]
    arrays = [*(pa.array([7], kind) for kind in times.values()), pa.array([value], kind)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def timed(micros: int, nanos: int) -> pa.RecordBatch:
    kinds = {"timestamp": RECORD_SCHEMA.field("timestamp").type, "time_unix_nano": pa.int64()}
    arrays = [pa.array([value]).cast(kind) for value, kind in zip((micros, nanos), kinds.values(), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, list(kinds))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no batch"),
        (b"garbage" * 100, "no batch"),
        (pack(batch())[:-40], "no batch"),
        (stream(batch(), times=2), "more than one batch"),
        (stream(batch().slice(0, 0)), "no record"),
        (stream(hidden("shard", pa.string(), "shard-9")), "no column of a record"),
        (stream(hidden("body", pa.binary(), b"x")), "must be string"),
        (stream(hidden("timestamp", pa.timestamp("us", "UTC"), 7)), "twice"),
        (stream(pa.RecordBatch.from_pydict({"body": ["x"]})), "timestamp"),
        (stream(hidden("body", pa.string(), "x", {"ARROW:extension:name": "pickled"})), "extension type"),
        (stream(hidden("body", pa.json_(), "{}")), "must be string"),
        (stream(hidden("severity_number", pa.int8(), 25)), "'severity_number' must lie in 0–24"),
        (stream(timed(2**63 - 1, 7)), "'timestamp' must lie in"),
        (stream(timed(-1, 7)), "'timestamp' must lie in"),
        (stream(timed(7, -1)), "'time_unix_nano' must lie in"),
        (stream(hidden("observed_timestamp", pa.timestamp("us", "UTC"), -1)), "'observed_timestamp' must lie in"),
    ],
)
def test_what_is_no_batch_of_records_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason):
        check_packed(payload)


def test_offsets_that_point_nowhere_are_found() -> None:
    payload = pack(batch([{"body": "a body of 33 characters is unique"}]))
    offsets, beyond = struct.pack("<ii", 0, 33), struct.pack("<ii", 0, 10**6)
    before, found, after = payload.rpartition(offsets)  # the last one: the message's own header has the length too
    assert found
    payload = before + beyond + after
    with pytest.raises(InvalidRecord):
        check_packed(payload)


@given(st.binary(max_size=300))
def test_garbage_is_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(InvalidRecord):
        check_packed(data)


def test_bits_flipped_anywhere_never_crash() -> None:
    good = pack(batch([{"body": "hello", "service": "s", "x": 1}] * 5))
    for at in range(0, len(good), 7):
        broken = bytearray(good)
        broken[at] ^= 0x55
        try:
            check_packed(bytes(broken))
        except InvalidRecord:
            continue


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_batches_that_lack_different_columns_are_joined_in_order(many: list[list[dict[str, Any]]]) -> None:
    whole = joined([with_values(batch(rows)) for rows in many])
    assert with_record_schema(whole) == batch([row for rows in many for row in rows])


def test_nothing_joined_is_nothing() -> None:
    none = batch().slice(0, 0)
    assert joined([none, none]).num_rows == 0


def test_every_time_that_is_let_in_has_a_date() -> None:
    latest = timed((2**63 - 1) // 1000, 2**63 - 1)
    placed = with_position(unpack(stream(latest)), "shard-1", 0)
    assert placed["date"].to_pylist() == [datetime.date(2262, 4, 11)]


def test_position_is_shard_offset_and_utc_date() -> None:
    rows = [
        {"body": "a", "timestamp": "2026-01-01T23:59:59.9Z"},
        {"body": "b", "timestamp": "2026-01-01T23:00:00-02:00"},
    ]
    placed = with_position(batch(rows), "shard-1", 40)
    assert placed.schema.equals(TABLE_SCHEMA)
    assert placed["record_offset"].to_pylist() == [40, 41]
    assert placed["date"].to_pylist() == [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)]
    assert set(placed["shard"].to_pylist()) == {"shard-1"}


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=60), st.integers(1, 20), st.integers(200, 20_000))
def test_cutting_loses_nothing_and_keeps_the_order(sizes: list[int], rows_max: int, bytes_max: int) -> None:
    one = batch([{"body": "x" * size} for size in sizes])
    pieces = cut(one, rows_max, bytes_max)
    assert pa.Table.from_batches(pieces).to_pylist() == one.to_pylist()
    assert all(1 <= piece.num_rows <= rows_max for piece in pieces)
    assert all(piece.nbytes <= 2 * bytes_max or piece.num_rows == 1 for piece in pieces)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_what_is_compressed_is_refused_before_it_is_unpacked(codec: str) -> None:
    one = batch([{"body": "x" * 200_000}] * 10)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, one.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(one)
    before = pa.total_allocated_bytes()
    with pytest.raises(InvalidRecord, match="compressed"):
        check_packed(bytes(sink.getvalue()))
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert check_packed(stream(one)) == 10


def test_a_dictionary_is_refused_before_it_is_unpacked() -> None:
    words = pa.array(["z" * 1_000_000] * 10).dictionary_encode()
    sink = pa.BufferOutputStream()
    one = pa.RecordBatch.from_arrays([words], names=["body"])
    with pa.ipc.new_stream(sink, one.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(one)
    before = pa.total_allocated_bytes()
    with pytest.raises(InvalidRecord, match="comes a dictionary"):
        check_packed(bytes(sink.getvalue()))
    assert pa.total_allocated_bytes() - before < 500_000


def test_columns_that_share_their_bytes_are_refused() -> None:
    """A few bytes would become many as soon as they are archived."""
    rows = [{"body": "y" * 10_000, "service": "s", "host": "h", "scope": "c"}] * 50
    payload = bytearray(pack(batch(rows)))
    names = pa.ipc.open_stream(bytes(payload)).schema.names
    # In the metadata of the batch's message, each buffer is two numbers: where it begins, and its length.
    source = pa.BufferReader(bytes(payload))
    pa.ipc.read_message(source)
    begin = source.tell() + 8
    header = _indirect(payload, _field_of(payload, begin + _indirect(payload[begin:], 0), 2))
    buffers = _indirect(payload, _field_of(payload, header, 2)) + 4

    def texts(name: str) -> slice:
        """The entries of its offsets and its characters, behind that of its nulls."""
        return slice(buffers + 16 * (before[name] + 1), buffers + 16 * (before[name] + 3))

    count, before = 0, {}
    for name in names:
        before[name] = count
        count += 3 if RECORD_SCHEMA.field(name).type == pa.string() else 2
    assert check_packed(bytes(payload)) == 50
    for name in ("service", "host", "scope"):
        payload[texts(name)] = payload[texts("body")]
    assert pa.ipc.open_stream(bytes(payload)).read_next_batch()["scope"][7].as_py() == "y" * 10_000
    with pytest.raises(InvalidRecord, match="its columns claim"):
        check_packed(bytes(payload))
