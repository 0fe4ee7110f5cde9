"""Promoted columns: attributes that are columns of the table as well, so that readers need not look into JSON.

What always holds: a promoted column is what `expression` makes of the record's own ``attributes``, and nothing else. So
it can be made anywhere and at any time: by the archiver, by a merge of segments that were written before it was
promoted, by a query for what is not archived yet. ``attributes`` stay as they are: a value that is of another type than
the column is null there, and nothing of the record is lost.

DuckDB makes it, without Python's lock, which the threads of an append need: see docs/adr/0017.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, Field
from deltalake.schema import PrimitiveType

from ringlog.schema import PROMOTED_TYPES, Promoted

KIND, SINCE = "ringlog.promoted", "ringlog.since"
"""Name, in the metadata of a column, the type that was promoted and the version of the table that began with it."""

_DELTA = {"string": "string", "integer": "long", "number": "double", "boolean": "boolean"}
_WHOLE = "-?[0-9]+([.]0+)?"
_NUMERAL = "-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?"


def expression(one: Promoted) -> str:
    """The column as SQL over a column ``attributes``; null where that has no such value, or is no JSON."""
    text = f"TRY(json_extract_string(attributes, '$.\"{one.name}\"'))"
    if one.kind == "integer":
        return f"CASE WHEN regexp_full_match({text}, '{_WHOLE}') THEN TRY_CAST({text} AS BIGINT) END"
    if one.kind == "number":
        number = f"TRY_CAST({text} AS DOUBLE)"
        return f"CASE WHEN regexp_full_match({text}, '{_NUMERAL}') AND isfinite({number}) THEN {number} END"
    if one.kind == "boolean":
        return f"CASE {text} WHEN 'true' THEN true WHEN 'false' THEN false END"
    return text


def quoted(name: str) -> str:
    """``name`` as the name of a column in SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def selected(promoted: Sequence[Promoted]) -> str:
    """The columns of ``promoted``, each with its name, as they stand behind SELECT."""
    return ", ".join(f"{expression(one)} AS {quoted(one.name)}" for one in promoted)


def with_promoted(rows: pa.Table, promoted: Sequence[Promoted]) -> pa.Table:
    """``rows`` with the columns of ``promoted``, made from their attributes whether or not they were there before."""
    if not promoted:
        return rows
    # One thread: an archiver shares its machine with those who append.
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        found = connection.from_arrow(rows.select(["attributes"])).project(selected(promoted)).to_arrow_table()
    names = [one.name for one in promoted]
    rows = rows.drop_columns([name for name in rows.column_names if name in names])
    for one in promoted:
        rows = rows.append_column(one.name, found[one.name].cast(one.type))
    return rows


def promoted_in(delta: DeltaTable) -> tuple[Promoted, ...]:
    """The promoted columns of the loaded version of ``delta``, in the table's order."""
    return tuple(Promoted(field.name, str(field.metadata[KIND])) for field in _fields(delta))


def since(delta: DeltaTable) -> dict[str, int]:
    """With which version of the table each promoted column came."""
    return {field.name: int(field.metadata[SINCE]) for field in _fields(delta)}


def field_of(one: Promoted, version: int) -> Field:
    """The column as Delta keeps it, added by ``version``."""
    return Field(one.name, PrimitiveType(_DELTA[one.kind]), True, {KIND: one.kind, SINCE: version})


def _fields(delta: DeltaTable) -> list[Field]:
    # A later ringlog may know more types: for this one, those are columns like any other.
    return [field for field in delta.schema().fields if field.metadata.get(KIND) in PROMOTED_TYPES]
