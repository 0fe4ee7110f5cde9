"""Routes: who leads which shard now, and how records are spread over the shards. A value with a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ringlog.errors import Unavailable
from ringlog.routing.ring import Hashes, Ring, key_hash


@dataclass(frozen=True)
class Leading:
    """The leader of ``shard``: its shard actor, where that listens, and the epoch."""

    shard: str
    actor: str
    location: str
    epoch: int


@dataclass(frozen=True)
class Routes:
    """One version of the routes. ``shards`` are all there are; those without an entry in ``leaders`` are unavailable.

    ``committed`` is how far each shard was at least when the routes were made. ``weights`` scale each shard's part of
    the ring; ``loads`` are bytes per second, for the choice between two; ``pins`` name the shard of those few heavy
    keys that bounded loads put elsewhere than the ring does.
    """

    version: int
    shards: tuple[str, ...]
    leaders: Mapping[str, Leading]
    committed: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    loads: Mapping[str, float] = field(default_factory=dict)
    pins: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def ring(self) -> Ring:
        """The ring over the shards that have a leader. Raises `Unavailable` when none has."""
        return Ring({shard: self.weights.get(shard, 1.0) for shard in self.leaders})

    def leader(self, shard: str) -> Leading:
        """The leader of ``shard``. Raises `Unavailable` when it has none."""
        leading = self.leaders.get(shard)
        if leading is None:
            raise Unavailable(f"{shard} has no leader now: look at `ringlog status`, and try again")
        return leading

    @property
    def missing(self) -> tuple[str, ...]:
        """The shards without a leader."""
        return tuple(shard for shard in self.shards if shard not in self.leaders)

    def assign(self, batch: pa.RecordBatch, draws: tuple[float, float]) -> list[tuple[str, pa.RecordBatch]]:
        """Cut ``batch`` (of `RECORD_SCHEMA`) by shard; within a shard the records keep their order.

        Records with a service go where the ring says for their (tenant, service). Those without go, together, to the
        lighter of two shards that ``draws``, two numbers in [0, 1), choose.
        """
        hashes, keyless = key_hashes(batch)
        owners = self.ring.owners(hashes)
        for hash, shard in self.pins.items():
            if shard in self.leaders:
                owners[hashes == np.uint64(hash)] = self.ring.nodes.index(shard)
        if keyless.any():
            owners = np.where(keyless, self._lighter(draws), owners)
        present = np.unique(owners)
        if len(present) == 1:
            return [(self.ring.nodes[int(present[0])], batch)]
        return [(self.ring.nodes[int(node)], batch.filter(pa.array(owners == node))) for node in present]

    def _lighter(self, draws: tuple[float, float]) -> int:
        """Power of two choices (Mitzenmacher 2001): the lighter of two different shards."""
        nodes = self.ring.nodes
        first = int(draws[0] * len(nodes))
        if len(nodes) == 1:
            return first
        second = (first + 1 + int(draws[1] * (len(nodes) - 1))) % len(nodes)
        return min(first, second, key=lambda node: self.loads.get(nodes[node], 0.0))

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as they travel."""
        return {
            "version": self.version,
            "shards": list(self.shards),
            "leaders": {shard: asdict(leading) for shard, leading in self.leaders.items()},
            "committed": dict(self.committed),
            "weights": dict(self.weights),
            "loads": dict(self.loads),
            "pins": dict(self.pins),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Routes:
        """The routes that `to_plain` described."""
        leaders = {shard: Leading(**leading) for shard, leading in plain["leaders"].items()}
        spread = (plain[name] for name in ("committed", "weights", "loads", "pins"))
        return cls(plain["version"], tuple(plain["shards"]), leaders, *spread)


def key_hashes(batch: pa.RecordBatch) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """The place on the ring of each record's key, (tenant, service), and which records have no service, so no key.

    Few keys, many records: each distinct key is hashed once.
    """
    tenants = batch["tenant"].fill_null("").dictionary_encode()
    services = batch["service"].fill_null("").dictionary_encode()
    keyless = np.asarray(pc.is_null(batch["service"]).to_numpy(zero_copy_only=False), dtype=bool)
    width = max(1, len(services.dictionary))
    pairs = tenants.indices.to_numpy().astype(np.int64) * width + services.indices.to_numpy()
    distinct, which = np.unique(pairs, return_inverse=True)
    tenant_words, service_words = tenants.dictionary.to_pylist(), services.dictionary.to_pylist()
    keys = [f"{tenant_words[pair // width]}\0{service_words[pair % width]}".encode() for pair in distinct.tolist()]
    hashes = np.array([key_hash(key) for key in keys], dtype=np.uint64)
    return hashes[which], keyless
