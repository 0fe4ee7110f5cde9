"""What `ringlog up` says of a root that was used before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ringlog
from cli.test_status import FORBIDDEN, LOST, SHOWN_FORBIDDEN, WAITS, found, shard, shown
from ringlog.cli import app, operate
from ringlog.cli.operate import recovered, waiting
from ringlog.errors import Unavailable
from ringlog.storage import Flush, Snapshot, Table, write_segments
from table_rows import rows


def stored(folder: Path, records: int) -> Snapshot:
    """A table that holds the first ``records`` of shard-0."""
    table = Table(str(folder / "logs"), {})
    segments = write_segments(table.objects, "shard-0", 0, [rows("shard-0", 0, records)])
    return table.commit(table.open_or_create(), [Flush("shard-0", 0, records, segments)])


def test_what_only_the_journals_had_is_said_also_where_it_was_archived_meanwhile(tmp_path: Path) -> None:
    shards = {
        "shard-0": shard(begun=1200, archived=900, held_bytes=2_000_000),
        "shard-1": shard(begun=34, archived=0, held_bytes=500_000),
        "shard-2": LOST,
    }
    assert shown(*recovered(shards, stored(tmp_path, 200))) == (
        "recovered 2 of 3 shards, with 1,034 records that only the journals had; "
        "2.5 MB still wait there and go to the table by themselves\n"
    )
    assert "with 1,234 records" in shown(*recovered(shards, None))


def test_where_the_table_has_everything_that_is_said(tmp_path: Path) -> None:
    text = shown(*recovered({"shard-0": shard(begun=200)}, stored(tmp_path, 200)))
    assert text == "recovered 1 of 1 shards: the table has all that the journals had\n"


def test_a_new_root_has_nothing_to_recover() -> None:
    assert shown(*recovered({"shard-0": shard(epoch=1, begun=0)}, None)) == ""
    late = {"shard-0": shard(epoch=1, begun=0), "shard-1": shard(epoch=2, begun=0)}
    assert shown(*recovered(late, None)) == "", "its first epoch was claimed and did not open"


def test_a_shard_that_began_with_nothing_is_counted_among_those_that_did_not() -> None:
    text = shown(*recovered({"shard-0": shard(begun=20), "shard-1": shard(begun=0)}, None))
    assert text.startswith("recovered 2 of 2 shards, with 20 records that only the journals had")


def test_what_is_not_complete_is_explained_with_the_command_that_would_accept_the_loss() -> None:
    text = shown(*waiting(found(shard_0=LOST, shard_1=shard())))
    assert "shard-0 is UNAVAILABLE" in text
    assert "ringlog recover --accept-loss shard-0" in text
    assert "shard-1 is" not in text


def test_what_keeps_the_controller_from_its_part_is_said_also_where_all_is_complete() -> None:
    hindered = found(plan_trouble=FORBIDDEN, away={"shard-2": WAITS}, shard_0=shard())
    assert shown(*waiting(hindered)).splitlines() == [
        f"whether there should be other shards by now is not known: {SHOWN_FORBIDDEN}",
        f"shard-2: {WAITS}",
    ]


def up(root: Path, status: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """`ringlog up` that gets no leaders: what it prints, and how it fails."""

    class Running:
        def status(self) -> dict[str, Any]:
            return status

    def start(*_: Any, **__: Any) -> None:
        raise Unavailable("not led after 60 s")

    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(operate.cluster, "join_ray", lambda **_: None)
    monkeypatch.setattr(operate.cluster, "connect", Running)
    monkeypatch.setattr(ringlog, "start", start)
    done = CliRunner().invoke(app, ["up", "--root", str(root)])
    assert (done.exit_code, type(done.exception)) == (1, Unavailable)
    return done.stderr, str(done.exception)


def test_nobody_is_told_to_wait_for_what_needs_him(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, error = up(tmp_path, found(shard_0=LOST), monkeypatch)
    assert "shard-1: its shard actor does not answer" in printed
    assert "opens the others by itself; look again with `ringlog recover`" in error
    printed, error = up(tmp_path, found(shard_0=LOST, away={"shard-1": WAITS}), monkeypatch)
    assert f"  {WAITS} (journal b-journal)" in printed
    assert "opens the others once that is seen to; look again with `ringlog recover`" in error
    printed, error = up(tmp_path, found(plan_trouble=FORBIDDEN), monkeypatch)
    assert f"which shards there should be is not known: {SHOWN_FORBIDDEN}" in printed
    assert "by itself" not in error
