"""Expiry by age, size, service and tenant; and a vacuum that never takes what a flush or a reader still needs."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from ringlog.errors import ConfigurationError, Conflict
from ringlog.storage import Snapshot, Table, retention
from ringlog.storage.compaction import compact
from ringlog.storage.retention import Expired, Expiry, expire, older_than, vacuum
from storage.conftest import Place
from storage.test_commit import flush, positions, racing
from table_rows import DAY_NS, NOON

TODAY = datetime.date(2025, 10, 9)


def day(number: int, count: int) -> list[int]:
    """``count`` times on the day ``number`` days before `TODAY`."""
    return [NOON - number * DAY_NS + at for at in range(count)]


def four_days(table: Table) -> Snapshot:
    """Two shards, each with a segment of ten records on each of four days; the oldest first."""
    snapshot = table.open_or_create()
    for number in range(4):
        times = day(3 - number, 10)
        snapshot = table.commit(snapshot, [flush(table, shard, number * 10, 10, times=times) for shard in "ab"])
    return snapshot


def files(table: Table) -> set[str]:
    return {path for path in table.objects.list() if path.startswith("date=")}


def paths(snapshot: Snapshot) -> set[str]:
    return {segment.path for segment in snapshot.segments()}


def test_by_age_whole_days_go_without_being_opened(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(*place)
    before = four_days(table)
    monkeypatch.setattr(retention, "read_segment", lambda *_: pytest.fail("opened a segment"))
    gone = expire(table, Expiry(before=TODAY - datetime.timedelta(days=1)))
    after = Table(*place).snapshot()
    assert (gone.records, gone.segments, gone.rewritten) == (40, 4, 0)
    assert positions(after) == {shard: list(range(20, 40)) for shard in "ab"}
    assert [(after.stored(shard), after.expired(shard)) for shard in "ab"] == [(40, 20)] * 2
    assert positions(before) == {shard: list(range(40)) for shard in "ab"}, "the reader of before has all of it"
    assert expire(table, Expiry(before=TODAY - datetime.timedelta(days=1))) == Expired()
    assert table.snapshot().version == after.version


def test_the_day_before_which_all_is_older() -> None:
    noon = NOON / 1e9
    assert older_than(0, noon) == TODAY
    assert older_than(86_400 / 2, noon) == TODAY
    assert older_than(86_400 / 2 + 1, noon) == TODAY - datetime.timedelta(days=1)
    assert older_than(30 * 86_400, noon) == datetime.date(2025, 9, 9)


def test_by_size_the_oldest_go_first(table: Table) -> None:
    before = four_days(table)
    size = sum(segment.size_bytes for segment in before.segments())
    assert expire(table, Expiry(bytes_max=size)) == Expired()
    gone = expire(table, Expiry(bytes_max=size - 1))
    assert (gone.records, gone.segments) == (10, 1)
    newest = [segment.size_bytes for segment in before.segments() if segment.date > TODAY - datetime.timedelta(days=2)]
    expire(table, Expiry(bytes_max=sum(newest)))
    assert positions(table.snapshot()) == {shard: list(range(20, 40)) for shard in "ab"}


@pytest.mark.parametrize("column", ["service", "tenant"])
def test_by_service_or_tenant_the_others_stay(place: Place, column: str) -> None:
    table = Table(*place)
    mixed = flush(table, "a", 0, 6, **{column: ["x", "y", "x", "z", "x", "y"]})
    mine = flush(table, "b", 0, 5, **{column: ["x"] * 5})
    other = flush(table, "c", 0, 4, **{column: ["w"] * 2 + ["z"] * 2})
    before = table.commit(table.open_or_create(), [mixed, mine, other])
    gone = expire(table, Expiry(**{column: "x"}))
    after = table.snapshot()
    assert (gone.records, gone.segments, gone.rewritten) == (8, 1, 1)
    assert positions(after) == {"a": [1, 3, 5], "c": [0, 1, 2, 3]}
    assert [after.expired(shard) for shard in "abc"] == [3, 5, 0]
    kept = before.delta.to_pyarrow_table().filter((pc.field("shard") == "a") & (pc.field(column) != "x"))
    left = after.delta.to_pyarrow_table().filter(pc.field("shard") == "a")
    assert left.sort_by("record_offset").equals(kept.sort_by("record_offset"))


def test_records_without_a_service_stay(table: Table) -> None:
    table.commit(table.snapshot(), [flush(table, "a", 0, 3, service=["x", None, "y"])])
    expire(table, Expiry(service="x"))
    assert positions(table.snapshot()) == {"a": [1, 2]}
    assert expire(table, Expiry(service="q")) == Expired()


def test_one_service_by_age(table: Table) -> None:
    services = ["x", "y"] * 5
    for number in range(2):
        times = day(1 - number, 10)
        table.commit(table.snapshot(), [flush(table, "a", 10 * number, 10, times=times, service=services)])
    expire(table, Expiry(before=TODAY, service="x"))
    assert positions(table.snapshot()) == {"a": [*range(1, 10, 2), *range(10, 20)]}


def test_merged_segments_of_several_shards_are_counted_by_shard(table: Table) -> None:
    four_days(table)
    compact(table, NOON / 1e9 * 2)
    assert all(segment.only("shard") is None for segment in table.snapshot().segments())
    expire(table, Expiry(before=TODAY))
    after = table.snapshot()
    assert [after.expired(shard) for shard in "ab"] == [30, 30]
    expire(table, Expiry(service="train"))
    assert [after.expired(shard) for shard in "ab"] == [30, 30], "a snapshot never changes"
    assert [table.snapshot().expired(shard) for shard in "ab"] == [40, 40]


def test_a_dry_run_says_the_same_and_changes_nothing(table: Table) -> None:
    four_days(table)
    table.commit(table.snapshot(), [flush(table, "c", 0, 4, service=["x", "y", "x", "x"])])
    before, held = table.snapshot().version, files(table)
    for expiry in (Expiry(before=TODAY), Expiry(bytes_max=10_000), Expiry(service="x")):
        said = expire(table, expiry, dry_run=True)
        assert (table.snapshot().version, files(table)) == (before, held)
        assert said.records > 0
    assert expire(table, Expiry(service="x")) == said == Expired(records=3, rewritten=1)


def test_what_names_nothing_or_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="give an age, a size, a service or a tenant"):
        Expiry()
    with pytest.raises(ConfigurationError, match="the oldest"):
        Expiry(bytes_max=1, service="x")


def test_records_that_were_only_in_journals_go_with_the_next_expiry(table: Table) -> None:
    """They were acknowledged, and are archived like all others: no archiver looks at the age."""
    four_days(table)
    old = Expiry(before=TODAY)
    expire(table, old)
    table.commit(table.snapshot(), [flush(table, "a", 40, 5, times=day(3, 5))])
    assert positions(table.snapshot())["a"] == list(range(30, 45))
    assert expire(table, old).records == 5
    after = table.snapshot()
    assert (positions(after)["a"], after.stored("a"), after.expired("a")) == (list(range(30, 40)), 45, 35)


def test_archivers_and_compaction_go_on_beside_it(place: Place) -> None:
    archiver = four_days(Table(*place))
    table = Table(*place)
    ready = flush(table, "a", 40, 5)
    expire(table, Expiry(before=TODAY))
    after = table.commit(archiver, [ready])
    assert positions(after) == {"a": list(range(30, 45)), "b": list(range(30, 40))}


def test_racing_expiries_count_each_record_once(place: Place) -> None:
    four_days(Table(*place))
    done = racing(3, lambda: expire(Table(*place), Expiry(before=TODAY)))
    assert not any(isinstance(one, Conflict) for one in done)
    after = Table(*place).snapshot()
    assert [(after.expired(shard), len(positions(after)[shard])) for shard in "ab"] == [(30, 10)] * 2


def test_a_vacuum_removes_what_compaction_and_expiry_left(place: Place) -> None:
    table = Table(*place)
    before = four_days(table)
    compact(table, NOON / 1e9 * 2)
    expire(table, Expiry(before=TODAY))
    after = table.snapshot()
    assert files(table) > paths(before) | paths(after)
    assert vacuum(table, 1) == [], "a reader may still be at it"
    assert table.snapshot().version == after.version, "and nothing is written for nothing"
    said = vacuum(table, 0, dry_run=True)
    assert files(table) > paths(before)
    assert vacuum(table, 0) == said == sorted(set(said))
    assert files(table) == paths(after)
    assert positions(Table(*place).snapshot()) == positions(after)
    assert [table.snapshot().stored(shard) for shard in "ab"] == [40, 40]


def test_what_is_old_but_was_removed_just_now_stays_for_its_readers(table: Table) -> None:
    reader = four_days(table)
    age(table, hours=100)
    compact(table, NOON / 1e9 * 2)
    assert vacuum(table, 2) == []
    assert positions(reader) == positions(table.snapshot())


def test_what_was_never_committed_goes_once_it_is_old(table: Table) -> None:
    four_days(table)
    (orphan,) = flush(table, "a", 40, 5).segments
    assert vacuum(table, 24) == []
    age(table, hours=25)
    assert vacuum(table, 24) == [orphan.path]
    assert files(table) == paths(table.snapshot())


def test_what_is_not_ours_stays(table: Table) -> None:
    four_days(table)
    for name in ("README.md", "_index/a.bin", "other/x.parquet"):
        table.objects.write(name, b"not a segment")
    age(table, hours=100)
    assert vacuum(table, 1) == []


def test_a_flush_that_was_stopped_for_longer_than_the_history_writes_its_segments_anew(place: Place) -> None:
    """It wrote them, was stopped before its commit, and comes back after a vacuum that took them."""
    table, archiver = Table(*place), Table(*place)
    before = four_days(table)
    late = flush(archiver, "a", 40, 5)
    assert vacuum(table, 0) == [segment.path for segment in late.segments]
    with pytest.raises(Conflict, match="write them anew"):
        archiver.commit(before, [late])
    after = archiver.snapshot()
    assert after.stored("a") == 40
    after = archiver.commit(after, [flush(archiver, "a", 40, 5)])
    assert positions(after)["a"] == list(range(45))


def test_a_flush_that_was_faster_than_the_vacuum_keeps_its_segments(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the files and the mark, an archiver commits what it wrote before."""
    snapshot = four_days(table)
    late = flush(table, "a", 40, 5)
    begin = table.begin_vacuum

    def overtaken() -> Snapshot:
        table.commit(snapshot, [late])
        return begin()

    monkeypatch.setattr(table, "begin_vacuum", overtaken)
    assert vacuum(table, 0) == []
    assert positions(table.snapshot())["a"] == list(range(45))


def test_a_compaction_that_was_stopped_meanwhile_does_not_commit(table: Table) -> None:
    snapshot = four_days(table)
    merged = flush(table, "a", 0, 40).segments
    whole = [segment for segment in snapshot.segments() if segment.only("shard") == "a"]
    vacuum(table, 0)
    with pytest.raises(Conflict):
        table.replace(snapshot, whole, merged)
    assert positions(table.snapshot()) == positions(snapshot)


STOPPED = """
import sys
from table_rows import rows
from ringlog.errors import Conflict
from ringlog.storage import Flush, Table, write_segments

table = Table(sys.argv[1], {})
snapshot = table.snapshot()
segments = write_segments(table.objects, "a", 40, [rows("a", 40, 5)])
print(segments[0].path, flush=True)
sys.stdin.readline()
try:
    table.commit(snapshot, [Flush("a", 40, 45, segments)])
except Conflict:
    snapshot = table.snapshot()
    segments = write_segments(table.objects, "a", 40, [rows("a", 40, 5)])
    table.commit(snapshot, [Flush("a", 40, 45, segments)])
"""


def test_an_archiver_of_another_process_that_was_stopped(table: Table) -> None:
    four_days(table)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", STOPPED, table.url], **pipes) as archiver:
        path = archiver.stdout.readline().strip()
        assert vacuum(table, 1) == [], "its segment is young"
        assert vacuum(table, 0) == [path], "and with no history at all, it is taken"
        assert archiver.communicate("go on\n", timeout=60) == ("", None)
    assert archiver.returncode == 0
    after = table.snapshot()
    assert (after.stored("a"), positions(after)["a"]) == (45, list(range(45)))
    assert files(table) == paths(after)


def test_a_history_is_kept_as_long_as_wished(table: Table) -> None:
    assert table.snapshot().history_hours == 24
    version = table.keep_history(48).version
    assert table.keep_history(48).version == version
    assert table.snapshot().history_hours == 48
    configuration = table.snapshot().delta.metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 48 hours"
    assert configuration["delta.deletedFileRetentionDuration"] == "interval 48 hours"


def test_the_log_is_cleaned_by_the_vacuum_and_not_by_every_commit(table: Table) -> None:
    four_days(table).delta.create_checkpoint()
    age(table, hours=30)
    table.commit(table.snapshot(), [flush(table, "a", 40, 5)])
    log = Path(table.url) / "_delta_log"
    assert len(list(log.glob("*.json"))) == 6
    vacuum(table, 24)
    assert sorted(path.name for path in log.glob("*.json")) == [f"{4:020d}.json", f"{5:020d}.json"]
    after = Table(table.url, {}).open_or_create()
    assert [after.stored(shard) for shard in "ab"] == [45, 40]
    assert positions(after)["a"] == list(range(45))


def age(table: Table, hours: float) -> None:
    """Let every file of a local table be ``hours`` older."""
    for path in Path(table.url).rglob("*"):
        then = path.stat().st_mtime - 3600 * hours
        os.utime(path, (then, then))
