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


def home_of(
    actor: str,
    nodes: Sequence[Node],
    homes: Mapping[str, Node],
    journals: Mapping[str, Collection[str]],
    *,
    anywhere: bool,
) -> Node | None:
    """The node on which ``actor`` should begin; None: it waits for the one that has its journals.

    ``homes`` is where the others live; ``journals`` says, by node id, whose journals a node has. With ``anywhere``, an
    actor without journals goes to the node with the fewest actors, then to the emptiest host and zone.

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

    def crowded(node: Node) -> tuple[bool, int, int, int]:
        elsewhere = bool(having) and before is not None and node.host != before.host
        return elsewhere, on_node[node.id], on_host[node.host], in_zone[node.zone]

    return min(chosen, key=crowded, default=None)
