from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ringlog.actors.router import Router
from ringlog.errors import Unavailable
from ringlog.routing import Routes

LED = {"shard-0": {"shard": "shard-0", "actor": "shard-0", "location": "grpc://here:1", "epoch": 3}}
LONG_S = 60.0


SHARDS = ("shard-0", "shard-1")


def router() -> Router:
    return Router(rebalance_interval_s=LONG_S)


async def publish(one: Router, *told: Any, decision: int = 1, shards: Any = SHARDS, retiring: Any = ()) -> None:
    await one.publish(decision, shards, retiring, *told)


def test_who_knows_older_routes_is_answered_at_once() -> None:
    async def play() -> None:
        one = router()
        await publish(one, {}, {}, {})
        before = await one.routes({})
        assert before["leaders"] == {}
        await publish(one, LED, {"shard-0": 7}, {})
        found = await one.routes({}, known=before["version"], wait_s=LONG_S)
        assert (found["leaders"]["shard-0"]["epoch"], found["committed"]) == (3, {"shard-0": 7})

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_who_knows_the_newest_hears_of_newer_ones_as_soon_as_there_are() -> None:
    async def play() -> None:
        one = router()
        await publish(one, {}, {}, {})
        known = (await one.routes({}))["version"]
        asked = [asyncio.create_task(one.routes({}, known, LONG_S)) for _ in range(100)]
        await asyncio.sleep(0)  # each has begun to wait
        assert not any(task.done() for task in asked)
        await publish(one, LED, {}, {})
        answers: list[dict[str, Any]] = await asyncio.gather(*asked)
        assert {answer["leaders"]["shard-0"]["actor"] for answer in answers} == {"shard-0"}

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_where_nothing_changes_the_old_ones_come_in_the_end() -> None:
    async def play() -> None:
        one = router()
        await publish(one, LED, {}, {})
        before = await one.routes({})
        waiting = asyncio.create_task(one.routes({}, before["version"], 0.05))
        await publish(one, LED, {"shard-0": 9}, {"shard-0": 1000})  # only what changes all the time
        found = await waiting
        assert (found["version"], found["committed"]) == (before["version"], {"shard-0": 9})

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_who_has_just_begun_gives_no_routes_before_it_knows_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlog.actors.router.TOLD_S", 0.05)

    async def play() -> None:
        one = router()
        with pytest.raises(Unavailable, match="has just begun"):
            await one.routes({})
        asked = asyncio.create_task(one.routes({}))
        await asyncio.sleep(0)
        await publish(one, LED, {}, {})
        assert (await asked)["shards"] == list(SHARDS)

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_a_shard_that_is_added_gets_keys_and_one_that_is_retiring_gets_none() -> None:
    async def play() -> None:
        one = router()
        led = {shard: {**LED["shard-0"], "shard": shard} for shard in (*SHARDS, "shard-2")}
        await publish(one, {shard: led[shard] for shard in SHARDS}, {}, {})
        two = Routes.from_plain(await one.routes({}))
        await publish(one, led, {}, {}, decision=2, shards=tuple(led))
        three = Routes.from_plain(await one.routes({}))
        keys = np.arange(0, 2**64 - 1, 2**54, dtype=np.uint64)

        def owners(routes: Routes) -> list[str]:
            return [routes.ring.nodes[owner] for owner in routes.ring.owners(keys)]

        pairs = list(zip(owners(two), owners(three), strict=True))
        moved = [after for before, after in pairs if before != after]
        assert set(moved) == {"shard-2"}, "only what it wins moves"
        assert 0.2 < len(moved) / len(keys) < 0.5
        await publish(one, led, {"shard-2": 9}, {}, decision=3, shards=tuple(led), retiring=("shard-2",))
        back = Routes.from_plain(await one.routes({}))
        assert owners(back) == owners(two)
        assert back.leader("shard-2").epoch == 3, "what is on its way there comes to its end"
        assert back.shards == tuple(led), "and readers ask it"
        await publish(one, {shard: led[shard] for shard in SHARDS}, {}, {}, decision=3)
        gone = Routes.from_plain(await one.routes({}))
        assert (gone.shards, gone.committed) == (SHARDS, {})

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_whoever_does_not_know_the_latest_decision_tells_nothing() -> None:
    async def play() -> None:
        one = router()
        await publish(one, LED, {}, {}, decision=5)
        await publish(one, {}, {}, {}, decision=4, shards=("shard-0",))
        found = await one.routes({})
        assert (found["shards"], set(found["leaders"])) == (list(SHARDS), {"shard-0"})

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))
