"""Named columns, as lists of Python values or Arrow arrays → one RecordBatch of `RECORD_SCHEMA`.

Whole columns are converted at once. Only a column with a value that is not plain is gone through one by one, and only
that tells which record is wrong and why. Columns without any value cost next to nothing.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ringlog import json_columns, severity, values
from ringlog.schema import RECORD_SCHEMA, text_offsets

Problems = dict[int, str]
Column: TypeAlias = "Sequence[Any] | pa.Array"
Columns: TypeAlias = "dict[str, Column | json_columns.Objects]"

_TEXTS = (
    "body",
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
_TENANT = re.compile("[a-z0-9][a-z0-9_-]{0,62}")
_NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_MICROS = pa.timestamp("us", "UTC")
# Times that Arrow reads as `values.time_ns` does. It says of the rest whether such a day exists.
_ISO = (
    r"^(?:19[7-9][0-9]|2[01][0-9]{2}|22[0-5][0-9])-[0-9]{2}-[0-9]{2}[T ]"
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z\z"
)


def batch_of(
    given: Columns,
    count: int,
    *,
    defaults: Mapping[str, Any],
    observed_ns: int,
    record_bytes_max: int,
    problems: Problems,
) -> pa.RecordBatch:
    """``count`` records of `RECORD_SCHEMA`. A record that gets a problem, by its position, has nulls for bad values.

    ``defaults`` fill what is null; ``observed_ns`` is when ringlog saw them, and the time of those that tell none.
    """
    columns = _Columns(given, count, problems).made(observed_ns)
    for name, value in [*defaults.items(), ("tenant", "default")]:
        if value is not None:
            columns[name] = _filled(columns.get(name), name, value, count)
    _check_tenants(columns["tenant"], problems)
    _check_sizes(columns.values(), record_bytes_max, problems)
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in RECORD_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


class _Columns:
    """Columns as they were given, on their way to `RECORD_SCHEMA`."""

    def __init__(self, given: Columns, count: int, problems: Problems) -> None:
        # Null and absent are the same.
        self._objects = {name: one.texts for name, one in given.items() if isinstance(one, json_columns.Objects)}
        self._given: dict[str, Column] = {
            name: column
            for name, column in given.items()
            if not isinstance(column, json_columns.Objects) and not _is_empty(column)
        }
        self._count = count
        self._problems = problems

    def made(self, observed_ns: int) -> dict[str, pa.Array]:
        """The columns that have a value."""
        given = self._given
        made = {name: self._texts(name, values.text) for name in _TEXTS if name in given}
        made |= {name: self._mappings(name) for name in ("attributes", "resource") if name in given} | self._objects
        made |= {name: self._ids(name, length) for name, length in (("trace_id", 32), ("span_id", 16)) if name in given}
        for name, kind, most in (("trace_flags", pa.int16(), 255), ("pid", pa.int64(), 2**63 - 1)):
            if name in given:
                made[name] = self._whole_numbers(name, kind, most)
        return made | self._severities() | self._all_times(observed_ns)

    def _severities(self) -> dict[str, pa.Array]:
        numbers, words = [], []
        if "severity_number" in self._given:
            numbers.append(self._levels("severity_number"))
        for name in ("severity", "severity_text"):
            if name not in self._given:
                continue
            array = self._texts_or_none(name)
            if array is None:
                numbers.append(self._levels(name))
                array = self._each(
                    name, pa.string(), lambda value: values.text(value) if isinstance(value, str) else None
                )
            elif not (numbers and severity.all_specified(numbers[0])):
                numbers.append(severity.severity_numbers(array))
            words.append(array)
        if "levelno" in self._given:
            python = self._each("levelno", pa.int8(), lambda value: values.severity(value, "python"))
            numbers.append(python.fill_null(0))
        chosen = severity.first_specified(numbers, self._count)
        if words and not words[-1].null_count:
            return {"severity_number": chosen, "severity_text": words[-1]}
        return {"severity_number": chosen, "severity_text": pc.coalesce(*reversed(words), severity.short_names(chosen))}

    def _levels(self, name: str) -> pa.Array:
        column = self._given[name]
        if isinstance(column, pa.Array) and pa.types.is_integer(column.type) and _within(column, 0, 24):
            return column.cast(pa.int8()).fill_null(0)
        return self._each(name, pa.int8(), values.severity).fill_null(0)

    def _all_times(self, observed_ns: int) -> dict[str, pa.Array]:
        observed = self._times("observed_timestamp")
        if observed is None or observed.null_count:
            observed = _filled(observed, "time_unix_nano", observed_ns, self._count)
        nanos = self._times("time_unix_nano")
        if nanos is None or nanos.null_count:
            told = [nanos, self._times("timestamp"), observed]
            nanos = pc.coalesce(*(times for times in told if times is not None))
        return {"time_unix_nano": nanos, "timestamp": _micros(nanos), "observed_timestamp": _micros(observed)}

    def _times(self, name: str) -> pa.Array | None:
        column = self._given.get(name)
        if column is None:
            return None
        if not isinstance(column, pa.Array):
            column = _times_of(column)
        if column is not None and pa.types.is_timestamp(column.type):
            return self._nanos(name, column)
        if column is not None and pa.types.is_int64(column.type) and _within(column, 0, None):
            return column
        if column is not None and pa.types.is_string(column.type):
            array = _iso_nanos(column)
            if array is not None:
                return array
        return self._each(name, pa.int64(), values.time_ns)

    def _nanos(self, name: str, column: pa.Array) -> pa.Array:
        """Nanoseconds of Arrow timestamps of any unit; those without a zone are UTC, as Arrow counts the others too."""
        factor = _NANOS[column.type.unit]
        counts = column.view(pa.int64())
        if not _within(counts, 0, values.TIME_NS_MAX // factor):
            outside = pc.or_(pc.less(counts, 0), pc.greater(counts, values.TIME_NS_MAX // factor))
            for at in np.flatnonzero(outside.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
                what = f"{name} of {counts[at].as_py()} {column.type.unit} since 1970 lies outside"
                self._problems.setdefault(at, f"{what} 1970-01-01 to 2262-04-11: correct its unit, or leave it out")
            counts = pc.if_else(outside, None, counts)
        return counts if factor == 1 else pc.multiply(counts, factor)

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

    def _whole_numbers(self, name: str, kind: pa.DataType, most: int) -> pa.Array:
        column = self._given[name]
        if isinstance(column, list) and {int, type(None)}.issuperset(map(type, column)):
            column = _array(column, pa.int64())
        if isinstance(column, pa.Array) and pa.types.is_integer(column.type) and _within(column, 0, most):
            return column.cast(kind)
        return self._each(name, kind, lambda value: values.integer(value, 0, most))

    def _mappings(self, name: str) -> pa.Array:
        column = self._given[name]
        if not isinstance(column, pa.Array):
            texts = json_columns.of_dicts(column)
            return texts if texts is not None else self._each(name, pa.string(), values.mapping_text)
        texts = self._texts_or_none(name)
        if texts is None:
            return self._each(name, pa.string(), values.mapping_text)
        sure = json_columns.unchanged(texts)[0]
        where = np.flatnonzero(~np.asarray(sure.to_numpy(zero_copy_only=False))).tolist()
        if not where:
            return texts
        made = self._each_of(name, texts.take(pa.array(where)).to_pylist(), where, pa.string(), values.mapping_text)
        return pc.replace_with_mask(texts, pc.invert(sure), made)

    def _texts(self, name: str, convert: Callable[[Any], Any]) -> pa.Array:
        array = self._texts_or_none(name)
        return array if array is not None else self._each(name, pa.string(), convert)

    def _texts_or_none(self, name: str) -> pa.Array | None:
        """The column, when it holds nothing but text and nulls."""
        column = self._given[name]
        if not isinstance(column, pa.Array):
            return _array(column, pa.string())
        kind = column.type
        if pa.types.is_string(kind):
            return column
        return column.cast(pa.string()) if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else None

    def _each(self, name: str, kind: pa.DataType, convert: Callable[[Any], Any]) -> pa.Array:
        """One value after the other: for what is not plain."""
        column = self._given[name]
        listed = json_columns.python_values(name, column) if isinstance(column, pa.Array) else column
        return self._each_of(name, listed, range(self._count), kind, convert)

    def _each_of(
        self, name: str, found: Iterable[Any], places: Iterable[int], kind: pa.DataType, convert: Callable[[Any], Any]
    ) -> pa.Array:
        converted: list[Any] = []
        for at, value in zip(places, found, strict=True):
            try:
                converted.append(None if value is None else convert(value))
            except ValueError as error:
                converted.append(None)
                what = str(error) if str(error).startswith(name) else f"{name} {error}"
                self._problems.setdefault(at, what)
        return pa.array(converted, kind)


def _is_empty(column: Column) -> bool:
    if isinstance(column, pa.Array):
        return bool(column.null_count == len(column))
    return column.count(None) == len(column)


def _array(column: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    try:
        return pa.array(column, kind)
    except (pa.ArrowException, TypeError, UnicodeError, OverflowError):
        return None


def _times_of(column: Sequence[Any]) -> pa.Array | None:
    """Times of one usual kind as an Arrow array; None where they are not."""
    kinds = set(map(type, column)) - {type(None)}
    for kind, made in ((int, pa.int64()), (str, pa.string()), (datetime.datetime, _MICROS)):
        if kinds == {kind}:
            return _array(column, made)
    return None


def _iso_nanos(texts: pa.Array) -> pa.Array | None:
    """Nanoseconds of times as ``2026-01-31T08:00:00.123Z``; None where one is written otherwise, or does not exist."""
    if not (_alike_iso(texts) or pc.all(pc.match_substring_regex(texts, _ISO), min_count=0).as_py()):
        return None
    try:
        return texts.cast(pa.timestamp("ns", "UTC")).view(pa.int64())
    except pa.ArrowInvalid:
        return None


def _alike_iso(texts: pa.Array) -> bool:
    """Whether all match `_ISO` and have as many digits; in a tenth of the pattern's time."""
    ends = text_offsets(texts)
    long = int(ends[1] - ends[0]) if len(ends) > 1 else 0
    if texts.null_count or not (long == 20 or 22 <= long <= 30) or (np.diff(ends) != long).any():
        return False
    rows = np.frombuffer(texts.buffers()[2], np.uint8)[ends[0] : ends[-1]].reshape(-1, long)
    # By column: a place of one text beside the same place of the next. What is no digit comes out above 9.
    places = np.ascontiguousarray(rows.T)
    digits = places - 0x30
    fixed = {4: "-", 7: "-", 13: ":", 16: ":", long - 1: "Z", **({19: "."} if long > 20 else {})}
    if not all((places[at] == ord(sign)).all() for at, sign in fixed.items()):
        return False
    between = (places[10] == ord("T")) | (places[10] == ord(" "))
    if not between.all() or digits[[at for at in range(long) if at != 10 and at not in fixed]].max() > 9:
        return False
    years = np.array([1000, 100, 10, 1]) @ digits[:4].astype(np.int64)
    hours = 10 * digits[11].astype(np.int64) + digits[12]
    return bool(
        years.min() >= 1970
        and years.max() < 2260
        and hours.max() < 24
        and digits[14].max() < 6
        and digits[17].max() < 6
    )


def _within(column: pa.Array, low: int, high: int | None) -> bool:
    """Whether all of it that is not null lies in ``[low, high]``."""
    if column.null_count:
        found = pc.min_max(column).as_py()
        least, most = found["min"], found["max"]
    else:
        numbers = column.to_numpy()
        least, most = (int(numbers.min()), int(numbers.max())) if len(numbers) else (low, low)
    return bool(least is None or (least >= low and (high is None or most <= high)))


def _micros(nanos: pa.Array) -> pa.Array:
    if nanos.null_count:  # of records with a problem
        return pc.divide(nanos, 1000).cast(_MICROS)
    return pa.array(nanos.to_numpy() // 1000).view(_MICROS)


def _filled(column: pa.Array | None, name: str, value: Any, count: int) -> pa.Array:
    if column is not None and not column.null_count:
        return column
    # The operating system's own texts, such as arguments, may hold what UTF-8 cannot say.
    plain = pa.scalar(values.text(value) if isinstance(value, str) else value, RECORD_SCHEMA.field(name).type)
    return pa.repeat(plain, count) if column is None else column.fill_null(plain)


def _check_tenants(tenants: pa.Array, problems: Problems) -> None:
    bad = [name for name in pc.unique(tenants).to_pylist() if not _TENANT.fullmatch(name)]
    for name in bad:
        for at in np.flatnonzero(pc.equal(tenants, name).to_numpy(zero_copy_only=False)).tolist():
            problems.setdefault(at, f"tenant {name[:60]!r} is no name: use a–z, 0–9, '_' and '-', 63 at most")


def _check_sizes(columns: Iterable[pa.Array], record_bytes_max: int, problems: Problems) -> None:
    texts = [column for column in columns if pa.types.is_string(column.type)]
    if sum(column.nbytes for column in texts) <= record_bytes_max:
        return
    if sum(map(_longest, texts)) <= record_bytes_max:
        return
    lengths = [pc.binary_length(column).fill_null(0).to_numpy() for column in texts]
    sizes = np.asarray(np.sum(lengths, axis=0, dtype=np.int64))
    for at in np.flatnonzero(sizes > record_bytes_max).tolist():
        problems.setdefault(
            at, f"it has {int(sizes[at])} bytes of text: {record_bytes_max} at most; cut it, or raise record_bytes_max"
        )


def _longest(texts: pa.Array) -> int:
    """No text has more bytes; what is null may have some, too, where somebody else made the column."""
    ends = text_offsets(texts)
    return int(np.diff(ends).max(initial=0))
