"""Buffers that are full: callers hear of it, nothing grows without limit, and what a handler drops is counted and said."""

from __future__ import annotations

import logging

import pytest

import ringlog
from ringlog.client.transport import MemoryTransport
from ringlog.routing import Routes
from ringlog.settings import Settings


class Leaderless(MemoryTransport):
    """No shard has a leader: what is submitted waits."""

    def routes(self, key_bytes: object, known: int = -1, wait_s: float = 0.0) -> Routes:
        return Routes(0, ("shard-0",), {})


def small(**bounds: int) -> Settings:
    """One record to a batch: how many of them go together is a matter of time."""
    return Settings(shards=1, replicas=1, submit_timeout_s=3, batch_rows_max=1, **bounds)


def test_a_process_holds_no_more_than_it_may_and_its_caller_is_told() -> None:
    with ringlog.Pipeline(Leaderless(small(client_buffer_bytes_max=10_000))) as pipeline:
        first = pipeline.submit_logs({"body": "x" * 9_000}, wait=False)
        with pytest.raises(ringlog.Overloaded, match="submit less, or raise client_buffer_bytes_max"):
            pipeline.submit_logs({"body": "y" * 9_000}, timeout_s=0.1)
        with pytest.raises(ringlog.Unavailable):
            first.result(30)


def test_a_shard_that_is_full_takes_no_more_and_its_callers_are_told_when_to_come_back() -> None:
    with ringlog.Pipeline(MemoryTransport(small(shard_buffer_bytes_max=20_000))) as pipeline:
        answers = [pipeline.submit_logs({"body": "x" * 4_000}, wait=False) for _ in range(20)]
        refused = [error for answer in answers if (error := answer.exception(30)) is not None]
        assert 0 < len(refused) < 20
        assert {type(error) for error in refused} == {ringlog.Overloaded}
        assert all(error.retry_after_s > 0 for error in refused if isinstance(error, ringlog.Overloaded))
        stored = pipeline.sql("SELECT count(*) FROM logs").fetchall()
        assert stored == [(20 - len(refused),)], "what was refused is not there"


def test_a_handler_that_cannot_keep_up_drops_counts_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("test_full")
    logger.propagate = False
    with ringlog.Pipeline(MemoryTransport(small(shard_buffer_bytes_max=20_000))) as pipeline:
        pipeline.submit_logs({"body": "x" * 15_000})
        handler = ringlog.LogHandler("busy", pipeline=pipeline, queue_max=50)
        logger.addHandler(handler)
        try:
            for number in range(500):
                logger.warning("%s %s", number, "y" * 4_000)
            handler.flush()
        finally:
            logger.removeHandler(handler)
        ((stored,),) = pipeline.sql("SELECT count(*) FROM logs WHERE service = 'busy'").fetchall()
        assert handler.dropped > 0
        assert stored + handler.dropped == 500
    said = capsys.readouterr().err
    assert said.count("ringlog: dropped") == 1
