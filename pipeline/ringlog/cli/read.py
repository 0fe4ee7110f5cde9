"""sql, search, tail: the log on a terminal."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

import ringlog
from ringlog.cli import show
from ringlog.errors import InvalidQuery

Json = Annotated[bool, typer.Option("--json", help="One JSON object a record.")]
Raw = Annotated[bool, typer.Option(help="Print control characters as they were logged.")]
Service = Annotated[str | None, typer.Option(help="Only this service.")]
Severity = Annotated[str | None, typer.Option(help="The least severity, such as WARN.")]
Regex = Annotated[str | None, typer.Option(help="A pattern (RE2) that the body must contain.")]
Text = Annotated[str | None, typer.Argument(help="Text that the body must contain, in any case.")]
Attribute = Annotated[list[str] | None, typer.Option("--attribute", help="key=value, as often as you like.")]


class Format(str, enum.Enum):
    """How ``sql`` prints its rows."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over `logs`.")],
    format: Annotated[Format, typer.Option(help="parquet goes to stdout: redirect it.")] = Format.table,
    root: Annotated[str | None, typer.Option(help="Read this root's table, with no cluster.")] = None,
) -> None:
    """Run one SELECT over everything acknowledged so far, archived or not."""
    result = ringlog.sql(query) if root is None else ringlog.table(root, query)
    _warn(result)
    if format is Format.table:
        show.table(list(result.columns), result.fetchall())
        return
    found = result.arrow()
    if format is Format.json:
        for batch in found.to_batches():
            for row in batch.to_pylist():
                show.json_line(row)
    elif format is Format.csv:
        import pyarrow.csv

        pyarrow.csv.write_csv(found, sys.stdout.buffer)
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(found, sink)
        sys.stdout.buffer.write(sink.getvalue())


def search(
    text: Text = None,
    regex: Regex = None,
    service: Service = None,
    severity: Severity = None,
    since: Annotated[str | None, typer.Option(help="A time, or an age such as 15m, 1h, 2d.")] = None,
    until: Annotated[str | None, typer.Option(help="A time, or an age.")] = None,
    attribute: Attribute = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 1000,
    json: Json = False,
    raw: Raw = False,
) -> None:
    """Find records by text, pattern, service, severity, time and attributes."""
    result = ringlog.search(
        text,
        regex=regex,
        service=service,
        severity=severity,
        since=since,
        until=until,
        attributes=_attributes(attribute),
        limit=limit,
    )
    _warn(result)
    for batch in result.arrow().to_batches():
        _print(batch, json, raw)


def tail(
    text: Text = None,
    regex: Regex = None,
    service: Service = None,
    severity: Severity = None,
    attribute: Attribute = None,
    json: Json = False,
    raw: Raw = False,
) -> None:
    """Follow what is committed from now on, until Ctrl-C."""
    wanted: dict[str, Any] = {"regex": regex, "service": service, "severity": severity}
    try:
        for batch in ringlog.tail(text, attributes=_attributes(attribute), **wanted):
            _print(batch, json, raw)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


def _print(batch: pa.RecordBatch, json: bool, raw: bool) -> None:
    if json:
        for row in batch.to_pylist():
            show.json_line({name: value for name, value in row.items() if value is not None})
    else:
        show.records(batch, raw)


def _attributes(given: list[str] | None) -> dict[str, Any]:
    """``key=value``: a value that is JSON keeps its type, anything else is text."""
    import orjson

    found: dict[str, Any] = {}
    for pair in given or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidQuery(f"{pair!r} is no attribute: write key=value")
        try:
            found[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[key] = value
    return found


def _warn(result: ringlog.Result) -> None:
    if result.missing:
        show.errors.print(f"not read: the newest records of {', '.join(result.missing)}", style="yellow")


COMMANDS = (sql, search, tail)
