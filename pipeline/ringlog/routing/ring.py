"""A hash ring: each node owns the arcs that end at its virtual nodes.

Consistent hashing after Karger et al. (STOC 1997); bounded loads after Mirrokni, Thorup and Zadimoghaddam (SODA 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xxhash

from ringlog.errors import Unavailable

VIRTUAL_NODES = 128

Hashes = npt.NDArray[np.uint64]


def key_hash(key: bytes) -> int:
    """The place of ``key`` on the ring: its 64-bit xxh3."""
    return int(xxhash.xxh3_64_intdigest(key))


class Ring:
    """An immutable ring over the nodes of ``weights``; a node of weight 1 has `VIRTUAL_NODES` virtual nodes.

    The n-th virtual node of a name always lies at the same place. So when a weight changes, or a node comes or goes,
    the only keys that move are those that it wins or loses.

    >>> ring = Ring({"shard-0": 1.0, "shard-1": 1.0})
    >>> ring.owner(b"train") == ring.owner(b"train")
    True
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.nodes = tuple(sorted(weights))
        places: list[Hashes] = []
        owners: list[npt.NDArray[np.int64]] = []
        for index, node in enumerate(self.nodes):
            count = max(1, round(VIRTUAL_NODES * weights[node]))
            hashes = [key_hash(f"{node}#{number}".encode()) for number in range(count)]
            places.append(np.array(hashes, dtype=np.uint64))
            owners.append(np.full(count, index, dtype=np.int64))
        if not places:
            raise Unavailable("no shard has a leader now: look at `ringlog status`, and try again")
        joined = np.concatenate(places)
        order = np.argsort(joined, kind="stable")
        self._places = joined[order]
        self._owners = np.concatenate(owners)[order]

    def owners(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """For each hash the index in `nodes` of its owner: that of the first virtual node at or after it."""
        at = np.searchsorted(self._places, hashes, side="left")
        return self._owners[at % len(self._places)]

    def owner(self, key: bytes) -> str:
        """The node that owns ``key``."""
        return self.nodes[int(self.owners(np.array([key_hash(key)], dtype=np.uint64))[0])]

    def walk(self, hash: int) -> list[int]:
        """The nodes' indices in the order in which they are met from ``hash`` on, each once."""
        first = int(np.searchsorted(self._places, np.uint64(hash), side="left"))
        met = np.concatenate((self._owners[first:], self._owners[:first]))
        _, where = np.unique(met, return_index=True)
        return [int(met[at]) for at in sorted(where)]


def bounded_owners(
    ring: Ring, hashes: Hashes, key_loads: npt.NDArray[np.float64], bound: float = 1.25
) -> npt.NDArray[np.int64]:
    """The owner of each key such that no node carries more than ``bound`` times its even share, plus one key.

    Keys are placed in their order; each goes to the first node from its place on that has room.
    """
    capacity = bound * float(key_loads.sum()) / len(ring.nodes)
    loads = [0.0] * len(ring.nodes)
    placed = np.empty(len(hashes), dtype=np.int64)
    for at, (hash, load) in enumerate(zip(hashes.tolist(), key_loads.tolist(), strict=True)):
        path = ring.walk(hash)
        owner = next((node for node in path if loads[node] + load <= capacity), None)
        if owner is None:  # no node has room for a key this heavy: the emptiest takes it
            owner = min(path, key=lambda node: (loads[node], path.index(node)))
        loads[owner] += load
        placed[at] = owner
    return placed


def even_share(loads: Mapping[str, float]) -> float:
    """The mean of ``loads``, 0.0 for none."""
    return math.fsum(loads.values()) / len(loads) if loads else 0.0
