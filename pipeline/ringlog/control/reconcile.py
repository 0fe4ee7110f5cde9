"""The controller's decisions: which shard needs a take-over now, and by whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringlog.control.placement import members_of

PATIENCE_S = 3.0
"""How long a shard may be incomplete before it opens, or goes on, with fewer members than wished."""
BACKOFF_S = (0.5, 15.0)


@dataclass(frozen=True)
class TakeOver:
    """``candidate`` should lead ``shard`` with replicas on ``members``."""

    shard: str
    candidate: str
    members: tuple[str, ...]


@dataclass
class _Attempts:
    absent_since: float
    next_at: float
    pause_s: float = BACKOFF_S[0]


class Reconciler:
    """Compares what should be with what is, shard by shard. False suspicion costs an epoch, never a record."""

    def __init__(self, shards: Sequence[str], actors: Sequence[str], replicas: int, quorum: int) -> None:
        self.shards = tuple(shards)
        self.actors = tuple(actors)
        self._replicas = replicas
        self._quorum = quorum
        self._attempts: dict[str, _Attempts] = {}

    def decide(self, statuses: Mapping[str, Mapping[str, Any]], now: float) -> list[TakeOver]:
        """The take-overs to try now. ``statuses`` are the answers of the actors that answered."""
        return [takeover for shard in self.shards if (takeover := self._decide(shard, statuses, now))]

    def failed(self, shard: str, now: float) -> None:
        """A take-over was lost or is stuck: wait longer before the next."""
        attempts = self._attempts.setdefault(shard, _Attempts(now, now))
        attempts.next_at = now + attempts.pause_s
        attempts.pause_s = min(2 * attempts.pause_s, BACKOFF_S[1])

    def _decide(self, shard: str, statuses: Mapping[str, Mapping[str, Any]], now: float) -> TakeOver | None:
        wished = members_of(shard, self.shards, self.actors, self._replicas)
        alive = tuple(actor for actor in wished if actor in statuses)
        leader = leader_of(shard, statuses)
        complete = leader is not None and _members(shard, statuses[leader]) >= {
            _replica(shard, statuses[actor]) for actor in alive
        }
        if leader is not None and complete:
            self._attempts.pop(shard, None)
            return None
        attempts = self._attempts.setdefault(shard, _Attempts(now, now))
        waited = now - attempts.absent_since >= PATIENCE_S
        enough = len(alive) == len(wished) or (len(alive) >= self._quorum and waited)
        if not enough or now < attempts.next_at or (leader is not None and not waited):
            return None
        attempts.next_at = now + attempts.pause_s
        return TakeOver(shard, leader if leader in alive else alive[0], alive)


def _members(shard: str, status: Mapping[str, Any]) -> set[str]:
    """The ids of the replicas with which this leader's epoch opened."""
    return {member["id"] for member in status["leading"][shard]["members"].values()}


def _replica(shard: str, status: Mapping[str, Any]) -> str | None:
    """The id that the actor's journal of the shard has now; a journal that was lost comes back as somebody new."""
    kept = status["keeping"].get(shard)
    return kept["id"] if kept else None


def leader_of(shard: str, statuses: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The actor that leads ``shard`` in the highest epoch; None when nobody says so.

    A leader whose epoch is below what some replica has promised is over, even if it has not heard of that yet.
    """
    promised = max(
        (status["keeping"][shard]["promised"] for status in statuses.values() if shard in status["keeping"]), default=0
    )
    leading = [
        (status["leading"][shard]["epoch"], actor)
        for actor, status in statuses.items()
        if shard in status["leading"] and status["leading"][shard]["epoch"] >= promised
    ]
    return max(leading)[1] if leading else None
