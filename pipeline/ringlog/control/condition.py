"""How a shard is: from what its actors say, and from what the metadata store has decided about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ringlog.control.reconcile import Statuses, leader_of
from ringlog.replication import ShardState
from ringlog.replication.quorum import seals_needed

Condition = Literal["complete", "incomplete", "opening", "unavailable"]
"""Led with all its members; led, but with fewer than wished; about to be led; in need of members that are not there."""


def condition_of(shard: str, statuses: Statuses, decided: ShardState | None, replicas: int) -> dict[str, Any]:
    """The condition of ``shard`` with what explains it, as plain values.

    ``statuses`` are the answers of the actors that answered, ``replicas`` the wished number of members, ``decided``
    what the metadata store says, None where that is not known. ``missing`` are the members that are needed or would be
    welcome: their actor does not answer, or answers with another journal. ``gaps`` are the accepted losses.
    """
    leader = leader_of(shard, statuses)
    if leader is not None:
        led = statuses[leader]["leading"][shard]
        members = {member["id"]: actor for actor, member in led["members"].items()}
        needed, wished = led["quorum"], replicas
    elif decided is not None:
        members = {member.id: member.actor for member in decided.members}
        needed, wished = seals_needed(len(members), decided.quorum), len(members)
    else:
        members, needed, wished = {}, 0, replicas
    missing = [
        {"actor": actor, "id": id, "why": "another journal" if actor in statuses else "no answer"}
        for id, actor in members.items()
        if _kept(shard, statuses.get(actor)) != id
    ]
    answering = len(members) - len(missing)
    condition: Condition = "opening"
    if answering < needed:
        condition = "unavailable"
    elif leader is not None:
        condition = "complete" if answering >= wished else "incomplete"
    return {
        "condition": condition,
        "answering": answering,
        "needed": needed,
        "missing": missing,
        "waits_for": _waits_for(shard, statuses) if leader is None else None,
        "gaps": None if decided is None else [list(gap) for gap in decided.gaps],
    }


def _kept(shard: str, status: Mapping[str, Any] | None) -> str | None:
    """The id of the journal that the actor has now."""
    kept = status["keeping"].get(shard) if status else None
    return kept["id"] if kept else None


def _waits_for(shard: str, statuses: Statuses) -> str | None:
    """What the newest takeover that is under way waits for."""
    trying = [one["taking_over"][shard] for one in statuses.values() if shard in one.get("taking_over", {})]
    return max(trying, key=lambda one: one["epoch"])["waits_for"] if trying else None
