"""SQL over a cut: one SELECT, on a DuckDB connection of its own that can reach nothing but the cut."""

from __future__ import annotations

from typing import Any

import duckdb

from ringlog.errors import InvalidQuery
from ringlog.query.result import Result
from ringlog.query.snapshot import Cut

_LOCK = """
SET TimeZone = 'UTC';
SET temp_directory = '';
SET python_enable_replacements = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET enable_external_access = false;
SET lock_configuration = true;
"""
_VIEW = "CREATE VIEW logs AS SELECT * FROM hot UNION ALL BY NAME SELECT * FROM cold"
_VIEW_HOT = "CREATE VIEW logs AS SELECT * FROM hot"


def run_sql(query: str, cut: Cut, parameters: Any = None) -> Result:
    """Run one SELECT (or EXPLAIN) over the view ``logs``. Raises `InvalidQuery`, with the reason, for anything else.

    The table is scanned lazily: DuckDB hands its filters and columns down, so that only the files, row groups and
    columns that the query needs are read.
    """
    connection = _connection(cut)
    try:
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type not in (
            duckdb.StatementType.SELECT,
            duckdb.StatementType.EXPLAIN,
        ):
            raise InvalidQuery("one SELECT over `logs` is a query; nothing else is run here, and only one at a time")
        relation = connection.sql(query, params=parameters)
        if relation is None:
            raise InvalidQuery("this statement gives no rows")
    except duckdb.Error as error:
        raise InvalidQuery(str(error)) from error
    return Result(relation, connection, cut.missing)


def _connection(cut: Cut) -> Any:
    connection = duckdb.connect(":memory:")
    connection.register("hot", cut.hot())
    cold = cut.cold()
    if cold is not None:
        connection.register("cold", cold)
    connection.execute(_VIEW_HOT if cold is None else _VIEW)
    connection.execute(_LOCK)
    return connection
