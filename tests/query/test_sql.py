from __future__ import annotations

import datetime
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlog.errors import InvalidQuery, Unavailable
from ringlog.query import Cut, Result, Tail, run_sql, take_cut
from ringlog.storage import Flush, Table, write_segments
from seaweed import SeaweedFS
from table_rows import DAY_NS, NOON, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def cut(folder: Path) -> Cut:
    """Three days in the table, a fourth in the tail; 100 records each."""
    table = Table(str(folder / "logs"), {})
    snapshot = table.open_or_create()
    for day in range(3):
        batch = rows("s", 100 * day, 100, times=[NOON + day * DAY_NS + number for number in range(100)])
        segments = write_segments(table.objects, "s", 100 * day, [batch])
        snapshot = table.commit(snapshot, [Flush("s", 100 * day, 100 * day + 100, segments)])
    hot = rows("s", 300, 100, times=[NOON + 3 * DAY_NS] * 100, attributes=['{"loss":0.5,"step":7}'] * 100)
    return take_cut(lambda: ([Tail("s", 300, 400, (hot,))], []), table)


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("SELECT count(*) FROM logs", [(400,)]),
        ("WITH few AS (FROM logs LIMIT 3) SELECT count(*) FROM few", [(3,)]),
        ("SELECT count(*) FROM logs WHERE attributes->>'step' = '7'", [(100,)]),
        ("SELECT max((attributes->>'loss')::DOUBLE) FROM logs", [(0.5,)]),
        ("SELECT count(DISTINCT date_trunc('minute', timestamp)) FROM logs", [(4,)]),
        ("SELECT count(*) FROM logs WHERE timestamp >= TIMESTAMPTZ '2025-10-11 00:00:00+00'", [(200,)]),
    ],
)
def test_queries_over_hot_and_cold(cut: Cut, query: str, result: list[tuple[object, ...]]) -> None:
    assert run_sql(query, cut).fetchall() == result


def test_times_are_utc(cut: Cut) -> None:
    (moment,) = run_sql("SELECT min(timestamp) FROM logs", cut).fetchall()[0]
    assert moment == datetime.datetime(2025, 10, 9, 12, tzinfo=datetime.timezone.utc)
    assert run_sql("SELECT hour(min(timestamp)) FROM logs", cut).fetchall() == [(12,)]


def test_parameters(cut: Cut) -> None:
    assert run_sql("SELECT count(*) FROM logs WHERE record_offset < ?", cut, [10]).fetchall() == [(10,)]


@pytest.mark.parametrize(
    "condition",
    [
        "date = '2025-10-10'",
        "date BETWEEN '2025-10-10' AND '2025-10-11'",
        "timestamp >= '2025-10-10' AND timestamp < '2025-10-11'",
        "record_offset BETWEEN 100 AND 199",
    ],
)
def test_only_the_files_that_a_query_needs_are_read(tmp_path: Path, condition: str) -> None:
    """The records of another day are made unreadable: whoever read one would fail."""
    table = Table(str(tmp_path / "logs"), {})
    snapshot = table.open_or_create()
    for day in range(3):
        batch = rows("s", 100 * day, 100, times=[NOON + day * DAY_NS + number for number in range(100)])
        snapshot = table.commit(
            snapshot, [Flush("s", 100 * day, 100 * day + 100, write_segments(table.objects, "s", 100 * day, [batch]))]
        )
    for path in (tmp_path / "logs").glob("date=2025-10-09/*.parquet"):
        with path.open("r+b") as file:
            file.write(bytes(1000))  # its pages; the footer stays
    found = Cut(snapshot, ())
    assert run_sql(f"SELECT min(record_offset) FROM logs WHERE {condition}", found).fetchall() == [(100,)]
    with pytest.raises(Exception, match="Invalid data"):
        run_sql("SELECT count(body) FROM logs", found).fetchall()


def test_a_file_that_was_removed_meanwhile_is_said(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "logs"), {})
    segments = write_segments(table.objects, "s", 0, [rows("s", 0, 10)])
    snapshot = table.commit(table.open_or_create(), [Flush("s", 0, 10, segments)])
    table.objects.remove(segments[0].path)
    with pytest.raises(Unavailable, match="run the query again"):
        run_sql("SELECT count(*) FROM logs", Cut(snapshot, ()))


@pytest.mark.s3
@pytest.mark.parametrize("read", [lambda found: found.fetchall(), lambda found: found.limit(3).arrow(), len, str])
def test_an_object_store_that_is_away_when_rows_are_asked_for_is_said(
    seaweed: SeaweedFS, read: Callable[[Result], object]
) -> None:
    """The query was planned while it was there; a shard that could not be read is still named by what comes of it."""
    table = Table(f"s3://{seaweed.bucket}/{uuid.uuid4()}/logs", dict(seaweed.storage_options))
    segments = write_segments(table.objects, "s", 0, [rows("s", 0, 10)])
    snapshot = table.commit(table.open_or_create(), [Flush("s", 0, 10, segments)])
    found = run_sql("SELECT body FROM logs", Cut(snapshot, (), ("other",)))
    assert found.limit(3).missing == ("other",)
    table.objects.remove(segments[0].path)
    with pytest.raises(Unavailable, match="run the query again"):
        read(found)


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW logs",
        "CREATE TABLE x (a INT)",
        "INSERT INTO logs VALUES (1)",
        "COPY logs TO '/tmp/ringlog-must-not-exist'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA version",
        "SET threads = 1",
        "CALL pragma_version()",
        "EXPORT DATABASE 'x'",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW logs",
        "",
        "SELEC 1",
        "SELECT no_such_column FROM logs",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT * FROM cut",
        "SELECT * FROM glob('/*')",
    ],
)
def test_what_is_no_query_over_the_log_is_refused(cut: Cut, query: str) -> None:
    with pytest.raises(InvalidQuery):
        run_sql(query, cut).fetchall()


def test_an_error_names_the_column(cut: Cut) -> None:
    with pytest.raises(InvalidQuery, match="no_such_column"):
        run_sql("SELECT no_such_column FROM logs", cut)


def test_a_forked_child_queries_too() -> None:
    """In a process of its own: fork() is not for one with as many threads as this."""
    script = """
import os
from ringlog.query import Cut, Tail, run_sql
from seaweed import SeaweedFS
from table_rows import rows

cut = Cut(None, (Tail("s", 0, 5, (rows("s", 0, 5),)),))

def count():
    return run_sql("SELECT count(*) FROM logs", cut).fetchall()[0][0]

assert count() == 5
pid = os.fork()
if pid == 0:
    os._exit(count())
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
assert count() == 5
"""
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env={**os.environ, "PYTHONPATH": paths})
