"""The pipeline that this process is connected to, behind the functions of the package."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from ringlog.actors import cluster
from ringlog.client.handler import close_handlers
from ringlog.client.pipeline import Ack, Pipeline
from ringlog.client.ray_transport import RayTransport
from ringlog.errors import ConfigurationError, RinglogError, Unavailable
from ringlog.query import Result, read_stored, read_table, run_sql
from ringlog.settings import Settings

_logger = logging.getLogger(__name__)
_lock = threading.RLock()
_current: Pipeline | None = None


def start(root: str | None = None, **settings: Any) -> Pipeline:
    """Start a pipeline in this Ray cluster, or find the one that runs; where there is no Ray, start it here.

    ``root`` is a local folder or ``s3://bucket/prefix``; ``settings`` are those of `Settings`. Its actors outlive this
    process where the Ray cluster does. Raises `ConfigurationError` or `Unavailable`.
    """
    chosen = settings_of(root, **settings)
    cluster.join_ray(start_local=True)
    return _use(RayTransport(cluster.start(chosen)))


def settings_of(root: str | None, **settings: Any) -> Settings:
    """The settings with these values chosen. Raises `ConfigurationError`, naming what is wrong."""
    try:
        return Settings(**(settings if root is None else {"root": root, **settings}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise ConfigurationError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def connect() -> Pipeline:
    """The pipeline that runs in this Ray cluster; found once, then kept until it is closed.

    Raises `Unavailable` when none runs.
    """
    with _lock:
        if _current is not None and not _current.is_over:
            return _current
        cluster.join_ray(start_local=False)
        return _use(RayTransport(cluster.connect()))


def submit_logs(records: Any, *, wait: bool = True, **options: Any) -> Ack | Future[Ack]:
    """`Pipeline.submit_logs` of the pipeline of this Ray cluster."""
    submit: Any = connect().submit_logs
    acked: Ack | Future[Ack] = submit(records, wait=wait, **options)
    return acked


def flush(timeout_s: float = 60.0) -> None:
    """`Pipeline.flush` of the pipeline of this Ray cluster."""
    connect().flush(timeout_s)


def sql(query: str, parameters: Any = None) -> Result:
    """`Pipeline.sql` of the pipeline of this Ray cluster."""
    return connect().sql(query, parameters)


def search(text: str | None = None, **wanted: Any) -> Result:
    """`Pipeline.search` of the pipeline of this Ray cluster."""
    return connect().search(text, **wanted)


def tail(text: str | None = None, **wanted: Any) -> Iterator[pa.RecordBatch]:
    """`Pipeline.tail` of the pipeline of this Ray cluster."""
    return connect().tail(text, **wanted)


def table(root: str | None = None, query: str | None = None, version: int | None = None) -> Result:
    """Read the table under ``root`` (default: that of the settings) with no cluster running at all.

    All of it, or what ``query`` selects from ``logs``; in its newest version, or in an earlier one. Raises
    `ConfigurationError` where there is none, `InvalidQuery`, or `Unavailable`.
    """
    settings = settings_of(root)
    if query is None:
        return read_stored(settings.table_url, settings.storage_options(), version)
    return run_sql(query, read_table(settings.table_url, settings.storage_options(), version))


def status() -> dict[str, Any]:
    """`Pipeline.status` of the pipeline of this Ray cluster."""
    return connect().status()


def stop() -> None:
    """End the pipeline of this Ray cluster. What is not archived waits in the journals for the next start."""
    global _current  # noqa: PLW0603  (one pipeline a process is what this module is for)
    with _lock:
        if _current is None or _current.is_over:
            cluster.join_ray(start_local=False)
        try:
            pipeline = connect()
        except Unavailable:
            if not cluster.end():
                raise
            return
        _current = None
        pipeline.stop()


def _use(transport: RayTransport) -> Pipeline:
    global _current
    pipeline = Pipeline(transport)
    with _lock:
        left, _current = _current, pipeline
    _close(left)
    return pipeline


def _close(pipeline: Pipeline | None) -> None:
    """Send what waits there. What is not acknowledged in time is told by its futures; here nobody waits for it."""
    try:
        if pipeline is not None:
            pipeline.close()
    except RinglogError as error:
        _logger.error("leaving the pipeline: %s", error)


def _leave() -> None:
    """At exit: everything that was logged or submitted is sent.

    Registered after `logging` and Ray were imported, so it runs before they leave.
    """
    global _current
    try:
        close_handlers()
    finally:
        pipeline, _current = _current, None
        _close(pipeline)


def _forget() -> None:
    """A forked child has no threads: it connects anew when it first submits, unless its parent was part of Ray."""
    global _current, _lock
    _current, _lock = None, threading.RLock()


atexit.register(_leave)
os.register_at_fork(after_in_child=_forget)
