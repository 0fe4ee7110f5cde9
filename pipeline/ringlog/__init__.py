"""ringlog: the log system of a Ray cluster. Acknowledged means: a majority has it on disk.

The path of one record:

1. `submit_logs` makes an Arrow RecordBatch of whatever it is given (`records`), and checks it.
2. `client.sender` routes each record by the hash ring (`routing`) and batches what goes to one shard.
3. The shard's leader (`replication.leader`, in a shard actor) gives it its offsets and sends it to the replicas.
4. Each replica writes its journal (`storage.journal`), syncs it, and answers; with a majority it is acknowledged.
5. The archiver (`actors.archiver`) writes committed batches as Parquet segments and commits them to the Delta table
   exactly once (`storage.commit`); then the journals are trimmed.
6. A reader (`query`) asks each leader for its unflushed part, then takes one version of the table: nothing twice,
   nothing missing.
"""

from ringlog.client import (
    Ack,
    LogHandler,
    MemoryTransport,
    Part,
    Pipeline,
    Transport,
    connect,
    flush,
    search,
    sql,
    start,
    status,
    stop,
    submit_logs,
    table,
    tail,
)
from ringlog.errors import (
    ConfigurationError,
    Conflict,
    CorruptionError,
    Fenced,
    InvalidQuery,
    InvalidRecord,
    OutcomeUnknown,
    Overloaded,
    PipelineEnded,
    ProducerRejected,
    RinglogError,
    Unavailable,
)
from ringlog.processing import Processor
from ringlog.query import Result
from ringlog.records import LogRecord
from ringlog.schema import RECORD_SCHEMA, TABLE_SCHEMA
from ringlog.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "RECORD_SCHEMA",
    "TABLE_SCHEMA",
    "Ack",
    "ConfigurationError",
    "Conflict",
    "CorruptionError",
    "Fenced",
    "InvalidQuery",
    "InvalidRecord",
    "LogHandler",
    "LogRecord",
    "MemoryTransport",
    "OutcomeUnknown",
    "Overloaded",
    "Part",
    "Pipeline",
    "PipelineEnded",
    "Processor",
    "ProducerRejected",
    "Result",
    "RinglogError",
    "Settings",
    "Transport",
    "Unavailable",
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
