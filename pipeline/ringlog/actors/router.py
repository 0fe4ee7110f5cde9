"""The router: it hands out versioned routes and balances the ring. It is never on the path of the data."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ringlog.routing import Leading, LoadMeter, Routes, place_heavy_keys, rebalance


class Router:
    """Holds the routes. Clients ask for them; the controller tells who leads and what each shard has taken.

    It runs in one event loop, so that however many clients wait for newer routes, they take no thread each.
    """

    def __init__(self, shards: Sequence[str], rebalance_interval_s: float) -> None:
        self._interval_s = rebalance_interval_s
        self._rebalanced = time.monotonic()
        self._shard_loads: LoadMeter[str] = LoadMeter()
        self._key_loads: LoadMeter[int] = LoadMeter()
        self._taken: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._routes = Routes(time.time_ns(), tuple(shards), {}, weights=dict.fromkeys(shards, 1.0))

    async def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> dict[str, Any]:
        """The newest routes as plain values, as soon as they are newer than version ``known``, or after ``wait_s``.

        ``key_bytes`` is what the client sent for each key since it last asked.
        """
        now = time.monotonic()
        for key, size in key_bytes.items():
            self._key_loads.observe(key, size, now)
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):  # then they are what they were
                await asyncio.wait_for(self._changed.wait_for(lambda: self._routes.version > known), wait_s)
        return self._routes.to_plain()

    async def publish(
        self, leaders: Mapping[str, Mapping[str, Any]], committed: Mapping[str, int], taken: Mapping[str, int]
    ) -> None:
        """Who leads which shard, how far each is committed, and how many bytes each shard actor has taken."""
        now = time.monotonic()
        leading = {shard: Leading(**one) for shard, one in leaders.items()}
        for shard, total in taken.items():
            before = self._taken.get(shard, 0)
            self._shard_loads.observe(shard, total - before if total >= before else total, now)
            self._taken[shard] = total
        # What a shard without a leader had committed stays so.
        changed = replace(self._routes, leaders=leading, committed={**self._routes.committed, **committed})
        if leading and now - self._rebalanced >= self._interval_s:
            self._rebalanced = now
            changed = self._balanced(changed, now)
        # These change all the time and move nothing by themselves: they alone make no new version.
        still: dict[str, Any] = {"loads": {}, "committed": {}}
        same = asdict(replace(changed, **still)) == asdict(replace(self._routes, **still))
        self._routes = changed if same else replace(changed, version=self._routes.version + 1)
        if not same:
            async with self._changed:
                self._changed.notify_all()

    def _balanced(self, routes: Routes, now: float) -> Routes:
        loads = self._shard_loads.rates(now)
        weights = {**routes.weights, **rebalance({one: routes.weights[one] for one in routes.leaders}, loads)}
        balanced = replace(routes, weights=weights, loads={shard: round(load) for shard, load in loads.items()})
        return replace(balanced, pins=place_heavy_keys(balanced.ring, self._key_loads.rates(now), routes.pins))
