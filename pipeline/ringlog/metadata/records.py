"""What the metadata store keeps, as JSON: one object for each shard, under ``shards/<shard>``."""

from __future__ import annotations

import dataclasses

import orjson

from ringlog.errors import CorruptionError
from ringlog.replication import Member, ShardState

PIPELINE_KEY = "pipeline"
"""The pipeline's id and its number of shards, written once when a root is first used."""


def shard_key(shard: str) -> str:
    """Where the state of ``shard`` stands.

    >>> shard_key("shard-0")
    'shards/shard-0'
    """
    return f"shards/{shard}"


def shard_state_to_bytes(state: ShardState) -> bytes:
    """``state`` as JSON."""
    return orjson.dumps(dataclasses.asdict(state))


def shard_state_from_bytes(value: bytes) -> ShardState:
    """The state that `shard_state_to_bytes` wrote. Raises `CorruptionError` for anything else."""
    try:
        fields = orjson.loads(value)
        members = tuple(Member(**member) for member in fields.pop("members"))
        gaps = tuple((epoch, start) for epoch, start in fields.pop("gaps"))
        return ShardState(**fields, members=members, gaps=gaps)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"the metadata store holds something that is no shard state: {error}") from error
