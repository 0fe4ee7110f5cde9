from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringlog.control.homes import Node, home_of

A, B, C = (Node(str(number), f"10.0.0.{number}", f"zone-{number % 2}") for number in (1, 2, 3))


def placed(actors: int, nodes: list[Node]) -> dict[str, Node]:
    homes: dict[str, Node] = {}
    for number in range(actors):
        home = home_of(f"shard-{number}", nodes, homes, {}, anywhere=True)
        assert home is not None
        homes[f"shard-{number}"] = home
    return homes


@given(st.integers(1, 12), st.integers(1, 6))
def test_new_actors_are_spread_evenly_and_neighbours_are_apart(actors: int, count: int) -> None:
    nodes = [Node(str(number), f"host-{number}") for number in range(count)]
    homes = placed(actors, nodes)
    counts = [list(homes.values()).count(node) for node in nodes]
    assert max(counts) - min(counts) <= 1
    for first in range(actors - 1):
        if count > 1:
            assert homes[f"shard-{first}"] != homes[f"shard-{first + 1}"]


def test_two_raylets_on_one_host_count_as_one_place() -> None:
    twin = Node("4", A.host)
    homes = placed(2, [A, twin, B])
    assert {home.host for home in homes.values()} == {A.host, B.host}


def test_an_actor_goes_where_its_journals_are_however_crowded() -> None:
    homes = {"shard-1": A, "shard-2": A}
    assert home_of("shard-0", [A, B], homes, {A.id: {"shard-0"}}, anywhere=True) == A


def test_an_actor_whose_journals_are_away_waits_for_them_until_it_may_go_anywhere() -> None:
    homes = {"shard-0": C, "shard-1": A}
    assert home_of("shard-0", [A, B], homes, {A.id: {"shard-1"}}, anywhere=False) is None
    assert home_of("shard-0", [A, B], homes, {A.id: {"shard-1"}}, anywhere=True) == B


def test_of_two_that_have_its_journals_the_host_it_was_on_wins() -> None:
    again = Node("9", B.host)
    journals = {A.id: {"shard-0"}, again.id: {"shard-0"}}
    assert home_of("shard-0", [A, again], {"shard-0": B}, journals, anywhere=False) == again


def test_without_nodes_there_is_no_home() -> None:
    assert home_of("shard-0", [], {}, {}, anywhere=True) is None
