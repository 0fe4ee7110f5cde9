"""What every metadata store promises, as tests. A module that imports `MetadataContract` runs them over its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest

from ringlog.errors import Conflict, OutcomeUnknown
from ringlog.metadata import MetadataStore, Versioned

Open = Callable[[], MetadataStore]

WRITERS = 16
ROUNDS_VARIABLE = "RINGLOG_TEST_RACE_ROUNDS"
"""How many versions the writers race for, in every store; without it each store's own number, a few seconds' worth."""


def compete(start: threading.Barrier, store: MetadataStore, value: bytes, version: int) -> bool:
    """Whether ``value`` became the version after ``version``; nobody may write beyond that one meanwhile."""
    start.wait()
    try:
        return store.compare_and_set("a", value, version) == Versioned(value, version + 1)
    except Conflict:
        return False
    except OutcomeUnknown:
        return store.get("a") == Versioned(value, version + 1)


class MetadataContract:
    """``open_again`` opens one and the same store anew, each time it is called."""

    rounds = 1000

    @pytest.fixture
    def store(self, open_again: Open) -> MetadataStore:
        return open_again()

    def test_nothing_is_there_at_first(self, store: MetadataStore) -> None:
        assert store.get("shards/shard-0") is None
        assert store.list("") == []

    def test_versions_count_from_one(self, store: MetadataStore) -> None:
        assert store.compare_and_set("a", b"one", 0) == Versioned(b"one", 1)
        assert store.compare_and_set("a", b"two", 1) == Versioned(b"two", 2)
        assert store.get("a") == Versioned(b"two", 2)

    def test_many_versions_later_it_is_still_the_newest_that_counts(self, store: MetadataStore) -> None:
        for version in range(12):
            store.compare_and_set("a", b"%d" % version, version)
        assert store.get("a") == Versioned(b"11", 12)

    def test_a_stale_writer_conflicts_and_changes_nothing(self, store: MetadataStore) -> None:
        store.compare_and_set("a", b"one", 0)
        for expected in (0, 2, 7):
            with pytest.raises(Conflict):
                store.compare_and_set("a", b"other", expected)
        assert store.get("a") == Versioned(b"one", 1)

    def test_values_are_bytes_exactly(self, store: MetadataStore) -> None:
        value = bytes(range(256)) * 10
        store.compare_and_set("a", value, 0)
        assert store.get("a") == Versioned(value, 1)

    def test_keys_are_listed_by_prefix(self, store: MetadataStore) -> None:
        for key in ("shards/shard-1", "shards/shard-0", "pipeline"):
            store.compare_and_set(key, b"x", 0)
        assert store.list("shards/") == ["shards/shard-0", "shards/shard-1"]
        assert store.list("") == ["pipeline", "shards/shard-0", "shards/shard-1"]

    def test_a_key_below_a_key_is_another_key(self, store: MetadataStore) -> None:
        keys = ["a", "a/7", "a/b"]
        for key in keys:
            store.compare_and_set(key, key.encode(), 0)
        store.compare_and_set("a/b", b"newer", 1)
        assert store.list("") == keys
        assert [store.get(key) for key in keys] == [
            Versioned(b"a", 1),
            Versioned(b"a/7", 1),
            Versioned(b"newer", 2),
        ]

    @pytest.mark.parametrize("key", ["", "../x", "a/../b", "/a", "a//b", "a b", "a/", ".hidden"])
    def test_what_is_no_key_is_refused(self, store: MetadataStore, key: str) -> None:
        with pytest.raises(ValueError, match="is no key"):
            store.compare_and_set(key, b"x", 0)

    def test_a_store_that_is_opened_again_knows_everything(self, store: MetadataStore, open_again: Open) -> None:
        store.compare_and_set("a", b"one", 0)
        store.close()
        assert open_again().get("a") == Versioned(b"one", 1)

    def test_of_many_racing_writers_one_wins_each_version(self, open_again: Open) -> None:
        rounds = int(os.environ.get(ROUNDS_VARIABLE, self.rounds))
        stores = [open_again() for _ in range(WRITERS)]
        start = threading.Barrier(WRITERS)
        with ThreadPoolExecutor(WRITERS) as pool:
            for version in range(rounds):
                values = [b"version %d of writer %d" % (version + 1, number) for number in range(WRITERS)]
                wins = list(pool.map(compete, repeat(start), stores, values, repeat(version)))
                assert sum(wins) == 1, f"winners of version {version + 1}"
                assert stores[0].get("a") == Versioned(values[wins.index(True)], version + 1)

    def test_a_watch_sees_the_next_version(self, open_again: Open) -> None:
        watching, writing = open_again(), open_again()
        writing.compare_and_set("a", b"one", 0)
        assert watching.watch("a", 0, 5.0) == Versioned(b"one", 1)
        writer = threading.Timer(0.1, lambda: writing.compare_and_set("a", b"two", 1))
        writer.start()
        assert watching.watch("a", 1, 10.0) == Versioned(b"two", 2)
        writer.join()

    def test_a_watch_ends_when_nothing_changes(self, store: MetadataStore) -> None:
        store.compare_and_set("a", b"one", 0)
        assert store.watch("a", 1, 0.1) is None
        assert store.watch("never", 0, 0.1) is None
