from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from ringlog.errors import Fenced, InvalidQuery, PipelineEnded, Unavailable
from ringlog.query import Filter, tail
from ringlog.query.tail import Followed
from table_rows import rows


class Script:
    """One shard whose leader gives these streams, one after the other; an error instead of one is raised."""

    def __init__(self, *streams: list[pa.RecordBatch] | Exception, bases: tuple[int, ...]) -> None:
        self._streams = iter(streams)
        self._bases = iter(bases)
        self.starts: list[int | None] = []
        self.stopped = threading.Event()

    def shards(self) -> tuple[str, ...]:
        return ("s",)

    def follow(self, shard: str, start: int | None) -> Followed:
        self.starts.append(start)
        stream = next(self._streams, None)
        if isinstance(stream, Exception):
            raise stream
        if stream is None:
            return Followed(start or 0, self._wait(), self.stopped.set)
        return Followed(next(self._bases), iter(stream), self.stopped.set)

    def _wait(self) -> Iterator[pa.RecordBatch]:
        while not self.stopped.wait(0.05):
            yield rows("s", 0, 0)

    def archived(self, shard: str, start: int, end: int) -> Iterator[pa.RecordBatch]:
        yield rows(shard, start, end - start)


def offsets(script: Script, count: int, wanted: Filter | None = None) -> list[int]:
    batches = tail(script, wanted or Filter())
    found = itertools.chain.from_iterable(batch["record_offset"].to_pylist() for batch in batches)
    taken = list(itertools.islice(found, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def test_records_come_in_order_each_once_across_leaders() -> None:
    script = Script([rows("s", 5, 3), rows("s", 0, 0), rows("s", 8, 2)], [rows("s", 10, 4)], bases=(5, 10))
    assert offsets(script, 9) == list(range(5, 14))
    assert script.starts[:2] == [None, 10], "it goes on from where it was"


def test_a_leader_that_is_away_is_waited_for() -> None:
    script = Script([rows("s", 0, 2)], Unavailable("away"), Fenced("moved"), [rows("s", 2, 2)], bases=(0, 2))
    assert offsets(script, 4) == [0, 1, 2, 3]
    assert script.starts[:4] == [None, 2, 2, 2]


def test_whoever_reads_is_told_that_another_pipeline_runs_in_its_place() -> None:
    script = Script([rows("s", 0, 2)], Unavailable("away"), PipelineEnded("another runs here now"), bases=(0,))
    live = tail(script, Filter())
    assert next(live).num_rows == 2
    with pytest.raises(PipelineEnded, match="another runs here now"):
        next(live)


def test_what_was_archived_meanwhile_comes_from_the_table() -> None:
    script = Script([rows("s", 0, 2)], [rows("s", 6, 1)], bases=(0, 6))
    assert offsets(script, 7) == list(range(7))


def test_only_what_is_wanted_comes() -> None:
    script = Script([rows("s", 0, 4, service=["a", "b", "a", "b"])], bases=(0,))
    assert offsets(script, 2, Filter(service="b")) == [1, 3]


def test_a_bad_filter_is_told_at_once() -> None:
    with pytest.raises(InvalidQuery):
        tail(Script(bases=()), Filter(severity="loud"))


def test_closing_ends_the_stream() -> None:
    script = Script([rows("s", 0, 1)], bases=(0,))
    assert offsets(script, 1) == [0]
    assert script.stopped.wait(5)


def test_a_stream_that_begins_while_the_tail_is_closed_is_stopped_too() -> None:
    asked, go_on, stopped = threading.Event(), threading.Event(), threading.Event()

    class Slow(Script):
        """The leader that comes second takes its time, and its stream has no end."""

        def follow(self, shard: str, start: int | None) -> Followed:
            found = super().follow(shard, start)
            if len(self.starts) == 1:
                return found
            asked.set()
            assert go_on.wait(20)
            return Followed(found.base, found.batches, stopped.set)

    batches = tail(Slow([rows("s", 0, 1)], bases=(0,)), Filter())
    assert next(batches)["record_offset"].to_pylist() == [0]
    assert asked.wait(20)
    batches.close()  # type: ignore[attr-defined]
    assert not stopped.is_set()
    go_on.set()
    assert stopped.wait(20)


class Changing:
    """Shards that come and go; each leader gives what its shard has, and goes on until it is stopped or retired."""

    def __init__(self) -> None:
        self.of = {"old": [rows("old", 0, 2)]}
        self.table: dict[str, int] = {}
        self.closed = threading.Event()

    def shards(self) -> tuple[str, ...]:
        return tuple(self.of)

    def follow(self, shard: str, start: int | None) -> Followed:
        if shard not in self.of:
            raise Unavailable("it has no leader")
        return Followed(start or 0, self._stream(shard, start or 0), self.closed.set)

    def _stream(self, shard: str, start: int) -> Iterator[pa.RecordBatch]:
        given = 0
        while shard in self.of and not self.closed.wait(0.01):
            for batch in self.of.get(shard, [])[given:]:
                given += 1
                if batch["record_offset"][0].as_py() >= start:
                    yield batch

    def archived(self, shard: str, start: int, end: int) -> Iterator[pa.RecordBatch]:
        if self.table[shard] > start:
            yield rows(shard, start, min(end, self.table[shard]) - start)


def test_a_shard_that_is_added_is_followed_and_one_that_is_retired_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["ringlog.query.tail"], "_LOOK_S", 0.02)  # the package has a function of that name
    source = Changing()
    found = ((batch["shard"][0].as_py(), batch["record_offset"].to_pylist()) for batch in tail(source, Filter()))
    assert next(found) == ("old", [0, 1])
    source.of["new"] = [rows("new", 0, 3)]
    assert next(found) == ("new", [0, 1, 2])
    source.table["new"] = 5  # two more were archived before anybody followed them
    del source.of["new"]
    assert next(found) == ("new", [3, 4])
    source.of["new"] = [rows("new", 5, 1)]
    assert next(found) == ("new", [5])
    source.of["old"].append(rows("old", 2, 1))
    assert next(found) == ("old", [2])
    source.closed.set()


def test_a_tail_that_nobody_reads_is_stopped_when_it_is_let_go() -> None:
    script = Script(bases=())
    batches = tail(script, Filter())
    del batches
    gc.collect()
    assert script.stopped.wait(20)
