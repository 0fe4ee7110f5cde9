"""The stdlib ``logging`` handler: never blocks its caller for long, never logs into itself, counts what it drops."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
import weakref
from concurrent.futures import Future, wait
from typing import Any

from ringlog.client.pipeline import Ack, Pipeline
from ringlog.errors import InvalidRecord, RinglogError

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OWN_THREADS = "ringlog-"
_REPORT_S = 60.0
_BATCH = 5000
_IN_FLIGHT = 4  # submits that one handler has without an acknowledgement


class LogHandler(logging.Handler):
    """Sends log records to a pipeline, by default the one of this Ray cluster.

    ``service`` is the name under which they are found (default: the program's). What ``extra=`` adds becomes
    attributes. At most ``queue_max`` records wait; when the pipeline cannot keep up, more are dropped: `dropped` counts
    them, and a warning on stderr says so once a minute. `flush` waits until what was logged is acknowledged.
    """

    def __init__(
        self,
        service: str | None = None,
        level: int = logging.NOTSET,
        *,
        pipeline: Pipeline | None = None,
        queue_max: int = 10_000,
    ) -> None:
        super().__init__(level)
        self.dropped = 0
        self._service = service or _program()
        self._pipeline = pipeline
        self._queue_max = queue_max
        self._ended = False
        self._forget()
        _handlers.add(self)

    def _forget(self) -> None:
        """As new: a forked child has no threads, what waits is its parent's, and its locks may be held for ever."""
        self._queue: queue.SimpleQueue[dict[str, Any] | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._reported = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; what ringlog itself logs while sending is left out.

        Only what may change afterwards is worked out here: the text, and that of an exception. The rest is copied.
        """
        try:
            thread = record.threadName or threading.current_thread().name
            if str(record.name).startswith("ringlog.") or thread.startswith(_OWN_THREADS):
                return
            if self._ended:
                self._drop(1, "its handler is closed")
                return
            if self._thread is None:
                self._start_thread()
            if self._queue.qsize() >= self._queue_max:
                self._drop(1, "its queue is full")
                return
            fields = record.__dict__.copy()
            fields["message"] = record.getMessage() if self.formatter is None else self.format(record)
            if record.exc_info:
                fields["exc_info"] = self._exception(record.exc_info)
            self._queue.put(fields)
        except Exception:  # noqa: BLE001  (logging must not break the program; stdlib prints it)
            self.handleError(record)

    def flush(self) -> None:
        """Wait, for 10 s at most, until everything logged so far is acknowledged or counted as dropped."""
        if self._thread is None or not self._thread.is_alive():
            return
        done = threading.Event()
        self._queue.put(done)
        done.wait(10.0)

    def close(self) -> None:
        """Flush and end. What is logged afterwards is dropped."""
        self.acquire()  # whoever is emitting has put its record then
        self._ended = True
        self.release()
        self.flush()
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(10.0)
        super().close()

    def _start_thread(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ringlog-handler", daemon=True)
                thread.start()
                self._thread = thread

    def _exception(self, exc_info: Any) -> dict[str, str]:
        kind, error, _ = exc_info
        if kind is None:
            return {}
        return {
            "exception.type": kind.__qualname__,
            "exception.message": str(error),
            "exception.stacktrace": (self.formatter or logging.Formatter()).formatException(exc_info),
        }

    def _rows(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """The record, or none where it is one that `logging` would not have made."""
        try:
            return [self._row(fields)]
        except Exception as error:  # noqa: BLE001  (one that does not read must not take the others with it)
            self._drop(1, f"a log record does not read: {error!r}")
            return []

    def _row(self, fields: dict[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "code.file.path": fields.get("pathname"),
            "code.line.number": fields.get("lineno"),
            "code.function.name": fields.get("funcName"),
            "thread.name": fields.get("threadName"),
        }
        attributes.update((key, fields[key]) for key in fields.keys() - _STANDARD)
        attributes.update(fields.get("exc_info") or {})
        return {
            "time_unix_nano": int(fields["created"] * 1_000_000) * 1_000,
            "body": fields["message"],
            "levelno": fields["levelno"],
            "severity_text": fields["levelname"],
            "scope": fields["name"],
            "service": self._service,
            "attributes": attributes,
        }

    def _run(self) -> None:
        waiting: list[Future[None]] = []
        while True:
            item = self._queue.get()
            records: list[dict[str, Any]] = []
            events: list[threading.Event] = []
            end = False
            while True:
                if item is None:
                    end = True
                elif isinstance(item, threading.Event):
                    events.append(item)
                else:
                    records.extend(self._rows(item))
                if end or len(records) >= _BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            if records:
                waiting.extend(self._send(records))
            wait(waiting if events or end else waiting[:-_IN_FLIGHT])
            waiting = [future for future in waiting if not future.done()]
            for event in events:
                event.set()
            if end:
                return

    def _send(self, records: list[dict[str, Any]]) -> list[Future[None]]:
        """Put them on their way; what is to be waited for. What is not stored is counted as dropped, then or later."""
        try:
            pipeline = self._pipeline or _connected()
            sent = pipeline.submit_logs(records, wait=False)
        except InvalidRecord as error:
            good = [record for at, record in enumerate(records) if error.problems and at not in error.problems]
            self._drop(len(records) - len(good), str(error))
            return self._send(good) if good else []
        except RinglogError as error:
            self._drop(len(records), str(error))
        except Exception as error:  # noqa: BLE001  (a thread of a logging handler has nobody else to tell)
            self._drop(len(records), repr(error))
        else:
            return [self._counted(len(records), sent)]
        return []

    def _counted(self, count: int, sent: Future[Ack]) -> Future[None]:
        """Done when ``sent`` is, and what it did not store is counted."""
        counted: Future[None] = Future()

        def settle(done: Future[Ack]) -> None:
            error = done.exception()
            if error is not None:
                self._drop(count, str(error))
            counted.set_result(None)

        sent.add_done_callback(settle)
        return counted

    def _drop(self, count: int, why: str) -> None:
        now = time.monotonic()
        with self._counting:
            self.dropped += count
            said = self._reported and now - self._reported < _REPORT_S
            if not said:
                self._reported = now
        if not said:
            print(f"ringlog: dropped {self.dropped} log records so far: {why}", file=sys.stderr)


def _program() -> str:
    return sys.argv[0].rsplit("/", 1)[-1].removesuffix(".py") or "python"


def _connected() -> Pipeline:
    from ringlog.client.current import connect

    return connect()


_handlers: weakref.WeakSet[LogHandler] = weakref.WeakSet()


def close_handlers() -> None:
    """Flush and close every handler of this process, whatever becomes of one."""
    for handler in list(_handlers):
        try:
            handler.close()
        except Exception as error:  # noqa: BLE001  (a subclass's own)
            print(f"ringlog: a log handler could not be closed: {error!r}", file=sys.stderr)


def _after_fork() -> None:
    for handler in _handlers:
        handler._forget()


os.register_at_fork(after_in_child=_after_fork)
