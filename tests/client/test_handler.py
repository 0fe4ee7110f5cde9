"""The logging handler says what was true when something was logged, whatever happens to it afterwards."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa
import pytest

import ringlog
from ringlog.client.transport import MemoryTransport
from ringlog.settings import Settings


@pytest.fixture
def pipeline() -> Iterator[ringlog.Pipeline]:
    with ringlog.Pipeline(MemoryTransport(Settings(shards=1, replicas=1))) as made:
        yield made


@pytest.fixture
def logger(pipeline: ringlog.Pipeline) -> Iterator[logging.Logger]:
    made = logging.getLogger("test_handler")
    made.propagate = False
    made.setLevel(logging.DEBUG)
    made.addHandler(ringlog.LogHandler("here", pipeline=pipeline))
    yield made
    for handler in list(made.handlers):
        made.removeHandler(handler)
        handler.close()


def rows(pipeline: ringlog.Pipeline, logger: logging.Logger) -> list[dict[str, Any]]:
    logger.handlers[0].flush()
    found = pipeline.sql("SELECT * FROM logs ORDER BY record_offset").arrow().to_pylist()
    for row in found:
        row["attributes"] = orjson.loads(row["attributes"])
    return found


def test_everything_about_a_call_is_in_its_record(pipeline: ringlog.Pipeline, logger: logging.Logger) -> None:
    logger.warning("%s of %d", "one", 2, extra={"step": 7})
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")
    one, two = rows(pipeline, logger)
    assert (one["body"], one["severity_text"], one["severity_number"]) == ("one of 2", "WARNING", 13)
    assert (one["service"], one["scope"], one["pid"]) == ("here", "test_handler", os.getpid())
    assert one["attributes"]["step"] == 7
    assert one["attributes"]["code.function.name"] == "test_everything_about_a_call_is_in_its_record"
    assert one["attributes"]["thread.name"] == "MainThread"
    assert "exception.type" not in one["attributes"]
    assert (two["attributes"]["exception.type"], two["attributes"]["exception.message"]) == ("ValueError", "boom")
    assert "raise ValueError" in two["attributes"]["exception.stacktrace"]


def test_what_changes_afterwards_does_not_change_the_record(pipeline: ringlog.Pipeline, logger: logging.Logger) -> None:
    class Colours(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.levelname, record.msg, record.args = "\x1b[31mINFO", "coloured", ()
            record.colour = "red"

    logger.addHandler(Colours())
    given = ["as it was"]
    logger.info("%s", given)
    given[0] = "as it became"
    (row,) = rows(pipeline, logger)
    assert (row["body"], row["severity_text"]) == ("['as it was']", "INFO")
    assert "colour" not in row["attributes"]


def test_a_formatter_makes_the_body(pipeline: ringlog.Pipeline, logger: logging.Logger) -> None:
    logger.handlers[0].setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.info("text")
    assert rows(pipeline, logger)[0]["body"] == "test_handler: text"


def test_one_bad_record_does_not_take_others_with_it(
    pipeline: ringlog.Pipeline, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        extra = {f"k{key}": key for key in range(300)} if number == 5 else {}
        logger.info("%d", number, extra=extra)
    assert [row["body"] for row in rows(pipeline, logger)] == [str(number) for number in range(10) if number != 5]
    assert logger.handlers[0].dropped == 1  # type: ignore[attr-defined]
    assert "256 at most" in capsys.readouterr().err


def test_ringlogs_own_records_are_left_out(pipeline: ringlog.Pipeline, logger: logging.Logger) -> None:
    own = logging.getLogger("ringlog.test_handler")
    own.addHandler(logger.handlers[0])
    try:
        own.error("while sending")
        logger.error("somebody else's")
    finally:
        own.removeHandler(logger.handlers[0])
    assert [row["body"] for row in rows(pipeline, logger)] == ["somebody else's"]


def test_a_forked_child_sends_nothing_of_its_parents(pipeline: ringlog.Pipeline, logger: logging.Logger) -> None:
    handler = logger.handlers[0]
    assert isinstance(handler, ringlog.LogHandler)
    logger.info("the parent's")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if handler._thread is None and handler._queue.empty() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    logger.info("the parent's again")
    assert [row["body"] for row in rows(pipeline, logger)] == ["the parent's", "the parent's again"]


def test_a_record_that_logging_would_not_have_made_is_counted_and_takes_nothing_with_it(
    pipeline: ringlog.Pipeline, logger: logging.Logger
) -> None:
    logger.info("one")
    logger.handle(logging.makeLogRecord({"msg": "odd", "levelno": 20, "created": "yesterday"}))
    logger.info("two")
    assert [row["body"] for row in rows(pipeline, logger)] == ["one", "two"]
    assert logger.handlers[0].dropped == 1  # type: ignore[attr-defined]


def test_a_batch_that_is_refused_as_a_whole_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.drop_columns(["pid"])

    logger = logging.getLogger("test_handler_spoilt")
    logger.propagate = False
    with ringlog.Pipeline(MemoryTransport(), [spoil]) as pipeline:
        handler = ringlog.LogHandler(pipeline=pipeline)
        logger.addHandler(handler)
        logger.warning("one")
        handler.flush()
        logger.removeHandler(handler)
        handler.close()
    assert handler.dropped == 1
    assert "schema of the one that it got" in capsys.readouterr().err


def test_what_is_logged_to_a_closed_handler_is_counted(pipeline: ringlog.Pipeline) -> None:
    handler = ringlog.LogHandler(pipeline=pipeline)
    handler.close()
    handler.handle(logging.makeLogRecord({"msg": "too late"}))
    assert handler.dropped == 1


LAST_WORDS = """
import logging
import ringlog
from ringlog.client import current

class Told(ringlog.MemoryTransport):
    def _append(self, submit, on_frame):
        print("stored", submit.records, flush=True)
        super()._append(submit, on_frame)

current._current = ringlog.Pipeline(Told())
logger = logging.getLogger("last words")
logger.addHandler(ringlog.LogHandler())
for number in range(3):
    logger.error("dying: %d", number)
"""


def test_what_a_program_logs_at_its_end_is_sent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    stored = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("stored")]
    assert sum(stored) == 3, done.stderr
    assert "dropped" not in done.stderr
