"""Which node a shard actor is pinned to: the one that has its journals. Ray restarts it there, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ringlog.control.homes import Node, home_of
from ringlog.errors import Unavailable

_logger = logging.getLogger(__name__)

LOOK_DEADLINE_S = 15.0
"""How long a node may take to say whose journals it has; one that is slower is left out for now."""
_ZONE_LABEL = "ray.io/availability-zone"


class Homes:
    """The homes of the actors of one pipeline, whose journals are under ``folder`` on every node."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._homes: dict[str, Node] = {}
        self._told_to_end: frozenset[str] = frozenset()  # ids of nodes, also of those that are gone by now

    def note(self, actor: str, node_id: str) -> None:
        """``actor`` says that it runs on this node."""
        if actor in self._homes and self._homes[actor].id == node_id:
            return
        found = next((node for node in alive_nodes() if node.id == node_id), None)
        if found is not None:
            self._homes[actor] = found

    def leaving(self) -> frozenset[str]:
        """The actors that live on a node that was told to end, or did until it ended."""
        self._told_to_end |= draining_nodes()
        return frozenset(actor for actor, home in list(self._homes.items()) if home.id in self._told_to_end)

    def is_there(self, actor: str) -> bool:
        """Whether the node on which ``actor`` lives is alive: then it is Ray's to restart it."""
        return actor in self._homes and self._homes[actor].id in {node.id for node in alive_nodes()}

    def choose(self, actor: str, *, anywhere: bool) -> NodeAffinitySchedulingStrategy:
        """Where ``actor`` should begin. ``anywhere``: its journals are gone for good, or there never were any.

        Raises `Unavailable` where it must wait for the node that has them.
        """
        draining = draining_nodes()
        nodes = [node for node in alive_nodes() if node.id not in draining]
        journals = {} if anywhere and actor not in self._homes else _journals(nodes, self._folder)
        home = home_of(actor, nodes, self._homes, journals, anywhere=anywhere)
        if home is None:
            where = self._homes[actor].host if actor in self._homes else "a node that is not there"
            raise Unavailable(f"{actor} waits for its journals, on {where}: start that node again, and nothing is lost")
        self._homes[actor] = home
        return NodeAffinitySchedulingStrategy(home.id, soft=False)


def alive_nodes() -> list[Node]:
    """The nodes of this Ray cluster that are alive, in the order of their ids."""
    nodes = [
        Node(one["NodeID"], one["NodeManagerAddress"], one.get("Labels", {}).get(_ZONE_LABEL, ""))
        for one in ray.nodes()
        if one["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.host, node.id))


def draining_nodes() -> frozenset[str]:
    """The ids of the nodes that were told to end, by an autoscaler or the owner of the machine.

    Ray has no public way to ask for them; its own libraries ask like this.
    """
    return frozenset(ray._private.state.state.get_draining_nodes())


def _journals(nodes: list[Node], folder: str) -> Mapping[str, frozenset[str]]:
    """By node id: the actors that have journals there."""
    look = ray.remote(num_cpus=0, max_retries=0)(_actors_with_journals)
    asked = {
        node.id: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(folder)
        for node in nodes
    }
    ready: list[Any] = ray.wait(list(asked.values()), num_returns=len(asked), timeout=LOOK_DEADLINE_S)[0]
    found: dict[str, frozenset[str]] = {}
    for id, answer in asked.items():
        if answer not in ready:
            continue
        try:
            found[id] = frozenset(ray.get(answer, timeout=LOOK_DEADLINE_S))
        except (GetTimeoutError, RayError) as error:
            _logger.warning("node %s does not say whose journals it has: %s", id, error)
    return found


def _actors_with_journals(folder: str) -> list[str]:
    return sorted({path.parent.parent.name for path in Path(folder).glob("*/*/state.json")})
