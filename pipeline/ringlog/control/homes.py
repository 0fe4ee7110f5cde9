"""On which node each shard actor lives. Its journals are there: it goes nowhere else while that node may come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A node that is alive: its id in this life, and where it is."""

    id: str
    host: str
    zone: str = ""


@dataclass(frozen=True)
class Move:
    """``actor`` should begin anew on the node ``to``.

    ``parts``: it shares its node with another member of one of its shards, of which that node's end would take two
    copies.
    """

    actor: str
    to: Node
    parts: bool


def home_of(
    actor: str,
    nodes: Sequence[Node],
    homes: Mapping[str, Node],
    journals: Mapping[str, Collection[str]],
    *,
    anywhere: bool,
    groups: Sequence[Collection[str]] = (),
) -> Node | None:
    """The node on which ``actor`` should begin; None: it waits for the one that has its journals.

    ``homes`` is where the others live; ``journals`` says, by node id, whose journals a node has; ``groups`` are the
    actors that keep one shard together. With ``anywhere``, an actor without journals goes where it is least crowded:
    away from those with which it keeps a shard, then to the node with the fewest actors, the emptiest host and zone.

    >>> a, b = Node("1", "10.0.0.1"), Node("2", "10.0.0.2")
    >>> home_of("shard-1", [a, b], {"shard-0": a}, {}, anywhere=True).host
    '10.0.0.2'
    >>> home_of("shard-1", [a, b], {}, {"1": {"shard-1"}}, anywhere=False).host
    '10.0.0.1'
    """
    having = [node for node in nodes if actor in journals.get(node.id, ())]
    chosen = having or (nodes if anywhere else ())
    before = homes.get(actor)
    others = [home for name, home in homes.items() if name != actor]
    on_node = Counter(home.id for home in others)
    on_host = Counter(home.host for home in others)
    in_zone = Counter(home.zone for home in others)

    def crowded(node: Node) -> tuple[int, ...]:
        elsewhere = bool(having) and before is not None and node.host != before.host
        together = _together(groups, {**homes, actor: node})
        return elsewhere, *together, on_node[node.id], on_host[node.host], in_zone[node.zone]

    return min(chosen, key=crowded, default=None)


def next_move(
    groups: Sequence[Collection[str]],
    homes: Mapping[str, Node],
    nodes: Sequence[Node],
    roomy: Collection[str],
) -> Move | None:
    """The one move that does most for the spread of the actors over ``nodes``, those that are alive and stay.

    None where no single move makes it better: first, fewer members of one shard on one node, then on one host, then in
    one zone, then a node with two actors fewer than another is used. So whoever asks again after each move comes to an
    end. Only nodes whose ids are ``roomy`` take one more. While some actor's node is not there, nothing moves: it may
    come back.

    >>> a, b = Node("1", "10.0.0.1"), Node("2", "10.0.0.2")
    >>> next_move([("shard-0", "shard-1")], {"shard-0": a, "shard-1": a}, [a, b], {"2"})
    Move(actor='shard-0', to=Node(id='2', host='10.0.0.2', zone=''), parts=True)
    """
    if any(home not in nodes for home in homes.values()):
        return None

    def crowding(after: Mapping[str, Node]) -> tuple[int, ...]:
        uneven = sum(count * count for count in Counter(home.id for home in after.values()).values())
        return *_together(groups, after), uneven

    moves = [(actor, node) for actor in sorted(homes) for node in nodes if node != homes[actor] and node.id in roomy]
    found = [(crowding({**homes, actor: node}), actor, node) for actor, node in moves]
    best = min(found, key=lambda one: one[0], default=None)
    if best is None or best[0] >= crowding(homes):
        return None
    after, actor, node = best
    return Move(actor, node, parts=after[0] < crowding(homes)[0])


def _together(groups: Sequence[Collection[str]], homes: Mapping[str, Node]) -> tuple[int, int, int]:
    """How many actors share a node, a host and a zone with another of their group; those without a home do not."""
    nodes = hosts = zones = 0
    for group in groups:
        lived = [homes[actor] for actor in group if actor in homes]
        nodes += len(lived) - len({home.id for home in lived})
        hosts += len(lived) - len({home.host for home in lived})
        zones += len(lived) - len({home.zone for home in lived})
    return nodes, hosts, zones
