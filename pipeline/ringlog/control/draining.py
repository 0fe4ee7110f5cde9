"""When a shard that is to be retired has been left by everybody. Safety needs nothing of it: who comes late is told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

LEFT_S = 7.0
"""How long after the routes leave a shard out somebody may still begin to send there: clients that send look at the
routes every 5 s."""
QUIET_S = 2.0
"""How long nothing must have been appended then: who still waits for an answer there has tried again by that time."""


@dataclass
class Draining:
    """Of the shards that are to be retired: since when clients know of it, and since when nothing was appended."""

    _told: dict[str, float] = field(default_factory=dict)
    _ends: dict[str, tuple[int, float]] = field(default_factory=dict)

    def told(self, retiring: Collection[str], now: float) -> None:
        """The routes leave these out now."""
        self._told = {shard: self._told.get(shard, now) for shard in retiring}

    def over(self, shard: str, end: int, now: float) -> bool:
        """Whether ``shard``, whose log ends at ``end`` now, has been quiet for long enough."""
        known, since = self._ends.get(shard, (-1, now))
        if end != known:
            self._ends[shard] = end, now
            return False
        return shard in self._told and now - self._told[shard] >= LEFT_S and now - since >= QUIET_S
