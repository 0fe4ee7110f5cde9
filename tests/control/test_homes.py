from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence

from hypothesis import given
from hypothesis import strategies as st

from ringlog.control import members_of, shard_names
from ringlog.control.homes import Move, Node, home_of, next_move

A, B, C = (Node(str(number), f"10.0.0.{number}", f"zone-{number % 2}") for number in (1, 2, 3))


def placed(actors: int, nodes: list[Node], together: Sequence[Collection[str]] = ()) -> dict[str, Node]:
    homes: dict[str, Node] = {}
    for number in range(actors):
        home = home_of(f"shard-{number}", nodes, homes, {}, anywhere=True, groups=together)
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


def groups(actors: int, replicas: int = 3) -> list[tuple[str, ...]]:
    names = shard_names(actors)
    return [members_of(shard, names, names, min(replicas, actors)) for shard in names]


def settled(homes: dict[str, Node], nodes: list[Node], together: list[tuple[str, ...]]) -> tuple[dict[str, Node], int]:
    """Where all live once no move is wanted any more, and how many it took."""
    roomy = {node.id for node in nodes}
    for moves in range(200):
        move = next_move(together, homes, nodes, roomy)
        if move is None:
            return homes, moves
        homes = {**homes, move.actor: move.to}
    raise AssertionError("the moves come to no end")


def test_a_node_that_joins_gets_the_member_that_shared_a_node() -> None:
    homes = {"shard-0": A, "shard-1": B, "shard-2": B, "shard-3": C}
    joined = Node("4", "10.0.0.4", "zone-2")
    nodes = [A, B, C, joined]
    move = next_move(groups(4), homes, nodes, {joined.id})
    assert move == Move("shard-1", joined, parts=True)
    assert next_move(groups(4), {**homes, "shard-1": joined}, nodes, {node.id for node in nodes}) is None


def test_one_more_than_another_is_even_and_two_more_are_not() -> None:
    homes = {"shard-0": A, "shard-1": A}
    assert next_move([("shard-0",), ("shard-1",)], {**homes, "shard-2": B}, [A, B], {A.id, B.id}) is None
    assert next_move([("shard-0",), ("shard-1",)], homes, [A, B], {B.id}) == Move("shard-0", B, parts=False)


def test_nothing_moves_while_a_node_is_away_or_where_there_is_no_room() -> None:
    homes = {"shard-0": A, "shard-1": A, "shard-2": C}
    assert next_move(groups(3), homes, [A, B], {B.id}) is None, "C may come back"
    assert next_move(groups(3), homes, [A, B, C], {A.id, C.id}) is None, "B has no memory for one more"
    assert next_move(groups(3), homes, [A, B, C], {B.id}) == Move("shard-0", B, parts=True)


def test_hosts_count_before_zones() -> None:
    twin, far = Node("5", A.host, "far"), Node("6", "10.0.0.6", A.zone)
    homes = {"shard-0": A, "shard-1": A}
    assert next_move([tuple(homes)], homes, [A, twin, far], {twin.id, far.id}) == Move("shard-0", far, parts=True)


@given(st.integers(1, 9), st.integers(1, 8), st.randoms(use_true_random=False))
def test_moves_come_to_an_end_whoever_lives_where(actors: int, count: int, draw: random.Random) -> None:
    nodes = [Node(str(number), f"host-{number // 2}", f"zone-{number % 3}") for number in range(count)]
    homes = {actor: draw.choice(nodes) for actor in shard_names(actors)}
    after, moves = settled(homes, nodes, groups(actors))
    assert moves <= 4 * actors
    counts = Counter(home.id for home in after.values())
    if count >= 5 and actors > 4:  # whoever shares a node finds one where none of its four neighbours lives
        assert all(len({after[actor].id for actor in group}) == 3 for group in groups(actors))
    if count <= 1 or actors == 1:
        assert moves == 0
    assert sum(counts.values()) == actors


@given(st.integers(3, 9), st.integers(3, 8))
def test_a_cluster_that_was_spread_when_it_began_stays_as_it_is_or_nearly(actors: int, count: int) -> None:
    nodes = [Node(str(number), f"host-{number}") for number in range(count)]
    homes = placed(actors, nodes, groups(actors))
    _, moves = settled(homes, nodes, groups(actors))
    assert moves <= 2
