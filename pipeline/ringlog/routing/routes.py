"""Routes: who leads which shard now, and how records are spread over the shards. A value with a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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

    ``retiring`` are those among them that take no new records: what is on its way there comes to its end.

    Versions of one ``router`` follow on one another; those of two say nothing about which is newer.

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
    retiring: tuple[str, ...] = ()
    router: str = ""

    def replaces(self, other: Routes) -> bool:
        """Whether whoever has ``other`` and has just got these goes by these: of another router, or at least as new."""
        return self.router != other.router or self.version >= other.version

    @cached_property
    def ring(self) -> Ring:
        """The ring over the shards that have a leader and take records. Raises `Unavailable` when there is none."""
        return Ring({shard: self.weights.get(shard, 1.0) for shard in self.leaders if shard not in self.retiring})

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

    def assign(self, batch: pa.RecordBatch, keys: Keys, draws: tuple[float, float]) -> list[tuple[str, pa.RecordBatch]]:
        """Cut ``batch``, whose ``keys`` are given, by shard; within a shard the records keep their order.

        Records with a service go where the ring says for their (tenant, service). Those without go, together, to the
        lighter of two shards that ``draws``, two numbers in [0, 1), choose.
        """
        owners = self.ring.owners(keys.hashes)
        for hash, shard in self.pins.items():
            if shard in self.ring.nodes:
                owners[keys.hashes == np.uint64(hash)] = self.ring.nodes.index(shard)
        if keys.keyless is not None:
            owners[keys.keyless] = self._lighter(draws)
        present = np.unique(owners)
        if len(present) == 1:
            return [(self.ring.nodes[int(present[0])], batch)]
        of_records = owners[keys.which]
        return [
            (self.ring.nodes[int(node)], batch.take(pa.array(np.flatnonzero(of_records == node)))) for node in present
        ]

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
            "retiring": list(self.retiring),
            "router": self.router,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Routes:
        """The routes that `to_plain` described."""
        leaders = {shard: Leading(**leading) for shard, leading in plain["leaders"].items()}
        committed, weights, loads, pins = (plain[name] for name in ("committed", "weights", "loads", "pins"))
        retiring = tuple(plain["retiring"])
        shards = tuple(plain["shards"])
        return cls(
            plain["version"], shards, leaders, committed, weights, loads, pins, retiring, plain.get("router", "")
        )


@dataclass(frozen=True)
class Keys:
    """The distinct keys, (tenant, service), of the records of a batch.

    ``hashes`` are their places on the ring, ``counts`` how many records have each, ``which`` the one that each record
    has; ``keyless`` is the number of the one that stands for "no service", where there is such a record.
    """

    hashes: Hashes
    counts: npt.NDArray[np.int64]
    which: npt.NDArray[np.int64]
    keyless: int | None

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Keys:
        """The keys of ``batch``; few keys, many records: each is hashed once. A column that is absent is null."""
        tenants, tenant = _encoded(batch, "tenant")
        services, service = _encoded(batch, "service")
        without = len(services) - 1
        # Keyless records of different tenants need no places of their own.
        pairs = np.where(service == without, without, tenant * len(services) + service)
        small = np.min_scalar_type(len(tenants) * len(services))  # the fewer bytes, the sooner sorted
        distinct, which, counts = np.unique(pairs.astype(small), return_inverse=True, return_counts=True)
        words = [(tenants[pair // len(services)], services[pair % len(services)]) for pair in distinct.tolist()]
        hashes = [key_hash(f"{tenant_word or ''}\0{word or ''}".encode()) for tenant_word, word in words]
        keyless = [number for number, (_, word) in enumerate(words) if word is None]
        return cls(np.array(hashes, dtype=np.uint64), counts, which, keyless[0] if keyless else None)

    def loads(self) -> dict[int, int]:
        """How many records each key has, by its hash; without the keyless, which may go anywhere."""
        return {
            hash: count
            for number, (hash, count) in enumerate(zip(self.hashes.tolist(), self.counts.tolist(), strict=True))
            if number != self.keyless
        }


def _encoded(batch: pa.RecordBatch, name: str) -> tuple[list[str | None], npt.NDArray[np.int64]]:
    """The distinct values of a column, None as the last of them, and the number of the one that each record has."""
    if name not in batch.schema.names:
        return [None], np.zeros(batch.num_rows, dtype=np.int64)
    encoded = batch[name].dictionary_encode()
    last = len(encoded.dictionary)
    return [*encoded.dictionary.to_pylist(), None], encoded.indices.fill_null(last).to_numpy().astype(np.int64)
