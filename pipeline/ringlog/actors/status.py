"""What a shard actor says of itself, as plain values: what it leads, what it keeps, what it tries to lead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringlog.replication import Leader, Participant, Replica, Takeover


def parts(cores: Mapping[str, Participant]) -> dict[str, dict[str, Any]]:
    """By shard: what is led here, kept here, and taken over here just now."""
    return {
        "leading": {shard: _leading(core.leader) for shard, core in cores.items() if core.leader},
        "keeping": {shard: _keeping(core.replica) for shard, core in cores.items()},
        "taking_over": {shard: _taking_over(core.takeover) for shard, core in cores.items() if core.takeover},
    }


def _leading(leader: Leader) -> dict[str, Any]:
    ends = leader.ends()
    return {
        "epoch": leader.epoch,
        "begun": leader.begun,
        "end": leader.end,
        "committed": leader.committed,
        "archived": leader.trimmed,
        "held_bytes": leader.held_bytes,
        "members": {member.actor: {"id": member.id, "end": ends[member.id]} for member in leader.members},
        "quorum": leader.quorum,
        "producers": len(leader.producers),
    }


def _keeping(replica: Replica) -> dict[str, Any]:
    return {
        "id": replica.id,
        "promised": replica.promised,
        "log_epoch": replica.log_epoch,
        "trimmed": replica.trimmed,
        "end": replica.end,
    }


def _taking_over(takeover: Takeover) -> dict[str, Any]:
    return {"epoch": takeover.epoch, "waits_for": takeover.waits_for()}
