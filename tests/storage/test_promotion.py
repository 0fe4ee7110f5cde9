"""Promoted columns: what becomes of a value, and a table that gets a column while it is written, merged and read."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from ringlog.errors import ConfigurationError
from ringlog.query import Cut, Filter, Tail, run_search, run_sql
from ringlog.schema import Promoted
from ringlog.storage import Flush, Snapshot, Table, write_segments
from ringlog.storage.commit import STATISTICS_KEY
from ringlog.storage.compaction import compact
from ringlog.storage.contents import unpromoted
from ringlog.storage.evolution import promote
from ringlog.storage.promotion import since, with_promoted
from ringlog.storage.retention import Expiry, expire
from storage.conftest import Place
from storage.test_commit import positions, racing
from storage.test_compaction import LATER_S
from table_rows import rows

STATUS = Promoted("http.status_code", "integer")
REQUEST = Promoted("request_id")
NOW = datetime.datetime(2025, 10, 9, 12, 10, tzinfo=datetime.timezone.utc)

ALL = 'SELECT "http.status_code" FROM logs ORDER BY shard, record_offset'


def made(kind: str, *attributes: str | None) -> list[Any]:
    """What a column ``a.b`` of ``kind`` holds for each of ``attributes``."""
    table = with_promoted(pa.table({"attributes": pa.array(attributes, pa.string())}), [Promoted("a.b", kind)])
    found: list[Any] = table["a.b"].to_pylist()
    return found


def value(text: str) -> str:
    return f'{{"other":"x","a.b":{text}}}'


STRANGE = (None, "", "no JSON", "[1]", "{}", '{"a":{"b":1}}', value("null"), value("NaN"))


def test_a_string_column_holds_whatever_there_is() -> None:
    given = ['"x"', '""', "200", "2.5", "true", '{"c":[1,2]}', '"é\\n"', "18446744073709551615"]
    assert made("string", *map(value, given)) == [
        "x", "", "200", "2.5", "true", '{"c":[1,2]}', "é\n", "18446744073709551615",
    ]  # fmt: skip
    assert made("string", *STRANGE) == [None] * 7 + ["NaN"]


@pytest.mark.parametrize(
    ("kind", "given", "held"),
    [
        ("integer", ["200", '"200"', "-7", "2.0", str(2**63 - 1)], [200, 200, -7, 2, 2**63 - 1]),
        ("integer", ["2.5", '"x"', "true", str(2**63), '"1_000"', '" 5"', '""', "[1]"], [None] * 8),
        ("number", ["1", "0.1", '"-2.5"', "1e3", "1e-7"], [1.0, 0.1, -2.5, 1000.0, 1e-7]),
        ("number", ['"NaN"', '"Infinity"', "1e400", '"x"', "false", '"1_000"', "{}"], [None] * 7),
        ("boolean", ["true", "false", '"true"'], [True, False, True]),
        ("boolean", ["1", "0", '"yes"', '""', "[true]"], [None] * 5),
    ],
)
def test_a_typed_column_holds_what_is_of_its_type(kind: str, given: list[str], held: list[Any]) -> None:
    assert made(kind, *map(value, given)) == held
    assert made(kind, *STRANGE) == [None] * len(STRANGE)


@pytest.mark.parametrize("name", ["a-b", "a/b", "a:b", "a@b", "$a", "ünï", "a.b.c", "1"])
def test_any_such_name(table: Table, name: str) -> None:
    snapshot = promote(table, table.snapshot(), [Promoted(name, "integer")])
    batch = rows("s", 0, 2, attributes=[orjson.dumps({name: 5}).decode(), None])
    snapshot = written(table, snapshot, "s", batch)
    assert unpromoted(snapshot.delta, snapshot.promoted) == {}
    assert snapshot.segments()[0].bounds[name] == (5, 5)
    column = pl.read_delta(table.url)[name]
    assert sorted(column.to_list(), key=str) == [5, None]
    assert run_sql(f'SELECT count("{name}") FROM logs', Cut(snapshot, ())).fetchall() == [(1,)]


def attributes(start: int, count: int) -> list[str]:
    return [f'{{"http.status_code":{200 + n},"request_id":"request-{n:08}"}}' for n in range(start, start + count)]


def batch_of(shard: str, start: int, count: int = 10, **columns: Any) -> pa.RecordBatch:
    return rows(shard, start, count, **{"attributes": attributes(start, count), **columns})


def written(table: Table, snapshot: Snapshot, shard: str, batch: pa.RecordBatch) -> Snapshot:
    """What an archiver does, with the columns of ``snapshot``."""
    start = batch["record_offset"][0].as_py()
    segments = write_segments(table.objects, shard, start, [batch], snapshot.promoted)
    return table.commit(snapshot, [Flush(shard, start, start + batch.num_rows, segments)])


def values(snapshot: Snapshot | None, *tails: Tail, wanted: tuple[Promoted, ...] = ()) -> list[Any]:
    return [held for (held,) in run_sql(ALL, Cut(snapshot, tails, (), wanted)).fetchall()]


def half(table: Table) -> Snapshot:
    """Ten records before the column came, ten after it."""
    before = written(table, table.open_or_create(), "s", batch_of("s", 0))
    return written(table, promote(table, before, [STATUS]), "s", batch_of("s", 10))


def test_a_column_is_added_once_and_says_since_when(place: Place) -> None:
    table = Table(*place)
    first = table.open_or_create()
    then = promote(table, first, [STATUS, REQUEST])
    assert then.promoted == (STATUS, REQUEST)
    assert since(then.delta) == {"http.status_code": 1, "request_id": 1}
    assert promote(table, then, [REQUEST]) is then
    assert promote(table, then, []) is then
    assert promote(table, first, [STATUS]).version == then.version
    later = promote(table, then, [Promoted("loss", "number")])
    assert since(later.delta)["loss"] == then.version + 1
    kept = later.delta.metadata().configuration[STATISTICS_KEY]
    assert kept.endswith("record_offset,`http.status_code`,`request_id`,`loss`")


def test_whoever_races_for_it_adds_it_once(place: Place) -> None:
    Table(*place).open_or_create()
    wanted = [[STATUS], [STATUS, REQUEST], [REQUEST], [REQUEST, STATUS]]
    pending = list(wanted)
    racing(4, lambda: promote(Table(*place), Table(*place).snapshot(), pending.pop()))
    found = promote(Table(*place), Table(*place).snapshot(), [STATUS, REQUEST])
    assert sorted(one.name for one in found.promoted) == ["http.status_code", "request_id"]
    log = [Table(*place).objects.read(f"_delta_log/{version:020}.json") for version in range(1, found.version + 1)]
    fields = [
        orjson.loads(line)["metaData"]["schemaString"]
        for commit in log
        for line in commit.splitlines()
        if b"metaData" in line
    ]
    for name, version in since(found.delta).items():
        assert name in fields[version - 1]
        assert all(name not in earlier for earlier in fields[: version - 1])


def test_the_first_says_the_type_and_the_others_are_told(table: Table) -> None:
    promote(table, table.snapshot(), [STATUS])
    for other in (Promoted("http.status_code"), Promoted("HTTP.status_code", "integer")):
        with pytest.raises(
            ConfigurationError, match=r"it is http.status_code integer already.* Write http.status_code integer"
        ):
            promote(table, table.snapshot(), [other, REQUEST])
    assert table.snapshot().promoted == (STATUS, REQUEST), "what could be done was done"


def test_a_column_of_somebody_else_is_left_alone(table: Table) -> None:
    from deltalake import Field
    from deltalake.schema import PrimitiveType

    table.snapshot().delta.alter.add_columns([Field("region", PrimitiveType("string"))])
    with pytest.raises(ConfigurationError, match="region cannot be promoted: .* has a column of that name"):
        promote(table, table.snapshot(), [Promoted("region")])
    assert table.snapshot().promoted == ()


def test_every_record_has_its_value_wherever_it_is(place: Place) -> None:
    """Written before the column came, after it, by an archiver that knows nothing of it, and not written yet."""
    table = Table(*place)
    snapshot = half(table)
    older = write_segments(table.objects, "s", 20, [batch_of("s", 20)])
    snapshot = table.commit(snapshot, [Flush("s", 20, 30, older)])
    tail = Tail("s", 30, 40, (batch_of("s", 30),))
    assert values(snapshot, tail) == list(range(200, 240))
    query = 'SELECT record_offset FROM logs WHERE "http.status_code" IN (205, 215, 225, 235) ORDER BY 1'
    found = run_sql(query, Cut(snapshot, (tail,))).fetchall()
    assert found == [(5,), (15,), (25,), (35,)]
    assert run_sql("SELECT * FROM logs", Cut(snapshot, (tail,))).columns.count("http.status_code") == 1


def test_a_column_is_there_before_anything_is_archived(tmp_path: Path) -> None:
    tail = Tail("s", 0, 10, (batch_of("s", 0),))
    assert values(None, tail, wanted=(STATUS,)) == list(range(200, 210))
    table = Table(str(tmp_path / "logs"), {})
    snapshot = written(table, table.open_or_create(), "s", batch_of("s", 0))
    assert values(snapshot, Tail("s", 10, 20, (batch_of("s", 10),)), wanted=(STATUS,)) == list(range(200, 220))
    region = promote(table, snapshot, [Promoted("http.status_code")])
    assert values(region, wanted=(STATUS,)) == [str(n) for n in range(200, 210)], "the table says the type"


def external(table: Table, place: Place) -> list[Any]:
    """What a reader of Delta tables sees that knows nothing of ringlog."""
    plain = DeltaTable(table.url, storage_options=place[1] or None).to_pyarrow_table()
    found: list[Any] = plain.sort_by("record_offset")["http.status_code"].to_pylist()
    return found


def test_a_merge_makes_the_column_for_those_who_read_plain_delta(place: Place) -> None:
    table = Table(*place)
    before = half(table)
    assert external(table, place) == [None] * 10 + list(range(210, 220))
    assert compact(table, LATER_S * 2).merged == 2
    after = table.snapshot()
    assert external(table, place) == values(after) == values(before) == list(range(200, 220))
    assert unpromoted(after.delta, after.promoted) == {}
    (one,) = after.segments()
    assert (one.nulls["http.status_code"], one.bounds["http.status_code"]) == (0, (200, 219))


def test_a_merge_by_an_older_ringlog_is_seen_through(table: Table) -> None:
    """It keeps the column with nulls where a segment had none, and no statistics of it."""
    snapshot = half(table)
    parts = [
        table.objects.read(one.path) for one in sorted(snapshot.segments(), key=lambda one: one.bounds["record_offset"])
    ]
    merged = pa.concat_tables([pq.read_table(pa.BufferReader(data)) for data in parts], promote_options="default")
    merged = merged.append_column("date", pa.repeat(pa.scalar(datetime.date(2025, 10, 9)), 20))
    segments = write_segments(table.objects, "merged", 0, merged.to_batches())
    after = table.replace(snapshot, snapshot.segments(), segments)
    assert external(table, (table.url, {})).count(None) == 10
    assert values(after) == list(range(200, 220))


def test_what_somebody_else_wrote_or_merged_is_seen_through(table: Table) -> None:
    snapshot = half(table)
    DeltaTable(table.url).optimize.compact()
    assert len(table.snapshot().segments()) == 1
    assert values(table.snapshot()) == values(snapshot)
    write_deltalake(table.url, pa.Table.from_batches([batch_of("x", 20, 5)]), mode="append", schema_mode="merge")
    assert values(table.snapshot()) == list(range(200, 225))


def test_expiry_keeps_the_column(table: Table) -> None:
    snapshot = promote(table, table.open_or_create(), [STATUS])
    written(table, snapshot, "s", batch_of("s", 0, service=["a", "b"] * 5))
    assert expire(table, Expiry(service="a")).records == 5
    assert external(table, (table.url, {})) == [201, 203, 205, 207, 209]


def test_archivers_and_merges_and_readers_go_on_while_columns_come(place: Place) -> None:
    """Archivers of two shards, one of which never heard of promoting; merges; and columns, one after the other."""
    flushes, count = 12, 5
    Table(*place).open_or_create()
    wanted = [STATUS, REQUEST, Promoted("loss", "number")]
    ended = threading.Event()
    wrong: list[Any] = []

    def archive(shard: str, old: bool) -> None:
        table = Table(*place)
        for start in range(0, flushes * count, count):
            batch = batch_of(shard, start, count)
            while (snapshot := table.snapshot()).stored(shard) < start + count:
                promoted: Sequence[Promoted] = () if old else snapshot.promoted
                segments = write_segments(table.objects, shard, start, [batch], promoted)
                table.commit(snapshot, [Flush(shard, start, start + count, segments)])

    def read() -> None:
        while not ended.is_set():
            snapshot = Table(*place).snapshot()
            if STATUS in snapshot.promoted:
                query = 'SELECT count(*), count("http.status_code"), sum("http.status_code" - 200 - record_offset) FROM logs'
                all_, held, off = run_sql(query, Cut(snapshot, ())).fetchall()[0]
                if all_ != held or off:
                    wrong.append((all_, held, off))

    def evolve() -> None:
        table = Table(*place)
        for one in wanted:
            promote(table, table.snapshot(), [one])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        work = [
            lambda: archive("a", False),
            lambda: archive("b", True),
            evolve,
            lambda: compact(Table(*place), LATER_S * 2),
        ]
        outcomes = racing(len(work), lambda: work.pop()())  # noqa: PLW0108  (each pops its own)
    finally:
        ended.set()
        reader.join()
    assert [one for one in outcomes if isinstance(one, Exception)] == []
    assert wrong == []
    after = Table(*place).snapshot()
    assert after.promoted == tuple(wanted)
    assert positions(after) == {shard: list(range(flushes * count)) for shard in "ab"}
    assert values(after) == [200 + n for n in range(flushes * count)] * 2
    compact(Table(*place), LATER_S * 2)
    assert sorted(external(Table(*place), place)) == sorted(values(after))


def test_search_goes_by_the_column_and_finds_the_same(table: Table) -> None:
    kinds = ["200", '"200"', "200.0", "2.5", "true", '"true"', "null", '{"c":1}', '"x"', "false"]
    texts = [f'{{"a":{kind}}}' for kind in kinds]
    snapshot = written(table, table.snapshot(), "s", rows("s", 0, 10, attributes=texts))
    sought = [200, "200", 2.5, True, "true", {"c": 1}, "x", False, 200.0, 2**63, float("inf")]
    plain = [sorted(offsets(snapshot, a=one)) for one in sought]
    assert plain[:8] == [[0], [1], [3], [4], [5], [7], [8], [9]]
    for kind in ("string", "integer", "number", "boolean"):
        promoted = Promoted("a", kind)
        cut = Cut(snapshot, (), (), (promoted,))
        assert [sorted(offsets(cut, a=one)) for one in sought] == plain, kind


def offsets(read: Snapshot | Cut, **sought: Any) -> list[int]:
    cut = read if isinstance(read, Cut) else Cut(read, ())
    found: list[int] = run_search(cut, Filter(attributes=sought), now=NOW).arrow()["record_offset"].to_pylist()
    return found


def test_segments_that_cannot_have_a_value_are_not_read(table: Table) -> None:
    """Their records are made unreadable: whoever read one would fail."""
    snapshot = promote(table, table.snapshot(), [STATUS])
    for start in (0, 10, 20):
        snapshot = written(table, snapshot, "s", batch_of("s", start))
    for one in snapshot.segments():
        if one.bounds["http.status_code"][0] != 210:
            with Path(table.url, one.path).open("r+b") as file:
                file.write(bytes(1000))  # its pages; the footer stays
    cut = Cut(snapshot, ())
    assert run_sql('SELECT record_offset FROM logs WHERE "http.status_code" = 213', cut).fetchall() == [(13,)]
    assert offsets(cut, **{"http.status_code": 213}) == [13]
    with pytest.raises(duckdb.Error, match="Invalid data"):
        run_sql("SELECT count(body) FROM logs", cut).fetchall()


def test_row_groups_that_cannot_have_an_id_are_not_read(table: Table) -> None:
    """By a bloom filter: the ids are such that bounds say nothing. The ids of the others are made unreadable."""
    snapshot = promote(table, table.snapshot(), [REQUEST])
    ids = [f"{number * 7919 % 1000:08x}" for number in range(1000)]
    for start in range(0, 1000, 100):
        texts = [f'{{"request_id":"{one}"}}' for one in ids[start : start + 100]]
        snapshot = written(table, snapshot, "s", rows("s", start, 100, attributes=texts))
    for one in snapshot.segments():
        if one.bounds["record_offset"][0] != 500:
            group = pq.read_metadata(Path(table.url, one.path)).row_group(0)
            column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "request_id")
            with Path(table.url, one.path).open("r+b") as file:
                file.seek(column.data_page_offset)
                file.write(bytes(column.total_compressed_size))
    query = "SELECT record_offset FROM logs WHERE request_id = ?"
    assert run_sql(query, Cut(snapshot, ()), [ids[555]]).fetchall() == [(555,)]
    assert run_sql(query, Cut(snapshot, ()), ["no such id"]).fetchall() == []
    with pytest.raises(duckdb.Error, match="Invalid data"):
        run_sql(query.replace("=", ">"), Cut(snapshot, ()), ["0"]).fetchall()


def test_a_column_of_a_later_ringlog_is_one_like_any_other(table: Table) -> None:
    from deltalake import Field
    from deltalake.schema import PrimitiveType

    field = Field("at", PrimitiveType("timestamp"), True, {"ringlog.promoted": "time", "ringlog.since": 1})
    table.snapshot().delta.alter.add_columns([field])
    snapshot = written(table, table.snapshot(), "s", batch_of("s", 0))
    assert snapshot.promoted == ()
    assert run_sql('SELECT count(*), count("at") FROM logs', Cut(snapshot, ())).fetchall() == [(10, 0)]
