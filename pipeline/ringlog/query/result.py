"""What a query gives: a DuckDB relation that also says what could not be read, and goes on to other libraries."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa

from ringlog.errors import ConfigurationError, Unavailable
from ringlog.settings import local_path

_SECRETS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})


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

    def to_ray_dataset(self) -> Any:
        """As a dataset of Ray Data, in the Ray cluster of this process, or in one that is started here.

        Needs ``pip install 'ringlog[ray-data]'``.
        """
        from ringlog.actors.datasets import dataset_of

        return dataset_of(self.arrow())

    def to_daft(self) -> Any:
        """As a Daft DataFrame; needs ``pip install 'ringlog[daft]'``."""
        import daft

        return daft.from_arrow(self.arrow())

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


class Stored(Result):
    """All records of one ``version`` of the table at ``url``.

    As a dataset of Ray Data or Daft it is never in one process as a whole: their workers read the segments by
    themselves, also where the table is larger than any machine. Promoted columns are null there in segments that were
    written before, until these are merged.
    """

    def __init__(
        self, relation: Any, connection: Any, url: str, version: int, storage_options: Mapping[str, str]
    ) -> None:
        super().__init__(relation, connection)
        self.version = version
        self._url = url
        self._storage_options = storage_options

    def to_ray_dataset(self) -> Any:
        """As a dataset of Ray Data, whose tasks read the segments; see `Result.to_ray_dataset`.

        On S3, each node reads the credentials from its own environment: set ``AWS_ACCESS_KEY_ID``, … where Ray is
        started. Raises `ConfigurationError` where this process has others.
        """
        from ringlog.actors.datasets import dataset_of_table

        return dataset_of_table(local_path(self._url) or self._url, self.version, self._without_secrets())

    def to_daft(self) -> Any:
        """As a Daft DataFrame, read when it is asked for; on Ray after ``daft.set_runner_ray()``.

        About credentials, see `to_ray_dataset`. Raises `ConfigurationError` for a local folder that Daft cannot read.
        """
        import daft

        folder = local_path(self._url)
        if folder is not None and quote(folder) != folder:
            raise ConfigurationError(f"Daft does not find files below {folder!r}: move the root to a plain name")
        chosen = self._without_secrets()
        s3 = daft.io.S3Config(
            endpoint_url=chosen.get("AWS_ENDPOINT_URL"),
            region_name=chosen.get("AWS_REGION"),
            use_ssl=chosen.get("AWS_ALLOW_HTTP") != "true",
        )
        return daft.read_deltalake(folder or self._url, self.version, daft.io.IOConfig(s3=s3))

    def _without_secrets(self) -> dict[str, str]:
        """What may be sent to other processes. They find the rest where this one does."""
        secrets = {name: value for name, value in self._storage_options.items() if name in _SECRETS}
        if any(os.environ.get(name) != value for name, value in secrets.items()):
            raise ConfigurationError(
                "other processes would read the table with other credentials than this one: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment, here and where Ray is started, not in the settings"
            )
        return {name: value for name, value in self._storage_options.items() if name not in _SECRETS}


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
