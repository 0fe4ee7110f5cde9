"""submit and ingest: records from stdin and from files."""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Annotated

import typer

import ringlog
from ringlog.cli import show
from ringlog.client.files import expand, read_records, service_of, size_bytes
from ringlog.records import split_valid

_ROWS = 5_000
_IN_FLIGHT = 32
_SHOWN = 20

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]
Service = Annotated[str | None, typer.Option(help="The service of every record that names none.")]


class Tally:
    """What was accepted and what was not; waits for the oldest batch when many are on their way."""

    def __init__(self) -> None:
        self.accepted = 0
        self.rejected = 0
        self._began = time.monotonic()
        self._waiting: deque[Future[ringlog.Ack]] = deque()

    def sent(self, future: Future[ringlog.Ack]) -> None:
        """One more batch is on its way."""
        self._waiting.append(future)
        while len(self._waiting) > _IN_FLIGHT:
            self._take()

    def reject(self, problems: dict[int, str], what: str) -> None:
        """These were not sent, and why."""
        for number, problem in problems.items():
            if self.rejected < _SHOWN:
                show.errors.print(show.plain(f"{what} {number}: {problem}"), markup=False, highlight=False)
            self.rejected += 1

    def settle(self) -> None:
        """Wait until everything sent is acknowledged."""
        while self._waiting:
            self._take()

    def finish(self, json: bool) -> None:
        """Wait for the rest, say what happened; exit code 1 when something was rejected."""
        self.settle()
        seconds = max(1e-9, time.monotonic() - self._began)
        rate = round(self.accepted / seconds)
        if json:
            show.json_line({"accepted": self.accepted, "rejected": self.rejected, "records_per_second": rate})
        else:
            show.console.print(f"{self.accepted} records accepted, {self.rejected} rejected, {rate} records/s")
        if self.rejected:
            raise typer.Exit(1)

    def _take(self) -> None:
        self.accepted += self._waiting.popleft().result().records


def submit(service: Service = None, json: Json = False) -> None:
    """Submit records from stdin: a line is a JSON object, or else a text that becomes the body."""
    pipeline = ringlog.connect()
    tally = Tally()
    first = 0
    for lines in _chunks(sys.stdin.buffer, _ROWS):
        defaults = {"service": service, "host": socket.gethostname()}
        batch, problems = split_valid(b"".join(lines), defaults=defaults, observed_ns=time.time_ns(), plain_lines=True)
        tally.reject({first + number: problem for number, problem in problems.items()}, "line")
        if batch.num_rows:
            tally.sent(pipeline.submit_logs(batch, wait=False))
        first += len(lines)
    tally.finish(json)


def ingest(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or fsspec URLs; gzip and zstd too.")],
    service: Annotated[str | None, typer.Option(help="Default: each file's name without its suffix.")] = None,
    multiline: Annotated[bool, typer.Option(help="Join tracebacks and indented lines to the record before.")] = False,
    json: Json = False,
) -> None:
    """Submit log files: a line is a record, kept whole; time and level are read out of it where it tells them."""
    pipeline = ringlog.connect()
    tally = Tally()
    files = expand(paths)
    sizes = [size_bytes(path) for path in files]
    with show.byte_progress() as progress:
        bar = progress.add_task("ingesting", total=sum(size or 0 for size in sizes))
        done = 0
        for path, size in zip(files, sizes, strict=True):
            progress.update(bar, description=service or service_of(path))
            for part in ingest_file(pipeline, path, service, multiline, tally):
                progress.update(bar, completed=done + part)
            done += size or 0
    tally.finish(json)


def ingest_file(
    pipeline: ringlog.Pipeline, path: str, service: str | None, multiline: bool, tally: Tally
) -> Iterator[int]:
    """Submit one file; yields how many of its bytes have been read so far."""
    host = socket.gethostname()
    for block in read_records(path, service=service, host=host, multiline=multiline, now_ns=time.time_ns()):
        tally.reject(block.problems, f"{path}, line")
        if block.batch.num_rows:
            tally.sent(pipeline.submit_logs(block.batch, wait=False))
        yield block.bytes_read


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
