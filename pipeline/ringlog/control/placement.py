"""Which shard actors keep a replica of which shard."""

from __future__ import annotations

from collections.abc import Sequence


def shard_names(count: int) -> tuple[str, ...]:
    """The names of ``count`` shards, which are also those of the shard actors.

    >>> shard_names(2)
    ('shard-0', 'shard-1')
    """
    return tuple(f"shard-{number}" for number in range(count))


def members_of(shard: str, shards: Sequence[str], actors: Sequence[str], replicas: int) -> tuple[str, ...]:
    """The ``replicas`` actors that keep ``shard``: the one of its number, which should lead it, and those after it.

    >>> members_of("b", ("a", "b"), ("shard-0", "shard-1", "shard-2", "shard-3"), 3)
    ('shard-1', 'shard-2', 'shard-3')
    """
    first = shards.index(shard)
    return tuple(actors[(first + step) % len(actors)] for step in range(replicas))
