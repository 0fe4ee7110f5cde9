"""Which shard takes which record: a hash ring for keyed records, the lighter of two shards for the others. Pure."""

from ringlog.routing.balance import LoadMeter, place_heavy_keys, rebalance
from ringlog.routing.ring import Ring, bounded_owners
from ringlog.routing.routes import Keys, Leading, Routes

__all__ = ["Keys", "Leading", "LoadMeter", "Ring", "Routes", "bounded_owners", "place_heavy_keys", "rebalance"]
