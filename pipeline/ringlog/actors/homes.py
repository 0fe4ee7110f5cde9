"""Which node a shard actor is pinned to: the one that has its journals. Ray restarts it there, and nowhere else."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ringlog.control.homes import Move, Node, home_of, next_move
from ringlog.errors import CorruptionError, Unavailable
from ringlog.storage.journal import LOST, STATE, read_state

_logger = logging.getLogger(__name__)

LOOK_DEADLINE_S = 15.0
"""How long a node may take to say whose journals it has; one that is slower is left out for now."""
_ZONE_LABEL = "ray.io/availability-zone"


@dataclass(frozen=True)
class Kept:
    """A journal: of which shard, who it is, and the epoch that it has promised."""

    shard: str
    id: str
    promised: int


class Homes:
    """The homes of the actors of one pipeline, whose journals are under ``folder`` on every node.

    ``memory_bytes`` is what an actor asks of its node.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder = str(folder)
        self._memory_bytes = memory_bytes
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

    def choose(
        self, actor: str, counted: Collection[str], groups: Sequence[Collection[str]], *, anywhere: bool, full: bool
    ) -> NodeAffinitySchedulingStrategy:
        """Where ``actor`` should begin. ``counted`` are the ids of its journals that some shard counts on.

        ``groups`` are the actors that keep one shard together. ``anywhere``: it may go on without those journals; where
        nobody counts on any it always may. ``full``: where it should be has no room, so it goes where there is some.
        Raises `Unavailable` where it must wait for the node that has its journals, or for any that has room.
        """
        nodes = [node for node in staying_nodes() if not full or self.has_room(node)]
        if full and not nodes:
            raise Unavailable(f"{actor} waits for {self._memory_bytes} bytes of memory: add a node that has them")
        journals = _journals(nodes, self._folder, actor, {*counted}) if counted else {}
        having = {id: {name for name, ids in there.items() if ids & set(counted)} for id, there in journals.items()}
        home = home_of(actor, nodes, self._homes, having, anywhere=anywhere or not counted, groups=groups)
        if home is None:
            where = self._homes[actor].host if actor in self._homes else "a node that is not there"
            raise Unavailable(f"{actor} waits for its journals, on {where}: start that node again, and nothing is lost")
        return self.settle(actor, home)

    def settle(self, actor: str, home: Node) -> NodeAffinitySchedulingStrategy:
        """From now on, ``actor`` lives on ``home``."""
        self._homes[actor] = home
        return NodeAffinitySchedulingStrategy(home.id, soft=False)

    def has_room(self, node: Node) -> bool:
        """Whether one more actor would begin on ``node`` at once."""
        return node.id in _roomy(self._memory_bytes)

    def next_move(self, actors: Collection[str], groups: Sequence[Collection[str]]) -> Move | None:
        """What should move now, to have ``actors`` better spread over the nodes; see `control.homes.next_move`."""
        homes = {actor: home for actor, home in list(self._homes.items()) if actor in actors}
        return next_move(groups, homes, staying_nodes(), _roomy(self._memory_bytes))

    def journals(self, actor: str) -> list[Kept]:
        """What ``actor`` has on the node where it lives; where that is not known, every node looks."""
        return [
            Kept(*one) for found in _on(self._lived(actor), _kept, f"{self._folder}/{actor}").values() for one in found
        ]

    def forget_journals(self, actor: str, journals: Collection[Kept]) -> None:
        """Remove these of ``actor``, which must have ended. Where a node does not answer they stay: they cost room.

        One that has promised a later epoch by then stays too: its actor began again there, and may be counted on.
        """
        _on(self._lived(actor), _remove_journals, f"{self._folder}/{actor}", [astuple(one) for one in journals])

    def _lived(self, actor: str) -> list[Node]:
        return [node for node in alive_nodes() if actor not in self._homes or self._homes[actor].id == node.id]


def alive_nodes() -> list[Node]:
    """The nodes of this Ray cluster that are alive, in the order of their ids."""
    nodes = [
        Node(one["NodeID"], one["NodeManagerAddress"], one.get("Labels", {}).get(_ZONE_LABEL, ""))
        for one in ray.nodes()
        if one["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.host, node.id))


def staying_nodes() -> list[Node]:
    """Those of them that were not told to end."""
    draining = draining_nodes()
    return [node for node in alive_nodes() if node.id not in draining]


def draining_nodes() -> frozenset[str]:
    """The ids of the nodes that were told to end, by an autoscaler or the owner of the machine.

    Ray has no public way to ask for them; its own libraries ask like this.
    """
    return frozenset(ray._private.state.state.get_draining_nodes())


def _roomy(memory_bytes: int) -> frozenset[str]:
    """The ids of the nodes that have so much memory to give: an actor would wait for it for ever on another."""
    free = ray._private.state.available_resources_per_node()
    return frozenset(id for id, resources in free.items() if resources.get("memory", 0) >= memory_bytes)


def _journals(nodes: list[Node], folder: str, actor: str, counted: set[str]) -> Mapping[str, Mapping[str, set[str]]]:
    """By node id: the ids of the journals that each actor has there. All of ``counted`` of ``actor`` are enough."""

    def all_found(found: Mapping[str, Any]) -> bool:
        return counted <= {id for journals in found.values() for id in journals.get(actor, ())}

    found = _on(nodes, _ids_of_journals, folder, enough=all_found)
    return {id: {name: set(ids) for name, ids in journals.items()} for id, journals in found.items()}


def _on(
    nodes: list[Node],
    function: Any,
    *arguments: Any,
    enough: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> dict[str, Any]:
    """What ``function`` returns on each node, by the node's id; without those that do not say it in time.

    There it is ended, or never begins. Nobody is waited for once what was said is ``enough``: a node that is just
    dying says nothing for long.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            *arguments
        ): node.id
        for node in nodes
    }
    deadline = time.monotonic() + LOOK_DEADLINE_S
    found: dict[str, Any] = {}
    waiting = list(asked)
    while waiting and not enough(found):
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        [answer] = ready
        try:
            found[asked[answer]] = ray.get(answer, timeout=LOOK_DEADLINE_S)
        except (GetTimeoutError, RayError) as error:
            _logger.warning("node %s gives no answer about its journals: %s", asked[answer], error)
    for answer in waiting if time.monotonic() >= deadline else ():
        _logger.warning("node %s says nothing about its journals for %g s", asked[answer], LOOK_DEADLINE_S)
        ray.cancel(answer, force=True)
    return found


def _ids_of_journals(folder: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in Path(folder).glob(f"*/*/{STATE}"):
        try:
            kept = read_state(path)
        except CorruptionError as error:  # it is nobody any more: whoever opens it sets it aside
            _logger.warning("%s", error)
            continue
        if kept is not None:  # else it was just removed
            found.setdefault(path.parent.parent.name, []).append(kept["id"])
    return found


def _kept(folder: str) -> list[tuple[str, str, int]]:
    """The journals in the folder of one actor, as the fields of `Kept`."""
    found = []
    for path in Path(folder).glob(f"*/{STATE}"):
        try:
            state = read_state(path)
        except CorruptionError as error:  # it is nobody any more, and stays for somebody to look at
            _logger.warning("%s", error)
            continue
        if state is not None:
            found.append((state["shard"], state["id"], state["promised"]))
    return found


def _remove_journals(folder: str, journals: list[tuple[str, str, int]]) -> None:
    """Of these, those that are as they were; but for those in which something was set aside for somebody to look at."""
    for one in _kept(folder):
        journal = Path(folder) / one[0]
        if one in journals and not list(journal.glob(f"{LOST}*")):
            shutil.rmtree(journal)
