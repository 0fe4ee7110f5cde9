"""`ringlog compact, expire, vacuum, verify`: on a real table, with no cluster at all."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ringlog.cli import app
from ringlog.errors import ConfigurationError
from ringlog.metadata import open_store
from ringlog.metadata.records import PIPELINE_KEY
from ringlog.replication import Discard, Replace, Write
from ringlog.storage import Table
from seaweed import SeaweedFS
from storage.test_commit import flush, positions
from storage.test_journal import SHARD, entry, entry_files, killed, opened, written
from storage.test_retention import age
from table_rows import DAY_NS


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root in the settings whose table has two segments of a service on each of three days, the newest today."""
    monkeypatch.setenv("RINGLOG_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("RINGLOG_JOURNAL_DIR", str(tmp_path / "journals"))
    table = table_of(str(tmp_path / "root"))
    fill(table, today(monkeypatch))
    return str(tmp_path / "root")


def table_of(root: str, **options: Any) -> Table:
    return Table(f"{root}/logs", options)


def today(monkeypatch: pytest.MonkeyPatch) -> int:
    """When this day began, in nanoseconds; for the commands it stays this day."""
    now_s = time.time()
    monkeypatch.setattr("ringlog.cli.maintain.time", SimpleNamespace(time=lambda: now_s))
    return int(now_s) * 10**9 // DAY_NS * DAY_NS


def fill(table: Table, midnight: int) -> None:
    table.open_or_create()
    for number in range(6):
        times = [midnight - (number // 2) * DAY_NS + at for at in range(10)]
        services = [f"service-{number % 2}"] * 10
        table.commit(table.snapshot(), [flush(table, "a", 10 * number, 10, times=times, service=services)])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(*arguments: str, exit_code: int = 0) -> dict[str, Any]:
    """The one JSON object that the command writes."""
    result = run(*arguments, "--json")
    assert result.exit_code == exit_code, (result.output, result.exception)
    found: dict[str, Any] = orjson.loads(result.stdout)
    return found


def old(root: str) -> None:
    """Nothing was added for long, so that days that are over are calm."""
    for commit in Path(root, "logs", "_delta_log").glob("*.json"):
        lines = [orjson.loads(line) for line in commit.read_bytes().splitlines()]
        for line in lines:
            if "add" in line:
                line["add"]["modificationTime"] -= 10**8
        commit.write_bytes(b"\n".join(orjson.dumps(line) for line in lines))


def test_compact(root: str) -> None:
    old(root)
    before = table_of(root).snapshot()
    would = said("compact", "--dry-run")
    assert (would["would_merge"], would["would_write"]) == (4, 2)
    assert table_of(root).snapshot().version == before.version
    done = said("compact")
    assert (done["merged"], done["written"], done["segments"], done["broken"]) == (4, 2, 4, [])
    assert positions(table_of(root).snapshot()) == positions(before)
    assert "merged 0 segments into 0; the table has 4 now" in run("compact").stdout


def test_compact_says_what_does_not_read_back(root: str) -> None:
    old(root)
    table = table_of(root)
    broken = min(table.snapshot().segments(), key=lambda segment: segment.date)
    table.objects.write(broken.path, b"not Parquet")
    result = run("compact")
    assert result.exit_code == 1
    assert f"left as it is: {broken.path}" in result.stdout


def test_expire_by_age(root: str) -> None:
    would = said("expire", "--days", "1", "--dry-run")
    assert (would["records"], would["segments"], would["dry_run"]) == (20, 2, True)
    assert said("expire", "--days", "1") == {**would, "dry_run": False}
    assert positions(table_of(root).snapshot()) == {"a": list(range(40))}
    assert "0 records expired" in run("expire", "--days", "1").stdout


def test_expire_by_service_and_by_size(root: str) -> None:
    assert said("expire", "--service", "service-1", "--days", "0")["records"] == 20
    assert said("expire", "--bytes", "1KiB")["records"] == 40
    assert table_of(root).snapshot().segments() == []


def test_expire_by_the_settings(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("expire")
    assert isinstance(result.exception, ConfigurationError)
    assert "neither retention_days nor retention_bytes is set" in str(result.exception)
    monkeypatch.setenv("RINGLOG_RETENTION_DAYS", "1")
    assert said("expire")["records"] == 20


@pytest.mark.parametrize(("given", "reason"), [("much", "'much' is no size"), ("1GB", "the oldest")])
def test_expire_refuses_what_makes_no_sense(root: str, given: str, reason: str) -> None:
    result = run("expire", "--bytes", given, *(["--service", "x"] if given == "1GB" else []))
    assert isinstance(result.exception, ConfigurationError)
    assert reason in str(result.exception)


def test_vacuum(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLOG_HISTORY_HOURS", "2")
    table = table_of(root)
    (orphan,) = flush(table, "a", 60, 5).segments
    assert said("vacuum") == {"dry_run": False, "files": [], "history_hours": 2}
    age(table, hours=3)
    assert said("vacuum", "--dry-run")["files"] == [orphan.path]
    assert table.objects.exists(orphan.path)
    assert "1 files removed" in run("vacuum").stdout
    assert not table.objects.exists(orphan.path)


def test_verify_where_all_is_well(root: str) -> None:
    written(Path(root).parent / "journals" / "some-pipeline" / "actor" / SHARD, 3)
    found = said("verify")
    assert (found["ok"], found["problems"], found["shards"]) == (True, [], {"a": 60})
    assert (found["segments"], found["records"], found["journals"]) == (6, 60, 1)
    assert "all is well" in run("verify").stdout


def test_verify_names_what_is_wrong_and_where(root: str) -> None:
    table = table_of(root)
    segment = next(one for one in table.snapshot().segments() if one.bounds["record_offset"][0] == 20)
    table.objects.remove(segment.path)
    folder = Path(root).parent / "journals" / "some-pipeline" / "actor" / SHARD
    written(folder, 3)
    (file,) = entry_files(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    gone, torn = said("verify", exit_code=1)["problems"]
    assert (gone["what"], gone["file"], gone["shard"]) == ("the segment is gone", segment.path, "a")
    assert (gone["start"], gone["end"]) == (20, 30)
    assert (torn["file"], torn["shard"]) == (str(folder), SHARD)
    result = run("verify")
    assert result.exit_code == 1
    assert f"{segment.path}, a [20, 30): the segment is gone" in result.stdout
    assert "2 problems" in result.stdout


def test_verify_holds_the_journals_of_this_root_to_its_table(root: str) -> None:
    """A journal that begins at 20, of a shard of which the table has nothing; other pipelines' are not looked at."""
    journals = Path(root).parent / "journals"
    open_store(root, {}).compare_and_set(PIPELINE_KEY, orjson.dumps({"id": "mine", "shards": 3}), 0)
    trimmed(journals / "mine" / "actor" / SHARD)
    trimmed(journals / "other" / "actor" / SHARD)
    found = said("verify", exit_code=1)
    assert found["journals"] == 1
    (problem,) = found["problems"]
    assert (problem["file"], problem["start"], problem["end"]) == (str(journals / "mine" / "actor" / SHARD), 0, 20)


def trimmed(folder: Path) -> None:
    journal = opened(folder)
    journal.apply([Replace(1, 1, 0, ((1, 0),), {}, ()), Write((entry(0), entry(1)))])
    journal.apply([Discard(20, ((1, 0),), {})])
    killed(journal)


def test_where_there_is_no_table(tmp_path: Path) -> None:
    for command in (["compact"], ["expire", "--days", "1"], ["vacuum"], ["verify", "--journal-dir", str(tmp_path)]):
        result = run(*command, "--root", str(tmp_path / "nowhere"))
        assert isinstance(result.exception, ConfigurationError)
        assert "there is no table" in str(result.exception)


@pytest.mark.s3
def test_on_s3(seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RINGLOG_ROOT", seaweed.root("maintain"))
    monkeypatch.setenv("RINGLOG_JOURNAL_DIR", str(tmp_path))
    fill(table_of(seaweed.root("maintain"), **seaweed.storage_options), today(monkeypatch))
    assert said("expire", "--days", "1")["records"] == 20
    assert said("compact")["segments"] == 4
    assert said("vacuum")["files"] == []
    assert said("verify")["records"] == 40
