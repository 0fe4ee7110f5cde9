"""The jobs that keep a table small, as scripts of their own, on a root that is named."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringlog.storage import Table
from storage.test_commit import flush, positions
from storage.test_retention import age
from table_rows import DAY_NS

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Ten segments of today, and two of a week ago."""
    table = Table(str(tmp_path / "root" / "logs"), {})
    table.open_or_create()
    now = time.time_ns()
    for number in range(12):
        times = [now - (7 * DAY_NS if number < 2 else 0) for _ in range(10)]
        table.commit(table.snapshot(), [flush(table, "a", 10 * number, 10, times=times)])
    return table


def run(job: str, table: Table, *arguments: str) -> str:
    command = [sys.executable, str(JOBS / job), "--root", str(Path(table.url).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compact(table: Table) -> None:
    age(table, hours=30)
    (orphan,) = flush(table, "a", 120, 5).segments
    assert run("compact.py", table) == "merged 10 segments into 1\n3 segments; 0 files removed\n"
    assert positions(table.snapshot()) == {"a": list(range(120))}
    age(table, hours=30)
    assert run("compact.py", table) == "3 segments; 1 files removed\n"
    assert not table.objects.exists(orphan.path)


def test_expire(table: Table) -> None:
    assert run("expire.py", table, "--days", "3", "--dry-run") == "20 records would expire\n"
    assert run("expire.py", table, "--days", "3") == "20 records expired\n"
    assert positions(table.snapshot()) == {"a": list(range(20, 120))}
