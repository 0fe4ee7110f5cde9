"""Everyone reads the table: each library the same records, of the newest version and of an earlier one, on S3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

import ringlog
from conftest import local_ray
from ringlog.errors import ConfigurationError, InvalidQuery
from ringlog.query import Stored
from ringlog.schema import TABLE_SCHEMA, Promoted
from ringlog.storage import Flush, Snapshot, Table, write_segments
from ringlog.storage.compaction import compact
from ringlog.storage.evolution import promote
from seaweed import SeaweedFS
from storage.test_compaction import LATER_S
from storage.test_promotion import attributes
from table_rows import DAY_NS, NOON, rows

STATUS = Promoted("http.status_code", "integer")
COLUMNS = [*TABLE_SCHEMA.names, STATUS.name]

Rows = Counter[tuple[Any, ...]]


def flushed(table: Table, snapshot: Snapshot, shard: str, start: int, day: int) -> Snapshot:
    times = [NOON + day * DAY_NS + number for number in range(start, start + 10)]
    batch = rows(shard, start, 10, times=times, attributes=attributes(start, 10), trace_flags=[None, 1] * 5)
    segments = write_segments(table.objects, shard, start, [batch], snapshot.promoted)
    return table.commit(snapshot, [Flush(shard, start, start + 10, segments)])


def filled(table: Table) -> int:
    """Two shards and three days; a column is promoted in between, and all is merged in the end. The version before."""
    snapshot = table.open_or_create()
    for start in (0, 10, 20):
        snapshot = flushed(table, snapshot, "a", start, start // 10)
    before = snapshot.version
    snapshot = promote(table, snapshot, [STATUS])
    for start in (0, 10, 20):
        snapshot = flushed(table, snapshot, "b", start, start // 10)
    assert compact(table, LATER_S * 4).merged == 6
    return before


def multiset(found: pa.Table) -> Rows:
    """The records, in the types of the table, whatever the order and the types in which a library has them."""
    named = [name for name in COLUMNS if name in found.column_names]
    schema = pa.schema([*TABLE_SCHEMA, pa.field(STATUS.name, STATUS.type)])
    same = found.select(named).cast(pa.schema([schema.field(name) for name in named]))
    return Counter(tuple(row[name] for name in named) for row in same.to_pylist())


@pytest.fixture(scope="module")
def place(seaweed: SeaweedFS) -> tuple[str, int]:
    """The root of a table on S3, and the number of a version before a column was promoted."""
    root = seaweed.root("readers")
    return root, filled(Table(f"{root}/logs", seaweed.storage_options))


@pytest.fixture
def environment(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)


def delta(root: str, options: dict[str, str], version: int | None) -> DeltaTable:
    return DeltaTable(f"{root}/logs", version, storage_options=options)


def by_polars(root: str, options: dict[str, str], version: int | None) -> pa.Table:
    return pl.scan_delta(f"{root}/logs", version=version, storage_options=options).collect().to_arrow()


def by_duckdb(root: str, options: dict[str, str], version: int | None) -> pa.Table:
    dataset = delta(root, options, version).to_pyarrow_dataset()
    return duckdb.from_arrow(dataset).project("*").to_arrow_table()


def by_pandas(root: str, options: dict[str, str], version: int | None) -> pa.Table:
    return pa.Table.from_pandas(delta(root, options, version).to_pandas(), preserve_index=False)


def by_pyarrow(root: str, options: dict[str, str], version: int | None) -> pa.Table:
    return delta(root, options, version).to_pyarrow_table()


def by_daft(root: str, options: dict[str, str], version: int | None) -> pa.Table:
    return ringlog.table(root, version=version).to_daft().to_arrow()


def by_ray_data(root: str, options: dict[str, str], version: int | None) -> pa.Table:
    import ray

    dataset = ringlog.table(root, version=version).to_ray_dataset()
    return pa.concat_tables(ray.get(dataset.to_arrow_refs()), promote_options="default")


Reader = Callable[[str, dict[str, str], int | None], pa.Table]


def reads_the_same(read: Reader, place: tuple[str, int], options: dict[str, str]) -> None:
    root, before = place
    newest = multiset(ringlog.table(root).arrow())
    assert (newest.total(), len(newest)) == (60, 60)
    assert multiset(read(root, options, None)) == newest
    status = COLUMNS.index(STATUS.name)
    assert sorted(row[status] for row in newest) == sorted([*range(200, 230)] * 2)
    earlier = multiset(ringlog.table(root, version=before).arrow())
    assert {row[TABLE_SCHEMA.get_field_index("shard")] for row in earlier} == {"a"}
    assert (earlier.total(), len(earlier)) == (30, 30)
    assert multiset(read(root, options, before)) == earlier


@pytest.mark.s3
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("read", [by_polars, by_duckdb, by_pandas, by_pyarrow, by_daft])
def test_a_library_reads_the_same(read: Reader, place: tuple[str, int], seaweed: SeaweedFS) -> None:
    reads_the_same(read, place, seaweed.storage_options)


@pytest.mark.s3
@pytest.mark.cluster
@pytest.mark.usefixtures("environment")
def test_ray_data_reads_the_same_and_so_does_daft_on_ray(place: tuple[str, int], seaweed: SeaweedFS) -> None:
    import ray

    with local_ray():
        reads_the_same(by_ray_data, place, seaweed.storage_options)
        selected = ringlog.table(place[0], "SELECT body FROM logs WHERE shard = 'b' AND record_offset < 5")
        assert selected.to_ray_dataset().count() == 5
        # A process chooses the place where Daft runs once and for all.
        script = (
            "import daft, ringlog, sys; daft.set_runner_ray(); frame = ringlog.table(sys.argv[1]).to_daft()\n"
            "print(daft.runners.get_or_create_runner().name, frame.count_rows())"
        )
        here = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        command = [sys.executable, "-c", script, place[0]]
        done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout.split()[-2:] == ["ray", "60"], done.stderr


@pytest.mark.s3
def test_credentials_are_not_sent_to_other_processes(
    place: tuple[str, int], seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment.items():
        if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("RINGLOG_S3_ACCESS_KEY_ID", seaweed.storage_options["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("RINGLOG_S3_SECRET_ACCESS_KEY", seaweed.storage_options["AWS_SECRET_ACCESS_KEY"])
    found = ringlog.table(place[0])
    assert len(found) == 60
    for send in (found.to_ray_dataset, found.to_daft):
        with pytest.raises(ConfigurationError, match="set AWS_ACCESS_KEY_ID .* here and where Ray is started"):
            send()


def local(tmp_path: Path, name: str = "root") -> tuple[str, int]:
    root = str(tmp_path / name)
    return root, filled(Table(f"{root}/logs", {}))


def test_earlier_versions_of_a_local_table(tmp_path: Path) -> None:
    root, before = local(tmp_path)
    newest = ringlog.table(root)
    assert isinstance(newest, Stored)
    assert [len(ringlog.table(root, version=version)) for version in range(before + 1)] == [0, 10, 20, 30]
    assert ringlog.table(root, "SELECT count(*) FROM logs", before).fetchall() == [(30,)]
    assert len(newest) == 60
    with pytest.raises(InvalidQuery, match=f"has the versions 0 to {newest.version}, and no {newest.version + 1}"):
        ringlog.table(root, version=newest.version + 1)
    DeltaTable(f"{root}/logs").create_checkpoint()
    Path(root, "logs", "_delta_log", f"{0:020}.json").unlink()  # as the log is cleaned
    with pytest.raises(InvalidQuery, match="version 1 of the table .* does not read: .* kept for 24 h"):
        ringlog.table(root, version=1)


def test_daft_reads_a_local_table_and_what_a_query_selects(tmp_path: Path) -> None:
    root, before = local(tmp_path)
    assert multiset(by_daft(root, {}, None)) == multiset(ringlog.table(root).arrow())
    assert by_daft(root, {}, before).num_rows == 30
    few = ringlog.table(root, "SELECT body FROM logs WHERE record_offset < 5").to_daft()
    assert few.count_rows() == 10
    spaced, _ = local(tmp_path, "a root")
    with pytest.raises(ConfigurationError, match="Daft does not find files below"):
        ringlog.table(spaced).to_daft()
