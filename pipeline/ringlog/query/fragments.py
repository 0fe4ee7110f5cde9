"""The segments of a table on an object store as Arrow datasets, and those of their row groups where a word can stand.

Each read there costs a round trip, so a word is looked for in many segments at once, by one small read in each; footers
and the heads of indexes are read once. What conditions on columns rule out by the log's statistics is not looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow.dataset import FileSystemDataset

from ringlog.errors import Unavailable
from ringlog.query.snapshot import Cut
from ringlog.schema import Promoted
from ringlog.storage.contents import unpromoted
from ringlog.storage.index import Index, open_index

_OPEN_MAX = 4096
_BUCKETS_MAX = 4 * _OPEN_MAX
_READERS = 16

Lacking = tuple[Promoted, ...]


def datasets(cut: Cut, words: Sequence[str] = (), within: Any = None) -> list[tuple[Lacking, Any]]:
    """The table's version as datasets, one for all segments that were written without the same promoted columns.

    With ``words`` (`index.is_word`), rows may be missing that do not hold all of them, or for which ``within``, an
    expression of Arrow, is not true. Raises `Unavailable`.
    """
    whole = cut.cold()
    if whole is None or cut.snapshot is None:
        return []
    lacking = unpromoted(cut.snapshot.delta, cut.promoted)
    if not lacking and not words:
        return [((), whole)]
    fragments = list(whole.get_fragments(within if words else None))
    if words:
        fragments = _that_may_hold(words, fragments, whole.filesystem)
    groups: dict[Lacking, list[Any]] = {}
    for fragment in fragments:
        groups.setdefault(lacking.get(fragment.path, ()), []).append(fragment)
    return [
        (missing, FileSystemDataset(group, whole.schema, whole.format, whole.filesystem))
        for missing, group in groups.items()
    ]


def _that_may_hold(words: Sequence[str], fragments: Sequence[Any], filesystem: Any) -> list[Any]:
    """Those of ``fragments`` that may hold all of ``words``, each with no more row groups than may."""
    places = [_Place(fragment.path, fragment, filesystem) for fragment in fragments]
    try:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="ringlog-index") as readers:
            found = list(readers.map(lambda place: _row_groups(place, words), places))
    except (OSError, pa.ArrowException) as error:
        raise Unavailable(
            f"a segment of the table cannot be read now: {error}. The object store may be away, or a vacuum may just "
            "have removed the file: run the query again"
        ) from error
    return [
        fragment if groups is None else fragment.subset(row_group_ids=groups)
        for fragment, groups in zip(fragments, found, strict=True)
        if groups is None or groups
    ]


@dataclass(frozen=True)
class _Place:
    """A segment, by its path, which is never given twice."""

    path: str
    fragment: Any = field(compare=False)
    filesystem: Any = field(compare=False)


def _row_groups(place: _Place, words: Sequence[str]) -> list[int] | None:
    """The row groups that may hold all of ``words``; None where that is not known."""
    index, ends = _opened(place)
    if index is None:
        return None
    blocks = index.blocks(list(words), functools.partial(_bucket, place))
    if blocks is None:
        return None
    spans = [(block * index.block_rows, (block + 1) * index.block_rows) for block in blocks]
    starts = [0, *ends[:-1]]
    return [
        group
        for group, (start, end) in enumerate(zip(starts, ends, strict=True))
        if any(low < end and start < high for low, high in spans)
    ]


@functools.lru_cache(_BUCKETS_MAX)
def _bucket(place: _Place, offset: int, length: int) -> bytes:
    """Some hundred bytes of an index. One of each index is asked for with every word."""
    with place.filesystem.open_input_file(place.path) as file:
        return bytes(file.read_at(length, offset))


@functools.lru_cache(_OPEN_MAX)
def _opened(place: _Place) -> tuple[Index | None, tuple[int, ...]]:
    """The index, and where each row group ends."""
    metadata = place.fragment.metadata
    with place.filesystem.open_input_file(place.path) as file:
        index = open_index(metadata.metadata, lambda offset, length: file.read_at(length, offset))
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return index, tuple(sum(rows[: group + 1]) for group in range(len(rows)))
