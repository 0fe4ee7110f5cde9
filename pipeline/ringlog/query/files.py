"""The files of a local table's version, for DuckDB to read by itself, and where in them a word can stand.

DuckDB's own Parquet reader takes half the time of a scan through an Arrow dataset, and skips pages. It reads local
files alone here: a table on an object store is scanned as a dataset, with the credentials that delta-rs has.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from ringlog.schema import TABLE_SCHEMA, Promoted
from ringlog.storage import Snapshot
from ringlog.storage.contents import unpromoted
from ringlog.storage.index import Index, open_index
from ringlog.storage.promotion import promoted_in, selected

PARTS_MAX = 64
"""A word that may stand in more parts than this is looked for in whole files."""

_PATTERN = frozenset("*?[")  # what DuckDB would take for a pattern of paths
_OPEN_MAX = 512
_OPTIONS = "hive_partitioning = true, hive_types_autocast = false, hive_types = {'date': DATE}"

_known: dict[str, tuple[DeltaTable, tuple[Promoted, ...], Files | None]] = {}


@dataclass(frozen=True)
class Files:
    """The files ``paths`` of one version of the table in ``folder``, all absolute."""

    folder: str
    paths: tuple[str, ...]
    alike: bool
    """Whether all files have the same columns, but for promoted ones; else a column that one lacks is null there."""
    unpromoted: Mapping[str, tuple[Promoted, ...]] = field(default_factory=dict)
    """The promoted columns that a file was written without; they are made of its attributes."""

    def scan(self) -> str | None:
        """A SELECT of all rows; None where there is no file."""
        return _union(self._select_all(self.paths))

    def scan_for(self, words: Sequence[str]) -> str | None:
        """A SELECT of at least the rows that hold all of ``words`` (`index.is_word`); None where none can."""
        if not words:
            return self.scan()
        whole: list[str] = []
        ranges: list[tuple[str, int, int]] = []
        for path in self.paths:
            found = _ranges(path, words)
            if found is None:
                whole.append(path)
            else:
                ranges.extend((path, start, end) for start, end in found)
        if len(ranges) > PARTS_MAX:
            whole, ranges = sorted({*whole, *(path for path, _, _ in ranges)}), []
        selects = self._select_all(whole)
        for path, start, end in ranges:
            rows = f"file_row_number >= {start} AND file_row_number < {end}"
            selects.append(f"{self._select([path], self._lacking(path), numbered=True)} WHERE {rows}")
        return _union(selects)

    def _select_all(self, paths: Sequence[str]) -> list[str]:
        """A SELECT for all files that lack the same promoted columns."""
        groups: dict[tuple[Promoted, ...], list[str]] = {}
        for path in paths:
            groups.setdefault(self._lacking(path), []).append(path)
        return [self._select(group, lacking) for lacking, group in groups.items()]

    def _lacking(self, path: str) -> tuple[Promoted, ...]:
        return self.unpromoted.get(path, ())

    def _select(self, paths: Sequence[str], lacking: tuple[Promoted, ...], numbered: bool = False) -> str:
        options = [_OPTIONS, *(["file_row_number = true"] if numbered else [])]
        if lacking or not self.alike:
            options.append("union_by_name = true")
        columns = columns_with(lacking, *(["file_row_number"] if numbered else []))
        return f"SELECT {columns} FROM read_parquet([{', '.join(map(text, paths))}], {', '.join(options)})"


def files_of(snapshot: Snapshot, promoted: tuple[Promoted, ...] = ()) -> Files | None:
    """The files of ``snapshot``; None where DuckDB cannot read them by itself, or not as Delta means them.

    Each row has the columns of ``promoted``. The files are kept for the version of each table that was asked for last.
    """
    delta = snapshot.delta
    known = _known.get(delta.table_uri)
    if known is None or known[0] is not delta or known[1] != promoted:
        known = _known[delta.table_uri] = (delta, promoted, _files(delta, promoted))
    return known[2]


def columns_with(lacking: Sequence[Promoted], *unwanted: str) -> str:
    """What stands behind SELECT for all columns but ``unwanted``, and those of ``lacking`` made anew."""
    # Who lacks one may have such a column all the same, half empty, by somebody who knew nothing of it.
    without = [*unwanted, *(one.name for one in lacking)]
    columns = f"COLUMNS(lambda name: name NOT IN ({', '.join(map(text, without))}))" if without else "*"
    return f"{columns}, {selected(lacking)}" if lacking else columns


def text(value: str) -> str:
    """``value`` as a literal of SQL."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def _union(selects: Sequence[str]) -> str | None:
    return " UNION ALL BY NAME ".join(selects) if selects else None


def _files(delta: DeltaTable, promoted: tuple[Promoted, ...]) -> Files | None:
    address = urlsplit(delta.table_uri)
    folder = unquote(address.path)
    if address.scheme != "file" or _PATTERN & set(folder) or delta.protocol().min_reader_version > 1:
        return None
    paths = sorted(pa.table(delta.get_add_actions(flatten=False))["path"].to_pylist())
    # Somebody else's files may lie where the path does not say the date.
    if not all(path.startswith("date=") and not _PATTERN & set(path) and "%" not in path for path in paths):
        return None
    names = {column.name for column in delta.schema().fields}
    alike = names == {*TABLE_SCHEMA.names, *(one.name for one in promoted_in(delta))}
    root = folder.rstrip("/")
    lacking = {f"{root}/{path}": missing for path, missing in unpromoted(delta, promoted).items()}
    return Files(root, tuple(f"{root}/{path}" for path in paths), alike, lacking)


def _ranges(path: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """The ranges of rows of the file at ``path`` that may hold all of ``words``; None where that is not known."""
    index = _index(path)
    if index is None:
        return None
    with _Reader(path) as read:
        blocks = index.blocks(list(words), read)
    if blocks is None:
        return None
    ranges = []
    for _, run in itertools.groupby(enumerate(blocks), lambda numbered: numbered[1] - numbered[0]):
        first, *rest = (block for _, block in run)
        ranges.append((first * index.block_rows, ([first, *rest][-1] + 1) * index.block_rows))
    return ranges


@functools.lru_cache(_OPEN_MAX)
def _index(path: str) -> Index | None:
    """A segment never changes, so its index is opened once."""
    with _Reader(path) as read:
        return open_index(pq.read_metadata(path).metadata, read)


class _Reader:
    """Reads pieces of the file at ``path``."""

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_RDONLY)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def __call__(self, offset: int, length: int) -> bytes:
        return os.pread(self._handle, length, offset)
