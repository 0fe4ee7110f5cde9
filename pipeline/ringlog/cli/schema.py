"""schema: the columns of the table, and which attributes have one."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import pyarrow as pa
import typer

from ringlog.cli import show
from ringlog.cli.maintain import Json, Root, open_table
from ringlog.errors import ConfigurationError
from ringlog.schema import Promoted
from ringlog.storage import Snapshot
from ringlog.storage.contents import unpromoted
from ringlog.storage.evolution import promote as add_columns
from ringlog.storage.promotion import since

_EXAMPLE = "--promote request_id, or with a type --promote 'http.status_code integer'"


def schema(
    promote: Annotated[
        list[str] | None,
        typer.Option(
            help="Make a column of this attribute: 'NAME' or 'NAME string|integer|number|boolean'; repeatable."
        ),
    ] = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Show the columns of the table; with --promote, add some first. A pipeline that runs fills them from then on."""
    _, table = open_table(root)
    snapshot = table.snapshot()
    if promote:
        snapshot = add_columns(table, snapshot, _parsed(promote))
    columns = _columns(snapshot)
    if json:
        show.json_line({"version": snapshot.version, "columns": columns})
        return
    show.table(
        ["column", "type", "promoted", "since version", "segments without it"],
        [tuple(one.values()) for one in columns],
        f"{table.url}, version {snapshot.version}",
    )


def _parsed(given: list[str]) -> list[Promoted]:
    try:
        return [Promoted.parse(text) for text in given]
    except ValueError as error:
        raise ConfigurationError(f"{error}. Give {_EXAMPLE}") from None


def _columns(snapshot: Snapshot) -> list[dict[str, str | int | None]]:
    promoted, versions = {one.name: one.kind for one in snapshot.promoted}, since(snapshot.delta)
    lacking = unpromoted(snapshot.delta, snapshot.promoted).values()
    without = Counter(one.name for missing in lacking for one in missing)
    return [
        {
            "name": field.name,
            "type": str(field.type),
            "promoted": promoted.get(field.name),
            "since_version": versions.get(field.name),
            "segments_without": without[field.name] if field.name in promoted else None,
        }
        for field in pa.schema(snapshot.delta.schema())
    ]


COMMANDS = (schema,)
