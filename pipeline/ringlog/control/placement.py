"""Which shard actors keep a replica of which shard, and which shards there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ringlog.replication import ShardState


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


@dataclass(frozen=True)
class Plan:
    """What the pipeline's record of one ``version`` wants, and how far that is.

    ``shards`` are those that should be; ``retiring`` are led, but take no new keys, until they can be retired for good.
    ``unled`` should not be and have no members, but an earlier decision may still open them: they are to be retired at
    once, by this one. ``lingering`` are the actors of none of these on whose journals some shard still counts; ``gone``
    are the names of shards that are retired, and on whose actors nobody counts any more. ``retired`` says in which
    epoch each that is retired was.
    """

    version: int
    shards: tuple[str, ...]
    retiring: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unled: tuple[str, ...] = ()
    retired: Mapping[str, int] = field(default_factory=dict)

    @property
    def led(self) -> tuple[str, ...]:
        """The shards that are to have a leader."""
        return self.shards + self.retiring

    @property
    def actors(self) -> tuple[str, ...]:
        """The shard actors that are to run."""
        return self.led + self.lingering

    @property
    def settled(self) -> bool:
        """Whether nothing of an earlier number of shards is left to be done."""
        return not self.retiring and not self.unled and not self.lingering

    def members(self, shard: str, replicas: int) -> tuple[str, ...]:
        """The actors that should keep ``shard``. One that is to be retired stays with those that it had."""
        names = self.shards if shard in self.shards else self.led
        return members_of(shard, names, names, replicas)


def plan_of(version: int, shards: int, most: int, decided: Mapping[str, ShardState]) -> Plan:
    """The plan for ``shards`` of ``most`` that there ever were; ``decided`` is what the metadata says of each of them.

    >>> plan_of(1, 3, 3, {}).actors
    ('shard-0', 'shard-1', 'shard-2')
    """
    names = shard_names(most)
    wanted, others = names[:shards], names[shards:]
    unled = tuple(one for one in others if _is_unled(decided.get(one), version))
    retiring = tuple(one for one in others if one not in unled and decided[one].state != "retired")
    counted = {member.actor for state in decided.values() for member in state.members}
    left = tuple(one for one in others if one not in retiring)
    lingering = tuple(one for one in left if one in counted)
    gone = tuple(one for one in left if one not in counted and one not in unled)
    retired = {one: decided[one].epoch for one in left if one not in unled}
    return Plan(version, wanted, retiring, lingering, gone, unled, retired)


def _is_unled(state: ShardState | None, version: int) -> bool:
    """Whether a shard that should not be has no members, and yet a decision before ``version`` may open it."""
    if state is None or state.state == "retired":
        return state is None or state.retired < version
    return not state.members and not state.accepted  # else it may owe a record of what was lost
