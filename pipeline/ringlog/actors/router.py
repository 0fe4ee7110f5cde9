"""The router: it hands out versioned routes and balances the ring. It is never on the path of the data."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ringlog.errors import Unavailable
from ringlog.routing import Leading, LoadMeter, Routes, place_heavy_keys, rebalance

TOLD_S = 2.0
"""How long a router that has just begun may wait for the controller to tell it what there is."""


class Router:
    """Holds the routes. Clients ask for them; the controller tells which shards there are, who leads, and their loads.

    A reader relies on the shards being all that anything was acknowledged of by then. So a router that has just begun
    gives no routes before it was told them.

    It runs in one event loop, so that however many clients wait for newer routes, they take no thread each.
    """

    def __init__(self, rebalance_interval_s: float) -> None:
        self._interval_s = rebalance_interval_s
        self._rebalanced = time.monotonic()
        self._shard_loads: LoadMeter[str] = LoadMeter()
        self._key_loads: LoadMeter[int] = LoadMeter()
        self._taken: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._decision = 0
        self._routes = Routes(0, (), {}, router=uuid.uuid4().hex)

    async def routes(self, key_bytes: Mapping[int, int], known: int = -1, wait_s: float = 0.0) -> dict[str, Any]:
        """The newest routes as plain values, as soon as they are newer than version ``known``, or after ``wait_s``.

        ``key_bytes`` is what the client sent for each key since it last asked. Raises `Unavailable` while it has none.
        """
        now = time.monotonic()
        for key, size in key_bytes.items():
            self._key_loads.observe(key, size, now)
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):  # then they are what they were
                await asyncio.wait_for(self._changed.wait_for(lambda: self._routes.version > known), wait_s)
            if not self._routes.shards:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait_for(lambda: self._routes.shards), TOLD_S)
        if not self._routes.shards:
            raise Unavailable("the router has just begun, and nobody has told it which shards there are: try again")
        return self._routes.to_plain()

    async def publish(
        self,
        decision: int,
        shards: Sequence[str],
        retiring: Collection[str],
        leaders: Mapping[str, Mapping[str, Any]],
        committed: Mapping[str, int],
        taken: Mapping[str, int],
    ) -> None:
        """Which ``shards`` there are by the version ``decision`` of the pipeline's record, and which take no new keys.

        Then who leads each, how far it is committed, and how many bytes each shard actor has taken. A controller that
        does not know of a later decision yet tells nothing.
        """
        if decision < self._decision:
            return
        self._decision = decision
        now = time.monotonic()
        leading = {shard: Leading(**one) for shard, one in leaders.items()}
        for shard, total in taken.items():
            before = self._taken.get(shard, 0)
            self._shard_loads.observe(shard, total - before if total >= before else total, now)
            self._taken[shard] = total
        routes = self._routes
        changed = replace(
            routes,
            shards=tuple(shards),
            retiring=tuple(retiring),
            leaders=leading,
            # What a shard without a leader had committed stays so.
            committed={shard: end for shard, end in {**routes.committed, **committed}.items() if shard in shards},
            weights={shard: routes.weights.get(shard, 1.0) for shard in shards if shard not in retiring},
            pins={key: shard for key, shard in routes.pins.items() if shard in shards and shard not in retiring},
        )
        if any(shard in changed.weights for shard in leading) and now - self._rebalanced >= self._interval_s:
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
        led = {shard: weight for shard, weight in routes.weights.items() if shard in routes.leaders}
        weights = {**routes.weights, **rebalance(led, loads)}
        balanced = replace(routes, weights=weights, loads={shard: round(load) for shard, load in loads.items()})
        return replace(balanced, pins=place_heavy_keys(balanced.ring, self._key_loads.rates(now), routes.pins))
