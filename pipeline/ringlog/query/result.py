"""What a query gives: a DuckDB relation that also says what could not be read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class Result:
    """A DuckDB relation (`relation`, whose methods all work here too) over one cut of the log.

    ``missing`` names the shards whose unflushed part could not be read: their newest records are not in it.
    """

    def __init__(self, relation: Any, connection: Any, missing: tuple[str, ...] = ()) -> None:
        self.relation = relation
        self.missing = missing
        self._connection = connection  # the relation lives as long as its connection

    def arrow(self) -> pa.Table:
        """As an Arrow table."""
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
        return getattr(self.relation, name)

    def __len__(self) -> int:
        return len(self.relation)

    def __repr__(self) -> str:
        note = f"not read: the newest records of {', '.join(self.missing)}\n" if self.missing else ""
        return f"{self.relation}{note}"
