"""A running pipeline whose table gets columns: one with its settings, one by a command, under submits and flushes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ringlog
from conftest import local_ray
from ringlog.cli import app
from ringlog.storage import Table
from ringlog.storage.contents import unpromoted

pytestmark = pytest.mark.cluster


@pytest.fixture
def root(tmp_path: Path) -> Iterator[str]:
    with local_ray():
        ringlog.start(
            str(tmp_path / "root"), journal_dir=str(tmp_path / "journals"), promote=["request_id"], flush_age_s=0.5
        )
        yield str(tmp_path / "root")
        ringlog.stop()


def submit(start: int, count: int) -> None:
    records = [{"body": "x", "request_id": f"request-{n}", "loss": n / 2} for n in range(start, start + count)]
    ringlog.submit_logs(records, service=f"service-{start % 7}")


def test_columns_come_while_records_do(root: str) -> None:
    submit(0, 50)
    held = "SELECT count(*), count(request_id) FROM logs"
    assert ringlog.sql(held).fetchall() == [(50, 50)], "before anything is archived"
    ended = threading.Event()
    submitted = 50

    def go_on() -> None:
        nonlocal submitted
        while not ended.is_set():
            submit(submitted, 50)
            submitted += 50

    going = threading.Thread(target=go_on)
    going.start()
    try:
        table = Table(f"{root}/logs", {})
        while (snapshot := table.find()) is None or snapshot.version < 3:
            assert not ended.wait(0.1)
        promoted = CliRunner().invoke(app, ["schema", "--root", root, "--promote", "loss number"])
        assert promoted.exit_code == 0, promoted.output
        added = table.snapshot().version
        while table.snapshot().version < added + 3:
            assert not ended.wait(0.1)
            query = (
                "SELECT count(*), count(request_id), count(loss), count(*) FILTER (attributes LIKE '%loss%') FROM logs"
            )
            assert len(set(ringlog.sql(query).fetchall()[0])) == 1, "every record has its columns in every cut"
    finally:
        ended.set()
        going.join()
    ringlog.flush()
    assert ringlog.sql("SELECT count(DISTINCT request_id), sum(loss) FROM logs").fetchall() == [
        (submitted, sum(range(submitted)) / 2)
    ]
    found = ringlog.search(attributes={"loss": 10.5}).arrow()
    assert found.select(["request_id", "loss"]).to_pylist() == [{"request_id": "request-21", "loss": 10.5}]
    snapshot = table.snapshot()
    lacking = {one.name for missing in unpromoted(snapshot.delta, snapshot.promoted).values() for one in missing}
    assert lacking <= {"loss", "request_id"}, "they were written before, and are not merged yet"
    assert any(segment.bounds.get("loss", (None,))[0] is not None for segment in snapshot.segments())
