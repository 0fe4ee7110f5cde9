"""Anything that holds log records → one RecordBatch of `RECORD_SCHEMA`.

Whole columns are converted at once. Only a column with a value that is not plain is gone through one by one, and only
that tells which record is wrong and why.

A record's keys are the columns of `RECORD_SCHEMA`, ``severity`` (a number 0–24 or a word) and ``levelno`` (Python's).
Where a field is absent, another usual name of it counts: see `_ALIASES`. Every other key, also a position that a table
gave out (``shard``, ``record_offset``, ``date``), goes to ``attributes`` and wins over the same key there. In Arrow
data null and absent are the same; a row's None in an unknown key is kept as JSON null.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from ringlog import severity, values
from ringlog.errors import InvalidRecord
from ringlog.schema import RECORD_SCHEMA

RECORD_BYTES_MAX = 256 * 1024

_FORMS = "give a dict, a string, a LogRecord, a list or generator of them, or anything Arrow (pandas, Polars, DuckDB)"
_TENANT = "^[a-z0-9][a-z0-9_-]{0,62}$"

_ALIASES = {
    "message": "body",
    "msg": "body",
    "level": "severity",
    "levelname": "severity",
    "time": "timestamp",
    "ts": "timestamp",
    "@timestamp": "timestamp",
    "logger": "scope",
    "service.name": "service",
    "host.name": "host",
}
_TEXTS = (
    "service",
    "host",
    "scope",
    "event_name",
    "ray_job_id",
    "ray_submission_id",
    "ray_node_id",
    "ray_worker_id",
    "ray_actor_id",
    "ray_actor_name",
    "ray_task_id",
    "ray_task_name",
    "tenant",
)
_NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_KNOWN = frozenset(RECORD_SCHEMA.names) | {"severity", "levelno"}

Problems = dict[int, str]


class LogRecord(BaseModel):
    """One record with checked names. What is not named here goes to ``attributes``.

    >>> LogRecord(body="epoch 3 done", severity="INFO", service="train", loss=0.31).model_extra
    {'loss': 0.31}
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    body: Any = None
    timestamp: datetime.datetime | np.datetime64 | int | float | str | None = None
    observed_timestamp: datetime.datetime | np.datetime64 | int | float | str | None = None
    severity: int | str | None = None
    severity_text: str | None = None
    service: str | None = None
    host: str | None = None
    attributes: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None
    scope: str | None = None
    event_name: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    trace_flags: int | None = None
    tenant: str | None = None
    pid: int | None = None
    ray_job_id: str | None = None
    ray_submission_id: str | None = None
    ray_node_id: str | None = None
    ray_worker_id: str | None = None
    ray_actor_id: str | None = None
    ray_actor_name: str | None = None
    ray_task_id: str | None = None
    ray_task_name: str | None = None


def to_record_batch(
    records: Any,
    *,
    defaults: Mapping[str, Any] | None = None,
    observed_ns: int,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> pa.RecordBatch:
    """``records`` as one batch of `RECORD_SCHEMA`, in their order.

    ``records`` is a dict, a string (a body), a `LogRecord`, a list or generator of those, or Arrow data of any origin.
    ``defaults`` fills columns where a record gives nothing; ``observed_ns`` is when ringlog saw them, in ns, and stands
    in for a missing timestamp. Raises `InvalidRecord`, which names each bad record, when there is one.

    >>> batch = to_record_batch([{"msg": "hi", "level": "warn", "loss": 0.3}], observed_ns=7)
    >>> row = batch.to_pylist()[0]
    >>> row["body"], row["severity_number"], row["severity_text"], row["attributes"], row["time_unix_nano"]
    ('hi', 13, 'warn', '{"loss":0.3}', 7)
    """
    batch, problems = _convert(records, defaults or {}, observed_ns, record_bytes_max)
    if problems:
        first = min(problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidRecord(f"record {first}: {problems[first]}{more}", problems)
    return batch


def split_valid(
    records: Any,
    *,
    defaults: Mapping[str, Any] | None = None,
    observed_ns: int,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> tuple[pa.RecordBatch, Problems]:
    """The good ones of ``records`` as a batch, and the reason for each other one by its position."""
    batch, problems = _convert(records, defaults or {}, observed_ns, record_bytes_max)
    if not problems:
        return batch, problems
    good = np.ones(batch.num_rows, dtype=bool)
    good[list(problems)] = False
    return batch.filter(pa.array(good)), problems


def _convert(
    records: Any, defaults: Mapping[str, Any], observed_ns: int, record_bytes_max: int
) -> tuple[pa.RecordBatch, Problems]:
    """The batch, and the problems by position. A record with a problem has nulls where its bad values were."""
    problems: Problems = {}
    columns, count = _columns(records, problems)
    made = _Columns(columns, count, problems)
    batch = _with_defaults(_with_defaults(made.batch(observed_ns), defaults), {"tenant": "default"})
    _check_tenants(batch, problems)
    _check_sizes(batch, record_bytes_max, problems)
    return batch, problems


Column: TypeAlias = "Sequence[Any] | pa.Array"


def _columns(records: Any, problems: Problems) -> tuple[dict[str, Column], int]:
    """The columns by name: lists where records came as rows, Arrow arrays where they came as columns."""
    if isinstance(records, pa.RecordBatch) or hasattr(records, "__arrow_c_stream__"):
        return _arrow_columns(_table(records), problems)
    if isinstance(records, str | Mapping | LogRecord):
        records = [records]
    if isinstance(records, bytes) or not isinstance(records, Iterable):
        raise InvalidRecord(f"{type(records).__name__} is no record: {_FORMS}")
    return _row_columns([_row(record, at, problems) for at, record in enumerate(records)], problems)


def _row(record: Any, at: int, problems: Problems) -> dict[str, Any]:
    if type(record) is dict:
        return record
    if isinstance(record, str):
        return {"body": record}
    if isinstance(record, LogRecord):
        return {
            **record.model_dump(exclude_none=True, exclude=set(record.model_extra or ())),
            **(record.model_extra or {}),
        }
    if isinstance(record, Mapping):
        return dict(record)
    problems[at] = f"{type(record).__name__} is no record: {_FORMS}"
    return {}


def _row_columns(rows: list[dict[str, Any]], problems: Problems) -> tuple[dict[str, Column], int]:
    keys: set[Any] = set().union(*rows)
    if not keys.isdisjoint(_ALIASES):
        rows = [_renamed(row) for row in rows]
        keys = set().union(*rows)
    columns: dict[str, Column] = {name: [row.get(name) for row in rows] for name in keys & _KNOWN}
    unknown = keys - _KNOWN
    if unknown:
        columns["attributes"] = [
            _merged(row.get("attributes"), {key: row[key] for key in row if key in unknown}, at, problems)
            for at, row in enumerate(rows)
        ]
    return columns, len(rows)


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """Other names for a field count where the field itself is absent."""
    renamed = dict(row)
    for alias, name in _ALIASES.items():
        if alias in renamed and renamed.get(name) is None:
            renamed[name] = renamed.pop(alias)
    return renamed


def _merged(given: Any, extra: dict[Any, Any], at: int, problems: Problems) -> Any:
    """``extra`` on top of the attributes that were given; those alone when they are no mapping, to be refused later."""
    if given is None or not extra:
        return extra or given
    if isinstance(given, str):
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError:
            problems[at] = f"attributes {given[:60]!r} is no mapping: give a dict, or the JSON text of an object"
            return None
    return {**given, **extra} if isinstance(given, Mapping) else given


def _table(records: Any) -> pa.Table:
    """Arrow data of any origin, checked in full: its memory was written by somebody else."""
    try:
        table = pa.Table.from_batches([records]) if isinstance(records, pa.RecordBatch) else pa.table(records)
        table.validate(full=True)
    except pa.ArrowException as error:
        raise InvalidRecord(
            f"{type(records).__name__} cannot be read as columns of records: {error}; give a table whose columns have "
            "one type each, or give its rows as dicts"
        ) from error
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRecord(f"column {twice[0]!r} stands there twice: rename one")
    return table


def _arrow_columns(table: pa.Table, problems: Problems) -> tuple[dict[str, Column], int]:
    columns: dict[str, Column] = {name: _one(table[name]) for name in table.column_names}
    for alias, name in _ALIASES.items():
        if alias in columns:
            _rename(columns, alias, name)
    for name in columns.keys() & {"severity", "severity_number", "levelno"}:
        columns[name] = _whole(columns[name])
    unknown = [name for name in columns if name not in _KNOWN]
    if unknown:
        # JSON text is made record by record, wherever it comes from.
        extras = zip(*(_list(name, columns.pop(name)) for name in unknown), strict=True)
        given = _list("attributes", columns.get("attributes", [None] * table.num_rows))
        columns["attributes"] = [
            _merged(
                old, {key: value for key, value in zip(unknown, new, strict=True) if value is not None}, at, problems
            )
            for at, (old, new) in enumerate(zip(given, extras, strict=True))
        ]
    return columns, table.num_rows


def _rename(columns: dict[str, Column], alias: str, name: str) -> None:
    """What `_renamed` does, for columns: an alias counts in the records where the field itself is absent."""
    if name not in columns:
        columns[name] = columns.pop(alias)
        return
    pairs = list(zip(_list(name, columns[name]), _list(alias, columns[alias]), strict=True))
    if any(value is None and other is not None for value, other in pairs):
        columns[name] = [other if value is None else value for value, other in pairs]
        columns[alias] = [None if value is None else other for value, other in pairs]


def _whole(column: Column) -> Column:
    """A level that pandas made a float, because other records have none, is still a whole number."""
    if not (isinstance(column, pa.Array) and pa.types.is_floating(column.type)):
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # some are no whole numbers: those alone are problems
        return [int(value) if value is not None and value.is_integer() else value for value in column.to_pylist()]


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) and array.num_chunks == 1 else array
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _list(name: str, column: Column) -> Sequence[Any]:
    """Python values. Times that Python's datetime cannot hold stand there as the numbers that they are."""
    if not isinstance(column, pa.Array):
        return column
    try:
        # Asking for dicts is fifty times slower, also where there is no map.
        found: list[Any] = column.to_pylist(**({"maps_as_pydicts": "lossy"} if "map<" in str(column.type) else {}))
        return found
    except (OverflowError, ValueError, KeyError) as error:
        if pa.types.is_timestamp(column.type):
            numbers: list[Any] = column.cast(pa.int64()).to_pylist()
            return numbers
        raise InvalidRecord(f"column {name!r} of {column.type} cannot be read: {error}") from error


class _Columns:
    """Columns as they were given, on their way to `RECORD_SCHEMA`."""

    def __init__(self, given: dict[str, Column], count: int, problems: Problems) -> None:
        self._given = given
        self._count = count
        self._problems = problems

    def batch(self, observed_ns: int) -> pa.RecordBatch:
        made: dict[str, pa.Array] = {name: self._texts(name, values.text) for name in ("body", *_TEXTS)}
        for name in ("attributes", "resource"):
            made[name] = self._each(name, pa.string(), values.mapping_text)
        made["trace_id"] = self._ids("trace_id", 32)
        made["span_id"] = self._ids("span_id", 16)
        made["trace_flags"] = self._each("trace_flags", pa.int16(), lambda value: values.integer(value, 0, 255))
        made["pid"] = self._each("pid", pa.int64(), lambda value: values.integer(value, 0, 2**63 - 1))
        made |= self._severities()
        nanos = self._times("time_unix_nano")
        if "timestamp" in self._given:
            nanos = pc.coalesce(nanos, self._times("timestamp"))
        observed = self._times("observed_timestamp").fill_null(observed_ns)
        made["time_unix_nano"] = pc.coalesce(nanos, observed)
        made["timestamp"] = _micros(made["time_unix_nano"])
        made["observed_timestamp"] = _micros(observed)
        return pa.RecordBatch.from_arrays([made[name] for name in RECORD_SCHEMA.names], schema=RECORD_SCHEMA)

    def _severities(self) -> dict[str, pa.Array]:
        numbers, words = [], []
        if "severity_number" in self._given:
            numbers.append(self._each("severity_number", pa.int8(), values.severity).fill_null(0))
        for name in ("severity", "severity_text"):
            if name not in self._given:
                continue
            array = self._texts_or_none(name)
            if array is None:
                numbers.append(self._each(name, pa.int8(), values.severity).fill_null(0))
                array = self._each(
                    name, pa.string(), lambda value: values.text(value) if isinstance(value, str) else None
                )
            else:
                numbers.append(severity.severity_numbers(array))
            words.append(array)
        if "levelno" in self._given:
            number = self._each("levelno", pa.int8(), lambda value: values.severity(value, "python"))
            numbers.append(number.fill_null(0))
        chosen = severity.first_specified(numbers, self._count)
        text = pc.coalesce(*reversed(words), severity.short_names(chosen))
        return {"severity_number": chosen, "severity_text": text}

    def _times(self, name: str) -> pa.Array:
        column = self._given.get(name)
        if isinstance(column, pa.Array) and pa.types.is_timestamp(column.type):
            return self._nanos(name, column)
        if isinstance(column, pa.Array) and pa.types.is_int64(column.type) and not _any(pc.less(column, 0)):
            return column
        if isinstance(column, list) and column and all(type(value) is int for value in column):
            array = self._fast(column, pa.int64())
            if array is not None and not _any(pc.less(array, 0)):
                return array
        return self._each(name, pa.int64(), values.time_ns)

    def _nanos(self, name: str, column: pa.Array) -> pa.Array:
        """Nanoseconds of Arrow timestamps of any unit; those without a zone are UTC, as Arrow counts the others too."""
        factor = _NANOS[column.type.unit]
        counts = column.cast(pa.int64())
        outside = pc.or_(pc.less(counts, 0), pc.greater(counts, values.TIME_NS_MAX // factor))
        if _any(outside):
            for at in np.flatnonzero(outside.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
                what = f"{name} of {counts[at].as_py()} {column.type.unit} since 1970 lies outside"
                self._problems.setdefault(at, f"{what} 1970-01-01 to 2262-04-11: correct its unit, or leave it out")
            counts = pc.if_else(outside, None, counts)
        return pc.multiply(counts, factor)

    def _ids(self, name: str, length: int) -> pa.Array:
        given = self._given.get(name)
        # Arrow would read the bytes of an id as text, where they happen to be text.
        plain = not isinstance(given, list) or all(value is None or type(value) is str for value in given)
        array = self._texts_or_none(name) if plain else None
        if array is None:
            return self._each(name, pa.string(), lambda value: values.hex_id(value, length))
        lower = pc.ascii_lower(array)
        good = pc.and_(pc.match_substring_regex(lower, f"^[0-9a-f]{{{length}}}$"), pc.not_equal(lower, "0" * length))
        return pc.if_else(good, lower, None)

    def _texts(self, name: str, convert: Callable[[Any], Any]) -> pa.Array:
        array = self._texts_or_none(name)
        return array if array is not None else self._each(name, pa.string(), convert)

    def _texts_or_none(self, name: str) -> pa.Array | None:
        """The column, when it holds nothing but text and nulls."""
        column = self._given.get(name)
        if column is None:
            return pa.nulls(self._count, pa.string())
        if isinstance(column, pa.Array):
            kind = column.type
            texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
            return column.cast(pa.string()) if texts or pa.types.is_string_view(kind) else None
        return self._fast(column, pa.string())

    def _fast(self, column: Any, kind: pa.DataType) -> pa.Array | None:
        try:
            return pa.array(column, kind)
        except (pa.ArrowException, TypeError, UnicodeError, OverflowError):
            return None

    def _each(self, name: str, kind: pa.DataType, convert: Callable[[Any], Any]) -> pa.Array:
        """One value after the other: for what is not plain, and for what is JSON."""
        if name not in self._given:
            return pa.nulls(self._count, kind)
        converted: list[Any] = []
        for at, value in enumerate(_list(name, self._given[name])):
            try:
                converted.append(None if value is None else convert(value))
            except ValueError as error:
                converted.append(None)
                what = str(error) if str(error).startswith(name) else f"{name} {error}"
                self._problems.setdefault(at, what)
        return pa.array(converted, kind)


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask, min_count=0).as_py())


def _micros(nanos: pa.Array) -> pa.Array:
    return pc.divide(nanos, 1000).cast(pa.timestamp("us", "UTC"))


def _with_defaults(batch: pa.RecordBatch, defaults: Mapping[str, Any]) -> pa.RecordBatch:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, value in defaults.items():
        if value is not None and columns[name].null_count:
            # The operating system's own texts, such as arguments, may hold what UTF-8 cannot say.
            plain = values.text(value) if isinstance(value, str) else value
            columns[name] = columns[name].fill_null(pa.scalar(plain, columns[name].type))
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=RECORD_SCHEMA)


def _check_tenants(batch: pa.RecordBatch, problems: Problems) -> None:
    names = pc.unique(batch["tenant"])
    if pc.all(pc.match_substring_regex(names, _TENANT), min_count=0).as_py():
        return
    good = pc.match_substring_regex(batch["tenant"], _TENANT).to_pylist()
    for at in np.flatnonzero(~np.array(good, dtype=bool)).tolist():
        name = batch["tenant"][at].as_py()[:60]
        problems.setdefault(at, f"tenant {name!r} is no name: use a–z, 0–9, '_' and '-', 63 at most")


def _check_sizes(batch: pa.RecordBatch, record_bytes_max: int, problems: Problems) -> None:
    if batch.nbytes <= record_bytes_max:
        return
    lengths = [
        pc.binary_length(column).fill_null(0).to_numpy()
        for column in batch.columns
        if pa.types.is_string(column.type) and column.null_count < len(column)
    ]
    sizes = np.asarray(np.sum(lengths, axis=0, dtype=np.int64))
    for at in np.flatnonzero(sizes > record_bytes_max).tolist():
        problems.setdefault(
            at, f"it has {int(sizes[at])} bytes of text: {record_bytes_max} at most; cut it, or raise record_bytes_max"
        )
