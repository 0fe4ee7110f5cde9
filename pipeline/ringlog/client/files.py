"""Log files as batches of records: a line is a record, whole, with the time and the level that it tells."""

from __future__ import annotations

import datetime
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from ringlog.errors import ConfigurationError, Unavailable
from ringlog.processing import recognise
from ringlog.records import RECORD_BYTES_MAX
from ringlog.schema import RECORD_SCHEMA

BLOCK_BYTES = 1024 * 1024

_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"
_COMPRESSED = (".gz", ".zst", ".zstd")
_LOG = re.compile(r"\.(log|txt|out|err)(\.\d+|[.-]\d{4}-?\d\d-?\d\d)?$")


@dataclass(frozen=True)
class FileBlock:
    """Some consecutive lines of a file. ``bytes_read`` counts the file's own bytes so far, compressed or not.

    ``problems`` are lines, by their number from 1, that are left out, and why. ``next_line`` is where the next block
    begins.
    """

    lines: pa.Array
    bytes_read: int
    problems: dict[int, str]
    next_line: int


@dataclass(frozen=True)
class RecordBlock:
    """A `FileBlock` as a batch of `RECORD_SCHEMA`."""

    batch: pa.RecordBatch
    bytes_read: int
    problems: dict[int, str]
    next_line: int


def expand(paths: Sequence[str]) -> list[str]:
    """The files that ``paths`` name: files, folders (the files in them), globs, any fsspec URL. Sorted, each once.

    Raises `ConfigurationError`, naming the path, where one names no file.
    """
    found: set[str] = set()
    for path in paths:
        files, where = fsspec.core.url_to_fs(path)
        if any(mark in where for mark in "*?["):
            names = [name for name in files.glob(where) if files.isfile(name)]
        elif files.isdir(where):
            names = [entry["name"] for entry in files.ls(where, detail=True) if entry["type"] == "file"]
            names = [name for name in names if not PurePosixPath(name).name.startswith(".")]
        else:
            names = [where] if files.exists(where) else []
        if not names:
            raise ConfigurationError(f"{path} names no file: check it for a typo (a glob needs quotes in a shell)")
        local = "file" in files.protocol or "local" in files.protocol
        found.update(name if local else files.unstrip_protocol(name) for name in names)
    return sorted(found)


def service_of(path: str) -> str:
    """The name of a file without what says that it is a log.

    >>> service_of("/var/log/Apache.log"), service_of("app.log.gz"), service_of("server.log.1")
    ('Apache', 'app', 'server')
    """
    name = PurePosixPath(path).name
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return _LOG.sub("", name) or name


def size_bytes(path: str) -> int | None:
    """How large the file is, where its store says so."""
    files, where = fsspec.core.url_to_fs(path)
    size = files.info(where).get("size")
    return None if size is None else int(size)


def read_lines(
    path: str,
    *,
    multiline: bool = False,
    block_bytes: int = BLOCK_BYTES,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> Iterator[FileBlock]:
    """The lines of a file, block by block; gzip and zstd are seen by their first bytes.

    Lines end at LF; one CR before it goes, nothing else does. Empty lines are lines; the last needs no LF. Bytes that
    are no UTF-8 stand there as ``\\xNN``; a byte-order mark at the beginning goes. With ``multiline``, a line that
    continues the one before (indented, or part of a Python or Java traceback) belongs to it. A record over
    ``record_bytes_max`` is a problem, not cut. Raises `Unavailable` when the file cannot be read.
    """
    try:
        with fsspec.open(path, "rb") as raw:
            splitter = _Splitter(record_bytes_max, _Joiner() if multiline else None)
            stream = _decompressed(raw)
            first = True
            while data := stream.read(block_bytes):
                if first:
                    data, first = data.removeprefix(_BOM), False
                yield splitter.block(data, raw.tell())
            yield splitter.rest(raw.tell())
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from error


def read_records(
    path: str,
    *,
    service: str | None = None,
    host: str | None = None,
    multiline: bool = False,
    now_ns: int,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> Iterator[RecordBlock]:
    """The lines of a file as records. A line that tells no time has that of the file's last change, or ``now_ns``.

    Raises `Unavailable` when the file cannot be read.
    """
    modified_ns = _modified_ns(path, now_ns)
    constants = {
        "service": service or service_of(path),
        "host": host,
        "attributes": orjson.dumps({"log.file.name": PurePosixPath(path).name}).decode(),
        "tenant": "default",
    }
    for block in read_lines(path, multiline=multiline, record_bytes_max=record_bytes_max):
        found = recognise(block.lines, latest_ns=modified_ns)
        nanos = found.time_unix_nano.fill_null(modified_ns)
        count = len(block.lines)
        columns: dict[str, Any] = {
            "timestamp": _micros(nanos),
            "time_unix_nano": nanos,
            "observed_timestamp": _micros(pa.repeat(pa.scalar(now_ns), count)),
            "severity_number": found.severity_number,
            "severity_text": found.severity_text,
            "body": block.lines,
            **{name: pa.repeat(pa.scalar(value, pa.string()), count) for name, value in constants.items()},
        }
        arrays = [columns.get(field.name) for field in RECORD_SCHEMA]
        filled = [
            pa.nulls(count, field.type) if array is None else array
            for field, array in zip(RECORD_SCHEMA, arrays, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(filled, schema=RECORD_SCHEMA)
        yield RecordBlock(batch, block.bytes_read, block.problems, block.next_line)


class _Splitter:
    """Cuts blocks of bytes at LF; what is not ended yet waits for the next block."""

    def __init__(self, record_bytes_max: int, joiner: _Joiner | None) -> None:
        self._record_bytes_max = record_bytes_max
        self._joiner = joiner
        self._waiting = b""
        self._skipped = 0  # bytes of a line that is too long to be kept
        self._line = 1

    def block(self, data: bytes, bytes_read: int) -> FileBlock:
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        block = self._finish(lines, bytes_read, last=False)
        if len(self._waiting) > self._record_bytes_max + 1:
            self._skipped += len(self._waiting)
            self._waiting = b""
        return block

    def rest(self, bytes_read: int) -> FileBlock:
        lines = [self._waiting] if self._waiting or self._skipped else []
        return self._finish(lines, bytes_read, last=True)

    def _finish(self, lines: list[bytes], bytes_read: int, last: bool) -> FileBlock:
        problems: dict[int, str] = {}
        number, self._line = self._line, self._line + len(lines)
        if self._skipped and lines:
            problems[number] = self._too_long(self._skipped + len(lines[0]))
            lines, number, self._skipped = lines[1:], number + 1, 0
        texts = _text(lines)
        if self._joiner is not None:
            texts, numbers = self._joiner.join(texts, number, last)
        else:
            numbers = list(range(number, number + len(texts)))
        next_line = self._line if self._joiner is None else self._joiner.waits_from or self._line
        sizes = np.asarray(pc.binary_length(texts).to_numpy(zero_copy_only=False))
        long = np.flatnonzero(sizes > self._record_bytes_max)
        for at in long.tolist():
            problems[numbers[at]] = self._too_long(int(sizes[at]))
        if len(long):
            texts = texts.filter(pa.array(sizes <= self._record_bytes_max))
        return FileBlock(texts, bytes_read, problems, next_line)

    def _too_long(self, size: int) -> str:
        return f"it has {size} bytes: {self._record_bytes_max} at most; cut it, or raise record_bytes_max"


class _Joiner:
    """Joins lines that continue a record. It looks at one line after the other, because each depends on the last."""

    def __init__(self) -> None:
        self._record: list[str] = []
        self._number = 0
        self._traceback = False

    @property
    def waits_from(self) -> int | None:
        """The first line of the record that is not ended yet."""
        return self._number if self._record else None

    def join(self, lines: pa.Array, number: int, last: bool) -> tuple[pa.Array, list[int]]:
        records: list[str] = []
        numbers: list[int] = []
        for at, line in enumerate(lines.to_pylist(), number):
            if self._record and self._continues(line):
                self._record.append(line)
                continue
            self._end(records, numbers)
            self._record, self._number = [line], at
            self._traceback = line.startswith("Traceback (most recent call last)")
        if last:
            self._end(records, numbers)
        return pa.array(records, pa.string()), numbers

    def _end(self, records: list[str], numbers: list[int]) -> None:
        if self._record:
            records.append("\n".join(self._record))
            numbers.append(self._number)
            self._record = []

    def _continues(self, line: str) -> bool:
        if line.startswith("Traceback (most recent call last)"):
            self._traceback = True
            return True
        if line[:1] in (" ", "\t") and line.strip():
            return True
        if line.startswith("Caused by:"):
            return True
        if self._traceback and line:
            self._traceback = False  # the line with the exception ends it
            return True
        return False


def _text(lines: list[bytes]) -> pa.Array:
    """As text, each without one CR at its end."""
    raw = pa.array(lines, pa.binary())
    try:
        texts = raw.cast(pa.string())
    except pa.ArrowInvalid:
        texts = pa.array([line.decode("utf-8", "backslashreplace") for line in lines], pa.string())
    return pc.replace_substring_regex(texts, r"\r\z", "")


def _decompressed(raw: Any) -> Any:
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw)
    if magic == _ZSTD:
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    return raw


def _modified_ns(path: str, now_ns: int) -> int:
    files, where = fsspec.core.url_to_fs(path)
    try:
        modified: datetime.datetime = files.modified(where)
    except NotImplementedError:
        return now_ns
    except OSError as error:  # such as one that was rotated away since it was found
        raise Unavailable(f"{path} cannot be read: {error}") from error
    aware = modified if modified.tzinfo else modified.replace(tzinfo=datetime.timezone.utc)
    return max(0, int(aware.timestamp() * 1_000_000) * 1_000)


def _micros(nanos: pa.Array) -> pa.Array:
    return pc.divide(nanos, 1000).cast(pa.timestamp("us", "UTC"))
