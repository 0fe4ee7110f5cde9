"""SQL over a cut: one SELECT, on a DuckDB connection of its own that can reach nothing but the table and the cut."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from ringlog.errors import InvalidQuery, Unavailable
from ringlog.query.files import columns_with, files_of, text
from ringlog.query.fragments import datasets
from ringlog.query.result import Result, Stored
from ringlog.query.snapshot import Cut, read_table
from ringlog.schema import TABLE_SCHEMA

_SETTINGS = """
SET GLOBAL TimeZone = 'UTC';
SET GLOBAL temp_directory = '';
SET GLOBAL python_enable_replacements = false;
SET GLOBAL autoinstall_known_extensions = false;
SET GLOBAL autoload_known_extensions = false;
SET GLOBAL parquet_metadata_cache = true;
SET GLOBAL late_materialization_max_rows = 1000;
"""
_LOCK = """
SET GLOBAL enable_external_access = false;
SET GLOBAL lock_configuration = true;
"""

_lock = threading.Lock()
_engines: dict[tuple[int, str | None], Any] = {}


def run_sql(query: str, cut: Cut, parameters: Any = None, *, words: tuple[str, ...] = (), within: Any = None) -> Result:
    """Run one SELECT (or EXPLAIN) over the view ``logs``. Raises `InvalidQuery`, with the reason, for anything else.

    The table is scanned lazily: DuckDB reads only the files, row groups, pages and columns that the query needs. With
    ``words``, each of which `index.is_word`, the view may lack records that do not hold all of them, or for which
    ``within``, an expression of Arrow, is not true.
    """
    connection = _connection(cut, words, within)
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


def read_stored(url: str, storage_options: Mapping[str, str], version: int | None = None) -> Stored:
    """All records of the table at ``url``, in its newest version or an earlier one. Raises what `read_table` raises."""
    cut = read_table(url, storage_options, version)
    connection = _connection(cut)
    found = cut.snapshot.version if cut.snapshot else 0
    return Stored(connection.sql("SELECT * FROM logs"), connection, url, found, storage_options)


def _connection(cut: Cut, words: tuple[str, ...] = (), within: Any = None) -> Any:
    """A connection of its own, with the view ``logs`` of its own; engine and footers are shared."""
    hot = cut.hot()
    files = files_of(cut.snapshot, cut.promoted) if cut.snapshot else None
    connection = _engine(files.folder if files else None).cursor()
    cold = _scan_datasets(connection, cut, words, within) if files is None else files.scan_for(words)
    if cold is None or hot.num_rows or (files and not files.alike):
        connection.register("hot", _with_columns_of(cut, hot))
        cold = " UNION ALL BY NAME ".join([f"SELECT {columns_with(cut.promoted)} FROM hot", *([cold] if cold else [])])
    try:
        connection.execute(f"CREATE TEMP VIEW logs AS {cold}")
    except duckdb.IOException as error:
        raise Unavailable(
            f"a segment of the table cannot be read: {error}. A vacuum may just have removed it: run the query again"
        ) from error
    return connection


def _scan_datasets(connection: Any, cut: Cut, words: tuple[str, ...], within: Any) -> str | None:
    """A SELECT of the table's version as Arrow datasets; None where there are none."""
    selects = []
    for number, (lacking, dataset) in enumerate(datasets(cut, words, within)):
        connection.register(f"cold_{number}", dataset)
        selects.append(f"SELECT {columns_with(lacking)} FROM cold_{number}")
    return " UNION ALL BY NAME ".join(selects) if selects else None


def _with_columns_of(cut: Cut, hot: pa.Table) -> pa.Table:
    """``hot`` with the columns that the table has beyond it: they may be in no file yet."""
    known = {*TABLE_SCHEMA.names, *(one.name for one in cut.promoted)}
    for field in pa.schema(cut.snapshot.delta.schema()) if cut.snapshot else ():
        if field.name not in known:
            hot = hot.append_column(field.name, pa.nulls(hot.num_rows, field.type))
    return hot


def _engine(folder: str | None) -> Any:
    """The DuckDB instance of this process that can read the files under ``folder``, and nothing else."""
    # A forked child has none of an engine's threads: it cannot use that, nor let go of it, and makes one of its own.
    key = (os.getpid(), folder)
    with _lock:
        if key not in _engines:
            engine = duckdb.connect(":memory:")
            engine.execute(_SETTINGS)
            if folder is not None:
                engine.execute(f"SET GLOBAL allowed_directories = [{text(folder + '/')}]")
            engine.execute(_LOCK)
            _engines[key] = engine
        return _engines[key]


def _unlock() -> None:
    """Nobody is left in a forked child who would release the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)
