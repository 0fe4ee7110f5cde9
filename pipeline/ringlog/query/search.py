"""Search without SQL: text, pattern, severity, service, time and attributes. One filter for stored and live records."""

from __future__ import annotations

import datetime
import functools
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ringlog.errors import InvalidQuery
from ringlog.query.result import Result
from ringlog.query.snapshot import Cut
from ringlog.query.sql import run_sql
from ringlog.schema import Promoted
from ringlog.severity import severity_number
from ringlog.storage.index import is_word
from ringlog.storage.promotion import quoted

Moment = str | datetime.datetime | None

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True)
class Filter:
    """What a record must be like; what is None does not matter.

    ``text`` stands in the body, in any case; ``regex`` is found in it (RE2); ``severity`` is the least, a word or a
    number; ``attributes`` are equal, value and type.
    """

    text: str | None = None
    regex: str | None = None
    service: str | None = None
    severity: str | int | None = None
    tenant: str | None = None
    trace_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def least(self) -> int | None:
        """The least severity number. Raises `InvalidQuery` for a word that is no level."""
        if self.severity is None:
            return None
        try:
            number = severity_number(self.severity)
        except ValueError as error:
            raise InvalidQuery(str(error)) from error
        if number == 0:
            raise InvalidQuery(f"{self.severity!r} is no level: give a word such as 'ERROR', or 1–24")
        return number

    def conditions(self, promoted: Sequence[Promoted] = ()) -> tuple[list[str], list[Any]]:
        """SQL conditions and their parameters; a user's text is always a parameter.

        By a column of ``promoted``, readers skip what cannot have the attribute; what remains is compared as JSON.
        """
        found: list[tuple[str, Any]] = []
        if self.text is not None:
            # Without a copy of every body in lower case; and as Arrow does it in `apply`.
            found.append(("regexp_matches(body, ?)", f"(?i){re.escape(self.text)}"))
        if self.regex is not None:
            self._check_regex()
            found.append(("regexp_matches(body, ?)", self.regex))
        found += [(f"{name} = ?", value) for name, value in self.columns()]
        least = self.least()
        if least is not None:
            found.append(("severity_number >= ?", least))
        conditions, parameters = [one for one, _ in found], [value for _, value in found]
        columns = {one.name: one for one in promoted}
        for key, value in self.attributes.items():
            column = columns.get(key)
            if column is not None and (held := _in_column(column, value)) is not None:
                conditions.append(f"{quoted(key)} = ?")
                parameters.append(held)
            conditions.append("json_extract(attributes, ?) = ?::JSON")
            parameters += [_json_path(key), orjson.dumps(value).decode()]
        return conditions, parameters

    def columns(self) -> list[tuple[str, str]]:
        """The columns that must be equal to a text."""
        named = (("service", self.service), ("tenant", self.tenant), ("trace_id", self.trace_id))
        return [(name, value) for name, value in named if value is not None]

    def words(self) -> tuple[str, ...]:
        """What every record that passes holds, and an index may know: its trace id, and values of its attributes."""
        return tuple(value for value in (self.trace_id, *self.attributes.values()) if is_word(value))

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The records of ``batch`` (of the table's schema) that the filter lets through."""
        masks = []
        if self.text is not None:
            masks.append(pc.match_substring(batch["body"], self.text, ignore_case=True))
        if self.regex is not None:
            self._check_regex()
            masks.append(pc.match_substring_regex(batch["body"], self.regex))
        masks += [pc.equal(batch[name], value) for name, value in self.columns()]
        least = self.least()
        if least is not None:
            masks.append(pc.greater_equal(batch["severity_number"], least))
        if self.attributes:
            masks.append(pa.array([self._has(text) for text in batch["attributes"].to_pylist()]))
        if not masks:
            return batch
        return batch.filter(functools.reduce(pc.and_, masks))

    def _check_regex(self) -> None:
        """DuckDB and Arrow both use RE2, so a pattern that is one here is one there."""
        try:
            pc.match_substring_regex(pa.array([""]), self.regex)
        except pa.ArrowInvalid as error:
            raise InvalidQuery(f"{self.regex!r} is no pattern: {error}") from error

    def _has(self, text: str | None) -> bool:
        attributes = orjson.loads(text) if text else {}
        return all(key in attributes and attributes[key] == value for key, value in self.attributes.items())


def run_search(
    cut: Cut,
    wanted: Filter,
    *,
    since: Moment = None,
    until: Moment = None,
    limit: int | None = 1000,
    now: datetime.datetime,
) -> Result:
    """The records that ``wanted`` lets through in ``[since, until)``, by time; of more than ``limit``, the newest.

    ``since`` and ``until`` are a time, ISO 8601 text, or an age such as ``15m``, ``1h``, ``2d``. Raises `InvalidQuery`.
    """
    conditions, parameters = wanted.conditions(cut.promoted)
    within = [pc.field(name) == value for name, value in wanted.columns()]
    for moment, sign in ((since, ">="), (until, "<")):
        if moment is not None:
            at = _moment(moment, now)
            conditions += [f"timestamp {sign} ?", f"date {sign.rstrip('=')}= ?"]
            parameters += [at, at.date()]
            within.append(pc.field("timestamp") >= at if sign == ">=" else pc.field("timestamp") < at)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    newest = "ORDER BY timestamp DESC, shard DESC, record_offset DESC LIMIT ?" if limit is not None else ""
    query = f"SELECT * FROM (SELECT * FROM logs {where} {newest}) ORDER BY timestamp, shard, record_offset"
    return run_sql(
        query,
        cut,
        [*parameters, limit] if limit is not None else parameters,
        words=wanted.words(),
        within=functools.reduce(operator.and_, within) if within else None,
    )


def _moment(given: str | datetime.datetime, now: datetime.datetime) -> datetime.datetime:
    if isinstance(given, str):
        ago = _AGO.fullmatch(given.strip())
        if ago:
            return now - datetime.timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
        try:
            given = datetime.datetime.fromisoformat(given.strip().replace("Z", "+00:00"))
        except ValueError:
            raise InvalidQuery(
                f"{given!r} is no time: give an age such as 30s, 15m, 1h, 2d, or ISO 8601 such as 2026-01-31T12:00:00Z"
            ) from None
    return given if given.tzinfo else given.replace(tzinfo=datetime.timezone.utc)


def _in_column(column: Promoted, value: Any) -> str | int | float | bool | None:
    """What every record with the attribute ``value`` has in ``column``; None where that cannot be said for sure."""
    kind = type(value)
    if column.kind == "string":
        if kind is str:
            return str(value)
        return orjson.dumps(value).decode() if kind is int or kind is bool else None
    if column.kind == "integer":
        return int(value) if kind is int and -(2**63) <= value < 2**63 else None
    if column.kind == "number":
        return float(value) if kind in (int, float) and math.isfinite(value) else None
    return bool(value) if kind is bool else None


def _json_path(key: str) -> str:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'$."{escaped}"'
