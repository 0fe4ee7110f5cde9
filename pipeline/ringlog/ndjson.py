"""Lines of JSON objects as columns, a whole piece of bytes at a time.

pyarrow reads the lines. It may not change what they say, so whatever it cannot tell is found and left to be read line
by line: a number with a fraction beside whole ones, null beside absent, lists and deeper objects, keys that stand there
twice, two objects in a line, numbers beyond 64 bits, text that is no UTF-8, and every line of a piece that it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

PIECE_BYTES = 2 * 1024 * 1024
"""What is unusual in a line makes the lines of its piece slower, not all that were given."""

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r"
_OBJECTS = ("attributes", "resource")
_LEARNT_MAX = 4  # times that a piece is read again because text in it looked like times

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lines:
    """Some whole lines without their ends. ``numbers`` counts them from 1 in all that was given."""

    data: memoryview
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, at: int) -> bytes:
        """One line."""
        return bytes(self.data[self.starts[at] : self.ends[at]])


@dataclass(frozen=True)
class Columns:
    """`Lines` as columns by key; ``members`` are those of ``attributes`` and of ``resource``.

    Only the lines in ``sure`` say just this. In a column, null means absent.
    """

    columns: dict[str, pa.Array]
    members: dict[str, dict[str, pa.Array]]
    sure: Bools


def pieces(data: bytes | bytearray | memoryview, *, keep_blank: bool = False) -> Iterator[Lines]:
    """``data`` cut at line ends, about `PIECE_BYTES` at a time. Lines end at LF or CRLF; the last needs no end.

    Blank lines count in the numbers; they are lines only with ``keep_blank``. A byte-order mark at the beginning goes.
    """
    data = bytes(data).removeprefix(_BOM)
    whole = memoryview(data)
    begin, number = 0, 1
    while begin < len(data):
        end = len(data)
        if end - begin > PIECE_BYTES:
            end = data.rfind(b"\n", begin, begin + PIECE_BYTES) + 1
            if not end:  # a line as long as that: whole all the same
                end = data.find(b"\n", begin) + 1 or len(data)
        piece = whole[begin:end]
        begin = end
        found = np.frombuffer(piece, np.uint8)
        ends = np.flatnonzero(found == 0x0A)
        if found[-1] != 0x0A:
            ends = np.append(ends, len(piece))
        starts = np.concatenate(([0], ends[:-1] + 1))
        numbers = np.arange(number, number + len(ends))
        number += len(ends)
        returned = np.flatnonzero((ends > starts) & (found[np.maximum(ends, 1) - 1] == 0x0D))
        ends[returned] -= 1
        lines = Lines(piece, starts, ends, numbers)
        yield lines if keep_blank else _without_blank(lines)


def _without_blank(lines: Lines) -> Lines:
    first = np.frombuffer(lines.data, np.uint8)[np.minimum(lines.starts, len(lines.data) - 1)]
    doubtful = np.flatnonzero((lines.ends == lines.starts) | np.isin(first, list(_BLANK)))
    blank = [at for at in doubtful.tolist() if not lines.line(at).strip(_BLANK)]
    if not blank:
        return lines
    return Lines(lines.data, *(np.delete(one, blank) for one in (lines.starts, lines.ends, lines.numbers)))


class Reader:
    """Reads pieces of one origin. ``known`` are keys for which null and absent are the same."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        self._like_times: set[tuple[str, ...]] = set()

    def read(self, lines: Lines) -> Columns | None:
        """The lines as columns; None where they must be read line by line."""
        if not _one_object_a_line(lines):
            return None
        table = self._table(lines)
        if table is None or table.num_rows != len(lines):
            return None
        columns = {name: _whole(column) for name, column in zip(table.column_names, table.columns, strict=True)}
        members = {name: _members(columns.pop(name)) for name in _OBJECTS if _is_object(columns.get(name))}
        parts = [column for one in members.values() for column in one.values()]
        if any(pa.types.is_nested(column.type) for column in [*columns.values(), *parts]):
            return None
        sure = np.ones(len(lines), dtype=bool)
        beside = [column for name, column in columns.items() if name not in self._known]
        _doubt(lines, sure, _has_null([*beside, *parts], len(lines)), "null")
        named = [item for one in (columns, *members.values()) for item in one.items()]
        floats = [(name, column) for name, column in named if pa.types.is_floating(column.type)]
        if not all(np.isfinite(column.fill_null(0.0).to_numpy()).all() for _, column in floats):
            return None  # no JSON, though pyarrow takes it
        whole = _has_whole([column for _, column in floats], len(lines))
        _doubt(lines, sure, whole, _written_whole([name for name, _ in floats]))
        return Columns(columns, members, sure)

    def _table(self, lines: Lines) -> pa.Table | None:
        texts = _texts(lines.line(0))
        for _ in range(_LEARNT_MAX):
            try:
                table = pyarrow.json.read_json(
                    pa.py_buffer(lines.data),
                    read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1),
                    parse_options=pyarrow.json.ParseOptions(explicit_schema=_schema(texts | self._like_times)),
                )
                table.validate(full=True)
                times = set(_times(table.schema))
            except (pa.ArrowException, UnicodeError):
                return None
            if not times:
                return table
            self._like_times |= times
        return None


def _texts(line: bytes) -> set[tuple[str, ...]]:
    """Where a line has text: keys, and keys in ``attributes`` and ``resource``."""
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError:
        return set()
    found: set[tuple[str, ...]] = {(key,) for key, value in given.items() if isinstance(value, str)}
    for name in _OBJECTS:
        inner = given.get(name)
        if isinstance(inner, dict):
            found.update((name, key) for key, value in inner.items() if isinstance(value, str))
    return found


def _schema(texts: set[tuple[str, ...]]) -> pa.Schema:
    """Text stays text, also where it looks like a time. What else there is, pyarrow finds out."""
    fields = {path[0]: pa.string() for path in texts if len(path) == 1}
    for name in {path[0] for path in texts if len(path) == 2}:
        fields[name] = pa.struct([(path[1], pa.string()) for path in texts if path[0] == name and len(path) == 2])
    return pa.schema(list(fields.items()))


def _one_object_a_line(lines: Lines) -> bool:
    """Whether each begins as an object and ends as one.

    Then a line end stands between two objects: inside of one, none may follow a closing and come before an opening
    brace. So if there are as many objects as lines, each line is one.
    """
    if not len(lines) or (lines.ends <= lines.starts).any():
        return False
    found = np.frombuffer(lines.data, np.uint8)
    return bool((found[lines.starts] == 0x7B).all() and (found[lines.ends - 1] == 0x7D).all())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _is_object(column: pa.Array | None) -> bool:
    return column is not None and bool(pa.types.is_struct(column.type))


def _members(column: pa.Array) -> dict[str, pa.Array]:
    return dict(zip((field.name for field in column.type), column.flatten(), strict=True))


def _times(schema: pa.Schema) -> Iterator[tuple[str, ...]]:
    for field in schema:
        if pa.types.is_timestamp(field.type):
            yield (field.name,)
        elif field.name in _OBJECTS and pa.types.is_struct(field.type):
            yield from ((field.name, part.name) for part in field.type if pa.types.is_timestamp(part.type))


def _has_null(columns: Iterable[pa.Array], count: int) -> Bools:
    found = np.zeros(count, dtype=bool)
    for column in columns:
        if column.null_count:
            found |= np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False))
    return found


def _has_whole(columns: Iterable[pa.Array], count: int) -> Bools:
    found = np.zeros(count, dtype=bool)
    for column in columns:
        numbers = column.fill_null(0.5).to_numpy()
        found |= numbers == np.floor(numbers)
    return found


def _written_whole(names: Iterable[str]) -> str:
    """A number of one of these keys without a fraction; or a backslash, for then a key may be written in other ways."""
    keys = "|".join(re.escape(orjson.dumps(name).decode()) for name in names)
    return rf"\\|(?:{keys})\s*:\s*-?[0-9]+\s*[,}}]"


def _doubt(lines: Lines, sure: Bools, doubtful: Bools, pattern: str) -> None:
    """Those of the doubtful lines that ``pattern`` matches are not sure."""
    where = np.flatnonzero(doubtful & sure)
    if len(where):
        texts = pa.array([lines.line(at) for at in where.tolist()], pa.binary())
        sure[where] = ~np.asarray(pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False))
