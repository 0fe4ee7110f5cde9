from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlog.routing import LoadMeter, Ring, place_heavy_keys, rebalance
from ringlog.routing.balance import BOUND, FLOOR, HALF_LIFE_S
from ringlog.routing.ring import key_hash

SHARDS = ("shard-0", "shard-1", "shard-2")
KEYS = [key_hash(f"default\0service-{number}".encode()) for number in range(300)]


def carried(ring: Ring, loads: dict[int, float], pins: dict[int, str]) -> dict[str, float]:
    total = dict.fromkeys(ring.nodes, 0.0)
    for key, load in loads.items():
        total[pins.get(key) or ring.nodes[int(ring.owners(np.array([key], dtype=np.uint64))[0])]] += load
    return total


def test_the_meter_forgets_half_in_its_half_life() -> None:
    meter: LoadMeter[str] = LoadMeter()
    meter.observe("a", 1_000_000, 0.0)
    now, later = meter.rates(0.0)["a"], meter.rates(HALF_LIFE_S)["a"]
    assert abs(later / now - 0.5) < 1e-9


def test_the_meter_forgets_what_is_silent() -> None:
    meter: LoadMeter[int] = LoadMeter()
    meter.observe(7, 1000, 0.0)
    assert 7 in meter.rates(0.0)
    meter.rates(100 * HALF_LIFE_S)
    assert meter.rates(100 * HALF_LIFE_S) == {}


@given(st.dictionaries(st.sampled_from(SHARDS), st.floats(0, 1e9), min_size=3))
@settings(max_examples=50)
def test_weight_is_moved_never_made_and_never_taken_below_the_floor(loads: dict[str, float]) -> None:
    weights = dict.fromkeys(SHARDS, 1.0)
    for _ in range(50):
        weights = rebalance(weights, loads)
    assert abs(sum(weights.values()) - 3.0) < 1e-6
    assert min(weights.values()) >= FLOOR - 1e-9


def test_within_the_bound_nothing_moves() -> None:
    weights = dict.fromkeys(SHARDS, 1.0)
    assert rebalance(weights, {"shard-0": 110.0, "shard-1": 100.0, "shard-2": 95.0}) == weights


def test_a_skewed_load_of_many_keys_comes_within_the_bound() -> None:
    draw = np.random.default_rng(3)
    loads = dict(zip(KEYS, draw.pareto(2.0, len(KEYS)) + 0.1, strict=True))
    weights = {"shard-0": 2.0, "shard-1": 0.6, "shard-2": 0.4}
    for _ in range(100):
        weights = rebalance(weights, carried(Ring(weights), loads, {}))
    total = carried(Ring(weights), loads, {})
    assert max(total.values()) < 1.4 * sum(total.values()) / 3


def test_heavy_keys_are_spread_when_the_ring_has_them_together() -> None:
    ring = Ring(dict.fromkeys(SHARDS, 1.0))
    home = ring.owners(np.array(KEYS, dtype=np.uint64))
    together = {key: 100.0 for key, at in zip(KEYS, home.tolist(), strict=True) if at == 0}
    pins = place_heavy_keys(ring, dict(list(together.items())[:6]), {})
    total = carried(ring, dict(list(together.items())[:6]), pins)
    assert max(total.values()) <= BOUND * 200 + 100
    assert min(total.values()) > 0


def test_placed_keys_stay_while_the_bound_holds_and_light_loads_pin_nothing() -> None:
    ring = Ring(dict.fromkeys(SHARDS, 1.0))
    home = ring.owners(np.array(KEYS, dtype=np.uint64))
    loads = {key: 1.0 for at in range(3) for key in np.array(KEYS, dtype=np.uint64)[home == at][:60].tolist()}
    assert place_heavy_keys(ring, loads, {}) == {}
    assert place_heavy_keys(ring, {}, {1: "shard-0"}) == {}
    key = next(key for key in loads if ring.nodes[int(ring.owners(np.array([key], dtype=np.uint64))[0])] != "shard-1")
    assert place_heavy_keys(ring, loads, {key: "shard-1"}) == {key: "shard-1"}
