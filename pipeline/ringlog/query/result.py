"""What a query gives: a DuckDB relation that also says what could not be read."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pyarrow as pa

from ringlog.errors import Unavailable


class Result:
    """A DuckDB relation (`relation`, whose methods all work here too) over one cut of the log.

    ``missing`` names the shards whose unflushed part could not be read: their newest records are not in it. The table
    is read when rows are asked for: whatever does that raises `Unavailable` where its files cannot be read now.
    """

    def __init__(self, relation: Any, connection: Any, missing: tuple[str, ...] = ()) -> None:
        self.relation = relation
        self.missing = missing
        self._connection = connection  # the relation lives as long as its connection

    def arrow(self) -> pa.Table:
        """As an Arrow table."""
        with _readable():
            found = self.relation.arrow()
            return found.read_all() if isinstance(found, pa.RecordBatchReader) else found

    def df(self) -> Any:
        """As a pandas DataFrame; needs pandas."""
        return self.arrow().to_pandas()

    to_pandas = df

    def pl(self) -> Any:
        """As a Polars DataFrame; needs Polars."""
        import polars

        return polars.from_arrow(self.arrow())

    to_polars = pl

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self.relation, name)
        return self._read_with(found) if callable(found) else found

    def _read_with(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the relation; another relation that it gives is a result over the same cut."""

        @functools.wraps(method)
        def read(*arguments: Any, **options: Any) -> Any:
            with _readable():
                found = method(*arguments, **options)
            return Result(found, self._connection, self.missing) if isinstance(found, type(self.relation)) else found

        return read

    def __len__(self) -> int:
        with _readable():
            return len(self.relation)

    def __repr__(self) -> str:
        note = f"not read: the newest records of {', '.join(self.missing)}\n" if self.missing else ""
        with _readable():
            return f"{self.relation}{note}"


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """An object store that is away, or a file that is gone, is not the query's fault: `Unavailable` says so."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        # What fails inside a registered dataset comes through DuckDB as an invalid input like any other.
        reading = not isinstance(error, duckdb.Error) or isinstance(error, duckdb.IOException)
        if not (reading or "reading the stream registered as" in str(error)):
            raise
        raise Unavailable(
            f"a segment of the table cannot be read now: {error}. The object store may be away, or a vacuum may just "
            "have removed the file: run the query again"
        ) from error
