"""The SDK: submit records, read them, and run a pipeline."""

from ringlog.client.current import connect, flush, search, sql, start, status, stop, submit_logs, table, tail
from ringlog.client.handler import LogHandler
from ringlog.client.pipeline import Ack, Pipeline
from ringlog.client.sender import Part
from ringlog.client.transport import MemoryTransport, Transport

__all__ = [
    "Ack",
    "LogHandler",
    "MemoryTransport",
    "Part",
    "Pipeline",
    "Transport",
    "connect",
    "flush",
    "search",
    "sql",
    "start",
    "status",
    "stop",
    "submit_logs",
    "table",
    "tail",
]
