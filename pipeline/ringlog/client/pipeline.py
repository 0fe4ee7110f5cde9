"""A running pipeline, as its users hold it: submit, read, flush, stop."""

from __future__ import annotations

import datetime
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, overload

import pyarrow as pa

from ringlog.client.sender import Part, Sender
from ringlog.client.transport import Transport
from ringlog.errors import Fenced, InvalidRecord, OutcomeUnknown, PipelineEnded, Unavailable
from ringlog.processing import Processor
from ringlog.query import Cut, Filter, Result, Tail, run_search, run_sql, take_cut
from ringlog.query.search import Moment
from ringlog.query.tail import Followed
from ringlog.query.tail import tail as run_tail
from ringlog.records import to_record_batch
from ringlog.replication import Acks
from ringlog.schema import RECORD_SCHEMA, TABLE_SCHEMA
from ringlog.storage import Table

READ_DEADLINE_S = 10.0
FLUSH_DEADLINE_S = 60.0
EXIT_DEADLINE_S = 10.0
_RETRY_S = 0.1
_ANSWER_MARGIN_S = 5.0


@dataclass(frozen=True)
class Ack:
    """Where the acknowledged records are, and the level that was reached (``leader``, ``quorum``, ``stored``)."""

    parts: tuple[Part, ...]
    level: Acks
    _table: Table

    @property
    def records(self) -> int:
        """How many records."""
        return sum(part.end - part.start for part in self.parts)

    def stored(self) -> bool:
        """Whether all of it is in the table by now. Raises `Unavailable` when the table cannot be read."""
        snapshot = self._table.find()
        return snapshot is not None and all(snapshot.stored(part.shard) >= part.end for part in self.parts)

    def __repr__(self) -> str:
        where = ", ".join(f"{part.shard} [{part.start}, {part.end})" for part in self.parts)
        return f"Ack({self.records} records, {self.level}: {where})"


class Pipeline:
    """A pipeline that is reached over ``transport``; safe for several threads. `connect` and `start` make one.

    ``processors`` run, in order, on every batch that is submitted here, before it is routed.
    """

    def __init__(self, transport: Transport, processors: Sequence[Processor] = ()) -> None:
        self._transport = transport
        self._processors = tuple(processors)
        self._settings = transport.settings
        self._sender = Sender(transport)
        self._process = {"host": socket.gethostname(), "pid": os.getpid()}
        self._table = Table(self._settings.table_url, self._settings.storage_options())
        self._reads = ThreadPoolExecutor(8, thread_name_prefix="ringlog-read")
        self._closed = False

    @overload
    def submit_logs(
        self,
        records: Any,
        *,
        wait: Literal[True] = True,
        acks: Acks | None = None,
        timeout_s: float | None = None,
        **defaults: Any,
    ) -> Ack: ...

    @overload
    def submit_logs(
        self,
        records: Any,
        *,
        wait: Literal[False],
        acks: Acks | None = None,
        timeout_s: float | None = None,
        **defaults: Any,
    ) -> Future[Ack]: ...

    def submit_logs(
        self,
        records: Any,
        *,
        wait: bool = True,
        acks: Acks | None = None,
        timeout_s: float | None = None,
        **defaults: Any,
    ) -> Ack | Future[Ack]:
        """Submit log records; returns when they are acknowledged, or with a Future for ``wait=False``, which waits only
        for room: a process holds at most ``client_buffer_bytes_max`` bytes without an acknowledgement.

        ``records``: a dict, a string, a `LogRecord`, a list or generator of them, anything Arrow (pandas, Polars,
        DuckDB), or bytes with a JSON object in each line (LF or CRLF ends one; blank lines are skipped). ``acks``:
        ``leader``, ``quorum`` (a majority has them on disk; the default) or ``stored`` (in the table). ``defaults``,
        such as ``service="train"``, fill columns where a record gives nothing.

        Raises `InvalidRecord` (nothing was sent), `Overloaded` or `Unavailable` (not stored: submit again later), or
        `OutcomeUnknown` (may be stored). Retries happen inside, for ``timeout_s`` seconds, and store nothing twice.
        """
        settings = self._settings
        batch = to_record_batch(
            records,
            defaults={**self._process, **self._transport.fields(), **defaults},
            observed_ns=time.time_ns(),
            record_bytes_max=settings.record_bytes_max,
        )
        for processor in self._processors:
            batch = _processed(processor, batch)
        level = acks or settings.acks
        budget = settings.submit_timeout_s if timeout_s is None else timeout_s
        sent = self._sender.submit(batch, level, budget, linger=not wait, wait_s=budget)
        if not wait:
            return _then(sent, lambda parts: self._ack(parts, level))
        try:
            parts = sent.result(budget + _ANSWER_MARGIN_S)
        except FutureTimeoutError:
            raise OutcomeUnknown("no answer in time; the records may be stored: look before submitting again") from None
        return self._ack(parts, level)

    def flush(self, timeout_s: float = FLUSH_DEADLINE_S) -> None:
        """Send what waits in this process and archive all that is committed.

        Raises `Unavailable` when that is not done in time; what was acknowledged is safe in the journals all the same.
        """
        self.flush_client(timeout_s)
        self._transport.flush(timeout_s)

    def flush_client(self, timeout_s: float) -> None:
        """Send what waits in this process, and wait until it is acknowledged. Raises `Unavailable`."""
        if not self._sender.flush(timeout_s):
            raise Unavailable(f"some records are not acknowledged after {timeout_s:g} s; they are still being retried")

    def sql(self, query: str, parameters: Any = None) -> Result:
        """Run one SELECT over the view ``logs``: everything acknowledged so far, archived or not, each record once.

        The result is a DuckDB relation: ``.df()``, ``.pl()``, ``.arrow()``, ``.fetchall()``, ``.show()``. Its
        ``missing`` names shards that could not be read. Raises `InvalidQuery`.
        """
        return run_sql(query, self._cut(), parameters)

    def search(
        self,
        text: str | None = None,
        *,
        regex: str | None = None,
        service: str | None = None,
        severity: str | int | None = None,
        tenant: str | None = None,
        trace_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        since: Moment = None,
        until: Moment = None,
        limit: int | None = 1000,
    ) -> Result:
        """The newest ``limit`` records with ``text`` in their body (in any case), in order of time.

        ``severity`` is the least (``"ERROR"``); ``since`` and ``until`` are a time or an age (``"15m"``, ``"2d"``);
        ``attributes`` must be equal. Raises `InvalidQuery`.
        """
        wanted = Filter(text, regex, service, severity, tenant, trace_id, attributes or {})
        now = datetime.datetime.now(datetime.timezone.utc)
        return run_search(self._cut(), wanted, since=since, until=until, limit=limit, now=now)

    def tail(
        self,
        text: str | None = None,
        *,
        regex: str | None = None,
        service: str | None = None,
        severity: str | int | None = None,
        tenant: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the records that are committed from now on, as they are; filtered like `search`. Never ends."""
        return run_tail(_Live(self), Filter(text, regex, service, severity, tenant, None, attributes or {}))

    def status(self) -> dict[str, Any]:
        """Every shard: its leader, epoch, members, offsets and bytes; and every shard actor."""
        return self._transport.status()

    @property
    def is_over(self) -> bool:
        """Whether nothing can be submitted here any more: it was closed, or has failed. Then `connect` again."""
        return self._closed or self._sender.is_over

    def close(self, timeout_s: float = EXIT_DEADLINE_S) -> None:
        """Send what waits and let go; the pipeline runs on.

        Raises `Unavailable` when something is not acknowledged in ``timeout_s``. It is given up then: its futures get
        `OutcomeUnknown`, or `Unavailable` where they are surely not stored.
        """
        if self._closed:
            return
        self._closed = True
        try:
            acknowledged = self._sender.is_over or self._sender.flush(timeout_s)
        finally:
            self._sender.close()
            self._reads.shutdown(wait=False)
        if not acknowledged:
            raise Unavailable(
                f"some records were not acknowledged in {timeout_s:g} s and are not retried any more: their futures "
                "end as `OutcomeUnknown`, or as not stored"
            )

    def stop(self) -> None:
        """End the pipeline for everybody. What is not archived waits in the journals for the next start.

        Raises `Unavailable` like `close`, once the pipeline has ended.
        """
        try:
            self.close()
        finally:
            self._transport.stop()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ack(self, parts: Sequence[Part], level: Acks) -> Ack:
        return Ack(tuple(sorted(parts, key=lambda part: (part.shard, part.start))), level, self._table)

    def _cut(self) -> Cut:
        return take_cut(self._tails, self._table, self._settings.promoted)

    def _tails(self) -> tuple[list[Tail], list[str]]:
        """Every shard's unflushed part, read at the same time; the shards that did not give one.

        The routes that are known may be old. So it is asked now which shards there are: something may have been
        acknowledged by one that was added since. Raises `Unavailable` when nobody can say.
        """
        asked = self._reads.submit(self._shards)
        known = self._sender.routes.shards
        found = dict(zip(known, self._reads.map(self._tail, known), strict=True))
        shards = asked.result()
        added = [shard for shard in shards if shard not in found]
        found.update(zip(added, self._reads.map(self._tail, added), strict=True))
        tails = [tail for tail in found.values() if tail is not None]
        return tails, [shard for shard in shards if found[shard] is None]

    def _shards(self) -> tuple[str, ...]:
        """Those that are not retired, heard of now: from the router, or where that is away, from who decides it."""
        try:
            return self._sender.refresh().shards
        except PipelineEnded:
            raise  # what it stored is there, by ringlog.table(); but nobody knows what it has not stored
        except Unavailable:
            return self._transport.shards()

    def _tail(self, shard: str) -> Tail | None:
        deadline = time.monotonic() + READ_DEADLINE_S
        routes = self._sender.routes
        pause = threading.Event()
        while True:
            try:
                reply = self._transport.tail(routes.leader(shard))
                return Tail(shard, reply.base, reply.committed, tuple(reply.batches))
            except (Fenced, Unavailable):
                if time.monotonic() >= deadline:
                    return None
            pause.wait(_RETRY_S)
            try:
                routes = self._sender.refresh()
            except PipelineEnded:
                raise
            except Unavailable:
                continue
            if shard not in routes.shards:  # it is retired: the table has all of it
                return Tail(shard, 0, 0, ())


class _Live:
    """Where `tail` takes its records from."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def shards(self) -> tuple[str, ...]:
        return self._pipeline._shards()

    def follow(self, shard: str, start: int | None) -> Followed:
        sender = self._pipeline._sender
        leading = (sender.routes if start is None else sender.refresh()).leader(shard)
        reply, stop = self._pipeline._transport.follow(leading, start)
        return Followed(reply.base, reply.batches, stop)

    def archived(self, shard: str, start: int, end: int) -> Iterator[pa.RecordBatch]:
        cut = Cut(self._pipeline._table.find(), ())
        columns = ", ".join(TABLE_SCHEMA.names)  # those of what leaders send, whatever else the table has
        query = (
            f"SELECT {columns} FROM logs WHERE shard = ? AND record_offset >= ? AND record_offset < ? "
            "ORDER BY record_offset"
        )
        return iter(run_sql(query, cut, [shard, start, end]).arrow().to_batches())


def _then(sent: Future[list[Part]], make: Callable[[list[Part]], Ack]) -> Future[Ack]:
    acked: Future[Ack] = Future()

    def settle(done: Future[list[Part]]) -> None:
        error = done.exception()
        if error is not None:
            acked.set_exception(error)
        else:
            acked.set_result(make(done.result()))

    sent.add_done_callback(settle)
    return acked


def _processed(processor: Processor, batch: pa.RecordBatch) -> pa.RecordBatch:
    """What ``processor`` makes of ``batch``. Raises `InvalidRecord` where that is no batch of records."""
    made = processor(batch)
    if not isinstance(made, pa.RecordBatch) or not made.schema.equals(RECORD_SCHEMA):
        found = made.schema if isinstance(made, pa.RecordBatch) else type(made).__name__
        raise InvalidRecord(f"{processor} must give a RecordBatch with the schema of the one that it got, not {found}")
    return made
