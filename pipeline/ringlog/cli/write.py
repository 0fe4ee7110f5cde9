"""submit and ingest: records from stdin and from files."""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pyarrow as pa
import typer

import ringlog
from ringlog.cli import show
from ringlog.client.files import expand, read_records, service_of, size_bytes
from ringlog.errors import InvalidRecord, Overloaded, RinglogError, Unavailable
from ringlog.records import split_valid

_ROWS = 5_000
_IN_FLIGHT = 32
_SHOWN = 20
_OUTCOMES = {"not_stored": "not stored", "unknown": "may be stored"}

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]
Service = Annotated[str | None, typer.Option(help="The service of every record that names none.")]


@dataclass(frozen=True)
class Lines:
    """Where the ``records`` of a batch stand: lines ``[first, end)`` of ``source``."""

    source: str
    first: int
    end: int
    records: int

    def __str__(self) -> str:
        last = self.end - 1
        return f"{self.source}, line" + (f" {last}" if last == self.first else f"s {self.first}-{last}")


@dataclass(frozen=True)
class _Failure:
    lines: Lines
    error: RinglogError

    @property
    def outcome(self) -> Literal["not_stored", "unknown"]:
        return "not_stored" if isinstance(self.error, Unavailable | Overloaded | InvalidRecord) else "unknown"


class Tally:
    """What was accepted and what was not; waits for the oldest batch when many are on their way.

    ``sources`` are all that is to be sent. The first batch that fails ends the sending: `finish` then says which lines
    are not stored, which may be, and which were not sent, so that nobody has to submit everything again.
    """

    def __init__(self, sources: Iterable[str] = ()) -> None:
        self.accepted = 0
        self.rejected = 0
        self._began = time.monotonic()
        self._waiting: deque[tuple[Future[ringlog.Ack], Lines | None]] = deque()
        self._failures: list[_Failure] = []
        self._unsent = dict.fromkeys(sources, 1)  # the line of each source from which on nothing was sent

    def sent(self, future: Future[ringlog.Ack], lines: Lines | None = None) -> None:
        """One more batch is on its way. Raises the error of the first one that failed, if one has."""
        self._waiting.append((future, lines))
        if lines is not None:
            self._unsent[lines.source] = lines.end
        while len(self._waiting) > _IN_FLIGHT or any(one.done() and one.exception() for one, _ in self._waiting):
            self._take()

    def sent_whole(self, source: str) -> None:
        """There is nothing more in ``source``."""
        del self._unsent[source]

    def reject(self, problems: dict[int, str], what: str) -> None:
        """These were not sent, and why."""
        for number, problem in problems.items():
            if self.rejected < _SHOWN:
                _say(f"{what} {number}: {problem}")
            self.rejected += 1

    def settle(self) -> None:
        """Wait until everything sent is acknowledged. Raises the error of the first batch that is not."""
        while self._waiting:
            self._take()

    def stop(self, error: RinglogError) -> None:
        """Nothing more is sent, because of ``error``: a batch failed, or a source cannot be read."""
        if all(error is not failure.error for failure in self._failures):
            _say(f"error: {error}")

    def finish(self, json: bool) -> None:
        """Wait for the rest, say what happened; exit code 1 when something was not accepted."""
        while self._waiting:
            with suppress(RinglogError):  # it is among the failures then
                self._take()
        seconds = max(1e-9, time.monotonic() - self._began)
        counts = {"accepted": self.accepted, "rejected": self.rejected, "not_stored": 0, "unknown": 0}
        for failure in _joined(self._failures):
            counts[failure.outcome] += failure.lines.records
            _say(f"{failure.lines}: {_OUTCOMES[failure.outcome]}: {failure.error}")
        for source, line in self._unsent.items():
            _say(f"{source}: not sent" if line == 1 else f"{source}, from line {line} on: not sent")
        rate = round(self.accepted / seconds)
        if json:
            show.json_line({**counts, "records_per_second": rate})
        else:
            failed = f"{counts['not_stored']} not stored, {counts['unknown']} unknown, " if self._failures else ""
            told = f"{self.accepted} records accepted, {self.rejected} rejected, {failed}{rate} records/s"
            show.console.print(told, soft_wrap=True)
        if self.rejected or self._failures or self._unsent:
            raise typer.Exit(1)

    def _take(self) -> None:
        future, lines = self._waiting.popleft()
        try:
            self.accepted += future.result().records
        except RinglogError as error:
            if lines is not None:
                self._failures.append(_Failure(lines, error))
            raise


def submit(service: Service = None, json: Json = False) -> None:
    """Submit records from stdin: a line is a JSON object, or else a text that becomes the body.

    The first batch that fails ends it, and it says which lines are not stored, which may be, and which were not sent.
    """
    pipeline = ringlog.connect()
    tally = Tally(["stdin"])
    try:
        _submit_stdin(pipeline, service, tally)
    except RinglogError as error:
        tally.stop(error)
    tally.finish(json)


def ingest(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or fsspec URLs; gzip and zstd too.")],
    service: Annotated[str | None, typer.Option(help="Default: each file's name without its suffix.")] = None,
    multiline: Annotated[bool, typer.Option(help="Join tracebacks and indented lines to the record before.")] = False,
    json: Json = False,
) -> None:
    """Submit log files: a line is a record, kept whole; time and level are read out of it where it tells them.

    The first batch that fails ends it, and it says which lines are not stored, which may be, and which were not sent.
    """
    pipeline = ringlog.connect()
    files = expand(paths)
    sizes = [size_bytes(path) for path in files]
    tally = Tally(files)
    try:
        with show.byte_progress() as progress:
            bar = progress.add_task("ingesting", total=sum(size or 0 for size in sizes))
            done = 0
            for path, size in zip(files, sizes, strict=True):
                progress.update(bar, description=service or service_of(path))
                for part in ingest_file(pipeline, path, service, multiline, tally):
                    progress.update(bar, completed=done + part)
                done += size or 0
    except RinglogError as error:
        tally.stop(error)
    tally.finish(json)


def ingest_file(
    pipeline: ringlog.Pipeline, path: str, service: str | None, multiline: bool, tally: Tally
) -> Iterator[int]:
    """Submit one file; yields how many of its bytes have been read so far."""
    host = socket.gethostname()
    first = 1
    for block in read_records(path, service=service, host=host, multiline=multiline, now_ns=time.time_ns()):
        tally.reject(block.problems, f"{path}, line")
        _send(pipeline, block.batch, Lines(path, first, block.next_line, block.batch.num_rows), tally)
        first = block.next_line
        yield block.bytes_read
    tally.sent_whole(path)


def _submit_stdin(pipeline: ringlog.Pipeline, service: str | None, tally: Tally) -> None:
    defaults = {"service": service, "host": socket.gethostname()}
    first = 1
    for lines in _chunks(sys.stdin.buffer, _ROWS):
        batch, problems = split_valid(b"".join(lines), defaults=defaults, observed_ns=time.time_ns(), plain_lines=True)
        tally.reject({first - 1 + number: problem for number, problem in problems.items()}, "line")
        _send(pipeline, batch, Lines("stdin", first, first + len(lines), batch.num_rows), tally)
        first += len(lines)
    tally.sent_whole("stdin")


def _send(pipeline: ringlog.Pipeline, batch: pa.RecordBatch, lines: Lines, tally: Tally) -> None:
    if not batch.num_rows:
        return
    try:
        future = pipeline.submit_logs(batch, wait=False)
    except RinglogError as error:  # also what never was on its way has its lines
        future = Future()
        future.set_exception(error)
    tally.sent(future, lines)


def _joined(failures: Iterable[_Failure]) -> list[_Failure]:
    """Neighbours with one outcome as one; it has the error of the first."""
    joined: list[_Failure] = []
    for one in failures:
        last = joined[-1] if joined else one
        if (last.lines.source, last.lines.end, last.outcome) == (one.lines.source, one.lines.first, one.outcome):
            lines = replace(last.lines, end=one.lines.end, records=last.lines.records + one.lines.records)
            joined[-1] = replace(last, lines=lines)
        else:
            joined.append(one)
    return joined


def _say(text: str) -> None:
    show.errors.print(show.plain(text), markup=False, highlight=False, soft_wrap=True)


def _chunks(lines: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


COMMANDS = (submit, ingest)
