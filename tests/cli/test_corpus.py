from __future__ import annotations

import datetime
import re
from collections import Counter

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ringlog.cli.bench import corpus
from ringlog.records import to_record_batch
from ringlog.schema import RECORD_SCHEMA, with_position

COUNT = 70_000


@pytest.fixture(scope="module")
def records() -> pa.Table:
    return pa.Table.from_batches(corpus.batches(COUNT))


def test_the_same_seed_gives_the_same_records_and_more_begin_with_them(records: pa.Table) -> None:
    few = next(corpus.batches(1000))
    assert few.equals(records.slice(0, 1000).combine_chunks().to_batches()[0])
    assert not next(corpus.batches(1000, seed=2)).equals(few)


def test_they_are_records_of_one_day_nearly_in_order(records: pa.Table) -> None:
    assert records.schema == RECORD_SCHEMA
    assert records.num_rows == COUNT
    times = records["time_unix_nano"].to_numpy()
    assert 0 < (times[1:] < times[:-1]).mean() < 0.5
    assert abs(times[-1] - corpus.START_NS - COUNT * corpus.GAP_NS) < COUNT * corpus.GAP_NS / 20
    days = with_position(records.to_batches()[0], "s", 0)["date"].unique().to_pylist()
    assert days == [datetime.date(2026, 1, 31)]


def test_what_they_consist_of(records: pa.Table) -> None:
    assert len(corpus.SERVICES) == 16
    assert set(records["service"].unique().to_pylist()) == set(corpus.SERVICES)
    assert set(records["host"].unique().to_pylist()) == set(corpus.HOSTS)
    assert len(corpus.HOSTS) == 50
    shares = Counter(records["severity_text"].to_pylist())
    assert [level for level, _ in shares.most_common()] == ["INFO", "WARN", "DEBUG", "ERROR"]
    attributes = [orjson.loads(text) for text in records["attributes"].to_pylist()]
    assert len({one["request_id"] for one in attributes}) == COUNT
    assert all(re.fullmatch(r"[0-9a-f]{16}", one["request_id"]) and 300 <= one["pid"] < 32_768 for one in attributes)
    assert not pc.any(pc.match_substring_regex(records["body"], r"[{}\\]")).as_py()


def test_the_lines_say_the_same_in_309_bytes(records: pa.Table) -> None:
    batch = records.to_batches()[0].slice(0, 2000)
    lines = corpus.ndjson(batch)
    assert 300 < len(lines) / batch.num_rows < 320
    parsed = to_record_batch([orjson.loads(line) for line in lines.splitlines()], observed_ns=0)
    same = [name for name in RECORD_SCHEMA.names if name != "observed_timestamp"]
    assert parsed.select(same).equals(batch.select(same))
