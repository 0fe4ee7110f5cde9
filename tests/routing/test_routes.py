from __future__ import annotations

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlog.errors import Unavailable
from ringlog.routing import Keys, Leading, Routes
from ringlog.schema import RECORD_SCHEMA

SHARDS = ("shard-0", "shard-1", "shard-2")
draws = st.tuples(st.floats(0, 0.999), st.floats(0, 0.999))


def routes(led: tuple[str, ...] = SHARDS, **fields: object) -> Routes:
    leaders = {shard: Leading(shard, shard, "grpc://x:1", 1) for shard in led}
    return Routes(1, SHARDS, leaders, **fields)  # type: ignore[arg-type]


def assign(over: Routes, records: pa.RecordBatch, draw: tuple[float, float]) -> list[tuple[str, pa.RecordBatch]]:
    return over.assign(records, Keys.of(records), draw)


def batch(services: list[str | None]) -> pa.RecordBatch:
    rows = [{"body": str(number), "service": service, "tenant": "default"} for number, service in enumerate(services)]
    return pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA)


@given(st.lists(st.one_of(st.none(), st.sampled_from([f"s{n}" for n in range(20)])), min_size=1), draws)
@settings(max_examples=50)
def test_every_record_goes_somewhere_once_in_order(services: list[str | None], draw: tuple[float, float]) -> None:
    parts = assign(routes(), batch(services), draw)
    assert len({shard for shard, _ in parts}) == len(parts)
    bodies = [[int(body) for body in part["body"].to_pylist()] for _, part in parts]
    assert sorted(number for part in bodies for number in part) == list(range(len(services)))
    assert all(part == sorted(part) for part in bodies)


@given(st.lists(st.sampled_from("abcdef"), min_size=1), draws, draws)
@settings(max_examples=25)
def test_a_service_stays_on_its_shard(
    services: list[str], one: tuple[float, float], other: tuple[float, float]
) -> None:
    def where(draw: tuple[float, float]) -> dict[str, str]:
        return {
            service: shard
            for shard, part in assign(routes(), batch(list(services)), draw)
            for service in part["service"].to_pylist()
        }

    assert where(one) == where(other)


@given(draws)
def test_keyless_records_go_together_to_the_lighter_of_two(draw: tuple[float, float]) -> None:
    loads = {"shard-0": 5.0, "shard-1": 1.0, "shard-2": 9.0}
    ((shard, part),) = assign(routes(loads=loads), batch([None] * 10), draw)
    assert part.num_rows == 10
    assert shard != "shard-2", "the heaviest of three is never the lighter of two"


def test_a_shard_without_a_leader_gets_nothing_and_the_others_keep_their_keys() -> None:
    services = [f"s{number}" for number in range(200)]
    full = {
        service: shard
        for shard, part in assign(routes(), batch(services), (0, 0))
        for service in part["service"].to_pylist()
    }
    less = {
        service: shard
        for shard, part in assign(routes(("shard-0", "shard-2")), batch(services), (0, 0))
        for service in part["service"].to_pylist()
    }
    assert "shard-1" not in less.values()
    assert all(less[service] == shard for service, shard in full.items() if shard != "shard-1")
    assert routes(("shard-0", "shard-2")).missing == ("shard-1",)


def test_a_pin_overrides_the_ring_while_its_shard_is_led() -> None:
    one = batch(["heavy"])
    key = int(Keys.of(one).hashes[0])
    home = assign(routes(), one, (0, 0))[0][0]
    other = next(shard for shard in SHARDS if shard != home)
    assert assign(routes(pins={key: other}), one, (0, 0))[0][0] == other
    led = tuple(shard for shard in SHARDS if shard != other)
    assert assign(routes(led, pins={key: other}), one, (0, 0))[0][0] != other


def test_a_batch_for_one_shard_is_not_copied() -> None:
    one = batch(["a"] * 5)
    ((_, part),) = assign(routes(), one, (0, 0))
    assert part is one


def test_tenants_have_keys_of_their_own() -> None:
    rows = [{"service": "s", "tenant": tenant} for tenant in ("a", "b")]
    keys = Keys.of(pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA))
    assert len(set(keys.hashes.tolist())) == 2
    assert keys.keyless is None


def test_keys_are_counted_without_the_keyless() -> None:
    keys = Keys.of(batch(["a", None, "b", "a", None]))
    (a,), (b,) = (Keys.of(batch([one])).hashes.tolist() for one in "ab")
    assert keys.loads() == {a: 2, b: 1}
    assert keys.keyless is not None
    assert keys.counts[keys.keyless] == 2
    nothing = Keys.of(pa.RecordBatch.from_pydict({"body": ["x", "y"]}))
    assert nothing.loads() == {}
    assert nothing.keyless is not None


def test_nobody_leads() -> None:
    with pytest.raises(Unavailable):
        assign(routes(()), batch(["a"]), (0, 0))
    with pytest.raises(Unavailable, match="shard-1"):
        routes(("shard-0",)).leader("shard-1")


def test_routes_survive_their_plain_form() -> None:
    one = routes(("shard-0",), weights={"shard-0": 0.5}, loads={"shard-0": 3.0}, pins={2**63 + 1: "shard-0"})
    assert Routes.from_plain(one.to_plain()) == one
    assert orjson.dumps(one.to_plain(), option=orjson.OPT_NON_STR_KEYS)
