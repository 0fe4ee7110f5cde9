"""The stdlib ``logging`` handler: never blocks its caller for long, never logs into itself, counts what it drops."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from typing import Any

from ringlog.client.pipeline import Pipeline
from ringlog.errors import RinglogError

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OWN_THREADS = "ringlog-"
_REPORT_S = 60.0
_BATCH = 1000


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
        self._queue: queue.Queue[dict[str, Any] | threading.Event | None] = queue.Queue(queue_max)
        self._reported = 0.0
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._begin = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; what ringlog itself logs while sending is left out."""
        if record.name.startswith("ringlog.") or threading.current_thread().name.startswith(_OWN_THREADS):
            return
        try:
            self._ensure_thread()
            self._queue.put_nowait(self._fields(record))
        except queue.Full:
            self._drop(1, "its queue is full")
        except Exception:  # noqa: BLE001  (logging must not break the program; stdlib prints it)
            self.handleError(record)

    def flush(self) -> None:
        """Wait, for 10 s at most, until everything logged so far is acknowledged or counted as dropped."""
        if self._thread is None or not self._thread.is_alive():
            return
        done = threading.Event()
        try:
            self._queue.put(done, timeout=10.0)
        except queue.Full:
            return
        done.wait(10.0)

    def close(self) -> None:
        """Flush and end."""
        self.flush()
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(10.0)
        super().close()

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._pid == os.getpid():
            return
        with self._begin:
            if self._thread is None or self._pid != os.getpid():  # a forked child has no threads
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, name="ringlog-handler", daemon=True)
                self._thread.start()

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        attributes: dict[str, Any] = {
            "code.file.path": record.pathname,
            "code.line.number": record.lineno,
            "code.function.name": record.funcName,
            "thread.name": record.threadName,
            **extra,
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, _ = record.exc_info
            attributes["exception.type"] = kind.__qualname__
            attributes["exception.message"] = str(error)
            formatter = self.formatter or logging.Formatter()
            attributes["exception.stacktrace"] = formatter.formatException(record.exc_info)
        return {
            "time_unix_nano": int(record.created * 1_000_000) * 1_000,
            "body": record.getMessage() if self.formatter is None else self.format(record),
            "levelno": record.levelno,
            "severity_text": record.levelname,
            "scope": record.name,
            "service": self._service,
            "attributes": attributes,
        }

    def _run(self) -> None:
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
                    records.append(item)
                if end or len(records) >= _BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            if records:
                self._send(records)
            for event in events:
                event.set()
            if end:
                return

    def _send(self, records: list[dict[str, Any]]) -> None:
        try:
            pipeline = self._pipeline or _connected()
            pipeline.submit_logs(records)
        except RinglogError as error:
            self._drop(len(records), str(error))
        except Exception as error:  # noqa: BLE001  (a thread of a logging handler has nobody else to tell)
            self._drop(len(records), repr(error))

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        now = time.monotonic()
        if now - self._reported >= _REPORT_S or not self._reported:
            self._reported = now
            print(f"ringlog: dropped {self.dropped} log records so far: {why}", file=sys.stderr)


def _program() -> str:
    return sys.argv[0].rsplit("/", 1)[-1].removesuffix(".py") or "python"


def _connected() -> Pipeline:
    from ringlog.client.current import connect

    return connect()
