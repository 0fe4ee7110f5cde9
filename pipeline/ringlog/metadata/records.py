"""What the metadata store keeps, as JSON: one object for each shard, under ``shards/<shard>``."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass

import orjson

from ringlog.errors import CorruptionError
from ringlog.replication import Member, ShardState

PIPELINE_KEY = "pipeline"
"""Where the pipeline's `PipelineRecord` stands. Its versions count the decisions about how many shards there are."""


@dataclass(frozen=True)
class PipelineRecord:
    """What a root was made with, and how many ``shards`` there should be now.

    ``most`` is how many there ever were: those above ``shards`` are retired, or are to be. ``nonce`` tells one's own
    write from another's.
    """

    id: str
    shards: int
    most: int
    nonce: str = ""

    @classmethod
    def new(cls, shards: int) -> PipelineRecord:
        """Of a root that is used for the first time."""
        return cls(uuid.uuid4().hex, shards, shards, uuid.uuid4().hex)

    def changed(self, shards: int) -> PipelineRecord:
        """With another number of shards."""
        return dataclasses.replace(self, shards=shards, most=max(self.most, shards), nonce=uuid.uuid4().hex)


def pipeline_to_bytes(record: PipelineRecord) -> bytes:
    """``record`` as JSON."""
    return orjson.dumps(dataclasses.asdict(record))


def pipeline_from_bytes(value: bytes) -> PipelineRecord:
    """The record that `pipeline_to_bytes` wrote. Raises `CorruptionError` for anything else."""
    try:
        fields = orjson.loads(value)
        return PipelineRecord(**{"most": fields["shards"], **fields})
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CorruptionError(f"the metadata store holds something that is no pipeline: {error}") from error


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
