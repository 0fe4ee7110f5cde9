from __future__ import annotations

import asyncio
from typing import Any

from ringlog.actors.router import Router

LED = {"shard-0": {"shard": "shard-0", "actor": "shard-0", "location": "grpc://here:1", "epoch": 3}}
LONG_S = 60.0


def router() -> Router:
    return Router(("shard-0", "shard-1"), rebalance_interval_s=LONG_S)


def test_who_knows_older_routes_is_answered_at_once() -> None:
    async def play() -> None:
        one = router()
        before = await one.routes({})
        assert before["leaders"] == {}
        await one.publish(LED, {"shard-0": 7}, {})
        found = await one.routes({}, known=before["version"], wait_s=LONG_S)
        assert (found["leaders"]["shard-0"]["epoch"], found["committed"]) == (3, {"shard-0": 7})

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_who_knows_the_newest_hears_of_newer_ones_as_soon_as_there_are() -> None:
    async def play() -> None:
        one = router()
        known = (await one.routes({}))["version"]
        asked = [asyncio.create_task(one.routes({}, known, LONG_S)) for _ in range(100)]
        await asyncio.sleep(0)  # each has begun to wait
        assert not any(task.done() for task in asked)
        await one.publish(LED, {}, {})
        answers: list[dict[str, Any]] = await asyncio.gather(*asked)
        assert {answer["leaders"]["shard-0"]["actor"] for answer in answers} == {"shard-0"}

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))


def test_where_nothing_changes_the_old_ones_come_in_the_end() -> None:
    async def play() -> None:
        one = router()
        await one.publish(LED, {}, {})
        before = await one.routes({})
        waiting = asyncio.create_task(one.routes({}, before["version"], 0.05))
        await one.publish(LED, {"shard-0": 9}, {"shard-0": 1000})  # only what changes all the time
        found = await waiting
        assert (found["version"], found["committed"]) == (before["version"], {"shard-0": 9})

    asyncio.run(asyncio.wait_for(play(), LONG_S / 2))
