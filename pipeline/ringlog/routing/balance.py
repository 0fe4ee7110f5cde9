"""How loaded each shard is, and how much of the ring it should have because of that."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

import numpy as np

from ringlog.routing.ring import Ring, bounded_owners, even_share

T = TypeVar("T", bound=Hashable)

HALF_LIFE_S = 30.0
RATE_MIN = 1.0
BOUND = 1.25
STEP = 0.1
FLOOR = 0.25
HEAVY_KEYS = 64
"""How many of the heaviest keys may be placed one by one."""


class LoadMeter(Generic[T]):
    """Bytes per second of each shard, or each key, the past counting half every `HALF_LIFE_S`.

    >>> meter: LoadMeter[str] = LoadMeter()
    >>> for second in range(600):
    ...     meter.observe("shard-0", 1000, float(second))
    >>> round(meter.rates(600.0)["shard-0"])
    988
    """

    def __init__(self) -> None:
        self._sums: dict[T, tuple[float, float]] = {}  # decayed bytes, and when that was true

    def observe(self, one: T, bytes: int, now_s: float) -> None:
        """``bytes`` more went to ``one``."""
        self._sums[one] = (self._decayed(one, now_s) + bytes, now_s)

    def rates(self, now_s: float) -> dict[T, float]:
        """Bytes per second of each that was observed. What has become silent is forgotten."""
        rates = {one: self._decayed(one, now_s) * math.log(2) / HALF_LIFE_S for one in self._sums}
        self._sums = {one: kept for one, kept in self._sums.items() if rates[one] >= RATE_MIN}
        return rates

    def _decayed(self, one: T, now_s: float) -> float:
        total, since = self._sums.get(one, (0.0, now_s))
        return float(total * 0.5 ** (max(0.0, now_s - since) / HALF_LIFE_S))


def rebalance(weights: Mapping[str, float], loads: Mapping[str, float]) -> dict[str, float]:
    """Move `STEP` of weight from each shard that carries more than `BOUND` times its even share to the lightest.

    Within the bound nothing changes, so that keys stay where they are. A shard keeps at least `FLOOR`; the sum stays.

    >>> rebalance({"a": 1.0, "b": 1.0}, {"a": 900.0, "b": 100.0})
    {'a': 0.9, 'b': 1.1}
    """
    moved = {shard: float(weight) for shard, weight in weights.items()}
    current = {shard: loads.get(shard, 0.0) for shard in moved}
    limit = BOUND * even_share(current)
    lightest = min(current, key=lambda shard: (current[shard], shard), default=None)
    for shard, load in current.items():
        if lightest is None or load <= limit or shard == lightest:
            continue
        step = min(STEP, moved[shard] - FLOOR)
        if step > 0:
            moved[shard] = round(moved[shard] - step, 6)
            moved[lightest] = round(moved[lightest] + step, 6)
    return moved


def place_heavy_keys(ring: Ring, key_loads: Mapping[int, float], pins: Mapping[int, str]) -> dict[int, str]:
    """Which of the heaviest keys (by their place on ``ring``) belong elsewhere than where the ring has them.

    ``pins`` are the ones that do so now. While they keep every shard within `BOUND` of its even share of
    ``key_loads``, they stay; otherwise the keys are placed anew, heaviest first, with bounded loads.
    """
    hashes = np.array(sorted(key_loads, key=lambda key: (-key_loads[key], key)), dtype=np.uint64)
    if not len(hashes):
        return {}
    loads = np.array([key_loads[key] for key in hashes.tolist()])
    by_ring = ring.owners(hashes)
    now = by_ring.copy()
    for at, key in enumerate(hashes.tolist()):
        if pins.get(key) in ring.nodes:
            now[at] = ring.nodes.index(pins[key])
    if np.bincount(now, loads, len(ring.nodes)).max() > BOUND * loads.sum() / len(ring.nodes):
        now[:HEAVY_KEYS] = bounded_owners(ring, hashes[:HEAVY_KEYS], loads[:HEAVY_KEYS], BOUND)
    moved = np.flatnonzero(now != by_ring)
    return {int(hashes[at]): ring.nodes[int(now[at])] for at in moved.tolist()}
