from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlog.errors import Unavailable
from ringlog.routing import Ring, bounded_owners
from ringlog.routing.ring import key_hash

KEYS = np.array([key_hash(f"tenant\0service-{number}".encode()) for number in range(20_000)], dtype=np.uint64)
counts = st.integers(2, 12)


def ring(count: int, **weights: float) -> Ring:
    return Ring({f"shard-{number}": weights.get(f"shard_{number}", 1.0) for number in range(count)})


def names(one: Ring) -> np.ndarray:
    return np.array(one.nodes)[one.owners(KEYS)]


@given(counts)
@settings(max_examples=10)
def test_keys_are_spread_evenly(count: int) -> None:
    loads = np.bincount(ring(count).owners(KEYS), minlength=count)
    assert loads.max() / loads.mean() < 1.4
    assert loads.min() / loads.mean() > 0.6


@given(counts)
@settings(max_examples=10)
def test_a_new_node_only_wins_keys(count: int) -> None:
    before, after = names(ring(count)), names(ring(count + 1))
    moved = before != after
    assert set(after[moved]) == {f"shard-{count}"}
    assert moved.mean() < 2 / (count + 1)


@given(counts, st.floats(0.2, 0.9))
@settings(max_examples=10)
def test_a_lighter_node_only_loses_keys(count: int, weight: float) -> None:
    before, after = names(ring(count)), names(ring(count, shard_0=weight))
    assert set(before[before != after]) <= {"shard-0"}


def test_weights_are_shares() -> None:
    loads = np.bincount(ring(4, shard_0=2.0).owners(KEYS), minlength=4)
    assert 1.5 < loads[0] / loads[1:].mean() < 2.6


def test_one_key_and_a_column_of_keys_agree() -> None:
    one = ring(5)
    assert one.owner(b"tenant\0service-7") == names(one)[7]


def test_a_ring_of_nobody_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match="ringlog status"):
        Ring({})


@given(counts, st.lists(st.floats(0.1, 100), min_size=1, max_size=200), st.floats(1.05, 2))
@settings(max_examples=60)
def test_the_bound_holds(count: int, loads: list[float], bound: float) -> None:
    one, weights = ring(count), np.array(loads)
    owners = bounded_owners(one, KEYS[: len(loads)], weights, bound)
    carried = np.bincount(owners, weights, minlength=count)
    assert carried.max() <= bound * weights.sum() / count + weights.max()


def test_a_key_stays_where_the_ring_has_it_while_there_is_room() -> None:
    one = ring(4)
    few = KEYS[:8]
    owners = bounded_owners(one, few, np.ones(8), bound=10.0)
    assert (owners == one.owners(few)).all()


def test_the_walk_meets_every_node_once_and_begins_with_the_owner() -> None:
    one = ring(6)
    for key in KEYS[:50].tolist():
        path = one.walk(key)
        assert sorted(path) == list(range(6))
        assert path[0] == one.owners(np.array([key], dtype=np.uint64))[0]
