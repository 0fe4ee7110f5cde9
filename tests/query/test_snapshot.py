from __future__ import annotations

from pathlib import Path

import pytest

from ringlog.errors import ConfigurationError, CorruptionError
from ringlog.query import Cut, Tail, read_table, run_sql, take_cut
from ringlog.storage import Flush, Table, write_segments
from table_rows import rows


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = Table(str(tmp_path / "logs"), {})
    made.open_or_create()
    return made


def flush(table: Table, shard: str, start: int, end: int) -> None:
    snapshot = table.snapshot()
    segments = write_segments(table.objects, shard, start, [rows(shard, start, end - start)])
    table.commit(snapshot, [Flush(shard, start, end, segments)])


def tail(shard: str, base: int, committed: int, step: int = 7) -> Tail:
    batches = [rows(shard, start, min(step, committed - start)) for start in range(base, committed, step)]
    return Tail(shard, base, committed, tuple(batches))


def offsets(cut: Cut, shard: str = "shard-0") -> list[int]:
    found = run_sql("SELECT record_offset FROM logs WHERE shard = ? ORDER BY 1", cut, [shard]).fetchall()
    return [offset for (offset,) in found]


def test_a_flush_between_the_reads_shows_nothing_twice_and_misses_nothing(table: Table) -> None:
    flush(table, "shard-0", 0, 20)

    def tails() -> tuple[list[Tail], list[str]]:
        hot = [tail("shard-0", 20, 50)]
        flush(table, "shard-0", 20, 40)  # right after the leader has answered
        return hot, []

    assert offsets(take_cut(tails, table)) == list(range(50))


def test_read_the_other_way_round_there_would_be_a_hole(table: Table) -> None:
    """Why the order is what it is: the table first, then the tail of a leader that has flushed meanwhile."""
    before = table.snapshot()
    flush(table, "shard-0", 0, 20)
    with pytest.raises(CorruptionError, match=r"SL-7: a read of shard-0 lacks \[0\]"):
        Cut(before, (tail("shard-0", 20, 50),)).hot()


@pytest.mark.parametrize("stored", [0, 1, 7, 13, 14, 30])
def test_what_is_stored_is_dropped_from_the_tail_wherever_a_batch_is_cut(table: Table, stored: int) -> None:
    if stored:
        flush(table, "shard-0", 0, stored)
    cut = take_cut(lambda: ([tail("shard-0", 0, 30)], []), table)
    assert offsets(cut) == list(range(30))
    assert cut.hot().num_rows == 30 - stored


def test_shards_do_not_mix(table: Table) -> None:
    flush(table, "shard-0", 0, 10)
    cut = take_cut(lambda: ([tail("shard-0", 0, 10), tail("shard-1", 0, 5)], ["shard-2"]), table)
    assert (offsets(cut), offsets(cut, "shard-1")) == (list(range(10)), list(range(5)))
    assert cut.missing == ("shard-2",)
    assert run_sql("SELECT 1 FROM logs", cut).missing == ("shard-2",)


def test_before_there_is_a_table_only_the_tails_count(tmp_path: Path) -> None:
    nowhere = Table(str(tmp_path / "nothing"), {})
    assert offsets(take_cut(lambda: ([tail("shard-0", 0, 5)], []), nowhere)) == list(range(5))
    empty = take_cut(lambda: ([], []), nowhere)
    assert run_sql("SELECT count(body), count(date) FROM logs", empty).fetchall() == [(0, 0)]


def test_a_table_is_read_with_no_cluster_at_all(table: Table, tmp_path: Path) -> None:
    flush(table, "shard-0", 0, 10)
    assert offsets(read_table(table.url, {})) == list(range(10))
    with pytest.raises(ConfigurationError, match="there is no table"):
        read_table(str(tmp_path / "nothing"), {})


def test_results_become_arrow_pandas_and_polars(table: Table) -> None:
    flush(table, "shard-0", 0, 10)
    cut = take_cut(lambda: ([tail("shard-0", 0, 15)], []), table)
    result = run_sql("SELECT * FROM logs ORDER BY record_offset", cut)
    assert result.arrow()["record_offset"].to_pylist() == list(range(15))
    assert result.df()["record_offset"].tolist() == list(range(15))
    assert result.pl()["record_offset"].to_list() == list(range(15))
    assert len(result) == 15
    assert result.limit(3).fetchall() == result.fetchall()[:3]
    assert "shard-0 says 0" in repr(run_sql("SELECT body FROM logs ORDER BY record_offset", cut))
