"""Entry files: what of a journal holds its entries. Each is an Arrow IPC stream, one record batch a write.

The name of a file has the journal's generation and the offset from which on it has entries. Each entry carries a
checksum, so that what reads back is what was written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ringlog.errors import CorruptionError
from ringlog.replication import Entry

ENTRY_SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("producer", pa.string(), nullable=False),
        pa.field("producer_epoch", pa.int64(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("payload", pa.large_binary(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)
"""The columns of an entry file. ``payload`` is itself an Arrow IPC stream of one batch of records."""

SUFFIX = ".arrows"
WRITE_BYTES = 1024 * 1024
"""A log that is taken over is written in pieces of about this much: whoever reads it back holds a piece at a time."""
_MARKER = b"\xff\xff\xff\xff"  # begins every message of an Arrow stream, at a multiple of 8
_ALIGNMENT = 8


def file_name(generation: int, start: int) -> str:
    """The name of the entry file of ``generation`` that begins with the entry at ``start``."""
    return f"{generation:08d}-{start:020d}{SUFFIX}"


def start_of(path: Path) -> int:
    """The offset with which the entry file at ``path`` begins."""
    return int(path.stem.split("-")[1])


def needed(paths: Sequence[Path], trimmed: int) -> list[Path]:
    """Those of the entry files ``paths`` that may hold anything from ``trimmed`` on.

    The last is one of them: it is the one being written.
    """
    following = [*map(start_of, paths[1:]), None]
    return [path for path, start in zip(paths, following, strict=False) if start is None or start > trimmed]


def read_log(paths: Sequence[Path], trimmed: int, *, cut: bool = False, skip: bool = False) -> Iterator[Entry]:
    """The entries from ``trimmed`` on of the entry files ``paths``, which must follow on one another.

    What a crash tore off the end of the last is dealt with as `read_entries` says.
    """
    end = trimmed
    for path in paths:
        last = path == paths[-1]
        for entry in read_entries(path, cut=cut and last, skip=skip and last):
            if entry.end <= trimmed:
                continue
            if entry.start != end:
                raise CorruptionError(f"{path}: an entry begins at {entry.start} where {end} is due")
            end = entry.end
            yield entry


def read_entries(path: Path, *, cut: bool = False, skip: bool = False) -> Iterator[Entry]:
    """The entries of one entry file, each checked.

    With ``cut``, what a crash tore off the end is removed from the file; with ``skip``, it is only passed over. Raises
    `CorruptionError` for anything else that does not read back: a bad spot that is no single unfinished write, because
    something stands behind it, was not made by a crash.
    """
    data = path.read_bytes()
    good = 0
    for message_end, entries in _messages(data):
        if entries is None:
            break
        yield from entries
        good = message_end
    if good == len(data):
        return
    if not (cut or skip) or _any_entries(data, good) or (_message_end(data, good) or len(data)) < len(data):
        raise CorruptionError(
            f"{path}: byte {good} begins something that is no entry, with entries behind it: the disk changed what was "
            "written"
        )
    if cut:
        with path.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())


def _messages(data: bytes) -> Iterator[tuple[int, list[Entry] | None]]:
    """(where it ends, its entries) of each message; None, and no more, at the first that does not read back."""
    position = 0
    while position < len(data):
        parsed = _message(data, position)
        yield parsed or (position, None)
        if parsed is None:
            return
        position = parsed[0]


def _message(data: bytes, position: int) -> tuple[int, list[Entry]] | None:
    source = pa.BufferReader(pa.py_buffer(data))
    source.seek(position)
    try:
        message = pa.ipc.read_message(source)
        if message.type == "schema":
            found = pa.ipc.read_schema(message)
            return (source.tell(), []) if found.equals(ENTRY_SCHEMA) else None
        batch = pa.ipc.read_record_batch(message, ENTRY_SCHEMA)
        batch.validate(full=True)
    except (pa.ArrowException, EOFError, OSError):
        return None
    entries = [Entry(**row) for row in batch.to_pylist()]
    return (source.tell(), entries) if all(entry.intact() for entry in entries) else None


def _message_end(data: bytes, position: int) -> int | None:
    """Where the message at ``position`` ends, whatever it holds; None where none can be told."""
    source = pa.BufferReader(pa.py_buffer(data))
    source.seek(position)
    try:
        pa.ipc.read_message(source)
    except (pa.ArrowException, EOFError, OSError):
        return None
    return int(source.tell())


def _any_entries(data: bytes, after: int) -> bool:
    at = data.find(_MARKER, after + 1)
    while at >= 0:
        if at % _ALIGNMENT == 0:
            parsed = _message(data, at)
            if parsed is not None and parsed[1]:
                return True
        at = data.find(_MARKER, at + 1)
    return False


def in_writes(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """``entries`` in runs that are not too large to be one write."""
    run: list[Entry] = []
    size = 0
    for entry in entries:
        run.append(entry)
        size += len(entry.payload)
        if size >= WRITE_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


def encode(entries: Iterable[Entry]) -> pa.Buffer:
    """One write: the message that ``entries`` are in an entry file."""
    rows = [(e.epoch, e.start, e.end, e.producer, e.producer_epoch, e.sequence, e.payload, e.checksum) for e in entries]
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ENTRY_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ENTRY_SCHEMA).serialize()
