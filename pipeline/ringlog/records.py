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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from ringlog import json_columns, ndjson
from ringlog.columns import Column, Columns, Problems, batch_of
from ringlog.errors import InvalidRecord
from ringlog.schema import RECORD_SCHEMA

RECORD_BYTES_MAX = 256 * 1024

_FORMS = (
    "give a dict, a string, a LogRecord, a list or generator of them, anything Arrow (pandas, Polars, DuckDB), "
    "or bytes with a JSON object in each line"
)
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
_KNOWN = frozenset(RECORD_SCHEMA.names) | {"severity", "levelno"}


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

    ``records`` is a dict, a string (a body), a `LogRecord`, a list or generator of those, Arrow data of any origin, or
    bytes: a JSON object in each line. Lines end at LF or CRLF, the last needs no end, blank ones are skipped.
    ``defaults`` fills columns where a record gives nothing; ``observed_ns`` is when ringlog saw them, in ns, and stands
    in for a missing timestamp. Raises `InvalidRecord`, which names each bad record, when there is one: by its position
    from 0, in bytes by its line from 1.

    >>> batch = to_record_batch([{"msg": "hi", "level": "warn", "loss": 0.3}], observed_ns=7)
    >>> row = batch.to_pylist()[0]
    >>> row["body"], row["severity_number"], row["severity_text"], row["attributes"], row["time_unix_nano"]
    ('hi', 13, 'warn', '{"loss":0.3}', 7)
    >>> to_record_batch(b'{"body":"a"}\\n{"body":"b"}\\n', observed_ns=7)["body"].to_pylist()
    ['a', 'b']
    """
    made = _Making(defaults or {}, observed_ns, record_bytes_max).of(records)
    if made.problems:
        problems = made.named_problems()
        first = min(problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what = "record" if made.numbers is None else "line"
        raise InvalidRecord(f"{what} {first}: {problems[first]}{more}", problems)
    return made.batch


def split_valid(
    records: Any,
    *,
    defaults: Mapping[str, Any] | None = None,
    observed_ns: int,
    record_bytes_max: int = RECORD_BYTES_MAX,
    plain_lines: bool = False,
) -> tuple[pa.RecordBatch, Problems]:
    """The good ones of ``records`` as a batch, and the reason for each other one by its position, in bytes its line.

    With ``plain_lines``, a line that is no JSON object is a text that becomes the body, a blank one too.
    """
    made = _Making(defaults or {}, observed_ns, record_bytes_max, plain_lines).of(records)
    if not made.problems:
        return made.batch, {}
    good = np.ones(made.batch.num_rows, dtype=bool)
    good[list(made.problems)] = False
    return made.batch.filter(pa.array(good)), made.named_problems()


@dataclass(frozen=True)
class _Made:
    """A batch and the problems by row. A record with a problem has nulls where its bad values were.

    ``numbers`` are the lines from which the rows come, where they come from lines.
    """

    batch: pa.RecordBatch
    problems: Problems
    numbers: npt.NDArray[np.int64] | None = None

    def named_problems(self) -> Problems:
        if self.numbers is None:
            return self.problems
        return {int(self.numbers[row]): problem for row, problem in self.problems.items()}


@dataclass(frozen=True)
class _Making:
    defaults: Mapping[str, Any]
    observed_ns: int
    record_bytes_max: int
    plain_lines: bool = False

    def of(self, records: Any) -> _Made:
        if isinstance(records, bytes | bytearray | memoryview):
            return self._of_lines(records)
        problems: Problems = {}
        return self._batch(*_columns(records, problems), problems)

    def _batch(self, columns: Columns, count: int, problems: Problems) -> _Made:
        batch = batch_of(
            columns,
            count,
            defaults=self.defaults,
            observed_ns=self.observed_ns,
            record_bytes_max=self.record_bytes_max,
            problems=problems,
        )
        return _Made(batch, problems)

    def _of_lines(self, data: bytes | bytearray | memoryview) -> _Made:
        reader = ndjson.Reader(_KNOWN)
        batches, problems, numbers = [], {}, [np.zeros(0, dtype=np.int64)]
        for lines in ndjson.pieces(data, keep_blank=self.plain_lines):
            before = sum(map(len, numbers))
            made = self._of_piece(lines, reader)
            batches.append(made.batch)
            numbers.append(lines.numbers)
            problems.update({before + row: problem for row, problem in made.problems.items()})
        batches = batches or [pa.RecordBatch.from_pylist([], schema=RECORD_SCHEMA)]
        whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        return _Made(whole, problems, np.concatenate(numbers))

    def _of_piece(self, lines: ndjson.Lines, reader: ndjson.Reader) -> _Made:
        """Whole columns for what they say surely; the other lines one by one."""
        found = reader.read(lines)
        columns = None if found is None else _line_columns(found, len(lines))
        if found is None or columns is None:
            return self._one_by_one(lines, range(len(lines)))
        problems: Problems = {}
        made = self._batch(columns, len(lines), problems)
        unsure = np.flatnonzero(~found.sure).tolist()
        if not unsure:
            return made
        alone = self._one_by_one(lines, unsure)
        place = np.arange(len(lines))
        place[unsure] = len(lines) + np.arange(len(unsure))
        batch = pa.concat_batches([made.batch, alone.batch]).take(pa.array(place))
        problems = {row: problem for row, problem in made.problems.items() if found.sure[row]}
        return _Made(batch, {**problems, **{unsure[row]: problem for row, problem in alone.problems.items()}})

    def _one_by_one(self, lines: ndjson.Lines, which: Sequence[int]) -> _Made:
        problems: Problems = {}
        rows = [_line(lines.line(at), row, problems, self.plain_lines) for row, at in enumerate(which)]
        return self._batch(*_row_columns(rows, problems), problems)


def _line(line: bytes, row: int, problems: Problems, plain: bool) -> dict[str, Any]:
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        given, why = None, f"it is no JSON object: {error.msg} at its character {error.pos + 1}"
    else:
        why = f"it is no JSON object but {line[:60].decode(errors='backslashreplace')}"
    if isinstance(given, dict):
        return given
    if plain:
        return {"body": line.decode("utf-8", "backslashreplace")}
    problems[row] = f"{why}; give one object in each line"
    return {}


def _line_columns(found: ndjson.Columns, rows: int) -> Columns | None:
    """What `_row_columns` gives for the same lines; None where only that can tell."""
    columns: dict[str, Column] = dict(found.columns)
    for alias, name in _ALIASES.items():
        if alias in columns:
            _rename(columns, alias, name)
    extras = {name: columns.pop(name) for name in [*columns] if name not in _KNOWN}
    made: Columns = dict(columns)
    members = found.members.get("attributes", {})
    if extras.keys() & members.keys() or (extras and "attributes" in columns):
        return None
    for name, parts in (("attributes", {**members, **extras}), ("resource", found.members.get("resource", {}))):
        if parts:
            if not all(isinstance(part, pa.Array) for part in parts.values()):
                return None
            texts = json_columns.of_columns(parts, rows)
            if texts is None:
                return None
            made[name] = json_columns.Objects(texts)
    return made


def _columns(records: Any, problems: Problems) -> tuple[Columns, int]:
    """The columns by name: lists where records came as rows, Arrow arrays where they came as columns."""
    if isinstance(records, pa.RecordBatch) or hasattr(records, "__arrow_c_stream__"):
        return _arrow_columns(_table(records), problems)
    if isinstance(records, str | Mapping | LogRecord):
        records = [records]
    if not isinstance(records, Iterable):
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


def _row_columns(rows: list[dict[str, Any]], problems: Problems) -> tuple[Columns, int]:
    keys: set[Any] = set().union(*rows)
    if not keys.isdisjoint(_ALIASES):
        rows = [_renamed(row) for row in rows]
        keys = set().union(*rows)
    columns: Columns = {name: [row.get(name) for row in rows] for name in keys & _KNOWN}
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


def _table(records: Any) -> pa.Table | pa.RecordBatch:
    """Arrow data of any origin, checked in full: its memory was written by somebody else."""
    try:
        table = records if isinstance(records, pa.RecordBatch) else pa.table(records)
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


def _arrow_columns(table: pa.Table | pa.RecordBatch, problems: Problems) -> tuple[Columns, int]:
    columns: dict[str, Column] = {
        name: _one(column) for name, column in zip(table.column_names, table.columns, strict=True)
    }
    for alias, name in _ALIASES.items():
        if alias in columns:
            _rename(columns, alias, name)
    for name in columns.keys() & {"severity", "severity_number", "levelno"}:
        columns[name] = _whole(columns[name])
    extras = {name: columns.pop(name) for name in [*columns] if name not in _KNOWN}
    if not extras:
        return dict(columns), table.num_rows
    attributes = _with_extras(columns.get("attributes"), extras, table.num_rows, problems)
    return {**columns, "attributes": attributes}, table.num_rows


def _with_extras(
    given: Column | None, extras: Mapping[str, Column], rows: int, problems: Problems
) -> Column | json_columns.Objects:
    """``extras`` on top of the attributes that were given."""
    arrays = {name: column for name, column in extras.items() if isinstance(column, pa.Array)}
    made = json_columns.of_columns(arrays, rows) if len(arrays) == len(extras) else None
    if made is not None and given is not None:
        is_text = isinstance(given, pa.Array) and (pa.types.is_string(given.type) or pa.types.is_null(given.type))
        made = json_columns.merged(given, made, extras) if is_text else None
    if made is not None:
        return json_columns.Objects(made)
    found = zip(*(_list(name, column) for name, column in extras.items()), strict=True)
    old = [None] * rows if given is None else _list("attributes", given)
    return [
        _merged(one, {name: value for name, value in zip(extras, new, strict=True) if value is not None}, at, problems)
        for at, (one, new) in enumerate(zip(old, found, strict=True))
    ]


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


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _list(name: str, column: Column) -> Sequence[Any]:
    return json_columns.python_values(name, column) if isinstance(column, pa.Array) else column
