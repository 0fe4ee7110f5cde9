"""Housekeeping on a real local table: what it does, when it is due again, and what it does not hold up."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from ringlog.actors import housekeeping
from ringlog.actors.housekeeping import CLEAN_EVERY_S, COMPACT_EVERY_S, RETRY_S, Housekeeping
from ringlog.errors import Unavailable
from ringlog.schema import Promoted
from ringlog.settings import Settings
from ringlog.storage import Table
from ringlog.storage.compaction import Compacted
from ringlog.storage.contents import unpromoted
from ringlog.storage.evolution import promote
from storage.test_commit import flush, positions
from table_rows import DAY_NS, NOON

NOW_S = NOON / 1e9
FAR_S = 2 * NOW_S
"""So late that every day is over, and calm: segments say in this century when they were written."""


def made(tmp_path: Path, **chosen: Any) -> tuple[Table, Housekeeping]:
    settings = Settings(root=str(tmp_path), **chosen)
    table = Table(settings.table_url, {})
    return table, Housekeeping(table, settings)


def filled(table: Table, days: int) -> None:
    """Two segments on each of the last ``days`` days."""
    table.open_or_create()
    for number in range(2 * days):
        times = [NOON - (number // 2) * DAY_NS + at for at in range(10)]
        table.commit(table.snapshot(), [flush(table, "a", 10 * number, 10, times=times)])


def files(table: Table) -> int:
    return sum(path.startswith("date=") for path in table.objects.list())


def test_nothing_is_made_where_nothing_was_archived_yet(tmp_path: Path) -> None:
    table, keeper = made(tmp_path)
    assert keeper.due(0.0)
    keeper.run(NOW_S)
    assert table.find() is None
    assert (keeper.trouble, keeper.due(NOW_S), keeper.due(NOW_S + RETRY_S)) == (None, False, True)


def test_small_segments_are_merged_and_the_next_time_is_later(tmp_path: Path) -> None:
    table, keeper = made(tmp_path)
    filled(table, 3)
    keeper.run(FAR_S)
    assert len(table.snapshot().segments()) == 3
    assert positions(table.snapshot()) == {"a": list(range(60))}
    assert files(table) == 9, "the history keeps what was merged"
    assert (keeper.trouble, keeper.due(FAR_S + COMPACT_EVERY_S - 1)) == (None, False)
    assert keeper.due(FAR_S + 2 * COMPACT_EVERY_S)


def test_the_settings_columns_are_made_before_anything_is_merged(tmp_path: Path) -> None:
    table, keeper = made(tmp_path, promote=["loss number", "request_id"])
    filled(table, 3)
    keeper.run(FAR_S)
    after = table.snapshot()
    assert after.promoted == (Promoted("loss", "number"), Promoted("request_id"))
    assert unpromoted(after.delta, after.promoted) == {}, "all was merged"
    assert keeper.trouble is None


def test_what_cannot_be_promoted_is_said_and_holds_up_nothing(tmp_path: Path) -> None:
    table, keeper = made(tmp_path, promote=["loss", "request_id"])
    filled(table, 3)
    promote(table, table.snapshot(), [Promoted("loss", "number")])
    keeper.run(FAR_S)
    assert table.snapshot().promoted == (Promoted("loss", "number"), Promoted("request_id"))
    assert len(table.snapshot().segments()) == 3
    assert "setting promote can be done: loss cannot be promoted as string" in (keeper.trouble or "")


def test_what_is_old_expires_and_the_history_is_as_wished(tmp_path: Path) -> None:
    table, keeper = made(tmp_path, retention_days=1, history_hours=48)
    filled(table, 4)
    keeper.run(NOW_S)
    after = table.snapshot()
    assert {segment.date for segment in after.segments()} == {datetime.date(2025, 10, 9), datetime.date(2025, 10, 8)}
    assert (after.expired("a"), after.history_hours) == (40, 48)


def test_what_is_more_than_wished_expires(tmp_path: Path) -> None:
    table, keeper = made(tmp_path, retention_bytes=1)
    filled(table, 2)
    keeper.run(NOW_S)
    assert table.snapshot().segments() == []
    assert (table.snapshot().stored("a"), table.snapshot().expired("a")) == (40, 40)


def test_cleaning_has_its_own_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, keeper = made(tmp_path)
    filled(table, 1)
    vacuums: list[int] = []
    monkeypatch.setattr(housekeeping, "vacuum", lambda _, hours: vacuums.append(hours))
    for later in (0.0, COMPACT_EVERY_S, CLEAN_EVERY_S - 1):
        keeper.run(NOW_S + later)
    assert vacuums == [24]
    keeper.run(NOW_S + CLEAN_EVERY_S)
    assert vacuums == [24, 24]


def test_where_more_is_left_than_one_run_may_do_the_next_comes_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, keeper = made(tmp_path)
    filled(table, 4)
    merge = 2 * max(segment.size_bytes for segment in table.snapshot().segments())
    monkeypatch.setattr(housekeeping, "TARGET_BYTES", merge)
    monkeypatch.setattr(housekeeping, "COMPACT_BYTES_MAX", 2 * merge)
    keeper.run(FAR_S)
    assert len(table.snapshot().segments()) == 6, "two of four days"
    assert keeper.due(FAR_S + COMPACT_EVERY_S - 1)


def test_a_store_that_is_away_is_trouble_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, keeper = made(tmp_path)
    filled(table, 1)

    def away(*_: Any) -> Compacted:
        raise Unavailable("the bucket is away")

    with monkeypatch.context() as outage:
        outage.setattr(housekeeping, "compact", away)
        keeper.run(FAR_S)
    assert keeper.trouble == "Unavailable: the bucket is away"
    assert (keeper.due(FAR_S + RETRY_S - 1), keeper.due(FAR_S + RETRY_S)) == (False, True)
    keeper.run(FAR_S + RETRY_S)
    assert (keeper.trouble, len(table.snapshot().segments())) == (None, 1)


def test_a_broken_segment_is_trouble_and_the_others_are_merged(tmp_path: Path) -> None:
    table, keeper = made(tmp_path)
    filled(table, 2)
    broken = table.snapshot().segments()[0].path
    table.objects.write(broken, b"not Parquet")
    keeper.run(FAR_S)
    assert keeper.trouble is not None
    assert broken in keeper.trouble
    assert len(table.snapshot().segments()) == 3
